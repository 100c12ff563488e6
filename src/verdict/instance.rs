//! One life of an instance: its socket appears, QEMU answers, it is asked to stop, it dies.
//!
//! Three things run side by side and may end in any order: the connection, the process, and
//! what the kernel tells of the process. The life is over when all of them are, or two
//! seconds after the process, with what was then still missing named as such.

use std::time::Duration;

use super::cause::{self, Verdict};
use super::conversation::{Conversation, Turn};
use super::death::{Death, Missing};
use super::file::{Decision, File};
use super::link::Link;
use super::{
    Action, Command, ConnectError, Context, Inode, Moment, Name, Peer, Process, RemoveReason, Said,
};
use crate::wire::WaitStatus;
use crate::wire::qmp::{Answer, Message};

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
    file: File,
    times_taken_back: u32,
    /// The socket vanished before anybody answered at it.
    is_gone: bool,
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
            file: File::default(),
            times_taken_back: 0,
            is_gone: false,
            is_recorded: false,
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

    /// The pid that the kernel is to tell of.
    pub(super) fn watched_pid(&self) -> Option<u32> {
        self.process.filter(|_| !self.is_recorded).map(|process| process.pid)
    }

    /// When [`Instance::tick`] is to be called.
    pub(super) fn deadline(&self) -> Option<Moment> {
        let last_words = self.died.filter(|_| !self.is_recorded).map(|died| died + LAST_WORDS);
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
        if let Link::Down { ref mut tries, .. } = self.link
            && self.died.is_none()
        {
            *tries = 0;
            self.announce(context);
            self.connect(context);
        }
    }

    /// The name belongs to another socket now.
    pub(super) fn superseded(&mut self, context: &mut Context<'_>) {
        self.file.give_up();
        let is_closed = !self.link.is_up();
        if is_closed && self.process.is_none() {
            self.stop(context);
            self.is_gone = true;
        } else if is_closed && self.conversation.shutdown().is_some() && !self.is_recorded {
            self.finish(context);
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
        if !self.is_recorded && is_due(self.died.map(|died| died + LAST_WORDS)) {
            self.finish(context);
        }
    }

    pub(super) fn hear(&mut self, said: Said, context: &mut Context<'_>) {
        match said {
            Said::Connected(peer) => self.connected(peer, context),
            Said::NotConnected(error) => self.not_connected(error, context),
            Said::Heard(message) => self.heard(message, context),
            Said::Closed => self.closed(context),
            Said::Died => self.died(context),
            Said::Lives => self.lives(context),
            Said::File(outcome) => self.file.answered(context.now, outcome),
        }
    }

    /// The kernel told how the leader ended.
    pub(super) fn exited(&mut self, status: WaitStatus, context: &mut Context<'_>) {
        self.status = Some((context.now, status));
        self.probe(context);
        self.finish_if_complete(context);
    }

    pub(super) fn dumps_core(&mut self) {
        self.dumps_core = true;
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
        if let Link::Down { ref mut next, .. } = self.link {
            *next = None;
            let (name, inode) = (self.name.clone(), self.inode);
            let incarnation = context.incarnation;
            context.actions.push(Action::Connect { incarnation, name, inode });
        }
    }

    fn connected(&mut self, peer: Peer, context: &mut Context<'_>) {
        self.announce(context);
        self.link = Link::Up { warn_at: Some(context.now + ANSWER_WITHIN), awaits: None };
        self.was_connected = true;
        if self.process.is_none() {
            self.process = peer.process;
            self.has_pidfd = peer.has_pidfd;
        }
        self.send(Command::Negotiate, context);
    }

    fn not_connected(&mut self, error: ConnectError, context: &mut Context<'_>) {
        let Link::Down { tries, .. } = self.link else { return };
        self.link = Link::after(error, tries, context.now);
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
        self.has_spoken = true;
        if let Link::Up { ref mut warn_at, .. } = self.link {
            *warn_at = None;
        }
        match message {
            Message::Return(answer) => self.answered(answer, context),
            Message::Event(event) => {
                let window = context.settings.powerdown_window;
                match self.conversation.hear(context.now, event, window) {
                    Turn::GoingDown => self.decide_if_told_why(context),
                    Turn::TakenBack => self.take_back(context),
                    Turn::Unchanged => {}
                }
            }
            Message::Greeting | Message::Error(_) => {}
        }
    }

    /// Takes the answer to what was asked last; nobody can make the daemon ask twice.
    fn answered(&mut self, answer: Answer, context: &mut Context<'_>) {
        let Link::Up { ref mut awaits, .. } = self.link else { return };
        match (awaits.take(), answer) {
            (Some(Command::Negotiate), _) => self.send(Command::QueryStatus, context),
            (Some(Command::QueryStatus), Answer::Status { running }) => {
                self.told_status(running, context);
            }
            _ => {}
        }
    }

    fn told_status(&mut self, running: bool, context: &mut Context<'_>) {
        if running {
            if self.conversation.runs() == Turn::TakenBack {
                self.take_back(context);
            }
            // Whatever file there is was made for an earlier life.
            self.remove_file(RemoveReason::Runs, context);
        } else {
            self.conversation.is_held();
        }
        if !std::mem::replace(&mut self.has_answered, true) {
            let (name, process) = (self.name.clone(), self.process);
            context.actions.push(Action::Answered { name, process, running });
        }
    }

    fn closed(&mut self, context: &mut Context<'_>) {
        self.link = match self.died {
            None => Link::lost(context.now),
            Some(_) => Link::stale(),
        };
        if self.conversation.shutdown().is_some() {
            let verdict = self.verdict(context);
            self.decide_file(&verdict, context);
        }
        self.probe(context);
        self.finish_if_complete(context);
    }

    fn died(&mut self, context: &mut Context<'_>) {
        self.died.get_or_insert(context.now);
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
    fn lives(&mut self, context: &mut Context<'_>) {
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
        cause::judge(&self.conversation, self.process_status(), context.settings)
    }

    /// Finishes if nothing more is to be expected. A life without a known process ends with
    /// its connection.
    fn finish_if_complete(&mut self, context: &mut Context<'_>) {
        let is_closed = self.was_connected && !self.link.is_up();
        let is_dead = self.died.is_some() || self.process.is_none();
        let waits_for_status =
            context.exits_are_told && self.process.is_some() && self.process_status().is_none();
        if is_closed && is_dead && !waits_for_status && !self.is_recorded {
            self.finish(context);
        }
    }

    /// The verdict is final: draws the conclusions.
    fn finish(&mut self, context: &mut Context<'_>) {
        let verdict = self.verdict(context);
        let status = self.process_status();
        // A QEMU that was connected to and never spoke was going down already. If there is a
        // file, it was written by whoever heard it say so.
        let was_going_down = !self.has_spoken && status.is_none_or(|s| s.code() == Some(0));
        if !was_going_down {
            self.decide_file(&verdict, context);
        }
        let missing = self.missing(status);
        self.stop(context);
        context.actions.push(Action::Record(Death {
            name: self.name.clone(),
            process: self.process,
            verdict,
            status,
            dumps_core: self.dumps_core,
            missing,
        }));
        self.is_recorded = true;
    }

    fn missing(&self, status: Option<WaitStatus>) -> Vec<Missing> {
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
        missing
    }

    /// Decides about the file at the SHUTDOWN event, if QEMU said whose doing it was.
    fn decide_if_told_why(&mut self, context: &mut Context<'_>) {
        if let Some(shutdown) = self.conversation.shutdown()
            && shutdown.says_why()
            && self.times_taken_back < MOST_TAKEN_BACK
        {
            let verdict = cause::judge_shutdown(shutdown, context.settings);
            self.decide_file(&verdict, context);
        }
    }

    fn decide_file(&mut self, verdict: &Verdict, context: &mut Context<'_>) {
        if self.file.decide(verdict.file(context.settings)) {
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
        if std::mem::take(&mut self.file).is_to_be_there() {
            self.remove_file(RemoveReason::Runs, context);
        }
        self.times_taken_back += 1;
    }
}
