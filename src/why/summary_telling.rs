//! A summary, told to a person: first what is unusual, then how many ends there were of each kind.

use std::fmt;
use std::io::{self, Write};

use jiff::Timestamp;

use super::frequent::{Frequent, Tally};
use super::summary::{Repeated, Span, Summary};
use super::telling::Style;
use crate::wire::Shown;

/// So many rows has a table, and so many lines each kind of what is unusual.
const ROWS: usize = 10;
const LINES: usize = 5;

/// What is unusual: an instance that broke so often, a node with so many kills for want of memory, a
/// sender of signals that ended so many.
const BROKE: u64 = 3;
const STARVED: u64 = 3;
const ENDED: u64 = 10;

/// And so many times as often as the average of its kind, where there are enough of the kind to tell.
const TIMES_THE_AVERAGE: u64 = 3;
const ENOUGH: usize = 10;

pub(super) fn tell(out: &mut impl Write, summary: &Summary, style: Style) -> io::Result<()> {
    let instances = number(&summary.instances, "instance", "instances");
    let nodes = match summary.nodes.total() {
        0 => String::new(),
        _ => format!(" on {}", number(&summary.nodes, "node", "nodes")),
    };
    let ends = if summary.ends == 1 { "end" } else { "ends" };
    writeln!(out, "{} {ends} of {instances}{nodes}{}.", summary.ends, Between(summary.span))?;
    unusual(out, summary, style)?;
    table(out, style, "CAUSE", &summary.causes, |span| *span)?;
    table(out, style, "BY", &summary.initiators, |span| *span)?;
    table(out, style, "NODE", &summary.nodes, |span| *span)?;
    table(out, style, "INSTANCE", &summary.instances, |span| *span)?;
    table(out, style, "SENDER OF THE SIGNAL", &summary.senders, |repeated| repeated.span)
}

fn number<T: Default>(of: &Frequent<T>, one: &str, several: &str) -> String {
    match of.different() {
        Some(1) => format!("1 {one}"),
        Some(number) => format!("{number} {several}"),
        None => format!("more than {} {several}", of.different_at_least()),
    }
}

fn unusual(out: &mut impl Write, summary: &Summary, style: Style) -> io::Result<()> {
    let kinds = [
        Kind::new(&summary.broken, BROKE, "instances", "broke"),
        Kind::new(&summary.short_of_memory, STARVED, "nodes", "ran out of memory"),
        Kind::new(&summary.senders, ENDED, "senders of signals", "ended instances"),
    ];
    writeln!(out)?;
    if kinds.iter().all(|kind| kind.standing_out() + kind.alike() == 0) {
        writeln!(out, "Nothing unusual:")?;
    } else {
        writeln!(out, "{}", style.bold("UNUSUAL"))?;
    }
    kinds.iter().try_for_each(|kind| kind.tell(out, style))
}

/// A kind of what is unusual.
struct Kind<'a> {
    of: &'a Frequent<Repeated>,
    /// From this many times on it is unusual for one.
    often: u64,
    /// From this many times on one stands out among the others.
    least: u64,
    who: &'static str,
    did: &'static str,
}

impl<'a> Kind<'a> {
    fn new(of: &'a Frequent<Repeated>, often: u64, who: &'static str, did: &'static str) -> Self {
        let average = of.total() / (of.different_at_least() as u64).max(1);
        let least = if of.different_at_least() < ENOUGH {
            often
        } else {
            often.max(TIMES_THE_AVERAGE * average)
        };
        Self { of, often, least, who, did }
    }

    fn standing_out(&self) -> usize {
        self.of.at_least(self.least)
    }

    /// How many of them are in the same trouble, where that is half of them at least: that none stands
    /// out is no comfort then.
    fn alike(&self) -> usize {
        let alike = self.of.at_least(self.often);
        let is_common = self.standing_out() == 0 && 2 * alike >= self.of.different_at_least();
        if is_common { alike } else { 0 }
    }

