//! What outlives the daemon: a small file with what is known of each life, and the connections
//! themselves, under a service manager that keeps descriptors or handed over to a successor.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use log::{debug, error, warn};

use super::complaints::{Complaints, withheld};
use super::connections::Connections;
use super::endpoint::{DESCRIPTORS, Endpoint, Kept};
use super::state_file::StateFile;
use crate::config::Paths;
use crate::id::{Incarnation, Moment};
use crate::sys::clock;
use crate::sys::handover::{Asking, Inheritance};
use crate::sys::service_manager::ServiceManager;
use crate::verdict::{Memory, Node};

const CONNECTOR: &str = "connector";

/// What a descriptor is called while somebody else has it.
fn name_of(kind: &str, incarnation: Incarnation) -> String {
    format!("{kind}-{}", incarnation.0)
}

/// Takes the proc connector's socket from what an earlier daemon has left.
pub(super) fn take_connector(left: &mut Inheritance) -> Option<OwnedFd> {
    left.remove(CONNECTOR)
}

/// Takes what belongs to this life from what an earlier daemon has left; nothing if a part of it
/// is missing.
pub(super) fn take_endpoint(left: &mut Inheritance, incarnation: Incarnation) -> Option<Kept> {
    match DESCRIPTORS.map(|kind| left.remove(&name_of(kind, incarnation))) {
        [Some(socket), Some(stream), Some(pidfd)] => Some(Kept { socket, stream, pidfd }),
        _ => None,
    }
}

pub(super) struct Keep {
    state_file: StateFile,
    /// Where there is one that keeps descriptors.
    manager: Option<ServiceManager>,
    /// When it is to be notified again that this daemon goes on.
    notify_at: Option<Moment>,
    /// Where a successor waits.
    handover_socket: PathBuf,
}

impl Keep {
    pub(super) fn new(paths: &Paths, manager: Option<ServiceManager>) -> Self {
        Self {
            // Pids, inodes and the clock are those of one boot.
            state_file: StateFile::new(paths.state_file(), clock::boot_id()),
            manager,
            notify_at: None,
            handover_socket: paths.handover_socket(),
        }
    }

    /// Notifies the service manager that the daemon is up.
    pub(super) fn notify_ready(&mut self, now: Moment) {
        if let Some(manager) = &self.manager {
            manager.notify_ready();
            self.notify_at = manager.interval().map(|interval| now + interval);
        }
    }

    /// Notifies the service manager, if that is due, that the daemon is not stuck.
    pub(super) fn notify_alive(&mut self, now: Moment) {
        if let Some(manager) = &self.manager
            && self.notify_at.is_some_and(|at| at <= now)
        {
            manager.notify_alive();
            self.notify_at = manager.interval().map(|interval| now + interval);
        }
    }

