//! The KVM control directory: which sockets are in it, and the files that say "the user did
//! it".
//!
//! Every name is resolved relative to the directory's own descriptor and none is followed if
//! it is a symbolic link, so that nothing outside the directory can be touched.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;

use super::plain_file;
use crate::id::{Inode, Name};

/// What a QMP event socket's name ends in.
pub const SOCKET_SUFFIX: &[u8] = b".kvmd";
/// What the name of a file that marks a user's shutdown ends in.
pub const SHUTDOWN_SUFFIX: &[u8] = b".shutdown";

/// The directory, held open.
#[derive(Debug)]
pub struct ControlDir {
    descriptor: OwnedFd,
    path: PathBuf,
}

/// Why a socket cannot be had.
#[derive(Debug)]
pub enum SocketError {
    /// It is not there, or it is another one by now.
    Gone,
    NotASocket(FileType),
    Io(io::Error),
}

impl From<io::Error> for SocketError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Why `NAME.shutdown` is not as it should be.
#[derive(Debug)]
pub enum FileError {
    /// Something else bears the name.
    NotAFile(FileType),
    Io(io::Error),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Made,
    /// It was so already.
    NothingToDo,
    /// The name belongs to another socket by now: nothing was touched.
    Superseded,
}

impl ControlDir {
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { descriptor, path: path.to_path_buf() })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still leads to this directory.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        let same =
            |here: Stat, there: Stat| (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino);
        match (rustix::fs::fstat(&self.descriptor), rustix::fs::stat(&self.path)) {
            (Ok(here), Ok(there)) => same(here, there),
            _ => false,
        }
    }

    /// Calls `each` with every `NAME.kvmd` in the directory. Needs no further descriptor.
    pub fn list(&self, mut each: impl FnMut(Name, Inode)) -> io::Result<()> {
        rustix::fs::seek(&self.descriptor, rustix::fs::SeekFrom::Start(0))?;
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut entries = RawDir::new(&self.descriptor, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            if let Some(name) = instance_name(entry.file_name().to_bytes()) {
                each(name, Inode(entry.ino()));
            }
        }
        Ok(())
    }

    /// The inode of `NAME.kvmd`; nothing if it is not there.
    pub fn inode(&self, name: &Name) -> io::Result<Option<Inode>> {
        match self.stat(name, SOCKET_SUFFIX) {
            Ok(stat) => Ok(Some(Inode(stat.st_ino))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Holds the socket `NAME.kvmd`, without connecting to it, if it still is the one with
    /// this inode. As long as it is held, no other socket can get this inode.
    pub fn open_socket(&self, name: &Name, inode: Inode) -> Result<OwnedFd, SocketError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entry = entry(name, SOCKET_SUFFIX);
        let socket = match rustix::fs::openat(&self.descriptor, &*entry, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Err(SocketError::Gone),
            opened => opened.map_err(|error| SocketError::Io(error.into()))?,
        };
        let stat = rustix::fs::fstat(&socket).map_err(|error| SocketError::Io(error.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            _ if Inode(stat.st_ino) != inode => Err(SocketError::Gone),
            FileType::Socket => Ok(socket),
            other => Err(SocketError::NotASocket(other)),
        }
    }

    /// Creates the empty file `NAME.shutdown`, unless the name belongs to another socket than
    /// `inode` by now.
    ///
    /// `mknodat(2)` rather than `openat(2)`: it is exclusive and follows no link just the same,
    /// and needs no descriptor, so that a process out of descriptors can still say who did it.
    pub fn create_shutdown(&self, name: &Name, inode: Inode) -> Result<Change, FileError> {
        if self.is_superseded(name, inode)? {
            return Ok(Change::Superseded);
        }
        // As `open(2)` would from a shell: the umask has the last word.
        let mode = Mode::from_raw_mode(0o666);
        let entry = entry(name, SHUTDOWN_SUFFIX);
        match rustix::fs::mknodat(&self.descriptor, &*entry, FileType::RegularFile, mode, 0) {
            Ok(()) => Ok(Change::Made),
            Err(Errno::EXIST) => {
                self.require_file(name)?;
                Ok(Change::NothingToDo)
            }
            Err(error) => Err(FileError::Io(error.into())),
        }
    }

    /// Removes `NAME.shutdown`, unless the name belongs to another socket than `inode` by now.
    pub fn remove_shutdown(&self, name: &Name, inode: Inode) -> Result<Change, FileError> {
        if self.is_superseded(name, inode)? {
            return Ok(Change::Superseded);
        }
        let entry = entry(name, SHUTDOWN_SUFFIX);
        match rustix::fs::unlinkat(&self.descriptor, &*entry, AtFlags::empty()) {
            Ok(()) => Ok(Change::Made),
            Err(Errno::NOENT) => Ok(Change::NothingToDo),
            Err(Errno::ISDIR) => Err(FileError::NotAFile(FileType::Directory)),
            Err(error) => Err(FileError::Io(error.into())),
        }
    }

    fn require_file(&self, name: &Name) -> Result<(), FileError> {
        let stat = self.stat(name, SHUTDOWN_SUFFIX).map_err(|error| FileError::Io(error.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(()),
            other => Err(FileError::NotAFile(other)),
        }
    }

    fn is_superseded(&self, name: &Name, inode: Inode) -> Result<bool, FileError> {
        let current = self.inode(name).map_err(FileError::Io)?;
        Ok(current.is_some_and(|current| current != inode))
    }

    fn stat(&self, name: &Name, suffix: &[u8]) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.descriptor, &*entry(name, suffix), AtFlags::SYMLINK_NOFOLLOW)
    }
}

fn entry(name: &Name, suffix: &[u8]) -> Vec<u8> {
    [name.as_bytes(), suffix].concat()
}

/// The instance whose event socket is called so.
#[must_use]
pub fn instance_name(file_name: &[u8]) -> Option<Name> {
    file_name.strip_suffix(SOCKET_SUFFIX).filter(|name| !name.is_empty()).map(Name::new)
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the socket is gone"),
            Self::NotASocket(kind) => {
                write!(f, "it is {}, not a socket; remove it", plain_file::kind(*kind))
            }
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAFile(kind) => {
                write!(f, "it is {}, not a file; remove it", plain_file::kind(*kind))
            }
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SocketError {}
impl std::error::Error for FileError {}
