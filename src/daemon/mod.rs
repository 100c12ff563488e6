//! The event loop: what woke us becomes an [`Event`], each [`Action`] is done.
//!
//! One thread, one `epoll`. Every source is edge-triggered and is read until it is empty, but
//! for a connection that has more to say than its fair share: that one waits for the others.
//! Nothing is decided here. What an action brings about goes back to the node as an event
//! before the next source is looked at.

mod complaints;
mod connections;
mod directory;
mod endpoint;
mod exits;
mod inquiry;
mod metrics;
mod records;
mod restart;
mod signals;
pub mod state_file;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use log::{debug, error, info, warn};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use signal_hook_mio::v1_0::Signals;

use crate::config::Paths;
use crate::id::{Incarnation, Moment, Process};
use crate::log::Log;
use crate::sys::append_file::AppendFile;
use crate::sys::connector::{Connector, Precision};
use crate::sys::control_dir::{ControlDir, SOCKET_SUFFIX};
use crate::sys::directory_watch::DirectoryWatch;
use crate::sys::handover::Inheritance;
use crate::sys::service_manager::ServiceManager;
use crate::sys::trace::{Trace, Tracefs};
use crate::sys::{clock, priority, process};
use crate::verdict::{Action, Death, Event, FileOutcome, Node, Said, Settings};
use crate::wire::qmp::Command;
use complaints::Complaints;
use endpoint::{Endpoint, Source};
use metrics::Metrics;
use state_file::StateFile;

const SIGNALS: Token = Token(0);
const DIRECTORY: Token = Token(1);
const CONNECTOR: Token = Token(2);
const TRACE: Token = Token(3);

/// How much one connection may say before the others are heard, in bytes.
const FAIR_SHARE: usize = 16 * 1024;

/// How many ends are told of (a record, a line in the log) before the sources are heard again: a
/// guest that is just being powered off cannot wait, those that are gone can.
const ENDS_AT_ONCE: usize = 16;

/// For how long it is an ordinary process after it has run for 200 ms without sleep: it keeps a
/// processor for itself for a sixth of the time at most.
const WAY_FOR_OTHERS: Duration = Duration::from_secs(1);

/// As many sources as one wake-up may name; the rest is named by the next.
const WAKE_UP: usize = 1024;

/// The daemon cannot run at all.
#[derive(Debug)]
pub struct StartError {
    what: &'static str,
    error: io::Error,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cannot {}: {}", self.what, self.error)
    }
}

impl std::error::Error for StartError {}

/// Names what was being done when an error came.
fn cannot(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |error| StartError { what, error }
}

/// The daemon, with everything that it holds open.
pub struct Daemon {
    paths: Paths,
    log: Log,
    /// Where there is one that keeps descriptors.
    manager: Option<ServiceManager>,
    /// When it is to be told again that this goes on.
    tell_manager_at: Option<Moment>,
    state_file: StateFile,
    node: Node,
    poll: Poll,
    signals: Signals,
    watch: DirectoryWatch,
    directory: Option<ControlDir>,
    /// The directory that is watched or waited for, as the log has it.
    watched_path: Option<PathBuf>,
    connector: Option<Connector>,
    /// What the log said last of the connector, so that it says it once.
    connector_state: String,
    tracefs: Option<Tracefs>,
    trace: Option<Trace>,
    /// There is none yet.
    trace_is_wanted_since: Option<Moment>,
    trace_state: String,
    /// How many signals to each watched process have been traced.
    signals_traced: HashMap<u32, u32>,
    /// The pids in the connector's filter, and whether it lacks one that is to be in it.
    watched_pids: BTreeSet<u32>,
    filter_lacks_one: bool,
    precision: Precision,
    records: AppendFile,
    metrics: Metrics,
    /// Ends that are yet to be told of.
    ends: VecDeque<(Incarnation, Death)>,
    endpoints: HashMap<Incarnation, Endpoint>,
    /// Connections that have more to say than their share.
    unread: VecDeque<Incarnation>,
    /// Connections from which what was heard is yet to be taken.
    heard_from: Vec<Incarnation>,
    /// Events not yet handled, actions not yet done and commands not yet sent; empty between two
    /// wake-ups.
    events: VecDeque<Event>,
    actions: Vec<Action>,
    buffer: Box<[u8]>,
    outbox: Vec<(Incarnation, Command)>,
    shortages: Complaints,
    /// It has run for too long, and is ordinary until then.
    makes_way_until: Option<Moment>,
    is_asked_to_hand_over: bool,
    is_stopping: bool,
}

