//! Giving up what is not needed: files, capabilities, privileges by way of other programs, and every
//! system call but those that the daemon makes.
//!
//! All of that is each thread's own, so each thread enters by itself, as what it is ([`Role`]): the
//! loop when the daemon is up, the others when they begin. What it may need later, to open again what
//! it has lost, is among what is kept; what only its start needs is not.

use std::fmt;
use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::confinement::{Confined, ConfinementError, Reach, confine};

/// Why less was given up than there is to give up.
#[derive(Debug)]
pub enum SandboxError {
    Files(ConfinementError),
    Capabilities(io::Error),
    NoNewPrivileges(io::Error),
    /// The filter on system calls, in the words of the library or of the kernel.
    Filter(String),
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(error) => write!(f, "cannot give up files with Landlock: {error}"),
            Self::Capabilities(error) => write!(f, "cannot drop capabilities: {error}"),
            Self::NoNewPrivileges(error) => write!(f, "cannot set no_new_privs: {error}"),
            Self::Filter(error) => write!(f, "cannot filter system calls: {error}"),
        }
    }
}

impl std::error::Error for SandboxError {}

/// What a thread is there for, which says what it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Talks to QEMU, watches processes, and creates and removes the files in the control
    /// directory.
    Loop,
    /// Writes the log, the records and the metrics. It has one capability, to open them where they
    /// are Ganeti's users', and can neither watch a process nor change a priority.
    Writer,
    /// Reads what `/proc` shows of processes that are not ours, and QEMU's own logs. It has one
    /// capability, to read the logs where their directory belongs to Ganeti's users, and cannot
    /// create or remove a file, make a connection, send a signal to others or change a priority.
    Lookup,
    /// Reads where links lead: `/proc/PID/exe`. Landlock would hide that, so it is outside of it, with
    /// `CAP_SYS_PTRACE`. All threads share their memory: whoever gets into one of them has this one,
    /// too. So it can open nothing, and what it can find out is names.
    Links,
}

impl Role {
    fn capabilities(self, is_confined: bool) -> CapabilitySet {
        match self {
            Self::Loop if is_confined => LOOP_CAPABILITIES,
            Self::Loop => LOOP_CAPABILITIES.union(CapabilitySet::SYS_PTRACE),
            Self::Writer => CapabilitySet::DAC_OVERRIDE,
            Self::Lookup => CapabilitySet::DAC_READ_SEARCH,
            Self::Links => CapabilitySet::SYS_PTRACE,
        }
    }

    fn calls(self) -> impl Iterator<Item = libc::c_long> {
        let own: &[&[libc::c_long]] = match self {
            Self::Loop => &[FILES, OLD_FILES, LOOP, OLD_LOOP],
            Self::Writer => &[FILES, OLD_FILES, WRITER, OLD_WRITER],
            Self::Lookup => &[LOOKUP, OLD_LOOKUP],
            Self::Links => &[LINKS, OLD_LINKS],
        };
        own.iter().chain([&COMMON]).copied().flatten().copied()
    }
}

/// What the loop uses when it is up; where it is not confined `CAP_SYS_PTRACE`, too: proc(5) then
/// tells how another user's process ended.
const LOOP_CAPABILITIES: CapabilitySet =
    // To join the proc connector's group again (before Linux 6.6), with a large buffer.
    CapabilitySet::NET_ADMIN
        // QEMU's socket and pid file, where Ganeti gives each instance a user of its own;
        // Ganeti's directories, where it has users of its own.
        .union(CapabilitySet::DAC_OVERRIDE)
        // To get in front of other processes again.
        .union(CapabilitySet::SYS_NICE);

/// The system calls that every thread makes.
const COMMON: &[libc::c_long] = &[
    libc::SYS_clock_gettime,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    // Memory, and what the language's runtime does with it.
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Questions and answers, between threads and to others.
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    // What a panic says.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_write,
    libc::SYS_writev,
    // No call at all: what a tracer makes of one that it lets fail, as the tests do.
    u32::MAX as libc::c_long,
    // The end.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
];

/// Those of the loop and of the writer.
const FILES: &[libc::c_long] = &[
    libc::SYS_ppoll,
    // Files that grow, and files that are replaced; /proc.
    libc::SYS_fchmod,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statx,
    libc::SYS_unlinkat,
    // The service manager, the syslog and the journal.
    libc::SYS_connect,
];

/// Those of the loop.
const LOOP: &[libc::c_long] = &[
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_prlimit64,
    libc::SYS_sched_setscheduler,
    // Files: the state, /proc, control groups.
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_mknodat,
    libc::SYS_pwrite64,
    libc::SYS_readlinkat,
    // The control directory.
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    // QMP, the connector, the service manager, a successor.
    libc::SYS_bind,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socket,
    // Processes.
    libc::SYS_geteuid,
    libc::SYS_ioctl,
    libc::SYS_pidfd_open,
    libc::SYS_uname,
    // The kernel's trace. To mount it takes CAP_SYS_ADMIN, which is tried and refused later on.
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_mkdirat,
];

/// Those of the writer.
const WRITER: &[libc::c_long] = &[
    // stdout and stderr lead to the log, also after its rotation.
    libc::SYS_dup3,
];

