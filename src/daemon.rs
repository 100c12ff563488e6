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

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use log::{error, info};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use signal_hook_mio::v1_0::Signals;

use crate::config::Paths;
use crate::log::Log;
use crate::sys::append_file::AppendFile;
use crate::sys::connector::{Connector, Precision};
use crate::sys::control_dir::{ControlDir, SOCKET_SUFFIX};
use crate::sys::directory_watch::DirectoryWatch;
use crate::sys::service_manager::ServiceManager;
use crate::sys::trace::Trace;
use crate::sys::{clock, process};
use crate::verdict::{
    Action, Command, Event, FileOutcome, Incarnation, Moment, Node, Process, Said, Settings,
};
use complaints::Complaints;
use endpoint::{Endpoint, Source};
use metrics::Metrics;
pub use restart::{NotSaved, Saved};

const SIGNALS: Token = Token(0);
const DIRECTORY: Token = Token(1);
const CONNECTOR: Token = Token(2);
const TRACE: Token = Token(3);

/// How much one connection may say before the others are heard, in bytes.
const FAIR_SHARE: usize = 64 * 1024;

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
    trace: Option<Trace>,
    trace_state: String,
    /// How many signals to each watched process have been traced.
    signals_traced: HashMap<u32, u32>,
    /// The pids in the connector's filter, and whether it lacks one that is to be in it.
    watched_pids: BTreeSet<u32>,
    filter_lacks_one: bool,
    precision: Precision,
    records: AppendFile,
    metrics: Metrics,
    endpoints: HashMap<Incarnation, Endpoint>,
    /// Connections that have more to say than their share.
    unread: VecDeque<Incarnation>,
    /// Events not yet handled, actions not yet done and commands not yet sent; empty between two
    /// wake-ups.
    events: VecDeque<Event>,
    actions: Vec<Action>,
    buffer: Box<[u8]>,
    outbox: Vec<(Incarnation, Command)>,
    shortages: Complaints,
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
        let numbers = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
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
            paths,
            log,
            manager,
            poll,
            signals,
            watch,
            directory: None,
            watched_path: None,
            connector: None,
            connector_state: String::new(),
            trace: None,
            trace_state: String::new(),
            signals_traced: HashMap::new(),
            watched_pids: BTreeSet::new(),
            filter_lacks_one: false,
            precision: Precision::Exact,
            records,
            metrics: Metrics::new(metrics_file),
            endpoints: HashMap::new(),
            unread: VecDeque::new(),
            events: VecDeque::new(),
            actions: Vec::new(),
            buffer: vec![0; FAIR_SHARE].into(),
            outbox: Vec::new(),
            shortages: Complaints::default(),
            is_stopping: false,
        })
    }

    /// Runs until a signal asks it to end.
    pub fn run(&mut self) -> Result<(), StartError> {
        let mut woken = Events::with_capacity(WAKE_UP);
        self.take_over();
        // The first tick is due at once: it looks at everything.
        self.tick(clock::now());
        self.save();
        self.speak();
        self.publish_metrics();
        if let Some(manager) = &self.manager {
            manager.tell_ready();
        }
        while !self.is_stopping {
            match self.poll.poll(&mut woken, Some(self.patience())) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(cannot("wait for events")(error));
                }
                _ => {}
            }
            let now = clock::now();
            for event in &woken {
                self.woken_by(now, event.token(), event.is_read_closed());
            }
            for _ in 0..self.unread.len() {
                if let Some(incarnation) = self.unread.pop_front() {
                    self.read(now, incarnation, true);
                }
            }
            self.tick(now);
            self.save();
            self.speak();
            self.publish_metrics();
        }
        self.withdraw_metrics();
        Ok(())
    }

    /// For how long nothing needs to be done if no source speaks.
    fn patience(&self) -> Duration {
        if !self.unread.is_empty() {
            return Duration::ZERO;
        }
        let connector = self.connector.as_ref().and_then(Connector::deadline);
        let deadline = self.node.deadline();
        connector.map_or(deadline, |other| other.min(deadline)).since(clock::now())
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

    fn woken_by(&mut self, now: Moment, token: Token, is_closed: bool) {
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
            token => match endpoint::source(token) {
                Some((incarnation, Source::Qmp)) => self.read(now, incarnation, is_closed),
                Some((incarnation, Source::Pidfd)) => {
                    self.handle(now, Event::Of(incarnation, Said::Died));
                }
                None => {}
            },
        }
    }

    fn take_signals(&mut self) {
        for signal in self.signals.pending() {
            if signal != libc::SIGHUP {
                self.is_stopping = true;
                continue;
            }
            if let Err(error) = self.log.reopen() {
                error!(
                    "Cannot open the log file {} again: {error}",
                    self.paths.log_file().display()
                );
            }
            if let Err(error) = self.records.open() {
                error!("Cannot open {} again: {error}", self.records.path().display());
            }
            info!("Reopening log files after receiving SIGHUP");
        }
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
            Action::Record(death) => {
                self.metrics.ended(&death);
                // Whoever sees the line finds the record.
                self.record(&death);
                info!("{death}");
            }
        }
    }
}

/// The pid in parentheses, to follow an instance's name.
fn pid(process: Option<Process>) -> String {
    process.map_or_else(String::new, |process| format!(" (pid {})", process.pid))
}
