//! One life of an instance: its socket appears, QEMU answers, it is asked to stop, it dies.
//!
//! Three things run side by side and may end in any order: the connection, the process, and
//! what the kernel tells of the process. The life is over when all of them are, or two
//! seconds after the process, with what was then still missing named as such. Before it is
//! judged, those sources are consulted that do not speak by themselves.

use std::time::Duration;

use super::cause::{self, Cause, Evidence, Initiator, Verdict};
use super::conversation::{Conversation, Shutdown, Turn};
use super::death::{Death, Missing};
use super::evidence::{Fact, Sent, Signals, Source, Timeline};
use super::file::{Decision, File};
use super::link::Link;
use super::memory::Life;
use super::protocol::Context;
use super::{Action, Answers, ConnectError, FileOutcome, Peer, Questions, RemoveReason, Said};
use crate::id::{Incarnation, Inode, Moment, Name, Process};
use crate::wire::StatusAnswer;
use crate::wire::qmp::Command;
use crate::wire::qmp::{self, Answer, Message, Version};
use crate::wire::{Signal, WaitStatus};

/// How long QEMU may take to answer before that is worth a warning.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a source may lag behind the end of the process.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A leader that ended this long before its process, with status 0, has only left its other
/// threads behind (`pthread_exit`): its status is not the process's.
const LEADER_AHEAD: Duration = Duration::from_secs(1);
/// Without a pidfd: the waits between two looks at a process that is about to end, each twice
/// as long as the one before, and after how many it is only looked at at each rescan.
const FIRST_PROBE_WAIT: Duration = Duration::from_millis(1);
const LONGEST_PROBE_WAIT: Duration = Duration::from_secs(1);
const MOST_PROBES: u32 = 15;
/// A guest that goes down and comes back more often than this in one life (`-no-shutdown`)
/// has its file decided at the end only: nobody can keep the daemon busy with files.
const MOST_TAKEN_BACK: u32 = 16;
/// A process that is this old when it is first connected to may have been asked to power down
/// before. A younger one has hardly booted its guest.
const UNHEARD_AGE: Duration = Duration::from_secs(10);
/// So many turns of one life are worth remembering each; after that nobody can keep the daemon
/// busy with remembering.
const MOST_TURNS: u32 = 1000;

#[derive(Debug)]
pub(super) struct Instance {
    name: Name,
    inode: Inode,
    link: Link,
    /// The log has a line that the watch began, and is owed one that it ended.
    is_announced: bool,
    was_connected: bool,
    process: Option<Process>,
    has_pidfd: bool,
    /// Without a pidfd: looks taken at a process that is about to end, and the next one.
    probes: u32,
    probe_at: Option<Moment>,
    died: Option<Moment>,
    /// QEMU has said something: it was not yet going down when it was connected to.
    has_spoken: bool,
    has_answered: bool,
    conversation: Conversation,
    status: Option<(Moment, WaitStatus)>,
    dumps_core: bool,
    signals: Signals,
    out_of_memory: bool,
    version: Option<Version>,
    timeline: Timeline,
    /// What has been asked of the sources that do not speak by themselves, whether an answer is
    /// to come, and whether the status is.
    asked: Questions,
    is_consulting: bool,
    status_will_come: bool,
    /// Nothing more is waited for.
    is_out_of_time: bool,
    file: File,
    /// The verdict by which the file was decided when the conversation ended.
    verdict_at_close: Option<Verdict>,
    times_taken_back: u32,
    /// An earlier daemon watched it, and nobody for a while.
    has_gap: bool,
    /// How often something happened that has to outlive the daemon.
    turns: u32,
    /// The socket vanished before anybody answered at it.
    is_gone: bool,
    /// The verdict is final: what is said from now on changes nothing.
    is_finished: bool,
    is_recorded: bool,
}

impl Instance {
    /// A life whose socket has just been seen.
    pub(super) fn new(name: Name, inode: Inode, now: Moment) -> Self {
        Self::with_link(name, inode, Link::Down { tries: 0, next: Some(now) })
    }

