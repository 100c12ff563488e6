//! All that the daemon holds open, and the actions that are performed with it.
//!
//! Each source owns its state; what one brings about in another goes through here. What comes of
//! an action is appended to the events: nothing here handles one.

use std::collections::{HashSet, VecDeque};

use log::{debug, error, info, warn};
use mio::Poll;

use super::complaints::Complaints;
use super::connections::{Connections, not_connected};
use super::connector::ConnectorSource;
use super::consult;
use super::directory::Directory;
use super::endpoint::{Connected, Endpoint};
use super::keep::{self, Keep};
use super::lookup::Lookup;
use super::metrics::{Losses, Snapshot};
use super::reports::Reports;
use super::trace::{Lost, TraceSource};
use super::watchlist::Watchlist;
use crate::config::Paths;
use crate::id::{Incarnation, Inode, Moment, Name, Process};
use crate::sys::connector::Connector;
use crate::sys::control_dir::{SOCKET_SUFFIX, SocketError};
use crate::sys::handover::Inheritance;
use crate::sys::{clock, process};
use crate::verdict::{Action, ConnectError, Event, FileOutcome, Memory, Node, Questions, Said};
use crate::wire::Printable;

pub(super) struct Sources {
    pub(super) poll: Poll,
    pub(super) paths: Paths,
    pub(super) directory: Directory,
    pub(super) connections: Connections,
    pub(super) connector: ConnectorSource,
    pub(super) trace: TraceSource,
    pub(super) lookup: Lookup,
    pub(super) watchlist: Watchlist,
    pub(super) keep: Keep,
    pub(super) reports: Reports,
    /// Complaints about a lack of descriptors or memory, and about what cannot be looked at or
    /// written: one lasting fault causes all of them.
    pub(super) shortages: Complaints,
}

impl Sources {
    /// Whether there is work to be done even if no source wakes the loop.
    pub(super) fn are_behind(&self) -> bool {
        self.connections.unread() > 0
            || self.connector.has_more()
            || self.trace.has_more()
            || self.reports.are_behind()
    }

