//! All instances of this node: which life an event belongs to, and when each is to be woken.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::life::{Context, Life};
use super::{Action, Entry, Event, Memory, Remembered, Settings};
use crate::id::{Incarnation, Inode, Moment, Name};

/// How often everything is looked at again, so that nothing stays missed for ever.
const RESCAN: Duration = Duration::from_secs(30);

/// How soon what could not be looked at is tried again first; twice as long after each failure.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// All instances of this node.
#[derive(Clone, Debug, Hash)]
pub struct Node {
    settings: Settings,
    exits_are_told: bool,
    /// Boxed: a node of the tree holds room for eleven, and half of them are empty.
    lives: BTreeMap<Incarnation, Box<Life>>,
    /// The latest life under each name.
    current: BTreeMap<Name, Incarnation>,
    by_pid: BTreeSet<(u32, Incarnation)>,
    deadlines: BTreeSet<(Moment, Incarnation)>,
    rescan_at: Moment,
    /// How many looks in a row have failed, and whether the latest has.
    failed_looks: u32,
    has_look_failed: bool,
    last: Incarnation,
    /// Lives of which there is something to be written down, some of them more than once.
    turned: Vec<Incarnation>,
    /// Lives that are to be remembered no more.
    over: Vec<Incarnation>,
    /// Lives that have ended, as they are remembered until that is told.
    untold: BTreeMap<Incarnation, Remembered>,
}

impl Node {
    #[must_use]
    pub fn new(settings: Settings, now: Moment) -> Self {
        Self {
            settings,
            exits_are_told: false,
            lives: BTreeMap::new(),
            current: BTreeMap::new(),
            by_pid: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            rescan_at: now,
            failed_looks: 0,
            has_look_failed: false,
            last: Incarnation(0),
            turned: Vec::new(),
            over: Vec::new(),
            untold: BTreeMap::new(),
        }
    }

    /// What has to outlive the daemon.
    #[must_use]
    pub fn to_memory(&self) -> Memory {
        let lives = self.lives.keys().chain(self.untold.keys());
        let lives = lives.filter_map(|&incarnation| self.remembered(incarnation));
        let lives = lives.map(|life| (life.incarnation, life));
        Memory { last: self.last, lives: lives.collect() }
    }

    /// What of that has changed since it was written down.
    pub fn changes(&mut self) -> impl Iterator<Item = Entry> {
        self.turned.sort_unstable();
        self.turned.dedup();
        let lives = self.turned.iter().filter_map(|&incarnation| self.remembered(incarnation));
        let lives = lives.map(|life| Entry::Lives(Box::new(life)));
        lives.chain(self.over.iter().copied().map(Entry::Over))
    }

    /// The daemon is about to end, or to hand over: every life of which something was held back is
    /// among the changes once more.
    pub fn catch_up(&mut self) {
        for (&incarnation, life) in &mut self.lives {
            let mark_before = life.mark();
            life.case.catch_up();
            if life.mark() != mark_before {
                self.turned.push(incarnation);
            }
        }
    }

