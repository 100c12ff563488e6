//! Those sources that do not speak by themselves, asked before a verdict.

use std::sync::Arc;

use log::debug;

use super::endpoint::Endpoint;
use crate::config::Paths;
use crate::id::Moment;
use crate::sys::memory_cgroup::OomKills;
use crate::sys::{clock, own_log, sender};
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
            let program = found.program.as_deref();
            let sender = sender_by_own_log(found.sender, program, clock::now());
            (found.signal, Arc::new(sender))
        }),
        Err(error) => {
            debug!("Cannot read {}: {error}", path.display());
            None
        }
    }
}

/// Who sent a signal by QEMU's own word: its pid, and how it was called if QEMU saw that.
fn sender_by_own_log(pid: u32, program: Option<&str>, now: Moment) -> Sender {
    let sender = sender::look_at(pid, now, clock::boot_offset());
    let called = program.map(|program| Printable(program.as_bytes()).to_string());
    let is_called = sender.command.as_deref().and_then(|command| command.split(' ').next());
    if called.is_some() && is_called == called.as_deref() {
        return sender;
    }
    // It is gone, and another one may have its pid by now.
    let name = called.as_deref().map(|path| path.rsplit('/').next().unwrap_or(path).into());
    Sender { pid: Some(pid), gone: true, name, command: called, ..Sender::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_looked_at_if_it_is_still_the_one_that_qemu_saw() {
        let pid = std::process::id();
        let program = std::env::args().next().unwrap();
        let this = sender_by_own_log(pid, Some(&program), clock::now());
        assert!(!this.gone && this.executable.is_some(), "{this:?}");
        let another = sender_by_own_log(pid, Some("/usr/bin/virsh"), clock::now());
        assert!(another.gone && another.executable.is_none(), "{another:?}");
        assert_eq!(another.name.as_deref(), Some("virsh"));
        assert_eq!(sender_by_own_log(pid, None, clock::now()).name, None);
    }

    #[test]
    fn where_there_is_no_endpoint_nobody_answers() {
        let questions =
            Questions { signals: true, status: true, own_log: true, out_of_memory: true };
        let answers = ask(questions, None, &Paths::below("/nowhere".as_ref()));
        assert_eq!(answers, Answers::default());
    }
}
