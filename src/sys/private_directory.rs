//! A directory of the daemon's own, where nobody else can plant or remove anything.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstat, mkdirat, open};
use rustix::io::Errno;

/// Somebody else can write there.
#[derive(Debug)]
enum NotPrivate {
    Owner(PathBuf, u32),
    Shared(PathBuf),
}

impl fmt::Display for NotPrivate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner(path, user) => {
                write!(f, "{} belongs to user {user} and not to root; remove it", path.display())
            }
            Self::Shared(path) => {
                write!(
                    f,
                    "{0} is not private: others may write to it; chmod 700 {0}",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for NotPrivate {}

/// Makes the directory at `path` if it is not there, for this process's user alone. An error, if
/// others may write to it: see [`require`].
pub fn prepare(path: &Path) -> io::Result<()> {
    match mkdirat(CWD, path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => require(path),
        Err(error) => Err(error.into()),
    }
}

/// Checks that the directory is root's or this process's user's, and that only that one may write
/// to it.
pub(super) fn require(path: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let stat = fstat(open(path, flags, Mode::empty())?)?;
    if !is_trusted(stat.st_uid) {
        return Err(io::Error::other(NotPrivate::Owner(path.into(), stat.st_uid)));
    }
    if Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH) {
        return Err(io::Error::other(NotPrivate::Shared(path.into())));
    }
    Ok(())
}

/// Root, or the user of this very process.
pub(super) fn is_trusted(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_made_and_is_nobody_elses() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("private");
        prepare(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        prepare(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o770)).unwrap();
        let error = prepare(&path).unwrap_err().to_string();
        assert!(error.contains("others may write to it; chmod 700 /"), "{error}");
        std::os::unix::fs::symlink(&path, directory.path().join("link")).unwrap();
        assert!(prepare(&directory.path().join("link")).is_err());
    }
}
