//! What has to outlive the daemon: everything known of each life that cannot be learnt again.
//!
//! A QEMU that was asked to power down says so once. If the daemon is restarted in between, only
//! this tells the next one whose doing the shutdown is.

use serde::{Deserialize, Serialize};

use super::conversation::Conversation;
use super::evidence::Signals;
use super::file::Decision;
use super::{Incarnation, Inode, Moment, Name, Process};
use crate::wire::WaitStatus;
use crate::wire::qmp::Version;

/// All lives of a node. Its times are those of one boot of the machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    pub(super) last: Incarnation,
    pub(super) lives: Vec<Life>,
}

/// One life.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Life {
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
    /// Not in what the first version wrote.
    #[serde(default)]
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
    pub fn lives(&self) -> impl Iterator<Item = Remembered<'_>> {
        self.lives.iter().map(|life| Remembered {
            incarnation: life.incarnation,
            name: &life.name,
            process: life.process,
        })
    }
}
