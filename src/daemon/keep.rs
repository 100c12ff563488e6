//! What outlives the daemon: a small file with what is known of each life, and the connections
//! themselves, under a service manager that keeps descriptors or handed over to a successor.
//!
//! The service manager is not waited for. What it has no room for is sent again, in its order, and
//! until then QEMU is not answered (see [`Keep::holds_up`]).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::{debug, error, warn};

use super::complaints::{Complaints, withheld};
use super::connections::Connections;
use super::endpoint::{DESCRIPTORS, Endpoint, Kept};
use super::state_file::StateFile;
use crate::config::Paths;
use crate::id::{Incarnation, Moment};
use crate::sys::clock;
use crate::sys::handover::{Asking, Inheritance};
use crate::sys::service_manager::{ServiceManager, TRY_AGAIN, is_busy};
use crate::verdict::{Memory, Node};

const CONNECTOR: &str = "connector";

/// A service manager that has taken nothing for so long holds nobody up any more.
const PATIENCE: Duration = Duration::from_secs(1);

/// A state file that could not be written is tried again after so long: it takes as much as there are
/// lives, and any of them can bring it about.
const BETWEEN_SAVES: Duration = Duration::from_secs(1);

/// So many messages may wait. systemd's unit lets it keep 4096 descriptors.
const MOST_NOTICES: usize = 16_384;

/// What the service manager is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Notice {
    /// To keep this descriptor of a life ([`DESCRIPTORS`]).
    Keep(&'static str, Incarnation),
    KeepConnector,
    /// To close what it keeps under this name.
    Forget(String),
}

/// What it had no room for, the first one first.
#[derive(Debug, Default)]
struct Backlog {
    notices: VecDeque<Notice>,
    /// When it took something, or when the first of these came, whichever is later.
    moved_at: Option<Moment>,
    lost: u64,
    complaints: Complaints,
}

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
    /// It could not be written: it is not tried again before that.
    save_again: Option<Moment>,
    /// Where there is one that keeps descriptors.
    manager: Option<ServiceManager>,
    /// When it is to be notified again that this daemon goes on.
    notify_at: Option<Moment>,
    /// It has not heard yet that the daemon is up.
    is_ready_due: bool,
    backlog: RefCell<Backlog>,
    /// Where a successor waits.
    handover_socket: PathBuf,
}

impl Keep {
    pub(super) fn new(paths: &Paths, manager: Option<ServiceManager>) -> Self {
        Self {
            // Pids, inodes and the clock are those of one boot.
            state_file: StateFile::new(paths.state_file(), clock::boot_id()),
            save_again: None,
            manager,
            notify_at: None,
            is_ready_due: false,
            backlog: RefCell::default(),
            handover_socket: paths.handover_socket(),
        }
    }

    /// Notifies the service manager that the daemon is up.
    pub(super) fn notify_ready(&mut self, now: Moment) {
        self.is_ready_due = self.manager.is_some();
        self.notify_at = Some(now);
        self.notify(now);
    }

    /// Notifies the service manager, if that is due, that the daemon is up or not stuck.
    pub(super) fn notify(&mut self, now: Moment) {
        let Some(manager) = &self.manager else { return };
        if self.notify_at.is_none_or(|at| at > now) {
            return;
        }
        let result =
            if self.is_ready_due { manager.notify_ready() } else { manager.notify_alive() };
        if result.is_err_and(|error| is_busy(&error)) {
            self.notify_at = Some(now + TRY_AGAIN);
        } else {
            self.is_ready_due = false;
            self.notify_at = manager.interval().map(|interval| now + interval);
        }
    }

    /// When the service manager is to be notified, or the state file to be written again.
    pub(super) fn deadline(&self, now: Moment) -> Option<Moment> {
        let notify_at = self.notify_at.filter(|_| self.manager.is_some());
        let has_backlog = !self.backlog.borrow().notices.is_empty();
        let send_at = has_backlog.then(|| now + TRY_AGAIN);
        [notify_at, send_at, self.save_again].into_iter().flatten().min()
    }

