//! Opening a plain file where somebody else may have put anything: a link, a FIFO, a file without
//! end.
//!
//! Ganeti's directories belong to users of its own, QEMU's files to QEMU, and what is in /proc says
//! what each process wants it to say. So nothing is opened but in this way: no link is followed,
//! nobody is waited for, what is no plain file is refused, and no more is read than was asked for.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;

/// What never is to happen when a file is opened.
const CAREFULLY: OFlags =
    OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// What has the name is no plain file.
#[derive(Debug)]
struct NotPlain(FileType);

impl fmt::Display for NotPlain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it is {}, not a plain file; remove it", kind(self.0))
    }
}

impl std::error::Error for NotPlain {}

/// What it is, for a message.
pub(super) fn kind(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::RegularFile => "a plain file",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        _ => "a device",
    }
}

/// The first bytes of the file at `path`, `most` of them at most.
pub fn read(path: impl AsRef<Path>, most: usize) -> io::Result<Vec<u8>> {
    read_from(&open_plain(path.as_ref(), OFlags::RDONLY, Mode::empty())?, most)
}

/// The last bytes of the file at `path`, `most` of them at most.
pub fn read_end(path: impl AsRef<Path>, most: usize) -> io::Result<Vec<u8>> {
    let mut file = open_plain(path.as_ref(), OFlags::RDONLY, Mode::empty())?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most as u64)))?;
    read_from(&file, most)
}

fn read_from(file: &File, most: usize) -> io::Result<Vec<u8>> {
    /// So much is read with one call: what /proc says of a process, is of one moment.
    const AT_ONCE: usize = 4096;
    let mut bytes = Vec::with_capacity(most.min(AT_ONCE));
    file.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn open_plain(path: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
    let file = match open(path, flags | CAREFULLY, mode) {
        Err(Errno::LOOP) => return Err(io::Error::other(NotPlain(FileType::Symlink))),
        // A FIFO that nobody reads, or a socket.
        Err(Errno::NXIO) => return Err(io::Error::other(NotPlain(FileType::Fifo))),
        opened => opened?,
    };
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file.into()),
        other => Err(io::Error::other(NotPlain(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::net::UnixListener;

    fn said(path: &Path) -> String {
        read(path, 10).unwrap_err().to_string()
    }

    #[test]
    fn no_more_is_read_than_was_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "0123456789").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"0123");
        assert_eq!(read_end(&path, 4).unwrap(), b"6789");
        assert_eq!(read(&path, 100).unwrap(), read_end(&path, 100).unwrap());
        assert_eq!(
            read(directory.path().join("none"), 4).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn what_is_no_plain_file_is_named_and_waited_for_by_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("file"), "0123456789").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        assert_eq!(said(&path("link")), "it is a symbolic link, not a plain file; remove it");
        assert_eq!(said(&path("fifo")), "it is a FIFO, not a plain file; remove it");
        assert_eq!(said(directory.path()), "it is a directory, not a plain file; remove it");
        assert!(read(path("socket"), 10).is_err());
        assert_eq!(said(Path::new("/dev/null")), "it is a device, not a plain file; remove it");
    }
}
