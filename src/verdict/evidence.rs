//! Evidence beside QEMU's own word and the exit status: signals and who sent them, the OOM
//! killer, and the order in which everything came.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::CommandLine;
use crate::id::Moment;
use crate::wire::qmp;
use crate::wire::{Sender, Signal, WaitStatus};

/// As many signals of one life are kept; the verdict needs the first of a kind.
const MOST_SIGNALS: usize = 16;
/// Of a long life the first pieces of evidence are kept, which tell how it began, ...
const FIRST_PIECES: usize = 8;
/// ... and the last, which tell how it ended.
const LAST_PIECES: usize = 40;

/// A signal that was sent to a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Sent {
    pub at: Moment,
    pub signal: Signal,
    #[serde(with = "shared")]
    pub sender: Arc<Sender>,
}

/// A sender is shared in memory only.
mod shared {
    use super::{Arc, Deserialize, Sender, Serialize};

    pub(super) fn serialize<S: serde::Serializer>(
        sender: &Arc<Sender>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Sender::serialize(sender, serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<Sender>, D::Error> {
        Sender::deserialize(deserializer).map(Arc::new)
    }
}

/// The signals that one life was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub(super) struct Signals {
    /// In the order of the kernel's trace; QEMU's own word, which has no time, last.
    sent: Vec<Sent>,
}

impl Signals {
    /// Says whether it is kept.
    pub(super) fn add(&mut self, sent: Sent) -> bool {
        let has_room = self.sent.len() < MOST_SIGNALS;
        if has_room {
            self.sent.push(sent);
        }
        has_room
    }

    /// Completes what is known of this sender of the signals at this moment, and says whether it
    /// was unseen until then.
    pub(super) fn complete(&mut self, at: Moment, task: u32, sender: &Arc<Sender>) -> bool {
        let is_meant = |sent: &&mut Sent| sent.at == at && is_unseen(&sent.sender, task);
        let mut is_news = false;
        for sent in self.sent.iter_mut().filter(is_meant) {
            sent.sender = sender.clone();
            is_news = true;
        }
        is_news
    }

    /// Those whose sender nobody has looked at.
    pub(super) fn unseen(&self) -> impl Iterator<Item = &Sent> {
        self.sent.iter().filter(|sent| sent.sender.is_unseen())
    }

    /// The first that asked QEMU to end.
    pub(super) fn request_to_end(&self) -> Option<&Sent> {
        self.sent.iter().find(|sent| sent.signal.asks_to_end())
    }

    /// SIGKILL is known to have come from a process, and not from the kernel's OOM killer.
    pub(super) fn is_killed_by_somebody(&self) -> bool {
        self.first(Signal::KILL).is_some_and(|sent| !sent.sender.kernel)
    }

    /// The first of this number: a process dies once.
    pub(super) fn first(&self, signal: Signal) -> Option<&Sent> {
        self.sent.iter().find(|sent| sent.signal == signal)
    }
}

fn is_unseen(sender: &Sender, task: u32) -> bool {
    sender.is_unseen() && sender.pid == Some(task)
}

/// A piece of evidence: when it came, and from whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    pub at: Moment,
    pub source: Source,
    pub fact: Fact,
}

/// Where evidence comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// QEMU's own word, or the connection to it.
    Qmp,
    Pidfd,
    /// A look at /proc.
    Process,
    ProcConnector,
    /// The kernel's trace of signals.
    Trace,
    /// QEMU's own log.
    OwnLog,
    ControlGroup,
    /// What this daemon did.
    Daemon,
    /// `kvmd-run`: what it was told, and what it did.
    Runner,
}

