//! One instance, its QEMU and its kernel, as far as a daemon can see them; and the judge, who knows
//! what really happened from the row and from his own notes, never from the core.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use kvmd::id::{Incarnation, Inode, Moment, Name, Process};
use kvmd::verdict::{
    Action, Answers, Cause, CommandLine, ConnectError, Death, Event, Fact, FileOutcome, Initiator,
    Memory, Missing, Node, Peer, Questions, RemoveReason, Said, Sent, Source, resume, settle,
};
use kvmd::wire::qmp::{Answer, Event as Qmp, Message};
use kvmd::wire::{Sender, Signal, StatusAnswer};

use crate::rows::{File, OutOfMemory, Row};

const PROCESS: Process = Process { pid: 4242, started: 1000 };
/// The pid of whoever sends signals.
const SHELL: u32 = 5790;
const BEGIN: Moment = Moment(Duration::from_secs(1_000_000));
/// What lies between two events that follow each other closely.
const MOMENT: Duration = Duration::from_micros(300);
/// So many of the gaps are about a look at the sender.
const LOOK_GAPS: usize = 2;
/// Gaps on both sides of each time limit of the core: the look at a sender, that of a leader
/// that ends ahead of its threads, the last words of the sources, the rescan, the powerdown window.
pub(crate) const GAPS: [Duration; 9] = [
    Duration::from_millis(290),
    Duration::from_millis(310),
    Duration::from_millis(990),
    Duration::from_millis(1010),
    Duration::from_millis(1990),
    Duration::from_millis(2010),
    Duration::from_millis(30_010),
    Duration::from_secs(3590),
    Duration::from_secs(3610),
];
const POWERDOWN_WINDOW: Duration = Duration::from_secs(3600);
/// From then on a source that has not spoken may be too late.
const LATE: Duration = Duration::from_secs(1);

/// QEMU's own log is asked alone.
const OWN_LOG: Questions =
    Questions { signals: false, status: false, own_log: true, out_of_memory: false };

/// Which sources there are on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sources {
    /// The proc connector reports how processes end.
    pub(crate) connector: bool,
    /// Else the kernel is asked.
    pub(crate) status: Asked,
    pub(crate) pidfd: bool,
    /// So many of the first attempts to change the file fail.
    pub(crate) file_failures: u8,
    /// To look at the sender of a signal takes its time, and to read a command line or QEMU's own log.
    pub(crate) looks_lag: bool,
}

/// What the kernel answers when it is asked how a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Asked {
    Known,
    /// Once the process has been reaped.
    OnceReaped,
    Never,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Say,
    Close,
    CoreDump,
    Exit,
    Die,
    Reap,
    Trace,
    /// The sender of the signal has been looked at.
    Look,
    /// QEMU's command line has been read.
    ReadCommandLine,
    /// QEMU's own log has been read.
    ReadOwnLog,
    /// Ganeti has stopped the instance by force and removes the file.
    GanetiRemoves,
    Pass(usize),
    Restart(Restart),
}

/// How one daemon follows another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Restart {
    /// With everything that was open.
    Kept,
    NotKept,
    /// And QEMU said something that nobody heard.
    Unheard,
    /// And QEMU ended meanwhile.
    OverMeanwhile,
}

/// What may still happen that is no source's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) restarts: u8,
    pub(crate) gaps: u8,
    pub(crate) removals: u8,
}

#[derive(Clone)]
pub(crate) struct World<'a> {
    node: Node,
    journal: Memory,
    around: Around<'a>,
}

#[derive(Clone)]
struct Around<'a> {
    row: &'a Row,
    sources: Sources,
    now: Moment,
    budget: Budget,
    facts: Facts,
    notes: Notes,
    deaths: Vec<Death>,
    recorded: Option<Incarnation>,
}