    /// When there will be, if nothing comes before that.
    pub(super) fn deadline(&self, now: Moment) -> Option<Moment> {
        let deadlines = [
            self.connector.deadline(),
            self.trace.deadline(now),
            self.lookup.deadline(),
            self.keep.deadline(now),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Reads what one instance has to say, as much as its share.
    pub(super) fn read_qmp(
        &mut self,
        now: Moment,
        incarnation: Incarnation,
        heard: &mut VecDeque<Event>,
    ) {
        self.connections.read(now, incarnation, self.poll.registry(), heard);
    }

    pub(super) fn read_directory(&mut self, now: Moment, events: &mut VecDeque<Event>) {
        self.directory.read(now, &mut self.shortages, events);
    }

    pub(super) fn read_connector(&mut self, now: Moment, events: &mut VecDeque<Event>) {
        self.connector.read(now, self.poll.registry(), &self.watchlist, events);
    }

    pub(super) fn read_trace(&mut self, now: Moment, events: &mut VecDeque<Event>) {
        if let Err(Lost) = self.trace.read(now, &mut self.watchlist, events) {
            self.connections.count_oom_kills();
        }
    }

    pub(super) fn read_lookup(&mut self, now: Moment, events: &mut VecDeque<Event>) {
        self.lookup.read(now, |task| self.trace.remembered_name(task), events);
    }

    /// Takes the connector's silence for a refusal, if that is due.
    pub(super) fn tick_connector(&mut self, now: Moment, events: &mut VecDeque<Event>) {
        if self.connector.deadline().is_some_and(|due| due <= now) {
            let registry = self.poll.registry();
            self.connector.give_up_waiting(now, registry, &self.keep, &self.watchlist, events);
        }
    }

    /// Opens the trace if there is none yet, and nothing else to be done.
    pub(super) fn open_trace_when_quiet(
        &mut self,
        now: Moment,
        was_woken: bool,
        events: &mut VecDeque<Event>,
    ) {
        let is_quiet = !was_woken && !self.are_behind();
        let registry = self.poll.registry();
        let watchlist = &mut self.watchlist;
        if let Err(Lost) = self.trace.open_when_quiet(now, is_quiet, registry, watchlist, events) {
            self.connections.count_oom_kills();
        }
    }

    /// Writes down what is known, takes what was read and sends what is to be said, in this order:
    /// an instance that has been answered does not end without this daemon or the next being able
    /// to say how.
    ///
    /// The service manager may be behind with keeping what belongs to it: then it waits.
    pub(super) fn write_down(&mut self, now: Moment, node: &mut Node) {
        self.save(now, node);
        self.connections.take_peeked();
        if let Some(pids) = self.watchlist.take_update() {
            self.connector.watch(&pids);
            self.trace.watch(pids);
        }
        self.keep.send_backlog(now, &self.connections, self.connector.descriptor());
        if !self.keep.holds_up(now) {
            self.connections.send();
        }
    }

    /// Writes down what has to outlive the daemon, if that has changed.
    pub(super) fn save(&mut self, now: Moment, node: &mut Node) {
        if self.keep.is_save_due(now, node) {
            self.keep.save(now, node, &mut self.shortages);
        }
    }

    /// The same for the last time, even if it has just failed. Whether all is written down.
    pub(super) fn save_at_last(&mut self, now: Moment, node: &mut Node) -> bool {
        if self.keep.is_behind(node) {
            self.keep.save(now, node, &mut self.shortages);
        }
        !self.keep.is_behind(node)
    }

    /// Publishes the figures, if somebody wants them and it is time.
    pub(super) fn publish(&mut self, now: Moment, node: &Node) {
        let snapshot = Snapshot {
            watched: node.watched(),
            connector_is_up: self.connector.is_listening(),
            trace_is_up: self.trace.is_up(),
            losses: Losses {
                inotify: self.directory.losses(),
                proc_connector: self.connector.losses(),
                trace: self.trace.losses(),
            },
            lost_records: self.reports.lost_records(),
        };
        self.reports.publish(now, snapshot);
    }

    /// Goes on with the connector's socket, if an earlier daemon has left it.
    pub(super) fn adopt_connector(&mut self, left: &mut Inheritance, events: &mut VecDeque<Event>) {
        if let Some(socket) = keep::take_connector(left) {
            let connector = Connector::adopt(socket, self.keep.has_manager());
            self.connector.adopt(connector, self.poll.registry(), events);
        }
    }

    /// Goes on with those connections of the lives in `memory` that an earlier daemon has left, and
    /// returns whose they are.
    pub(super) fn adopt_connections(
        &mut self,
        now: Moment,
        memory: &Memory,
        left: &mut Inheritance,
        events: &mut VecDeque<Event>,
    ) -> HashSet<Incarnation> {
        self.directory.find(now, &mut self.shortages, events);
        for life in memory.lives() {
            if let Some(kept) = keep::take_endpoint(left, life.incarnation) {
                self.connections.adopt(self.poll.registry(), life, kept);
            }
        }
        let adopted: HashSet<Incarnation> =
            self.connections.iter().map(|(incarnation, _)| incarnation).collect();
        if !adopted.is_empty() {
            info!("Took over {} connections from an earlier run", adopted.len());
        }
        adopted
    }

    /// Has the service manager, if there is one, keep what was handed over.
    pub(super) fn keep_inherited(&mut self) {
        for (incarnation, endpoint) in self.connections.iter() {
            self.keep.keep_endpoint(incarnation, endpoint);
        }
        self.connector.have_kept(&self.keep);
    }

    /// Gives everything that is open to the process that has asked for it, and says whether that
    /// has it. `is_saved`: see [`Keep::hand_over`].
    pub(super) fn hand_over(&mut self, is_saved: bool) -> bool {
        let connector = self.connector.descriptor();
        if let Err(error) = self.keep.hand_over(is_saved, &self.connections, connector) {
            error!(
                "Cannot hand over at {}: {error}; keeping everything and running on",
                self.keep.handover_socket().display()
            );
            return false;
        }
        info!("Handed over {} connections to another process", self.connections.count());
        self.connector.leave_open();
        self.trace.leave();
        true
    }

    /// No daemon is going to follow this one.
    pub(super) fn end_for_good(&mut self) {
        self.connector.end_for_good(&self.keep);
    }

    /// Does what the node asks for.
    pub(super) fn perform(&mut self, now: Moment, action: Action, events: &mut VecDeque<Event>) {
        let socket_of = |name| self.directory.path_of(name, SOCKET_SUFFIX);
        match action {
            Action::LookAgain => self.look_again(now, events),
            Action::Start { name } => info!("Start monitor {}", socket_of(&name)),
            Action::Stop { name } => info!("Stop monitor {}", socket_of(&name)),
            Action::Connect { incarnation, name, inode } => {
                let said = self.connect(now, incarnation, &name, inode);
                events.push_back(Event::Of(incarnation, said));
            }
            Action::Send { incarnation, command } => {
                self.connections.add_command(incarnation, command);
            }
            Action::Probe { incarnation, process } => {
                // One that cannot be looked at is looked at again, like one that lives.
                let is_alive = process::is_alive(process).unwrap_or(true);
                let said = if is_alive { Said::Lives } else { Said::Died };
                events.push_back(Event::Of(incarnation, said));
            }
            Action::Consult { incarnation, questions } => {
                self.consult(now, incarnation, questions, events);
            }
            Action::ReadCommandLine { incarnation, process } => {
                self.lookup.read_command_line(now, incarnation, process, events);
            }
            Action::LookInto { incarnation, at, sender } => {
                self.lookup.look_into(now, incarnation, at, sender, events);
            }
            Action::Watch { pid } => self.watchlist.add(pid),
            Action::Unwatch { pid } => {
                self.watchlist.remove(pid);
                self.trace.unwatch(pid);
            }
            Action::Create { incarnation, name, inode, only_in_time } => {
                let outcome = self.create_file(now, incarnation, &name, inode, only_in_time);
                events.push_back(Event::Of(incarnation, Said::File(outcome)));
            }
            Action::Remove { incarnation, name, inode, why } => {
                let outcome = self.directory.remove_file(&name, inode, why);
                events.push_back(Event::Of(incarnation, Said::File(outcome)));
            }
            Action::Release { incarnation } => {
                if self.connections.release(self.poll.registry(), incarnation) {
                    self.keep.forget_endpoint(incarnation);
                }
            }
            Action::Answered { name, process, running } => {
                let state = if running { "running" } else { "not running" };
                info!("Instance {name}{} is connected and {state}", pid(process));
            }
            Action::WarnSilent { name, process } => {
                warn!(
                    "Instance {name}{} does not answer at {}: another client holds the connection (see `ss -xp`), or QEMU hangs; waiting",
                    pid(process),
                    socket_of(&name)
                );
                self.reports.metrics.count_silent();
            }
            Action::Record { incarnation, death } => self.reports.add_end(incarnation, death),
        }
    }

    fn look_again(&mut self, now: Moment, events: &mut VecDeque<Event>) {
        self.directory.look_again(now, &mut self.shortages, events);
        self.keep.check_state_file();
        let registry = self.poll.registry();
        self.connector.check(now, registry, &self.keep, &mut self.watchlist, events);
        if let Err(Lost) = self.trace.check(now, registry, &mut self.watchlist, events) {
            self.connections.count_oom_kills();
        }
    }

    /// Connects to an instance: for the first time in its life, or once more.
    fn connect(
        &mut self,
        now: Moment,
        incarnation: Incarnation,
        name: &Name,
        inode: Inode,
    ) -> Said {
        let registry = self.poll.registry();
        let connected = if let Some(again) = self.connections.reconnect(registry, incarnation) {
            if again.is_ok() {
                // The lost one was kept until now: how it ended is for the next daemon to read, if
                // this one does not live to report it.
                self.keep.forget_endpoint(incarnation);
            }
            again.map(|peer| Some(Said::Connected(peer))).map_err(SocketError::Io)
        } else if let Some(directory) = self.directory.control_dir() {
            Endpoint::connect(directory, &self.paths, registry, incarnation, name, inode)
                .map(|made| made.map(|connected| self.add_connection(incarnation, connected)))
        } else {
            return Said::NotConnected(ConnectError::Gone);
        };
        match connected {
            Ok(Some(said)) => {
                if let Some(endpoint) = self.connections.get(incarnation) {
                    self.keep.keep_endpoint(incarnation, endpoint);
                }
                said
            }
            Ok(None) => {
                debug!("The QEMU of {name} is dead, and another process holds its socket");
                Said::NotConnected(ConnectError::Orphaned)
            }
            Err(error) => {
                let path = self.directory.path_of(name, SOCKET_SUFFIX);
                Said::NotConnected(not_connected(error, &path, now, &mut self.shortages))
            }
        }
    }

    fn add_connection(&mut self, incarnation: Incarnation, connected: Connected) -> Said {
        let Connected { mut endpoint, peer, remark } = connected;
        if let Some(remark) = remark {
            warn!("Instance {}: {}", endpoint.name, Printable(remark.as_bytes()));
        }
        if self.trace.may_miss_oom_kills() {
            endpoint.count_oom_kills();
        }
        self.connections.add(incarnation, endpoint);
        Said::Connected(peer)
    }

    /// Asks those sources that do not speak by themselves. What the trace holds is handled before
    /// the answer, which comes later if QEMU's own log is to be read.
    fn consult(
        &mut self,
        now: Moment,
        incarnation: Incarnation,
        questions: Questions,
        events: &mut VecDeque<Event>,
    ) {
        if questions.signals {
            self.read_trace(now, events);
        }
        let endpoint = self.connections.get(incarnation);
        if let Some(endpoint) = endpoint.filter(|_| questions.own_log) {
            self.lookup.read_own_log(now, incarnation, &endpoint.name, events);
        } else {
            let answers = consult::ask(questions, endpoint);
            events.push_back(Event::Of(incarnation, Said::Consulted(answers)));
        }
    }

    /// Creates `NAME.shutdown`. With `only_in_time` it was to be there before the process is dead.
    fn create_file(
        &mut self,
        now: Moment,
        incarnation: Incarnation,
        name: &Name,
        inode: Inode,
        only_in_time: bool,
    ) -> FileOutcome {
        let outcome = self.directory.create_file(name, inode);
        if outcome != FileOutcome::Done {
            return outcome;
        }
        self.reports.metrics.count_file(clock::now().since(now));
        let is_alive = || self.connections.get(incarnation).is_some_and(Endpoint::is_alive);
        if only_in_time && !is_alive() {
            return self.directory.remove_late_file(name, inode);
        }
        outcome
    }
}

/// The pid in parentheses, to follow an instance's name.
fn pid(process: Option<Process>) -> String {
    process.map_or_else(String::new, |process| format!(" (pid {})", process.pid))
}
