//! What is known of one life of a virtual machine: one value.
//!
//! [`Case::learn`] is the only way in, whatever the source; [`Case::judge`] is the way out. It
//! knows no node, no directory and no file: any program that watches a QEMU can weigh with it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cause;
use super::conversation::{Conversation, Gist, Shutdown, Turn};
use super::evidence::{Fact, Sent, Signals, Source, Timeline};
use super::{CommandLine, Settings, Verdict};
use crate::id::Moment;
use crate::wire::qmp::Version;
use crate::wire::{Signal, WaitStatus};

/// A leader that ended this long before its process, with status 0, has only left its other
/// threads behind (`pthread_exit`): its status is not the process's.
const LEADER_AHEAD: Duration = Duration::from_secs(1);

/// What decides nothing by itself (STOP, RESUME, one more of many requests) is written down so
/// often at once, and then once a second: no QEMU can keep the daemon busy with writing.
const MOST_CHATTER: u32 = 100;

/// All evidence about one life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Case {
    said: Conversation,
    /// How the leader ended, and when that was reported.
    status: Option<(Moment, WaitStatus)>,
    signals: Signals,
    dumps_core: bool,
    out_of_memory: bool,
    /// QEMU's version, from its greeting.
    qemu: Option<Version>,
    /// Whether QEMU ends where its guest resets, if its command line is known.
    no_reboot: Option<bool>,
    /// What came after this was written down may not have been.
    is_behind: bool,
    /// For people only, so it does not outlive the daemon.
    #[serde(skip)]
    timeline: Timeline,
    #[serde(skip)]
    turns: u32,
    #[serde(skip)]
    chatter: Allowance,
    #[serde(skip)]
    relief: Allowance,
    /// What of the conversation was written down.
    #[serde(skip)]
    written: Gist,
}

/// What a fact is worth to whoever goes on after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worth {
    Nothing,
    /// It may matter, and there can be any number of it.
    Chatter,
    /// It takes back what a verdict depended on (RESET, RESUME). Unwritten, it leaves the next daemon
    /// with the suspicion that was there before; and there can be any number of it, too.
    Relief,
    /// A verdict depends on it.
    Decisive,
}

impl Worth {
    fn decisive_if(is_decisive: bool) -> Self {
        if is_decisive { Self::Decisive } else { Self::Nothing }
    }
}

/// How much of a kind may still be written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Allowance {
    left: u32,
    as_of: Moment,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { left: MOST_CHATTER, as_of: Moment::START }
    }
}

impl Allowance {
    /// Takes one, if there is one.
    fn spend(&mut self, now: Moment) -> bool {
        let has_room = !self.is_used_up(now);
        self.left -= u32::from(has_room);
        has_room
    }

    fn is_used_up(&mut self, now: Moment) -> bool {
        let seconds = now.since(self.as_of).as_secs();
        if seconds > 0 {
            let more = u32::try_from(seconds).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(more).min(MOST_CHATTER);
            self.as_of = now;
        }
        self.left == 0
    }
}

impl Case {
    /// Takes what a source reports to have been the case at `at`, and says whether that turned the
    /// course of things.
    pub fn learn(&mut self, at: Moment, source: Source, fact: Fact, settings: &Settings) -> Turn {
        let (turn, worth) = self.weigh(at, &fact, settings);
        if self.is_to_be_written(at, worth) {
            self.turns = self.turns.wrapping_add(1);
        }
        let is_told_again = matches!(fact, Fact::OutOfMemory) && worth == Worth::Nothing;
        match fact {
            Fact::Greeted(_) | Fact::Started(_) => {}
            Fact::SenderSeen(task, sender) => self.timeline.complete(at, task, &sender),
            _ if is_told_again => {}
            fact => self.timeline.add(at, source, fact),
        }
        turn
    }

    fn weigh(&mut self, at: Moment, fact: &Fact, settings: &Settings) -> (Turn, Worth) {
        let worth = match fact {
            Fact::Said(event, stamp) => {
                let before = self.said.clone();
                let turn = self.said.take(at, event, *stamp, settings);
                let gist = self.said.gist();
                let worth = if gist.has_more_than(self.written) {
                    Worth::Decisive
                } else if gist != self.written {
                    Worth::Relief
                } else if self.said != before {
                    Worth::Chatter
                } else {
                    Worth::Nothing
                };
                return (turn, worth);
            }
            Fact::Answered { running: true } => {
                return (self.said.answer_running(), Worth::Decisive);
            }
            Fact::Answered { running: false } => {
                self.said.hold();
                Worth::Decisive
            }
            Fact::IsPanicked => {
                self.said.hold_panicked();
                Worth::Decisive
            }
            Fact::Greeted(version) => {
                // A QEMU has one version, and greets once a connection.
                let is_news = version.is_some() && self.qemu.is_none();
                self.qemu = self.qemu.or(*version);
                Worth::decisive_if(is_news)
            }
            Fact::Started(CommandLine { no_reboot }) => {
                let known = self.no_reboot.replace(*no_reboot);
                Worth::decisive_if(known != self.no_reboot)
            }
            Fact::Exited(status) => {
                self.status = Some((at, *status));
                Worth::Decisive
            }
            Fact::DumpsCore => Worth::decisive_if(!std::mem::replace(&mut self.dumps_core, true)),
            Fact::OutOfMemory => {
                Worth::decisive_if(!std::mem::replace(&mut self.out_of_memory, true))
            }
            Fact::Signalled(signal, sender) => {
                let sent = Sent { at, signal: *signal, sender: sender.clone() };
                Worth::decisive_if(self.signals.add(sent))
            }
            Fact::SenderSeen(task, sender) => {
                Worth::decisive_if(self.signals.complete(at, *task, sender))
            }
            Fact::Connected => Worth::Decisive,
            Fact::Unheard => {
                self.said.note_gap(at);
                Worth::Decisive
            }
            Fact::Closed
            | Fact::Died
            | Fact::Asked(..)
            | Fact::Did(_)
            | Fact::FileCreated
            | Fact::FileLeft
            | Fact::FileFailed => Worth::Nothing,
        };
        (Turn::Unchanged, worth)
    }