/// How things are.
#[derive(Clone, Copy, Debug, Hash)]
struct Facts {
    life: Incarnation,
    is_connected: bool,
    has_pidfd: bool,
    said: usize,
    is_closed: bool,
    /// And the daemon has heard of it.
    was_closed: bool,
    dumped: bool,
    exited: bool,
    is_dead: bool,
    is_reaped: bool,
    is_traced: bool,
    /// The life for which the sender of the signal is being looked at, and when it was sent.
    look: Option<(Incarnation, Moment)>,
    /// The life for which QEMU's command line is being read.
    command_line: Option<Incarnation>,
    /// The life for which QEMU's own log is being read.
    own_log: Option<Incarnation>,
    file: bool,
    file_failures: u8,
}

/// What the judge has written down.
#[derive(Clone, Copy, Debug, Hash)]
struct Notes {
    /// The powerdown request that has not become void.
    asked: Option<Moment>,
    /// The guest shut itself down long after it had been asked to.
    asked_too_long_ago: bool,
    /// A SHUTDOWN stands, and QEMU said why.
    is_going_down: bool,
    /// It has been created since it was last decided.
    creations: u8,
    removed_by_ganeti: bool,
    /// Time has passed while the sender of the signal was being looked at.
    look_is_late: bool,
    /// A source lagged behind the others for so long that it may have been given up.
    is_late: bool,
    /// And this was QEMU's own log, which names a signal.
    own_log_is_late: bool,
    /// Something was not heard.
    is_lossy: bool,
    /// That is so long ago that the record does not name it any more.
    is_long_ago: bool,
    /// The daemon could not know what became of a SHUTDOWN.
    ended_unwatched: bool,
}

impl Hash for World<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Around { now, budget, facts, notes, .. } = &self.around;
        (&self.node, now, budget, facts, notes).hash(state);
        self.around.deaths.len().hash(state);
    }
}

impl<'a> World<'a> {
    /// The instance is up and runs.
    pub(crate) fn new(row: &'a Row, sources: Sources, budget: Budget) -> Self {
        let facts = Facts {
            life: Incarnation(0),
            is_connected: false,
            has_pidfd: false,
            said: 0,
            is_closed: false,
            was_closed: false,
            dumped: !(row.dumps_core && sources.connector),
            exited: !sources.connector,
            is_dead: false,
            is_reaped: sources.status != Asked::OnceReaped,
            is_traced: row.traced.is_none(),
            look: None,
            command_line: None,
            own_log: None,
            file: false,
            file_failures: 0,
        };
        let notes = Notes {
            asked: None,
            asked_too_long_ago: false,
            is_going_down: false,
            creations: 0,
            removed_by_ganeti: false,
            look_is_late: false,
            is_late: false,
            own_log_is_late: false,
            is_lossy: false,
            is_long_ago: false,
            ended_unwatched: false,
        };
        let mut world = Self {
            node: Node::new(row.settings.clone(), BEGIN),
            journal: Memory::default(),
            around: Around {
                row,
                sources,
                now: BEGIN,
                budget,
                facts,
                notes,
                deaths: Vec::new(),
                recorded: None,
            },
        };
        world.happens(Event::Exits { are_told: sources.connector });
        world.happens(Event::Created { name: Name::new(b"web1"), inode: Inode(1) });
        world.passes(MOMENT);
        world.around.facts.file_failures = sources.file_failures;
        world
    }

