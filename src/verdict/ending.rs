//! The end of a life: which conclusions can be drawn when, and what is done about the file.
//!
//! A life is over when its connection and its process are, and what the kernel reports of the
//! process is known; or two seconds after the process, with what was then still missing named as
//! such. Before it is judged, those sources are consulted that do not speak by themselves. What
//! the evidence means is `cause.rs`'s.

use std::sync::Arc;
use std::time::Duration;

use super::cause::{Cause, Initiator, Verdict};
use super::conversation::Panic;
use super::evidence::{Fact, Sent, Source};
use super::file::Decision;
use super::life::{Context, Life};
use super::stage::{Stage, Voice};
use super::{Action, Answers, Death, FileOutcome, GuestReset, Missing, RemoveReason};
use crate::id::Moment;
use crate::wire::{Sender, StatusAnswer, WaitStatus};

/// How long a source may lag behind the end of the process.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Life {
    /// Until when the sources are waited for that lag behind the end of the process.
    pub(super) fn last_words(&self) -> Option<Moment> {
        let is_waiting = self.stage < Stage::OutOfTime;
        self.watched.died().filter(|_| is_waiting).map(|died| died + LAST_WORDS)
    }

    /// QEMU has said that it shuts down, and not why: signals tell, once they are all known.
    pub(super) fn lacks_reason(&self) -> bool {
        self.case.shutdown().is_some_and(|shutdown| !shutdown.says_why())
    }

    /// What an earlier daemon heard may have been taken back while nobody listened.
    fn may_have_come_back(&self) -> bool {
        self.has_gap && self.voice < Voice::Spoke && self.case.shutdown().is_some()
    }

    pub(super) fn verdict(&self, context: &Context<'_>) -> Verdict {
        self.case.judge(self.watched.died(), context.settings)
    }

    fn final_verdict(&self, context: &Context<'_>) -> Verdict {
        self.file.verdict_at_close().cloned().unwrap_or_else(|| self.verdict(context))
    }

    fn status(&self) -> Option<WaitStatus> {
        self.case.status(self.watched.died())
    }

    /// Asks what is still to be asked.
    pub(super) fn consult(&mut self, context: &mut Context<'_>) {
        if let Some(questions) = self.inquiry.ask(&self.case, self.watched.died(), context.now) {
            let incarnation = context.incarnation;
            context.actions.push(Action::Consult { incarnation, questions });
        }
    }

    pub(super) fn consulted(&mut self, answers: Answers, context: &mut Context<'_>) {
        // Who has been given up has nothing to say any more.
        if !self.inquiry.is_open() {
            return;
        }
        self.inquiry.close(&answers);
        let Answers { status, facts, .. } = answers;
        let (now, settings) = (context.now, context.settings);
        if let StatusAnswer::Known(status) = status {
            let at = self.watched.died().unwrap_or(now);
            self.case.learn(at, self.watched.source(), Fact::Exited(status), settings);
        }
        for (source, fact) in facts {
            if source == Source::OwnLog {
                self.file.withdraw();
            }
            let sender = fact.sender().cloned();
            self.learn(source, fact, context);
            if let Some(sender) = sender {
                self.look_into_senders(|sent| Arc::ptr_eq(&sent.sender, &sender), context);
            }
        }
        if self.is_to_be_closed() {
            self.consult(context);
        }
        self.conclude(context);
    }

    /// The conversation is over, and what it amounts to is not settled yet.
    fn is_to_be_closed(&self) -> bool {
        self.lacks_reason() && !self.link.is_up() && self.file.verdict_at_close().is_none()
    }

    /// Draws those conclusions that can be drawn, once every answer is there.
    pub(super) fn conclude(&mut self, context: &mut Context<'_>) {
        if self.inquiry.awaits_own_log() && self.is_to_be_closed() {
            self.file.propose(self.verdict(context));
        }
        if self.inquiry.is_open() {
            return;
        }
        if self.is_to_be_closed() && !self.may_have_come_back() {
            let proposed = self.file.proposed().cloned();
            let verdict = proposed.unwrap_or_else(|| self.verdict(context));
            self.decide_file(&verdict, context);
            self.file.close(verdict);
        }
        self.finish_if_complete(context);
    }

    /// Finishes if nothing more is to be expected. A life without a known process ends with
    /// its connection.
    pub(super) fn finish_if_complete(&mut self, context: &mut Context<'_>) {
        let is_closed = self.link.was_up() && !self.link.is_up();
        let is_out_of_time = self.stage >= Stage::OutOfTime;
        let is_process_over = match self.watched.process() {
            Some(_) => self.watched.died().is_some(),
            None => !self.link.is_looked_for(),
        };
        let is_complete = is_closed && is_process_over;
        if self.stage >= Stage::Finished || !(is_out_of_time || is_complete) {
            return;
        }
        let lacks_status = self.watched.died().is_some() && self.status().is_none();
        let may_wait = lacks_status && !is_out_of_time;
        if may_wait && context.exits_are_told {
            return;
        }
        self.consult(context);
        let waits = self.inquiry.is_open()
            || (may_wait && self.inquiry.status_will_come())
            || (!is_out_of_time && self.lacks_command_line(&self.final_verdict(context)));
        if !waits {
            self.finish(context);
        }
    }

    /// The verdict is final: draws the conclusions.
    fn finish(&mut self, context: &mut Context<'_>) {
        self.advance(Stage::Finished);
        let verdict = self.final_verdict(context);
        // A QEMU that was connected to and never said more than its greeting was going down already. If
        // there is a file, it was written by whoever heard it say so.
        let ended_well = self.status().is_none_or(|status| status.code() == Some(0));
        let was_going_down = self.may_have_come_back() || self.voice < Voice::Spoke && ended_well;
        if !was_going_down {
            self.decide_file(&verdict, context);
        }
        self.inquiry.limit_looks(context.now);
        self.record_if_ready(context);
    }

    /// Records a life whose verdict is final, once its file is seen to and its senders are.
    pub(super) fn record_if_ready(&mut self, context: &mut Context<'_>) {
        let is_ready = !self.file.is_being_done() && !self.inquiry.is_looking();
        if self.stage == Stage::Finished && is_ready {
            self.record(context);
        }
    }

    /// Has the senders of these signals looked at, if nobody has looked at them.
    pub(super) fn look_into_senders(
        &mut self,
        are_meant: impl Fn(&Sent) -> bool,
        context: &mut Context<'_>,
    ) {
        let incarnation = context.incarnation;
        for sent in self.case.signals().unseen().filter(|sent| are_meant(sent)) {
            if sent.sender.pid.is_some_and(|task| self.inquiry.begin_look(sent.at, task)) {
                let (at, sender) = (sent.at, sent.sender.clone());
                context.actions.push(Action::LookInto { incarnation, at, sender });
            }
        }
    }

    pub(super) fn looked_into(
        &mut self,
        at: Moment,
        task: u32,
        sender: Option<Arc<Sender>>,
        context: &mut Context<'_>,
    ) {
        if !self.inquiry.end_look(at, task) {
            return;
        }
        if let Some(sender) = sender {
            let fact = Fact::SenderSeen(task, sender);
            self.case.learn(at, Source::Process, fact, context.settings);
        }
        self.record_if_ready(context);
    }

    fn record(&mut self, context: &mut Context<'_>) {
        self.advance(Stage::Recorded);
        self.stop(context);
        if self.link.was_up() {
            context.untold.insert(context.incarnation, self.remembered(context.incarnation));
        }
        let verdict = self.final_verdict(context);
        let died = self.watched.died();
        let death = Box::new(Death {
            name: self.name.clone(),
            process: self.watched.process(),
            missing: self.missing(&verdict, context),
            verdict,
            case: std::mem::take(&mut self.case),
            died,
            ended: died.unwrap_or(context.now),
            file: self.file.is_to_be_there(),
        });
        context.actions.push(Action::Record { incarnation: context.incarnation, death });
    }

    fn missing(&self, verdict: &Verdict, context: &Context<'_>) -> Vec<Missing> {
        let mut missing = Vec::new();
        if self.voice < Voice::Spoke {
            missing.push(Missing::Conversation);
        } else if self.link.is_up() {
            missing.push(Missing::EndOfConversation);
        }
        match (self.watched.process(), self.watched.died()) {
            (None, _) => missing.push(Missing::Process),
            (Some(_), None) => missing.push(Missing::EndOfProcess),
            (Some(_), Some(_)) if self.status().is_none() => missing.push(Missing::ExitStatus),
            _ => {}
        }
        // What nobody heard could have been a request to a guest that shut itself down; or a reset
        // after which it was neither asked nor panicked nor hung any more.
        let is_by_past = matches!(
            verdict.cause,
            Cause::GuestShutdown
                | Cause::GuestReset
                | Cause::Powerdown
                | Cause::GuestPanic
                | Cause::Watchdog
        );
        let is_unheard = self.case.shutdown().is_some_and(|shutdown| shutdown.unheard.is_some());
        let had_gap = self.has_gap || self.case.conversation().had_gap();
        let is_unknown = verdict.initiator == Initiator::Unknown && had_gap;
        if is_by_past && is_unheard || is_unknown || self.case.conversation().may_lack_shutdown() {
            missing.push(Missing::Past);
        }
        if verdict.cause == Cause::GuestPanic && self.case.conversation().panic() == Panic::WentOn {
            missing.push(Missing::Snapshot);
        }
        let is_wish = context.settings.guest_reset == GuestReset::Restart;
        if verdict.cause == Cause::GuestReset && !is_wish && self.case.no_reboot().is_none() {
            missing.push(Missing::CommandLine);
        }
        let is_by_signal = matches!(verdict.cause, Cause::HostSignal(_) | Cause::Killed);
        match self.case.sent(verdict) {
            None if is_by_signal => missing.push(Missing::Sender),
            Some(sent) if sent.sender.is_unseen() && sent.sender.name.is_none() => {
                missing.push(Missing::MoreOfSender);
            }
            _ => {}
        }
        let has_request = self.case.signals().request_to_end().is_some();
        if self.inquiry.lacks_own_log() && !has_request {
            missing.push(Missing::OwnLog);
        }
        missing
    }

    /// Decides about the file at the SHUTDOWN event, if QEMU said whose doing it was.
    pub(super) fn decide_early(&mut self, context: &mut Context<'_>) {
        let Some(verdict) = self.case.judge_early(context.settings) else { return };
        if self.file.may_be_early() && !self.lacks_command_line(&verdict) {
            self.decide_file(&verdict, context);
        }
    }

    /// What a reset means depends on the command line, and to read that takes less than QEMU takes
    /// to end.
    fn lacks_command_line(&self, verdict: &Verdict) -> bool {
        verdict.cause == Cause::GuestReset && self.inquiry.reads_command_line()
    }

    fn decide_file(&mut self, verdict: &Verdict, context: &mut Context<'_>) {
        if self.file.decide(verdict.file(&self.case, context.settings)) {
            self.act_on_file(context);
        }
    }

    pub(super) fn act_on_file(&mut self, context: &mut Context<'_>) {
        // If a later life has the name, its file is none of ours.
        if !context.is_current {
            self.file.give_up();
            return;
        }
        let only_in_time = match self.file.attempt() {
            None => return,
            Some(Decision::Absent) => return self.remove_file(RemoveReason::NotTheUser, context),
            Some(Decision::Present) => false,
            Some(Decision::PresentInTime) => true,
        };
        let (name, inode, incarnation) = (self.name.clone(), self.inode, context.incarnation);
        context.actions.push(Action::Create { incarnation, name, inode, only_in_time });
    }

    pub(super) fn remove_file(&self, why: RemoveReason, context: &mut Context<'_>) {
        if context.is_current {
            let (name, inode) = (self.name.clone(), self.inode);
            let incarnation = context.incarnation;
            context.actions.push(Action::Remove { incarnation, name, inode, why });
        }
    }

    /// The guest runs again: what was decided no longer holds.
    pub(super) fn take_back(&mut self, context: &mut Context<'_>) {
        if self.file.take_back() {
            self.remove_file(RemoveReason::Runs, context);
        }
    }

    pub(super) fn file_answered(&mut self, outcome: FileOutcome, context: &mut Context<'_>) {
        if !self.file.answered(context.now, outcome) {
            return;
        }
        let fact = match (outcome, self.file.is_to_be_there()) {
            (FileOutcome::Done, Some(true)) => Some(Fact::FileCreated),
            (FileOutcome::Done, _) => None,
            (FileOutcome::LeftAlone, _) => Some(Fact::FileLeft),
            (FileOutcome::Failed, _) => Some(Fact::FileFailed),
        };
        if let Some(fact) = fact {
            self.learn(Source::Daemon, fact, context);
        }
        self.record_if_ready(context);
    }
}
