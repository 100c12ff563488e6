//! The whole core: several instances live, die and are replaced, their sources speak in any
//! order and say anything, what is done fails, and the daemon is started again.
//!
//! The world around the node keeps to what a kernel can do (a pidfd tells of a death that has
//! happened, an inode that is held open is not used again) and to nothing else. It follows each
//! life by what it said itself, and judges every action by that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use kvmd::id::{Incarnation, Inode, Moment, Name, Process};
use kvmd::verdict::{
    Action, Answers, Cause, ConnectError, Death, Entry, Event, FileOutcome, GuestReset, Initiator,
    Memory, Node, Peer, Questions, RemoveReason, Said, Settings, SignalShutdown,
};
use kvmd::wire::StatusAnswer;
use kvmd::wire::qmp::Command;
use kvmd::wire::qmp::{self, Message, Reason};

use crate::assert_fit_to_print;
use crate::peers::{Ending, Options, Sort, Word, shell};
use crate::state_file::{assert_round_trip, written};

/// Spelt as a directory may have them.
const NAMES: [&[u8]; 3] = [b"web1", b"\n\xff\"", b"db.example.com"];
/// Few, so that they are used again.
const PIDS: u32 = 4;
const MOST_STEPS: usize = 400;
/// More than any one event of the world may bring about.
const MOST_EVENTS: usize = 10_000;
/// As many pieces of evidence are kept of one life.
const MOST_PIECES: usize = 48;
const MOST_MISSING: usize = 7;

#[derive(Arbitrary, Debug)]
struct Play {
    options: Options,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Clone, Debug)]