    fn with_link(name: Name, inode: Inode, link: Link) -> Self {
        Self {
            name,
            inode,
            link,
            is_announced: false,
            was_connected: false,
            process: None,
            has_pidfd: false,
            probes: 0,
            probe_at: None,
            died: None,
            has_spoken: false,
            has_answered: false,
            conversation: Conversation::default(),
            status: None,
            dumps_core: false,
            signals: Signals::default(),
            out_of_memory: false,
            version: None,
            timeline: Timeline::default(),
            asked: Questions::default(),
            is_consulting: false,
            status_will_come: false,
            is_out_of_time: false,
            file: File::default(),
            verdict_at_close: None,
            times_taken_back: 0,
            has_gap: false,
            turns: 0,
            is_gone: false,
            is_finished: false,
            is_recorded: false,
        }
    }

    /// A life that an earlier daemon has watched. `is_held` if its connection outlived that
    /// daemon, with everything that was said on it since.
    pub(super) fn recalled(life: Life, is_held: bool, now: Moment) -> Self {
        let link = if is_held {
            Link::Up { warn_at: Some(now + ANSWER_WITHIN), awaits: None }
        } else {
            Link::Down { tries: 0, next: Some(now) }
        };
        Self {
            was_connected: true,
            process: life.process,
            has_pidfd: is_held,
            has_spoken: life.has_spoken && is_held,
            has_answered: life.has_answered && is_held,
            conversation: life.conversation,
            status: life.status,
            dumps_core: life.dumps_core,
            out_of_memory: life.out_of_memory,
            signals: life.signals,
            version: life.version,
            file: File::recalled(life.decision),
            has_gap: !is_held,
            ..Self::with_link(life.name, life.inode, link)
        }
    }

    /// What has to outlive the daemon; nothing if there is nobody yet, or nobody any more.
    pub(super) fn to_memory(&self, incarnation: Incarnation) -> Option<Life> {
        (self.was_connected && !self.is_finished).then(|| Life {
            incarnation,
            name: self.name.clone(),
            inode: self.inode,
            process: self.process,
            has_spoken: self.has_spoken,
            has_answered: self.has_answered,
            conversation: self.conversation.clone(),
            // One that could not be carried out yet is still to be made.
            decision: self.file.decision().filter(|_| self.file.is_settled()),
            status: self.status,
            dumps_core: self.dumps_core,
            out_of_memory: self.out_of_memory,
            signals: self.signals.clone(),
            version: self.version,
        })
    }

    /// How often something happened that has to outlive the daemon.
    pub(super) fn turns(&self) -> u32 {
        self.turns.min(MOST_TURNS)
    }

