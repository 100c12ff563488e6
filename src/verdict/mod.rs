//! Weighs the evidence: why did each virtual machine die, and was it its user's doing?
//!
//! [`Node`] takes an [`Event`] and gives [`Action`]s. It does no I/O, it reads no clock, and
//! it must not know what a file descriptor is: the daemon performs the actions and reports
//! what came of them as further events. Whatever order the sources speak in, the verdict is
//! the same.

#![forbid(unsafe_code)]

mod cause;
mod conversation;
mod death;
mod instance;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::Add;
use std::sync::Arc;
use std::time::Duration;

pub use cause::{Cause, Initiator, Verdict};
pub use death::{Death, Missing};

use crate::wire::qmp::Message;
use crate::wire::{Quoted, WaitStatus};
use instance::Instance;

/// How often everything is looked at again, so that nothing stays missed for ever.
const RESCAN: Duration = Duration::from_secs(30);

/// What can be read in two ways, and how it is to be read.
#[derive(Clone, Debug)]
pub struct Settings {
    pub guest_reset: GuestReset,
    pub signal_shutdown: SignalShutdown,
    /// For how long a powerdown request explains a shutdown; for ever if absent.
    pub powerdown_window: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            guest_reset: GuestReset::User,
            signal_shutdown: SignalShutdown::Admin,
            powerdown_window: Some(Duration::from_secs(3600)),
        }
    }
}

/// What a guest's reset means where QEMU ends instead (`-no-reboot`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestReset {
    /// A user's shutdown, as Ganeti's manual has it.
    User,
    /// A wish to be started again: no file.
    Restart,
}

/// Whose doing it is if a signal asks QEMU to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalShutdown {
    Admin,
    /// The reading of the original, on which Ganeti's own tests rely.
    User,
}

/// A point in time: what `CLOCK_MONOTONIC` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Duration);

impl Moment {
    /// The time from `earlier` until now; none if that lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// An instance's name, as it is spelt in the control directory: any bytes but `/` and NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

impl Name {
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Quoted(&self.0).fmt(f)
    }
}

/// The inode of a `.kvmd` socket. A socket that is bound again has another one, as long as
/// the first is held open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode(pub u64);

/// One life of an instance. Never used twice, so that what belongs to one life can never be
/// taken for the next one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// A process, told apart from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// In clock ticks since boot: field 22 of `/proc/PID/stat`, see proc(5).
    pub started: u64,
}

/// What a source has to tell.
#[derive(Debug)]
pub enum Event {
    /// `NAME.kvmd` has just come into the control directory.
    Created { name: Name, inode: Inode },
    /// `NAME.kvmd` is in the control directory.
    Listed { name: Name, inode: Inode },
    /// A source may have lost something: everything is to be looked at again.
    Rescan,
    /// Whether the kernel will tell of exits from now on.
    Exits { are_told: bool },
    /// The leader of this process has ended, with the process's status if it was no longer
    /// than a moment ahead of it. Not the end of the process: that is `Said::Died`.
    Exit { pid: u32, status: WaitStatus },
    /// This process dumps core, or would if it were not for its limit.
    CoreDump { pid: u32 },
    /// Something that concerns one life only.
    Of(Incarnation, Said),
    /// The time that [`Node::deadline`] named has come.
    Tick,
}

/// What a source tells of one life.
#[derive(Debug)]
pub enum Said {
    Connected(Peer),
    NotConnected(ConnectError),
    Heard(Message),
    /// The conversation has ended; the process may live on.
    Closed,
    /// The process is dead.
    Died,
    /// The process lives: the answer to [`Action::Probe`].
    Lives,
    /// What came of [`Action::Create`] or [`Action::Remove`].
    File(FileOutcome),
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Absent if the kernel does not show it and no pid file names it.
    pub process: Option<Process>,
    /// Whether the kernel will tell of the process's end. Else it is to be asked for.
    pub has_pidfd: bool,
}

/// Why a connection did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// Nobody listens: not yet, or no longer.
    Refused,
    /// Somebody listens and does not accept; or this process is short of a resource.
    Busy,
    /// The socket is there no more, or it is another one by now.
    Gone,
    /// It is no socket.
    Unfit,
}

/// What came of an attempt to create or remove a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileOutcome {
    Done,
    /// The name belongs to a later life: nothing was touched.
    Superseded,
    /// It will be tried again.
    Failed,
}

/// What the daemon is to do.
#[derive(Debug)]
pub enum Action {
    /// Look at everything again: whether each source still speaks, and what is in the control
    /// directory, each `.kvmd` as [`Event::Listed`].
    LookAgain,
    /// Say that this life is being watched from now on.
    Start {
        name: Name,
    },
    /// Say that it no longer is.
    Stop {
        name: Name,
    },
    /// Connect to the socket, if it still is the one with this inode.
    Connect {
        incarnation: Incarnation,
        name: Name,
        inode: Inode,
    },
    Send {
        incarnation: Incarnation,
        command: Command,
    },
    /// Look whether the process lives, and answer with `Said::Died` or `Said::Lives`.
    Probe {
        incarnation: Incarnation,
        process: Process,
    },
    /// Have the kernel tell of this process.
    Watch {
        pid: u32,
    },
    Unwatch {
        pid: u32,
    },
    /// Create `NAME.shutdown`, unless the name belongs to another socket than this by now.
    Create {
        incarnation: Incarnation,
        name: Name,
        inode: Inode,
    },
    /// Remove it, unless the name belongs to another socket than this by now.
    Remove {
        incarnation: Incarnation,
        name: Name,
        inode: Inode,
        why: RemoveReason,
    },
    /// Close what is held open for this life.
    Release {
        incarnation: Incarnation,
    },
    /// QEMU has answered for the first time in this life: from now on nothing of it is missed.
    Answered {
        name: Name,
        process: Option<Process>,
        running: bool,
    },
    /// QEMU is there and has not answered for a while.
    WarnSilent {
        name: Name,
        process: Option<Process>,
    },
    Record(Death),
}