    /// Whether anything has.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.turned.is_empty() || !self.over.is_empty()
    }

    /// It has been written down.
    pub fn mark_saved(&mut self) {
        self.turned.clear();
        self.over.clear();
    }

    /// The end of this life has been told ([`Action::Record`]). Until then it is remembered: a
    /// daemon that comes later will find out, and tell.
    pub fn forget(&mut self, incarnation: Incarnation) {
        self.untold.remove(&incarnation);
        self.over.push(incarnation);
    }

    /// One that has ended is remembered as it ended until that is told.
    fn remembered(&self, incarnation: Incarnation) -> Option<Remembered> {
        let untold = || self.untold.get(&incarnation).cloned();
        let life = self.lives.get(&incarnation);
        life.and_then(|life| life.to_remember(incarnation)).or_else(untold)
    }

    /// How many lives there are.
    #[must_use]
    pub fn lives(&self) -> usize {
        self.lives.len()
    }

    /// Goes on where an earlier daemon has ended, on the same boot of the machine. `is_kept` says
    /// whose connection and pidfd have outlived it. To be called before anything is handled.
    pub fn recall(
        &mut self,
        now: Moment,
        memory: Memory,
        is_kept: impl Fn(Incarnation) -> bool,
        actions: &mut Vec<Action>,
    ) {
        self.last = memory.last;
        let mut recalled = Vec::new();
        // In their order: of two under one name the later has it.
        for (incarnation, life) in memory.lives {
            self.last = self.last.max(incarnation);
            let life = Life::recalled(life, is_kept(incarnation), now);
            self.current.insert(life.name.clone(), incarnation);
            if let Some(pid) = life.watched_pid() {
                if !self.is_watched(pid) {
                    actions.push(Action::Watch { pid });
                }
                self.by_pid.insert((pid, incarnation));
            }
            life.deadline().map(|at| self.deadlines.insert((at, incarnation)));
            self.lives.insert(incarnation, Box::new(life));
            recalled.push(incarnation);
        }
        // Not before it is known who has each name.
        for incarnation in recalled {
            self.with(incarnation, now, actions, Life::resume);
        }
    }

    /// When the next [`Event::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Moment {
        self.deadlines.first().map_or(self.rescan_at, |&(first, _)| first.min(self.rescan_at))
    }

    /// How many lives are being watched whose process is known and not dead.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.by_pid.len()
    }

    #[cfg(test)]
    pub(super) fn holds_nothing(&self) -> bool {
        self.lives.is_empty()
            && self.current.is_empty()
            && self.by_pid.is_empty()
            && self.deadlines.is_empty()
    }

    #[cfg(test)]
    pub(super) fn turned(&self) -> usize {
        self.turned.len()
    }

    /// Takes one event and appends what is to be done about it to `actions`.
    pub fn handle(&mut self, now: Moment, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Created { name, inode } => self.found(now, name, inode, true, actions),
            Event::Listed { name, inode } => self.found(now, name, inode, false, actions),
            Event::Rescan => self.rescan(now, actions),
            Event::LookFailed => self.look_failed(now),
            Event::Exits { are_told } => {
                self.exits_are_told = are_told;
                self.each(now, actions, Life::finish_if_complete);
            }
            Event::Exit { pid, status } => {
                self.each_of(pid, now, actions, |life, context| life.exited(status, context));
            }
            Event::CoreDump { pid } => {
                self.each_of(pid, now, actions, Life::began_core_dump);
            }
            Event::Signalled { pid, sent } => {
                self.each_of(pid, now, actions, |life, context| life.signalled(&sent, context));
            }
            Event::OutOfMemory { pid, at } => {
                self.each_of(pid, now, actions, |life, context| {
                    life.chosen_by_oom_killer(at, context);
                });
            }
            Event::Of(incarnation, said) => {
                self.with(incarnation, now, actions, |life, context| life.take(said, context));
            }
            Event::Tick => self.tick(now, actions),
        }
    }

    fn tick(&mut self, now: Moment, actions: &mut Vec<Action>) {
        while let Some(&(_, incarnation)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
            self.with(incarnation, now, actions, Life::tick);
        }
        if self.rescan_at <= now {
            self.rescan(now, actions);
        }
    }

    fn rescan(&mut self, now: Moment, actions: &mut Vec<Action>) {
        self.rescan_at = now + RESCAN;
        if !std::mem::take(&mut self.has_look_failed) {
            self.failed_looks = 0;
        }
        actions.push(Action::LookAgain);
        self.each(now, actions, Life::rescan);
    }

    fn look_failed(&mut self, now: Moment) {
        if !std::mem::replace(&mut self.has_look_failed, true) {
            self.failed_looks += 1;
        }
        let doublings = (self.failed_looks - 1).min(16);
        self.rescan_at = self.rescan_at.min(now + (TRY_AGAIN * (1 << doublings)).min(RESCAN));
    }

    /// A socket was seen under `name`.
    fn found(
        &mut self,
        now: Moment,
        name: Name,
        inode: Inode,
        is_new: bool,
        actions: &mut Vec<Action>,
    ) {
        if let Some(&incarnation) = self.current.get(&name) {
            let same = self.lives.get(&incarnation).is_some_and(|life| life.inode == inode);
            if same {
                if is_new {
                    self.with(incarnation, now, actions, Life::found_again);
                } else if let Some(life) = self.lives.get_mut(&incarnation) {
                    life.link.was_listed();
                }
                return;
            }
        }
        let previous = self.begin(now, Life::new(name, inode, now), actions);
        if let Some(previous) = previous {
            self.with(previous, now, actions, Life::supersede);
        }
    }

    /// Begins a life; returns the one that held the name before.
    fn begin(&mut self, now: Moment, life: Life, actions: &mut Vec<Action>) -> Option<Incarnation> {
        self.last.0 += 1;
        let incarnation = self.last;
        let previous = self.current.insert(life.name.clone(), incarnation);
        self.lives.insert(incarnation, Box::new(life));
        self.with(incarnation, now, actions, Life::begin);
        previous
    }

    fn each(
        &mut self,
        now: Moment,
        actions: &mut Vec<Action>,
        mut handle: impl FnMut(&mut Life, &mut Context<'_>),
    ) {
        let incarnations: Vec<Incarnation> = self.lives.keys().copied().collect();
        for incarnation in incarnations {
            self.with(incarnation, now, actions, &mut handle);
        }
    }

    fn each_of(
        &mut self,
        pid: u32,
        now: Moment,
        actions: &mut Vec<Action>,
        mut handle: impl FnMut(&mut Life, &mut Context<'_>),
    ) {
        let mut after = Incarnation(0);
        while let Some(&(_, incarnation)) =
            self.by_pid.range((pid, after)..=(pid, Incarnation(u64::MAX))).next()
        {
            self.with(incarnation, now, actions, &mut handle);
            after = Incarnation(incarnation.0 + 1);
        }
    }

    /// Has one life handle something, and keeps the indices true to what became of it.
    fn with(
        &mut self,
        incarnation: Incarnation,
        now: Moment,
        actions: &mut Vec<Action>,
        handle: impl FnOnce(&mut Life, &mut Context<'_>),
    ) {
        let Some(life) = self.lives.get_mut(&incarnation) else { return };
        let (pid_before, deadline_before) = (life.watched_pid(), life.deadline());
        let mark_before = life.mark();
        let is_current = self.current.get(&life.name) == Some(&incarnation);
        let exits_are_told = self.exits_are_told;
        let settings = &self.settings;
        let untold = &mut self.untold;
        let mut context =
            Context { now, incarnation, is_current, exits_are_told, settings, actions, untold };
        handle(life, &mut context);

        let has_turned = life.mark() != mark_before;
        let (pid, deadline) = (life.watched_pid(), life.deadline());
        if deadline != deadline_before {
            deadline_before.map(|at| self.deadlines.remove(&(at, incarnation)));
            deadline.map(|at| self.deadlines.insert((at, incarnation)));
        }
        let over = life.is_over().then(|| (life.name.clone(), life.remains()));
        if life.is_over() && life.ends_untold() {
            self.over.push(incarnation);
        }
        if pid != pid_before {
            if let Some(pid) = pid_before {
                self.by_pid.remove(&(pid, incarnation));
                if !self.is_watched(pid) {
                    actions.push(Action::Unwatch { pid });
                }
            }
            if let Some(pid) = pid {
                if !self.is_watched(pid) {
                    actions.push(Action::Watch { pid });
                }
                self.by_pid.insert((pid, incarnation));
            }
        }
        if has_turned {
            self.note_turn(incarnation);
        }
        if let Some((name, remains)) = over {
            self.end(now, incarnation, &name, remains, actions);
        }
    }

    /// Something has changed that is to be written down. That may fail for long: each life is noted a few
    /// times at most.
    fn note_turn(&mut self, incarnation: Incarnation) {
        self.turned.push(incarnation);
        if self.turned.len() > 64 + 2 * self.lives.len() {
            self.turned.sort_unstable();
            self.turned.dedup();
        }
    }

    fn is_watched(&self, pid: u32) -> bool {
        self.by_pid.range((pid, Incarnation(0))..=(pid, Incarnation(u64::MAX))).next().is_some()
    }

    fn end(
        &mut self,
        now: Moment,
        incarnation: Incarnation,
        name: &Name,
        remains: Option<Life>,
        actions: &mut Vec<Action>,
    ) {
        if let Some(life) = self.lives.remove(&incarnation)
            && let Some(at) = life.deadline()
        {
            self.deadlines.remove(&(at, incarnation));
        }
        actions.push(Action::Release { incarnation });
        if self.current.get(name) == Some(&incarnation) {
            self.current.remove(name);
            if let Some(remains) = remains {
                self.begin(now, remains, actions);
            }
        }
    }
}
