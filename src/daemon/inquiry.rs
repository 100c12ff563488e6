//! Those sources that do not speak by themselves, asked before a verdict.

use std::sync::Arc;

use log::debug;

use super::Daemon;
use super::endpoint::Endpoint;
use crate::id::Incarnation;
use crate::sys::memory_cgroup::OomKills;
use crate::sys::{clock, own_log};
use crate::verdict::{Answers, Event, Questions, Said};
use crate::wire::StatusAnswer;
use crate::wire::{Sender, Signal};

impl Daemon {
    /// Asks them. What the trace holds is handled before the answer.
    pub(super) fn consult(&mut self, incarnation: Incarnation, questions: Questions) {
        if questions.signals {
            self.drain_trace();
        }
        let endpoint = self.endpoints.get(&incarnation);
        let status = match endpoint {
            Some(endpoint) if questions.status => endpoint.status(),
            _ => StatusAnswer::Never,
        };
        let oom_kills = endpoint.and_then(|endpoint| endpoint.oom_kills.as_ref());
        let answers = Answers {
            status,
            out_of_memory: questions.out_of_memory
                && oom_kills.is_some_and(OomKills::have_happened),
            logged: endpoint.filter(|_| questions.own_log).and_then(|e| self.signal_by_own_log(e)),
        };
        self.events.push_back(Event::Of(incarnation, Said::Consulted(answers)));
    }

    /// Which signal ends this instance, by the log that QEMU itself writes.
    fn signal_by_own_log(&self, endpoint: &Endpoint) -> Option<(Signal, Arc<Sender>)> {
        let path = self.paths.log_of(&endpoint.name);
        match own_log::read(&path) {
            Ok(found) => found.map(|found| {
                let sender =
                    Self::sender_by_own_log(found.sender, found.program.as_deref(), clock::now());
                (found.signal, Arc::new(sender))
            }),
            Err(error) => {
                debug!("Cannot read {}: {error}", path.display());
                None
            }
        }
    }
}
