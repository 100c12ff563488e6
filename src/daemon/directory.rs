//! The control directory: finding it, listing it, and the files in it.

use std::collections::VecDeque;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use log::{debug, error, info, warn};
use mio::Registry;

use super::complaints::{Complaints, LossCount, withheld};
use super::fatal::{FatalError, cannot};
use super::wake::Wake;
use crate::id::{Inode, Moment, Name};
use crate::sys::control_dir::{
    Change as FileChange, ControlDir, FileError, SHUTDOWN_SUFFIX, SOCKET_SUFFIX,
};
use crate::sys::directory_watch::{Change, DirectoryWatch, Found};
use crate::verdict::{Event, FileOutcome, RemoveReason};
use crate::wire::Quoted;

/// The directory, whether it is there or waited for.
pub(super) struct Directory {
    /// With a slash at its end.
    path: PathBuf,
    watch: DirectoryWatch,
    /// Absent while it does not exist.
    control_dir: Option<ControlDir>,
    /// The directory that is watched or waited in, as the log has it.
    watched_path: Option<PathBuf>,
    /// How often inotify has lost events.
    losses: LossCount,
}

impl Directory {
    /// The directory at `path`, which has a slash at its end. It is not looked for before
    /// [`Directory::look_again`].
    pub(super) fn open(path: PathBuf, registry: &Registry) -> Result<Self, FatalError> {
        let watch = DirectoryWatch::new(&path)
            .map_err(cannot("create an inotify instance (see fs.inotify.max_user_instances)"))?;
        Wake::Directory.register(registry, &watch).map_err(cannot("register an event source"))?;
        Ok(Self {
            path,
            watch,
            control_dir: None,
            watched_path: None,
            losses: LossCount::default(),
        })
    }

    /// The open directory, if it exists.
    pub(super) fn control_dir(&self) -> Option<&ControlDir> {
        self.control_dir.as_ref()
    }

    /// How often inotify has lost events.
    pub(super) fn losses(&self) -> u64 {
        self.losses.total()
    }

    /// The path of a file in the directory, in quotes.
    pub(super) fn path_of(&self, name: &Name, suffix: &[u8]) -> String {
        let path = [self.path.as_os_str().as_bytes(), name.as_bytes(), suffix].concat();
        Quoted(&path).to_string()
    }

    /// Lists the directory, after it was found if it is not where it was.
    pub(super) fn look_again(
        &mut self,
        now: Moment,
        shortages: &mut Complaints,
        events: &mut VecDeque<Event>,
    ) {
        if !self.control_dir.as_ref().is_some_and(ControlDir::is_in_place) {
            self.find(now, shortages, events);
        }
        let Some(directory) = &self.control_dir else { return };
        let listed = directory.list(|name, inode| events.push_back(Event::Listed { name, inode }));
        if let Err(error) = listed {
            let what = format!("Cannot list the directory {}", directory.path().display());
            look_failed(&what, &error, now, shortages, events);
        }
    }

    /// Watches the directory if it is there, else the nearest parent.
    pub(super) fn find(
        &mut self,
        now: Moment,
        shortages: &mut Complaints,
        events: &mut VecDeque<Event>,
    ) {
        self.control_dir = None;
        let path = match self.watch.renew() {
            Ok(Found::Directory(directory)) => {
                self.control_dir = Some(directory);
                self.path.clone()
            }
            Ok(Found::Parent(path)) => path,
            Err(error) => {
                let what = format!("Cannot watch the directory {}", self.path.display());
                return look_failed(&what, &error, now, shortages, events);
            }
        };
        // Another directory in the place of the old one is worth a line; to wait at the same
        // parent as before is not.
        if self.control_dir.is_some() || self.watched_path.as_ref() != Some(&path) {
            info!("Watch directory {}", Quoted(path.as_os_str().as_bytes()));
            self.watched_path = Some(path);
        }
    }

    /// Reads what inotify has to report.
    pub(super) fn read(
        &mut self,
        now: Moment,
        shortages: &mut Complaints,
        events: &mut VecDeque<Event>,
    ) {
        let mut changes = Vec::new();
        let mut failure = None;
        loop {
            match self.watch.read(|change| changes.push(change)) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    failure = Some(error);
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
                Change::Created(name) => self.created(name, now, shortages, events),
                Change::Path => path_changed = true,
                Change::Lost => lost = true,
            }
        }
        if lost && let Some(others) = self.losses.add(now) {
            match failure {
                Some(error) => error!("Cannot read inotify events: {error}; rescanning{others}"),
                None => warn!("inotify lost events; rescanning{others}"),
            }
        }
        if path_changed {
            self.find(now, shortages, events);
        }
        if lost || path_changed {
            events.push_back(Event::Rescan);
        }
    }

    fn created(
        &self,
        name: Name,
        now: Moment,
        shortages: &mut Complaints,
        events: &mut VecDeque<Event>,
    ) {
        let Some(directory) = &self.control_dir else { return };
        match directory.inode(&name) {
            Ok(Some(inode)) => events.push_back(Event::Created { name, inode }),
            // It is gone again.
            Ok(None) => {}
            Err(error) => {
                let what = format!("Cannot look at {}", self.path_of(&name, SOCKET_SUFFIX));
                look_failed(&what, &error, now, shortages, events);
            }
        }
    }

    /// The file first, and then the line: the one is waited for, the other is not.
    pub(super) fn create_file(&self, name: &Name, inode: Inode) -> FileOutcome {
        let change = self.control_dir.as_ref().map(|it| it.create_shutdown(name, inode));
        let path = self.path_of(name, SHUTDOWN_SUFFIX);
        info!("Detect user shutdown, creating file {path}");
        let Some(change) = change else {
            error!("Cannot create {path}: the directory does not exist; trying again");
            return FileOutcome::Failed;
        };
        outcome("create", &path, change)
    }

    /// The file was to be there before the process is dead, and the process is dead by now: nobody
    /// can tell which came first.
    pub(super) fn remove_late_file(&self, name: &Name, inode: Inode) -> FileOutcome {
        let path = self.path_of(name, SHUTDOWN_SUFFIX);
        info!("Removing file {path}: the instance was gone before it was marked");
        let Some(directory) = &self.control_dir else { return FileOutcome::Done };
        match outcome("remove", &path, directory.remove_shutdown(name, inode)) {
            FileOutcome::Done => FileOutcome::LeftAlone,
            other => other,
        }
    }

    pub(super) fn remove_file(&self, name: &Name, inode: Inode, why: RemoveReason) -> FileOutcome {
        let path = self.path_of(name, SHUTDOWN_SUFFIX);
        if why == RemoveReason::NotTheUser {
            info!("Detect admin shutdown, removing file {path}");
        }
        // Without the directory there is no file.
        let Some(directory) = &self.control_dir else { return FileOutcome::Done };
        let change = directory.remove_shutdown(name, inode);
        if why == RemoveReason::Runs && matches!(change, Ok(FileChange::Made)) {
            info!("Instance {name} is running; removed stale file {path}");
        }
        outcome("remove", &path, change)
    }
}

