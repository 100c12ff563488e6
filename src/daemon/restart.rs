//! What outlives the daemon: a small file with what is known of each life, and the connections
//! themselves, under a service manager that keeps descriptors or handed over to a successor.
//!
//! What is read from a connection is not taken from it until the file tells of it: then a daemon
//! that is killed at any moment has lost nothing.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use log::{debug, error, info, warn};

use super::Daemon;
use super::complaints::withheld;
use super::endpoint::{Endpoint, Kept};
use crate::id::{Incarnation, Moment};
use crate::sys::connector::Connector;
use crate::sys::handover::{Asking, Inheritance};
use crate::sys::service_manager::ServiceManager;
use crate::sys::{clock, process};
use crate::verdict::Memory;

const CONNECTOR: &str = "connector";

/// What a descriptor is called while the manager keeps it.
fn name_of(kind: &str, incarnation: Incarnation) -> String {
    format!("{kind}-{}", incarnation.0)
}

impl Daemon {
    /// Goes on where an earlier daemon has ended.
    pub(super) fn take_over(&mut self, inheritance: Inheritance) {
        let now = clock::now();
        let has_inherited = !inheritance.is_empty();
        let mut kept =
            self.manager.as_ref().map(ServiceManager::kept_descriptors).unwrap_or_default();
        kept.extend(inheritance);
        if let Some(connector) = kept.remove(CONNECTOR) {
            let connector = Connector::adopt(connector, self.manager.is_some());
            self.adopt_connector(connector, now);
        }
        if let Some(memory) = self.read_memory() {
            self.find_directory();
            self.adopt_endpoints(&memory, &mut kept);
            if has_inherited {
                self.endpoints.keys().for_each(|&incarnation| self.keep_endpoint(incarnation));
                self.keep_connector();
            }
            let mut actions = Vec::new();
            let endpoints = &self.endpoints;
            self.node.recall(now, memory, |life| endpoints.contains_key(&life), &mut actions);
            for action in actions {
                self.perform(now, action);
            }
            self.settle(now);
        }
        // Whatever the file does not tell of.
        for (name, _) in kept {
            debug!("Letting go of {name}, of which nothing is remembered");
            self.forget(&name);
        }
    }

    fn read_memory(&self) -> Option<Memory> {
        let path = self.state_file.path().display();
        match self.state_file.read() {
            Ok(Ok(memory)) => memory,
            Ok(Err(error)) => {
                warn!("{path} is {error}; going on without it");
                None
            }
            Err(error) => {
                warn!("Cannot read {path}: {error}; going on without it");
                None
            }
        }
    }

    fn adopt_endpoints(&mut self, memory: &Memory, kept: &mut BTreeMap<String, OwnedFd>) {
        for life in memory.lives() {
            let mut take = |kind| kept.remove(&name_of(kind, life.incarnation));
            let (socket, stream, pidfd) = (take("sock"), take("qmp"), take("pidfd"));
            let (Some(socket), Some(stream), Some(pidfd)) = (socket, stream, pidfd) else {
                continue;
            };
            let kept = Kept { socket, stream, pidfd };
            let registry = self.poll.registry();
            match Endpoint::adopt(registry, life.incarnation, &life.name, life.process, kept) {
                Ok(endpoint) => {
                    self.endpoints.insert(life.incarnation, endpoint);
                }
                Err(error) => error!("Cannot take over the connection of {}: {error}", life.name),
            }
        }
        if !self.endpoints.is_empty() {
            info!("Took over {} connections from an earlier run", self.endpoints.len());
        }
    }

    /// Has the manager keep what belongs to this life.
    pub(super) fn keep_endpoint(&self, incarnation: Incarnation) {
        let (Some(manager), Some(endpoint)) = (&self.manager, self.endpoints.get(&incarnation))
        else {
            return;
        };
        for (kind, descriptor) in endpoint.descriptors() {
            if let Err(error) = manager.keep(&name_of(kind, incarnation), descriptor) {
                debug!("The service manager does not keep {kind}: {error}");
            }
        }
    }

