//! The control directory: finding it, listing it, and the files in it.

use std::io;
use std::os::unix::ffi::OsStrExt;

use log::{debug, error, info, warn};

use super::Daemon;
use super::complaints::withheld;
use super::endpoint::Endpoint;
use super::metrics::Lossy;
use crate::id::{Incarnation, Inode, Moment, Name};
use crate::sys::clock;
use crate::sys::control_dir::{
    Change as FileChange, ControlDir, FileError, SHUTDOWN_SUFFIX, SOCKET_SUFFIX,
};
use crate::sys::directory_watch::{Change, Found};
use crate::verdict::{Event, FileOutcome, RemoveReason};
use crate::wire::Quoted;

impl Daemon {
    pub(super) fn look_again(&mut self, now: Moment) {
        if !self.directory.as_ref().is_some_and(ControlDir::is_in_place) {
            self.find_directory();
        }
        self.list_directory();
        self.state_file.look();
        self.check_connector(now);
        self.check_trace(now);
    }

    /// Watches the control directory if it is there, else the nearest parent.
    pub(super) fn find_directory(&mut self) {
        self.directory = None;
        let path = match self.watch.renew() {
            Ok(Found::Directory(directory)) => {
                self.directory = Some(directory);
                self.paths.control_dir()
            }
            Ok(Found::Parent(path)) => path,
            Err(error) => {
                let path = self.paths.control_dir();
                return self.look_failed(
                    &format!("Cannot watch the directory {}", path.display()),
                    &error,
                );
            }
        };
        // Another directory in the place of the old one is worth a line; to wait at the same
        // parent as before is not.
        if self.directory.is_some() || self.watched_path.as_ref() != Some(&path) {
            info!("Watch directory {}", Quoted(path.as_os_str().as_bytes()));
            self.watched_path = Some(path);
        }
    }

    fn list_directory(&mut self) {
        let Some(directory) = &self.directory else { return };
        let events = &mut self.events;
        let listed = directory.list(|name, inode| events.push_back(Event::Listed { name, inode }));
        if let Err(error) = listed {
            let what = format!("Cannot list the directory {}", directory.path().display());
            self.look_failed(&what, &error);
        }
    }

    fn look_failed(&mut self, what: &str, error: &io::Error) {
        if let Some(count) = self.shortages.make(clock::now()) {
            error!("{what}: {error}; trying again{}", withheld(count));
        }
        self.events.push_back(Event::LookFailed);
    }

    pub(super) fn read_directory_changes(&mut self) {
        let mut changes = Vec::new();
        loop {
            match self.watch.read(|change| changes.push(change)) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    error!("Cannot read inotify events: {error}; looking at everything again");
                    changes.push(Change::Lost);
                    break;
                }
            }
        }
        let mut path_changed = false;
        let mut lost = false;
        for change in changes {
            debug!("Handle event {change:?}");
            match change {
                Change::Created(name) => self.created(name),
                Change::Path => path_changed = true,
                Change::Lost => lost = true,
            }
        }
        if lost {
            self.metrics.lost(Lossy::Inotify);
            warn!("inotify lost events; looking at everything again");
        }
        if path_changed {
            self.find_directory();
        }
        if lost || path_changed {
            self.events.push_back(Event::Rescan);
        }
    }

    fn created(&mut self, name: Name) {
        let Some(directory) = &self.directory else { return };
        match directory.inode(&name) {
            Ok(Some(inode)) => self.events.push_back(Event::Created { name, inode }),
            // It is gone again.
            Ok(None) => {}
            Err(error) => {
                let what = format!("Cannot look at {}", self.path(&name, SOCKET_SUFFIX));
                self.look_failed(&what, &error);
            }
        }
    }

    /// The path of a file in the control directory, in quotes.
    pub(super) fn path(&self, name: &Name, suffix: &[u8]) -> String {
        let mut path = self.paths.control_dir().into_os_string().into_encoded_bytes();
        path.extend_from_slice(name.as_bytes());
        path.extend_from_slice(suffix);
        Quoted(&path).to_string()
    }

    /// The file first, and then the line: the one is waited for, the other is not.
    pub(super) fn create_file(&mut self, name: &Name, inode: Inode) -> FileOutcome {
        let change = self.directory.as_ref().map(|it| it.create_shutdown(name, inode));
        let path = self.path(name, SHUTDOWN_SUFFIX);
        info!("Detect user shutdown, creating file {path}");
        let Some(change) = change else {
            error!("Cannot create {path}: the directory does not exist; trying again");
            return FileOutcome::Failed;
        };
        outcome("create", &path, change)
    }

    /// The file was to be there before the process is dead. If that is dead by now, nobody can
    /// tell which came first.
    pub(super) fn remove_if_too_late(
        &mut self,
        incarnation: Incarnation,
        name: &Name,
        inode: Inode,
    ) -> FileOutcome {
        if self.endpoints.get(&incarnation).is_some_and(Endpoint::is_alive) {
            return FileOutcome::Done;
        }
        let path = self.path(name, SHUTDOWN_SUFFIX);
        info!("Removing file {path}: the instance was gone before it was marked");
        let Some(directory) = &self.directory else { return FileOutcome::Done };
        match outcome("remove", &path, directory.remove_shutdown(name, inode)) {
            FileOutcome::Done => FileOutcome::LeftAlone,
            other => other,
        }
    }

    pub(super) fn remove_file(
        &mut self,
        name: &Name,
        inode: Inode,
        why: RemoveReason,
    ) -> FileOutcome {
        let path = self.path(name, SHUTDOWN_SUFFIX);
        if why == RemoveReason::NotTheUser {
            info!("Detect admin shutdown, removing file {path}");
        }
        // Without the directory there is no file.
        let Some(directory) = &self.directory else { return FileOutcome::Done };
        let change = directory.remove_shutdown(name, inode);
        if why == RemoveReason::Runs && matches!(change, Ok(FileChange::Made)) {
            info!("Instance {name} runs, removed stale file {path}");
        }
        outcome("remove", &path, change)
    }
}

fn outcome(verb: &str, path: &str, change: Result<FileChange, FileError>) -> FileOutcome {
    match change {
        Ok(FileChange::Made | FileChange::NothingToDo) => FileOutcome::Done,
        Ok(FileChange::Superseded) => {
            info!("Left {path} alone: the instance has been started again");
            FileOutcome::LeftAlone
        }
        Err(error) => {
            error!("Cannot {verb} {path}: {error}; trying again");
            FileOutcome::Failed
        }
    }
}
