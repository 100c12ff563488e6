//! Weighs the evidence: why did each virtual machine die, and was it its user's doing?
//!
//! [`Node`] takes an [`Event`] and gives [`Action`]s. It does no I/O, it reads no clock, and
//! it must not know what a file descriptor is: the daemon performs the actions and reports
//! what came of them as further events. Whatever order the sources speak in, the verdict is
//! the same.

#![forbid(unsafe_code)]

mod cause;
mod conversation;
mod death;
mod evidence;
mod file;
mod instance;
mod link;
mod memory;
mod node;

use std::fmt;
use std::ops::Add;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use cause::{Cause, Initiator, Verdict};
pub use death::{Death, Missing};
pub use evidence::{Fact, Piece, Sent, Source, Timeline};
pub use memory::{Entry, Memory, Remembered};
pub use node::Node;

use crate::wire::qmp::Message;
use crate::wire::{Quoted, Sender, Signal, WaitStatus};

/// What can be read in two ways, and how it is to be read.
#[derive(Clone, Debug)]
pub struct Settings {
    pub guest_reset: GuestReset,
    pub signal_shutdown: SignalShutdown,
    /// For how long a powerdown request explains a shutdown; for ever if absent.
    pub powerdown_window: Option<Duration>,
    /// For how long a request may explain one that nobody heard, because the daemon came late.
    pub doubt_window: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            guest_reset: GuestReset::User,
            signal_shutdown: SignalShutdown::Admin,
            powerdown_window: Some(Duration::from_secs(3600)),
            // Ganeti gives a guest so long to obey; then comes SIGTERM, which is heard.
            doubt_window: Duration::from_secs(120),
        }
    }
}

/// What a guest's reset means where QEMU ends instead (`-no-reboot`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestReset {
    /// A user's shutdown, as Ganeti's manual has it.
    User,
    /// A wish to be started again: no file.
    Restart,
}

/// Whose doing it is if a signal asks QEMU to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalShutdown {
    Admin,
    /// The reading of the original, on which Ganeti's own tests rely.
    User,
}

/// A point in time: what `CLOCK_MONOTONIC` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment(pub Duration);

impl Moment {
    /// The time from `earlier` until now; none if that lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// An instance's name, as it is spelt in the control directory: any bytes but `/` and NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Name(Arc<[u8]>);

impl Name {
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for Name {
    type Error = &'static str;

    /// It is to become a file's name.
    fn try_from(bytes: Vec<u8>) -> Result<Self, Self::Error> {
        if bytes.is_empty() || bytes.contains(&b'/') || bytes.contains(&0) {
            return Err("no file can have this name");
        }
        Ok(Self::new(&bytes))
    }
}

impl From<Name> for Vec<u8> {
    fn from(name: Name) -> Self {
        name.0.to_vec()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Quoted(&self.0).fmt(f)
    }
}

/// The inode of a `.kvmd` socket. A socket that is bound again has another one, as long as
/// the first is held open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode(pub u64);

/// One life of an instance. Never used twice, so that what belongs to one life can never be
/// taken for the next one's.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "u64")]
pub struct Incarnation(pub u64);

impl TryFrom<u64> for Incarnation {
    type Error = &'static str;

    /// There has to be a next one, and room for two descriptors of each.
    fn try_from(number: u64) -> Result<Self, Self::Error> {
        if number >> 48 != 0 {
            return Err("no daemon has seen so many instances");
        }
        Ok(Self(number))
    }
}

/// A process, told apart from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// In clock ticks since boot: field 22 of `/proc/PID/stat`, see proc(5).
    pub started: u64,
}

/// What a source has to tell.
#[derive(Debug)]
pub enum Event {
    /// `NAME.kvmd` has just come into the control directory.
    Created { name: Name, inode: Inode },
    /// `NAME.kvmd` is in the control directory.
    Listed { name: Name, inode: Inode },
    /// A source may have lost something: everything is to be looked at again.
    Rescan,
    /// Something could not be looked at: that is to be tried again soon.
    LookFailed,
    /// Whether the kernel will tell of exits from now on.
    Exits { are_told: bool },
    /// The leader of this process has ended, with the process's status if it was no longer
    /// than a moment ahead of it. Not the end of the process: that is `Said::Died`.
    Exit { pid: u32, status: WaitStatus },
    /// This process dumps core, or would if it were not for its limit.
    CoreDump { pid: u32 },
    /// Somebody sent a signal to this process.
    Signalled { pid: u32, sent: Sent },
    /// The kernel's OOM killer chose this process.
    OutOfMemory { pid: u32, at: Moment },
    /// Something that concerns one life only.
    Of(Incarnation, Said),
    /// The time that [`Node::deadline`] named has come.
    Tick,
}

/// What a source tells of one life.
#[derive(Debug)]
pub enum Said {
    Connected(Peer),
    NotConnected(ConnectError),
    Heard(Message),
    /// The conversation has ended; the process may live on.
    Closed,
    /// The process is dead.
    Died,
    /// The process lives: the answer to [`Action::Probe`].
    Lives,
    /// What came of [`Action::Create`] or [`Action::Remove`].
    File(FileOutcome),
    /// The answer to [`Action::Consult`].
    Consulted(Answers),
}

/// What the sources that do not speak by themselves are asked before a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Questions {
    /// Have the trace of signals tell all that it holds, before this is answered.
    pub signals: bool,
    /// How the process ended, which the proc connector has not told.
    pub status: bool,
    /// Which signal QEMU's own log names.
    pub own_log: bool,
    /// Whether it was the OOM killer's, which the trace has not told.
    pub out_of_memory: bool,
}

