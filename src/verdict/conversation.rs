//! What QEMU has said over its event socket, boiled down to what a verdict needs.
//!
//! The events of one socket come in one order, so this may depend on their order; on what
//! any other source says, it must not. When they were *heard* says little, because the host may
//! have stalled in between: where the time from one to the other matters, QEMU's own count.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Settings;
use crate::id::Moment;
use crate::wire::qmp::{self, Event, Reason, Timestamp, WatchdogAction};

/// QEMU sends the POWERDOWN that a watchdog causes in the very next turn of its main loop; what
/// comes later is somebody else's.
const WATCHDOG_FOLLOW_UP: Duration = Duration::from_secs(1);

/// Whether a powerdown request waits for the guest to obey.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub(super) enum Pending {
    #[default]
    Nothing,
    Requested,
    /// The watchdog made it; nobody asked.
    ByWatchdog,
}

/// What became of a panic.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash,
)]
pub(super) enum Panic {
    #[default]
    None,
    Panicked,
    /// The CPUs were started again afterwards. That heals nobody; but a snapshot that is loaded
    /// says nothing else, and the guest in it may be healthy.
    WentOn,
}

/// What may have been said while nobody listened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub(super) enum Unheard {
    /// It goes into the record.
    Noted,
    /// It keeps the daemon from believing in a user's shutdown: `--doubt-window`.
    Doubted,
}

/// The SHUTDOWN event that stands, with the circumstances in which it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub(super) struct Shutdown {
    pub(super) data: qmp::Shutdown,
    pub(super) powerdown: Pending,
    pub(super) stopped: bool,
    pub(super) panic: Panic,
    /// The watchdog has reset the guest, and this is what became of it.
    pub(super) watchdog_reset: bool,
    /// The watchdog has sent the guest an NMI. One that panics of it saves its memory, perhaps, and then
    /// resets itself.
    #[serde(default)]
    pub(super) after_nmi: bool,
    /// Somebody may have asked for it while nobody listened.
    pub(super) unheard: Option<Unheard>,
    /// Something may have gone unheard since.
    #[serde(default)]
    had_gap_since: bool,
}

impl Shutdown {
    /// Whether QEMU said itself whose doing it was. Where it did not, the verdict has to wait
    /// for the end of the connection, until everything is known of signals.
    pub(super) fn says_why(&self) -> bool {
        self.data.reason.is_some() || self.data.guest == Some(true)
    }

    /// Whether it matters who sent which signal.
    pub(super) fn may_be_by_signal(&self) -> bool {
        !self.says_why() || self.data.reason == Some(Reason::HostSignal)
    }
}

/// How a fact changed the course of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Turn {
    /// A first SHUTDOWN: the guest is going down.
    GoingDown,
    /// The guest runs again after a SHUTDOWN (QEMU with `-no-shutdown`).
    TakenBack,
    /// It goes on as before.
    Unchanged,
}

/// Somebody asked the guest to power down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Asked {
    whose: Pending,
    heard: Moment,
    stamp: Option<Timestamp>,
}

/// The watchdog found the guest hung. QEMU reports that once a second at most and holds the next one
/// back until then: so it can come after its effect, and only its time tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
struct Bark {
    action: WatchdogAction,
    heard: Moment,
    stamp: Option<Timestamp>,
}

impl Bark {
    /// Whether something that came later was its effect. QEMU's own times tell, unless one is
    /// missing or they run backwards.
    fn was_just_before(&self, heard: Moment, stamp: Option<Timestamp>) -> bool {
        let between = match (self.stamp, stamp) {
            (Some(bark), Some(later)) if later >= bark => later.0.saturating_sub(bark.0),
            _ => heard.since(self.heard),
        };
        between < WATCHDOG_FOLLOW_UP
    }
}

/// A set of those things that a verdict rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Gist(u16);

impl Gist {
    fn of(points: [bool; 9]) -> Self {
        Self(points.iter().fold(0, |set, &point| set << 1 | u16::from(point)))
    }

    pub(super) fn has_more_than(self, other: Self) -> bool {
        self.0 & !other.0 != 0
    }

    #[must_use]
    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Everything said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub(super) struct Conversation {
    shutdown: Option<Shutdown>,
    powerdown: Option<Asked>,
    watchdog: Option<Bark>,
    /// When the guest was last reset, by QEMU's own time.
    reset: Option<Timestamp>,
    panic: Panic,
    stopped: bool,
    /// Since when it is heard without a gap, if there was one.
    unheard_before: Option<Moment>,
    /// The guest has run since.
    ran_since: bool,
}

impl Conversation {
    /// Something may have been said before now that nobody heard.
    pub(super) fn note_gap(&mut self, now: Moment) {
        self.unheard_before = Some(now);
        self.ran_since = false;
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.had_gap_since = true;
        }
    }

    /// The first SHUTDOWN that has not been taken back.
    pub(super) fn shutdown(&self) -> Option<&Shutdown> {
        self.shutdown.as_ref()
    }

    /// Whether something was not heard, since the guest was last reset.
    pub(super) fn had_gap(&self) -> bool {
        self.unheard_before.is_some()
    }

    /// Whether it may have gone down already when nobody listened, so that its SHUTDOWN is missing.
    pub(super) fn may_lack_shutdown(&self) -> bool {
        self.unheard_before.is_some() && !self.ran_since && self.shutdown.is_none()
    }

    pub(super) fn panic(&self) -> Panic {
        self.panic
    }

    pub(super) fn watchdog_poweroff(&self) -> bool {
        self.barked(WatchdogAction::Poweroff)
    }

