//! What is known of an instance's end, told so that a person can read it.

use std::fmt;

use super::Case;
use super::cause::{Cause, Initiator, Verdict};
use super::evidence::Sent;
use crate::id::{Moment, Name, Process};
use crate::wire::WaitStatus;

/// The end of one life of an instance.
#[derive(Clone, Debug)]
pub struct Death {
    pub name: Name,
    /// Absent if the kernel did not show the peer and no pid file named it.
    pub process: Option<Process>,
    pub verdict: Verdict,
    /// All that is known.
    pub case: Case,
    /// When the process was found dead; absent if it was not.
    pub died: Option<Moment>,
    /// When it ended: the process, or the connection where no process is known.
    pub ended: Moment,
    /// What became of `NAME.shutdown`: whether it was to be there; nothing if it was not decided.
    pub file: Option<bool>,
    /// Evidence that should have been there and was not.
    pub missing: Vec<Missing>,
}

impl Death {
    /// How the process ended; nothing if the kernel did not say.
    #[must_use]
    pub fn status(&self) -> Option<WaitStatus> {
        self.case.status(self.died)
    }

    /// Who sent the signal that ended it, if one did.
    #[must_use]
    pub fn sent(&self) -> Option<&Sent> {
        self.case.sent(&self.verdict)
    }
}

/// A piece of evidence that never came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// QEMU never said a word: another client has its socket, or it hangs.
    Conversation,
    /// The connection outlives the process: somebody else holds it.
    EndOfConversation,
    /// Who it was at the other end.
    Process,
    /// The process lives on, and its socket belongs to another.
    EndOfProcess,
    ExitStatus,
    /// Who sent the signal that ended it.
    Sender,
    /// More of who sent the signal than its number: it could not be looked at in time.
    MoreOfSender,
    /// What QEMU's own log says, which could not be read in time.
    OwnLog,
    /// What was said, or asked of it, while no daemon listened.
    Past,
    /// Whether a snapshot was loaded after the guest had panicked.
    Snapshot,
    /// Whether its command line has `-no-reboot`: it could not be read.
    CommandLine,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Conversation => "what QEMU said",
            Self::EndOfConversation => "the end of the connection",
            Self::Process => "the process",
            Self::EndOfProcess => "the end of the process",
            Self::ExitStatus => "the exit status",
            Self::Sender => "who sent the signal",
            Self::MoreOfSender => "more of who sent the signal than its pid",
            Self::OwnLog => "what QEMU's own log says",
            Self::Past => "what happened while the daemon was not listening",
            Self::Snapshot => "whether a snapshot was loaded after the panic",
            Self::CommandLine => "whether QEMU runs with -no-reboot",
        })
    }
}

/// One line: what happened in words, then the same in terms that can be searched for.
impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { cause, initiator } = &self.verdict;
        write!(f, "Instance {}", self.name)?;
        if let Some(process) = self.process {
            write!(f, " (pid {})", process.pid)?;
        }
        write!(f, " {}: cause {cause}, initiator {initiator}", self.in_words())?;
        let status = self.status();
        if let Some(status) = status {
            write!(f, ", {status}")?;
        }
        if let Some(sent) = self.sent() {
            if status.and_then(WaitStatus::signal) != Some(sent.signal) {
                write!(f, ", {}", sent.signal)?;
            }
            write!(f, " from {}", sent.sender)?;
        }
        if self.case.dumps_core() && !status.is_some_and(WaitStatus::core_dumped) {
            f.write_str(", no core written")?;
        }
        for (i, missing) in self.missing.iter().enumerate() {
            f.write_str(if i == 0 { "; not known: " } else { ", " })?;
            missing.fmt(f)?;
        }
        Ok(())
    }
}

impl Death {
    /// What happened, to follow an instance's name.
    #[must_use]
    pub fn in_words(&self) -> &'static str {
        match (&self.verdict.cause, self.verdict.initiator) {
            (Cause::GuestShutdown, Initiator::Unknown) => {
                "was powered off from inside, perhaps at a request that nobody heard"
            }
            (Cause::GuestShutdown, _) => "was powered off from inside",
            (Cause::GuestReset, _) => "was reset from inside and is set not to reboot",
            (Cause::Powerdown, _) => "obeyed a powerdown request",
            (Cause::HostSignal(_), _) => "was asked to end by a signal",
            (Cause::Host(_), Initiator::Unknown) => {
                "ended for a reason that this version does not know"
            }
            (Cause::Host(_), _) => "was ended by the host",
            (Cause::HostError, _) => "gave up because of a host error",
            (Cause::Watchdog, _) => "was ended by its watchdog",
            (Cause::GuestPanic, _) => "panicked",
            (Cause::Killed, _) => "was killed",
            (Cause::OutOfMemory, _) => "was killed because memory ran out",
            (Cause::Crashed(_), _) => "crashed",
            (Cause::Failed(_), _) => "failed",
            (Cause::Exited, _) => "exited without giving a reason",
            (Cause::Unknown, _) => "ended for an unknown reason",
        }
    }
}
