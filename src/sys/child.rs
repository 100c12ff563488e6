//! A child that ends with this process, does not react to signals that are meant for it, and keeps
//! some descriptors.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::fs::{MemfdFlags, memfd_create};

use super::signal_descriptor::SignalMask;

/// What a child is to have of this process.
#[derive(Debug)]
pub struct Legacy<'a> {
    /// Under the same numbers.
    pub descriptors: &'a [BorrowedFd<'a>],
    /// The signals that are blocked in it, SIGHUP not among them.
    pub mask: SignalMask,
}

/// Starts a program that is hung up on (SIGHUP) when this *thread* ends, however it does; so it has to
/// be one that lives as long as the process. A program that changes its user loses that, see
/// `PR_SET_PDEATHSIG` of prctl(2).
///
/// The error is that of fork(2) or of execve(2): `ENOENT`, if there is no such program.
pub fn spawn(words: &[OsString], legacy: &Legacy<'_>) -> io::Result<Child> {
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments);
    // Messages to the service manager are this process's.
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        command.env_remove(name);
    }
    let descriptors: Vec<RawFd> = legacy.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let (mask, parent) = (legacy.mask, std::process::id());
    let prepare = move || {
        for &descriptor in &descriptors {
            check(keep_across_exec(descriptor))?;
        }
        mask.set_with_hang_up()?;
        check(hang_up_with_parent())?;
        // It may have ended before that was asked for.
        if u32::try_from(parent_id()) == Ok(parent) {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    };
    // SAFETY: between fork and exec this makes system calls only, which fcntl(2), sigaction(2),
    // sigprocmask(2), prctl(2) and getppid(2) are; it takes no lock and allocates nothing (an error
    // of a number is none).
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// What a command of the administrator's finds in its environment.
pub type Environment = Vec<(&'static str, String)>;

/// A command of the administrator's, to be started with the shell, under the signal mask that this
/// process was started with. Nothing is put into the command: what it is told is in its environment.
pub fn shell(command: &OsStr, environment: Environment, mask: SignalMask) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).envs(environment);
    // SAFETY: it makes system calls only, and allocates nothing.
    unsafe { shell.pre_exec(move || mask.set()) };
    shell
}

/// A file without a name that holds this, to be read from its beginning by whoever gets its descriptor.
pub fn memory_file(content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("kvmd", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

fn keep_across_exec(descriptor: RawFd) -> libc::c_int {
    // SAFETY: it changes a flag of a descriptor in this process's own table.
    unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) }
}

fn hang_up_with_parent() -> libc::c_int {
    // SAFETY: it takes a number, and changes what this process is sent only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGHUP as libc::c_ulong) }
}

fn parent_id() -> libc::pid_t {
    // SAFETY: it has no arguments and cannot fail.
    unsafe { libc::getppid() }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
