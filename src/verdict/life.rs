//! One life of an instance: its socket appears, QEMU answers, it is asked to stop, it dies.
//!
//! Three things run side by side and may end in any order: the connection ([`Link`]), the process
//! ([`Watched`]), and what the kernel reports of the process. What they say goes into the
//! [`Case`]; `ending.rs` draws the conclusions. Nothing here weighs evidence.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::evidence::{Fact, Sent, Source};
use super::file::File;
use super::inquiry::Inquiry;
use super::link::Link;
use super::stage::{Stage, Voice};
use super::watched::Watched;
use super::{
    Action, Case, CommandLine, ConnectError, Peer, Remembered, RemoveReason, Said, Settings, Turn,
};
use crate::id::{Incarnation, Inode, Moment, Name};
use crate::wire::WaitStatus;
use crate::wire::qmp::{self, Answer, Command, Message, Reason};

/// A process that is this old when it says its first word may have been asked to power down
/// before. A younger one has hardly booted its guest.
const UNHEARD_AGE: Duration = Duration::from_secs(10);

/// What a life may look at and add to while it handles an event.
pub(super) struct Context<'a> {
    pub(super) now: Moment,
    pub(super) incarnation: Incarnation,
    /// No later life has the name.
    pub(super) is_current: bool,
    pub(super) exits_are_told: bool,
    pub(super) settings: &'a Settings,
    pub(super) actions: &'a mut Vec<Action>,
    /// Lives that have ended, as they are remembered until that is told.
    pub(super) untold: &'a mut BTreeMap<Incarnation, Remembered>,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Life {
    pub(super) name: Name,
    pub(super) inode: Inode,
    pub(super) link: Link,
    pub(super) watched: Watched,
    pub(super) voice: Voice,
    pub(super) case: Case,
    pub(super) inquiry: Inquiry,
    pub(super) file: File,
    pub(super) stage: Stage,
    /// The log has a line that the watch began, and is owed one that it ended.
    pub(super) is_announced: bool,
    /// An earlier daemon watched it, and nobody for a while.
    pub(super) has_gap: bool,
}

impl Life {
    /// A life whose socket has just been seen.
    pub(super) fn new(name: Name, inode: Inode, now: Moment) -> Self {
        Self::with_link(name, inode, Link::new(now))
    }

    pub(super) fn with_link(name: Name, inode: Inode, link: Link) -> Self {
        Self {
            name,
            inode,
            link,
            watched: Watched::default(),
            voice: Voice::Silent,
            case: Case::default(),
            inquiry: Inquiry::default(),
            file: File::default(),
            stage: Stage::Open,
            is_announced: false,
            has_gap: false,
        }
    }

    /// An earlier daemon's life goes on under this one.
    pub(super) fn resume(&mut self, context: &mut Context<'_>) {
        self.announce(context);
        // An earlier daemon may have ended before it knew.
        self.look_into_senders(|_| true, context);
        if self.link.is_up() {
            if self.case.is_behind() {
                self.learn(Source::Daemon, Fact::Unheard, context);
            }
            self.send(Command::Negotiate, context);
            self.ask_for_command_line(context);
            // What an earlier daemon could not carry out.
            self.decide_early(context);
        } else {
            self.probe(context);
            self.connect(context);
        }
    }

