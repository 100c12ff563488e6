//! Those sources that do not speak by themselves, asked before a verdict.

use std::sync::Arc;

use log::debug;

use super::endpoint::Endpoint;
use crate::config::Paths;
use crate::sys::memory_cgroup::OomKills;
use crate::sys::own_log;
use crate::verdict::{Answers, Fact, Questions, Source};
use crate::wire::{Printable, Sender, Signal};

/// Asks them about the life with this endpoint. They answer at once: the loop waits for them.
///
/// The trace, which `questions` may name as well, speaks by itself: what it holds has to be taken in
/// before.
pub(super) fn ask(questions: Questions, endpoint: Option<&Endpoint>, paths: &Paths) -> Answers {
    let mut answers = Answers::default();
    let Some(endpoint) = endpoint else { return answers };
    if questions.status {
        answers.status = endpoint.status();
    }
    if questions.own_log
        && let Some((signal, sender)) = signal_by_own_log(endpoint, paths)
    {
        answers.facts.push((Source::OwnLog, Fact::Signalled(signal, sender)));
    }
    if questions.out_of_memory && endpoint.oom_kills.as_ref().is_some_and(OomKills::have_happened) {
        answers.facts.push((Source::ControlGroup, Fact::OutOfMemory));
    }
    answers
}

/// Which signal ends this instance, by the log that QEMU itself writes.
fn signal_by_own_log(endpoint: &Endpoint, paths: &Paths) -> Option<(Signal, Arc<Sender>)> {
    let path = paths.log_of(&endpoint.name);
    match own_log::read(&path) {
        Ok(found) => found.map(|found| {
            let sender = sender_by_own_log(found.sender, found.program.as_deref());
            (found.signal, Arc::new(sender))
        }),
        Err(error) => {
            debug!("Cannot read {}: {error}", path.display());
            None
        }
    }
}

/// Who sent a signal by QEMU's own word: its pid, and how it was called if QEMU saw that. One that
/// it could not see is gone.
fn sender_by_own_log(pid: u32, program: Option<&str>) -> Sender {
    let command = program.map(|program| Printable(program.as_bytes()).to_string());
    let name = command.as_deref().map(|path| path.rsplit('/').next().unwrap_or(path).into());
    Sender { gone: command.is_none(), name, command, ..Sender::unseen(pid) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_that_qemu_saw_can_be_looked_at() {
        let virsh = sender_by_own_log(7, Some("/usr/bin/virsh"));
        assert!(virsh.is_unseen());
        assert_eq!(virsh.name.as_deref(), Some("virsh"));
        let gone = sender_by_own_log(7, None);
        assert_eq!((gone.gone, gone.name), (true, None));
    }

    #[test]
    fn where_there_is_no_endpoint_nobody_answers() {
        let questions =
            Questions { signals: true, status: true, own_log: true, out_of_memory: true };
        let answers = ask(questions, None, &Paths::below("/nowhere".as_ref()));
        assert_eq!(answers, Answers::default());
    }
}
