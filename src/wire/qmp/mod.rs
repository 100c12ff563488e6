//! QMP, as far as the programs of this project need it: lines (see [`super::lines`]) to messages.
//! The daemon only listens; `kvmd-run` gives commands, too.
//!
//! The schema is QEMU's `qapi/run-state.json` and `qapi/control.json`; the peer is taken as
//! hostile. Two older forms are understood as well: `SHUTDOWN` without data (QEMU before
//! 2.10) or without a reason (before 4.0), and Ganeti's own test, whose stand-in sends no
//! greeting and bare strings such as `"SHUTDOWN"`.

mod run_state;
mod user_command;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::lines::LONGEST_LINE;
pub use run_state::RunState;
pub use user_command::{NotACommand, UserCommand};

/// What is said to QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// The first line that a client sends: there are no events before it.
    Negotiate,
    /// Asks whether the guest runs.
    QueryStatus,
    /// Presses the guest's power button.
    SystemPowerdown,
    /// Presses its reset button.
    SystemReset,
    /// Wakes it from its suspend to RAM.
    SystemWakeup,
    Cont,
    Quit,
    /// Has QEMU end where its guest resets itself (QEMU 6.0).
    EndAtReboot,
}

impl Command {
    /// The line, with its line feed. Ganeti's own test expects the first to the letter.
    #[must_use]
    pub fn line(self) -> &'static [u8] {
        match self {
            Self::Negotiate => b"{\"execute\": \"qmp_capabilities\"}\n",
            Self::QueryStatus => b"{\"execute\": \"query-status\"}\n",
            Self::SystemPowerdown => b"{\"execute\": \"system_powerdown\"}\n",
            Self::SystemReset => b"{\"execute\": \"system_reset\"}\n",
            Self::SystemWakeup => b"{\"execute\": \"system_wakeup\"}\n",
            Self::Cont => b"{\"execute\": \"cont\"}\n",
            Self::Quit => b"{\"execute\": \"quit\"}\n",
            Self::EndAtReboot => {
                b"{\"execute\": \"set-action\", \"arguments\": {\"reboot\": \"shutdown\"}}\n"
            }
        }
    }
}

/// The most characters kept of a reason that this version does not know.
const LONGEST_REASON: usize = 64;

/// One line from QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first line of a QEMU that has taken the connection, with its version.
    Greeting(Option<Version>),
    /// The answer to a command.
    Return(Answer),
    /// A command was refused.
    Error(String),
    /// With the time that QEMU gave it, if that is one.
    Event(Event, Option<Timestamp>),
}

/// When something happened by the host's clock as QEMU read it, since 1970. That clock is set at
/// times, so two of these tell the order of what they stamp only as far as nobody did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
pub struct Timestamp(pub Duration);

impl Timestamp {
    /// From `"timestamp": {"seconds": S, "microseconds": M}`; both are -1 where QEMU could not
    /// read its clock (`docs/interop/qmp-spec.rst`).
    fn parse(json: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Parts {
            seconds: u64,
            microseconds: u32,
        }
        let Parts { seconds, microseconds } = serde_json::from_str(json).ok()?;
        let nanoseconds = microseconds.checked_mul(1000).filter(|&n| n < 1_000_000_000)?;
        Some(Self(Duration::new(seconds, nanoseconds)))
    }
}

/// QEMU's version: `VersionTriple` of `qapi/control.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Version {
    pub major: u16,
    pub minor: u16,
    pub micro: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// What a `return` carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The reply to `query-status`: whether the guest's CPUs run, and whether it is held because it
    /// has panicked.
    Status { running: bool, panicked: bool },
    /// Any other reply.
    Done,
}

/// An event that says something of the guest's end, or of its going on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    Shutdown(Shutdown),
    Powerdown,
    Reset,
    Stop,
    Resume,
    GuestPanicked,
    /// The guest has panicked and boots another kernel that writes a dump, instead of
    /// `GUEST_PANICKED`.
    GuestCrashloaded,
    Watchdog(WatchdogAction),
    /// The guest runs again after it was suspended.
    Wakeup,
    /// It decides nothing, but whoever asks why the guest died will want to know of it.
    Noted(Note),
    /// An event that says nothing about the end.
    Other,
}

/// Circumstances: events of `qapi/block-core.json` and `qapi/run-state.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    BlockIoError { no_space: bool },
    MemoryFailure,
    GuestPvshutdown,
    Suspend,
    SuspendDisk,
}

impl Note {
    fn parse(name: &str, data: Option<&str>) -> Option<Self> {
        #[derive(Default, Deserialize)]
        struct Data {
            #[serde(default)]
            nospace: bool,
        }
        Some(match name {
            "BLOCK_IO_ERROR" => {
                let data = data.and_then(|json| serde_json::from_str::<Data>(json).ok());
                Self::BlockIoError { no_space: data.unwrap_or_default().nospace }
            }
            "MEMORY_FAILURE" => Self::MemoryFailure,
            "GUEST_PVSHUTDOWN" => Self::GuestPvshutdown,
            "SUSPEND" => Self::Suspend,
            "SUSPEND_DISK" => Self::SuspendDisk,
            _ => return None,
        })
    }
}

