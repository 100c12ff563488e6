//! The language between the core and whoever drives it: what happens goes in as an [`Event`],
//! what is to be done comes out as an [`Action`], and what came of that goes in again.
//!
//! Types only. What they lead to is decided in `life.rs` and `node.rs`.

use std::sync::Arc;
use std::time::Duration;

use super::{Death, Fact, Sent, Source};
use crate::id::{Incarnation, Inode, Moment, Name, Process};
use crate::wire::qmp::{Command, Message};
use crate::wire::{Sender, StatusAnswer, WaitStatus};

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
    /// Somebody sent a signal to this process. Of the sender no more need be known than its number.
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
    /// The answer to [`Action::ReadCommandLine`]: what QEMU was started with; nothing if that could
    /// not be read in time.
    CommandLine(Option<CommandLine>),
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
    /// The answer to [`Action::LookInto`]: what was found of the sender; nothing if it could not be
    /// looked at in time.
    LookedInto {
        at: Moment,
        task: u32,
        sender: Option<Arc<Sender>>,
    },
}

/// What the sources that do not speak by themselves are asked before a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Questions {
    /// Have the trace of signals tell all that it holds, before this is answered.
    pub signals: bool,
    /// How the process ended, which the proc connector has not told.
    pub status: bool,
    /// Which signal QEMU's own log names. To read it may take its time, so it is asked alone, when
    /// all others have answered.
    pub own_log: bool,
    /// Whether it was the OOM killer's, which the trace has not told.
    pub out_of_memory: bool,
}

impl Questions {
    /// Those of these that are not among `others`.
    pub(super) fn except(self, others: Self) -> Self {
        Self {
            signals: self.signals && !others.signals,
            status: self.status && !others.status,
            own_log: self.own_log && !others.own_log,
            out_of_memory: self.out_of_memory && !others.out_of_memory,
        }
    }

    pub(super) fn and(self, others: Self) -> Self {
        Self {
            signals: self.signals || others.signals,
            status: self.status || others.status,
            own_log: self.own_log || others.own_log,
            out_of_memory: self.out_of_memory || others.out_of_memory,
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// What they answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    pub status: StatusAnswer,
    /// QEMU's own log could not be read in time.
    pub lacks_own_log: bool,
    /// Whatever else they know.
    pub facts: Vec<(Source, Fact)>,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Absent if the kernel does not show it and no pid file names it.
    pub process: Option<Process>,
    /// Whether the kernel will tell of the process's end. Else it is to be asked for.
    pub has_pidfd: bool,
    /// How long the process has been there, if that is known.
    pub age: Option<Duration>,
}

/// What a verdict needs to know of QEMU's command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CommandLine {
    /// `-no-reboot`, or `-action reboot=shutdown`: QEMU ends where its guest resets.
    pub no_reboot: bool,
}

/// Why a connection did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// Nobody listens: not yet, or no longer.
    Refused,
    /// Somebody holds the socket on which a process listened that is dead: a child of it, say.
    Orphaned,
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
    /// Find out what QEMU was started with, and answer with `Said::CommandLine`. That may take its
    /// time.
    ReadCommandLine {
        incarnation: Incarnation,
        process: Process,
    },
    /// Look at the process that sent a signal at this moment, of which `sender` is known so far, and
    /// answer with `Said::LookedInto`. That may take its time: nothing but the record waits for it,
    /// and that not for long.
    LookInto {
        incarnation: Incarnation,
        at: Moment,
        sender: Arc<Sender>,
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
    /// Tell of an end, and say that it is told ([`Node::forget`]).
    Record {
        incarnation: Incarnation,
        death: Box<Death>,
    },
}

/// Why a file is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveReason {
    /// The instance ended, and not by its user's will.
    NotTheUser,
    /// The instance runs.
    Runs,
}
