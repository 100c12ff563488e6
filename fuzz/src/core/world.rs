//! What is around the node: a directory with sockets, processes, connections, files, clocks.
//!
//! It keeps to what a kernel can do (a pidfd reports a death that has happened, an inode that is
//! held open is not used again) and to nothing else. It does what the node asks for, and returns or
//! queues what comes of that. Whether the node was right to ask, the oracle says: to that it
//! reports what each life does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kvmd::id::{Incarnation, Inode, Moment, Name, Process};
use kvmd::verdict::{Event, Memory, Said, Settings};
use kvmd::wire::qmp::{Answer, Command, Message};

use super::oracle::{Account, asks_to_end};
use super::play::{self, Accepting, Answering, Changing, Kernel};

mod actions;

/// One life: its socket, its process, and the daemon's connection to it.
#[derive(Debug)]
pub(super) struct Life {
    name: Name,
    inode: Inode,
    process: Option<Process>,
    /// The socket, and the pidfd where there is one, are held open.
    is_held: bool,
    is_connected: bool,
    has_pidfd: bool,
    /// What bears its name is no socket. It was looked at once and is not again, even if it is
    /// removed.
    is_unfit: bool,
    /// The node has been told.
    is_dead: bool,
    asked: Option<Command>,
    account: Account,
}

impl Life {
    fn new(name: Name, inode: Inode) -> Self {
        Self {
            name,
            inode,
            process: None,
            is_held: false,
            is_connected: false,
            has_pidfd: false,
            is_unfit: false,
            is_dead: false,
            asked: None,
            account: Account::default(),
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.is_connected
    }

    pub(super) fn has_process(&self) -> bool {
        self.process.is_some()
    }

    /// Its pidfd is readable, and has been read.
    pub(super) fn has_reported_death(&self) -> bool {
        self.is_dead && self.has_pidfd && self.is_held
    }

    pub(super) fn account(&self) -> &Account {
        &self.account
    }
}

/// What the kernel knows, whether or not a daemon runs.
#[derive(Debug, Default)]
struct Machine {
    directory: BTreeMap<Name, Inode>,
    /// Who bound each socket.
    bound: BTreeMap<u64, Process>,
    /// The processes that are dead, by their start.
    dead: BTreeSet<u64>,
    last_inode: u64,
    last_start: u64,
}

/// How the input answers what the node does next.
#[derive(Debug, Default)]
struct Coming {
    accepting: VecDeque<Accepting>,
    changing: VecDeque<Changing>,
    answering: Answering,
    withheld: VecDeque<Kernel>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Moment,
    settings: Settings,
    machine: Machine,
    coming: Coming,
    lives: BTreeMap<Incarnation, Life>,
    /// The latest life under each name.
    current: BTreeMap<Name, Incarnation>,
    over: BTreeSet<Incarnation>,
    /// Commands on their way: they are sent when nothing else is left to be done.
    outbox: Vec<(Incarnation, Command)>,
    /// Lives whose end is recorded, and which the node may forget.
    recorded: Vec<Incarnation>,
    watched: BTreeSet<u32>,
    announced: BTreeMap<Name, i32>,
}

impl World {
    pub(super) fn new(settings: Settings, now: Moment) -> Self {
        Self {
            now,
            settings,
            machine: Machine::default(),
            coming: Coming::default(),
            lives: BTreeMap::new(),
            current: BTreeMap::new(),
            over: BTreeSet::new(),
            outbox: Vec::new(),
            recorded: Vec::new(),
            watched: BTreeSet::new(),
            announced: BTreeMap::new(),
        }
    }

    pub(super) fn lives(&self) -> &BTreeMap<Incarnation, Life> {
        &self.lives
    }

    /// One of the lives of this kind, if there are any.
    pub(super) fn some_life(
        &self,
        number: u8,
        is_meant: impl Fn(&Life) -> bool,
    ) -> Option<Incarnation> {
        let meant: Vec<Incarnation> = self
            .lives
            .iter()
            .filter_map(|(&incarnation, life)| is_meant(life).then_some(incarnation))
            .collect();
        meant.get(usize::from(number) % meant.len().max(1)).copied()
    }

    /// One of the lives that are over, if there are any.
    pub(super) fn some_over(&self, number: u8) -> Option<Incarnation> {
        let over: Vec<Incarnation> = self.over.iter().copied().collect();
        over.get(usize::from(number) % over.len().max(1)).copied()
    }

    fn life(&mut self, incarnation: Incarnation) -> &mut Life {
        assert!(!self.over.contains(&incarnation), "{incarnation:?} is over");
        self.lives.get_mut(&incarnation).expect("a life that has begun")
    }

    pub(super) fn binds(&mut self, number: u8, pid: u8) -> Event {
        let Machine { directory, bound, last_inode, last_start, .. } = &mut self.machine;
        let name = play::name(number);
        *last_inode += 1;
        *last_start += 1;
        let inode = Inode(*last_inode);
        bound.insert(inode.0, Process { pid: play::pid(pid), started: *last_start });
        directory.insert(name.clone(), inode);
        Event::Created { name, inode }
    }

    pub(super) fn reports_again(&self, number: u8) -> Option<Event> {
        let name = play::name(number);
        let &inode = self.machine.directory.get(&name)?;
        Some(Event::Created { name, inode })
    }

    pub(super) fn unbinds(&mut self, number: u8) {
        self.machine.directory.remove(&play::name(number));
    }

    pub(super) fn will_accept(&mut self, how: Accepting) {
        self.coming.accepting.push_back(how);
    }

    pub(super) fn will_change(&mut self, how: Changing) {
        self.coming.changing.push_back(how);
    }

    pub(super) fn will_answer(&mut self, answering: Answering) {
        self.coming.answering = answering;
    }

