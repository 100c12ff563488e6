//! What has to outlive the daemon: everything known of each life that cannot be learnt again.
//!
//! A QEMU that was asked to power down says so once. If the daemon is restarted in between, only
//! this tells the next one whose doing the shutdown is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::file::Decision;
use super::stage::Voice;
use super::{Case, Verdict};
use crate::id::{Incarnation, Inode, Name, Process};

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
