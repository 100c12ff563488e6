//! A node without a system under it: what the sources tell is played to it, and a world of
//! one directory does what it asks for.

mod case;
mod connecting;
mod ending;
mod every;
mod file;
mod inquiry;
mod interleavings;
mod order_in_time;
mod remembering;
mod restarting;
mod table;
mod watched;

use std::collections::{BTreeSet, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::id::{Incarnation, Inode, Moment, Name, Process};
use crate::wire::qmp::{
    Answer, Command, Event as Qmp, Message, Note, Reason, Shutdown, Timestamp, Version,
    WatchdogAction,
};
use crate::wire::{Sender, Signal, StatusAnswer, WaitStatus};

const PID: u32 = 4242;
const PROCESS: Process = Process { pid: PID, started: 1000 };
const PEER: Peer =
    Peer { process: Some(PROCESS), has_pidfd: true, age: Some(Duration::from_secs(1)) };
const EXIT_0: WaitStatus = WaitStatus(0);

fn shutdown(reason: Reason) -> Qmp {
    let guest = reason.name().starts_with("guest-");
    Qmp::Shutdown(Shutdown { guest: Some(guest), reason: Some(reason) })
}

fn shutdown_without_data() -> Qmp {
    Qmp::Shutdown(Shutdown::default())
}

/// An operator's shell sends a signal.
fn sent(signal: Signal) -> Sent {
    let shell = Sender { pid: Some(5790), name: Some("bash".into()), ..Sender::default() };
    let at = Moment(Duration::from_secs(1_000_000));
    Sent { at, signal, sender: Arc::new(shell) }
}

fn signalled(signal: Signal) -> Event {
    Event::Signalled { pid: PID, sent: sent(signal) }
}

fn heard(event: Qmp) -> Said {
    Said::Heard(Message::Event(event, None))
}

/// An instance that is up and runs.
fn world() -> World {
    World::with_running_instance(Settings::default())
}

fn dies(world: &mut World, status: WaitStatus) {
    world.said(Said::Closed);
    world.happens(Event::Exit { pid: PID, status });
    world.said(Said::Died);
}

/// One daemon ends, and another goes on with what was written down.
fn restarted(world: &mut World, is_held: bool) {
    let mut memory = Memory::default();
    for entry in world.journal.clone().entries() {
        let text = serde_json::to_vec(&entry).unwrap();
        memory.read(serde_json::from_slice(&text).unwrap());
    }
    world.resumes(memory, is_held);
    world.happens(Event::Exits { are_told: true });
    world.passes(Duration::ZERO);
}

/// A node and what is around it.
struct World {
    node: Node,
    events: VecDeque<Event>,
    around: Around,
}

/// A clock, and a directory in which `web1.shutdown` is or is not.
struct Around {
    settings: Settings,
    now: Moment,
    /// The socket `web1.kvmd`, if there is one.
    socket: Option<Inode>,
    /// How many of the next attempts to connect are answered so.
    connect_errors: Vec<ConnectError>,
    file: bool,
    file_errors: u32,
    /// Every time that the file was created or removed.
    file_actions: Vec<bool>,
    connects: u32,
    peer: Peer,
    process_lives: bool,
    probes: u32,
    watched: BTreeSet<u32>,
    log: Vec<String>,
    /// Which instances answered for the first time, and what each QEMU was asked.
    answered: Vec<String>,
    sent: Vec<Command>,
    deaths: Vec<Death>,
    /// Lives whose end is told, and which the node may forget.
    told: Vec<Incarnation>,
    /// Whoever records ends takes his time.
    holds_records: bool,
    connected: Option<Incarnation>,
    /// What the trace holds and has not told yet.
    traced: VecDeque<Event>,
    /// What the sources answer that do not speak by themselves.
    answers: Answers,
    asked: Vec<Questions>,
    /// How often QEMU's command line was asked for, which nobody can read.
    command_lines: u32,
    /// Which senders were to be looked at, and what is found of each.
    looks: Vec<(Moment, u32)>,
    looks_hang: bool,
    looked_at: Option<Arc<Sender>>,
    /// Whoever is asked does not answer.
    is_mute: bool,
    /// QEMU's own log does not.
    own_log_hangs: bool,
    /// What the journal tells, and how often something was written into it.
    journal: Memory,
    writings: u32,
}

impl Deref for World {
    type Target = Around;

    fn deref(&self) -> &Around {
        &self.around
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Around {
        &mut self.around
    }
}

impl World {
    fn new(settings: Settings) -> Self {
        let now = Moment(Duration::from_secs(1_000_000));
        let around = Around {
            settings: settings.clone(),
            now,
            socket: None,
            connect_errors: Vec::new(),
            file: false,
            file_errors: 0,
            file_actions: Vec::new(),
            connects: 0,
            peer: PEER,
            process_lives: true,
            probes: 0,
            watched: BTreeSet::new(),
            log: Vec::new(),
            answered: Vec::new(),
            sent: Vec::new(),
            deaths: Vec::new(),
            told: Vec::new(),
            holds_records: false,
            connected: None,
            traced: VecDeque::new(),
            answers: Answers::default(),
            asked: Vec::new(),
            command_lines: 0,
            looks: Vec::new(),
            looks_hang: false,
            looked_at: None,
            is_mute: false,
            own_log_hangs: false,
            journal: Memory::default(),
            writings: 0,
        };
        let mut world = Self { node: Node::new(settings, now), events: VecDeque::new(), around };
        world.happens(Event::Exits { are_told: true });
        world.passes(Duration::ZERO);
        world
    }

    fn name() -> Name {
        Name::new(b"web1")
    }

    /// The instance is up, has been connected to and runs.
    fn with_running_instance(settings: Settings) -> Self {
        let mut world = Self::new(settings);
        world.binds(Inode(1));
        world.answers();
        world
    }

    /// The same, and nobody can tell which process it is.
    fn with_unknown_process() -> Self {
        let mut world = Self::new(Settings::default());
        world.peer = Peer { process: None, has_pidfd: false, age: None };
        world.binds(Inode(1));
        world.answers();
        world
    }

    fn binds(&mut self, inode: Inode) {
        self.socket = Some(inode);
        self.happens(Event::Created { name: Self::name(), inode });
    }

    /// QEMU greets, negotiates and says that the guest runs.
    fn answers(&mut self) {
        self.answers_whether_it_runs(true);
    }

    fn answers_whether_it_runs(&mut self, running: bool) {
        self.says(Message::Greeting(None));
        self.says(Message::Return(Answer::Done));
        self.says(Message::Return(Answer::Status { running, panicked: false }));
    }

    fn says(&mut self, message: Message) {
        self.said(Said::Heard(message));
    }

    fn said(&mut self, said: Said) {
        let incarnation = self.connected.expect("nobody is connected to");
        self.happens(Event::Of(incarnation, said));
    }

    fn happens(&mut self, event: Event) {
        self.events.push_back(event);
        let Self { node, events, around } = self;
        settle(node, around.now, events, |action, events| around.perform(action, events));
        self.writes_down();
    }

    /// Another daemon goes on with what this one remembered.
    fn resumes(&mut self, memory: Memory, is_kept: bool) {
        self.watched.clear();
        let Self { node, events, around } = self;
        let now = around.now;
        *node = Node::new(around.settings.clone(), now);
        let perform = |action, events: &mut _| around.perform(action, events);
        resume(node, now, memory, |_| is_kept, events, perform);
        // The first that is written down is the whole.
        around.journal = node.to_memory();
        self.writes_down();
    }

    /// Whoever reads the journal knows what the node remembers, at every moment, unless there was
    /// too much to remember.
    fn writes_down(&mut self) {
        if !self.holds_records {
            for incarnation in std::mem::take(&mut self.told) {
                self.node.forget(incarnation);
            }
        }
        self.writings += u32::from(self.node.has_changes());
        for entry in self.node.changes() {
            self.around.journal.read(entry);
        }
        self.node.mark_saved();
        let known = self.node.to_memory().lives;
        if !self.journal.lives.values().any(|life| life.case.is_behind()) {
            assert_eq!(self.journal.lives, known);
        }
    }

    /// Lets time pass, with every tick that falls into it.
    fn passes(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.node.deadline() <= end {
            self.now = self.node.deadline().max(self.now);
            self.happens(Event::Tick);
        }
        self.now = end;
    }

    fn only_death(&self) -> &Death {
        assert_eq!(self.deaths.len(), 1, "{:?}", self.deaths);
        &self.deaths[0]
    }
}

impl Around {
    fn perform(&mut self, action: Action, events: &mut VecDeque<Event>) {
        match action {
            Action::LookAgain => {
                let listed = self.socket.map(|inode| Event::Listed { name: World::name(), inode });
                events.extend(listed);
            }
            Action::Start { name } => self.log.push(format!("start {name}")),
            Action::Stop { name } => self.log.push(format!("stop {name}")),
            Action::Connect { incarnation, inode, .. } => {
                let answer = self.connect(incarnation, inode);
                events.push_back(Event::Of(incarnation, answer));
            }
            Action::Watch { pid } => assert!(self.watched.insert(pid)),
            Action::Unwatch { pid } => assert!(self.watched.remove(&pid)),
            Action::Create { incarnation, .. } => {
                events.push_back(Event::Of(incarnation, self.change_file(true)));
            }
            Action::Remove { incarnation, .. } => {
                events.push_back(Event::Of(incarnation, self.change_file(false)));
            }
            Action::WarnSilent { name, .. } => self.log.push(format!("silent {name}")),
            Action::Record { incarnation, death } => {
                self.deaths.push(*death);
                self.told.push(incarnation);
            }
            Action::Consult { incarnation, questions } => {
                let answers = self.consult(questions, events);
                let said = Event::Of(incarnation, Said::Consulted(answers));
                let is_heard = !(self.is_mute || self.own_log_hangs && questions.own_log);
                events.extend(is_heard.then_some(said));
            }
            Action::Probe { incarnation, .. } => {
                self.probes += 1;
                let answer = if self.process_lives { Said::Lives } else { Said::Died };
                events.push_back(Event::Of(incarnation, answer));
            }
            Action::ReadCommandLine { incarnation, .. } => {
                self.command_lines += 1;
                if !self.looks_hang {
                    events.push_back(Event::Of(incarnation, Said::CommandLine(None)));
                }
            }
            Action::LookInto { incarnation, at, sender } => {
                let task = sender.pid.unwrap();
                self.looks.push((at, task));
                if !self.looks_hang {
                    let sender = self.looked_at.clone();
                    events.push_back(Event::Of(incarnation, Said::LookedInto { at, task, sender }));
                }
            }
            Action::Send { command, .. } => self.sent.push(command),
            Action::Answered { name, running, .. } => {
                let state = if running { "running" } else { "not running" };
                self.answered.push(format!("{name} {state}"));
            }
            Action::Release { .. } => {}
        }
    }

    fn connect(&mut self, incarnation: Incarnation, inode: Inode) -> Said {
        self.connects += 1;
        if self.socket != Some(inode) {
            return Said::NotConnected(ConnectError::Gone);
        }
        if let Some(error) = self.connect_errors.pop() {
            return Said::NotConnected(error);
        }
        self.connected = Some(incarnation);
        Said::Connected(self.peer)
    }

    fn consult(&mut self, questions: Questions, events: &mut VecDeque<Event>) -> Answers {
        self.asked.push(questions);
        if questions.signals {
            events.extend(self.traced.drain(..));
        }
        let Answers { status, mut facts, lacks_own_log } = self.answers.clone();
        facts.retain(|(source, _)| match source {
            Source::OwnLog => questions.own_log,
            Source::ControlGroup => questions.out_of_memory,
            _ => false,
        });
        let status = if questions.status { status } else { StatusAnswer::Never };
        Answers { status, facts, lacks_own_log: lacks_own_log && questions.own_log }
    }

    fn change_file(&mut self, present: bool) -> Said {
        if self.file_errors > 0 {
            self.file_errors -= 1;
            return Said::File(FileOutcome::Failed);
        }
        self.file = present;
        self.file_actions.push(present);
        Said::File(FileOutcome::Done)
    }
}