    pub(super) fn withholds(&mut self, event: Kernel) {
        self.coming.withheld.push_back(event);
    }

    /// The kernel reports something, to whom it may concern.
    pub(super) fn reports(&mut self, event: Kernel) -> Event {
        if let Kernel::Signalled { pid, sort } = event
            && asks_to_end(sort.signal())
        {
            let pid = play::pid(pid);
            let is_meant = |life: &&mut Life| life.process.is_some_and(|it| it.pid == pid);
            self.lives.values_mut().filter(is_meant).for_each(|life| life.account.is_signalled());
        }
        event.event(self.now)
    }

    pub(super) fn closes(&mut self, incarnation: Incarnation) -> Event {
        let life = self.life(incarnation);
        (life.is_connected, life.asked) = (false, None);
        Event::Of(incarnation, Said::Closed)
    }

    pub(super) fn dies(&mut self, incarnation: Incarnation) -> Option<Event> {
        let life = self.life(incarnation);
        let process = life.process?;
        let is_reported = life.has_pidfd && life.is_held && !life.is_dead;
        life.is_dead |= is_reported;
        self.machine.dead.insert(process.started);
        is_reported.then_some(Event::Of(incarnation, Said::Died))
    }

    /// What QEMU answers that was asked this, as one that runs does, wherever it is known what that
    /// means.
    pub(super) fn answer(&self, incarnation: Incarnation) -> Message {
        let life = &self.lives[&incarnation];
        Message::Return(match life.asked {
            Some(Command::QueryStatus) => {
                Answer::Status { running: life.account.can_be_asked(), panicked: false }
            }
            _ => Answer::Done,
        })
    }

    /// QEMU says something. Returns whether its guest goes down with it.
    pub(super) fn says(&mut self, incarnation: Incarnation, message: &Message) -> bool {
        let now = self.now;
        assert!(!self.over.contains(&incarnation), "{incarnation:?} is over");
        let life = self.lives.get_mut(&incarnation).expect("a life that has begun");
        let counts = life.account.speaks(message, now, &self.settings);
        match message {
            Message::Event(event, _) if counts => life.account.hears(event, now, &self.settings),
            &Message::Return(Answer::Status { running, .. })
                if life.asked == Some(Command::QueryStatus) =>
            {
                life.asked = None;
                if counts {
                    life.account.is_told_status(running);
                }
                false
            }
            _ => false,
        }
    }

    /// The commands go out.
    pub(super) fn sends(&mut self) {
        for (incarnation, command) in std::mem::take(&mut self.outbox) {
            if let Some(life) = self.lives.get_mut(&incarnation).filter(|life| life.is_connected) {
                life.asked = Some(command);
            }
        }
    }

    pub(super) fn take_recorded(&mut self) -> Vec<Incarnation> {
        std::mem::take(&mut self.recorded)
    }

    /// The daemon is killed, and another one goes on with `memory` and, if `is_held`, with its
    /// descriptors. Returns what can be read from these again.
    pub(super) fn is_taken_over(
        &mut self,
        memory: &Memory,
        is_held: bool,
    ) -> Vec<(Incarnation, Said)> {
        let remembered: BTreeSet<Incarnation> =
            memory.lives().map(|life| life.incarnation).collect();
        self.lives.retain(|incarnation, _| remembered.contains(incarnation));
        let mut readable = Vec::new();
        for (&incarnation, life) in &mut self.lives {
            let is_kept = is_held && life.is_held && life.has_pidfd && life.process.is_some();
            if is_kept && !life.is_connected {
                readable.push((incarnation, Said::Closed));
            }
            if is_kept && life.is_dead {
                readable.push((incarnation, Said::Died));
            }
            (life.is_held, life.is_connected, life.has_pidfd) = (is_kept, is_kept, is_kept);
            (life.is_dead, life.asked) = (false, None);
            life.account.is_taken_over(is_kept);
        }
        // The later of two has the name.
        let named = self.lives.iter().map(|(&incarnation, life)| (life.name.clone(), incarnation));
        self.current = named.collect();
        for (incarnation, life) in &mut self.lives {
            life.account.is_superseded = self.current[&life.name] != *incarnation;
        }
        self.watched.clear();
        self.announced.clear();
        self.outbox.clear();
        readable
    }

    /// The lives whose descriptors the next daemon was given.
    pub(super) fn held(&self) -> BTreeSet<Incarnation> {
        self.lives.iter().filter(|(_, life)| life.is_held).map(|(&life, _)| life).collect()
    }

    /// The number of a life that was never connected to may be given again by the next daemon, which
    /// counts from `last`.
    pub(super) fn counts_from(&mut self, last: Incarnation) {
        self.over.retain(|&life| life <= last);
    }

    /// Reads what has been readable since an earlier daemon, if the life is still there.
    pub(super) fn reads_again(&mut self, incarnation: Incarnation, said: &Said) -> bool {
        let Some(life) = self.lives.get_mut(&incarnation) else { return false };
        match said {
            Said::Closed => (life.is_connected, life.asked) = (false, None),
            _ => life.is_dead = true,
        }
        true
    }

    /// Every process dies, every socket is removed, and nothing else goes wrong.
    pub(super) fn ends(&mut self) {
        self.machine.directory.clear();
        self.coming.accepting.clear();
        self.coming.changing.clear();
        self.machine.dead.extend(0..=self.machine.last_start);
    }

    /// Nothing is left of what the daemon had here.
    pub(super) fn assert_nothing_is_left(&self) {
        let left: Vec<&Life> = self.lives.values().filter(|life| !life.is_unfit).collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(self.watched.is_empty(), "{:?}", self.watched);
        assert!(self.announced.values().all(|&count| count == 0), "{:?}", self.announced);
    }
}
