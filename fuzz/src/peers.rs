//! What those say who speak to the core, in a form that the fuzzer can make of any bytes.

use std::sync::Arc;
use std::time::Duration;

use arbitrary::Arbitrary;
use kvmd::id::Moment;
use kvmd::verdict::{GuestReset, Sent, Settings, SignalShutdown};
use kvmd::wire::qmp::{Answer, Event, Message, Reason, Shutdown, Version, WatchdogAction};
use kvmd::wire::{Sender, Signal, WaitStatus};

/// What QEMU says.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Word {
    Shutdown { guest: Option<bool>, why: Option<Why> },
    Powerdown,
    Reset,
    Stop,
    Resume,
    Panicked,
    Watchdog(Bark),
    Noted,
    Other,
    Greeting(bool),
    Done,
    Status { running: bool },
    Refused,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Why {
    GuestShutdown,
    GuestReset,
    GuestPanic,
    HostSignal,
    HostQmpQuit,
    HostQmpSystemReset,
    HostUi,
    HostError,
    SubsystemReset,
    SnapshotLoad,
    None,
    Unknown,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Bark {
    Reset,
    Shutdown,
    Poweroff,
    Other,
    InjectNmi,
}

impl Word {
    pub(crate) fn message(self) -> Message {
        let event = match self {
            Self::Shutdown { guest, why } => {
                Event::Shutdown(Shutdown { guest, reason: why.map(Why::reason) })
            }
            Self::Powerdown => Event::Powerdown,
            Self::Reset => Event::Reset,
            Self::Stop => Event::Stop,
            Self::Resume => Event::Resume,
            Self::Panicked => Event::GuestPanicked,
            Self::Watchdog(bark) => Event::Watchdog(bark.action()),
            // Of all notes the one that says most about the end.
            Self::Noted => Event::GuestCrashloaded,
            Self::Other => Event::Other,
            Self::Greeting(has_version) => {
                let version = has_version.then_some(Version { major: 7, minor: 2, micro: 22 });
                return Message::Greeting(version);
            }
            Self::Done => return Message::Return(Answer::Done),
            Self::Status { running } => {
                return Message::Return(Answer::Status { running, panicked: false });
            }
            Self::Refused => return Message::Error("no".into()),
        };
        Message::Event(event, None)
    }
}

impl Why {
    fn reason(self) -> Reason {
        match self {
            Self::GuestShutdown => Reason::GuestShutdown,
            Self::GuestReset => Reason::GuestReset,
            Self::GuestPanic => Reason::GuestPanic,
            Self::HostSignal => Reason::HostSignal,
            Self::HostQmpQuit => Reason::HostQmpQuit,
            Self::HostQmpSystemReset => Reason::HostQmpSystemReset,
            Self::HostUi => Reason::HostUi,
            Self::HostError => Reason::HostError,
            Self::SubsystemReset => Reason::SubsystemReset,
            Self::SnapshotLoad => Reason::SnapshotLoad,
            Self::None => Reason::None,
            Self::Unknown => Reason::Unknown("new".into()),
        }
    }
}

impl Bark {
    fn action(self) -> WatchdogAction {
        match self {
            Self::Reset => WatchdogAction::Reset,
            Self::Shutdown => WatchdogAction::Shutdown,
            Self::Poweroff => WatchdogAction::Poweroff,
            Self::InjectNmi => WatchdogAction::InjectNmi,
            Self::Other => WatchdogAction::Other,
        }
    }
}

/// A signal that matters, or any other.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Sort {
    Term,
    Hup,
    Kill,
    Segv,
    Other(u8),
}

impl Sort {
    pub(crate) fn signal(self) -> Signal {
        match self {
            Self::Term => Signal::TERM,
            Self::Hup => Signal::HUP,
            Self::Kill => Signal::KILL,
            Self::Segv => Signal(11),
            Self::Other(number) => Signal(i32::from(number % 64) + 1),
        }
    }

    pub(crate) fn sent(self, at: Moment) -> Sent {
        Sent { at, signal: self.signal(), sender: shell() }
    }
}

pub(crate) fn shell() -> Arc<Sender> {
    Arc::new(Sender { pid: Some(5790), name: Some("bash".into()), ..Sender::default() })
}

/// How a process ends.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) enum Ending {
    Exits(u8),
    By(Sort),
    DumpsCore(Sort),
}

impl Ending {
    pub(crate) fn status(self) -> WaitStatus {
        WaitStatus(match self {
            Self::Exits(code) => i32::from(code) << 8,
            Self::By(sort) => sort.signal().0,
            Self::DumpsCore(sort) => sort.signal().0 | 0x80,
        })
    }
}

/// How the daemon was started. The windows are short, so that time passes them.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(crate) struct Options {
    restart: bool,
    user: bool,
    has_window: bool,
}

const POWERDOWN_WINDOW: Duration = Duration::from_secs(20);
const DOUBT_WINDOW: Duration = Duration::from_secs(5);

impl Options {
    pub(crate) fn settings(self) -> Settings {
        Settings {
            guest_reset: if self.restart { GuestReset::Restart } else { GuestReset::User },
            signal_shutdown: if self.user { SignalShutdown::User } else { SignalShutdown::Admin },
            powerdown_window: self.has_window.then_some(POWERDOWN_WINDOW),
            doubt_window: if self.restart ^ self.user ^ self.has_window {
                Duration::ZERO
            } else {
                DOUBT_WINDOW
            },
        }
    }
}