impl Daemon {
    /// Prepares everything that the daemon cannot run without. What it can, it asks for while
    /// it runs.
    pub fn new(
        paths: Paths,
        settings: Settings,
        metrics_file: Option<PathBuf>,
        manager: Option<ServiceManager>,
        log: Log,
    ) -> Result<Self, StartError> {
        let poll = Poll::new().map_err(cannot("create an epoll instance"))?;
        let numbers =
            [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR2, priority::HAS_RUN_TOO_LONG];
        let mut signals = Signals::new(numbers).map_err(cannot("take signals"))?;
        let watch = DirectoryWatch::new(&paths.control_dir())
            .map_err(cannot("create an inotify instance (see fs.inotify.max_user_instances)"))?;
        let registry = poll.registry();
        let watch_fd = watch.as_raw_fd();
        registry
            .register(&mut signals, SIGNALS, Interest::READABLE)
            .and_then(|()| {
                registry.register(&mut SourceFd(&watch_fd), DIRECTORY, Interest::READABLE)
            })
            .map_err(cannot("watch an event source"))?;
        let records = records::open(&paths.records_file());
        Ok(Self {
            node: Node::new(settings, clock::now()),
            log,
            manager,
            tell_manager_at: None,
            // Pids, inodes and the clock are those of one boot.
            state_file: StateFile::new(paths.state_file(), clock::boot_id()),
            paths,
            poll,
            signals,
            watch,
            directory: None,
            watched_path: None,
            connector: None,
            connector_state: String::new(),
            tracefs: None,
            trace: None,
            trace_is_wanted_since: None,
            trace_state: String::new(),
            signals_traced: HashMap::new(),
            watched_pids: BTreeSet::new(),
            filter_lacks_one: false,
            precision: Precision::Exact,
            records,
            metrics: Metrics::new(metrics_file),
            ends: VecDeque::new(),
            endpoints: HashMap::new(),
            unread: VecDeque::new(),
            heard_from: Vec::new(),
            events: VecDeque::new(),
            actions: Vec::new(),
            buffer: vec![0; FAIR_SHARE].into(),
            outbox: Vec::new(),
            shortages: Complaints::default(),
            makes_way_until: None,
            is_asked_to_hand_over: false,
            is_stopping: false,
        })
    }

    /// Goes on with what an earlier daemon has handed over, and looks at everything once.
    pub fn begin(&mut self, inheritance: Inheritance) {
        self.take_over(inheritance);
        // The first tick is due at once: it looks at everything.
        self.tick(clock::now());
        self.write_down(clock::now());
        self.publish_metrics();
    }

