//! The table: what the evidence means.
//!
//! Everything here is a function of evidence that is already complete. It must not ask in
//! which order the sources spoke: that is what makes the verdict the same in every order.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::conversation::{Panic, Pending, Shutdown, Unheard};
use super::evidence::Signals;
use super::file::Decision;
use super::{Case, GuestReset, Settings, SignalShutdown};
use crate::wire::qmp::Reason;
use crate::wire::{Signal, WaitStatus};

/// Why a virtual machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest reset itself, and QEMU runs with `-no-reboot`.
    GuestReset,
    /// The guest obeyed a powerdown request.
    Powerdown,
    /// QEMU was asked to end by a signal. Which one is known where it died by it, or where the
    /// kernel's trace or QEMU's own log tells.
    HostSignal(Option<Signal>),
    /// The host ended it in another way, which QEMU named; or did not (2.10 to 3.1).
    Host(Option<Reason>),
    /// QEMU gave up because of an error of the host.
    HostError,
    /// The watchdog found the guest hung.
    Watchdog,
    GuestPanic,
    /// SIGKILL.
    Killed,
    /// SIGKILL by the kernel's OOM killer.
    OutOfMemory,
    /// Any other signal that ends a process.
    Crashed(Signal),
    /// QEMU exited with this code, other than 0, and did not say why.
    Failed(i32),
    /// QEMU exited with 0 and did not say why.
    Exited,
    Unknown,
}

impl Cause {
    /// The name, in one word: for scripts, for the table in README.md.
    fn name(&self) -> &str {
        match self {
            Self::GuestShutdown => "guest-shutdown",
            Self::GuestReset => "guest-reset",
            Self::Powerdown => "powerdown",
            Self::HostSignal(_) => "host-signal",
            Self::Host(Some(reason)) => reason.name(),
            Self::Host(None) => "host",
            Self::HostError => "host-error",
            Self::Watchdog => "watchdog",
            Self::GuestPanic => "guest-panic",
            Self::Killed => "killed",
            Self::OutOfMemory => "out-of-memory",
            Self::Crashed(_) => "crashed",
            Self::Failed(_) => "failed",
            Self::Exited => "exited",
            Self::Unknown => "unknown",
        }
    }

    /// The same, of a bounded set: `other` for a reason that this version does not know, whatever
    /// QEMU calls it.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Host(Some(Reason::Unknown(_))) => "other",
            cause => cause.name(),
        }
    }

    /// The signal that ended it or asked it to end, where one did and is known.
    #[must_use]
    pub fn signal(&self) -> Option<Signal> {
        match *self {
            Self::HostSignal(signal) => signal,
            Self::Killed | Self::OutOfMemory => Some(Signal::KILL),
            Self::Crashed(signal) => Some(signal),
            _ => None,
        }
    }
}

/// Whose doing it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Initiator {
    User,
    Admin,
    /// Nobody's: something broke.
    Crash,
    Unknown,
}

/// What the evidence amounts to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Verdict {
    pub cause: Cause,
    pub initiator: Initiator,
}

impl Verdict {
    fn new(cause: Cause, initiator: Initiator) -> Self {
        Self { cause, initiator }
    }

    /// Every verdict that there is, for whoever counts them from nought. Of signals, exit codes and
    /// the reasons of a later QEMU, one stands for all.
    #[must_use]
    pub fn every() -> Vec<Self> {
        use Initiator::{Admin, Crash, Unknown, User};
        let said = |reason| Cause::Host(Some(reason));
        let causes: [(Cause, &[Initiator]); 20] = [
            (Cause::GuestShutdown, &[User, Unknown]),
            (Cause::GuestReset, &[User, Unknown]),
            (Cause::Powerdown, &[Admin]),
            (Cause::HostSignal(None), &[Admin, User]),
            (said(Reason::HostQmpQuit), &[Admin]),
            (said(Reason::HostQmpSystemReset), &[Admin]),
            (said(Reason::HostUi), &[Admin]),
            (said(Reason::SubsystemReset), &[Admin]),
            (said(Reason::SnapshotLoad), &[Admin]),
            (said(Reason::Unknown("later".into())), &[Admin, Unknown]),
            (Cause::Host(None), &[Admin]),
            (Cause::HostError, &[Crash]),
            (Cause::Watchdog, &[Crash]),
            (Cause::GuestPanic, &[Crash]),
            (Cause::Killed, &[Admin]),
            (Cause::OutOfMemory, &[Crash]),
            (Cause::Crashed(Signal(11)), &[Crash]),
            (Cause::Failed(1), &[Crash]),
            (Cause::Exited, &[Unknown]),
            (Cause::Unknown, &[Unknown]),
        ];
        let whose = |(cause, initiators): (Cause, &[Initiator])| {
            initiators.iter().map(move |&initiator| Self::new(cause.clone(), initiator)).collect()
        };
        causes.into_iter().flat_map::<Vec<Self>, _>(whose).collect()
    }

