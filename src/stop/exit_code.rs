//! What an end is worth to a supervisor: the exit code.
//!
//! A supervisor restarts by it, so it says why the virtual machine ended, and never what QEMU exited
//! with: that is 0 for nearly everything, and a guest can choose it (isa-debug-exit).

use std::collections::BTreeMap;
use std::fmt;

use super::protocol::Done;
use crate::verdict::{Cause, Initiator, Verdict};
use crate::wire::qmp::Reason;
use crate::wire::{Excerpt, Signal, WaitStatus};

/// A supervisor is to leave it down.
const DONE: u8 = 0;
/// `RestartForceExitStatus=` of systemd's own units for systemd-nspawn: "start it again".
const AGAIN: u8 = 133;
/// These are crosvm's.
const BROKEN: u8 = 33;
const PANICKED: u8 = 34;
const HUNG: u8 = 36;
const BY_AN_ADMINISTRATOR: u8 = 40;
const FORCED: u8 = 41;
const ORPHANED: u8 = 42;
const NOT_KNOWN: u8 = 50;

/// The words that an exit code can be given to, with its default: the causes, and three more.
const WORDS: [(&str, u8); 22] = [
    ("guest-shutdown", DONE),
    ("powerdown", DONE),
    ("requested", DONE),
    ("guest-reset", AGAIN),
    ("crashed", BROKEN),
    ("killed", BROKEN),
    ("out-of-memory", BROKEN),
    ("failed", BROKEN),
    ("host-error", BROKEN),
    ("guest-panic", PANICKED),
    ("watchdog", HUNG),
    ("host-signal", BY_AN_ADMINISTRATOR),
    ("host-qmp-quit", BY_AN_ADMINISTRATOR),
    ("host-qmp-system-reset", BY_AN_ADMINISTRATOR),
    ("host-ui", BY_AN_ADMINISTRATOR),
    ("subsystem-reset", BY_AN_ADMINISTRATOR),
    ("snapshot-load", BY_AN_ADMINISTRATOR),
    ("host", BY_AN_ADMINISTRATOR),
    ("forced", FORCED),
    ("orphaned", ORPHANED),
    ("exited", NOT_KNOWN),
    ("unknown", NOT_KNOWN),
];

/// Why it ended, as far as a supervisor is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    Cause(Cause),
    /// It ended as a signal's plan had it, and not because the guest did what it was asked: with `quit`,
    /// or at a reboot of the guest's own that came in the course of a stop.
    Requested,
    /// It was asked to end, and had to be made to.
    Forced,
    /// It was brought to its end because its supervisor was gone: nobody wanted it down.
    Orphaned,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cause(cause) => cause.fmt(f),
            Self::Requested => f.write_str("requested"),
            Self::Forced => f.write_str("forced"),
            Self::Orphaned => f.write_str("orphaned"),
        }
    }
}

impl Why {
    /// Judges by the verdict, by how the process ended, and by what was done to it.
    pub(super) fn new(verdict: &Verdict, status: Option<WaitStatus>, done: Done) -> Self {
        match Self::of_end(verdict, status, done) {
            Self::Cause(Cause::Powerdown) | Self::Requested | Self::Forced if done.is_orphaned => {
                Self::Orphaned
            }
            why => why,
        }
    }

    fn of_end(verdict: &Verdict, status: Option<WaitStatus>, done: Done) -> Self {
        let is_ours = match &verdict.cause {
            // The guest was done, but its disks may not have been.
            _ if done.has_killed && status.and_then(WaitStatus::signal) == Some(Signal::KILL) => {
                if verdict.cause != Cause::Killed {
                    return Self::Forced;
                }
                true
            }
            Cause::Host(Some(Reason::HostQmpQuit) | None) => done.has_quit,
            Cause::HostSignal(_) => done.has_hung_up,
            // Somebody wants it down, and it is.
            Cause::GuestReset if done.was_asked => return Self::Requested,
            Cause::Host(Some(Reason::HostQmpSystemReset)) if done.has_reset => {
                return if done.was_asked {
                    Self::Requested
                } else {
                    Self::Cause(Cause::GuestReset)
                };
            }
            _ => false,
        };
        match (is_ours, done.is_forced) {
            (true, true) => Self::Forced,
            (true, false) => Self::Requested,
            (false, _) => Self::Cause(verdict.cause.clone()),
        }
    }
}

/// The exit code for each end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExitCodes {
    /// Where they are not the default ones.
    changed: BTreeMap<&'static str, u8>,
}

impl ExitCodes {
    /// Reads `CAUSE=N,CAUSE=N,...`, on top of what was read before.
    pub fn change(&mut self, text: &str) -> Result<(), CodesError> {
        for pair in text.split(',') {
            let shown = |text: &str| Excerpt(text.as_bytes()).to_string();
            let (word, code) = pair.split_once('=').ok_or_else(|| CodesError::Form(shown(pair)))?;
            let known = WORDS.iter().find(|(known, _)| *known == word);
            let (word, _) = known.ok_or_else(|| CodesError::Cause(shown(word)))?;
            let code = code.parse().map_err(|_| CodesError::Code(shown(code)))?;
            self.changed.insert(word, code);
        }
        Ok(())
    }

    #[must_use]
    pub fn of(&self, why: &Why, initiator: Initiator) -> u8 {
        let word = why.to_string();
        let default = || {
            let known = WORDS.iter().find(|(known, _)| *known == word);
            // A reason that only a later QEMU has.
            let other = if initiator == Initiator::Admin { BY_AN_ADMINISTRATOR } else { NOT_KNOWN };
            known.map_or(other, |&(_, code)| code)
        };
        self.changed.get(&*word).copied().unwrap_or_else(default)
    }
}

/// Why exit codes cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CodesError {
    Form(String),
    Cause(String),
    Code(String),
}

impl fmt::Display for CodesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(text) => {
                write!(f, "{text} is not of the form CAUSE=N, such as guest-reset=0")
            }
            Self::Cause(word) => {
                let words = WORDS.map(|(word, _)| word).join(", ");
                write!(f, "there is no cause {word}; pass one of {words}")
            }
            Self::Code(code) => write!(f, "{code} is not an exit code, 0 to 255"),
        }
    }
}

impl std::error::Error for CodesError {}