    fn tell(&self, out: &mut impl Write, style: Style) -> io::Result<()> {
        let Self { of, often, least, who, did } = self;
        let (unusual, alike) = (self.standing_out(), self.alike());
        for (key, tally) in of.top(LINES.min(unusual)) {
            let name = if key.is_empty() { "this node" } else { key };
            writeln!(
                out,
                "  {} {did} {} times{}; the last: {}",
                style.bold(&Shown(name).to_string()),
                Times(tally),
                Between(tally.known.span),
                Shown(&tally.known.last)
            )?;
        }
        let others = unusual.saturating_sub(LINES);
        if others > 0 {
            writeln!(out, "  ({others} more {who} {did} {least} times or more)")?;
        } else if alike > 0 {
            writeln!(
                out,
                "  {} {did} {often} times or more, none of them much more often than the others",
                style.bold(&format!("{alike} {who}"))
            )?;
        } else if unusual == 0 {
            writeln!(out, "  no {who} that {did} {least} times or more")?;
        }
        if of.floor() >= *least {
            writeln!(out, "  ({who} that {did} up to {} times may be missing)", of.floor())?;
        }
        Ok(())
    }
}

fn table<T: Default>(
    out: &mut impl Write,
    style: Style,
    heading: &str,
    of: &Frequent<T>,
    span: impl Fn(&T) -> Span,
) -> io::Result<()> {
    let top = of.top(ROWS);
    if top.is_empty() {
        return Ok(());
    }
    let rows: Vec<[String; 4]> = top
        .iter()
        .map(|(key, tally)| {
            let time = |time: Option<Timestamp>| time.map_or_else(|| "-".into(), clock);
            let bounds = span(&tally.known).bounds();
            let key = if key.is_empty() { "-" } else { key };
            [
                Times(tally).to_string(),
                time(bounds.map(|(first, _)| first)),
                time(bounds.map(|(_, last)| last)),
                Shown(key).to_string(),
            ]
        })
        .collect();
    let width = rows.iter().map(|row| row[0].len()).chain(["ENDS".len()]).max().unwrap_or_default();
    let line = |[ends, first, last, name]: [&str; 4]| {
        format!("{ends:>width$}  {first:<19}  {last:<19}  {name}")
    };
    writeln!(out)?;
    writeln!(out, "{}", style.bold(&line(["ENDS", "FIRST (UTC)", "LAST (UTC)", heading])))?;
    for row in &rows {
        let initiator = style.by(&row[3], &row[3]);
        writeln!(out, "{}", line([&row[0], &row[1], &row[2], &initiator]))?;
    }
    match of.different() {
        Some(different) if different > rows.len() => {
            writeln!(out, "({} more)", different - rows.len())
        }
        Some(_) => Ok(()),
        None => writeln!(
            out,
            "(more than {}; those with up to {} ends may be missing)",
            of.different_at_least(),
            of.floor()
        ),
    }
}

/// How often: `34`, or `34..41` where it is not known better.
struct Times<'a, T>(&'a Tally<T>);

impl<T> fmt::Display for Times<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(tally) = self;
        write!(f, "{}", tally.count)?;
        if tally.most() > tally.count { write!(f, "..{}", tally.most()) } else { Ok(()) }
    }
}

/// ` from 2026-11-14 03:00:01 to 2026-11-21 02:14:07 UTC`
struct Between(Span);

impl fmt::Display for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.bounds() {
            Some((first, last)) if first == last => write!(f, " at {} UTC", clock(first)),
            Some((first, last)) => write!(f, " from {} to {} UTC", clock(first), clock(last)),
            None => Ok(()),
        }
    }
}

