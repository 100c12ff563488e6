//! Which files a process may touch from now on, whatever its capabilities: Landlock
//! (`userspace-api/landlock.rst` of the kernel's documentation), from Linux 5.13 on and as far as the
//! running kernel knows it.
//!
//! It also keeps the process from looking into others as a debugger would (`PTRACE_MODE_READ` of
//! ptrace(2)): with it, `/proc/PID/exe`, `/proc/PID/io` and the exit status in `/proc/PID/stat` are
//! there no more for another process.
//!
//! A rule belongs to the directory that has the name now, and not to the name. So what may vanish and
//! come back is covered by a directory above it.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::trace::{MOUNTS, Tracefs};

/// The version of Landlock whose rights are given up. `ResolveUnix` of a later one is not among
/// them: QEMU's sockets are connected to by descriptor, and others may lie anywhere.
const VERSION: ABI = ABI::V7;

/// What the daemon works on, beside what is the kernel's.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Below it are directories that come and go. Files there are listed and read; empty ones are
    /// made, and any are removed, but none is written to.
    pub changing: PathBuf,
    /// Directories in which files are written, read, replaced and removed.
    pub written: Vec<PathBuf>,
}

/// What came of it.
#[derive(Debug)]
pub struct Confined {
    /// At least a part of it holds.
    pub is_enforced: bool,
    /// Directories that are not there, and are out of reach if they come.
    pub missing: Vec<PathBuf>,
}

/// Why nothing is confined, though it could be.
#[derive(Debug)]
pub enum ConfinementError {
    /// What is to stay within reach cannot be opened, and would be lost.
    Open(PathBuf, io::Error),
    /// In the words of the library.
    Ruleset(RulesetError),
}

impl fmt::Display for ConfinementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(path, error) => write!(f, "cannot open {}: {error}", path.display()),
            Self::Ruleset(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ConfinementError {}

impl From<RulesetError> for ConfinementError {
    fn from(error: RulesetError) -> Self {
        Self::Ruleset(error)
    }
}

/// Confines the calling thread, and those that it starts from now on. Not an error, if the kernel
/// has no Landlock. On an error nothing is confined.
pub(super) fn confine(reach: &Reach) -> Result<Confined, ConfinementError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let change = read | AccessFs::MakeReg | AccessFs::RemoveFile;
    let write = change | AccessFs::WriteFile | AccessFs::Truncate;
    let make_instances =
        read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeDir | AccessFs::RemoveDir;

    let mut ruleset = nothing()?;
    let mut missing = Vec::new();
    let own = [(&reach.changing, change)].into_iter();
    for (path, access) in own.chain(reach.written.iter().map(|path| (path, write))) {
        match hold(path)? {
            Some(directory) => ruleset = ruleset.add_rule(PathBeneath::new(directory, access))?,
            None => missing.push(path.clone()),
        }
    }
    for (path, access) in [
        ("/proc", AccessFs::ReadFile.into()),
        // How many processes of a control group the OOM killer has killed.
        ("/sys/fs/cgroup", AccessFs::ReadFile.into()),
        // Where output goes that nobody is to see.
        ("/dev/null", AccessFs::ReadFile | AccessFs::WriteFile),
    ] {
        ruleset = allow(ruleset, path.as_ref(), access)?;
    }
    ruleset = match Tracefs::find() {
        // It may be mounted where no path leads to.
        Ok(tracefs) => {
            let instances = tracefs
                .instances()
                .map_err(|error| ConfinementError::Open("tracefs/instances".into(), error))?;
            ruleset
                .add_rule(PathBeneath::new(&tracefs, read))?
                .add_rule(PathBeneath::new(instances, make_instances))?
        }
        // It may be mounted later.
        Err(_) => MOUNTS
            .iter()
            .try_fold(ruleset, |ruleset, path| allow(ruleset, path.as_ref(), make_instances))?,
    };
    Ok(Confined { is_enforced: enforce(ruleset)?, missing })
}

/// Confines the calling thread to reading what the kernel shows of processes; else as [`confine`].
pub(super) fn confine_to_proc() -> Result<Confined, ConfinementError> {
    let ruleset = allow(nothing()?, "/proc".as_ref(), AccessFs::ReadFile.into())?;
    Ok(Confined { is_enforced: enforce(ruleset)?, missing: Vec::new() })
}

/// No file yet, and nothing of the network, to which no rule is added: nothing here uses it.
fn nothing() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))?
        .handle_access(AccessNet::from_all(VERSION))?
        .create()
}

/// Whether at least a part of it holds from now on.
fn enforce(ruleset: RulesetCreated) -> Result<bool, RulesetError> {
    let RestrictionStatus { ruleset, .. } = ruleset.restrict_self()?;
    Ok(ruleset != RulesetStatus::NotEnforced)
}

/// Allows this below the path, if that is there.
fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, ConfinementError> {
    match hold(path)? {
        Some(file) => Ok(ruleset.add_rule(PathBeneath::new(file, access))?),
        None => Ok(ruleset),
    }
}

/// What is at the path; nothing if nothing is.
fn hold(path: &Path) -> Result<Option<OwnedFd>, ConfinementError> {
    match open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(ConfinementError::Open(path.into(), error.into())),
    }
}
