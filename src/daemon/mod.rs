//! The event loop: what woke us becomes an [`Event`], each [`Action`] is performed.
//!
//! One thread and one `epoll`, which waits for nothing else: what has to be written to a disk or a
//! pipe goes to the writer, a thread of its own, and what may hang whoever reads it is read by those
//! of `lookup`. Every source is edge-triggered and is read until it is empty, but for a connection
//! or a trace that has more to say than its fair share, which waits for the others, and for the proc
//! connector, whose every word is written down before the next is read.
//! Nothing is decided here. What an action brings about goes back to the node as an event
//! before the next source is looked at (see [`settle`]).
//!
//! [`Action`]: crate::verdict::Action

mod complaints;
mod connections;
mod connector;
mod consult;
mod directory;
mod endpoint;
mod exposition;
mod fatal;
mod floods;
mod journal;
mod keep;
mod lookup;
mod metrics;
mod pace;
mod records;
mod recurrence;
mod reports;
pub mod sandbox;
mod sources;
pub mod state_file;
mod trace;
mod wake;
mod watchlist;
mod writer;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use log::info;
use mio::{Events, Interest, Poll, Waker};
use signal_hook_mio::v1_0::Signals;

use crate::config::Paths;
use crate::id::{Incarnation, Moment};
use crate::log::Log;
use crate::sys::confinement::Reach;
use crate::sys::handover::Inheritance;
use crate::sys::sandbox::Role;
use crate::sys::service_manager::ServiceManager;
use crate::sys::tracefs::instance_name;
use crate::sys::{clock, priority};
use crate::verdict::{Event, Node, Said, Settings, resume, settle};
use complaints::Complaints;
use connections::Connections;
use connector::ConnectorSource;
use directory::Directory;
pub use fatal::FatalError;
use fatal::cannot;
use journal::Journal;
use keep::Keep;
use lookup::Lookup;
use pace::Pace;
use records::Records;
use reports::Reports;
use sources::Sources;
use trace::TraceSource;
use wake::Wake;
use watchlist::Watchlist;
use writer::Writer;

/// How many ends are read from the proc connector, or reported (a record, a line in the log), before
/// the other sources are read again: a guest that is just being powered off cannot wait, those that
/// are gone can.
const ENDS_AT_ONCE: usize = 16;

/// For so long the daemon runs on when it is asked to end, until every end is written down. A disk
/// that does not answer until then leaves it to the next daemon to record them.
pub const LAST_WORDS: Duration = Duration::from_secs(5);

/// The same, where a successor waits: it does not for longer than five seconds.
const BEFORE_HANDOVER: Duration = Duration::from_secs(2);

/// Memory for so many messages of one instance is kept from one time to the next: a share of real
/// events has fewer. Of the shortest lines that a peer can make up it has 4096.
const MESSAGES_KEPT: usize = 256;

/// As many sources as one wake-up may name; the rest is named by the next.
const WAKE_UP: usize = 1024;

/// The daemon, with everything that it holds open.
pub struct Daemon {
    node: Node,
    sources: Sources,
    /// Events that are not handled yet; empty between two wake-ups.
    events: VecDeque<Event>,
    /// What one instance has just said and is not handled yet; empty like those.
    heard: VecDeque<Event>,
    signals: Signals,
    pace: Pace,
    is_asked_to_hand_over: bool,
    is_asked_to_end: bool,
    /// One of these is done then at the latest.
    leave_by: Option<Moment>,
    is_stopping: bool,
}

impl Daemon {
    /// Prepares everything that the daemon cannot run without. What it can, it asks for while
    /// it runs. From here on the calling thread, which is to be the loop's, waits for no disk;
    /// [`crate::log::finish`] ends that. `writers_reach`: the thread that writes is to enter its
    /// sandbox, with these files within its reach.
    pub fn new(
        paths: Paths,
        settings: Settings,
        metrics_file: Option<PathBuf>,
        manager: Option<ServiceManager>,
        log: Log,
        writers_reach: Option<Reach>,
    ) -> Result<Self, FatalError> {
        let poll = Poll::new().map_err(cannot("create an epoll instance"))?;
        let numbers =
            [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR2, priority::HAS_RUN_TOO_LONG];
        let mut signals = Signals::new(numbers).map_err(cannot("install signal handlers"))?;
        poll.registry()
            .register(&mut signals, Wake::Signals.into(), Interest::READABLE)
            .map_err(cannot("register an event source"))?;
        let waker = Waker::new(poll.registry(), Wake::Writer.into())
            .map_err(cannot("register an event source"))?;
        let are_metrics_wanted = metrics_file.is_some();
        let outputs = writer::Outputs {
            log,
            log_file: paths.log_file(),
            records: Records::open(&paths.records_file()),
            journal: Journal::open(&paths.journal_socket()),
            metrics_file,
        };
        let sources = Sources {
            directory: Directory::open(paths.control_dir(), poll.registry())?,
            connections: Connections::new(),
            connector: ConnectorSource::new(),
            trace: TraceSource::new(instance_name(&paths.private_dir())),
            lookup: Lookup::new(paths.clone()),
            watchlist: Watchlist::default(),
            keep: Keep::new(&paths, manager),
            reports: Reports::new(
                Writer::start(outputs, waker, writers_reach)
                    .map_err(cannot("start the thread that writes"))?,
                are_metrics_wanted.then(clock::now),
            ),
            shortages: Complaints::default(),
            poll,
            paths,
        };
        Ok(Self {
            node: Node::new(settings, clock::now()),
            sources,
            events: VecDeque::new(),
            heard: VecDeque::new(),
            signals,
            pace: Pace::ordinary(),
            is_asked_to_hand_over: false,
            is_asked_to_end: false,
            leave_by: None,
            is_stopping: false,
        })
    }

