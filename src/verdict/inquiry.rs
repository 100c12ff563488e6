//! What has to be asked of the sources that do not speak by themselves before a life is judged.

use std::time::Duration;

use super::conversation::Shutdown;
use super::{Answers, Case, Questions};
use crate::id::Moment;
use crate::wire::{Signal, StatusAnswer, WaitStatus};

/// How long the record may wait for senders that are being looked at, once the verdict is final.
const LOOKS: Duration = Duration::from_millis(300);
/// Whoever is asked answers at once, or within a second (QEMU's own log); this is for one that does
/// not.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What is known of QEMU's own log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum OwnLog {
    /// All that is needed.
    #[default]
    Enough,
    Awaited,
    /// It could not be read in time.
    Unread,
}

/// The questions about one life: each is asked once.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Inquiry {
    asked: Questions,
    /// An answer is to come, by then.
    due: Option<Moment>,
    /// The kernel keeps the status and has not said it yet.
    status_will_come: bool,
    own_log: OwnLog,
    /// QEMU's command line is being read.
    reads_command_line: bool,
    /// Senders that are being looked at: when they sent a signal, and their numbers. No verdict
    /// waits for them.
    looks: Vec<(Moment, u32)>,
    /// The record waits for them until then.
    look_until: Option<Moment>,
}

impl Inquiry {
    /// One that an earlier daemon has begun. What was decided without QEMU's own log stands, and the
    /// log is not asked again.
    pub(super) fn recalled(lacks_own_log: bool) -> Self {
        if !lacks_own_log {
            return Self::default();
        }
        let asked = Questions { own_log: true, ..Questions::default() };
        Self { asked, own_log: OwnLog::Unread, ..Self::default() }
    }

    /// What is still to be asked, unless an answer is to come. It counts as asked from now on.
    pub(super) fn ask(
        &mut self,
        case: &Case,
        died: Option<Moment>,
        now: Moment,
    ) -> Option<Questions> {
        let questions = self.questions(case, died).except(self.asked);
        if self.is_open() || questions.is_empty() {
            return None;
        }
        self.asked = self.asked.and(questions);
        self.due = Some(now + ANSWER_WITHIN);
        if questions.own_log {
            self.own_log = OwnLog::Awaited;
        }
        Some(questions)
    }

    /// A QEMU that said itself that its guest did it, and ended as it should, leaves nothing to
    /// ask. What costs most is asked last, where nothing else has answered, and alone: nobody else's
    /// answer is to wait for it.
    fn questions(&self, case: &Case, died: Option<Moment>) -> Questions {
        let status = case.status(died);
        let may_be_by_signal = case.shutdown().is_none_or(Shutdown::may_be_by_signal);
        let lacks_status = died.is_some() && status.is_none();
        if lacks_status && !self.asked.status {
            return Questions { status: true, signals: may_be_by_signal, ..Questions::default() };
        }
        let is_silent = case.shutdown().is_none();
        let signal = status.and_then(WaitStatus::signal);
        let out_of_memory = is_silent
            && self.asked.signals
            && !case.out_of_memory()
            // A control group may be shared, and its counter says nothing of which process.
            && !case.signals().is_killed_by_somebody()
            && status.is_none_or(|status| status.signal() == Some(Signal::KILL));
        Questions {
            status: false,
            signals: may_be_by_signal || signal.is_some(),
            own_log: may_be_by_signal
                && (!is_silent || signal.is_none())
                && self.asked.signals
                && (self.asked.out_of_memory || !out_of_memory)
                && case.signals().request_to_end().is_none(),
            out_of_memory,
        }
    }

    /// They have answered.
    pub(super) fn close(&mut self, answers: &Answers) {
        self.due = None;
        if self.own_log == OwnLog::Awaited {
            self.own_log = if answers.lacks_own_log { OwnLog::Unread } else { OwnLog::Enough };
        }
        match answers.status {
            StatusAnswer::Known(_) => self.status_will_come = false,
            StatusAnswer::NotYet => self.status_will_come = true,
            StatusAnswer::Never => {}
        }
    }

    /// The process has been reaped: the kernel may say its status now.
    pub(super) fn ask_status_again(&mut self) {
        self.asked.status = false;
    }

    /// QEMU's command line is being read from now on, if it is not already.
    pub(super) fn begin_command_line(&mut self) -> bool {
        !std::mem::replace(&mut self.reads_command_line, true)
    }

    pub(super) fn end_command_line(&mut self) {
        self.reads_command_line = false;
    }

    pub(super) fn reads_command_line(&self) -> bool {
        self.reads_command_line
    }

    /// This sender is being looked at from now on, if it is not already.
    pub(super) fn begin_look(&mut self, at: Moment, task: u32) -> bool {
        let is_new = !self.looks.contains(&(at, task));
        if is_new {
            self.looks.push((at, task));
        }
        is_new
    }

    /// It has been looked at. False if nobody waits for that.
    pub(super) fn end_look(&mut self, at: Moment, task: u32) -> bool {
        let place = self.looks.iter().position(|look| *look == (at, task));
        place.map(|place| self.looks.swap_remove(place)).is_some()
    }

    /// The verdict is final.
    pub(super) fn limit_looks(&mut self, now: Moment) {
        self.look_until = Some(now + LOOKS);
    }

    /// Until when the record waits for the senders that are being looked at.
    pub(super) fn look_until(&self) -> Option<Moment> {
        self.look_until.filter(|_| self.is_looking())
    }

    /// Whoever has not been looked at by now is not waited for any more.
    pub(super) fn give_up_looks(&mut self) {
        self.looks.clear();
    }

    pub(super) fn is_looking(&self) -> bool {
        !self.looks.is_empty()
    }

    pub(super) fn is_open(&self) -> bool {
        self.due.is_some()
    }

    /// The answer to this has not come in time, and is not waited for any more.
    pub(super) fn nothing(&self) -> Answers {
        Answers { lacks_own_log: self.awaits_own_log(), ..Answers::default() }
    }

    /// QEMU's own log is being read.
    pub(super) fn awaits_own_log(&self) -> bool {
        self.own_log == OwnLog::Awaited
    }

    /// QEMU's own log was needed, and could not be read in time.
    pub(super) fn lacks_own_log(&self) -> bool {
        self.own_log == OwnLog::Unread
    }

    /// When an answer that has not come is given up.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.due
    }

    pub(super) fn status_will_come(&self) -> bool {
        self.status_will_come
    }
}
