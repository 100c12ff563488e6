//! What is missing from an answer: lines that are no records, sources that could not be read, nodes
//! whose command failed, clocks that are ahead. All of it is counted; of each kind the first few are
//! named.

use std::fmt::{self, Display};
use std::io;

use jiff::{SignedDuration, Timestamp};

use crate::wire::Printable;

/// So many of a kind are named.
const NAMED: usize = 5;

/// A clock may be ahead by so much before it is worth a word.
const TOLERATED: SignedDuration = SignedDuration::from_mins(1);

/// What is missing.
#[derive(Debug, Default)]
pub(super) struct Unread {
    lines: Few<LinesOf>,
    /// How many there are of all sources.
    line_count: u64,
    sources: Few<(String, io::Error)>,
    nodes: Few<(String, i32)>,
    ahead: Ahead,
}

/// The first few of a kind, and how many more there are.
#[derive(Debug)]
struct Few<T> {
    named: Vec<T>,
    others: u64,
}

/// Lines of one file that are no records.
#[derive(Debug)]
struct LinesOf {
    source: String,
    count: u64,
    first: Vec<String>,
}

/// Ends that are later than this machine's clock.
#[derive(Debug, Default)]
struct Ahead {
    count: u64,
    most: SignedDuration,
    nodes: Vec<String>,
    has_others: bool,
}

impl Unread {
    /// A line that is no record: of which file, which one and which node brought it, as far as that is
    /// known, and why. `text` is an excerpt of it.
    pub(super) fn add_line(
        &mut self,
        source: &str,
        (number, node): (Option<u64>, Option<&str>),
        why: &dyn Display,
        text: &[u8],
    ) {
        self.line_count += 1;
        if !self.lines.named.iter().any(|lines| lines.source == source) {
            self.lines.add(LinesOf { source: source.into(), count: 0, first: Vec::new() });
        }
        let Some(lines) = self.lines.named.iter_mut().find(|lines| lines.source == source) else {
            return;
        };
        lines.count += 1;
        if lines.first.len() < NAMED {
            // serde_json quotes what it read.
            let why = why.to_string();
            let why = Printable(why.as_bytes());
            let place =
                number.map_or_else(|| "a new line".into(), |number| format!("line {number}"));
            let of = node.map_or_else(String::new, |node| format!(" of {node}"));
            let text =
                if text.is_empty() { String::new() } else { format!(": {}", Printable(text)) };
            lines.first.push(format!("{place}{of}: {why}{text}"));
        }
    }

    /// A source that could not be read, or not to its end.
    pub(super) fn add_source(&mut self, source: &str, error: io::Error) {
        self.sources.add((source.into(), error));
    }

    /// A node on which the command failed.
    pub(super) fn add_node(&mut self, node: Option<&str>, code: i32) {
        let node = node.unwrap_or("a node that printed nothing");
        self.nodes.add((node.into(), code));
    }

    /// An end, seen at this time by this machine's clock.
    pub(super) fn note_clock(&mut self, ended: Timestamp, node: Option<&str>, now: Timestamp) {
        let ahead = ended.duration_since(now);
        if ahead <= TOLERATED {
            return;
        }
        self.ahead.count += 1;
        self.ahead.most = self.ahead.most.max(ahead);
        if let Some(node) = node.map(|node| Printable(node.as_bytes()).to_string())
            && !self.ahead.nodes.contains(&node)
        {
            if self.ahead.nodes.len() < NAMED {
                self.ahead.nodes.push(node);
            } else {
                self.ahead.has_others = true;
            }
        }
    }

    /// Whether a whole source or a node is missing, and with it ends that nobody can know of.
    pub(super) fn is_incomplete(&self) -> bool {
        !self.sources.is_empty() || !self.nodes.is_empty()
    }

    pub(super) fn has_lines(&self) -> bool {
        self.line_count > 0
    }

    /// In short, for whoever sees the answer without what standard error says. Empty if nothing is
    /// missing.
    pub(super) fn summary(&self) -> String {
        let missing = Missing(self).to_string();
        let mut parts: Vec<String> = missing.lines().map(String::from).collect();
        if self.has_lines() {
            let count = Count(self.line_count, "line is no record", "lines are no records");
            parts.push(count.to_string());
        }
        parts.join("; ")
    }

    /// Takes back that some sources are not there.
    pub(super) fn forgive_absence(&mut self) {
        self.sources.named.retain(|(_, error)| error.kind() != io::ErrorKind::NotFound);
    }

    /// The first source that could not be read.
    pub(super) fn take_source(&mut self) -> Option<(String, io::Error)> {
        (!self.sources.named.is_empty()).then(|| self.sources.named.remove(0))
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self { named: Vec::new(), others: 0 }
    }
}

impl<T> Few<T> {
    fn add(&mut self, one: T) {
        if self.named.len() < NAMED {
            self.named.push(one);
        } else {
            self.others += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.named.is_empty()
    }
}

/// The sources and nodes of which nothing, or not all, could be read, a line each.
struct Missing<'a>(&'a Unread);

impl Display for Missing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unread { sources, nodes, .. } = self.0;
        for (source, error) in &sources.named {
            writeln!(f, "Cannot read {source}: {error}")?;
        }
        if sources.others > 0 {
            let count = Count(sources.others, "source", "sources");
            writeln!(f, "{count} more cannot be read.")?;
        }
        if !nodes.is_empty() {
            let count = nodes.named.len() as u64 + nodes.others;
            let named = nodes.named.iter().map(|(node, code)| format!("{node} ({code})"));
            let named = named.collect::<Vec<_>>().join(", ");
            let others = if nodes.others > 0 { ", ..." } else { "" };
            let count = Count(count, "node", "nodes");
            writeln!(
                f,
                "Not there: {count} on which the command failed (exit code): {named}{others}"
            )?;
        }
        Ok(())
    }
}

/// Lines for stderr, each with its line feed.
impl Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Missing(self).fmt(f)?;
        for lines in &self.lines.named {
            let count = Count(lines.count, "line is no record", "lines are no records");
            writeln!(f, "{}: {count}:", lines.source)?;
            for line in &lines.first {
                writeln!(f, "  {line}")?;
            }
            if lines.count > lines.first.len() as u64 {
                writeln!(f, "  ...")?;
            }
        }
        let told: u64 = self.lines.named.iter().map(|lines| lines.count).sum();
        if self.line_count > told {
            let others = Count(self.line_count - told, "line", "lines");
            writeln!(f, "{others} of other sources: no records either.")?;
        }
        self.ahead.fmt(f)
    }
}

/// A number of things: what one is called, and what several are.
struct Count(u64, &'static str, &'static str);

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, if self.0 == 1 { self.1 } else { self.2 })
    }
}

impl Display for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 0 {
            return Ok(());
        }
        let nodes = if self.nodes.is_empty() {
            String::new()
        } else {
            let others = if self.has_others { ", ..." } else { "" };
            format!(" ({}{others})", self.nodes.join(", "))
        };
        writeln!(
            f,
            "{} later than this machine's clock, by up to {:#}{nodes}. Ends are in the order of their nodes' clocks.",
            Count(self.count, "end is", "ends are"),
            self.most
        )
    }
}
