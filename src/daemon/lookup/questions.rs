//! What is asked of the threads that look into what is not ours, and how they find the answer.
//!
//! Whatever is done here may hang: the loop's side (`mod.rs`) never calls it.

use std::io;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use crate::config::Paths;
use crate::id::{Moment, Name, Process};
use crate::sys::own_log::{self, Termination};
use crate::sys::sandbox::Role;
use crate::sys::worker_threads::{Stage, WorkerThreads};
use crate::sys::{clock, process, sender};
use crate::wire::command_line::has_no_reboot;
use crate::wire::{Quoted, Sender};

/// One does all the work of reading; the others are there for those that hang.
pub(super) const THREADS: usize = 3;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) number: u64,
    pub(super) about: About,
    /// Which program the sender runs, once its link has been read.
    pub(super) executable: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum About {
    /// The task that sent a signal at this moment.
    Sender(u32, Moment),
    CommandLine(Process),
    /// What the QEMU of this instance logs.
    OwnLog(Name),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) number: u64,
    pub(super) found: Found,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Found {
    Sender(Sender),
    NoReboot(bool),
    /// How QEMU was told to end, if it was; or why its log cannot be read.
    Termination(Result<Option<Termination>, String>),
    Nothing,
}

impl About {
    /// What is read.
    pub(super) fn what(&self, paths: &Paths) -> String {
        match self {
            Self::Sender(task, _) => format!("what process {task} shows of itself"),
            Self::CommandLine(process) => format!("the command line of process {}", process.pid),
            Self::OwnLog(name) => {
                let path = paths.log_of(name);
                format!("QEMU's own log {}", Quoted(path.as_os_str().as_bytes()))
            }
        }
    }

    /// Whether what is found about this answers that, too: one who began before a signal began
    /// before every later one.
    pub(super) fn answers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Sender(task, at), Self::Sender(other, later)) => task == other && at <= later,
            _ => self == other,
        }
    }
}

pub(super) fn start_threads(
    begin: impl Fn(Role) + Clone + Send + 'static,
    answer: impl Fn(&[u8]) -> Vec<u8> + Clone + Send + 'static,
) -> io::Result<WorkerThreads> {
    let as_role = |role| {
        let begin = begin.clone();
        move || begin(role)
    };
    let (links, lookup) = (as_role(Role::Links), as_role(Role::Lookup));
    WorkerThreads::start(
        Stage { name: "kvmd-links", count: 1, begin: links, work: read_link },
        Stage { name: "kvmd-lookup", count: THREADS, begin: lookup, work: answer },
    )
}

/// What the thread does that reads links: it completes the question. Waits for nobody.
pub(super) fn read_link(question: &[u8]) -> Vec<u8> {
    let read = |mut question: Question| {
        if let About::Sender(task, _) = question.about {
            question.executable = sender::executable(task);
        }
        serde_json::to_vec(&question)
    };
    serde_json::from_slice(question).and_then(read).unwrap_or_else(|_| question.into())
}

/// What one of the others does: it looks, and may hang.
pub(super) fn answer(question: &[u8], paths: &Paths) -> Vec<u8> {
    let Ok(Question { number, about, executable }) = serde_json::from_slice(question) else {
        return Vec::new();
    };
    let found = match about {
        About::Sender(task, at) => {
            Found::Sender(sender::look_at(task, at, clock::boot_offset(), executable))
        }
        About::CommandLine(process) => match process::command_line(process.pid) {
            // It is this process's, and not that of another with its pid. One that is dead has none.
            Ok(arguments)
                if !arguments.is_empty()
                    && process::identify(process.pid).is_ok_and(|it| it == process) =>
            {
                Found::NoReboot(has_no_reboot(&arguments))
            }
            _ => Found::Nothing,
        },
        About::OwnLog(name) => {
            Found::Termination(own_log::read(&paths.log_of(&name)).map_err(|it| it.to_string()))
        }
    };
    serde_json::to_vec(&Answer { number, found }).unwrap_or_default()
}
