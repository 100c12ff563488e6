//! What QEMU has said over its event socket, boiled down to what a verdict needs.
//!
//! The events of one socket come in one order, so this may depend on their order; on what
//! any other source says, it must not.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::Moment;
use crate::wire::qmp::{self, Event, WatchdogAction};

/// QEMU sends the POWERDOWN or the SHUTDOWN that a watchdog causes in the very next turn of
/// its main loop; what comes later is somebody else's.
const WATCHDOG_FOLLOW_UP: Duration = Duration::from_secs(1);

/// Whether a powerdown request waits for the guest to obey.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Pending {
    #[default]
    Nothing,
    Requested,
    /// The watchdog made it; nobody asked.
    ByWatchdog,
}

/// The SHUTDOWN event that stands, with the circumstances in which it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shutdown {
    pub(super) data: qmp::Shutdown,
    pub(super) powerdown: Pending,
    pub(super) stopped: bool,
    pub(super) panicked: bool,
    pub(super) watchdog_reset: bool,
    /// Somebody may have asked for it while nobody listened.
    is_doubtful: bool,
}

impl Shutdown {
    /// Whether QEMU said itself whose doing it was. Where it did not, the verdict has to wait
    /// for the end of the connection, until everything is known of signals.
    pub(super) fn says_why(&self) -> bool {
        self.data.reason.is_some() || self.data.guest == Some(true)
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.is_doubtful
    }

    /// Whether it matters who sent which signal.
    pub(super) fn may_be_by_signal(&self) -> bool {
        !self.says_why() || self.data.reason == Some(qmp::Reason::HostSignal)
    }
}

/// How a fact changed the course of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A first SHUTDOWN: the guest is going down.
    GoingDown,
    /// The guest runs again after a SHUTDOWN (QEMU with `-no-shutdown`).
    TakenBack,
    /// It goes on as before.
    Unchanged,
}

/// Everything said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Conversation {
    shutdown: Option<Shutdown>,
    powerdown: Option<(Moment, Pending)>,
    watchdog: Option<(Moment, WatchdogAction)>,
    panicked: bool,
    stopped: bool,
    /// Until then a request may show its effect that was made while nobody listened.
    doubtful_until: Option<Moment>,
}

impl Conversation {
    /// Something may have been said that was not heard; it will have shown its effect by then.
    pub(super) fn doubt(&mut self, until: Moment) {
        self.doubtful_until = self.doubtful_until.max(Some(until));
    }

    /// The first SHUTDOWN that has not been taken back.
    pub(super) fn shutdown(&self) -> Option<&Shutdown> {
        self.shutdown.as_ref()
    }

    pub(super) fn panicked(&self) -> bool {
        self.panicked
    }

    pub(super) fn watchdog_poweroff(&self) -> bool {
        matches!(self.watchdog, Some((_, WatchdogAction::Poweroff)))
    }

    /// Takes an event. A powerdown request older than `powerdown_window` no longer counts.
    pub(super) fn take(
        &mut self,
        now: Moment,
        event: &Event,
        powerdown_window: Option<Duration>,
    ) -> Turn {
        match event {
            Event::Shutdown(data) if self.shutdown.is_none() => {
                self.shutdown = Some(Shutdown {
                    data: data.clone(),
                    powerdown: self.pending(now, powerdown_window),
                    stopped: self.stopped,
                    panicked: self.panicked,
                    watchdog_reset: self.just_barked(now, WatchdogAction::Reset),
                    is_doubtful: self.doubtful_until.is_some_and(|until| now < until),
                });
                return Turn::GoingDown;
            }
            Event::Powerdown if self.just_barked(now, WatchdogAction::Shutdown) => {
                self.watchdog = None;
                self.powerdown = Some((now, Pending::ByWatchdog));
            }
            Event::Powerdown => self.powerdown = Some((now, Pending::Requested)),
            Event::Watchdog(action) => self.watchdog = Some((now, *action)),
            Event::GuestPanicked => self.panicked = true,
            Event::Stop => self.stopped = true,
            Event::Resume => return self.run(),
            Event::Reset => {
                self.powerdown = None;
                self.watchdog = None;
                self.panicked = false;
                self.doubtful_until = None;
                return self.take_back();
            }
            Event::Shutdown(_) | Event::Noted(_) | Event::Other => {}
        }
        Turn::Unchanged
    }

    /// The guest's CPUs run: it is neither stopped nor panicked nor shut down.
    pub(super) fn run(&mut self) -> Turn {
        self.stopped = false;
        self.panicked = false;
        self.take_back()
    }

    /// The guest's CPUs are held: it is paused, or not yet started.
    pub(super) fn hold(&mut self) {
        self.stopped = true;
    }

    fn take_back(&mut self) -> Turn {
        match self.shutdown.take() {
            Some(_) => Turn::TakenBack,
            None => Turn::Unchanged,
        }
    }

    fn pending(&self, now: Moment, window: Option<Duration>) -> Pending {
        match self.powerdown {
            Some((at, pending)) if window.is_none_or(|window| now.since(at) < window) => pending,
            _ => Pending::Nothing,
        }
    }

    fn just_barked(&self, now: Moment, action: WatchdogAction) -> bool {
        self.watchdog.is_some_and(|(at, did)| did == action && now.since(at) < WATCHDOG_FOLLOW_UP)
    }
}