impl Questions {
    /// Those of these that are not among `others`.
    fn except(self, others: Self) -> Self {
        Self {
            signals: self.signals && !others.signals,
            status: self.status && !others.status,
            own_log: self.own_log && !others.own_log,
            out_of_memory: self.out_of_memory && !others.out_of_memory,
        }
    }

    fn and(self, others: Self) -> Self {
        Self {
            signals: self.signals || others.signals,
            status: self.status || others.status,
            own_log: self.own_log || others.own_log,
            out_of_memory: self.out_of_memory || others.out_of_memory,
        }
    }

    fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// What they answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    pub status: StatusAnswer,
    /// The signal that QEMU's own log names, and who it says sent it.
    pub logged: Option<(Signal, Arc<Sender>)>,
    pub out_of_memory: bool,
}

/// Whether the kernel keeps the status of a process that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StatusAnswer {
    Known(WaitStatus),
    /// It will once the process has been reaped; then `Said::Died` comes once more.
    NotYet,
    #[default]
    Never,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Absent if the kernel does not show it and no pid file names it.
    pub process: Option<Process>,
    /// Whether the kernel will tell of the process's end. Else it is to be asked for.
    pub has_pidfd: bool,
    /// How long the process has been there, if that is known.
    pub age: Option<Duration>,
}

/// Why a connection did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// Nobody listens: not yet, or no longer.
    Refused,
    /// Somebody listens and does not accept; or this process is short of a resource.
    Busy,
    /// The socket is there no more, or it is another one by now.
    Gone,
    /// It is no socket.
    Unfit,
}

/// What came of an attempt to create or remove a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOutcome {
    Done,
    /// It is not to be done any more: the name belongs to a later life, or it is too late.
    LeftAlone,
    /// It will be tried again.
    Failed,
}

/// What the daemon is to do.
#[derive(Debug)]
pub enum Action {
    /// Look at everything again: whether each source still speaks, and what is in the control
    /// directory, each `.kvmd` as [`Event::Listed`].
    LookAgain,
    /// Say that this life is being watched from now on.
    Start {
        name: Name,
    },
    /// Say that it no longer is.
    Stop {
        name: Name,
    },
    /// Connect to the socket, if it still is the one with this inode.
    Connect {
        incarnation: Incarnation,
        name: Name,
        inode: Inode,
    },
    Send {
        incarnation: Incarnation,
        command: Command,
    },
    /// Look whether the process lives, and answer with `Said::Died` or `Said::Lives`.
    Probe {
        incarnation: Incarnation,
        process: Process,
    },
    /// Ask the sources that do not speak by themselves, and answer with `Said::Consulted`.
    Consult {
        incarnation: Incarnation,
        questions: Questions,
    },
    /// Have the kernel tell of this process.
    Watch {
        pid: u32,
    },
    Unwatch {
        pid: u32,
    },
    /// Create `NAME.shutdown`, unless the name belongs to another socket than this by now. With
    /// `only_in_time` it must not stay if the process is dead already.
    Create {
        incarnation: Incarnation,
        name: Name,
        inode: Inode,
        only_in_time: bool,
    },
    /// Remove it, unless the name belongs to another socket than this by now.
    Remove {
        incarnation: Incarnation,
        name: Name,
        inode: Inode,
        why: RemoveReason,
    },
    /// Close what is held open for this life.
    Release {
        incarnation: Incarnation,
    },
    /// QEMU has answered for the first time in this life: from now on nothing of it is missed.
    Answered {
        name: Name,
        process: Option<Process>,
        running: bool,
    },
    /// QEMU is there and has not answered for a while.
    WarnSilent {
        name: Name,
        process: Option<Process>,
    },
    /// Tell of an end, and say that it is told ([`Node::is_told`]).
    Record {
        incarnation: Incarnation,
        death: Box<Death>,
    },
}

/// What is said to QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Negotiate,
    QueryStatus,
}

/// Why a file is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveReason {
    /// The instance ended, and not by its user's will.
    NotTheUser,
    /// The instance runs.
    Runs,
}

/// What an instance may look at and add to while it handles an event.
struct Context<'a> {
    now: Moment,
    incarnation: Incarnation,
    is_current: bool,
    exits_are_told: bool,
    settings: &'a Settings,
    actions: &'a mut Vec<Action>,
}

#[cfg(test)]
mod tests;