    /// Whether Ganeti is to learn that the user did it.
    pub(super) fn file(&self, case: &Case, settings: &Settings) -> Decision {
        // A guest that cannot be reset (SEV-ES, TDX) ends QEMU by it, even where that was started
        // without -no-reboot.
        let is_wish =
            settings.guest_reset == GuestReset::Restart || case.no_reboot() == Some(false);
        match (self.initiator, &self.cause) {
            (Initiator::User, Cause::GuestReset) if is_wish => Decision::Absent,
            // It may have been Ganeti's own signal.
            (Initiator::User, Cause::HostSignal(_)) => Decision::PresentInTime,
            (Initiator::User, _) => Decision::Present,
            _ => Decision::Absent,
        }
    }
}

/// Judges a life that has ended, with this status if that is known.
pub(super) fn judge(case: &Case, status: Option<WaitStatus>, settings: &Settings) -> Verdict {
    match case.shutdown() {
        Some(shutdown) => judge_shutdown(shutdown, case.signals(), settings),
        None => judge_silence(case, status),
    }
}

/// Judges by a SHUTDOWN event and what had been said before it. Where QEMU said why, it needs
/// nothing else: what happens to the process while it drains was decided here. An older QEMU
/// does not say that a signal asked it to end; who sent one does.
pub(super) fn judge_shutdown(
    shutdown: &Shutdown,
    signals: &Signals,
    settings: &Settings,
) -> Verdict {
    let signal = signals.request_to_end().map(|sent| sent.signal);
    match (&shutdown.data.reason, shutdown.data.guest) {
        (None, None | Some(false)) if signal.is_some() => by_signal(shutdown, signal, settings),
        (Some(Reason::GuestShutdown), _) | (None, Some(true)) => {
            by_the_guest(shutdown, Cause::GuestShutdown)
        }
        (Some(Reason::GuestReset), _) => by_the_guest(shutdown, Cause::GuestReset),
        (Some(Reason::GuestPanic), _) => Verdict::new(Cause::GuestPanic, Initiator::Crash),
        (Some(Reason::HostError), _) => Verdict::new(Cause::HostError, Initiator::Crash),
        (Some(Reason::HostSignal), _) => by_signal(shutdown, signal, settings),
        // A stopped guest cannot have shut itself down.
        (None, None) if shutdown.stopped => Verdict::new(Cause::Host(None), Initiator::Admin),
        (None, None) => by_the_guest(shutdown, Cause::GuestShutdown),
        (None, Some(false)) => Verdict::new(Cause::Host(None), Initiator::Admin),
        // What a later QEMU means by it cannot be known, so nobody is named.
        (Some(reason @ Reason::Unknown(_)), guest) if guest != Some(false) => {
            Verdict::new(Cause::Host(Some(reason.clone())), Initiator::Unknown)
        }
        (Some(reason), _) => Verdict::new(Cause::Host(Some(reason.clone())), Initiator::Admin),
    }
}