    /// Everything that may happen next; nothing when it is over.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let Around { row, facts, budget, .. } = &self.around;
        let mut steps = Vec::new();
        let mut may = |step, is_possible| {
            if is_possible {
                steps.push(step);
            }
        };
        let all_said = facts.said == row.said.len();
        may(Step::Say, !all_said && !facts.is_closed);
        may(Step::Close, all_said && !facts.is_closed);
        may(Step::CoreDump, all_said && !facts.dumped);
        may(Step::Exit, all_said && facts.dumped && !facts.exited);
        may(Step::Die, all_said && !facts.is_dead);
        may(Step::Reap, facts.is_dead && !facts.is_reaped);
        may(Step::Trace, !facts.is_traced && self.around.is_sent());
        may(Step::Look, facts.look.is_some());
        may(Step::ReadCommandLine, facts.command_line.is_some());
        may(Step::ReadOwnLog, facts.own_log.is_some());
        let is_over = all_said
            && facts.is_closed
            && facts.exited
            && facts.is_dead
            && facts.is_reaped
            && facts.is_traced
            && facts.own_log.is_none();
        if !is_over {
            may(Step::GanetiRemoves, budget.removals > 0 && facts.file);
            // The command line is read, or given up, before anybody would notice.
            let may_pass = budget.gaps > 0 && facts.command_line.is_none();
            // Nothing else has a limit as short as the record's for a look at the sender.
            let first = if facts.look.is_some() { 0 } else { LOOK_GAPS };
            for gap in (first..GAPS.len()).filter(|_| may_pass) {
                may(Step::Pass(gap), true);
            }
            if budget.restarts > 0 && self.around.deaths.is_empty() {
                may(Step::Restart(Restart::Kept), facts.has_pidfd);
                may(Step::Restart(Restart::NotKept), true);
                may(Step::Restart(Restart::Unheard), !all_said);
                may(Step::Restart(Restart::OverMeanwhile), true);
            }
        }
        steps
    }

    /// Lets it happen, and judges what came of it at once.
    pub(crate) fn take(&mut self, step: Step) {
        let facts = &mut self.around.facts;
        match step {
            Step::Say => self.say(true),
            Step::Close => {
                facts.is_closed = true;
                if std::mem::take(&mut facts.is_connected) {
                    self.said(Said::Closed);
                }
            }
            Step::CoreDump => {
                facts.dumped = true;
                self.happens(Event::CoreDump { pid: PROCESS.pid });
            }
            Step::Exit => {
                facts.exited = true;
                let status = self.around.row.status;
                self.happens(Event::Exit { pid: PROCESS.pid, status });
            }
            Step::Die => {
                facts.is_dead = true;
                if facts.has_pidfd {
                    self.said(Said::Died);
                }
            }
            Step::Reap => {
                facts.is_reaped = true;
                if facts.has_pidfd {
                    self.said(Said::Died);
                }
            }
            Step::Trace => {
                for event in self.around.trace() {
                    self.happens(event);
                }
            }
            Step::Look => {
                if let Some((life, at)) = facts.look.take() {
                    self.happens(Event::Of(life, seen(at, Some(shell()))));
                }
            }
            Step::ReadCommandLine => {
                if let Some(life) = facts.command_line.take() {
                    let said = self.around.command_line();
                    self.happens(Event::Of(life, said));
                }
            }
            Step::ReadOwnLog => {
                if let Some(life) = facts.own_log.take() {
                    let answers = self.around.answers(OWN_LOG);
                    self.happens(Event::Of(life, Said::Consulted(answers)));
                }
            }
            Step::GanetiRemoves => {
                self.around.budget.removals -= 1;
                facts.file = false;
                self.around.notes.removed_by_ganeti = true;
            }
            Step::Pass(gap) => {
                self.around.budget.gaps -= 1;
                self.around.note_gap(GAPS[gap]);
                self.passes(GAPS[gap]);
                self.around.notes.look_is_late |= self.around.facts.look.is_some();
                // It may have been asked meanwhile.
                if self.around.facts.own_log.is_some() && GAPS[gap] >= LATE {
                    self.around.notes.is_late = true;
                    self.around.notes.own_log_is_late |= self.around.row.logged.is_some();
                }
            }
            Step::Restart(how) => {
                self.around.budget.restarts -= 1;
                self.restarts(how);
            }
        }
        self.passes(MOMENT);
        self.around.facts.was_closed = self.around.facts.is_closed;
        self.around.judge_file(step);
    }

    /// Everything has been said. Time passes, and it is judged.
    pub(crate) fn end(mut self) {
        self.passes(Duration::from_secs(400));
        self.around.judge_end();
        assert_eq!(self.node.watched(), 0, "nothing is watched after the end");
        assert_eq!(self.node.to_memory().lives().count(), 0, "nothing is remembered after the end");
        assert!(self.node.lives() <= 1, "what is left is a socket that may be stale");
        let before = self.around.facts.file;
        self.passes(Duration::from_secs(400));
        assert_eq!(self.around.facts.file, before, "nothing happens to the file after the end");
        assert_eq!(self.around.deaths.len(), 1, "it ends once");
    }

    fn say(&mut self, is_heard: bool) {
        let event = self.around.row.said[self.around.facts.said].clone();
        self.around.note_event(&event);
        self.around.facts.said += 1;
        if is_heard && self.around.facts.is_connected {
            self.said(Said::Heard(Message::Event(event, None)));
        }
    }

    fn restarts(&mut self, how: Restart) {
        let facts = &mut self.around.facts;
        let was_dead = facts.is_dead;
        let is_kept = how == Restart::Kept;
        // The next daemon asks itself.
        (facts.look, facts.command_line, facts.own_log) = (None, None, None);
        facts.is_connected = is_kept && !facts.is_closed;
        facts.has_pidfd &= is_kept;
        match how {
            Restart::Kept | Restart::NotKept => {
                // Who comes when QEMU is gone cannot know whether a guest came back.
                let is_over = facts.is_closed || facts.is_dead;
                self.around.notes.ended_unwatched |= !is_kept && is_over;
            }
            Restart::Unheard => {
                self.around.notes.is_lossy = true;
                self.say(false);
            }
            Restart::OverMeanwhile => {
                while self.around.facts.said < self.around.row.said.len() {
                    self.say(false);
                }
                self.around.end_unseen();
            }
        }
        let Self { node, around, journal } = self;
        let mut events = VecDeque::new();
        *node = Node::new(around.row.settings.clone(), around.now);
        let now = around.now;
        let memory = journal.clone();
        resume(
            node,
            now,
            memory,
            |_| is_kept,
            &mut events,
            |action, events| {
                around.perform(action, events);
            },
        );
        self.journal = self.node.to_memory();
        self.node.mark_saved();
        self.happens(Event::Exits { are_told: self.around.sources.connector });
        if is_kept {
            if self.around.facts.is_closed {
                self.said(Said::Closed);
            } else {
                self.said(Said::Heard(Message::Error("it has negotiated already".into())));
                let running = self.around.runs();
                self.said(Said::Heard(Message::Return(Answer::Status {
                    running,
                    panicked: false,
                })));
            }
            if was_dead {
                self.said(Said::Died);
            }
        }
        self.passes(Duration::ZERO);
    }

    fn said(&mut self, said: Said) {
        self.happens(Event::Of(self.around.facts.life, said));
    }

    fn happens(&mut self, event: Event) {
        let Self { node, around, journal } = self;
        let (now, mut events) = (around.now, VecDeque::from([event]));
        settle(node, now, &mut events, |action, events| around.perform(action, events));
        if let Some(recorded) = around.recorded.take() {
            node.forget(recorded);
        }
        if node.has_changes() {
            node.changes().for_each(|entry| journal.read(entry));
            node.mark_saved();
        }
    }

    fn passes(&mut self, duration: Duration) {
        let end = self.around.now + duration;
        while self.node.deadline() <= end {
            self.around.now = self.node.deadline().max(self.around.now);
            self.happens(Event::Tick);
            assert!(self.node.deadline() > self.around.now, "a tick does what is due");
        }
        self.around.now = end;
    }
}