enum Step {
    /// A QEMU binds its socket. The directory may not have told of it.
    Bind {
        name: u8,
        pid: u8,
        is_told: bool,
    },
    /// The directory tells once more of the socket that is there.
    ToldAgain {
        name: u8,
    },
    Unbind {
        name: u8,
    },
    /// How the next attempts to connect are answered.
    Connecting(Accepting),
    /// How the next changes of a file end.
    Changing(Changing),
    /// What the sources answer that do not speak by themselves.
    Answering(Answering),
    Say {
        life: u8,
        word: Word,
    },
    /// QEMU answers what it was asked, as one that runs does.
    Answer {
        life: u8,
    },
    Close {
        life: u8,
    },
    /// The process dies, whoever hears of it.
    Die {
        life: u8,
    },
    /// A pidfd tells what it has told.
    DiedAgain {
        life: u8,
    },
    /// The proc connector and the trace, which may hold several events when they are read.
    Kernel(Vec<Kernel>),
    /// The trace has this, and does not tell before it is asked.
    Withhold(Kernel),
    Exits(bool),
    Rescan,
    Pass(u8),
    /// Something is said of a life that is over, or of none.
    Stray {
        life: u8,
        word: Option<Word>,
    },
    Restart {
        is_held: bool,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Accepting {
    Well {
        has_pidfd: bool,
        age: Option<u8>,
    },
    /// By a process that is not the one which bound the socket.
    ByAnother {
        pid: u8,
    },
    Unknown,
    Refused,
    Busy,
    Gone,
    Unfit,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Changing {
    LeftAlone,
    Failed,
}

#[derive(Arbitrary, Clone, Copy, Debug, Default)]
struct Answering {
    /// Never, not yet, or how it ended.
    #[allow(
        clippy::option_option,
        reason = "another type would give the kept inputs new meanings"
    )]
    status: Option<Option<Ending>>,
    logged: Option<Sort>,
    out_of_memory: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kernel {
    Exit { pid: u8, ending: Ending },
    CoreDump { pid: u8 },
    Signalled { pid: u8, sort: Sort },
    OutOfMemory { pid: u8 },
}

fn pid(number: u8) -> u32 {
    2 + u32::from(number) % PIDS
}

impl Kernel {
    fn event(self, at: Moment) -> Event {
        match self {
            Self::Exit { pid: number, ending } => {
                Event::Exit { pid: pid(number), status: ending.status() }
            }
            Self::CoreDump { pid: number } => Event::CoreDump { pid: pid(number) },
            Self::Signalled { pid: number, sort } => {
                Event::Signalled { pid: pid(number), sent: sort.sent(at) }
            }
            Self::OutOfMemory { pid: number } => Event::OutOfMemory { pid: pid(number), at },
        }
    }
}

/// The SHUTDOWN that stands, and what was known when it came.
#[derive(Clone, Debug)]
struct Going {
    data: qmp::Shutdown,
    was_requested: bool,
    had_panicked: bool,
}

/// One life, as the world sees it.
#[derive(Debug)]
struct Life {
    name: Name,
    inode: Inode,
    /// The socket, and the pidfd where there is one, are held open.
    is_held: bool,
    is_connected: bool,
    /// What bears its name is no socket. That is looked at once, even if it is removed.
    is_unfit: bool,
    process: Option<Process>,
    has_pidfd: bool,
    /// The node has been told.
    is_dead: bool,
    is_superseded: bool,
    is_recorded: bool,
    asked: Option<Command>,
    is_consulted: bool,
    going: Option<Going>,
    requested: Option<Moment>,
    has_panicked: bool,
    /// The decision about the file that is in force, and whether to carry it out has failed.
    decided: Option<bool>,
    has_failed: bool,
}

struct World {
    settings: Settings,
    node: Node,
    /// What the next daemon will read. The first that this one writes down is the whole.
    journal: Memory,
    has_written: bool,
    now: Moment,
    directory: BTreeMap<Name, Inode>,
    /// Who bound each socket.
    bound: BTreeMap<u64, Process>,
    dead: BTreeSet<u64>,
    lives: BTreeMap<Incarnation, Life>,
    /// The latest life under each name.
    current: BTreeMap<Name, Incarnation>,
    over: BTreeSet<Incarnation>,
    last_inode: u64,
    last_start: u64,
    events: VecDeque<Event>,
    outbox: Vec<(Incarnation, Command)>,
    accepting: VecDeque<Accepting>,
    changing: VecDeque<Changing>,
    answering: Answering,
    withheld: VecDeque<Kernel>,
    watched: BTreeSet<u32>,
    announced: BTreeMap<Name, i32>,
}

pub fn check(bytes: &[u8]) {
    let Ok(mut play) = Play::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    play.steps.truncate(MOST_STEPS);
    let now = Moment(Duration::from_secs(1_000_000));
    let settings = play.options.settings();
    let mut world = World {
        node: Node::new(settings.clone(), now),
        journal: Memory::default(),
        has_written: false,
        settings,
        now,
        directory: BTreeMap::new(),
        bound: BTreeMap::new(),
        dead: BTreeSet::new(),
        lives: BTreeMap::new(),
        current: BTreeMap::new(),
        over: BTreeSet::new(),
        last_inode: 0,
        last_start: 0,
        events: VecDeque::new(),
        outbox: Vec::new(),
        accepting: VecDeque::new(),
        changing: VecDeque::new(),
        answering: Answering::default(),
        withheld: VecDeque::new(),
        watched: BTreeSet::new(),
        announced: BTreeMap::new(),
    };
    world.happens(Event::Exits { are_told: true });
    world.passes(Duration::ZERO);
    for step in play.steps {
        world.takes(step);
        world.passes(Duration::ZERO);
        world.stays_bounded();
    }
    world.winds_up();
}

impl World {
    fn takes(&mut self, step: Step) {
        match step {
            Step::Bind { name, pid: number, is_told } => self.binds(name, number, is_told),
            Step::ToldAgain { name } => {
                let name = name_of(name);
                if let Some(&inode) = self.directory.get(&name) {
                    self.happens(Event::Created { name, inode });
                }
            }
            Step::Unbind { name } => {
                self.directory.remove(&name_of(name));
            }
            Step::Connecting(how) => self.accepting.push_back(how),
            Step::Changing(how) => self.changing.push_back(how),
            Step::Answering(answering) => self.answering = answering,
            Step::Say { life, word } => {
                if let Some(incarnation) = self.connected(life) {
                    self.says(incarnation, word.message());
                }
            }
            Step::Answer { life } => {
                if let Some(incarnation) = self.connected(life) {
                    let is_asked = self.lives[&incarnation].asked;
                    let word = match is_asked {
                        Some(Command::QueryStatus) => Word::Status { running: true },
                        _ => Word::Done,
                    };
                    self.says(incarnation, word.message());
                }
            }
            Step::Close { life } => {
                if let Some(incarnation) = self.connected(life) {
                    self.closes(incarnation);
                }
            }
            Step::Die { life } => {
                if let Some(incarnation) = self.some_life(life, |life| life.process.is_some()) {
                    self.dies(incarnation);
                }
            }
            Step::DiedAgain { life } => {
                let told = |life: &Life| life.is_dead && life.has_pidfd && life.is_held;
                if let Some(incarnation) = self.some_life(life, told) {
                    self.happens(Event::Of(incarnation, Said::Died));
                }
            }
            Step::Kernel(events) => {
                self.events.extend(events.iter().take(8).map(|event| event.event(self.now)));
                self.settles();
            }
            Step::Withhold(event) => self.withheld.push_back(event),
            Step::Exits(are_told) => self.happens(Event::Exits { are_told }),
            Step::Rescan => self.happens(Event::Rescan),
            Step::Pass(exponent) => self.passes(Duration::from_millis(1 << (exponent % 18))),
            Step::Stray { life, word } => self.strays(life, word),
            Step::Restart { is_held } => self.restarts(is_held),
        }
    }

    fn binds(&mut self, name: u8, number: u8, is_told: bool) {
        let name = name_of(name);
        self.last_inode += 1;
        self.last_start += 1;
        let inode = Inode(self.last_inode);
        self.bound.insert(inode.0, Process { pid: pid(number), started: self.last_start });
        self.directory.insert(name.clone(), inode);
        if is_told {
            self.happens(Event::Created { name, inode });
        }
    }

    fn some_life(&self, number: u8, is_meant: impl Fn(&Life) -> bool) -> Option<Incarnation> {
        let meant: Vec<Incarnation> = self
            .lives
            .iter()
            .filter_map(|(&incarnation, life)| is_meant(life).then_some(incarnation))
            .collect();
        meant.get(usize::from(number) % meant.len().max(1)).copied()
    }

    fn connected(&self, number: u8) -> Option<Incarnation> {
        self.some_life(number, |life| life.is_connected)
    }

    fn life(&mut self, incarnation: Incarnation) -> &mut Life {
        assert!(!self.over.contains(&incarnation), "{incarnation:?} is over");
        self.lives.get_mut(&incarnation).expect("a life that has begun")
    }

    fn closes(&mut self, incarnation: Incarnation) {
        let life = self.life(incarnation);
        (life.is_connected, life.asked) = (false, None);
        self.happens(Event::Of(incarnation, Said::Closed));
    }

    fn dies(&mut self, incarnation: Incarnation) {
        let life = self.life(incarnation);
        let Some(process) = life.process else { return };
        let is_told = life.has_pidfd && life.is_held && !life.is_dead;
        life.is_dead |= is_told;
        self.dead.insert(process.started);
        if is_told {
            self.happens(Event::Of(incarnation, Said::Died));
        }
    }

    /// QEMU says something, and the world remembers what it amounts to.
    fn says(&mut self, incarnation: Incarnation, message: Message) {
        let (now, window) = (self.now, self.settings.powerdown_window);
        let life = self.life(incarnation);
        let asked = life.asked;
        match &message {
            Message::Event(qmp::Event::Shutdown(data)) if life.going.is_none() => {
                let is_open = |at: Moment| window.is_none_or(|window| now.since(at) < window);
                life.going = Some(Going {
                    data: data.clone(),
                    was_requested: life.requested.is_some_and(is_open),
                    had_panicked: life.has_panicked,
                });
            }
            Message::Event(qmp::Event::Powerdown) => life.requested = Some(now),
            Message::Event(qmp::Event::GuestPanicked) => life.has_panicked = true,
            Message::Event(qmp::Event::Reset) => {
                life.requested = None;
                life.comes_back();
            }
            Message::Event(qmp::Event::Resume) => life.comes_back(),
            Message::Return(qmp::Answer::Status { running })
                if asked == Some(Command::QueryStatus) =>
            {
                life.asked = None;
                if *running {
                    life.comes_back();
                }
            }
            _ => {}
        }
        self.happens(Event::Of(incarnation, Said::Heard(message)));
    }

    /// Nobody is meant: nothing comes of it.
    fn strays(&mut self, number: u8, word: Option<Word>) {
        let over: Vec<Incarnation> = self.over.iter().copied().collect();
        let stray = over.get(usize::from(number) % over.len().max(1)).copied();
        let said = word.map_or(Said::Died, |word| Said::Heard(word.message()));
        let mut actions = Vec::new();
        let event = Event::Of(stray.unwrap_or(Incarnation(u64::MAX)), said);
        self.node.handle(self.now, event, &mut actions);
        assert!(actions.is_empty(), "{actions:?}");
    }

    /// The daemon is killed and started again.
    fn restarts(&mut self, is_held: bool) {
        assert_round_trip(&self.node);
        let memory = written(&self.journal);
        let remembered: BTreeSet<Incarnation> =
            memory.lives().map(|life| life.incarnation).collect();
        let forgotten: Vec<Incarnation> =
            self.lives.keys().copied().filter(|life| !remembered.contains(life)).collect();
        for incarnation in forgotten {
            self.lives.remove(&incarnation);
            self.current.retain(|_, current| *current != incarnation);
        }
        let mut repeated = Vec::new();
        for (&incarnation, life) in &mut self.lives {
            let (was_connected, was_dead) = (life.is_connected, life.is_dead);
            let is_kept = is_held && life.is_held && life.has_pidfd && life.process.is_some();
            (life.is_held, life.is_connected) = (is_kept, is_kept);
            life.has_pidfd = is_kept;
            (life.is_dead, life.is_consulted, life.asked) = (false, false, None);
            life.is_superseded = false;
            // It is made anew, if it can be.
            if life.has_failed {
                (life.decided, life.has_failed) = (None, false);
            }
            // Their descriptors are as readable as they were.
            if is_kept && !was_connected {
                repeated.push((incarnation, Said::Closed));
            }
            if is_kept && was_dead {
                repeated.push((incarnation, Said::Died));
            }
        }
        self.current = self
            .lives
            .iter()
            .map(|(&incarnation, life)| (life.name.clone(), incarnation))
            .collect();
        let superseded =
            self.lives.iter_mut().filter(|(id, life)| self.current[&life.name] != **id);
        superseded.for_each(|(_, life)| life.is_superseded = true);
        self.watched.clear();
        self.announced.clear();
        self.outbox.clear();
        // The number of a life that was never connected to may be given again.
        if let Some(Entry::Last(last)) = memory.clone().entries().next() {
            self.over.retain(|&life| life <= last);
        }

        self.node = Node::new(self.settings.clone(), self.now);
        self.has_written = false;
        let mut actions = Vec::new();
        let lives = &self.lives;
        let is_kept = |incarnation| lives[&incarnation].is_held;
        self.node.recall(self.now, memory, is_kept, &mut actions);
        for action in actions {
            self.performs(action);
        }
        self.settles();
        self.happens(Event::Exits { are_told: true });
        self.passes(Duration::ZERO);
        for (incarnation, said) in repeated {
            let Some(life) = self.lives.get_mut(&incarnation) else { continue };
            match said {
                Said::Closed => (life.is_connected, life.asked) = (false, None),
                _ => life.is_dead = true,
            }
            self.happens(Event::Of(incarnation, said));
        }
    }

    fn happens(&mut self, event: Event) {
        self.events.push_back(event);
        self.settles();
    }

    /// Whoever reads the journal knows what the node remembers.
    fn writes_down(&mut self) {
        if !self.node.has_changes() {
            return;
        }
        if std::mem::replace(&mut self.has_written, true) {
            self.node.changes().for_each(|entry| self.journal.read(entry));
        } else {
            self.journal = self.node.to_memory();
        }
        self.node.mark_saved();
        // The first entry is how many there were, of which some may never have been connected to.
        let lives = |memory: Memory| memory.entries().skip(1).collect::<Vec<_>>();
        assert_eq!(lives(self.journal.clone()), lives(self.node.to_memory()));
    }

    /// As the daemon does it: what came of an action is handled after what was there before.
    fn settles(&mut self) {
        let mut handled = 0;
        while let Some(event) = self.events.pop_front() {
            if let Event::Created { name, inode } | Event::Listed { name, inode } = &event {
                let (name, inode) = (name.clone(), *inode);
                let current = self.current.get(&name).and_then(|life| self.lives.get_mut(life));
                if let Some(life) = current.filter(|life| life.inode != inode) {
                    life.is_superseded = true;
                }
            }
            let mut actions = Vec::new();
            self.node.handle(self.now, event, &mut actions);
            for action in actions {
                self.performs(action);
            }
            handled += 1;
            assert!(handled < MOST_EVENTS, "it does not come to an end");
        }
        self.writes_down();
        // The commands are sent when nothing else is left to be done.
        for (incarnation, command) in std::mem::take(&mut self.outbox) {
            if let Some(life) = self.lives.get_mut(&incarnation).filter(|life| life.is_connected) {
                life.asked = Some(command);
            }
        }
    }

    fn passes(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.node.deadline() <= end {
            self.now = self.node.deadline().max(self.now);
            self.happens(Event::Tick);
            assert!(self.node.deadline() > self.now, "a tick does what is due");
        }
        self.now = end;
    }

    /// The life that an action is about, which may be the first that is heard of it.
    fn begun(&mut self, incarnation: Incarnation, name: &Name, inode: Inode) -> &mut Life {
        assert!(!self.over.contains(&incarnation), "{incarnation:?} is over");
        self.current
            .entry(name.clone())
            .and_modify(|current| *current = (*current).max(incarnation))
            .or_insert(incarnation);
        let life = self.lives.entry(incarnation).or_insert_with(|| Life {
            name: name.clone(),
            inode,
            is_held: false,
            is_connected: false,
            is_unfit: false,
            process: None,
            has_pidfd: false,
            is_dead: false,
            is_superseded: false,
            is_recorded: false,
            asked: None,
            is_consulted: false,
            going: None,
            requested: None,
            has_panicked: false,
            decided: None,
            has_failed: false,
        });
        assert_eq!((&life.name, life.inode), (name, inode), "a life has one socket");
        life
    }

    fn performs(&mut self, action: Action) {
        match action {
            Action::LookAgain => {
                let there = self.directory.iter();
                let listed =
                    there.map(|(name, &inode)| Event::Listed { name: name.clone(), inode });
                self.events.extend(listed);
            }
            Action::Start { name } => *self.announced.entry(name).or_default() += 1,
            Action::Stop { name } => {
                let count = self.announced.entry(name).or_default();
                *count -= 1;
                assert!(*count >= 0, "what ends has begun");
            }
            Action::Connect { incarnation, name, inode } => {
                let said = self.connects(incarnation, &name, inode);
                self.events.push_back(Event::Of(incarnation, said));
            }
            Action::Send { incarnation, command } => {
                let life = self.life(incarnation);
                assert!(!life.is_recorded, "{life:?}");
                self.outbox.push((incarnation, command));
            }
            Action::Probe { incarnation, process } => {
                let is_dead = self.dead.contains(&process.started);
                let life = self.life(incarnation);
                assert_eq!(life.process, Some(process));
                life.is_dead |= is_dead;
                let said = if is_dead { Said::Died } else { Said::Lives };
                self.events.push_back(Event::Of(incarnation, said));
            }
            Action::Consult { incarnation, questions } => self.answers(incarnation, questions),
            Action::LookInto { incarnation, at, sender } => {
                assert!(!self.life(incarnation).is_recorded);
                let task = sender.pid.expect("who has a number");
                let said = Said::LookedInto { at, task, sender: None };
                self.events.push_back(Event::Of(incarnation, said));
            }
            Action::Watch { pid } => assert!(self.watched.insert(pid), "{pid} twice"),
            Action::Unwatch { pid } => assert!(self.watched.remove(&pid), "{pid} twice"),
            Action::Create { incarnation, name, inode, only_in_time } => {
                self.judges_create(incarnation, only_in_time);
                self.changes(incarnation, &name, inode, Some(true));
            }
            Action::Remove { incarnation, name, inode, why } => {
                let decided = (why == RemoveReason::NotTheUser).then_some(false);
                self.changes(incarnation, &name, inode, decided);
            }
            Action::Release { incarnation } => {
                // A socket that may be stale, and was not even tried, has not been heard of.
                self.lives.remove(&incarnation);
                self.current.retain(|_, current| *current != incarnation);
                assert!(self.over.insert(incarnation), "{incarnation:?} twice");
            }
            Action::Answered { name, .. } | Action::WarnSilent { name, .. } => {
                assert!(self.lives.values().any(|life| life.name == name));
            }
            Action::Record { incarnation, death } => {
                self.records(&death);
                self.node.forget(incarnation);
            }
        }
    }

    fn connects(&mut self, incarnation: Incarnation, name: &Name, inode: Inode) -> Said {
        let is_there = self.directory.get(name) == Some(&inode);
        let bound = self.bound[&inode.0];
        let lives = !self.dead.contains(&bound.started);
        let how = self.accepting.pop_front();
        self.last_start += 1;
        let another = self.last_start;
        let life = self.begun(incarnation, name, inode);
        assert!(!life.is_recorded && !life.is_connected, "{life:?}");
        let how = match how {
            _ if !is_there && !life.is_held => Accepting::Gone,
            // What is held open is there.
            Some(Accepting::Gone | Accepting::Unfit) if life.is_held => Accepting::Refused,
            Some(how) => how,
            None if lives => Accepting::Well { has_pidfd: true, age: Some(1) },
            None => Accepting::Refused,
        };
        let (process, has_pidfd, age) = match how {
            Accepting::Well { has_pidfd, age } => (Some(bound), has_pidfd, age),
            Accepting::ByAnother { pid: number } => {
                (Some(Process { pid: pid(number), started: another }), true, None)
            }
            Accepting::Unknown => (None, false, None),
            Accepting::Refused => return Said::NotConnected(ConnectError::Refused),
            Accepting::Busy => return Said::NotConnected(ConnectError::Busy),
            Accepting::Gone => return Said::NotConnected(ConnectError::Gone),
            Accepting::Unfit => {
                life.is_unfit = true;
                return Said::NotConnected(ConnectError::Unfit);
            }
        };
        life.is_connected = true;
        if life.is_held {
            // Its process is known from the first time.
            return Said::Connected(Peer { process: None, has_pidfd: false, age: None });
        }
        life.is_held = true;
        if life.process.is_none() {
            life.process = process;
        }
        life.has_pidfd = has_pidfd && life.process == process;
        let age = age.map(|seconds| Duration::from_secs(seconds.into()));
        let peer = Peer { process, has_pidfd, age };
        if process.is_some_and(|process| self.dead.contains(&process.started)) && has_pidfd {
            // It tells so at once, after the connection.
            self.life(incarnation).is_dead = true;
            self.events.push_back(Event::Of(incarnation, Said::Connected(peer)));
            return Said::Died;
        }
        Said::Connected(peer)
    }

    fn answers(&mut self, incarnation: Incarnation, questions: Questions) {
        assert_ne!(questions, Questions::default(), "nothing is asked");
        if questions.signals {
            let now = self.now;
            self.events.extend(self.withheld.drain(..).map(|event| event.event(now)));
        }
        let Answering { status, logged, out_of_memory } = self.answering;
        let life = self.life(incarnation);
        assert!(!life.is_recorded && !life.is_consulted, "{life:?}");
        life.is_consulted = true;
        let answers = Answers {
            status: match status.filter(|_| questions.status) {
                Some(Some(ending)) => StatusAnswer::Known(ending.status()),
                Some(None) => StatusAnswer::NotYet,
                None => StatusAnswer::Never,
            },
            logged: logged.filter(|_| questions.own_log).map(|sort| (sort.signal(), shell())),
            out_of_memory: out_of_memory && questions.out_of_memory,
        };
        life.is_consulted = false;
        self.events.push_back(Event::Of(incarnation, Said::Consulted(answers)));
    }

    /// The file is created only where QEMU said something that its user can have done.
    fn judges_create(&mut self, incarnation: Incarnation, only_in_time: bool) {
        let signals_are_users = self.settings.signal_shutdown == SignalShutdown::User;
        let resets_are_users = self.settings.guest_reset == GuestReset::User;
        let life = self.life(incarnation);
        let Some(Going { data, was_requested, had_panicked }) = &life.going else {
            panic!("QEMU has not said that it shuts down: {life:?}");
        };
        assert!(!was_requested, "{life:?}");
        let is_by_guest = !had_panicked && !only_in_time;
        let is_by_signal = signals_are_users && only_in_time;
        let may_be_users = match (&data.reason, data.guest) {
            (Some(Reason::GuestShutdown), _) | (None, Some(true)) => is_by_guest,
            (Some(Reason::GuestReset), _) => is_by_guest && resets_are_users,
            (Some(Reason::HostSignal), _) | (None, Some(false)) => is_by_signal,
            (None, None) => is_by_guest || is_by_signal,
            _ => false,
        };
        assert!(may_be_users, "{life:?}");
    }

    /// Creates or removes the file; `decided` if that is what the verdict wants.
    fn changes(
        &mut self,
        incarnation: Incarnation,
        name: &Name,
        inode: Inode,
        decided: Option<bool>,
    ) {
        let outcome = match self.changing.pop_front() {
            None => FileOutcome::Done,
            Some(Changing::LeftAlone) => FileOutcome::LeftAlone,
            Some(Changing::Failed) => FileOutcome::Failed,
        };
        let life = self.life(incarnation);
        assert_eq!((&life.name, life.inode), (name, inode), "a life has one socket");
        assert!(!life.is_superseded, "the name is another's: {life:?}");
        assert!(!life.is_recorded || life.has_failed, "it is over: {life:?}");
        if let Some(decided) = decided {
            let is_new = life.decided.is_none();
            assert!(is_new || life.has_failed && life.decided == Some(decided), "{life:?}");
            life.decided = Some(decided);
            life.has_failed = outcome == FileOutcome::Failed;
        }
        self.events.push_back(Event::Of(incarnation, Said::File(outcome)));
    }

    fn records(&mut self, death: &Death) {
        assert_fit_to_print(&death.to_string());
        assert!(death.case.timeline().pieces().len() <= MOST_PIECES);
        assert!(death.missing.len() <= MOST_MISSING);
        let is_it = |life: &Life| {
            (&life.name, life.process) == (&death.name, death.process) && !life.is_recorded
        };
        let mut those = self.lives.values_mut().filter(|life| is_it(life));
        let life = those.next().expect("who has ended has lived, and ends once");
        if those.next().is_some() {
            // Two under one name whose processes nobody knows cannot be told apart here.
            return;
        }
        life.is_recorded = true;
        let may_have_ended = life.is_dead || death.process.is_none() || life.is_superseded;
        assert!(may_have_ended, "{life:?}");
        let is_users = death.verdict.initiator == Initiator::User
            && (death.verdict.cause != Cause::GuestReset
                || self.settings.guest_reset == GuestReset::User);
        if let Some(is_to_be_there) = death.file {
            assert_eq!(is_to_be_there, is_users, "{death}: {life:?}");
        }
        if !life.is_superseded && life.decided.is_some() {
            assert_eq!(death.file, life.decided, "{death}: {life:?}");
        }
    }

    fn stays_bounded(&self) {
        assert!(self.node.watched() <= self.lives.len());
        assert!(self.node.to_memory().lives().count() <= self.lives.len());
    }

    /// Everything ends, and nothing is left.
    fn winds_up(&mut self) {
        self.directory.clear();
        self.accepting.clear();
        self.changing.clear();
        self.dead.extend(0..=self.last_start);
        let lives: Vec<Incarnation> = self.lives.keys().copied().collect();
        for incarnation in lives {
            if self.lives.get(&incarnation).is_some_and(|life| life.is_connected) {
                self.closes(incarnation);
            }
            if self.lives.contains_key(&incarnation) {
                self.dies(incarnation);
            }
        }
        self.passes(Duration::from_secs(400));
        self.lives.retain(|_, life| !life.is_unfit);
        assert!(self.lives.is_empty(), "{:?}", self.lives);
        assert_eq!(self.node.watched(), 0);
        assert_eq!(self.node.to_memory().lives().count(), 0);
        assert!(self.watched.is_empty(), "{:?}", self.watched);
        assert!(self.announced.values().all(|&count| count == 0), "{:?}", self.announced);
    }
}

impl Life {
    /// The guest runs again: what was decided no longer holds.
    fn comes_back(&mut self) {
        self.has_panicked = false;
        if self.going.take().is_some() {
            (self.decided, self.has_failed) = (None, false);
        }
    }
}

fn name_of(number: u8) -> Name {
    Name::new(NAMES[usize::from(number) % NAMES.len()])
}
