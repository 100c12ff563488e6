//! What is decided about `NAME.shutdown`, and what came of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::FileOutcome;
use crate::id::Moment;

/// What could not be done is tried again after a second, then after two, ...
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// ... at most this far apart, ...
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// ... and for this long: after that Ganeti has long drawn its conclusion.
const PATIENCE: Duration = Duration::from_secs(300);

/// How the file is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Decision {
    Absent,
    Present,
    /// Present, if it can be before the process is dead. Ganeti removes the file of an instance
    /// that it has stopped by force as soon as that is dead, and not again.
    PresentInTime,
}

/// The one decision about the file of one life.
#[derive(Debug, Default)]
pub(super) struct File {
    decided: Option<Decision>,
    is_being_done: bool,
    first_failed: Option<Moment>,
    tries: u32,
    retry_at: Option<Moment>,
}

impl File {
    /// Decides, and says whether this was the decision: it is made once. What Ganeti does with
    /// the file afterwards stays done.
    pub(super) fn decide(&mut self, decision: Decision) -> bool {
        let is_first = self.decided.is_none();
        self.decided.get_or_insert(decision);
        is_first
    }

    /// Whether it was decided that the file is to be there; nothing if nothing was decided.
    pub(super) fn is_to_be_there(&self) -> Option<bool> {
        self.decided.map(|decision| decision != Decision::Absent)
    }

    /// Begins to carry the decision out, if there is one.
    pub(super) fn attempt(&mut self) -> Option<Decision> {
        self.is_being_done = self.decided.is_some();
        self.retry_at = None;
        self.decided
    }

    /// One that an earlier daemon has decided about and seen to.
    pub(super) fn recalled(decided: Option<Decision>) -> Self {
        Self { decided, ..Self::default() }
    }

    pub(super) fn decision(&self) -> Option<Decision> {
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
    pub(super) fn retry_at(&self) -> Option<Moment> {
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
