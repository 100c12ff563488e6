//! Notices what comes into the control directory, and when the directory itself comes or goes.
//!
//! The directory and any of its parents may not exist yet, may vanish and may come back. So
//! each directory on the path is watched for what can happen to the next one, and no more: a
//! busy `/run` must not wake the daemon for each file that others put there.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};

use super::control_dir::ControlDir;
use crate::id::Name;

/// Room for a few hundred events; what does not fit is read next.
const BUFFER: usize = 16 * 1024;

/// What happened.
#[derive(Debug)]
pub enum Change {
    /// `NAME.kvmd` was created in the directory, or moved there.
    Created(Name),
    /// A directory on the path came, went or was moved: [`DirectoryWatch::renew`].
    Path,
    /// The kernel had more to say than it could hold.
    Lost,
}

/// How far the path exists.
#[derive(Debug)]
pub enum Found {
    Directory(ControlDir),
    /// The nearest directory that does.
    Parent(PathBuf),
}

/// The watches on the control directory and its parents.
#[derive(Debug)]
pub struct DirectoryWatch {
    inotify: Inotify,
    target: PathBuf,
    watches: Vec<WatchDescriptor>,
    /// The watch on the directory itself, if it exists.
    target_watch: Option<WatchDescriptor>,
    buffer: Box<[u8; BUFFER]>,
}

impl DirectoryWatch {
    /// Prepares to watch `target`, an absolute path. Nothing is watched before
    /// [`DirectoryWatch::renew`].
    pub fn new(target: &Path) -> io::Result<Self> {
        Ok(Self {
            inotify: Inotify::init()?,
            target: target.to_path_buf(),
            watches: Vec::new(),
            target_watch: None,
            buffer: Box::new([0; BUFFER]),
        })
    }

    /// Watches the path as it is now, from the root downwards: what changes further down while
    /// this goes on is noticed by a watch that stands already.
    pub fn renew(&mut self) -> io::Result<Found> {
        self.target_watch = None;
        for watch in std::mem::take(&mut self.watches) {
            // Those whose directory is gone have removed themselves.
            let _ = self.inotify.watches().remove(watch);
        }
        let target = self.target.clone();
        let mut path: Vec<&Path> = target.ancestors().collect();
        path.reverse();
        let mut nearest = Path::new("/");
        for (i, directory) in path.iter().enumerate() {
            let mask = self.mask(directory, path.get(i + 1).copied());
            match self.inotify.watches().add(directory, mask) {
                Ok(watch) => {
                    nearest = directory;
                    if *directory == self.target {
                        self.target_watch = Some(watch.clone());
                    }
                    self.watches.push(watch);
                }
                Err(error) if is_missing(&error) => {
                    return self.wait_for(nearest, directory);
                }
                Err(error) => return Err(error),
            }
        }
        match ControlDir::open(&self.target) {
            Ok(directory) => Ok(Found::Directory(directory)),
            // It went just now; the watch on its parent tells.
            Err(error) if is_missing(&error) => Ok(Found::Parent(nearest.to_path_buf())),
            Err(error) => Err(error),
        }
    }

    /// `missing` does not exist: has `parent` watched for its creation. If it was created
    /// before that watch stood, there will be no event, so that it is tried once more.
    fn wait_for(&mut self, parent: &Path, missing: &Path) -> io::Result<Found> {
        // Whoever has a file open in it keeps it from being told of its own end: this very daemon
        // where its files are. First, so that what is watched next is what is there from then on.
        let above = parent.parent().map(|above| (above, Self::removal_of_next_mask()));
        let mask = Self::removal_mask() | WatchMask::CREATE | WatchMask::MOVED_TO;
        for (directory, mask) in above.into_iter().chain([(parent, mask)]) {
            match self.inotify.watches().add(directory, mask) {
                Ok(watch) if !self.watches.contains(&watch) => self.watches.push(watch),
                Ok(_) => {}
                Err(error) if is_missing(&error) => return self.renew(),
                Err(error) => return Err(error),
            }
        }
        if missing.is_dir() { self.renew() } else { Ok(Found::Parent(parent.to_path_buf())) }
    }

    fn mask(&self, directory: &Path, next: Option<&Path>) -> WatchMask {
        match next {
            None => Self::removal_mask() | WatchMask::CREATE | WatchMask::MOVED_TO,
            // The daemon holds the directory open, and so only its parent is told of its end.
            Some(next) if next == self.target => Self::removal_of_next_mask(),
            Some(_) if directory == Path::new("/") => WatchMask::MOVE_SELF | WatchMask::ONLYDIR,
            Some(_) => Self::removal_mask(),
        }
    }

    fn removal_of_next_mask() -> WatchMask {
        Self::removal_mask() | WatchMask::DELETE | WatchMask::MOVED_FROM
    }

    fn removal_mask() -> WatchMask {
        WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR
    }

    /// Reads what has happened and calls `each` with it; false if nothing has.
    pub fn read(&mut self, mut each: impl FnMut(Change)) -> io::Result<bool> {
        let events = match self.inotify.read_events(&mut *self.buffer) {
            Ok(events) => events,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        let target = &self.target;
        let is_on_the_path =
            |name| target.components().any(|component| Some(component.as_os_str()) == name);
        for event in events {
            let came = event.mask.intersects(EventMask::CREATE | EventMask::MOVED_TO);
            let went = event.mask.intersects(EventMask::DELETE | EventMask::MOVED_FROM);
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                each(Change::Lost);
            } else if !self.watches.contains(&event.wd) || event.mask.contains(EventMask::IGNORED) {
                // A watch that has been removed since.
            } else if Some(&event.wd) == self.target_watch.as_ref() && came {
                let name = event.name.map(std::os::unix::ffi::OsStrExt::as_bytes);
                if let Some(name) = name.and_then(super::control_dir::instance_name) {
                    each(Change::Created(name));
                }
            } else if (came || went) && !is_on_the_path(event.name) {
                // A neighbour of a directory on the path.
            } else {
                each(Change::Path);
            }
        }
        Ok(true)
    }
}

impl AsFd for DirectoryWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// Whether a directory on the path is not there, or something else is in its place.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP))
}
