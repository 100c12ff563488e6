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
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    RulesetStatus,
};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::sandbox::Role;
use super::tracefs::{MOUNTS, Tracefs};

/// The version of Landlock whose rights are given up. `ResolveUnix` of a later one is not among
/// them: QEMU's sockets are connected to by descriptor, and others may lie anywhere.
const VERSION: ABI = ABI::V7;

/// What a thread works on, beside what is the kernel's.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Below these are directories that come and go. Files there are listed and read; empty ones are
    /// made, and any are removed, but none is written to.
    pub changing: Vec<PathBuf>,
    /// Directories in which files are read, if they are there.
    pub read: Vec<PathBuf>,
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

/// Whether the kernel has it, and has it on. Nothing is confined by asking.
#[must_use]
pub fn is_available() -> bool {
    let required = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    required.handle_access(AccessFs::ReadFile).and_then(Ruleset::create).is_ok()
}

/// Confines the calling thread, which has this role. Not an error, if the kernel has no Landlock. On
/// an error nothing is confined.
pub(super) fn confine(role: Role, reach: &Reach) -> Result<Confined, ConfinementError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let change = read | AccessFs::MakeReg | AccessFs::RemoveFile;
    let write = change | AccessFs::WriteFile | AccessFs::Truncate;

    // No rule allows any of the network: nothing here uses it.
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))?
        .handle_access(AccessNet::from_all(VERSION))?
        .create()?;
    let mut missing = Vec::new();
    let changing = reach.changing.iter().map(|path| (path, change));
    for (path, access) in changing.chain(reach.written.iter().map(|path| (path, write))) {
        match hold(path)? {
            Some(directory) => ruleset = ruleset.add_rule(PathBeneath::new(directory, access))?,
            None => missing.push(path.clone()),
        }
    }
    for path in reach.read.iter().map(PathBuf::as_path).chain([Path::new("/proc")]) {
        ruleset = allow(ruleset, path, AccessFs::ReadFile.into())?;
    }
    ruleset = match role {
        // Where output goes that nobody is to see.
        Role::Writer => {
            allow(ruleset, "/dev/null".as_ref(), AccessFs::ReadFile | AccessFs::WriteFile)?
        }
        // How many processes of a control group the OOM killer has killed, and the kernel's trace.
        Role::Loop => {
            allow_trace(allow(ruleset, "/sys/fs/cgroup".as_ref(), AccessFs::ReadFile.into())?)?
        }
        Role::Lookup | Role::Links => ruleset,
    };
    let RestrictionStatus { ruleset, .. } = ruleset.restrict_self()?;
    Ok(Confined { is_enforced: ruleset != RulesetStatus::NotEnforced, missing })
}

/// Allows to read the kernel's trace, and to make instances of it.
fn allow_trace(ruleset: RulesetCreated) -> Result<RulesetCreated, ConfinementError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let make_instances =
        read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeDir | AccessFs::RemoveDir;
    let Ok(tracefs) = Tracefs::find() else {
        // It may be mounted later.
        return MOUNTS
            .iter()
            .try_fold(ruleset, |ruleset, path| allow(ruleset, path.as_ref(), make_instances));
    };
    // It may be mounted where no path leads to.
    let instances = tracefs
        .instances()
        .map_err(|error| ConfinementError::Open("tracefs/instances".into(), error))?;
    Ok(ruleset
        .add_rule(PathBeneath::new(&tracefs, read))?
        .add_rule(PathBeneath::new(instances, make_instances))?)
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