    pub(super) fn keep_connector(&mut self) {
        if let (Some(manager), Some(connector)) = (&self.manager, &mut self.connector) {
            manager.forget(CONNECTOR);
            match manager.keep(CONNECTOR, connector.as_fd()) {
                Ok(()) => connector.leave_open(),
                Err(error) => debug!("The service manager does not keep the connector: {error}"),
            }
        }
    }

    /// The same, after the connection was lost and made again. A lost one is kept until then: how
    /// it ended is for the next daemon to read, if this one does not live to tell.
    pub(super) fn keep_other_connection(&self, incarnation: Incarnation) {
        self.forget_endpoint(incarnation);
        self.keep_endpoint(incarnation);
    }

    pub(super) fn forget_endpoint(&self, incarnation: Incarnation) {
        for kind in ["sock", "qmp", "pidfd"] {
            self.forget(&name_of(kind, incarnation));
        }
    }

    fn forget(&self, name: &str) {
        if let Some(manager) = &self.manager {
            manager.forget(name);
        }
    }

    /// Gives everything that is open to a process that has asked for it, and ends. On an error it
    /// goes on.
    pub(super) fn hand_over(&mut self) {
        self.tell_ends(usize::MAX);
        self.write_down(clock::now());
        match self.try_to_hand_over() {
            Ok(()) => {
                info!("Handed over {} connections to another process", self.endpoints.len());
                if let Some(connector) = &mut self.connector {
                    connector.leave_open();
                }
                if let Some(trace) = &mut self.trace {
                    trace.leave();
                }
                self.is_stopping = true;
            }
            Err(error) => error!(
                "Asked to hand over at {}, and cannot: {error}; going on",
                self.paths.handover_socket().display()
            ),
        }
    }

    fn try_to_hand_over(&self) -> io::Result<()> {
        let successor = Asking::at(&self.paths.handover_socket())?;
        if self.manager.is_some() {
            let reason = "its service manager keeps its connections; restart the service instead";
            successor.refuse(reason)?;
            return Err(io::Error::other(reason));
        }
        if self.node.has_changes() {
            let reason = format!("it cannot write {}", self.state_file.path().display());
            successor.refuse(&reason)?;
            return Err(io::Error::other(reason));
        }
        for (&incarnation, endpoint) in &self.endpoints {
            for (kind, descriptor) in endpoint.descriptors() {
                successor.give(&name_of(kind, incarnation), descriptor)?;
            }
        }
        if let Some(connector) = &self.connector {
            successor.give(CONNECTOR, connector.as_fd())?;
        }
        successor.finish()
    }

    /// Writes down what has to outlive the daemon, if that has changed.
    pub(super) fn save(&mut self, now: Moment) {
        if !self.node.has_changes() && !self.state_file.is_missing() {
            return;
        }
        let written = if self.state_file.is_to_be_rewritten(self.node.lives()) {
            // The whole does not tell of them any more.
            self.tell_ends(usize::MAX);
            self.state_file.rewrite(self.node.to_memory())
        } else {
            self.state_file.append(self.node.changes())
        };
        match written {
            Ok(()) => self.node.mark_saved(),
            // It is tried again at the next wake-up.
            Err(error) => {
                if let Some(count) = self.shortages.make(now) {
                    error!(
                        "Cannot write {}: {error}; a restart of this daemon would forget what was asked of the instances{}",
                        self.state_file.path().display(),
                        withheld(count)
                    );
                }
            }
        }
    }
}

/// How long a process has been there.
pub(super) fn age(process: crate::id::Process) -> Option<std::time::Duration> {
    let started = process::started(process)?;
    Some(clock::now().0.saturating_add(clock::boot_offset()).saturating_sub(started))
}
