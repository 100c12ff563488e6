//! tracefs: where it is, and the instances that daemons of ours have in it.
//!
//! An instance is a tracing of our own beside everybody else's (`trace/ftrace.rst` of the kernel's
//! documentation). Here they are named, found and, when their node is gone, removed; what one of them
//! traces is in `trace`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{
    AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, fchmod, flock, fstat, openat, stat, statat,
    unlinkat,
};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::trace::SIGNAL_GENERATE;
use crate::wire::trace::{LONGEST_FILTER, watched_by};

/// Where tracefs is mounted; before Linux 4.1 and on some systems still, below debugfs.
pub(super) const MOUNTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// What the names of all instances begin with.
const PREFIX: &str = "ganeti-kvmd";

/// More processes are not looked for. Only a filter that had no room for every single pid names more.
const MOST_LOOKED_FOR: u32 = 65_536;

/// The mark of an instance that was found abandoned: its directory's sticky bit, which means nothing
/// there.
const ABANDONED: Mode = Mode::SVTX;

/// What the instance of the node with this private directory is called. Nodes that share a kernel,
/// as containers do, may have the same paths, but no two have the same directory; and it is the same
/// for each daemon of a node until the machine is booted, like what was traced.
#[must_use]
pub fn instance_name(private_dir: &Path) -> OsString {
    match stat(private_dir) {
        Ok(it) => format!("{PREFIX}-{:x}-{:x}", it.st_dev, it.st_ino).into(),
        // The log has complained already. The next daemon will not find it.
        Err(_) => format!("{PREFIX}-pid{}", std::process::id()).into(),
    }
}

/// The file system through which the kernel's tracing is had.
#[derive(Debug)]
pub struct Tracefs(OwnedFd);

impl Tracefs {
    /// tracefs where it is mounted, or else a mount of it that only this descriptor can see (Linux
    /// 5.2, as root).
    pub fn find() -> io::Result<Self> {
        find_tracefs().map(Self)
    }

    /// The directory in which instances are made.
    pub(super) fn instances(&self) -> io::Result<OwnedFd> {
        open_directory(&self.0, "instances")
    }

    /// Whether an earlier daemon has left the instance `name`. To go on with it takes a
    /// millisecond; to make it anew 50, in which the kernel waits for all its CPUs.
    #[must_use]
    pub fn has(&self, name: &OsStr) -> bool {
        let path = Path::new("instances").join(name);
        statat(&self.0, path, AtFlags::empty()).is_ok()
    }

    /// Removes what is left of nodes that are gone, a container for example: instances that no
    /// daemon has open, and whose filter names no process that lives. That they are is marked
    /// first: a daemon that is being started again may still ask who has ended its last virtual
    /// machine. Returns how many are removed; a few at most, and the rest is the next daemon's.
    pub fn remove_abandoned(&self) -> io::Result<usize> {
        /// The kernel takes 40 ms for each, in which this process hears nothing.
        const MOST: usize = 4;
        /// No daemon is away for so long and wants to know.
        const AWAY: Duration = Duration::from_secs(600);
        let mut removed = 0;
        for entry in Dir::read_from(&self.instances()?)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            // One that cannot be judged or removed is left for another time.
            if name.as_bytes().starts_with(PREFIX.as_bytes())
                && self.remove_if_abandoned(name, AWAY).is_ok_and(|it| it)
            {
                removed += 1;
            }
            if removed == MOST {
                break;
            }
        }
        Ok(removed)
    }

    /// Removes an instance, if it was marked as abandoned so long ago and is still; marks it, if it
    /// is and was not marked.
    pub fn remove_if_abandoned(&self, name: &OsStr, away: Duration) -> io::Result<bool> {
        let instances = self.instances()?;
        let directory = open_directory(&instances, name)?;
        if names_a_living_process(&directory)? {
            return Ok(false);
        }
        // Should its daemon come just now, it finds the instance in use and tries again.
        if flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        let stat = fstat(&directory)?;
        if !Mode::from_raw_mode(stat.st_mode).contains(ABANDONED) {
            fchmod(&directory, Mode::RWXU | ABANDONED)?;
            return Ok(false);
        }
        // To mark it was the last change.
        let marked =
            SystemTime::UNIX_EPOCH + Duration::from_secs(stat.st_ctime.try_into().unwrap_or(0));
        if marked.elapsed().is_ok_and(|since| since >= away) {
            unlinkat(&instances, name, AtFlags::REMOVEDIR)?;
            return Ok(true);
        }
        Ok(false)
    }
}

/// Whether one of the processes that the instance's filter lets pass is there; also, if the filter
/// cannot be read: it may be being made.
fn names_a_living_process(directory: &OwnedFd) -> io::Result<bool> {
    // The kernel has it read at once or not at all, and ends it with a newline.
    let mut filter = [0; LONGEST_FILTER + 1];
    let length =
        open(directory, &format!("{SIGNAL_GENERATE}/filter"), OFlags::RDONLY)?.read(&mut filter)?;
    let filter = String::from_utf8_lossy(&filter[..length]);
    let Some(ranges) = watched_by(&filter) else { return Ok(true) };
    let count = ranges.iter().map(|&(first, last)| last.saturating_sub(first)).sum::<u32>();
    let lives = |pid: u32| statat(CWD, format!("/proc/{pid}"), AtFlags::empty()).is_ok();
    Ok(count > MOST_LOOKED_FOR || ranges.into_iter().any(|(first, last)| (first..=last).any(lives)))
}

impl AsFd for Tracefs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(super) fn open(directory: &OwnedFd, path: &str, flags: OFlags) -> io::Result<File> {
    Ok(openat(directory, path, flags | OFlags::CLOEXEC, Mode::empty())?.into())
}

pub(super) fn open_directory(at: &OwnedFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(at, path, flags, Mode::empty())?)
}

fn find_tracefs() -> io::Result<OwnedFd> {
    for path in MOUNTS {
        if Path::new(path).join("instances").is_dir() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            return Ok(openat(CWD, path, flags, Mode::empty())?);
        }
    }
    let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}