    /// Whether the next daemon is to know of it at once. Where the allowance is used up it knows
    /// that it does not know all.
    fn is_to_be_written(&mut self, at: Moment, worth: Worth) -> bool {
        let was_behind = self.is_behind;
        let is_within_allowance = match worth {
            Worth::Nothing => return false,
            Worth::Decisive => true,
            Worth::Chatter => self.chatter.spend(at),
            Worth::Relief => self.relief.spend(at),
        };
        self.is_behind = self.chatter.is_used_up(at) || self.relief.is_used_up(at);
        // Where it is used up that is written once, so that the next daemon knows.
        let is_written = is_within_allowance || !was_behind;
        if worth == Worth::Decisive {
            self.written = self.written.and(self.said.gist());
        } else if is_written {
            self.written = self.said.gist();
        }
        is_written
    }

    /// Everything is about to be written down.
    pub(super) fn catch_up(&mut self) {
        if std::mem::take(&mut self.is_behind) {
            self.turns = self.turns.wrapping_add(1);
        }
    }

    /// An earlier daemon may have learnt more than it has written down.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Whether QEMU was started so that it ends where its guest resets; nothing if that is not
    /// known.
    pub(super) fn no_reboot(&self) -> Option<bool> {
        self.no_reboot
    }

    /// Why it ended and whose doing that was, now that nothing more is to come. `died` is when the
    /// process was found dead, if it was.
    #[must_use]
    pub fn judge(&self, died: Option<Moment>, settings: &Settings) -> Verdict {
        cause::judge(self, self.status(died), settings)
    }

    /// The verdict as QEMU's SHUTDOWN gives it, before the process has ended, if that says enough.
    #[must_use]
    pub fn judge_early(&self, settings: &Settings) -> Option<Verdict> {
        let shutdown = self.shutdown().filter(|shutdown| shutdown.says_why())?;
        Some(cause::judge_shutdown(shutdown, &self.signals, settings))
    }

    /// The wait status, unless it is that of a leader which left its threads behind.
    #[must_use]
    pub fn status(&self, died: Option<Moment>) -> Option<WaitStatus> {
        let (at, status) = self.status?;
        let ahead = died.map_or(Duration::ZERO, |died| died.since(at));
        (ahead < LEADER_AHEAD || status.code() != Some(0)).then_some(status)
    }

    /// The kernel has reported how a thread of the process ended, or that it dumps core.
    pub(super) fn is_ending(&self) -> bool {
        self.status.is_some()
    }

    /// Who sent the signal that a verdict is about.
    #[must_use]
    pub fn sent(&self, verdict: &Verdict) -> Option<&Sent> {
        use super::Cause;

        match verdict.cause {
            Cause::HostSignal(_) => self.signals.request_to_end(),
            Cause::Killed | Cause::OutOfMemory => self.signals.first(Signal::KILL),
            Cause::Crashed(signal) => self.signals.first(signal),
            _ => None,
        }
    }

    /// Whether the kernel reported that the process dumped core. Whether that gave a file is in
    /// the status.
    #[must_use]
    pub fn dumps_core(&self) -> bool {
        self.dumps_core
    }

    /// Whether the kernel's OOM killer chose it.
    #[must_use]
    pub fn out_of_memory(&self) -> bool {
        self.out_of_memory
    }

    /// QEMU's version, if it greeted.
    #[must_use]
    pub fn qemu(&self) -> Option<Version> {
        self.qemu
    }

    /// What happened, for people.
    #[must_use]
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    pub(super) fn conversation(&self) -> &Conversation {
        &self.said
    }

    /// The first SHUTDOWN that has not been taken back.
    pub(super) fn shutdown(&self) -> Option<&Shutdown> {
        self.said.shutdown()
    }

    pub(super) fn signals(&self) -> &Signals {
        &self.signals
    }

    /// How often something was learnt that has to outlive the daemon.
    pub(super) fn turns(&self) -> u32 {
        self.turns
    }

    /// What of it has to outlive the daemon.
    pub(super) fn to_remember(&self) -> Self {
        Self {
            said: self.said.clone(),
            status: self.status,
            signals: self.signals.clone(),
            dumps_core: self.dumps_core,
            out_of_memory: self.out_of_memory,
            qemu: self.qemu,
            no_reboot: self.no_reboot,
            is_behind: self.is_behind,
            ..Self::default()
        }
    }
}