/// The guest ended itself: of its own will, on request, or because it was broken.
///
/// A request may have been made while nobody listened: a restart of the daemon without kept
/// connections, a slot that another client held. Who could have made it?
/// - Ganeti. It removes the file itself after every powerdown and every kill of its own, so a file
///   that is wrong for that reason does not outlive the operation.
/// - An administrator at the monitor. The instance ends and stays down, as he wanted.
/// - The host, going down. The file is in a memory file system and goes with it.
/// - A watchdog with the action `shutdown`. A guest that had hung stays down: this is the price.
///
/// A file that is missing costs more, and more often: the watcher starts a machine that its user
/// has switched off. So the user is believed, and the record says what was not heard; unless
/// `--doubt-window` asks for the strict reading.
fn by_the_guest(shutdown: &Shutdown, own_will: Cause) -> Verdict {
    // Before QEMU 4.0 a reset that ended it looked like a power-off.
    let may_be_reset = shutdown.data.reason != Some(Reason::GuestShutdown);
    if shutdown.panic != Panic::None {
        Verdict::new(Cause::GuestPanic, Initiator::Crash)
    } else if may_be_reset && shutdown.watchdog_reset
        || shutdown.after_nmi && own_will == Cause::GuestReset
    {
        Verdict::new(Cause::Watchdog, Initiator::Crash)
    } else {
        match shutdown.powerdown {
            Pending::Nothing if shutdown.unheard == Some(Unheard::Doubted) => {
                Verdict::new(own_will, Initiator::Unknown)
            }
            Pending::Nothing => Verdict::new(own_will, Initiator::User),
            Pending::Requested => Verdict::new(Cause::Powerdown, Initiator::Admin),
            Pending::ByWatchdog => Verdict::new(Cause::Watchdog, Initiator::Crash),
        }
    }
}

/// `--signal-shutdown=user` takes a signal for the user's, as Ganeti's own tests do, but for
/// what Ganeti itself does: a shutdown that ran out of time, the end of a migration.
fn by_signal(shutdown: &Shutdown, signal: Option<Signal>, settings: &Settings) -> Verdict {
    let is_users = settings.signal_shutdown == SignalShutdown::User
        && shutdown.powerdown == Pending::Nothing
        && !shutdown.stopped;
    let initiator = if is_users { Initiator::User } else { Initiator::Admin };
    Verdict::new(Cause::HostSignal(signal), initiator)
}

/// QEMU ended without a SHUTDOWN.
fn judge_silence(case: &Case, status: Option<WaitStatus>) -> Verdict {
    let (said, signals, out_of_memory) =
        (case.conversation(), case.signals(), case.out_of_memory());
    let requested = signals.request_to_end().map(|sent| sent.signal);
    if said.panic() != Panic::None {
        return Verdict::new(Cause::GuestPanic, Initiator::Crash);
    }
    let Some(status) = status else {
        return if said.watchdog_poweroff() {
            Verdict::new(Cause::Watchdog, Initiator::Crash)
        } else if out_of_memory {
            Verdict::new(Cause::OutOfMemory, Initiator::Crash)
        } else if signals.first(Signal::KILL).is_some() {
            Verdict::new(Cause::Killed, Initiator::Admin)
        } else if requested.is_some() {
            Verdict::new(Cause::HostSignal(requested), Initiator::Admin)
        } else {
            Verdict::new(Cause::Unknown, Initiator::Unknown)
        };
    };
    match (status.signal(), status.code()) {
        (Some(Signal::KILL), _) if out_of_memory => {
            Verdict::new(Cause::OutOfMemory, Initiator::Crash)
        }
        (Some(Signal::KILL), _) => Verdict::new(Cause::Killed, Initiator::Admin),
        (Some(signal), _) if signal.asks_to_end() => {
            Verdict::new(Cause::HostSignal(Some(signal)), Initiator::Admin)
        }
        (Some(signal), _) => Verdict::new(Cause::Crashed(signal), Initiator::Crash),
        (None, Some(code)) if code != 0 => Verdict::new(Cause::Failed(code), Initiator::Crash),
        (None, _) if said.watchdog_poweroff() => Verdict::new(Cause::Watchdog, Initiator::Crash),
        // QEMU catches it, and nobody heard what it said.
        (None, _) if requested.is_some() => {
            Verdict::new(Cause::HostSignal(requested), Initiator::Admin)
        }
        (None, _) => Verdict::new(Cause::Exited, Initiator::Unknown),
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Admin => "admin",
            Self::Crash => "crash",
            Self::Unknown => "unknown",
        })
    }
}
