//! The connection to an instance: whether there is one, whether there ever was, and when to try
//! for it (again).
//!
//! It must not know what is said on it; only how long QEMU has been silent and what it was asked.

use std::time::Duration;

use super::ConnectError;
use crate::id::Moment;
use crate::wire::qmp::Command;

/// Between `bind()` and `listen()` lie microseconds, on a busy host milliseconds: so the first
/// attempts follow each other closely, each waiting twice as long as the one before.
const FIRST_WAIT: Duration = Duration::from_millis(1);
/// After this many refusals (32 seconds in all) the socket is taken for a stale one, of which
/// a crashed QEMU leaves one behind, and is only looked at again at each rescan.
const MOST_REFUSALS: u32 = 15;
/// The longest wait for a peer that listens and has no room.
const LONGEST_BUSY_WAIT: Duration = Duration::from_secs(5);
/// QEMU closes its sockets milliseconds before it is gone. Only if it still lives after
/// 128 ms (the wait of the eighth attempt) is there somebody to connect to again.
const RECONNECT_TRY: u32 = 7;
/// How long QEMU may take to answer before that is worth a warning, ...
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// ... and between one warning and the next: it may close the connection and listen again as often as
/// it likes.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Hash)]
pub(super) struct Link {
    state: State,
    was_up: bool,
    /// An earlier daemon was connected, and this one has not been.
    is_sought: bool,
    /// Before that nothing is said of its silence.
    quiet_until: Moment,
}

#[derive(Clone, Debug, Hash)]
enum State {
    /// Not connected. `next` is the time of the next attempt; without one, the next rescan.
    Down { tries: u32, next: Option<Moment> },
    /// An attempt, after `tries` others, whose outcome is not known yet. There is to be no second
    /// one beside it: QEMU would talk to that, or to neither.
    Trying { tries: u32 },
    /// Connected. `warn_at` is when silence becomes worth a warning, `awaits` the command that
    /// has not been answered yet.
    /// `unheard_since` is since when something may have been said that nobody heard, until QEMU
    /// says its first word on this connection.
    Up { warn_at: Option<Moment>, awaits: Option<Command>, unheard_since: Option<Moment> },
    /// What bears the socket's name is no socket; whether it was still there at the latest look.
    Unfit { is_there: bool },
}

impl Link {
    /// To a socket that has just been seen.
    pub(super) fn new(now: Moment) -> Self {
        Self::down(0, Some(now))
    }

    /// To a socket behind which somebody may still be: tried at the next rescan.
    pub(super) fn at_rest() -> Self {
        Self::down(0, None)
    }

    /// To a socket at which nobody listens any more, most likely.
    pub(super) fn stale() -> Self {
        Self::down(MOST_REFUSALS, None)
    }

    fn down(tries: u32, next: Option<Moment>) -> Self {
        Self::with(State::Down { tries, next })
    }

    fn with(state: State) -> Self {
        Self { state, was_up: false, is_sought: false, quiet_until: Moment::START }
    }

    /// One that an earlier daemon made, and that outlived it if it `is_kept`. `is_silent` if QEMU had
    /// not said a word on it: another client may have its slot.
    pub(super) fn recalled(is_kept: bool, is_silent: bool, now: Moment) -> Self {
        let state = if is_kept {
            let unheard_since = is_silent.then_some(Moment::START);
            State::Up { warn_at: Some(now + ANSWER_WITHIN), awaits: None, unheard_since }
        } else {
            State::Down { tries: 0, next: Some(now) }
        };
        Self { was_up: true, is_sought: !is_kept, ..Self::with(state) }
    }

    /// Begins an attempt, unless one is under way or there is nothing to try for.
    pub(super) fn begin_attempt(&mut self) -> bool {
        let State::Down { tries, .. } = self.state else { return false };
        self.state = State::Trying { tries };
        true
    }

    /// The attempt has succeeded, with a process that began at `began`. What was said before the
    /// first word that it says on this connection, nobody has heard.
    pub(super) fn established(&mut self, began: Moment, now: Moment) {
        let unheard_since = Some(if self.was_up { Moment::START } else { began });
        let warn_at = Some((now + ANSWER_WITHIN).max(self.quiet_until));
        self.state = State::Up { warn_at, awaits: None, unheard_since };
        (self.was_up, self.is_sought) = (true, false);
    }

