//! The input: what happens, step by step, and how the world answers what the node does.
//!
//! The kept seeds and crashes are bytes that are read as these types: their variants and fields,
//! and the order of these, must stay.

use arbitrary::Arbitrary;
use kvmd::id::{Moment, Name};
use kvmd::verdict::Event;

use crate::peers::{Ending, Options, Sort, Word};

/// As a directory may spell them.
const NAMES: [&[u8]; 3] = [b"web1", b"\n\xff\"", b"db.example.com"];
/// Few, so that they are used again.
const PIDS: u32 = 4;

#[derive(Arbitrary, Debug)]
pub(super) struct Play {
    pub(super) options: Options,
    pub(super) steps: Vec<Step>,
}

#[derive(Arbitrary, Clone, Debug)]
pub(super) enum Step {
    /// A QEMU binds its socket. The directory may not report it.
    Bind {
        name: u8,
        pid: u8,
        is_told: bool,
    },
    /// The directory reports once more the socket that is there.
    ToldAgain {
        name: u8,
    },
    Unbind {
        name: u8,
    },
    /// How the next attempts to connect are answered.
    Connecting(Accepting),
    /// How the next changes of a file end.
    Changing(Changing),
    /// What the sources answer that have to be asked.
    Answering(Answering),
    Say {
        life: u8,
        word: Word,
    },
    /// QEMU answers what it was asked, as one that runs does.
    Answer {
        life: u8,
    },
    Close {
        life: u8,
    },
    /// The process dies. Its pidfd reports it, if anybody has one.
    Die {
        life: u8,
    },
    /// A pidfd reports what it has reported before.
    DiedAgain {
        life: u8,
    },
    /// The proc connector and the trace, which may hold several events when they are read.
    Kernel(Vec<Kernel>),
    /// The trace has this, and does not report it before it is asked.
    Withhold(Kernel),
    Exits(bool),
    Rescan,
    Pass(u8),
    /// Something is said about a life that is over, or that never was.
    Stray {
        life: u8,
        word: Option<Word>,
    },
    Restart {
        is_held: bool,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum Accepting {
    Well {
        has_pidfd: bool,
        /// In seconds.
        age: Option<u8>,
    },
    /// By a process other than the one that bound the socket.
    ByAnother {
        pid: u8,
    },
    Unknown,
    Refused,
    Busy,
    Gone,
    Unfit,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum Changing {
    LeftAlone,
    Failed,
}

#[derive(Arbitrary, Clone, Copy, Debug, Default)]
pub(super) struct Answering {
    /// Never, not yet, or how it ended.
    #[allow(
        clippy::option_option,
        reason = "another type would give the kept inputs new meanings"
    )]
    pub(super) status: Option<Option<Ending>>,
    pub(super) logged: Option<Sort>,
    pub(super) out_of_memory: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) enum Kernel {
    Exit { pid: u8, ending: Ending },
    CoreDump { pid: u8 },
    Signalled { pid: u8, sort: Sort },
    OutOfMemory { pid: u8 },
}

pub(super) fn name(number: u8) -> Name {
    Name::new(NAMES[usize::from(number) % NAMES.len()])
}

pub(super) fn pid(number: u8) -> u32 {
    2 + u32::from(number) % PIDS
}

impl Kernel {
    pub(super) fn event(self, at: Moment) -> Event {
        match self {
            Self::Exit { pid: number, ending } => {
                Event::Exit { pid: pid(number), status: ending.status() }
            }
            Self::CoreDump { pid: number } => Event::CoreDump { pid: pid(number) },
            Self::Signalled { pid: number, sort } => {
                Event::Signalled { pid: pid(number), sent: sort.sent(at) }
            }
            Self::OutOfMemory { pid: number } => Event::OutOfMemory { pid: pid(number), at },
        }
    }
}
