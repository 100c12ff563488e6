//! What many ends have in common: counted as they go by, none of them kept.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::frequent::{Frequent, beginning};
use super::reading::Found;
use crate::wire::record::SenderOutline;

/// Ends, counted in every way that is told.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) ends: u64,
    pub(super) span: Span,
    pub(super) causes: Frequent<Span>,
    pub(super) initiators: Frequent<Span>,
    pub(super) nodes: Frequent<Span>,
    pub(super) instances: Frequent<Span>,
    /// Who sent the signals that ended something. The kernel is not among them.
    pub(super) senders: Frequent<Repeated>,
    /// Instances, by the ends that nobody had asked for.
    pub(super) broken: Frequent<Repeated>,
    /// Nodes, by the kills of the OOM killer.
    pub(super) short_of_memory: Frequent<Repeated>,
    /// Room for the name of a sender.
    name: String,
}

/// From when to when, by the clocks of the nodes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span(Option<(Timestamp, Timestamp)>);

/// Something that has happened once or again.
#[derive(Debug, Default)]
pub(super) struct Repeated {
    pub(super) span: Span,
    /// What is to be said of the last time: names that are cut as the keys are.
    pub(super) last: Box<str>,
}

impl Span {
    /// The first time and the last; nothing if no end had one.
    pub(super) fn bounds(self) -> Option<(Timestamp, Timestamp)> {
        self.0
    }

    /// Whether it is the last so far.
    fn note(&mut self, ended: Option<Timestamp>) -> bool {
        let Some(ended) = ended else { return self.0.is_none() };
        let (first, last) = self.0.unwrap_or((ended, ended));
        self.0 = Some((first.min(ended), last.max(ended)));
        last <= ended
    }
}

impl Repeated {
    fn note(&mut self, ended: Option<Timestamp>, say: impl FnOnce() -> String) {
        if self.span.note(ended) {
            self.last = say().into();
        }
    }
}

impl Summary {
    pub(super) fn add(&mut self, found: &Found<'_>) {
        let outline = &found.outline;
        let ended = found.ended;
        let note = |span: &mut Span| {
            span.note(ended);
        };
        self.ends += 1;
        self.span.note(ended);
        self.causes.count(&outline.cause, note);
        self.initiators.count(&outline.initiator, note);
        self.instances.count(&outline.instance, note);
        let on = || found.node.map_or_else(String::new, |node| format!(" on {}", beginning(node)));
        if let Some(node) = found.node {
            self.nodes.count(node, note);
        }
        if let Some(sender) = outline.sender.as_ref().filter(|sender| !sender.kernel) {
            name(sender, &mut self.name);
            self.senders.count(&self.name, |known| {
                known.note(ended, || format!("{}{}", beginning(&outline.instance), on()));
            });
        }
        if outline.initiator == "crash" {
            self.broken.count(&outline.instance, |known| {
                known.note(ended, || format!("{}{}", beginning(&outline.cause), on()));
            });
        }
        if outline.cause == "out-of-memory" {
            self.short_of_memory.count(found.node.unwrap_or_default(), |known| {
                known.note(ended, || beginning(&outline.instance).into());
            });
        }
    }
}

/// What the sender is called by: not by its pid, for the next `kill` has another.
fn name(sender: &SenderOutline<'_>, text: &mut String) {
    text.clear();
    text.push_str(sender.name.as_ref().map_or("(a process that had ended)", |name| &name.0));
    if let Some(uid) = sender.uid {
        let _ = write!(text, " (uid {uid}");
        if let Some(login) = sender.login.filter(|login| *login != uid) {
            let _ = write!(text, ", logged in as uid {login}");
        }
        text.push(')');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record::Outline;

    #[test]
    fn a_long_name_takes_no_more_than_its_share() {
        let long = "x".repeat(100_000);
        let line = format!(
            r#"{{"instance":"{long}","cause":"{long}","initiator":"crash","node":"{long}","sender":{{"pid":1}}}}"#
        );
        let outline = Outline::parse(line.as_bytes()).unwrap();
        let mut summary = Summary::default();
        summary.add(&Found { outline, ended: None, node: Some(&long), line: b"" });
        let outline = Outline {
            cause: "out-of-memory".into(),
            instance: (&*long).into(),
            ..Outline::default()
        };
        summary.add(&Found { outline, ended: None, node: Some(&long), line: b"" });
        let known = [&summary.senders, &summary.broken, &summary.short_of_memory];
        for (_, tally) in known.iter().flat_map(|known| known.top(9)) {
            assert!((1..1000).contains(&tally.known.last.len()));
        }
        assert!(known.iter().all(|known| known.total() == 1));
    }
}