    /// The attempt has failed; `is_dead` if there is nobody left to listen. Says whether there was
    /// an attempt.
    pub(super) fn failed(&mut self, error: ConnectError, is_dead: bool, now: Moment) -> bool {
        let State::Trying { tries } = self.state else { return false };
        let next = match error {
            _ if is_dead => None,
            ConnectError::Unfit => {
                self.state = State::Unfit { is_there: true };
                return true;
            }
            ConnectError::Refused if tries < MOST_REFUSALS => Some(now + wait_after(tries)),
            ConnectError::Busy => Some(now + wait_after(tries).min(LONGEST_BUSY_WAIT)),
            ConnectError::Refused | ConnectError::Orphaned | ConnectError::Gone => None,
        };
        let is_stale = is_dead || error == ConnectError::Orphaned;
        let tries = if is_stale { MOST_REFUSALS } else { (tries + 1).min(MOST_REFUSALS) };
        self.state = State::Down { tries, next };
        true
    }

    /// The connection was lost. QEMU may live on, unless it `is_dead`.
    pub(super) fn lost(&mut self, is_dead: bool, now: Moment) {
        self.state = if is_dead {
            State::Down { tries: MOST_REFUSALS, next: None }
        } else {
            State::Down { tries: RECONNECT_TRY, next: Some(now + wait_after(RECONNECT_TRY)) }
        };
    }

    /// Nothing is tried before the next rescan.
    pub(super) fn rest(&mut self) {
        if let State::Down { ref mut next, .. } = self.state {
            *next = None;
        }
    }

    /// Somebody has bound the socket (again): the attempts are counted anew. Says whether there is
    /// anything to try for.
    pub(super) fn begin_anew(&mut self) -> bool {
        match self.state {
            State::Down { ref mut tries, .. } | State::Trying { ref mut tries } => *tries = 0,
            State::Up { .. } | State::Unfit { .. } => return false,
        }
        true
    }

    /// Notes that QEMU has been asked something; it answers one command after the other. Says
    /// whether there is a connection.
    pub(super) fn ask(&mut self, command: Command) -> bool {
        let State::Up { ref mut awaits, .. } = self.state else { return false };
        *awaits = Some(command);
        true
    }

    /// What QEMU has been asked and has not answered.
    pub(super) fn awaits(&self) -> Option<Command> {
        match self.state {
            State::Up { awaits, .. } => awaits,
            _ => None,
        }
    }

    /// QEMU has answered: nothing more is asked.
    pub(super) fn end_asking(&mut self) {
        if let State::Up { ref mut awaits, .. } = self.state {
            *awaits = None;
        }
    }

    /// At its first word on this connection, gives since when QEMU may have said what nobody heard.
    pub(super) fn take_unheard(&mut self) -> Option<Moment> {
        match self.state {
            State::Up { ref mut unheard_since, .. } => unheard_since.take(),
            _ => None,
        }
    }

    /// Its main loop lives: it has answered, or said something by itself.
    pub(super) fn end_silence(&mut self) {
        if let State::Up { ref mut warn_at, .. } = self.state {
            *warn_at = None;
        }
    }

    /// Takes the warning that QEMU is silent, if it is due: it is given once a connection, and once a
    /// minute at most.
    pub(super) fn take_warning(&mut self, now: Moment) -> bool {
        let State::Up { ref mut warn_at, .. } = self.state else { return false };
        let is_due = warn_at.take_if(|at| *at <= now).is_some();
        if is_due {
            self.quiet_until = now + BETWEEN_WARNINGS;
        }
        is_due
    }

    /// It was seen, at this look into the directory.
    pub(super) fn was_listed(&mut self) {
        if let State::Unfit { ref mut is_there } = self.state {
            *is_there = true;
        }
    }

    /// Another look begins. Says whether what is no socket was gone at the one before.
    pub(super) fn is_no_more(&mut self) -> bool {
        match self.state {
            State::Unfit { ref mut is_there } => !std::mem::take(is_there),
            _ => false,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    pub(super) fn was_up(&self) -> bool {
        self.was_up
    }

    /// An earlier daemon was connected, and this one still tries to be.
    pub(super) fn is_looked_for(&self) -> bool {
        let is_tried =
            matches!(self.state, State::Trying { .. } | State::Down { next: Some(_), .. });
        self.is_sought && is_tried
    }

    /// It is not connected, and nothing is under way.
    pub(super) fn is_down(&self) -> bool {
        matches!(self.state, State::Down { .. } | State::Unfit { .. })
    }

    /// It is not connected, and nothing is planned before the next rescan.
    pub(super) fn is_at_rest(&self) -> bool {
        matches!(self.state, State::Down { next: None, .. })
    }

    /// An attempt is due.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        matches!(self.state, State::Down { next: Some(at), .. } if at <= now)
    }

    /// When it is to be looked after.
    pub(super) fn deadline(&self) -> Option<Moment> {
        match self.state {
            State::Down { next, .. } => next,
            State::Up { warn_at, .. } => warn_at,
            State::Trying { .. } | State::Unfit { .. } => None,
        }
    }
}

fn wait_after(tries: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << tries.min(MOST_REFUSALS))
}
