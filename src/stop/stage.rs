//! How far a stop is.

use std::collections::VecDeque;

use super::plan::Action;
use crate::id::Moment;
use crate::wire::Signal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// How it is with the guest has been asked. Where it was known to run, the button has been pressed
    /// already, which is as much as a question and its answer sooner. The answer may take its time: at
    /// `next` it is pressed again.
    Asking {
        next: Option<Moment>,
    },
    Pressing {
        next: Moment,
    },
    /// It is being migrated; what has become of it is to be asked again.
    Leaving {
        next: Moment,
    },
    /// There is nothing to do but to wait.
    Waiting,
    /// SIGHUP was sent before there was a monitor.
    HungUpEarly,
    /// The guest is done.
    Flushing,
    Killed,
}

impl Stage {
    /// It is the guest's turn, as soon as it can.
    pub(super) fn asks_guest(self) -> bool {
        matches!(self, Self::Asking { .. } | Self::Pressing { .. } | Self::Leaving { .. })
    }
}

/// A stop that is under way.
#[derive(Clone, Debug)]
pub(super) struct Stop {
    /// When all of it is over, if it comes to that.
    pub(super) ends: Moment,
    /// The signals that it was asked for with.
    pub(super) seen: Vec<Signal>,
    /// What is being tried, and until when, and what comes after it.
    pub(super) steps: VecDeque<(Action, Option<Moment>)>,
    pub(super) stage: Stage,
}

impl Stop {
    /// Whether it comes to SIGKILL in the end. Else it is a mere request: nothing has to be over in time.
    pub(super) fn may_kill(&self) -> bool {
        self.steps.iter().any(|(action, _)| *action == Action::Kill)
    }
}
