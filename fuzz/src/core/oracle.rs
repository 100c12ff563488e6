//! What must hold, whatever happens: above all when `NAME.shutdown` has to be there, may be there,
//! and must not be.
//!
//! It judges each life by what the world has seen of it. It must not use the core's own functions
//! to find out what is right: then both could be wrong in the same way. A rule that may change is a
//! function of its own, at the top.

use std::time::Duration;

use kvmd::id::Moment;
use kvmd::verdict::{Cause, Death, GuestReset, Initiator, Node, Settings, SignalShutdown};
use kvmd::wire::Signal;
use kvmd::wire::qmp::{self, Message, Reason, WatchdogAction};

use crate::assert_fit_to_print;

/// After fewer events than this everything that was said is written down for the next daemon.
const CHATTER: u32 = 90;
/// A process of this age may have been asked to power down before anybody listened.
const UNHEARD_AGE: Duration = Duration::from_secs(10);
/// A guest that has come back this often in one life has its file decided only at its end.
const MOST_BACK: u32 = 16;
/// The most pieces of evidence that are kept of one life.
const MOST_PIECES: usize = 48;
const MOST_MISSING: usize = 7;

/// How a guest shows that it goes on, whatever was said before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Back {
    /// RESET.
    Reset,
    /// RESUME.
    Resumed,
    /// The answer to `query-status`.
    Runs,
}

/// Whether this event means that the guest has panicked.
fn is_panic(event: &qmp::Event) -> bool {
    matches!(event, qmp::Event::GuestPanicked | qmp::Event::GuestCrashloaded)
}

/// Whether a guest that had panicked no longer has.
fn ends_panic(back: Back) -> bool {
    matches!(back, Back::Reset)
}

/// Whether a reset by the guest that is heard now is the watchdog's. It `barked` when its
/// WATCHDOG was heard, unless that is used up. What a guest makes of an NMI may be its own will later.
fn is_watchdogs(
    barked: Option<(WatchdogAction, Moment)>,
    reason: Option<&Reason>,
    now: Moment,
    settings: &Settings,
) -> bool {
    barked.is_some_and(|(action, at)| match action {
        WatchdogAction::Reset => true,
        WatchdogAction::InjectNmi => {
            reason == Some(&Reason::GuestReset)
                && settings.powerdown_window.is_none_or(|window| now.since(at) < window)
        }
        _ => false,
    })
}

/// Whether the reset that WATCHDOG announced has been heard with this event.
fn uses_up_bark(event: &qmp::Event) -> bool {
    matches!(event, qmp::Event::Reset)
}

/// Whether a request that nobody can have heard keeps the file away.
fn doubt_decides(settings: &Settings) -> bool {
    settings.doubt_window > Duration::ZERO
}

/// Whether a powerdown request may have been made in the time in which nobody listened.
fn is_doubtful(unheard_for: Duration) -> bool {
    unheard_for >= UNHEARD_AGE
}

/// Whether QEMU ends in an orderly way when it gets this signal: SIGHUP, SIGINT or SIGTERM.
pub(super) fn asks_to_end(signal: Signal) -> bool {
    matches!(signal.0, 1 | 2 | 15)
}

/// The SHUTDOWN that stands, and how things were when it came.
#[derive(Clone, Debug)]
struct Going {
    data: qmp::Shutdown,
    was_requested: bool,
    had_panicked: bool,
    was_stopped: bool,
    is_watchdogs: bool,
    is_doubtful: bool,
    may_be_doubted: bool,
}

impl Going {
    /// Whether QEMU has said whose doing it is, so that the file need not wait for more.
    fn says_why(&self) -> bool {
        self.data.reason.is_some() || self.data.guest == Some(true)
    }
}

/// What is to become of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Present,
    /// Present, but only if the process still lives.
    PresentInTime,
    Absent,
}

/// What a verdict may make of the file. More than one where it depends on evidence that is not
/// followed here.
#[derive(Clone, Copy, Debug)]
struct Allowed {
    present: bool,
    present_in_time: bool,
    absent: bool,
}

impl Allowed {
    const ABSENT: Self = Self { present: false, present_in_time: false, absent: true };

    fn allows(self, wanted: Wanted) -> bool {
        match wanted {
            Wanted::Present => self.present,
            Wanted::PresentInTime => self.present_in_time,
            Wanted::Absent => self.absent,
        }
    }
}

/// What one life has shown of itself, and what was done about it.
#[derive(Debug, Default)]
pub(super) struct Account {
    going: Option<Going>,
    /// Something may have gone unheard since: for sure, or perhaps.
    had_gap_since: bool,
    may_have_gap_since: bool,
    requested: Option<Moment>,
    has_panicked: bool,
    is_stopped: bool,
    barked: Option<(WatchdogAction, Moment)>,
    doubtful_until: Option<Moment>,
    /// Since when nobody has listened, until QEMU says its first word on this connection.
    unheard_since: Option<Moment>,
    /// How much it has said, and whether the next daemon may not know all of it.
    events: u32,
    may_be_doubted: bool,
    /// The node may have been told of a signal that asked it to end.
    may_be_signalled: bool,
    times_back: u32,
    was_connected: bool,
    /// QEMU has said something to this daemon, or to an earlier one on the same connection; and it was
    /// more than its greeting, which says nothing of its main loop.
    has_greeted: bool,
    has_spoken: bool,
    /// The decision about the file that is in force, and whether carrying it out has failed.
    decided: Option<bool>,
    has_failed: bool,
    /// Its name is another's, which is known to this daemon; and to an earlier one.
    pub(super) is_superseded: bool,
    was_superseded: bool,
    pub(super) is_recorded: bool,
}

