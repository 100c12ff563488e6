//! The pid file: who runs, and that it is one only.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Gid, Mode, OFlags, fchown, fcntl_lock, ftruncate};
use rustix::process::{Flock, FlockType, fcntl_getlk};

use super::plain_file::{is_at, open_own};
use super::process::read_pid_file;

/// The pid file, locked for as long as this is held, and removed when it is dropped.
#[derive(Debug)]
pub struct PidFile {
    _file: File,
    path: PathBuf,
}

impl PidFile {
    /// Creates and locks the file at `path` and writes this process's pid into it.
    ///
    /// The lock is POSIX's (`fcntl(2)`), since that is the one which Ganeti's own daemons see.
    /// It belongs to the process: to be taken after the last fork. `EAGAIN`: another process
    /// has it.
    pub fn create(path: &Path) -> io::Result<Self> {
        /// Somebody who may write to the directory can make this go on for ever.
        const TRIES: usize = 100;
        for _ in 0..TRIES {
            let flags = OFlags::RDWR | OFlags::CREATE;
            let file = open_own(path, flags, Mode::RUSR | Mode::WUSR)?;
            fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)?;
            // daemon-util runs the daemon with the group gnt-daemons. start-stop-daemon considers a pid
            // file of that group insecure, and would not start the daemon again after it was killed.
            // Nobody but root may do this, and nobody else is started by daemon-util.
            let _ = fchown(&file, None, Some(Gid::ROOT));
            // One that has been removed since, by a process that has just ended, locks nobody out.
            if is_at(&file, path) {
                ftruncate(&file, 0)?;
                rustix::io::write(&file, format!("{}\n", std::process::id()).as_bytes())?;
                return Ok(Self { _file: file, path: path.to_path_buf() });
            }
        }
        Err(io::Error::other("somebody puts another file in its place, again and again"))
    }

    /// The process that has the file locked now; nothing if there is none.
    pub fn holder(path: &Path) -> io::Result<Option<u32>> {
        let file = match open_own(path, OFlags::RDONLY, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        match fcntl_getlk(&file, &Flock::from(FlockType::WriteLock))? {
            None => Ok(None),
            Some(Flock { pid: Some(pid), .. }) => Ok(Some(pid.as_raw_pid().cast_unsigned())),
            // It lives in a process namespace that cannot be seen from here.
            Some(_) => read_pid_file(path),
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