    /// Goes on with what an earlier daemon has handed over, and looks at everything once.
    pub fn begin(&mut self, inheritance: Inheritance) {
        if let Err(error) = self.pace.begin(clock::now()) {
            info!(
                "No real-time priority ({error}): on a busy machine a guest may be gone before its file is there"
            );
        }
        self.take_over(clock::now(), inheritance);
        // The first tick is due at once: it looks at everything.
        let now = clock::now();
        self.tick(now);
        self.sources.write_down(now, &mut self.node);
        self.sources.publish(now, &self.node);
    }

    /// Starts the threads that look into processes which are not ours, and into QEMU's logs. Each
    /// begins with `begin`. What is to be looked into before that waits.
    pub fn look_into_processes(&mut self, begin: impl Fn(Role) + Clone + Send + 'static) {
        let Sources { lookup, poll, .. } = &mut self.sources;
        lookup.start(clock::now(), poll.registry(), begin, &mut self.events);
        self.settle(clock::now());
    }

    /// Goes on where an earlier daemon has ended.
    fn take_over(&mut self, now: Moment, inheritance: Inheritance) {
        let has_inherited = !inheritance.is_empty();
        let mut left = self.sources.keep.left_by_earlier(inheritance);
        self.sources.adopt_connector(&mut left, &mut self.events);
        self.settle(now);
        if let Some(memory) = self.sources.keep.read_memory() {
            let Self { node, sources, events, pace, .. } = self;
            let adopted = sources.adopt_connections(now, &memory, &mut left, events);
            if has_inherited {
                sources.keep_inherited();
            }
            let is_kept = |incarnation| adopted.contains(&incarnation);
            resume(node, now, memory, is_kept, events, |action, events| {
                sources.perform(now, action, events);
                pace.look(clock::now());
            });
        }
        // What the file knows nothing of is of no use.
        self.sources.keep.let_go(left);
    }

    /// Whether the kernel reports how processes end.
    #[must_use]
    pub fn is_told_of_exits(&self) -> bool {
        self.sources.connector.is_listening()
    }