    /// Nothing is left to be done or to be waited for.
    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Gone || (self.stage == Stage::Recorded && self.file.is_settled())
    }

    /// It was remembered, and is over without a record.
    pub(super) fn ends_untold(&self) -> bool {
        self.link.was_up() && self.stage != Stage::Recorded
    }

    /// The pid of which the kernel is to report.
    pub(super) fn watched_pid(&self) -> Option<u32> {
        let process = self.watched.process().filter(|_| self.stage < Stage::Finished);
        process.map(|process| process.pid)
    }

    /// When [`Life::tick`] is to be called.
    pub(super) fn deadline(&self) -> Option<Moment> {
        let parts = [self.link.deadline(), self.watched.deadline(), self.file.deadline()];
        let waits = [self.last_words(), self.inquiry.deadline(), self.inquiry.look_until()];
        parts.into_iter().chain(waits).flatten().min()
    }

    /// What is left under the name when this life is over: a socket that may be stale.
    pub(super) fn remains(&self) -> Option<Self> {
        let link = match self.watched.process() {
            _ if !self.link.was_up() => return None,
            Some(_) => Link::stale(),
            // Whoever it was, it may still be there.
            None => Link::at_rest(),
        };
        Some(Self::with_link(self.name.clone(), self.inode, link))
    }

    pub(super) fn begin(&mut self, context: &mut Context<'_>) {
        if !self.link.is_at_rest() {
            self.announce(context);
            self.connect(context);
        }
    }

    /// The socket was created under the name (again): whoever bound it will listen now.
    pub(super) fn found_again(&mut self, context: &mut Context<'_>) {
        let may_live = self.watched.died().is_none() && self.stage < Stage::Finished;
        if may_live && self.link.begin_anew() {
            self.announce(context);
            self.connect(context);
        }
    }

    /// The name belongs to another socket now.
    pub(super) fn supersede(&mut self, context: &mut Context<'_>) {
        self.file.give_up();
        if !self.link.is_down() {
            return;
        }
        if self.watched.process().is_none() {
            self.stop(context);
            self.advance(Stage::Gone);
        } else if self.case.shutdown().is_some() {
            self.advance(Stage::OutOfTime);
            self.finish_if_complete(context);
        }
    }

    pub(super) fn rescan(&mut self, context: &mut Context<'_>) {
        if self.link.is_no_more() {
            self.advance(Stage::Gone);
            return;
        }
        if self.link.is_at_rest() && self.watched.died().is_none() {
            self.connect(context);
        }
        if self.link.is_up() && self.stage < Stage::Finished {
            self.ask_for_command_line(context);
        }
        self.probe(context);
    }

    pub(super) fn tick(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        if self.link.is_due(now) {
            self.connect(context);
        }
        if self.link.take_warning(now) {
            let (name, process) = (self.name.clone(), self.watched.process());
            context.actions.push(Action::WarnSilent { name, process });
        }
        if self.watched.take_probe(now) {
            self.probe(context);
        }
        if self.file.deadline().is_some_and(|at| at <= now) {
            self.act_on_file(context);
        }
        if self.inquiry.deadline().is_some_and(|at| at <= now) {
            self.consulted(self.inquiry.nothing(), context);
        }
        if self.last_words().is_some_and(|at| at <= now) {
            self.advance(Stage::OutOfTime);
            self.finish_if_complete(context);
        }
        if self.inquiry.look_until().is_some_and(|at| at <= now) {
            self.inquiry.give_up_looks();
            self.record_if_ready(context);
        }
    }

    pub(super) fn take(&mut self, said: Said, context: &mut Context<'_>) {
        match said {
            Said::Connected(peer) => self.connected(peer, context),
            Said::CommandLine(line) => self.read_command_line(line, context),
            Said::NotConnected(error) => self.not_connected(error, context),
            // The verdict is final.
            Said::Heard(_) if self.stage >= Stage::Finished => {}
            Said::Heard(message) => self.heard(message, context),
            Said::Closed => self.closed(context),
            Said::Died => self.died(context),
            Said::Lives => self.found_alive(context),
            Said::File(outcome) => self.file_answered(outcome, context),
            Said::Consulted(answers) => self.consulted(answers, context),
            Said::LookedInto { at, task, sender } => self.looked_into(at, task, sender, context),
        }
    }

    /// The kernel reported how the leader ended.
    pub(super) fn exited(&mut self, status: WaitStatus, context: &mut Context<'_>) {
        self.learn(Source::ProcConnector, Fact::Exited(status), context);
        self.probe(context);
        self.finish_if_complete(context);
    }

    pub(super) fn began_core_dump(&mut self, context: &mut Context<'_>) {
        self.learn(Source::ProcConnector, Fact::DumpsCore, context);
    }

    pub(super) fn signalled(&mut self, sent: &Sent, context: &mut Context<'_>) {
        let fact = Fact::Signalled(sent.signal, sent.sender.clone());
        self.case.learn(sent.at, Source::Trace, fact, context.settings);
        self.look_into_senders(|known| Arc::ptr_eq(&known.sender, &sent.sender), context);
    }

    pub(super) fn chosen_by_oom_killer(&mut self, at: Moment, context: &mut Context<'_>) {
        self.case.learn(at, Source::Trace, Fact::OutOfMemory, context.settings);
    }

    /// What a source reports now.
    pub(super) fn learn(&mut self, source: Source, fact: Fact, context: &Context<'_>) -> Turn {
        self.case.learn(context.now, source, fact, context.settings)
    }

    pub(super) fn advance(&mut self, stage: Stage) {
        self.stage = self.stage.max(stage);
    }

    fn announce(&mut self, context: &mut Context<'_>) {
        if !std::mem::replace(&mut self.is_announced, true) {
            context.actions.push(Action::Start { name: self.name.clone() });
        }
    }

    pub(super) fn stop(&mut self, context: &mut Context<'_>) {
        if std::mem::take(&mut self.is_announced) {
            context.actions.push(Action::Stop { name: self.name.clone() });
        }
    }

    fn connect(&mut self, context: &mut Context<'_>) {
        // What waits for nothing but its file is no longer to be heard; whoever has its socket
        // by now gets a life of his own.
        if self.stage >= Stage::Finished {
            self.link.rest();
        } else if self.link.begin_attempt() {
            let (name, inode) = (self.name.clone(), self.inode);
            let incarnation = context.incarnation;
            context.actions.push(Action::Connect { incarnation, name, inode });
        }
    }

    fn connected(&mut self, peer: Peer, context: &mut Context<'_>) {
        self.announce(context);
        let began = context.now.before(peer.age.unwrap_or_default());
        self.link.established(began, context.now);
        self.learn(Source::Qmp, Fact::Connected, context);
        self.watched.identify(peer);
        self.ask_for_command_line(context);
        self.send(Command::Negotiate, context);
    }

    /// What a reset by the guest means depends on it. Asked again where it was not told: another
    /// process can keep whoever reads it from reading this one.
    fn ask_for_command_line(&mut self, context: &mut Context<'_>) {
        let Some(process) = self.watched.process() else { return };
        if self.case.no_reboot().is_none() && self.inquiry.begin_command_line() {
            let incarnation = context.incarnation;
            context.actions.push(Action::ReadCommandLine { incarnation, process });
        }
    }

    fn read_command_line(&mut self, line: Option<CommandLine>, context: &mut Context<'_>) {
        self.inquiry.end_command_line();
        if let Some(line) = line {
            self.learn(Source::Process, Fact::Started(line), context);
        }
        if self.stage < Stage::Finished {
            self.decide_early(context);
            self.finish_if_complete(context);
        }
    }

    fn not_connected(&mut self, error: ConnectError, context: &mut Context<'_>) {
        let is_dead = self.watched.died().is_some();
        if !self.link.failed(error, is_dead, context.now) {
            return;
        }
        if self.link.deadline().is_none() && self.watched.process().is_none() {
            self.stop(context);
            if error == ConnectError::Gone {
                self.advance(Stage::Gone);
            }
            self.finish_if_complete(context);
        }
    }

    fn send(&mut self, command: Command, context: &mut Context<'_>) {
        if self.link.ask(command) {
            context.actions.push(Action::Send { incarnation: context.incarnation, command });
        }
    }

    fn heard(&mut self, message: Message, context: &mut Context<'_>) {
        if let Some(since) = self.link.take_unheard()
            && context.now.since(since) >= UNHEARD_AGE
        {
            self.learn(Source::Daemon, Fact::Unheard, context);
        }
        let is_greeting = matches!(message, Message::Greeting(_));
        self.voice = self.voice.max(if is_greeting { Voice::Greeted } else { Voice::Spoke });
        if !is_greeting {
            self.link.end_silence();
        }
        match message {
            Message::Return(answer) => self.answered(answer, context),
            // Under another daemon it has negotiated already.
            Message::Error(_) if self.link.awaits() == Some(Command::Negotiate) => {
                self.send(Command::QueryStatus, context);
            }
            Message::Error(_) | Message::Event(qmp::Event::Other, _) => {}
            Message::Greeting(version) => {
                self.learn(Source::Qmp, Fact::Greeted(version), context);
            }
            Message::Event(event, stamp) => {
                let is_resume = event == qmp::Event::Resume;
                match self.learn(Source::Qmp, Fact::Said(event, stamp), context) {
                    Turn::GoingDown => {
                        let shutdown = self.case.shutdown();
                        if shutdown.is_some_and(|it| it.data.reason == Some(Reason::GuestReset)) {
                            // It may not have been told in time when it was connected to.
                            self.ask_for_command_line(context);
                        }
                        self.decide_early(context);
                    }
                    Turn::TakenBack => self.take_back(context),
                    Turn::Unchanged if is_resume => self.runs(context),
                    Turn::Unchanged => {}
                }
            }
        }
    }

    /// Takes the answer to what was asked last; nobody can make the daemon ask twice.
    fn answered(&mut self, answer: Answer, context: &mut Context<'_>) {
        match (self.link.awaits(), answer) {
            (Some(Command::Negotiate), _) => self.send(Command::QueryStatus, context),
            (Some(Command::QueryStatus), Answer::Status { running, panicked }) => {
                self.link.end_asking();
                self.answered_status(running, panicked, context);
            }
            _ => {}
        }
    }

    fn answered_status(&mut self, running: bool, panicked: bool, context: &mut Context<'_>) {
        let fact = if panicked { Fact::IsPanicked } else { Fact::Answered { running } };
        let turn = self.learn(Source::Qmp, fact, context);
        if turn == Turn::TakenBack {
            self.take_back(context);
        }
        // One that has said SHUTDOWN is on its way out, whatever it answers.
        if running && self.case.shutdown().is_none() {
            self.runs(context);
        }
        if self.voice < Voice::Answered {
            self.voice = Voice::Answered;
            let (name, process) = (self.name.clone(), self.watched.process());
            context.actions.push(Action::Answered { name, process, running });
        }
    }

    /// The guest runs: whatever file there is was made for an earlier life. Ganeti starts QEMU with
    /// its CPUs held, so that is mostly known from RESUME.
    fn runs(&mut self, context: &mut Context<'_>) {
        if self.file.clear() {
            self.remove_file(RemoveReason::Runs, context);
        }
    }

    fn closed(&mut self, context: &mut Context<'_>) {
        self.link.lost(self.watched.died().is_some(), context.now);
        self.learn(Source::Qmp, Fact::Closed, context);
        self.probe(context);
        if self.lacks_reason() {
            self.consult(context);
        }
        self.conclude(context);
    }

    fn died(&mut self, context: &mut Context<'_>) {
        if self.watched.die(context.now) {
            // How it ended was reported while nobody listened.
            if self.has_gap && !self.link.is_up() && self.voice < Voice::Spoke {
                self.advance(Stage::OutOfTime);
            }
            self.learn(self.watched.source(), Fact::Died, context);
        } else {
            self.inquiry.ask_status_again();
        }
        self.link.rest();
        self.finish_if_complete(context);
    }

    /// Without a pidfd: asks whether the process lives.
    fn probe(&mut self, context: &mut Context<'_>) {
        if let Some(process) = self.watched.to_probe() {
            let incarnation = context.incarnation;
            context.actions.push(Action::Probe { incarnation, process });
        }
    }

    /// Without a pidfd: it does. If there are signs that it is about to end, asks again soon.
    fn found_alive(&mut self, context: &mut Context<'_>) {
        let is_ending = self.case.is_ending() || !self.link.is_up();
        self.watched.found_alive(is_ending, context.now);
    }
}
