//! Opening a plain file where somebody else may have put anything: a link, a FIFO, a file without
//! end.
//!
//! Ganeti's directories belong to users of its own, QEMU's files to QEMU, and what is in /proc says
//! what each process wants it to say. So nothing is opened but in this way: no link is followed but
//! one that the user has chosen, nobody is waited for, what is no plain file is refused, and no more
//! is read than was asked for.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, open, statat};
use rustix::io::Errno;

use super::private_directory::is_trusted;

/// What never is to happen when a file is opened.
const CAREFULLY: OFlags =
    OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// What has the name is not to be used.
#[derive(Debug)]
enum Unfit {
    NotPlain(FileType),
    /// The same of what the user has chosen.
    ChosenNotPlain(FileType),
    /// It belongs to another user than root or this process's own.
    Owner(u32),
    /// What is written to it is written to another file, too.
    HasOtherNames,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPlain(other) => {
                write!(f, "it is {}, not a plain file; remove it", kind(*other))
            }
            Self::ChosenNotPlain(other) => {
                write!(f, "it is {}; only a plain file can be followed", kind(*other))
            }
            Self::Owner(user) => {
                write!(f, "it belongs to user {user} and not to root; remove it")
            }
            Self::HasOtherNames => f.write_str("it has other names as well; remove it"),
        }
    }
}

impl std::error::Error for Unfit {}

impl From<Unfit> for io::Error {
    fn from(unfit: Unfit) -> Self {
        Self::other(unfit)
    }
}

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

/// Opens the file at `path` for reading.
fn open_to_read(path: &Path) -> io::Result<File> {
    open_plain(path, OFlags::RDONLY, Mode::empty())
}

/// The first bytes of the file at `path`, `most` of them at most.
pub fn read(path: impl AsRef<Path>, most: usize) -> io::Result<Vec<u8>> {
    read_from(&open_to_read(path.as_ref())?, most)
}

/// The same with one call, for a file that gives all it has at once, as some in /proc do.
pub(super) fn read_at_once(path: impl AsRef<Path>, most: usize) -> io::Result<Vec<u8>> {
    let file = open_to_read(path.as_ref())?;
    let mut bytes = Vec::with_capacity(most);
    rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes))?;
    Ok(bytes)
}

/// The last bytes of the file at `path`, `most` of them at most.
pub fn read_end(path: impl AsRef<Path>, most: usize) -> io::Result<Vec<u8>> {
    let mut file = open_to_read(path.as_ref())?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most as u64)))?;
    read_from(&file, most)
}

/// As [`read`], of a file that nobody else can have made: see [`open_own`].
pub fn read_own(path: impl AsRef<Path>, most: usize) -> io::Result<Vec<u8>> {
    read_from(&open_own_to_read(path.as_ref())?, most)
}

/// Opens a file for reading that nobody else can have made: see [`open_own`].
pub fn open_own_to_read(path: &Path) -> io::Result<File> {
    open_own(path, OFlags::RDONLY, Mode::empty())
}

/// Opens a file for reading that the user has chosen, and may have reached by a link.
pub fn open_linked_to_read(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | CAREFULLY.difference(OFlags::NOFOLLOW);
    only_plain(open(path, flags, Mode::empty())?.into(), Unfit::ChosenNotPlain)
}

/// Opens a file of this program's own in a directory where others may write, with these flags. It
/// has to belong to root or to this process's user, and to have one name only: then nobody else has
/// planted it.
pub(super) fn open_own(path: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
    let file = open_plain(path, flags, mode)?;
    let stat = fstat(&file)?;
    if !is_trusted(stat.st_uid) {
        return Err(Unfit::Owner(stat.st_uid).into());
    }
    if stat.st_nlink > 1 {
        return Err(Unfit::HasOtherNames.into());
    }
    Ok(file)
}

/// Whether the path leads to this file, which is open, and to no other.
#[must_use]
pub fn is_at(file: &File, path: &Path) -> bool {
    match (fstat(file), statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)) {
        (Ok(this), Ok(that)) => (this.st_dev, this.st_ino) == (that.st_dev, that.st_ino),
        _ => false,
    }
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
        Err(Errno::LOOP) => return Err(Unfit::NotPlain(FileType::Symlink).into()),
        opened => opened?,
    };
    only_plain(file.into(), Unfit::NotPlain)
}

fn only_plain(file: File, unfit: fn(FileType) -> Unfit) -> io::Result<File> {
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        other => Err(unfit(other).into()),
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
        rustix::fs::mknodat(CWD, path("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        assert_eq!(said(&path("link")), "it is a symbolic link, not a plain file; remove it");
        assert_eq!(said(&path("fifo")), "it is a FIFO, not a plain file; remove it");
        assert_eq!(said(directory.path()), "it is a directory, not a plain file; remove it");
        assert!(read(path("socket"), 10).is_err());
        assert_eq!(said(Path::new("/dev/null")), "it is a device, not a plain file; remove it");
    }
}