    /// When the service manager is to be notified.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.notify_at
    }

    /// Everything that an earlier daemon has left: with the service manager, or handed over.
    pub(super) fn left_by_earlier(&self, inheritance: Inheritance) -> Inheritance {
        let kept = self.manager.as_ref().map(ServiceManager::kept_descriptors);
        let mut left = kept.unwrap_or_default();
        left.extend(inheritance);
        left
    }

    /// Whether the service manager keeps descriptors.
    pub(super) fn has_manager(&self) -> bool {
        self.manager.is_some()
    }

    /// Closes what is of no use, and has the service manager do so.
    pub(super) fn let_go(&self, left: Inheritance) {
        for (name, _) in left {
            debug!("Closing {name}: nothing is remembered about it");
            self.forget(&name);
        }
    }

    /// Has the service manager keep what belongs to this life.
    pub(super) fn keep_endpoint(&self, incarnation: Incarnation, endpoint: &Endpoint) {
        let Some(manager) = &self.manager else { return };
        for (kind, descriptor) in endpoint.descriptors() {
            if let Err(error) = manager.keep(&name_of(kind, incarnation), descriptor) {
                debug!("The service manager does not keep {kind}: {error}");
            }
        }
    }

    pub(super) fn forget_endpoint(&self, incarnation: Incarnation) {
        for kind in DESCRIPTORS {
            self.forget(&name_of(kind, incarnation));
        }
    }

    /// Has the service manager keep the proc connector's socket, in the place of an earlier one.
    /// Returns whether it does.
    pub(super) fn keep_connector(&self, descriptor: BorrowedFd<'_>) -> bool {
        let Some(manager) = &self.manager else { return false };
        manager.forget(CONNECTOR);
        let kept = manager.keep(CONNECTOR, descriptor);
        if let Err(error) = &kept {
            debug!("The service manager does not keep the connector: {error}");
        }
        kept.is_ok()
    }

    /// Has the service manager close the proc connector's socket.
    pub(super) fn forget_connector(&self) {
        self.forget(CONNECTOR);
    }

    fn forget(&self, name: &str) {
        if let Some(manager) = &self.manager {
            manager.forget(name);
        }
    }

    /// What an earlier daemon has written down, if it is of this boot.
    pub(super) fn read_memory(&self) -> Option<Memory> {
        let path = self.state_file.path().display();
        match self.state_file.read() {
            Ok(Ok(memory)) => memory,
            Ok(Err(error)) => {
                warn!("Cannot use {path}: {error}; starting without it");
                None
            }
            Err(error) => {
                warn!("Cannot read {path}: {error}; starting without it");
                None
            }
        }
    }

    /// Looks whether somebody has removed the state file, or put another in its place.
    pub(super) fn check_state_file(&mut self) {
        self.state_file.look();
    }

    /// Whether there is something to be written down.
    pub(super) fn is_save_due(&self, node: &Node) -> bool {
        node.has_changes() || self.state_file.is_missing()
    }

    /// Whether the next save will write everything, in the place of what was written before. What
    /// the node has forgotten by then is gone.
    pub(super) fn is_rewrite_due(&self, node: &Node) -> bool {
        self.state_file.is_to_be_rewritten(node.lives())
    }

    /// Writes down what has to outlive the daemon.
    pub(super) fn save(&mut self, now: Moment, node: &mut Node, shortages: &mut Complaints) {
        let written = if self.is_rewrite_due(node) {
            self.state_file.rewrite(node.to_memory())
        } else {
            self.state_file.append(node.changes())
        };
        match written {
            Ok(()) => node.mark_saved(),
            // It is tried again at the next wake-up.
            Err(error) => {
                if let Some(count) = shortages.make(now) {
                    error!(
                        "Cannot write {}: {error}; a restart of this daemon would forget what the instances were asked to do{}",
                        self.state_file.path().display(),
                        withheld(count)
                    );
                }
            }
        }
    }

    /// Where a successor waits.
    pub(super) fn handover_socket(&self) -> &Path {
        &self.handover_socket
    }

    /// Gives everything that is open to the process that waits for it. On an error that one has
    /// nothing. `is_saved`: the state file has everything that it is to know.
    pub(super) fn hand_over(
        &self,
        is_saved: bool,
        connections: &Connections,
        connector: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let successor = Asking::at(&self.handover_socket)?;
        if self.manager.is_some() {
            let reason = "its service manager keeps its connections; restart the service instead";
            successor.refuse(reason)?;
            return Err(io::Error::other(reason));
        }
        if !is_saved {
            let reason = format!("it cannot write {}", self.state_file.path().display());
            successor.refuse(&reason)?;
            return Err(io::Error::other(reason));
        }
        for (incarnation, endpoint) in connections.iter() {
            for (kind, descriptor) in endpoint.descriptors() {
                successor.give(&name_of(kind, incarnation), descriptor)?;
            }
        }
        if let Some(connector) = connector {
            successor.give(CONNECTOR, connector)?;
        }
        successor.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn left(names: &[&str]) -> Inheritance {
        let open = || File::open("/dev/null").unwrap().into();
        names.iter().map(|name| ((*name).into(), open())).collect()
    }

    #[test]
    fn what_is_left_is_found_by_life_and_is_of_use_as_a_whole_only() {
        let mut left =
            left(&["sock-1", "qmp-1", "pidfd-1", "sock-11", "qmp-11", "connector", "stranger"]);
        assert!(take_connector(&mut left).is_some() && take_connector(&mut left).is_none());
        assert!(take_endpoint(&mut left, Incarnation(1)).is_some());
        assert!(take_endpoint(&mut left, Incarnation(11)).is_none());
        assert_eq!(left.keys().collect::<Vec<_>>(), ["stranger"]);
    }

    #[test]
    fn what_was_handed_over_is_among_what_is_left() {
        let keep = Keep::new(&Paths::below("/nowhere".as_ref()), None);
        assert_eq!(keep.left_by_earlier(left(&["qmp-1"])).len(), 1);
        assert!(!keep.has_manager() && keep.read_memory().is_none());
    }
}