/// An event as QEMU spells it, with what matters of its data.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shutdown(Shutdown { reason: Some(reason), .. }) => {
                return write!(f, "SHUTDOWN {}", reason.name());
            }
            Self::Shutdown(Shutdown { guest: Some(true), .. }) => "SHUTDOWN by the guest",
            Self::Shutdown(Shutdown { guest: Some(false), .. }) => "SHUTDOWN by the host",
            Self::Shutdown(_) => "SHUTDOWN",
            Self::Powerdown => "POWERDOWN",
            Self::Reset => "RESET",
            Self::Stop => "STOP",
            Self::Resume => "RESUME",
            Self::GuestPanicked => "GUEST_PANICKED",
            Self::GuestCrashloaded => "GUEST_CRASHLOADED",
            Self::Wakeup => "WAKEUP",
            Self::Watchdog(WatchdogAction::Reset) => "WATCHDOG reset",
            Self::Watchdog(WatchdogAction::Shutdown) => "WATCHDOG shutdown",
            Self::Watchdog(WatchdogAction::Poweroff) => "WATCHDOG poweroff",
            Self::Watchdog(WatchdogAction::InjectNmi) => "WATCHDOG inject-nmi",
            Self::Watchdog(WatchdogAction::Other) => "WATCHDOG",
            Self::Noted(Note::BlockIoError { no_space: true }) => "BLOCK_IO_ERROR (no space)",
            Self::Noted(Note::BlockIoError { no_space: false }) => "BLOCK_IO_ERROR",
            Self::Noted(Note::MemoryFailure) => "MEMORY_FAILURE",
            Self::Noted(Note::GuestPvshutdown) => "GUEST_PVSHUTDOWN",
            Self::Noted(Note::Suspend) => "SUSPEND",
            Self::Noted(Note::SuspendDisk) => "SUSPEND_DISK",
            Self::Other => "another event",
        })
    }
}

/// The data of `SHUTDOWN`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Shutdown {
    /// Whether the guest asked for it (QEMU 2.10). True for a reset and a panic as well.
    pub guest: Option<bool>,
    /// Why (QEMU 4.0).
    pub reason: Option<Reason>,
}

/// `ShutdownCause` of `qapi/run-state.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub enum Reason {
    None,
    HostError,
    HostQmpQuit,
    HostQmpSystemReset,
    HostSignal,
    HostUi,
    GuestShutdown,
    GuestReset,
    GuestPanic,
    SubsystemReset,
    SnapshotLoad,
    /// One of a later QEMU: cut to 64 characters, and those that no name in QEMU's schema has
    /// are `?`.
    Unknown(#[serde(deserialize_with = "known_form")] Box<str>),
}

/// The state file is to bring in nothing that QEMU could not.
fn known_form<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Box<str>, D::Error> {
    String::deserialize(deserializer).map(|name| Reason::plain(&name))
}

/// `WatchdogAction` of `qapi/run-state.json`, as far as it ends a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub enum WatchdogAction {
    Reset,
    Shutdown,
    Poweroff,
    /// What a guest makes of it is its own affair; Linux can be told to panic.
    InjectNmi,
    /// `pause`, `debug`, `none`: the guest does not end of it.
    Other,
}

/// Why a line is not a QMP message.
#[derive(Debug)]
pub enum LineError {
    /// Longer than [`LONGEST_LINE`]; the rest of it is skipped.
    TooLong,
    /// Not JSON, or not of a message's form.
    Malformed(serde_json::Error),
    /// JSON, but neither greeting, answer, error nor event.
    NotAMessage,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "longer than {LONGEST_LINE} bytes, skipped"),
            Self::Malformed(error) => error.fmt(f),
            Self::NotAMessage => f.write_str("neither greeting, answer, error nor event"),
        }
    }
}

impl std::error::Error for LineError {}

#[derive(Deserialize)]
struct RawLine<'a> {
    #[serde(borrow, rename = "QMP")]
    greeting: Option<&'a RawValue>,
    #[serde(borrow, rename = "return")]
    answer: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
}