impl Around<'_> {
    fn perform(&mut self, action: Action, events: &mut VecDeque<Event>) {
        match action {
            Action::LookAgain => {
                events.push_back(Event::Listed { name: Name::new(b"web1"), inode: Inode(1) });
            }
            Action::Connect { incarnation, .. } => self.connect(incarnation, events),
            Action::Probe { incarnation, .. } => {
                let said = if self.facts.is_dead { Said::Died } else { Said::Lives };
                events.push_back(Event::Of(incarnation, said));
            }
            Action::Consult { incarnation, questions } => {
                if questions.signals {
                    events.extend(self.trace());
                }
                // On one kind of node, to keep the search short.
                let lags = self.sources.looks_lag && self.sources.file_failures == 0;
                if questions.own_log && lags {
                    assert_eq!(questions, OWN_LOG, "nobody else waits for it");
                    self.facts.own_log = Some(incarnation);
                } else {
                    let answers = self.answers(questions);
                    events.push_back(Event::Of(incarnation, Said::Consulted(answers)));
                }
            }
            Action::Create { incarnation, .. } => {
                let outcome = self.change_file(true);
                events.push_back(Event::Of(incarnation, Said::File(outcome)));
            }
            Action::Remove { incarnation, why, .. } => {
                assert!(
                    why == RemoveReason::Runs || !self.notes.ended_unwatched || !self.facts.file,
                    "who did not hear why it ended leaves the file alone"
                );
                let outcome = self.change_file(false);
                events.push_back(Event::Of(incarnation, Said::File(outcome)));
            }
            Action::ReadCommandLine { incarnation, .. } => {
                if self.sources.looks_lag && self.row.no_reboot.is_some() {
                    self.facts.command_line = Some(incarnation);
                } else {
                    events.push_back(Event::Of(incarnation, self.command_line()));
                }
            }
            Action::LookInto { incarnation, at, sender } => {
                if sender.name.is_some() {
                    events.push_back(Event::Of(incarnation, seen(at, None)));
                } else if self.sources.looks_lag {
                    assert_eq!(self.facts.look, None, "it is looked at once");
                    self.facts.look = Some((incarnation, at));
                } else {
                    events.push_back(Event::Of(incarnation, seen(at, Some(shell()))));
                }
            }
            Action::Record { incarnation, death } => {
                self.deaths.push(*death);
                self.recorded = Some(incarnation);
            }
            _ => {}
        }
    }

    fn connect(&mut self, incarnation: Incarnation, events: &mut VecDeque<Event>) {
        let mut said = |said| events.push_back(Event::Of(incarnation, said));
        if self.facts.is_closed || self.facts.is_dead {
            return said(Said::NotConnected(ConnectError::Refused));
        }
        self.facts.life = incarnation;
        self.facts.is_connected = true;
        self.facts.has_pidfd = self.sources.pidfd;
        let age = Some(Duration::from_secs(1));
        said(Said::Connected(Peer { process: Some(PROCESS), has_pidfd: self.sources.pidfd, age }));
        said(Said::Heard(Message::Greeting(None)));
        said(Said::Heard(Message::Return(Answer::Done)));
        said(Said::Heard(Message::Return(Answer::Status {
            running: self.runs(),
            panicked: false,
        })));
    }

    fn command_line(&self) -> Said {
        Said::CommandLine(self.row.no_reboot.map(|no_reboot| CommandLine { no_reboot }))
    }

    fn answers(&self, questions: Questions) -> Answers {
        let status = match self.sources.status {
            _ if !questions.status || self.sources.connector => StatusAnswer::Never,
            Asked::Known => StatusAnswer::Known(self.row.status),
            Asked::OnceReaped if self.facts.is_reaped => StatusAnswer::Known(self.row.status),
            Asked::OnceReaped => StatusAnswer::NotYet,
            Asked::Never => StatusAnswer::Never,
        };
        let logged = self.row.logged.filter(|_| questions.own_log);
        Answers {
            status,
            facts: logged
                .map(|signal| (Source::OwnLog, Fact::Signalled(signal, shell())))
                .into_iter()
                .chain(
                    (questions.out_of_memory && self.row.out_of_memory == OutOfMemory::Counted)
                        .then_some((Source::ControlGroup, Fact::OutOfMemory)),
                )
                .collect(),
            lacks_own_log: false,
        }
    }

    /// Whether the signal has been sent.
    fn is_sent(&self) -> bool {
        let is_last = self.row.traced == Some(Signal::KILL);
        let all_said = self.facts.said == self.row.said.len();
        (!is_last || all_said) && (!self.row.sent_late || self.facts.was_closed)
    }

    /// What the trace holds and has not given yet.
    fn trace(&mut self) -> Vec<Event> {
        let is_news = self.is_sent() && !self.facts.is_traced;
        let Some(signal) = self.row.traced.filter(|_| is_news) else {
            return Vec::new();
        };
        self.facts.is_traced = true;
        let sent = Sent { at: self.now, signal, sender: Arc::new(Sender::unseen(SHELL)) };
        let mut events = vec![Event::Signalled { pid: PROCESS.pid, sent }];
        if self.row.out_of_memory == OutOfMemory::Traced {
            events.push(Event::OutOfMemory { pid: PROCESS.pid, at: self.now });
        }
        events
    }

    fn change_file(&mut self, present: bool) -> FileOutcome {
        if self.facts.file_failures > 0 {
            self.facts.file_failures -= 1;
            return FileOutcome::Failed;
        }
        if present {
            assert!(
                !self.notes.ended_unwatched,
                "who did not hear the end creates no file: it may have been taken back"
            );
            self.notes.creations += 1;
            assert_eq!(self.notes.creations, 1, "the file is decided once");
            assert!(!self.notes.removed_by_ganeti, "what Ganeti removed stays removed");
        }
        self.facts.file = present;
        FileOutcome::Done
    }

    /// Whether the guest's CPUs run, by what QEMU has said.
    fn runs(&self) -> bool {
        let mut runs = true;
        for event in &self.row.said[..self.facts.said] {
            match event {
                Qmp::Stop | Qmp::Shutdown(_) => runs = false,
                Qmp::Resume | Qmp::Reset => runs = true,
                _ => {}
            }
        }
        runs
    }

    /// It closes its socket and dies while no daemon runs.
    fn end_unseen(&mut self) {
        self.notes.is_lossy = true;
        self.notes.ended_unwatched = true;
        let facts = &mut self.facts;
        facts.is_closed = true;
        facts.dumped = true;
        facts.exited = true;
        facts.is_dead = true;
        facts.is_reaped = true;
    }

    fn note_event(&mut self, event: &Qmp) {
        match event {
            Qmp::Powerdown => self.notes.asked = Some(self.now),
            Qmp::Reset | Qmp::Resume => {
                if matches!(event, Qmp::Reset) {
                    self.notes.asked = None;
                }
                // The guest is there again, and whatever was decided is void.
                self.notes.is_going_down = false;
                (self.notes.creations, self.notes.removed_by_ganeti) = (0, false);
            }
            Qmp::Shutdown(data) if !self.notes.is_going_down => {
                self.notes.is_going_down = true;
                let is_over = |at: Moment| self.now.since(at) >= POWERDOWN_WINDOW;
                let is_guests = data.reason.as_ref().is_none_or(|r| r.name() == "guest-shutdown");
                self.notes.asked_too_long_ago = is_guests && self.notes.asked.is_some_and(is_over);
            }
            _ => {}
        }
    }

    fn note_gap(&mut self, gap: Duration) {
        let Facts { is_closed, is_dead, exited, dumped, is_reaped, is_traced, .. } = self.facts;
        let ends = [is_closed, is_dead, exited && self.sources.connector];
        let has_begun = ends.contains(&true) || self.notes.is_going_down;
        let is_complete = is_closed && is_dead && exited && dumped && is_reaped && is_traced;
        self.notes.look_is_late |= self.facts.look.is_some();
        self.notes.is_long_ago |= self.notes.is_lossy && gap >= POWERDOWN_WINDOW;
        // Without a pidfd the end is found out by looking, ever less often.
        let late = if self.sources.pidfd { LATE } else { LATE / 2 };
        self.notes.is_late |= gap >= late && has_begun && !is_complete;
    }

    /// The file that is to be there at the end, and why.
    fn expected(&self) -> (Cause, Initiator, File) {
        let row = self.row;
        if self.notes.asked_too_long_ago && row.cause == Cause::Powerdown {
            let says_why =
                matches!(row.said.last(), Some(Qmp::Shutdown(data)) if data.reason.is_some());
            let when = if says_why { File::AtTheEvent } else { File::AtTheClose };
            return (Cause::GuestShutdown, Initiator::User, when);
        }
        (row.cause.clone(), row.initiator, row.file)
    }

    fn comes_back(&self) -> bool {
        let is_back = |event: &Qmp| matches!(event, Qmp::Resume | Qmp::Reset);
        let shutdown = self.row.said.iter().position(|event| matches!(event, Qmp::Shutdown(_)));
        shutdown.is_some_and(|at| self.row.said[at..].iter().any(is_back))
    }

    /// After each step: a file that is not to be there is not, one that is to be there is.
    fn judge_file(&self, step: Step) {
        let Facts { file, said, is_connected, file_failures, command_line, .. } = self.facts;
        let (_, _, when) = self.expected();
        let all_said = said == self.row.said.len();
        let Notes { is_lossy, removed_by_ganeti, .. } = self.notes;
        let is_quiet = self.sources.file_failures == 0 && !is_lossy && !removed_by_ganeti;
        // What a reset means may depend on the command line.
        let is_known = command_line.is_none() || self.row.cause != Cause::GuestReset;
        let is_said = matches!(step, Step::Say | Step::ReadCommandLine) && all_said && is_known;
        if when == File::AtTheEvent && is_said && is_connected && is_quiet {
            assert!(file, "it is there at the event, before QEMU ends");
        }
        if when == File::AtTheClose && step == Step::Say && is_quiet {
            assert!(!file, "QEMU has not said why");
        }
        if all_said && file && when == File::Never && file_failures == 0 {
            assert!(self.may_be_wrong(), "it is not to be there");
        }
    }

    /// Only where something that decides was not heard.
    fn may_be_wrong(&self) -> bool {
        let Notes { is_lossy, own_log_is_late, ended_unwatched, .. } = self.notes;
        is_lossy || own_log_is_late || (self.comes_back() && ended_unwatched)
    }

    fn judge_end(&self) {
        let (cause, initiator, when) = self.expected();
        assert_eq!(self.deaths.len(), 1, "it ends once: {:?}", self.deaths);
        let death = &self.deaths[0];
        let Facts { file, .. } = self.facts;
        let is_status_known = self.sources.connector || self.sources.status != Asked::Never;
        let is_exact = !self.notes.is_late && !self.notes.is_lossy && !self.notes.ended_unwatched;
        if is_exact && is_status_known {
            assert_eq!(death.verdict.cause, cause, "{death}");
            assert_eq!(death.verdict.initiator, initiator, "{death}");
        } else if is_exact {
            let says_all = self.row.without_status == self.row.cause;
            let known = if says_all { &cause } else { &self.row.without_status };
            assert_eq!(death.verdict.cause, *known, "{death}");
        } else if death.verdict.cause != cause
            && Some(&death.verdict.cause) != self.row.unheard.as_ref()
        {
            let says_so = !death.missing.is_empty() || self.notes.is_long_ago;
            assert!(says_so, "who is wrong says what he does not know: {death}");
        }
        if !self.notes.look_is_late {
            let sent = death.sent();
            assert!(
                sent.is_none_or(|sent| sent.sender.name.is_some()),
                "who has been seen: {death}"
            );
        }
        let is_to_be_there = when != File::Never && !self.notes.removed_by_ganeti;
        if is_exact {
            assert_eq!(file, is_to_be_there, "{death}");
        } else if file && !is_to_be_there {
            assert!(self.may_be_wrong(), "{death}");
            let says_so = death.missing.contains(&Missing::Past)
                || death.missing.contains(&Missing::Conversation)
                || death.missing.contains(&Missing::OwnLog)
                || self.notes.is_long_ago;
            assert!(says_so, "a file that may be wrong is on record as such: {death}");
        }
    }
}

/// What is found where the shell is looked at.
fn seen(at: Moment, sender: Option<Arc<Sender>>) -> Said {
    Said::LookedInto { at, task: SHELL, sender }
}

fn shell() -> Arc<Sender> {
    Arc::new(Sender { pid: Some(SHELL), name: Some("bash".into()), ..Sender::default() })
}