    /// Sends again what the service manager had no room for.
    pub(super) fn send_backlog(
        &self,
        now: Moment,
        connections: &Connections,
        connector: Option<BorrowedFd<'_>>,
    ) {
        let Some(manager) = &self.manager else { return };
        let backlog = &mut *self.backlog.borrow_mut();
        while let Some(notice) = backlog.notices.front() {
            let sent = match notice {
                Notice::Keep(kind, incarnation) => {
                    let endpoint = connections.get(*incarnation);
                    let mut descriptors = endpoint.into_iter().flat_map(Endpoint::descriptors);
                    // What has gone in the meantime is not to be kept.
                    descriptors.find(|(it, _)| it == kind).map_or(Ok(()), |(_, descriptor)| {
                        manager.keep(&name_of(kind, *incarnation), descriptor)
                    })
                }
                Notice::KeepConnector => {
                    connector.map_or(Ok(()), |connector| manager.keep(CONNECTOR, connector))
                }
                Notice::Forget(name) => manager.forget(name),
            };
            if sent.is_err_and(|error| is_busy(&error)) {
                break;
            }
            backlog.notices.pop_front();
            backlog.moved_at = Some(now);
        }
        if backlog.lost > 0 && backlog.complaints.make(now).is_some() {
            let lost = std::mem::take(&mut backlog.lost);
            warn!(
                "The service manager takes nothing: {lost} messages to it were lost; a restart may lose connections"
            );
        }
    }

    /// Whether QEMU is not to be answered yet, because the service manager has not taken what a
    /// later daemon would need to hear the rest.
    pub(super) fn holds_up(&self, now: Moment) -> bool {
        let backlog = self.backlog.borrow();
        !backlog.notices.is_empty() && backlog.moved_at.is_some_and(|at| now.since(at) < PATIENCE)
    }

    /// Sends this at once, if nothing waits, or else has it wait.
    fn tell(&self, notice: Notice, send: impl FnOnce(&ServiceManager) -> io::Result<()>) -> bool {
        let Some(manager) = &self.manager else { return false };
        let backlog = &mut *self.backlog.borrow_mut();
        if backlog.notices.is_empty() {
            match send(manager) {
                Err(error) if is_busy(&error) => backlog.moved_at = Some(clock::now()),
                Err(error) => {
                    debug!("The service manager cannot be told {notice:?}: {error}");
                    return false;
                }
                Ok(()) => return true,
            }
        }
        if backlog.notices.len() >= MOST_NOTICES {
            backlog.lost += 1;
            return false;
        }
        backlog.notices.push_back(notice);
        true
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
        for (kind, descriptor) in endpoint.descriptors() {
            self.tell(Notice::Keep(kind, incarnation), |manager| {
                manager.keep(&name_of(kind, incarnation), descriptor)
            });
        }
    }

    pub(super) fn forget_endpoint(&self, incarnation: Incarnation) {
        for kind in DESCRIPTORS {
            self.forget(&name_of(kind, incarnation));
        }
    }

    /// Has the service manager keep the proc connector's socket, in the place of an earlier one.
    /// Returns whether it does, or will.
    pub(super) fn keep_connector(&self, descriptor: BorrowedFd<'_>) -> bool {
        self.forget(CONNECTOR);
        self.tell(Notice::KeepConnector, |manager| manager.keep(CONNECTOR, descriptor))
    }

    /// Has the service manager close the proc connector's socket.
    pub(super) fn forget_connector(&self) {
        self.forget(CONNECTOR);
    }

    fn forget(&self, name: &str) {
        self.tell(Notice::Forget(name.into()), |manager| manager.forget(name));
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

    /// Whether there is something to be written down, ...
    pub(super) fn is_behind(&self, node: &Node) -> bool {
        node.has_changes() || self.state_file.is_missing()
    }

    /// ... and it is time to try.
    pub(super) fn is_save_due(&self, now: Moment, node: &Node) -> bool {
        self.save_again.is_none_or(|at| at <= now) && self.is_behind(node)
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
            Ok(()) => {
                self.save_again = None;
                node.mark_saved();
            }
            Err(error) => {
                self.save_again = Some(now + BETWEEN_SAVES);
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
    use crate::verdict::Settings;
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
    fn a_state_file_that_cannot_be_written_is_not_tried_at_every_wake_up() {
        let mut keep = Keep::new(&Paths::below("/nowhere".as_ref()), None);
        let now = Moment(Duration::from_secs(100));
        let mut node = Node::new(Settings::default(), now);
        node.forget(Incarnation(1));
        assert!(keep.is_save_due(now, &node) && keep.deadline(now).is_none());
        keep.save(now, &mut node, &mut Complaints::default());
        assert!(!keep.is_save_due(now + Duration::from_millis(999), &node));
        let again = now + Duration::from_secs(1);
        assert!(keep.is_save_due(again, &node));
        assert_eq!(keep.deadline(now), Some(again));
    }

    #[test]
    fn what_was_handed_over_is_among_what_is_left() {
        let keep = Keep::new(&Paths::below("/nowhere".as_ref()), None);
        assert_eq!(keep.left_by_earlier(left(&["qmp-1"])).len(), 1);
        assert!(!keep.has_manager() && keep.read_memory().is_none());
    }
}