impl Message {
    /// Reads one line, without its line feed.
    pub fn parse(line: &[u8]) -> Result<Self, LineError> {
        let malformed = LineError::Malformed;
        if line.trim_ascii_start().first() == Some(&b'"') {
            let name: Cow<'_, str> = serde_json::from_slice(line).map_err(malformed)?;
            return Event::parse(&name, None).map(|event| Self::Event(event, None));
        }
        let raw: RawLine<'_> = serde_json::from_slice(line).map_err(malformed)?;
        if let Some(name) = raw.event {
            let event = Event::parse(&name, raw.data.map(RawValue::get))?;
            let is_of_interest = event != Event::Other;
            let timestamp = raw.timestamp.filter(|_| is_of_interest).map(RawValue::get);
            Ok(Self::Event(event, timestamp.and_then(Timestamp::parse)))
        } else if let Some(answer) = raw.answer {
            Ok(Self::Return(Answer::parse(answer.get())))
        } else if let Some(error) = raw.error {
            Ok(Self::Error(error.get().chars().take(LONGEST_REASON * 2).collect()))
        } else if let Some(greeting) = raw.greeting {
            Ok(Self::Greeting(Version::parse(greeting.get())))
        } else {
            Err(LineError::NotAMessage)
        }
    }
}

impl Version {
    /// From what stands behind `"QMP":` in a greeting.
    fn parse(json: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Greeting {
            version: Versions,
        }
        #[derive(Deserialize)]
        struct Versions {
            qemu: Version,
        }
        serde_json::from_str::<Greeting>(json).ok().map(|greeting| greeting.version.qemu)
    }
}

impl Answer {
    fn parse(json: &str) -> Self {
        #[derive(Deserialize)]
        struct StatusInfo<'a> {
            running: bool,
            #[serde(borrow, default)]
            status: Cow<'a, str>,
        }
        serde_json::from_str::<StatusInfo<'_>>(json).map_or(Self::Done, |info| Self::Status {
            running: info.running,
            panicked: info.status == "guest-panicked",
        })
    }
}

impl Event {
    fn parse(name: &str, data: Option<&str>) -> Result<Self, LineError> {
        Ok(match name {
            "SHUTDOWN" => Self::Shutdown(Shutdown::parse(data)?),
            "POWERDOWN" => Self::Powerdown,
            "RESET" => Self::Reset,
            "STOP" => Self::Stop,
            "RESUME" => Self::Resume,
            "GUEST_PANICKED" => Self::GuestPanicked,
            "GUEST_CRASHLOADED" => Self::GuestCrashloaded,
            "WAKEUP" => Self::Wakeup,
            "WATCHDOG" => Self::Watchdog(WatchdogAction::parse(data)?),
            _ => Note::parse(name, data).map_or(Self::Other, Self::Noted),
        })
    }
}

impl Shutdown {
    fn parse(data: Option<&str>) -> Result<Self, LineError> {
        #[derive(Deserialize)]
        struct Data<'a> {
            guest: Option<bool>,
            #[serde(borrow)]
            reason: Option<Cow<'a, str>>,
        }
        let Some(data) = data else { return Ok(Self::default()) };
        let data: Data<'_> = serde_json::from_str(data).map_err(LineError::Malformed)?;
        Ok(Self { guest: data.guest, reason: data.reason.map(|reason| Reason::parse(&reason)) })
    }
}

impl Reason {
    const NAMES: [(&str, Self); 11] = [
        ("none", Self::None),
        ("host-error", Self::HostError),
        ("host-qmp-quit", Self::HostQmpQuit),
        ("host-qmp-system-reset", Self::HostQmpSystemReset),
        ("host-signal", Self::HostSignal),
        ("host-ui", Self::HostUi),
        ("guest-shutdown", Self::GuestShutdown),
        ("guest-reset", Self::GuestReset),
        ("guest-panic", Self::GuestPanic),
        ("subsystem-reset", Self::SubsystemReset),
        ("snapshot-load", Self::SnapshotLoad),
    ];

    fn parse(name: &str) -> Self {
        if let Some((_, reason)) = Self::NAMES.iter().find(|(known, _)| *known == name) {
            return reason.clone();
        }
        Self::Unknown(Self::plain(name))
    }

    fn plain(name: &str) -> Box<str> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let kept = name.chars().take(LONGEST_REASON);
        kept.map(|c| if plain(c) { c } else { '?' }).collect()
    }

    /// The name in the schema.
    #[must_use]
    pub fn name(&self) -> &str {
        if let Self::Unknown(name) = self {
            return name;
        }
        Self::NAMES.iter().find(|(_, reason)| reason == self).map_or("", |(name, _)| name)
    }
}

impl WatchdogAction {
    fn parse(data: Option<&str>) -> Result<Self, LineError> {
        #[derive(Deserialize)]
        struct Data<'a> {
            #[serde(borrow)]
            action: Cow<'a, str>,
        }
        let Some(data) = data else { return Ok(Self::Other) };
        let data: Data<'_> = serde_json::from_str(data).map_err(LineError::Malformed)?;
        Ok(match &*data.action {
            "reset" => Self::Reset,
            "shutdown" => Self::Shutdown,
            "poweroff" => Self::Poweroff,
            "inject-nmi" => Self::InjectNmi,
            _ => Self::Other,
        })
    }
}

#[cfg(test)]
mod tests;