fn look_failed(
    what: &str,
    error: &io::Error,
    now: Moment,
    shortages: &mut Complaints,
    events: &mut VecDeque<Event>,
) {
    if let Some(count) = shortages.make(now) {
        error!("{what}: {error}; trying again{}", withheld(count));
    }
    events.push_back(Event::LookFailed);
}

fn outcome(verb: &str, path: &str, change: Result<FileChange, FileError>) -> FileOutcome {
    match change {
        Ok(FileChange::Made | FileChange::NothingToDo) => FileOutcome::Done,
        Ok(FileChange::Superseded) => {
            info!("Left {path} alone: the instance has been restarted");
            FileOutcome::LeftAlone
        }
        Err(error) => {
            error!("Cannot {verb} {path}: {error}; trying again");
            FileOutcome::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::time::Duration;

    const NOW: Moment = Moment(Duration::ZERO);

    /// A directory that is to be watched. `Poll` is what its descriptor is registered with.
    fn open(path: &Path) -> (Directory, mio::Poll) {
        let poll = mio::Poll::new().unwrap();
        let directory = Directory::open(path.join(""), poll.registry()).unwrap();
        (directory, poll)
    }

    fn look_again(directory: &mut Directory) -> Vec<Event> {
        let mut events = VecDeque::new();
        directory.look_again(NOW, &mut Complaints::default(), &mut events);
        events.into()
    }

    fn read(directory: &mut Directory) -> Vec<Event> {
        let mut events = VecDeque::new();
        directory.read(NOW, &mut Complaints::default(), &mut events);
        events.into()
    }

    /// Binds the socket `NAME.kvmd`.
    fn bind(path: &Path, name: &str) -> Inode {
        let path = path.join(format!("{name}.kvmd"));
        drop(UnixListener::bind(&path).unwrap());
        Inode(fs::symlink_metadata(path).unwrap().ino())
    }

    #[test]
    fn sockets_that_are_there_are_listed_and_those_that_come_are_noticed() {
        let root = tempfile::tempdir().unwrap();
        let first = bind(root.path(), "web1");
        let (mut directory, _poll) = open(root.path());
        let listed = look_again(&mut directory);
        assert!(matches!(&*listed, [Event::Listed { inode, .. }] if *inode == first), "{listed:?}");
        fs::write(root.path().join("web1.other"), "").unwrap();
        let second = bind(root.path(), "web2");
        let came = read(&mut directory);
        assert!(matches!(&*came, [Event::Created { inode, .. }] if *inode == second), "{came:?}");
    }

    #[test]
    fn a_directory_that_comes_later_is_found() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("ctrl");
        let (mut directory, _poll) = open(&path);
        assert!(look_again(&mut directory).is_empty() && directory.control_dir().is_none());
        fs::create_dir(&path).unwrap();
        let came = read(&mut directory);
        assert!(matches!(&*came, [Event::Rescan]), "{came:?}");
        assert!(directory.control_dir().is_some());
    }

    #[test]
    fn the_file_of_a_later_life_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let name = Name::new(b"web1");
        let file = root.path().join("web1.shutdown");
        let inode = bind(root.path(), "web1");
        let (mut directory, _poll) = open(root.path());
        // Not found yet.
        assert_eq!(directory.create_file(&name, inode), FileOutcome::Failed);
        look_again(&mut directory);
        let another = Inode(inode.0 + 1);
        assert_eq!(directory.create_file(&name, another), FileOutcome::LeftAlone);
        assert!(!file.exists());
        assert_eq!(directory.create_file(&name, inode), FileOutcome::Done);
        assert_eq!(
            directory.remove_file(&name, another, RemoveReason::NotTheUser),
            FileOutcome::LeftAlone
        );
        assert!(file.exists());
        assert_eq!(directory.remove_late_file(&name, inode), FileOutcome::LeftAlone);
        assert!(!file.exists());
    }
}