    /// Runs until a signal asks it to end.
    pub fn run(&mut self) -> Result<(), FatalError> {
        let mut woken = Events::with_capacity(WAKE_UP);
        self.sources.keep.notify_ready(clock::now());
        while !self.is_stopping {
            let now = clock::now();
            self.pace.sleep(now);
            let patience = self.patience(now);
            self.sources.reports.flush();
            match self.sources.poll.poll(&mut woken, Some(patience)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(cannot("wait for events")(error));
                }
                _ => {}
            }
            let now = clock::now();
            self.pace.wake(now);
            // A guest that is being powered off is gone in milliseconds.
            for event in &woken {
                if let Wake::Qmp(incarnation) = event.token().into() {
                    if event.is_read_closed() {
                        self.sources.connections.mark_hung_up(incarnation);
                    }
                    self.read_qmp(now, incarnation);
                }
            }
            for event in &woken {
                self.woken_by(now, event.token().into());
            }
            self.read_on(now);
            self.tick(now);
            self.open_trace_when_quiet(now, !woken.is_empty());
            self.sources.reports.report(ENDS_AT_ONCE);
            self.sources.write_down(now, &mut self.node);
            self.sources.publish(now, &self.node);
            self.sources.keep.notify(now);
            self.leave_when_written(now);
        }
        // The next daemon is not to report them again, and is to know all that this one knows.
        self.node.catch_up();
        self.sources.save_at_last(clock::now(), &mut self.node);
        // A successor replaces them, and may have done so.
        if self.is_asked_to_end {
            self.sources.reports.withdraw();
        }
        Ok(())
    }

    /// For how long nothing needs to be done if no source speaks.
    fn patience(&self, now: Moment) -> Duration {
        if self.sources.are_behind() {
            return Duration::ZERO;
        }
        let others = [self.sources.deadline(now), self.pace.deadline(), self.leave_by];
        let node = self.node.deadline();
        others.into_iter().flatten().fold(node, Moment::min).since(now)
    }

    /// Reads what an instance has to say. Each message is handled, with all that comes of it,
    /// before the next: what was decided about the file is done by then.
    fn read_qmp(&mut self, now: Moment, incarnation: Incarnation) {
        self.sources.read_qmp(now, incarnation, &mut self.heard);
        while let Some(event) = self.heard.pop_front() {
            self.events.push_back(event);
            self.settle(now);
        }
        self.heard.shrink_to(MESSAGES_KEPT);
        self.pace.look(clock::now());
    }

    /// Reads from those who had more to say than their share, each once.
    fn read_on(&mut self, now: Moment) {
        for _ in 0..self.sources.connections.unread() {
            if let Some(incarnation) = self.sources.connections.next_unread() {
                self.read_qmp(now, incarnation);
            }
        }
        if self.sources.trace.has_more() {
            self.read_trace(now);
        }
    }

    /// Reads what the kernel has traced, as much as its share.
    fn read_trace(&mut self, now: Moment) {
        self.sources.read_trace(now, &mut self.events);
        self.settle(now);
        self.pace.look(clock::now());
    }

    /// Reads what the kernel says of how processes end. Each is written down, with all that comes
    /// of it, before it is taken from the socket; after some of them the others have their turn.
    fn read_connector(&mut self, now: Moment) {
        for _ in 0..ENDS_AT_ONCE {
            self.sources.read_connector(now, &mut self.events);
            self.settle(now);
            self.sources.save(now, &mut self.node);
            if !self.sources.connector.take_peeked() || self.node.has_changes() {
                break;
            }
        }
        self.pace.look(clock::now());
    }

    /// Looks at every other source.
    fn woken_by(&mut self, now: Moment, wake: Wake) {
        match wake {
            // It has been read already.
            Wake::Qmp(_) => {}
            Wake::Signals => self.take_signals(),
            Wake::Directory => self.sources.read_directory(now, &mut self.events),
            Wake::Connector => self.read_connector(now),
            Wake::Trace => self.read_trace(now),
            Wake::Writer => self.sources.reports.acknowledge(&mut self.node),
            Wake::Lookup => self.sources.read_lookup(now, &mut self.events),
            Wake::Pidfd(incarnation) => {
                self.events.push_back(Event::Of(incarnation, Said::Died));
            }
        }
        self.settle(now);
    }

    fn tick(&mut self, now: Moment) {
        self.sources.tick_connector(now, &mut self.events);
        self.sources.lookup.give_up(now, &mut self.events);
        self.settle(now);
        if self.node.deadline() <= now {
            self.events.push_back(Event::Tick);
            self.settle(now);
        }
        // Asked whether it still listens, the kernel has answered.
        if self.sources.connector.has_more() {
            self.read_connector(now);
        }
    }

    fn open_trace_when_quiet(&mut self, now: Moment, was_woken: bool) {
        self.sources.open_trace_when_quiet(now, was_woken, &mut self.events);
        self.settle(now);
    }

    fn take_signals(&mut self) {
        for signal in self.signals.pending() {
            match signal {
                libc::SIGHUP => self.sources.reports.reopen_files(),
                libc::SIGUSR2 => self.is_asked_to_hand_over = true,
                priority::HAS_RUN_TOO_LONG => self.pace.make_way(clock::now()),
                libc::SIGINT => {
                    self.sources.end_for_good();
                    self.is_asked_to_end = true;
                }
                _ => self.is_asked_to_end = true,
            }
        }
    }

    /// Ends or hands over, if that was asked for, as soon as every end is written down: the next
    /// daemon is not to report them again. What goes on until then is watched as before.
    fn leave_when_written(&mut self, now: Moment) {
        if !self.is_asked_to_hand_over && !self.is_asked_to_end {
            return;
        }
        let reports = &self.sources.reports;
        let leave_by = *self.leave_by.get_or_insert_with(|| {
            reports.end_within(LAST_WORDS);
            now + if self.is_asked_to_hand_over { BEFORE_HANDOVER } else { LAST_WORDS }
        });
        let has_to_read = self.sources.connector.has_more();
        if now < leave_by && (has_to_read || !reports.are_written()) {
            return;
        }
        self.leave_by = None;
        self.sources.reports.acknowledge(&mut self.node);
        if std::mem::take(&mut self.is_asked_to_hand_over) {
            self.hand_over();
        }
        self.is_stopping |= self.is_asked_to_end;
    }

    /// Gives everything that is open to a process that has asked for it, and ends. On an error it
    /// goes on.
    fn hand_over(&mut self) {
        self.node.catch_up();
        let now = clock::now();
        self.sources.write_down(now, &mut self.node);
        let is_saved = self.sources.save_at_last(now, &mut self.node);
        self.is_stopping |= self.sources.hand_over(is_saved);
    }

    /// Has the node handle every event that waits, and all that comes of them.
    fn settle(&mut self, now: Moment) {
        let Self { node, sources, events, pace, .. } = self;
        settle(node, now, events, |action, events| {
            sources.perform(now, action, events);
            pace.look(clock::now());
        });
    }
}