    /// An earlier daemon's life goes on under this one.
    pub(super) fn resumed(&mut self, context: &mut Context<'_>) {
        self.announce(context);
        // The file was decided by this when the conversation ended; what comes now came after that.
        if self.file.decision().is_some()
            && self.conversation.shutdown().is_some_and(|shutdown| !shutdown.says_why())
        {
            self.verdict_at_close = Some(self.verdict(context));
        }
        if self.link.is_up() {
            self.send(Command::Negotiate, context);
            // What an earlier daemon could not carry out.
            if self.file.decision().is_none() && context.is_current {
                self.decide_if_told_why(context);
            }
        } else {
            self.probe(context);
            self.connect(context);
        }
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    pub(super) fn is_at(&self, inode: Inode) -> bool {
        self.inode == inode
    }

    /// Nothing is left to be done or to be waited for.
    pub(super) fn is_over(&self) -> bool {
        self.is_gone || (self.is_recorded && self.file.is_settled())
    }

    /// It was remembered, and is over without a word.
    pub(super) fn ends_untold(&self) -> bool {
        self.was_connected && !self.is_recorded
    }

    /// The pid that the kernel is to tell of.
    pub(super) fn watched_pid(&self) -> Option<u32> {
        self.process.filter(|_| !self.is_finished).map(|process| process.pid)
    }

    /// When [`Instance::tick`] is to be called.
    pub(super) fn deadline(&self) -> Option<Moment> {
        let last_words = self.died.filter(|_| !self.is_out_of_time).map(|died| died + LAST_WORDS);
        [self.link.deadline(), last_words, self.probe_at, self.file.retry_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// What is left under the name when this life is over: a socket that may be stale.
    pub(super) fn remains(&self) -> Option<Self> {
        let link = match self.process {
            _ if !self.was_connected => return None,
            Some(_) => Link::stale(),
            // Whoever it was, it may still be there.
            None => Link::Down { tries: 0, next: None },
        };
        Some(Self::with_link(self.name.clone(), self.inode, link))
    }

    pub(super) fn begun(&mut self, context: &mut Context<'_>) {
        if let Link::Down { next: Some(_), .. } = self.link {
            self.announce(context);
            self.connect(context);
        }
    }

    /// The socket was created under the name (again): whoever bound it will listen now.
    pub(super) fn found_again(&mut self, context: &mut Context<'_>) {
        if let Link::Down { ref mut tries, .. } | Link::Trying { ref mut tries } = self.link
            && self.died.is_none()
            && !self.is_finished
        {
            *tries = 0;
            self.announce(context);
            self.connect(context);
        }
    }

    /// The name belongs to another socket now.
    pub(super) fn superseded(&mut self, context: &mut Context<'_>) {
        self.file.give_up();
        self.turns += 1;
        let is_closed = self.link.is_down();
        if is_closed && self.process.is_none() {
            self.stop(context);
            self.is_gone = true;
        } else if is_closed && self.conversation.shutdown().is_some() {
            self.is_out_of_time = true;
            self.finish_if_complete(context);
        }
    }

    pub(super) fn rescan(&mut self, context: &mut Context<'_>) {
        if let (Link::Down { next: None, .. }, None) = (&self.link, self.died) {
            self.connect(context);
        }
        self.probe(context);
    }

    pub(super) fn tick(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        let is_due = |at: Option<Moment>| at.is_some_and(|at| at <= now);
        match self.link {
            Link::Down { next, .. } if is_due(next) => self.connect(context),
            Link::Up { ref mut warn_at, .. } if is_due(*warn_at) => {
                *warn_at = None;
                let name = self.name.clone();
                context.actions.push(Action::WarnSilent { name, process: self.process });
            }
            _ => {}
        }
        if is_due(self.probe_at) {
            self.probe_at = None;
            self.probe(context);
        }
        if is_due(self.file.retry_at()) {
            self.act_on_file(context);
        }
        if !self.is_out_of_time && is_due(self.died.map(|died| died + LAST_WORDS)) {
            self.is_out_of_time = true;
            self.finish_if_complete(context);
        }
    }

    pub(super) fn hear(&mut self, said: Said, context: &mut Context<'_>) {
        match said {
            Said::Connected(peer) => self.connected(peer, context),
            Said::NotConnected(error) => self.not_connected(error, context),
            Said::Heard(message) => self.heard(message, context),
            Said::Closed => self.closed(context),
            Said::Died => self.died(context),
            Said::Lives => self.found_alive(context),
            Said::File(outcome) => self.file_answered(outcome, context),
            Said::Consulted(answers) => self.consulted(answers, context),
        }
    }

    /// The kernel told how the leader ended.
    pub(super) fn exited(&mut self, status: WaitStatus, context: &mut Context<'_>) {
        self.status = Some((context.now, status));
        self.turns += 1;
        self.timeline.add(context.now, Source::ProcConnector, Fact::Exited(status));
        self.probe(context);
        self.finish_if_complete(context);
    }

    pub(super) fn began_core_dump(&mut self, context: &mut Context<'_>) {
        self.turns += u32::from(!std::mem::replace(&mut self.dumps_core, true));
        self.timeline.add(context.now, Source::ProcConnector, Fact::DumpsCore);
    }

    pub(super) fn signalled(&mut self, sent: &Sent) {
        let fact = Fact::Signalled(sent.signal, sent.sender.clone());
        self.timeline.add(sent.at, Source::Trace, fact);
        self.turns += u32::from(self.signals.add(sent.clone()));
    }

    pub(super) fn chosen_by_oom_killer(&mut self, at: Moment, source: Source) {
        if !std::mem::replace(&mut self.out_of_memory, true) {
            self.turns += 1;
            self.timeline.add(at, source, Fact::OutOfMemory);
        }
    }

    /// The kernel has begun or ceased to tell of exits.
    pub(super) fn exits_changed(&mut self, context: &mut Context<'_>) {
        self.finish_if_complete(context);
    }

    fn announce(&mut self, context: &mut Context<'_>) {
        if !self.is_announced {
            self.is_announced = true;
            context.actions.push(Action::Start { name: self.name.clone() });
        }
    }

    fn stop(&mut self, context: &mut Context<'_>) {
        if self.is_announced {
            self.is_announced = false;
            context.actions.push(Action::Stop { name: self.name.clone() });
        }
    }

    fn connect(&mut self, context: &mut Context<'_>) {
        if let Link::Down { tries, .. } = self.link {
            // What waits for nothing but its file is no longer to be heard; whoever has its socket
            // by now gets a life of his own.
            if self.is_finished {
                self.link = Link::Down { tries, next: None };
                return;
            }
            self.link = Link::Trying { tries };
            let (name, inode) = (self.name.clone(), self.inode);
            let incarnation = context.incarnation;
            context.actions.push(Action::Connect { incarnation, name, inode });
        }
    }

    fn connected(&mut self, peer: Peer, context: &mut Context<'_>) {
        self.announce(context);
        self.link = Link::Up { warn_at: Some(context.now + ANSWER_WITHIN), awaits: None };
        let is_late = peer.age.is_some_and(|age| age >= UNHEARD_AGE);
        if self.was_connected || is_late {
            self.conversation.doubt(context.now + context.settings.doubt_window);
        }
        self.was_connected = true;
        self.turns += 1;
        self.timeline.add(context.now, Source::Qmp, Fact::Connected);
        if self.process.is_none() {
            self.process = peer.process;
        }
        if peer.process.is_some() && self.process == peer.process {
            self.has_pidfd = peer.has_pidfd;
        }
        self.send(Command::Negotiate, context);
    }

    fn not_connected(&mut self, error: ConnectError, context: &mut Context<'_>) {
        let Link::Trying { tries } = self.link else { return };
        self.link = match self.died {
            None => Link::after(error, tries, context.now),
            Some(_) => Link::stale(),
        };
        if self.link.deadline().is_none() && self.process.is_none() {
            self.stop(context);
            self.is_gone = error == ConnectError::Gone;
        }
    }

    fn send(&mut self, command: Command, context: &mut Context<'_>) {
        if let Link::Up { ref mut awaits, .. } = self.link {
            *awaits = Some(command);
            context.actions.push(Action::Send { incarnation: context.incarnation, command });
        }
    }

    fn heard(&mut self, message: Message, context: &mut Context<'_>) {
        self.turns += u32::from(!std::mem::replace(&mut self.has_spoken, true));
        if let Link::Up { ref mut warn_at, .. } = self.link {
            *warn_at = None;
        }
        match message {
            Message::Return(answer) => self.answered(answer, context),
            Message::Event(qmp::Event::Other) => {}
            Message::Event(event) => {
                self.timeline.add(context.now, Source::Qmp, Fact::Said(event.clone()));
                let window = context.settings.powerdown_window;
                let before = self.conversation.clone();
                let turn = self.conversation.hear(context.now, event, window);
                self.turns += u32::from(self.conversation != before);
                match turn {
                    Turn::GoingDown => self.decide_if_told_why(context),
                    Turn::TakenBack => self.take_back(context),
                    Turn::Unchanged => {}
                }
            }
            Message::Greeting(version) => {
                self.turns += u32::from(self.version != version);
                self.version = version;
            }
            // Under another daemon it has negotiated already.
            Message::Error(_) => self.refused(context),
        }
    }

    /// Takes the answer to what was asked last; nobody can make the daemon ask twice.
    fn answered(&mut self, answer: Answer, context: &mut Context<'_>) {
        let Link::Up { ref mut awaits, .. } = self.link else { return };
        match (*awaits, answer) {
            (Some(Command::Negotiate), _) => self.send(Command::QueryStatus, context),
            (Some(Command::QueryStatus), Answer::Status { running }) => {
                *awaits = None;
                self.told_status(running, context);
            }
            _ => {}
        }
    }

    fn refused(&mut self, context: &mut Context<'_>) {
        if let Link::Up { awaits: Some(Command::Negotiate), .. } = self.link {
            self.send(Command::QueryStatus, context);
        }
    }

    fn told_status(&mut self, running: bool, context: &mut Context<'_>) {
        self.turns += 1;
        if running {
            if self.conversation.runs() == Turn::TakenBack {
                self.take_back(context);
            }
            // Whatever file there is was made for an earlier life.
            self.remove_file(RemoveReason::Runs, context);
        } else {
            self.conversation.hold();
        }
        if !std::mem::replace(&mut self.has_answered, true) {
            self.timeline.add(context.now, Source::Qmp, Fact::Answered { running });
            let (name, process) = (self.name.clone(), self.process);
            context.actions.push(Action::Answered { name, process, running });
        }
    }

    fn closed(&mut self, context: &mut Context<'_>) {
        self.link = match self.died {
            None => Link::lost(context.now),
            Some(_) => Link::stale(),
        };
        self.timeline.add(context.now, Source::Qmp, Fact::Closed);
        self.probe(context);
        if self.conversation.shutdown().is_some_and(|shutdown| !shutdown.says_why()) {
            self.consult(context);
        }
        self.conclude(context);
    }

    /// Draws those conclusions that can be drawn, once every answer is there.
    fn conclude(&mut self, context: &mut Context<'_>) {
        if self.is_consulting {
            return;
        }
        if !self.link.is_up()
            && self.verdict_at_close.is_none()
            && !self.may_have_come_back()
            && self.conversation.shutdown().is_some_and(|shutdown| !shutdown.says_why())
        {
            let verdict = self.verdict(context);
            self.decide_file(&verdict, context);
            self.verdict_at_close = Some(verdict);
        }
        self.finish_if_complete(context);
    }

    fn died(&mut self, context: &mut Context<'_>) {
        if self.died.is_none() {
            self.died = Some(context.now);
            // How it ended was told while nobody listened.
            self.is_out_of_time |= self.has_gap && !self.link.is_up() && !self.has_spoken;
            let source = if self.has_pidfd { Source::Pidfd } else { Source::Process };
            self.timeline.add(context.now, source, Fact::Died);
        } else {
            // Reaped: the kernel may tell its status now.
            self.asked.status = false;
        }
        self.probe_at = None;
        if let Link::Down { ref mut next, .. } = self.link {
            *next = None;
        }
        self.finish_if_complete(context);
    }

    /// Without a pidfd: asks whether the process lives.
    fn probe(&mut self, context: &mut Context<'_>) {
        if let (Some(process), false, None) = (self.process, self.has_pidfd, self.died) {
            let incarnation = context.incarnation;
            context.actions.push(Action::Probe { incarnation, process });
        }
    }

    /// Without a pidfd: it does. If there are signs that it is about to end, asks again soon.
    fn found_alive(&mut self, context: &mut Context<'_>) {
        let is_ending = self.status.is_some() || !self.link.is_up();
        if is_ending && self.probes < MOST_PROBES {
            let wait = FIRST_PROBE_WAIT * (1 << self.probes);
            self.probe_at = Some(context.now + wait.min(LONGEST_PROBE_WAIT));
            self.probes += 1;
        }
    }

    /// The wait status, unless it is that of a leader which left its threads behind.
    fn process_status(&self) -> Option<WaitStatus> {
        let (at, status) = self.status?;
        let ahead = self.died.map_or(Duration::ZERO, |died| died.since(at));
        (ahead < LEADER_AHEAD || status.code() != Some(0)).then_some(status)
    }

    fn verdict(&self, context: &Context<'_>) -> Verdict {
        let evidence = Evidence {
            said: &self.conversation,
            status: self.process_status(),
            signals: &self.signals,
            out_of_memory: self.out_of_memory,
        };
        cause::judge(evidence, context.settings)
    }

    /// What has to be asked before this life is judged. A QEMU that said itself that its guest
    /// did it, and ended as it should, leaves nothing to ask.
    fn questions(&self) -> Questions {
        let status = self.process_status();
        let may_be_by_signal = self.conversation.shutdown().is_none_or(Shutdown::may_be_by_signal);
        let lacks_status = self.died.is_some() && status.is_none();
        if lacks_status && !self.asked.status {
            return Questions { status: true, signals: may_be_by_signal, ..Questions::default() };
        }
        let is_silent = self.conversation.shutdown().is_none();
        let signal = status.and_then(WaitStatus::signal);
        Questions {
            status: false,
            signals: may_be_by_signal || signal.is_some(),
            own_log: may_be_by_signal
                && (!is_silent || signal.is_none())
                && self.asked.signals
                && self.signals.request_to_end().is_none(),
            out_of_memory: is_silent
                && self.asked.signals
                && !self.out_of_memory
                && status.is_none_or(|status| status.signal() == Some(Signal::KILL)),
        }
    }

    /// Asks what is still to be asked.
    fn consult(&mut self, context: &mut Context<'_>) {
        let questions = self.questions().except(self.asked);
        if !self.is_consulting && !questions.is_empty() {
            self.asked = self.asked.and(questions);
            self.is_consulting = true;
            let incarnation = context.incarnation;
            context.actions.push(Action::Consult { incarnation, questions });
        }
    }

    fn consulted(&mut self, answers: Answers, context: &mut Context<'_>) {
        self.is_consulting = false;
        match answers.status {
            StatusAnswer::Known(status) => {
                self.status = Some((self.died.unwrap_or(context.now), status));
                self.turns += 1;
                let source = if self.has_pidfd { Source::Pidfd } else { Source::Process };
                self.timeline.add(context.now, source, Fact::Exited(status));
                self.status_will_come = false;
            }
            StatusAnswer::NotYet => self.status_will_come = true,
            StatusAnswer::Never => {}
        }
        if let Some((signal, sender)) = answers.logged {
            self.timeline.add(context.now, Source::OwnLog, Fact::Signalled(signal, sender.clone()));
            let sent = Sent { at: context.now, signal, sender };
            self.turns += u32::from(self.signals.add(sent));
        }
        if answers.out_of_memory {
            self.chosen_by_oom_killer(context.now, Source::ControlGroup);
        }
        let says_why = self.conversation.shutdown().is_none_or(Shutdown::says_why);
        if !says_why && !self.link.is_up() && self.verdict_at_close.is_none() {
            self.consult(context);
        }
        self.conclude(context);
    }

    /// Finishes if nothing more is to be expected. A life without a known process ends with
    /// its connection.
    fn finish_if_complete(&mut self, context: &mut Context<'_>) {
        let is_closed = self.was_connected && !self.link.is_up();
        let is_dead = self.died.is_some() || self.process.is_none();
        if self.is_finished || !(self.is_out_of_time || is_closed && is_dead) {
            return;
        }
        let lacks_status = self.died.is_some() && self.process_status().is_none();
        let may_wait = lacks_status && !self.is_out_of_time;
        if may_wait && context.exits_are_told {
            return;
        }
        self.consult(context);
        let waits = self.is_consulting || (may_wait && self.status_will_come);
        if !waits {
            self.finish(context);
        }
    }

    /// The verdict is final: draws the conclusions.
    fn finish(&mut self, context: &mut Context<'_>) {
        self.is_finished = true;
        let verdict = self.final_verdict(context);
        let status = self.process_status();
        // A QEMU that was connected to and never spoke, to this daemon, was going down already. If
        // there is a file, it was written by whoever heard it say so.
        let ended_well = status.is_none_or(|status| status.code() == Some(0));
        let was_going_down = self.may_have_come_back() || !self.has_spoken && ended_well;
        if !was_going_down {
            self.decide_file(&verdict, context);
        }
        if !self.file.is_being_done() {
            self.record(context);
        }
    }

    /// What an earlier daemon heard may have been taken back while nobody listened.
    fn may_have_come_back(&self) -> bool {
        self.has_gap && !self.has_spoken && self.conversation.shutdown().is_some()
    }

    fn final_verdict(&self, context: &Context<'_>) -> Verdict {
        self.verdict_at_close.clone().unwrap_or_else(|| self.verdict(context))
    }

    fn file_answered(&mut self, outcome: FileOutcome, context: &mut Context<'_>) {
        if !self.file.answered(context.now, outcome) {
            return;
        }
        self.turns += u32::from(self.file.is_settled());
        let fact = match (outcome, self.file.is_to_be_there()) {
            (FileOutcome::Done, Some(true)) => Some(Fact::FileCreated),
            (FileOutcome::Done, _) => None,
            (FileOutcome::LeftAlone, _) => Some(Fact::FileLeft),
            (FileOutcome::Failed, _) => Some(Fact::FileFailed),
        };
        if let Some(fact) = fact {
            self.timeline.add(context.now, Source::Daemon, fact);
        }
        if self.is_finished && !self.is_recorded {
            self.record(context);
        }
    }

    fn record(&mut self, context: &mut Context<'_>) {
        self.is_recorded = true;
        self.stop(context);
        let verdict = self.final_verdict(context);
        let status = self.process_status();
        let sent = match &verdict.cause {
            Cause::HostSignal(_) => self.signals.request_to_end(),
            Cause::Killed | Cause::OutOfMemory => self.signals.first(Signal::KILL),
            Cause::Crashed(signal) => self.signals.first(*signal),
            _ => None,
        };
        let missing = self.missing(&verdict, status, sent.is_some());
        let death = Box::new(Death {
            name: self.name.clone(),
            process: self.process,
            sent: sent.cloned(),
            missing,
            verdict,
            status,
            dumps_core: self.dumps_core,
            file: self.file.is_to_be_there(),
            version: self.version,
            ended: self.died.unwrap_or(context.now),
            timeline: std::mem::take(&mut self.timeline),
        });
        context.actions.push(Action::Record { incarnation: context.incarnation, death });
    }

    fn missing(
        &self,
        verdict: &Verdict,
        status: Option<WaitStatus>,
        knows_sender: bool,
    ) -> Vec<Missing> {
        let mut missing = Vec::new();
        if !self.has_spoken {
            missing.push(Missing::Conversation);
        } else if self.link.is_up() {
            missing.push(Missing::EndOfConversation);
        }
        match (self.process, self.died) {
            (None, _) => missing.push(Missing::Process),
            (Some(_), None) => missing.push(Missing::EndOfProcess),
            (Some(_), Some(_)) if status.is_none() => missing.push(Missing::ExitStatus),
            _ => {}
        }
        let is_doubtful = self.conversation.shutdown().is_some_and(|shutdown| shutdown.is_doubtful);
        if verdict.initiator == Initiator::Unknown && (self.has_gap || is_doubtful) {
            missing.push(Missing::Past);
        }
        if !knows_sender && matches!(verdict.cause, Cause::HostSignal(_) | Cause::Killed) {
            missing.push(Missing::Sender);
        }
        missing
    }

    /// Decides about the file at the SHUTDOWN event, if QEMU said whose doing it was.
    fn decide_if_told_why(&mut self, context: &mut Context<'_>) {
        if let Some(shutdown) = self.conversation.shutdown()
            && shutdown.says_why()
            && self.times_taken_back < MOST_TAKEN_BACK
        {
            let verdict = cause::judge_shutdown(shutdown, &self.signals, context.settings);
            self.decide_file(&verdict, context);
        }
    }

    fn decide_file(&mut self, verdict: &Verdict, context: &mut Context<'_>) {
        if self.file.decide(verdict.file(context.settings)) {
            self.turns += 1;
            self.act_on_file(context);
        }
    }

    fn act_on_file(&mut self, context: &mut Context<'_>) {
        // If a later life has the name, its file is none of ours.
        if !context.is_current {
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

    fn remove_file(&self, why: RemoveReason, context: &mut Context<'_>) {
        if context.is_current {
            let (name, inode) = (self.name.clone(), self.inode);
            let incarnation = context.incarnation;
            context.actions.push(Action::Remove { incarnation, name, inode, why });
        }
    }

    /// The guest runs again: what was decided no longer holds.
    fn take_back(&mut self, context: &mut Context<'_>) {
        self.verdict_at_close = None;
        if std::mem::take(&mut self.file).is_to_be_there() == Some(true) {
            self.remove_file(RemoveReason::Runs, context);
        }
        self.times_taken_back += 1;
    }
}
