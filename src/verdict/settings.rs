//! What can be read in two ways, and how the administrator wants it read.

use std::time::Duration;

/// What can be read in two ways, and how it is to be read.
#[derive(Clone, Debug, Hash)]
pub struct Settings {
    pub guest_reset: GuestReset,
    pub signal_shutdown: SignalShutdown,
    /// For how long a powerdown request explains a shutdown; for ever if absent.
    pub powerdown_window: Option<Duration>,
    /// For how long no user's shutdown is believed after a time in which nobody listened. Zero, the
    /// default: it is believed, and the record says what was not heard (see `cause.rs`).
    pub doubt_window: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            guest_reset: GuestReset::User,
            signal_shutdown: SignalShutdown::Admin,
            powerdown_window: Some(Duration::from_secs(3600)),
            doubt_window: Duration::ZERO,
        }
    }
}

/// What a guest's reset means where QEMU ends instead (`-no-reboot`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestReset {
    /// A user's shutdown, as Ganeti's manual has it.
    User,
    /// A wish to be started again: no file.
    Restart,
}

/// Whose doing it is if a signal asks QEMU to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignalShutdown {
    Admin,
    /// The reading of the original, on which Ganeti's own tests rely.
    User,
}
