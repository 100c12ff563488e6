//! What is decided about `NAME.shutdown`, and what came of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FileOutcome, Verdict};
use crate::id::Moment;

/// What could not be done is tried again after a second, then after two, ...
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// ... at most this far apart, ...
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// ... and for this long: after that Ganeti has long drawn its conclusion.
const PATIENCE: Duration = Duration::from_secs(300);

/// How the file is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub(super) enum Decision {
    Absent,
    Present,
    /// Present, if it can be before the process is dead. Ganeti removes the file of an instance
    /// that it has stopped by force as soon as that is dead, and not again.
    PresentInTime,
}

/// A guest that goes down and comes back more often than this in one life (`-no-shutdown`)
/// has its file decided at the end only: nobody can keep the daemon busy with files.
const MOST_TAKEN_BACK: u32 = 16;

/// The one decision about the file of one life.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct File {
    decided: Option<Decision>,
    /// The verdict by which it was decided when the conversation ended. It stands, whatever is
    /// learnt afterwards.
    at_close: Option<Verdict>,
    /// What that is to be, unless QEMU's own log, which is being read, names a signal. One that is
    /// sent meanwhile is too late.
    proposed: Option<Verdict>,
    times_taken_back: u32,
    /// What an earlier life left under the name has been removed.
    is_cleared: bool,
    is_being_done: bool,
    first_failed: Option<Moment>,
    tries: u32,
    retry_at: Option<Moment>,
}

impl File {
    /// One that an earlier daemon has decided about and seen to.
    pub(super) fn recalled(
        decided: Option<Decision>,
        at_close: Option<Verdict>,
        proposed: Option<Verdict>,
    ) -> Self {
        Self { decided, at_close, proposed, ..Self::default() }
    }

    /// Decides, and says whether this was the decision: it is made once. What Ganeti does with
    /// the file afterwards stays done.
    pub(super) fn decide(&mut self, decision: Decision) -> bool {
        let is_first = self.decided.is_none();
        self.decided.get_or_insert(decision);
        is_first
    }

    /// The guest runs again: what was decided no longer holds. Says whether the file was to be
    /// there.
    pub(super) fn take_back(&mut self) -> bool {
        let before = std::mem::take(self);
        self.times_taken_back = before.times_taken_back + 1;
        self.is_cleared = true;
        before.is_to_be_there() == Some(true)
    }

    /// The guest runs: whatever file there is was made for an earlier life. Says whether it is still
    /// to be removed.
    pub(super) fn clear(&mut self) -> bool {
        self.decided.is_none() && !std::mem::replace(&mut self.is_cleared, true)
    }

    /// Whether it may be decided before the end.
    pub(super) fn may_be_early(&self) -> bool {
        self.times_taken_back < MOST_TAKEN_BACK
    }

    /// Whether it was decided that the file is to be there; nothing if nothing was decided.
    pub(super) fn is_to_be_there(&self) -> Option<bool> {
        self.decided.map(|decision| decision != Decision::Absent)
    }

    /// What the next daemon needs not see to. A decision that could not be carried out yet is
    /// still to be made.
    pub(super) fn to_remember(&self) -> Option<Decision> {
        self.decided.filter(|_| self.is_settled())
    }

    pub(super) fn verdict_at_close(&self) -> Option<&Verdict> {
        self.at_close.as_ref()
    }

    /// The conversation has ended, and this is what it amounts to.
    pub(super) fn close(&mut self, verdict: Verdict) {
        self.at_close = Some(verdict);
        self.proposed = None;
    }

    /// The conversation has ended, and this is what it amounts to if QEMU's own log does not name a
    /// signal. The first proposal stands.
    pub(super) fn propose(&mut self, verdict: Verdict) {
        self.proposed.get_or_insert(verdict);
    }

    /// QEMU's own log names a signal.
    pub(super) fn withdraw(&mut self) {
        self.proposed = None;
    }

    pub(super) fn proposed(&self) -> Option<&Verdict> {
        self.proposed.as_ref()
    }

    /// Begins to carry the decision out, if there is one.
    pub(super) fn attempt(&mut self) -> Option<Decision> {
        self.is_being_done = self.decided.is_some();
        self.retry_at = None;
        self.decided
    }

    /// Whether the outcome of an attempt is still to come.
    pub(super) fn is_being_done(&self) -> bool {
        self.is_being_done
    }

    /// Takes the outcome of an attempt, and says whether it was one. That of any other change of
    /// the file does not count.
    pub(super) fn answered(&mut self, now: Moment, outcome: FileOutcome) -> bool {
        let was_attempt = std::mem::take(&mut self.is_being_done);
        if was_attempt && outcome == FileOutcome::Failed {
            let first = *self.first_failed.get_or_insert(now);
            if now.since(first) < PATIENCE {
                let wait = FIRST_WAIT.saturating_mul(1 << self.tries.min(5)).min(LONGEST_WAIT);
                self.retry_at = Some(now + wait);
                self.tries += 1;
            }
        }
        was_attempt
    }

    /// When the next attempt is due.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.retry_at
    }

    pub(super) fn give_up(&mut self) {
        self.retry_at = None;
    }

    /// Nothing is left to be done.
    pub(super) fn is_settled(&self) -> bool {
        !self.is_being_done && self.retry_at.is_none()
    }
}