    /// Runs until a signal asks it to end.
    pub fn run(&mut self) -> Result<(), StartError> {
        let mut woken = Events::with_capacity(WAKE_UP);
        if let Some(manager) = &self.manager {
            manager.tell_ready();
            self.tell_manager_at = manager.interval().map(|interval| clock::now() + interval);
        }
        while !self.is_stopping {
            match self.poll.poll(&mut woken, Some(self.patience())) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(cannot("wait for events")(error));
                }
                _ => {}
            }
            let now = clock::now();
            // A guest that is being powered off is gone in milliseconds.
            for event in &woken {
                self.hear(now, event);
            }
            for event in &woken {
                self.woken_by(now, event.token());
            }
            self.read_on(now);
            self.tick(now);
            self.open_trace_when_quiet(now, !woken.is_empty());
            self.tell_ends(ENDS_AT_ONCE);
            self.write_down(now);
            self.publish_metrics();
            self.tell_manager(now);
            self.get_in_front(now);
            if std::mem::take(&mut self.is_asked_to_hand_over) {
                self.hand_over();
            }
        }
        self.tell_ends(usize::MAX);
        // The next daemon is not to tell of them again.
        self.save(clock::now());
        self.withdraw_metrics();
        Ok(())
    }

    /// For how long nothing needs to be done if no source speaks.
    fn patience(&self) -> Duration {
        if !self.unread.is_empty() || !self.ends.is_empty() {
            return Duration::ZERO;
        }
        let connector = self.connector.as_ref().and_then(Connector::deadline);
        let trace = self.trace_is_wanted_since.map(|_| clock::now() + signals::QUIET);
        let others = [connector, trace, self.tell_manager_at, self.makes_way_until];
        let deadlines = others.into_iter().chain([Some(self.node.deadline())]);
        deadlines.flatten().min().map_or(Duration::MAX, |at| at.since(clock::now()))
    }

    fn tell_manager(&mut self, now: Moment) {
        if let Some(manager) = &self.manager
            && self.tell_manager_at.is_some_and(|at| at <= now)
        {
            manager.tell_going_on();
            self.tell_manager_at = manager.interval().map(|interval| now + interval);
        }
    }

    fn tick(&mut self, now: Moment) {
        if self.connector.as_ref().and_then(Connector::deadline).is_some_and(|due| due <= now) {
            self.connector_is_mute(now);
            self.settle(now);
        }
        if self.node.deadline() <= now {
            self.handle(now, Event::Tick);
        }
    }

    /// Hears what an instance says, if it was one that has woken the daemon.
    fn hear(&mut self, now: Moment, event: &mio::event::Event) {
        if let Some((incarnation, Source::Qmp)) = endpoint::source(event.token()) {
            if let Some(endpoint) = self.endpoints.get_mut(&incarnation) {
                endpoint.has_hung_up |= event.is_read_closed();
            }
            self.read(now, incarnation);
        }
    }

    /// Looks at every other source.
    fn woken_by(&mut self, now: Moment, token: Token) {
        match token {
            SIGNALS => self.take_signals(),
            DIRECTORY => {
                self.read_directory_changes();
                self.settle(now);
            }
            CONNECTOR => {
                self.read_connector();
                self.settle(now);
            }
            TRACE => {
                self.drain_trace();
                self.settle(now);
            }
            token => {
                if let Some((incarnation, Source::Pidfd)) = endpoint::source(token) {
                    self.handle(now, Event::Of(incarnation, Said::Died));
                }
            }
        }
    }

    /// Tells of ends, the first ones first.
    fn tell_ends(&mut self, most: usize) {
        let count = self.ends.len().min(most);
        for (incarnation, death) in self.ends.drain(..count).collect::<Vec<_>>() {
            self.metrics.ended(&death);
            // Whoever sees the line finds the record.
            self.record(&death);
            info!("{death}");
            self.node.forget(incarnation);
        }
    }

    /// Writes down what is known, takes what was heard and says what is to be said, in this order.
    fn write_down(&mut self, now: Moment) {
        self.save(now);
        self.consume();
        self.speak();
    }

    fn take_signals(&mut self) {
        for signal in self.signals.pending() {
            match signal {
                libc::SIGHUP => self.reopen_files(),
                libc::SIGUSR2 => self.is_asked_to_hand_over = true,
                priority::HAS_RUN_TOO_LONG => self.make_way(),
                _ => self.is_stopping = true,
            }
        }
    }

    /// Lets ordinary processes run for a while.
    fn make_way(&mut self) {
        match priority::lower() {
            Ok(()) => {
                self.makes_way_until = Some(clock::now() + WAY_FOR_OTHERS);
                debug!("Ran for 200 ms without sleep; making way for others for a while");
            }
            Err(error) => error!("Cannot give up the real-time priority: {error}"),
        }
    }

    /// Gets in front again.
    fn get_in_front(&mut self, now: Moment) {
        if self.makes_way_until.is_some_and(|until| until <= now) {
            self.makes_way_until = None;
            if let Err(error) = priority::raise() {
                warn!("Cannot get back the real-time priority: {error}");
            }
        }
    }

    fn reopen_files(&mut self) {
        if let Err(error) = self.log.reopen() {
            error!("Cannot open the log file {} again: {error}", self.paths.log_file().display());
        }
        if let Err(error) = self.records.open() {
            error!("Cannot open {} again: {error}", self.records.path().display());
        }
        info!("Reopening log files after receiving SIGHUP");
    }

    /// Sends what is to be said to the instances, after the kernel has been asked to tell of
    /// them, and after they have been written down: a QEMU that has heard the daemon does not end
    /// without this one or the next being told how.
    fn speak(&mut self) {
        if self.filter_lacks_one {
            self.update_filters();
        }
        for (incarnation, command) in std::mem::take(&mut self.outbox) {
            self.send(incarnation, command);
        }
    }

    /// Has the node handle an event and all that comes of it. Not to be called by an action.
    fn handle(&mut self, now: Moment, event: Event) {
        self.events.push_back(event);
        self.settle(now);
    }

    /// Has the node handle every event that waits, does what it asks for, and has it handle
    /// what came of that.
    fn settle(&mut self, now: Moment) {
        while let Some(event) = self.events.pop_front() {
            let mut actions = std::mem::take(&mut self.actions);
            self.node.handle(now, event, &mut actions);
            for action in actions.drain(..) {
                self.perform(now, action);
            }
            self.actions = actions;
        }
    }

    fn perform(&mut self, now: Moment, action: Action) {
        match action {
            Action::LookAgain => self.look_again(now),
            Action::Start { name } => info!("Start monitor {}", self.path(&name, SOCKET_SUFFIX)),
            Action::Stop { name } => info!("Stop monitor {}", self.path(&name, SOCKET_SUFFIX)),
            Action::Connect { incarnation, name, inode } => {
                let said = self.connect(now, incarnation, &name, inode);
                self.events.push_back(Event::Of(incarnation, said));
            }
            Action::Send { incarnation, command } => self.outbox.push((incarnation, command)),
            Action::Probe { incarnation, process } => {
                let said = if process::is_alive(process) { Said::Lives } else { Said::Died };
                self.events.push_back(Event::Of(incarnation, said));
            }
            Action::Consult { incarnation, questions } => self.consult(incarnation, questions),
            Action::Watch { pid } => {
                self.watched_pids.insert(pid);
                self.filter_lacks_one = true;
            }
            // It stays in the filter until that changes for another reason: a dead process
            // sends no events.
            Action::Unwatch { pid } => {
                self.watched_pids.remove(&pid);
                self.signals_traced.remove(&pid);
            }
            Action::Create { incarnation, name, inode, only_in_time } => {
                let mut outcome = self.create_file(&name, inode);
                if outcome == FileOutcome::Done {
                    self.metrics.file_created_after(clock::now().since(now));
                }
                if only_in_time && outcome == FileOutcome::Done {
                    outcome = self.remove_if_too_late(incarnation, &name, inode);
                }
                self.events.push_back(Event::Of(incarnation, Said::File(outcome)));
            }
            Action::Remove { incarnation, name, inode, why } => {
                let outcome = self.remove_file(&name, inode, why);
                self.events.push_back(Event::Of(incarnation, Said::File(outcome)));
            }
            Action::Release { incarnation } => {
                if let Some(endpoint) = self.endpoints.remove(&incarnation) {
                    endpoint.close(self.poll.registry());
                    self.forget_endpoint(incarnation);
                }
            }
            Action::Answered { name, process, running } => {
                let state = if running { "runs" } else { "does not run" };
                info!("Instance {name}{} is connected and {state}", pid(process));
            }
            Action::WarnSilent { name, process } => self.warn_silent(&name, process),
            Action::Record { incarnation, death } => self.ends.push_back((incarnation, *death)),
        }
    }
}

/// The pid in parentheses, to follow an instance's name.
fn pid(process: Option<Process>) -> String {
    process.map_or_else(String::new, |process| format!(" (pid {})", process.pid))
}