impl Account {
    /// Somebody has taken the connection, in a process of this age.
    pub(super) fn connects(&mut self, age: Option<Duration>, now: Moment) {
        let began = now.before(age.unwrap_or_default());
        self.unheard_since = Some(if self.was_connected { Moment::START } else { began });
        self.had_gap_since |= self.was_connected;
        self.was_connected = true;
    }

    /// QEMU says something. Returns whether it counts: once the end is recorded, what is said on a
    /// connection that has outlived the process changes nothing.
    pub(super) fn speaks(&mut self, message: &Message, now: Moment, settings: &Settings) -> bool {
        self.has_greeted = true;
        self.has_spoken |= !matches!(message, Message::Greeting(_));
        if let Some(since) = self.unheard_since.take()
            && is_doubtful(now.since(since))
        {
            self.doubtful_until = Some(now + settings.doubt_window);
        }
        !self.is_recorded
    }

    pub(super) fn is_signalled(&mut self) {
        self.may_be_signalled = true;
    }

    /// QEMU says something of its own accord. Returns whether its guest goes down with it.
    pub(super) fn hears(&mut self, event: &qmp::Event, now: Moment, settings: &Settings) -> bool {
        self.events += 1;
        let goes_down = matches!(event, qmp::Event::Shutdown(_)) && self.going.is_none();
        match event {
            qmp::Event::Shutdown(data) if goes_down => {
                (self.had_gap_since, self.may_have_gap_since) = (false, false);
                let is_open =
                    |at| settings.powerdown_window.is_none_or(|window| now.since(at) < window);
                self.going = Some(Going {
                    data: data.clone(),
                    was_requested: self.requested.is_some_and(is_open),
                    had_panicked: self.has_panicked,
                    was_stopped: self.is_stopped,
                    is_watchdogs: is_watchdogs(self.barked, data.reason.as_ref(), now, settings),
                    is_doubtful: self.doubtful_until.is_some_and(|until| now < until),
                    may_be_doubted: self.may_be_doubted,
                });
            }
            qmp::Event::Powerdown => self.requested = Some(now),
            qmp::Event::Stop => self.is_stopped = true,
            qmp::Event::Watchdog(action) => self.barked = Some((*action, now)),
            qmp::Event::Resume => self.comes_back(Back::Resumed),
            qmp::Event::Reset => {
                // What the guest was asked before, it has forgotten.
                (self.requested, self.doubtful_until) = (None, None);
                self.may_be_doubted = false;
                self.comes_back(Back::Reset);
            }
            _ => {}
        }
        self.has_panicked |= is_panic(event);
        if uses_up_bark(event) {
            self.barked = None;
        }
        goes_down
    }

    /// Whether it is known what an answer that its guest runs means: on its way out QEMU says so, too.
    pub(super) fn can_be_asked(&self) -> bool {
        self.going.is_none() || self.had_gap_since || !self.may_have_gap_since
    }

    /// QEMU answers `query-status`.
    pub(super) fn is_told_status(&mut self, running: bool) {
        if running {
            if self.going.is_none() || self.had_gap_since {
                self.comes_back(Back::Runs);
            }
        } else {
            self.is_stopped = true;
        }
    }

    /// The guest runs again: what was decided no longer holds.
    fn comes_back(&mut self, back: Back) {
        self.has_panicked &= !ends_panic(back);
        // RESET comes to a guest that is paused, too.
        self.is_stopped &= back == Back::Reset;
        if self.going.take().is_some() {
            self.times_back += 1;
            (self.decided, self.has_failed) = (None, false);
        }
    }

    /// Another daemon goes on with this life.
    pub(super) fn is_taken_over(&mut self, is_kept: bool) {
        self.unheard_since = (is_kept && !self.has_greeted).then_some(Moment::START);
        self.may_be_doubted |= is_kept && self.events > CHATTER;
        self.had_gap_since |= !is_kept;
        self.may_have_gap_since |= is_kept && self.events > CHATTER;
        self.has_greeted &= is_kept;
        self.has_spoken &= is_kept;
        self.was_superseded |= self.is_superseded;
        // What could not be carried out is decided anew.
        if self.has_failed {
            (self.decided, self.has_failed) = (None, false);
        }
    }

    fn allowed(&self, settings: &Settings) -> Allowed {
        let allowed = self.allowed_if_undoubted(settings);
        let may_be_doubted = self.going.as_ref().is_some_and(|going| going.may_be_doubted);
        Allowed { absent: allowed.absent || may_be_doubted && doubt_decides(settings), ..allowed }
    }