/// Those of a thread that reads `/proc`, and the ends of logs.
const LOOKUP: &[libc::c_long] =
    &[libc::SYS_fstat, libc::SYS_lseek, libc::SYS_newfstatat, libc::SYS_read, libc::SYS_statx];

/// The system calls by which such a thread opens files, for reading only, and which of their arguments
/// has the flags.
#[cfg(target_arch = "x86_64")]
const OPENING: [(libc::c_long, u8); 2] = [(libc::SYS_openat, 2), (libc::SYS_open, 1)];
#[cfg(not(target_arch = "x86_64"))]
const OPENING: [(libc::c_long, u8); 1] = [(libc::SYS_openat, 2)];

const LINKS: &[libc::c_long] = &[libc::SYS_readlinkat];

/// The same under the names of the first architectures.
#[cfg(target_arch = "x86_64")]
const OLD_FILES: &[libc::c_long] = &[
    libc::SYS_poll,
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_rename,
    libc::SYS_unlink,
    libc::SYS_chmod,
    libc::SYS_time,
];
#[cfg(target_arch = "x86_64")]
const OLD_LOOP: &[libc::c_long] =
    &[libc::SYS_epoll_wait, libc::SYS_readlink, libc::SYS_mkdir, libc::SYS_rmdir];
#[cfg(target_arch = "x86_64")]
const OLD_WRITER: &[libc::c_long] = &[libc::SYS_dup2];
#[cfg(target_arch = "x86_64")]
const OLD_LOOKUP: &[libc::c_long] = &[libc::SYS_stat];
#[cfg(target_arch = "x86_64")]
const OLD_LINKS: &[libc::c_long] = &[libc::SYS_readlink];
#[cfg(not(target_arch = "x86_64"))]
const OLD_FILES: &[libc::c_long] = &[];
#[cfg(not(target_arch = "x86_64"))]
const OLD_LOOKUP: &[libc::c_long] = &[];
#[cfg(not(target_arch = "x86_64"))]
const OLD_LINKS: &[libc::c_long] = &[];
#[cfg(not(target_arch = "x86_64"))]
const OLD_LOOP: &[libc::c_long] = &[];
#[cfg(not(target_arch = "x86_64"))]
const OLD_WRITER: &[libc::c_long] = &[];

/// Has the calling thread give up what it does not need. A system call that is not on its list kills
/// the process from here on. What cannot be given up is no reason to keep the rest.
///
/// `reach`: the files that are to stay within its reach; all of them, if it is not given, or if it is
/// there to read links.
pub fn enter(role: Role, reach: Option<&Reach>) -> Result<Confined, SandboxError> {
    let unconfined = || Confined { is_enforced: false, missing: Vec::new() };
    let reach = reach.filter(|_| role != Role::Links);
    let confined = reach.map(|reach| confine(role, reach)).transpose();
    let is_confined = matches!(&confined, Ok(Some(Confined { is_enforced: true, .. })));
    let files =
        confined.map(|confined| confined.unwrap_or_else(unconfined)).map_err(SandboxError::Files);
    let capabilities =
        drop_capabilities(role.capabilities(is_confined)).map_err(SandboxError::Capabilities);
    let privileges =
        set_no_new_privs(true).map_err(|error| SandboxError::NoNewPrivileges(error.into()));
    let calls = filter(role)
        .map_err(|error| SandboxError::Filter(error.to_string()))
        .and_then(|it| apply_filter(&it).map_err(|error| SandboxError::Filter(error.to_string())));
    capabilities.and(privileges).and(calls).and(files)
}

fn drop_capabilities(kept: CapabilitySet) -> io::Result<()> {
    let had = capabilities(None)?;
    if had.effective.contains(CapabilitySet::SETPCAP) {
        // Those that the kernel has and this program does not know are in it, too.
        for number in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if !kept.contains(capability)
                && capability_is_in_bounding_set(capability).unwrap_or_default()
            {
                remove_capability_from_bounding_set(capability)?;
            }
        }
    }
    if kept.contains(had.permitted) && had.inheritable.is_empty() {
        return Ok(());
    }
    let left = CapabilitySets {
        effective: had.effective.intersection(kept),
        permitted: had.permitted.intersection(kept),
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, left)?)
}

fn filter(role: Role) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: std::collections::BTreeMap<libc::c_long, Vec<SeccompRule>> =
        role.calls().map(|call| (call, Vec::new())).collect();
    if role != Role::Loop {
        // Where a thread's memory comes from, it is mapped first and made accessible then.
        let execute = libc::PROT_EXEC as u64;
        let is_data =
            SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(execute), 0)?;
        rules.insert(libc::SYS_mprotect, vec![SeccompRule::new(vec![is_data])?]);
    }
    if role == Role::Lookup {
        // Landlock has the same effect where there is one.
        let forbidden = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64;
        for (call, flags) in OPENING {
            let is_reading = SeccompCondition::new(
                flags,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::MaskedEq(forbidden),
                libc::O_RDONLY as u64,
            )?;
            rules.insert(call, vec![SeccompRule::new(vec![is_reading])?]);
        }
    }
    // A panic ends in abort(3), which signals this very process.
    let this = u64::from(std::process::id());
    let to_itself = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, this)?;
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![to_itself])?]);
    let architecture: TargetArch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, architecture)?
        .try_into()
}
