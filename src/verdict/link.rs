//! The connection to an instance, and when to try for it (again).

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
#[derive(Debug)]
pub(super) enum Link {
    /// Not connected. `next` is the time of the next attempt; without one, the next rescan.
    Down { tries: u32, next: Option<Moment> },
    /// An attempt, after `tries` others, whose outcome is not known yet. There is to be no second
    /// one beside it: QEMU would talk to that, or to neither.
    Trying { tries: u32 },
    /// Connected. `warn_at` is when silence becomes worth a warning, `awaits` the command that
    /// has not been answered yet.
    Up { warn_at: Option<Moment>, awaits: Option<Command> },
    /// What bears the socket's name is no socket.
    Unfit,
}

impl Link {
    /// A socket at which nobody listens any more, most likely.
    pub(super) fn stale() -> Self {
        Self::Down { tries: MOST_REFUSALS, next: None }
    }

    /// The connection was lost, and QEMU may live on.
    pub(super) fn lost(now: Moment) -> Self {
        Self::Down { tries: RECONNECT_TRY, next: Some(now + wait_after(RECONNECT_TRY)) }
    }

    /// An attempt has failed, the one after `tries` others.
    pub(super) fn after(error: ConnectError, tries: u32, now: Moment) -> Self {
        let next = match error {
            ConnectError::Unfit => return Self::Unfit,
            ConnectError::Refused if tries < MOST_REFUSALS => Some(now + wait_after(tries)),
            ConnectError::Busy => Some(now + wait_after(tries).min(LONGEST_BUSY_WAIT)),
            ConnectError::Refused | ConnectError::Gone => None,
        };
        Self::Down { tries: (tries + 1).min(MOST_REFUSALS), next }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }

    /// It is not connected, and nothing is under way.
    pub(super) fn is_down(&self) -> bool {
        matches!(self, Self::Down { .. } | Self::Unfit)
    }

    /// When it is to be looked after.
    pub(super) fn deadline(&self) -> Option<Moment> {
        match *self {
            Self::Down { next, .. } => next,
            Self::Up { warn_at, .. } => warn_at,
            Self::Trying { .. } | Self::Unfit => None,
        }
    }
}

fn wait_after(tries: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << tries.min(MOST_REFUSALS))
}