    fn allowed_if_undoubted(&self, settings: &Settings) -> Allowed {
        let Some(going) = &self.going else { return Allowed::ABSENT };
        let is_in_doubt = going.is_doubtful && doubt_decides(settings);
        let is_by_guest = !going.was_requested && !going.had_panicked && !is_in_doubt;
        let is_by_signal = settings.signal_shutdown == SignalShutdown::User
            && !going.was_requested
            && !going.was_stopped;
        let by_guest = |present| Allowed { present, present_in_time: false, absent: !present };
        let by_signal = |present_in_time| Allowed { present: false, present_in_time, absent: true };
        match (&going.data.reason, going.data.guest) {
            (Some(Reason::GuestShutdown), _) => by_guest(is_by_guest),
            (None, Some(true)) => by_guest(is_by_guest && !going.is_watchdogs),
            (Some(Reason::GuestReset), _) => by_guest(
                is_by_guest && !going.is_watchdogs && settings.guest_reset == GuestReset::User,
            ),
            (Some(Reason::HostSignal), _) => {
                Allowed { absent: !is_by_signal, ..by_signal(is_by_signal) }
            }
            // An older QEMU does not name the signal, and a stopped guest does nothing.
            (None, None) => {
                let may_be_guests = is_by_guest && !going.was_stopped && !going.is_watchdogs;
                Allowed {
                    present: may_be_guests,
                    absent: self.may_be_signalled || !may_be_guests,
                    ..by_signal(is_by_signal && self.may_be_signalled)
                }
            }
            (None, Some(false)) => by_signal(is_by_signal && self.may_be_signalled),
            _ => Allowed::ABSENT,
        }
    }

    /// Where QEMU has just said why its guest goes down, it was decided at once: Ganeti looks for
    /// the file as soon as the process is dead.
    pub(super) fn assert_decided_at_once(&self) {
        let is_to_be = self.going.as_ref().is_some_and(Going::says_why)
            && !self.is_superseded
            && !self.is_recorded
            && self.times_back < MOST_BACK;
        assert!(!is_to_be || self.decided.is_some(), "{self:?}");
    }

    /// The file is changed, which may fail; `wanted` if that is what the verdict wants.
    pub(super) fn assert_may_change(
        &mut self,
        wanted: Option<Wanted>,
        fails: bool,
        settings: &Settings,
    ) {
        assert!(!self.is_superseded, "the name is another's: {self:?}");
        assert!(!self.is_recorded || self.has_failed, "it is over: {self:?}");
        let Some(wanted) = wanted else {
            assert!(self.going.is_none(), "the guest does not run: {self:?}");
            return;
        };
        let allowed = self.allowed(settings);
        assert!(allowed.allows(wanted), "{wanted:?}, but {allowed:?}: {self:?}");
        let is_to_be_there = wanted != Wanted::Absent;
        let is_again = self.has_failed && self.decided == Some(is_to_be_there);
        assert!(self.decided.is_none() || is_again, "it was decided before: {self:?}");
        self.decided = Some(is_to_be_there);
        self.has_failed = fails;
    }

    /// The end of this life is recorded. `has_ended` if the world knows that it has.
    pub(super) fn assert_may_be_recorded(
        &mut self,
        death: &Death,
        has_ended: bool,
        settings: &Settings,
    ) {
        assert_fit_to_print(&death.to_string());
        assert!(death.case.timeline().pieces().len() <= MOST_PIECES);
        assert!(death.missing.len() <= MOST_MISSING);
        assert!(!self.is_recorded, "it ends once: {death}: {self:?}");
        self.is_recorded = true;
        assert!(has_ended || self.is_superseded, "{death}: {self:?}");

        let allowed = self.allowed(settings);
        let is_users = death.verdict.initiator == Initiator::User
            && (death.verdict.cause != Cause::GuestReset
                || settings.guest_reset == GuestReset::User);
        let may_be_there = allowed.present || allowed.present_in_time;
        assert!(!is_users || may_be_there, "{death}: {allowed:?}: {self:?}");
        let Some(is_to_be_there) = death.file else {
            // What it said last to another daemon, it may have taken back since.
            assert!(!self.has_spoken, "it has to be decided: {death}: {self:?}");
            return;
        };
        assert_eq!(is_to_be_there, is_users, "{death}: {self:?}");
        let is_allowed = if is_to_be_there { may_be_there } else { allowed.absent };
        assert!(is_allowed, "{death}: {allowed:?}: {self:?}");
        // What is decided about a name that is another's is not carried out.
        let may_be_left = self.is_superseded || self.was_superseded && self.decided.is_none();
        assert!(may_be_left || death.file == self.decided, "{death}: {self:?}");
    }
}

/// The node holds no more than there is.
pub(super) fn assert_bounded(node: &Node, lives: usize) {
    assert!(node.watched() <= lives);
    assert!(node.to_memory().lives().count() <= lives);
}

/// Everything has ended, and the node holds nothing.
pub(super) fn assert_nothing_is_left(node: &Node) {
    assert_eq!(node.watched(), 0);
    assert_eq!(node.to_memory().lives().count(), 0);
}
