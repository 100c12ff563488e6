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

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus,
};

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

/// Confines the calling thread, and those that it starts from now on. Not an error, if the kernel
/// has no Landlock.
pub(super) fn confine(reach: &Reach) -> Result<Confined, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let change = read | AccessFs::MakeReg | AccessFs::RemoveFile;
    let write = change | AccessFs::WriteFile | AccessFs::Truncate;
    let make_instances =
        read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeDir | AccessFs::RemoveDir;

    // No rule allows any of the network: nothing here uses it.
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))?
        .handle_access(AccessNet::from_all(VERSION))?
        .create()?;
    let mut missing = Vec::new();
    for (path, access) in [(&reach.changing, change)]
        .into_iter()
        .chain(reach.written.iter().map(|path| (path, write)))
    {
        match PathFd::new(path) {
            Ok(directory) => ruleset = ruleset.add_rule(PathBeneath::new(directory, access))?,
            Err(_) => missing.push(path.clone()),
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
            let ruleset = ruleset.add_rule(PathBeneath::new(&tracefs, read))?;
            match tracefs.instances() {
                Ok(instances) => ruleset.add_rule(PathBeneath::new(instances, make_instances))?,
                Err(_) => ruleset,
            }
        }
        // It may be mounted later.
        Err(_) => MOUNTS
            .iter()
            .try_fold(ruleset, |ruleset, path| allow(ruleset, path.as_ref(), make_instances))?,
    };
    let RestrictionStatus { ruleset, .. } = ruleset.restrict_self()?;
    Ok(Confined { is_enforced: ruleset != RulesetStatus::NotEnforced, missing })
}

/// Allows this below the path, if that is there.
fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    match PathFd::new(path) {
        Ok(file) => ruleset.add_rule(PathBeneath::new(file, access)),
        Err(_) => Ok(ruleset),
    }
}
