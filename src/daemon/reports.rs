//! What the daemon reports of its own accord: each end, in the log, in the journal
//! and as a record, and figures.
//! The writer writes it; here is what it has not got yet.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use log::info;

use super::metrics::{Metrics, Snapshot};
use super::writer::{NoRoom, Writer};
use crate::id::{Incarnation, Moment};
use crate::verdict::{Death, Node};

pub(super) struct Reports {
    writer: Rc<Writer>,
    pub(super) metrics: Metrics,
    /// Ends that are yet to be reported.
    ends: VecDeque<(Incarnation, Box<Death>)>,
    /// The writer had no room for the first of them.
    has_no_room: bool,
    /// The files are to be opened anew.
    is_reopening_due: bool,
}

impl Reports {
    /// `counting_since`: the daemon's start, if anybody wants figures.
    pub(super) fn new(writer: Rc<Writer>, counting_since: Option<Moment>) -> Self {
        Self {
            writer,
            metrics: Metrics::new(counting_since),
            ends: VecDeque::new(),
            has_no_room: false,
            is_reopening_due: false,
        }
    }

    /// Has an end reported when its turn has come.
    pub(super) fn add_end(&mut self, incarnation: Incarnation, death: Box<Death>) {
        self.metrics.count_end(&death);
        self.ends.push_back((incarnation, death));
    }

    /// Whether there are ends that can be reported at once.
    pub(super) fn are_behind(&self) -> bool {
        !self.ends.is_empty() && !self.has_no_room
    }

    /// Whether every end so far is written down.
    pub(super) fn are_written(&self) -> bool {
        self.ends.is_empty() && !self.writer.has_records()
    }

    /// Gives so many ends to the writer, the first ones first, and what else it had no room for.
    pub(super) fn report(&mut self, most: usize) {
        if self.is_reopening_due {
            self.reopen_files();
        }
        self.has_no_room = false;
        for _ in 0..most {
            let Some((incarnation, death)) = self.ends.pop_front() else { break };
            if let Err((death, NoRoom)) = self.writer.add_record(incarnation, death) {
                self.ends.push_front((incarnation, death));
                self.has_no_room = true;
                break;
            }
        }
    }

    /// Has the writer begin with all that it was given since. To be called before the loop sleeps.
    pub(super) fn flush(&self) {
        self.writer.wake();
    }

    /// The daemon is to end after this time, whatever is not written by then.
    pub(super) fn end_within(&self, longest: Duration) {
        self.writer.end_within(longest);
    }

    /// Has the node forget those whose end is written down.
    pub(super) fn acknowledge(&self, node: &mut Node) {
        for incarnation in self.writer.take_recorded() {
            node.forget(incarnation);
        }
    }

    /// Has the files opened anew, as after their rotation.
    pub(super) fn reopen_files(&mut self) {
        self.is_reopening_due = self.writer.reopen().is_err();
        if !self.is_reopening_due {
            info!("Reopening log files after receiving SIGHUP");
        }
    }

    /// How many ends could not be recorded.
    pub(super) fn lost_records(&self) -> u64 {
        self.writer.lost_records()
    }

    /// Publishes the figures, if somebody wants them and it is time.
    pub(super) fn publish(&mut self, now: Moment, snapshot: Snapshot) {
        let Self { writer, metrics, .. } = self;
        metrics.publish(now, snapshot, |text| writer.add_metrics(text).is_ok());
    }

    /// Removes the figures: the daemon ends.
    pub(super) fn withdraw(&self) {
        if self.metrics.are_wanted() {
            self.writer.withdraw_metrics();
        }
    }
}
