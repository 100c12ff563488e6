//! What has to outlive the daemon: everything known of each life that cannot be learnt again.
//!
//! A QEMU that was asked to power down says so once. If the daemon is restarted in between, only
//! this tells the next one whose doing the shutdown is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::file::{Decision, File};
use super::inquiry::Inquiry;
use super::life::Life;
use super::link::Link;
use super::stage::{Stage, Voice};
use super::watched::Watched;
use super::{Case, Verdict};
use crate::id::{Incarnation, Inode, Moment, Name, Process};

/// All lives of a node. Its times are those of one boot of the machine.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub(super) last: Incarnation,
    pub(super) lives: BTreeMap<Incarnation, Remembered>,
}

/// One entry of a journal from which a memory is read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// So far lives have been counted.
    Last(Incarnation),
    /// What is known of a life, in the place of what was.
    Lives(Box<Remembered>),
    /// A life of which nothing more needs to be known.
    Over(Incarnation),
}

/// One life.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Remembered {
    pub incarnation: Incarnation,
    pub name: Name,
    pub(super) inode: Inode,
    pub process: Option<Process>,
    pub(super) voice: Voice,
    pub(super) decision: Option<Decision>,
    /// By what that was decided when the conversation ended.
    pub(super) at_close: Option<Verdict>,
    /// By what it is to be, unless QEMU's own log names a signal.
    #[serde(default)]
    pub(super) proposed: Option<Verdict>,
    /// QEMU's own log, which could not be read in time, was not heard. It is not asked again.
    #[serde(default)]
    pub(super) lacks_own_log: bool,
    pub(super) case: Case,
}

impl Life {
    /// A life that an earlier daemon has watched. `is_kept` if its connection outlived that
    /// daemon, with everything that was said on it since.
    pub(super) fn recalled(life: Remembered, is_kept: bool, now: Moment) -> Self {
        let is_silent = life.voice == Voice::Silent;
        Self {
            watched: Watched::recalled(life.process, is_kept),
            voice: if is_kept { life.voice } else { Voice::Silent },
            case: life.case,
            inquiry: Inquiry::recalled(life.lacks_own_log),
            file: File::recalled(life.decision, life.at_close, life.proposed),
            has_gap: !is_kept,
            ..Self::with_link(life.name, life.inode, Link::recalled(is_kept, is_silent, now))
        }
    }

    /// What has to outlive the daemon; nothing if there is nobody yet, or nobody any more.
    pub(super) fn to_remember(&self, incarnation: Incarnation) -> Option<Remembered> {
        (self.link.was_up() && self.stage < Stage::Recorded).then(|| self.remembered(incarnation))
    }

    /// As it is remembered.
    pub(super) fn remembered(&self, incarnation: Incarnation) -> Remembered {
        Remembered {
            incarnation,
            name: self.name.clone(),
            inode: self.inode,
            process: self.watched.process(),
            voice: self.voice,
            decision: self.file.to_remember(),
            at_close: self.file.verdict_at_close().cloned(),
            proposed: self.file.proposed().cloned(),
            lacks_own_log: self.inquiry.lacks_own_log(),
            case: self.case.to_remember(),
        }
    }

    /// Differs from what it was where there is something new to remember.
    pub(super) fn mark(&self) -> (u32, Voice, Option<Decision>, [bool; 3]) {
        let verdicts = [self.file.verdict_at_close(), self.file.proposed()];
        let [at_close, proposed] = verdicts.map(|verdict| verdict.is_some());
        // Its case has gone into the record then.
        let is_recorded = self.stage >= Stage::Recorded;
        let flags = [at_close, proposed, is_recorded];
        (self.case.turns(), self.voice, self.file.to_remember(), flags)
    }
}

impl Memory {
    /// Reads one more entry.
    pub fn read(&mut self, entry: Entry) {
        let incarnation = match entry {
            Entry::Last(incarnation) => incarnation,
            Entry::Lives(life) => {
                let incarnation = life.incarnation;
                self.lives.insert(incarnation, *life);
                incarnation
            }
            Entry::Over(incarnation) => {
                self.lives.remove(&incarnation);
                incarnation
            }
        };
        self.last = self.last.max(incarnation);
    }

    /// A journal from which it can be read.
    pub fn entries(self) -> impl Iterator<Item = Entry> {
        let lives = self.lives.into_values().map(|life| Entry::Lives(Box::new(life)));
        [Entry::Last(self.last)].into_iter().chain(lives)
    }

    pub fn lives(&self) -> impl Iterator<Item = &Remembered> {
        self.lives.values()
    }
}
