//! Reading records from wherever they are, one after the other; none is kept here.

use std::io::{self, Read};

use jiff::Timestamp;

use super::files;
use super::follower::Follower;
use super::lines::{Line, Lines};
use super::source::{Origin, Source};
use super::unread::Unread;
use crate::wire::Printable;
use crate::wire::fleet::{Fleet, Said};
use crate::wire::record::{self, NotARecord, Outline};

/// What a `kvmd-why` says that has no end to tell of: on a node, that is an answer.
pub(super) const NO_MATCH: &str = "No record matches.";
/// The same of one instance; its name follows.
pub(super) const UNKNOWN_INSTANCE: &str = "There is no record of an instance ";
pub(super) const KNOWN_INSTANCES: &str = "Instances on record: ";
pub(super) const NONE_YET: &str = "No instance has ended here since the records began.";

/// The exit code that goes with it.
pub(super) const NO_ANSWER: u8 = 1;
/// There is an answer, and something is missing from it.
pub(super) const INCOMPLETE: u8 = 3;

/// A record, where it was found.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) outline: Outline<'a>,
    pub(super) ended: Option<Timestamp>,
    pub(super) node: Option<&'a str>,
    /// As it was written, without its line feed.
    pub(super) line: &'a [u8],
}

impl Found<'_> {
    /// The line as it is handed on: with its node, if that is known.
    pub(super) fn to_line(&self) -> Vec<u8> {
        let mut line = match self.node {
            Some(node) if self.outline.node() != Some(node) => {
                record::with_node(self.line, &self.outline, node)
            }
            _ => self.line.to_vec(),
        };
        line.push(b'\n');
        line
    }
}

/// Hands every record of these sources to `each`, which may find that it is none. What cannot be read
/// is noted, and the rest read all the same. Of a file that is followed as well, it is read as far as
/// `follower` does not.
pub(super) fn read_all(
    sources: &[Source],
    follower: Option<&Follower>,
    now: Timestamp,
    unread: &mut Unread,
    each: &mut impl FnMut(&Found<'_>) -> Result<(), NotARecord>,
) {
    let mut read = |source: &Source, name: String, text: io::Result<Box<dyn Read>>| {
        let mut reader = Reader::new(source.clone(), name);
        if let Err(error) = text.and_then(|text| reader.read(text, now, unread, each)) {
            unread.add_source(&reader.name, error);
        }
    };
    for source in sources {
        if source.from == Origin::StandardInput {
            read(source, source.to_string(), Ok(Box::new(io::stdin())));
        }
        for path in files::files_of(source) {
            let name = Printable(path.as_os_str().as_encoded_bytes()).to_string();
            let text = files::text(&path, source.is_chosen());
            let begin = follower.and_then(|follower| follower.begins_at(&path));
            read(
                source,
                name,
                text.map(|text| -> Box<dyn Read> {
                    Box::new(text.take(begin.unwrap_or(u64::MAX)))
                }),
            );
        }
    }
}

/// Reads the lines of one file of a source.
pub(super) struct Reader {
    source: Source,
    /// What the file is called.
    name: String,
    /// For what came through the pipe of many nodes, or may have.
    fleet: Option<Fleet>,
    /// This node said that it has no end to tell of.
    has_nothing: bool,
}

impl Reader {
    pub(super) fn new(source: Source, name: String) -> Self {
        let fleet = source.is_of_many().then(Fleet::default);
        Self { source, name, fleet, has_nothing: false }
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// For another file of the source, or for what has taken the place of this one's text.
    pub(super) fn of_another_file(&self) -> Self {
        Self::new(self.source.clone(), self.name.clone())
    }

    fn read(
        &mut self,
        text: impl Read,
        now: Timestamp,
        unread: &mut Unread,
        each: &mut impl FnMut(&Found<'_>) -> Result<(), NotARecord>,
    ) -> io::Result<()> {
        let mut lines = Lines::new(text);
        let mut number = 0_u64;
        while let Some(line) = lines.next()? {
            number += 1;
            self.take(&line, Some(number), now, unread, each);
        }
        Ok(())
    }

    /// Reads one line; which, if that is known.
    pub(super) fn take(
        &mut self,
        line: &Line<'_>,
        number: Option<u64>,
        now: Timestamp,
        unread: &mut Unread,
        each: &mut impl FnMut(&Found<'_>) -> Result<(), NotARecord>,
    ) {
        let name = &*self.name;
        let (Line::Whole(line) | Line::Unfinished(line)) = *line else {
            return unread.add_line(name, (number, None), &"it is longer than 1 MiB", b"");
        };
        let said = match &mut self.fleet {
            Some(fleet) => fleet.read(line),
            None => Said::alone(line),
        };
        match said {
            Said::Object(brought, line) => {
                let found = Outline::parse(line).and_then(|outline| {
                    let own = outline.node().map(String::from);
                    let node = self.source.node(brought, own.as_deref());
                    let ended = outline.ended();
                    if let Some(ended) = ended {
                        unread.note_clock(ended, node, now);
                    }
                    each(&Found { outline, ended, node, line })
                });
                if let Err(why) = found {
                    unread.add_line(name, (number, brought), &why, b"");
                }
            }
            Said::Text(_, text) if says_nothing(text) => self.has_nothing = true,
            Said::Text(node, text) => {
                unread.add_line(name, (number, node), &"it is not a record", text);
            }
            Said::Ended(node, code) => {
                let has_nothing = std::mem::take(&mut self.has_nothing);
                if code != 0 && !(has_nothing && code == i32::from(NO_ANSWER)) {
                    unread.add_node(node, code);
                }
            }
            Said::Nothing => {}
        }
    }
}

/// Whether this is what `kvmd-why` says where it has no end to tell of.
fn says_nothing(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"kvmd-why: ").unwrap_or(text);
    [NO_MATCH, UNKNOWN_INSTANCE, KNOWN_INSTANCES, NONE_YET]
        .iter()
        .any(|it| text.starts_with(it.as_bytes()))
}
