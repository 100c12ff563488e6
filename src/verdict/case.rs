//! What is known of one life of a virtual machine: one value.
//!
//! [`Case::learn`] is the only way in, whatever the source; [`Case::judge`] is the way out. It
//! knows no node, no directory and no file: any program that watches a QEMU can weigh with it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cause;
use super::conversation::{Conversation, Shutdown, Turn};
use super::evidence::{Fact, Sent, Signals, Source, Timeline};
use super::{Settings, Verdict};
use crate::id::Moment;
use crate::wire::qmp::Version;
use crate::wire::{Signal, WaitStatus};

/// A leader that ended this long before its process, with status 0, has only left its other
/// threads behind (`pthread_exit`): its status is not the process's.
const LEADER_AHEAD: Duration = Duration::from_secs(1);

/// So many turns of one life are worth remembering each; after that nobody can keep the daemon
/// busy with remembering.
const MOST_TURNS: u32 = 1000;

/// All evidence about one life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    said: Conversation,
    /// How the leader ended, and when that was reported.
    status: Option<(Moment, WaitStatus)>,
    signals: Signals,
    dumps_core: bool,
    out_of_memory: bool,
    /// QEMU's version, from its greeting.
    qemu: Option<Version>,
    /// For people only, so it does not outlive the daemon.
    #[serde(skip)]
    timeline: Timeline,
    #[serde(skip)]
    turns: u32,
}

impl Case {
    /// Takes what a source reports to have been the case at `at`, and says whether that turned the
    /// course of things.
    pub fn learn(&mut self, at: Moment, source: Source, fact: Fact, settings: &Settings) -> Turn {
        let (turn, is_worth_remembering) = self.weigh(at, &fact, settings);
        self.turns += u32::from(is_worth_remembering);
        let is_told_again = matches!(fact, Fact::OutOfMemory) && !is_worth_remembering;
        if !is_told_again && !matches!(fact, Fact::Greeted(_)) {
            self.timeline.add(at, source, fact);
        }
        turn
    }

    fn weigh(&mut self, at: Moment, fact: &Fact, settings: &Settings) -> (Turn, bool) {
        let is_worth_remembering = match fact {
            Fact::Said(event) => {
                let before = self.said.clone();
                let turn = self.said.take(at, event, settings.powerdown_window);
                return (turn, self.said != before);
            }
            Fact::Answered { running: true } => return (self.said.run(), true),
            Fact::Answered { running: false } => {
                self.said.hold();
                true
            }
            Fact::Greeted(version) => std::mem::replace(&mut self.qemu, *version) != *version,
            Fact::Exited(status) => {
                self.status = Some((at, *status));
                true
            }
            Fact::DumpsCore => !std::mem::replace(&mut self.dumps_core, true),
            Fact::OutOfMemory => !std::mem::replace(&mut self.out_of_memory, true),
            Fact::Signalled(signal, sender) => {
                self.signals.add(Sent { at, signal: *signal, sender: sender.clone() })
            }
            Fact::Connected => true,
            Fact::Unheard => {
                self.said.doubt(at + settings.doubt_window);
                true
            }
            Fact::Closed | Fact::Died | Fact::FileCreated | Fact::FileLeft | Fact::FileFailed => {
                false
            }
        };
        (Turn::Unchanged, is_worth_remembering)
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
        self.turns.min(MOST_TURNS)
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
            timeline: Timeline::default(),
            turns: 0,
        }
    }
}
