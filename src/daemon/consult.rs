//! Those sources that do not speak by themselves, asked before a verdict.

use super::endpoint::Endpoint;
use crate::sys::memory_cgroup::OomKills;
use crate::verdict::{Answers, Fact, Questions, Source};

/// Asks them about the life with this endpoint. They answer at once: the loop waits for them.
///
/// Two that `questions` may name as well are not asked here. The trace speaks by itself: what it holds
/// has to be taken in before. To read QEMU's own log may take its time (see [`super::lookup`]).
pub(super) fn ask(questions: Questions, endpoint: Option<&Endpoint>) -> Answers {
    let mut answers = Answers::default();
    let Some(endpoint) = endpoint else { return answers };
    if questions.status {
        answers.status = endpoint.status();
    }
    if questions.out_of_memory && endpoint.oom_kills.as_ref().is_some_and(OomKills::have_happened) {
        answers.facts.push((Source::ControlGroup, Fact::OutOfMemory));
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_endpoint_nobody_answers() {
        let questions =
            Questions { signals: true, status: true, own_log: true, out_of_memory: true };
        let answers = ask(questions, None);
        assert_eq!(answers, Answers::default());
    }
}
