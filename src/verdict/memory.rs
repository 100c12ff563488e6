//! What has to outlive the daemon: everything known of each life that cannot be learnt again.
//!
//! A QEMU that was asked to power down says so once. If the daemon is restarted in between, only
//! this tells the next one whose doing the shutdown is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::conversation::Conversation;
use super::evidence::Signals;
use super::file::Decision;
use crate::id::{Incarnation, Inode, Moment, Name, Process};
use crate::wire::WaitStatus;
use crate::wire::qmp::Version;

/// All lives of a node. Its times are those of one boot of the machine.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub(super) last: Incarnation,
    pub(super) lives: BTreeMap<Incarnation, Life>,
}

/// One entry of a journal from which a memory is read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// So far lives have been counted.
    Last(Incarnation),
    /// What is known of a life, in the place of what was.
    Lives(Box<Life>),
    /// A life of which nothing more needs to be known.
    Over(Incarnation),
}

/// One life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    pub(super) incarnation: Incarnation,
    pub(super) name: Name,
    pub(super) inode: Inode,
    pub(super) process: Option<Process>,
    pub(super) has_spoken: bool,
    pub(super) has_answered: bool,
    pub(super) conversation: Conversation,
    pub(super) decision: Option<Decision>,
    pub(super) status: Option<(Moment, WaitStatus)>,
    pub(super) dumps_core: bool,
    pub(super) out_of_memory: bool,
    pub(super) signals: Signals,
    pub(super) version: Option<Version>,
}

/// A life that is remembered, for whoever still holds what belongs to it.
#[derive(Clone, Copy, Debug)]
pub struct Remembered<'a> {
    pub incarnation: Incarnation,
    pub name: &'a Name,
    pub process: Option<Process>,
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

    pub fn lives(&self) -> impl Iterator<Item = Remembered<'_>> {
        self.lives.values().map(|life| Remembered {
            incarnation: life.incarnation,
            name: &life.name,
            process: life.process,
        })
    }
}