/// What is said to QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Negotiate,
    QueryStatus,
}

/// Why a file is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveReason {
    /// The instance ended, and not by its user's will.
    NotTheUser,
    /// The instance runs.
    Runs,
}

/// All instances of this node.
#[derive(Debug)]
pub struct Node {
    settings: Settings,
    exits_are_told: bool,
    lives: HashMap<Incarnation, Instance>,
    /// The latest life under each name.
    current: HashMap<Name, Incarnation>,
    by_pid: BTreeSet<(u32, Incarnation)>,
    deadlines: BTreeSet<(Moment, Incarnation)>,
    rescan_at: Moment,
    last: Incarnation,
}

/// What an instance may look at and add to while it handles an event.
struct Context<'a> {
    now: Moment,
    incarnation: Incarnation,
    is_current: bool,
    exits_are_told: bool,
    settings: &'a Settings,
    actions: &'a mut Vec<Action>,
}

impl Node {
    #[must_use]
    pub fn new(settings: Settings, now: Moment) -> Self {
        Self {
            settings,
            exits_are_told: false,
            lives: HashMap::new(),
            current: HashMap::new(),
            by_pid: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            rescan_at: now,
            last: Incarnation(0),
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

    /// Takes one event and appends what is to be done about it to `actions`.
    pub fn handle(&mut self, now: Moment, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Created { name, inode } => self.found(now, name, inode, true, actions),
            Event::Listed { name, inode } => self.found(now, name, inode, false, actions),
            Event::Rescan => self.rescan(now, actions),
            Event::Exits { are_told } => {
                self.exits_are_told = are_told;
                self.each(now, actions, Instance::exits_changed);
            }
            Event::Exit { pid, status } => {
                self.each_of(pid, now, actions, |life, context| life.exited(status, context));
            }
            Event::CoreDump { pid } => {
                self.each_of(pid, now, actions, |life, _| life.dumps_core());
            }
            Event::Of(incarnation, said) => {
                self.with(incarnation, now, actions, |life, context| life.hear(said, context));
            }
            Event::Tick => self.tick(now, actions),
        }
    }

    fn tick(&mut self, now: Moment, actions: &mut Vec<Action>) {
        while let Some(&(_, incarnation)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
            self.with(incarnation, now, actions, Instance::tick);
        }
        if self.rescan_at <= now {
            self.rescan(now, actions);
        }
    }

    fn rescan(&mut self, now: Moment, actions: &mut Vec<Action>) {
        self.rescan_at = now + RESCAN;
        actions.push(Action::LookAgain);
        self.each(now, actions, Instance::rescan);
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
            let same = self.lives.get(&incarnation).is_some_and(|life| life.is_at(inode));
            if same {
                if is_new {
                    self.with(incarnation, now, actions, Instance::found_again);
                }
                return;
            }
        }
        let previous = self.begin(now, Instance::new(name, inode, now), actions);
        if let Some(previous) = previous {
            self.with(previous, now, actions, Instance::superseded);
        }
    }

    /// Begins a life; returns the one that held the name before.
    fn begin(
        &mut self,
        now: Moment,
        life: Instance,
        actions: &mut Vec<Action>,
    ) -> Option<Incarnation> {
        self.last.0 += 1;
        let incarnation = self.last;
        let previous = self.current.insert(life.name().clone(), incarnation);
        self.lives.insert(incarnation, life);
        self.with(incarnation, now, actions, Instance::begun);
        previous
    }

    fn each(
        &mut self,
        now: Moment,
        actions: &mut Vec<Action>,
        mut handle: impl FnMut(&mut Instance, &mut Context<'_>),
    ) {
        let mut incarnations: Vec<Incarnation> = self.lives.keys().copied().collect();
        incarnations.sort_unstable();
        for incarnation in incarnations {
            self.with(incarnation, now, actions, &mut handle);
        }
    }

    fn each_of(
        &mut self,
        pid: u32,
        now: Moment,
        actions: &mut Vec<Action>,
        mut handle: impl FnMut(&mut Instance, &mut Context<'_>),
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
        handle: impl FnOnce(&mut Instance, &mut Context<'_>),
    ) {
        let Some(life) = self.lives.get_mut(&incarnation) else { return };
        let (pid_before, deadline_before) = (life.watched_pid(), life.deadline());
        let is_current = self.current.get(life.name()) == Some(&incarnation);
        let exits_are_told = self.exits_are_told;
        let settings = &self.settings;
        let mut context =
            Context { now, incarnation, is_current, exits_are_told, settings, actions };
        handle(life, &mut context);

        let (pid, deadline) = (life.watched_pid(), life.deadline());
        if deadline != deadline_before {
            deadline_before.map(|at| self.deadlines.remove(&(at, incarnation)));
            deadline.map(|at| self.deadlines.insert((at, incarnation)));
        }
        let over = life.is_over().then(|| (life.name().clone(), life.remains()));
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
        if let Some((name, remains)) = over {
            self.end(now, incarnation, &name, remains, actions);
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
        remains: Option<Instance>,
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

#[cfg(test)]
mod tests;