fn clock(time: Timestamp) -> String {
    time.strftime("%F %T").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::why::reading::Found;
    use crate::wire::record::{Outline, SenderOutline, Text};

    fn end(second: i64, instance: &str, cause: &str, initiator: &str) -> Found<'static> {
        let own = |text: &str| text.to_string().into();
        Found {
            outline: Outline {
                instance: own(instance),
                cause: own(cause),
                initiator: own(initiator),
                ..Outline::default()
            },
            ended: Timestamp::from_second(1_795_227_240 + second).ok(),
            node: Some("node1"),
            line: b"",
        }
    }

    fn told(ends: &[Found<'_>]) -> String {
        let mut summary = Summary::default();
        for end in ends {
            summary.add(end);
        }
        let mut out = Vec::new();
        tell(&mut out, &summary, Style { is_coloured: false }).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_unusual_comes_first() {
        let mut ends: Vec<_> = (0..4).map(|i| end(i, "web1", "crashed", "crash")).collect();
        ends.extend((0..3).map(|i| end(10 + i, &format!("db{i}"), "out-of-memory", "crash")));
        ends.extend((0..12).map(|i| {
            let mut end = end(20 + i, &format!("app{i}"), "killed", "admin");
            let name = Some(Text("kill".into()));
            let sender =
                SenderOutline { name, uid: Some(0), login: Some(7), ..SenderOutline::default() };
            end.outline.sender = Some(sender);
            end
        }));
        let text = told(&ends);
        let expected = "\
19 ends of 16 instances on 1 node from 2026-11-21 02:14:00 to 2026-11-21 02:14:31 UTC.

UNUSUAL
  web1 broke 4 times from 2026-11-21 02:14:00 to 2026-11-21 02:14:03 UTC; the last: crashed on node1
  node1 ran out of memory 3 times from 2026-11-21 02:14:10 to 2026-11-21 02:14:12 UTC; the last: db2
  kill (uid 0, logged in as uid 7) ended instances 12 times from 2026-11-21 02:14:20 to 2026-11-21 02:14:31 UTC; the last: app11 on node1

ENDS  FIRST (UTC)          LAST (UTC)           CAUSE
  12  2026-11-21 02:14:20  2026-11-21 02:14:31  killed
   4  2026-11-21 02:14:00  2026-11-21 02:14:03  crashed
   3  2026-11-21 02:14:10  2026-11-21 02:14:12  out-of-memory
";
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.contains("  INSTANCE\n   4  2026-11-21 02:14:00  2026-11-21 02:14:03  web1\n"),
            "{text}"
        );
        assert!(text.contains("\n(6 more)\n"), "{text}");
    }

    /// A QEMU that crashes on every node.
    #[test]
    fn what_all_have_in_common_is_not_called_usual() {
        let ends: Vec<_> =
            (0..100).map(|i| end(i, &format!("web{}", i % 20), "crashed", "crash")).collect();
        let text = told(&ends);
        let expected = "

UNUSUAL
  20 instances broke 3 times or more, none of them much more often than the others
  no nodes that ran out of memory 3 times or more
";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn nothing_unusual_is_said_too() {
        let text = told(&[end(0, "web1", "guest-shutdown", "user")]);
        assert!(text.starts_with("1 end of 1 instance on 1 node at 2026-11-21 02:14:00 UTC.\n\nNothing unusual:\n  no instances that broke 3 times or more\n"), "{text}");
        assert!(!text.contains("SENDER"), "{text}");
    }

    #[test]
    fn many_names_are_counted_with_honest_bounds_and_cannot_move_the_cursor() {
        let mut ends: Vec<_> =
            (0..60_000).map(|i| end(i, &format!("x{i}"), "crashed", "crash")).collect();
        ends.extend((0..9).map(|i| end(i, "web\x1b[2J\n", "crashed", "crash")));
        let text = told(&ends);
        assert!(text.starts_with("60009 ends of more than "), "{text}");
        assert!(text.contains("web\\u{1b}[2J\\n broke 9.."), "{text}");
        assert!(text.contains("ends may be missing)"), "{text}");
        assert!(text.bytes().all(|byte| byte == b'\n' || byte >= b' '));
    }
}
