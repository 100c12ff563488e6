//! The pid file: who runs, and that it is one only.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_lock, ftruncate, open};

/// The pid file, locked for as long as this is held, and removed when it is dropped.
#[derive(Debug)]
pub struct PidFile {
    _file: OwnedFd,
    path: PathBuf,
}

impl PidFile {
    /// Creates and locks the file at `path` and writes this process's pid into it.
    ///
    /// The lock is POSIX's (`fcntl(2)`), since that is the one which Ganeti's own daemons see.
    /// It belongs to the process: to be taken after the last fork. `EAGAIN`: another process
    /// has it.
    pub fn create(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = open(path, flags, Mode::RUSR | Mode::WUSR)?;
        fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)?;
        ftruncate(&file, 0)?;
        rustix::io::write(&file, format!("{}\n", std::process::id()).as_bytes())?;
        Ok(Self { _file: file, path: path.to_path_buf() })
    }

    /// The process that has the file locked now; nothing if there is none.
    pub fn holder(path: &Path) -> io::Result<Option<u32>> {
        let file = match open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            opened => opened?,
        };
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(None),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
                super::process::read_pid_file(path)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