    /// Takes an event, with QEMU's own time of it.
    pub(super) fn take(
        &mut self,
        now: Moment,
        event: &Event,
        stamp: Option<Timestamp>,
        settings: &Settings,
    ) -> Turn {
        match event {
            Event::Shutdown(data) if self.shutdown.is_none() => {
                self.shutdown = Some(Shutdown {
                    data: data.clone(),
                    powerdown: self.pending(now, settings.powerdown_window),
                    stopped: self.stopped,
                    panic: self.panic,
                    // A reset is requested as the watchdog barks: whatever comes of it came of that.
                    watchdog_reset: self.barked(WatchdogAction::Reset),
                    after_nmi: self.has_sent_nmi(now, settings.powerdown_window),
                    unheard: self.unheard(now, settings),
                    had_gap_since: false,
                });
                return Turn::GoingDown;
            }
            Event::Powerdown => {
                let is_watchdogs = self.watchdog.take_if(|bark| {
                    bark.action == WatchdogAction::Shutdown && bark.was_just_before(now, stamp)
                });
                let whose = is_watchdogs.map_or(Pending::Requested, |_| Pending::ByWatchdog);
                self.powerdown = Some(Asked { whose, heard: now, stamp });
            }
            Event::Watchdog(action) => {
                self.bark(Bark { action: *action, heard: now, stamp });
            }
            Event::GuestPanicked | Event::GuestCrashloaded => self.panic = Panic::Panicked,
            Event::Stop => self.stopped = true,
            Event::Wakeup => self.stopped = false,
            Event::Resume => return self.run(),
            // The guest is new.
            Event::Reset => {
                self.reset = stamp;
                self.powerdown = None;
                self.watchdog = None;
                self.panic = Panic::None;
                self.unheard_before = None;
                return self.take_back();
            }
            Event::Shutdown(_) | Event::Noted(_) | Event::Other => {}
        }
        Turn::Unchanged
    }

    /// The guest's CPUs run: it is neither stopped nor shut down. A panicked one stays panicked.
    pub(super) fn run(&mut self) -> Turn {
        self.stopped = false;
        self.ran_since = true;
        if self.panic == Panic::Panicked {
            self.panic = Panic::WentOn;
        }
        self.take_back()
    }

    /// QEMU answered that the guest's CPUs run. It answers so on its way out, too: only where something
    /// was not heard since its SHUTDOWN can the guest have come back.
    pub(super) fn answer_running(&mut self) -> Turn {
        let is_on_its_way_out = self.shutdown().is_some_and(|shutdown| !shutdown.had_gap_since);
        if is_on_its_way_out { Turn::Unchanged } else { self.run() }
    }

    /// The guest's CPUs are held because it has panicked.
    pub(super) fn hold_panicked(&mut self) {
        self.stopped = true;
        self.panic = Panic::Panicked;
    }

    /// The guest's CPUs are held: it is paused, or not yet started.
    pub(super) fn hold(&mut self) {
        self.stopped = true;
    }

    /// What there is of that.
    pub(super) fn gist(&self) -> Gist {
        let pending = self.powerdown.map(|asked| asked.whose);
        Gist::of([
            self.shutdown.is_some(),
            pending == Some(Pending::Requested),
            pending == Some(Pending::ByWatchdog),
            self.barked(WatchdogAction::Reset),
            self.barked(WatchdogAction::InjectNmi),
            self.barked(WatchdogAction::Shutdown),
            self.barked(WatchdogAction::Poweroff),
            self.panic != Panic::None,
            self.unheard_before.is_some(),
        ])
    }

    fn take_back(&mut self) -> Turn {
        match self.shutdown.take() {
            Some(_) => Turn::TakenBack,
            None => Turn::Unchanged,
        }
    }

    fn pending(&self, now: Moment, window: Option<Duration>) -> Pending {
        match self.powerdown {
            Some(Asked { whose, heard, .. }) if is_open(heard, now, window) => whose,
            _ => Pending::Nothing,
        }
    }

    fn has_sent_nmi(&self, now: Moment, window: Option<Duration>) -> bool {
        let nmi = self.watchdog.filter(|bark| bark.action == WatchdogAction::InjectNmi);
        nmi.is_some_and(|bark| is_open(bark.heard, now, window))
    }

    fn bark(&mut self, bark: Bark) {
        let is_before = |it: Option<Timestamp>| bark.stamp.is_some() && bark.stamp <= it;
        if let Some(asked) = &mut self.powerdown
            && bark.action == WatchdogAction::Shutdown
            && is_before(asked.stamp)
            && bark.was_just_before(asked.heard, asked.stamp)
        {
            asked.whose = Pending::ByWatchdog;
        } else if !is_before(self.reset) {
            self.watchdog = Some(bark);
        }
    }

    /// What nobody heard matters for as long as a request that was heard would.
    fn unheard(&self, now: Moment, settings: &Settings) -> Option<Unheard> {
        let since = now.since(self.unheard_before?);
        if since < settings.doubt_window {
            Some(Unheard::Doubted)
        } else {
            let is_over = settings.powerdown_window.is_some_and(|window| since >= window);
            (!is_over).then_some(Unheard::Noted)
        }
    }

    fn barked(&self, action: WatchdogAction) -> bool {
        self.watchdog.is_some_and(|bark| bark.action == action)
    }
}

/// Whether what was heard then can still explain what happens now.
fn is_open(heard: Moment, now: Moment, window: Option<Duration>) -> bool {
    window.is_none_or(|window| now.since(heard) < window)
}
