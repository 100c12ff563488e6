//! The service manager, as `sd_notify(3)` and `sd_listen_fds(3)` have it: told that the daemon is
//! up, and given descriptors that are to outlive it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use sd_notify::{NotifyState, listen_fds_with_names, notify, notify_with_fds, watchdog_enabled};

/// A service manager that listens.
#[derive(Debug)]
pub struct ServiceManager {
    /// How often it is to be told that the daemon goes on, if it wants to know.
    interval: Option<Duration>,
}

impl ServiceManager {
    /// The one that started this process, if one did and wants to be notified (`NOTIFY_SOCKET`).
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        // Half of the time after which it would take the daemon for stuck (`WatchdogSec=`).
        let interval = || watchdog_enabled().map(|limit| limit / 2);
        std::env::var_os("NOTIFY_SOCKET").map(|_| Self { interval: interval() })
    }

    /// How often [`ServiceManager::notify_alive`] is to be called; nothing if never.
    #[must_use]
    pub fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// The daemon is not stuck.
    pub fn notify_alive(&self) {
        let _ = notify(&[NotifyState::Watchdog]);
    }

    /// The descriptors that it has kept from an earlier run, by their names. Of two under one
    /// name one is kept.
    #[must_use]
    pub fn kept_descriptors(&self) -> BTreeMap<String, OwnedFd> {
        let Ok(descriptors) = listen_fds_with_names() else { return BTreeMap::new() };
        let owned = descriptors.map(|(descriptor, name)| {
            // SAFETY: the manager has handed these numbers to this very process (`LISTEN_PID`),
            // which owns them from its start; this is called once, so that nobody else does.
            (name, unsafe { OwnedFd::from_raw_fd(descriptor) })
        });
        owned.collect()
    }

    /// The daemon is up.
    pub fn notify_ready(&self) {
        let _ = notify(&[NotifyState::Ready]);
    }

    /// Has it keep a copy of a descriptor under this name, whatever happens to this process.
    ///
    /// It must not poll it: a connection that has hung up would be dropped together with what was
    /// not yet read.
    pub fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let state =
            [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
        notify_with_fds(&state, &[descriptor])
    }

    /// Has it close what it keeps under this name.
    pub fn forget(&self, name: &str) {
        let _ = notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
    }
}