/// What a piece of evidence says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Fact {
    Connected,
    /// QEMU may have said something before that nobody heard.
    Unheard,
    /// QEMU's first line, with its version if that is understood.
    Greeted(Option<qmp::Version>),
    /// What it was started with.
    Started(CommandLine),
    /// QEMU said so, at this time by its own clock.
    Said(qmp::Event, Option<qmp::Timestamp>),
    /// It answered whether the guest's CPUs run.
    Answered {
        running: bool,
    },
    /// It answered that the guest has panicked and is held.
    IsPanicked,
    Closed,
    Died,
    Exited(WaitStatus),
    DumpsCore,
    Signalled(Signal, Arc<Sender>),
    /// What is to be known of this task, which sent a signal at that moment.
    SenderSeen(u32, Arc<Sender>),
    OutOfMemory,
    /// `kvmd-run` was sent this, by its supervisor or by somebody else. QEMU was not.
    Asked(Signal, Arc<Sender>),
    /// What it did then, in words.
    Did(&'static str),
    /// What was done to the file.
    FileCreated,
    FileLeft,
    FileFailed,
}

impl Fact {
    /// Who sent the signal, if it is about one.
    pub(super) fn sender(&self) -> Option<&Arc<Sender>> {
        match self {
            Self::Signalled(_, sender) => Some(sender),
            _ => None,
        }
    }
}

/// In one word, for scripts.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qmp => "qmp",
            Self::Pidfd => "pidfd",
            Self::Process => "proc",
            Self::ProcConnector => "proc-connector",
            Self::Trace => "trace",
            Self::OwnLog => "qemu-log",
            Self::ControlGroup => "cgroup",
            Self::Daemon => "daemon",
            Self::Runner => "kvmd-run",
        })
    }
}

/// In words, for people.
impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Said(event, _) => return event.fmt(f),
            Self::Exited(status) => return status.fmt(f),
            Self::Signalled(signal, sender) | Self::Asked(signal, sender) => {
                return write!(f, "{signal} from {sender}");
            }
            Self::SenderSeen(_, sender) => return write!(f, "the signal was from {sender}"),
            Self::Did(what) => what,
            Self::Connected => "connected",
            Self::Unheard => "what it may have said before was not heard",
            Self::Greeted(_) => "it greeted",
            Self::Started(_) => "its command line is known",
            Self::Answered { running: true } => "answered: running",
            Self::Answered { running: false } => "answered: not running",
            Self::IsPanicked => "answered: it has panicked",
            Self::Closed => "the connection was closed",
            Self::Died => "the process was found dead",
            Self::DumpsCore => "the process began to dump core",
            Self::OutOfMemory => "chosen by the OOM killer",
            Self::FileCreated => "marked as shut down by its user",
            Self::FileLeft => "the file was left alone",
            Self::FileFailed => "the file could not be changed",
        })
    }
}

/// The pieces of evidence of one life, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Timeline {
    first: Vec<Piece>,
    last: VecDeque<Piece>,
    /// How many between them were let go.
    pub omitted: u64,
}

impl Timeline {
    pub(super) fn add(&mut self, at: Moment, source: Source, fact: Fact) {
        let piece = Piece { at, source, fact };
        if self.first.len() < FIRST_PIECES {
            self.first.push(piece);
            return;
        }
        if self.last.len() == LAST_PIECES {
            self.last.pop_front();
            self.omitted += 1;
        }
        self.last.push_back(piece);
    }

    /// Completes what is known of this sender of the signals at this moment.
    pub(super) fn complete(&mut self, at: Moment, task: u32, seen: &Arc<Sender>) {
        for piece in self.first.iter_mut().chain(&mut self.last) {
            if let Fact::Signalled(_, sender) = &mut piece.fact
                && piece.at == at
                && is_unseen(sender, task)
            {
                *sender = seen.clone();
            }
        }
    }

    /// All that is kept, by the time at which it happened.
    #[must_use]
    pub fn pieces(&self) -> Vec<&Piece> {
        let mut pieces: Vec<&Piece> = self.first.iter().chain(&self.last).collect();
        pieces.sort_by_key(|piece| piece.at);
        pieces
    }
}
