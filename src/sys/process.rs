//! Processes: which one is meant, and whether it lives.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::verdict::Process;

/// Gives this process another name, as `/proc/PID/comm` shows it: 15 bytes at most.
pub fn set_name(name: &CStr) {
    // It can fail for a bad pointer only.
    let _ = rustix::thread::set_name(name);
}

/// A descriptor that becomes readable when the process dies (Linux 5.3).
///
/// `ENOSYS`: the kernel is older. `ESRCH`, `EINVAL`: there is no such process, or it is a
/// thread.
pub fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = to_pid(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Whether the process of a pidfd is dead.
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut ends = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ends, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// The process that has this pid now, told apart from a later one by its start.
pub fn identify(pid: u32) -> io::Result<Process> {
    let (_, started) = state_and_start(pid)?;
    Ok(Process { pid, started })
}

/// Whether this very process still runs. One that is dead and not yet reaped does not.
#[must_use]
pub fn is_alive(process: Process) -> bool {
    state_and_start(process.pid)
        .is_ok_and(|(state, started)| started == process.started && !matches!(state, 'Z' | 'X'))
}

/// State and start time: fields 3 and 22 of `/proc/PID/stat` (proc(5)).
fn state_and_start(pid: u32) -> io::Result<(char, u64)> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    parse_stat(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_stat(stat: &[u8]) -> Option<(char, u64)> {
    // The second field is the command's name in parentheses, and may hold any byte.
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let mut fields = std::str::from_utf8(&stat[name_end + 1..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// The pid that a pid file names; nothing if there is no such file.
pub fn read_pid_file(path: &Path) -> io::Result<Option<u32>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    match text.trim().parse() {
        Ok(pid) if to_pid(pid).is_some() => Ok(Some(pid)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not a process id")),
    }
}

/// Whether this process is the QEMU of the instance, by the rule that Ganeti itself goes by:
/// its command line has `-name NAME` (or `-name guest=NAME`, and options after a comma).
#[must_use]
pub fn is_named(pid: u32, name: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|arguments| has_name(&arguments, name))
}

fn has_name(arguments: &[u8], name: &[u8]) -> bool {
    let mut arguments = arguments.split(|&byte| byte == 0);
    while let Some(argument) = arguments.next() {
        if argument == b"-name" {
            let value = arguments.next().unwrap_or_default();
            let value = value.strip_prefix(b"guest=").unwrap_or(value);
            return value.split(|&byte| byte == b',').next() == Some(name);
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_name_may_look_like_the_rest_of_the_line() {
        let stat = b"7 (a) Z 1 (b\xff) S 1 7 7 0 -1 4194304 5 0 0 0 1 2 0 0 20 0 1 0 98765 1 1";
        assert_eq!(parse_stat(stat), Some(('S', 98765)));
        assert_eq!(parse_stat(b"7 (a) S 1"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn this_process_lives_and_an_earlier_one_with_its_pid_does_not() {
        let this = identify(std::process::id()).unwrap();
        assert!(is_alive(this));
        assert!(!is_alive(Process { started: this.started - 1, ..this }));
    }

    #[test]
    fn a_child_that_was_not_reaped_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = identify(child.id()).unwrap();
        let pidfd = open_pidfd(child.id()).unwrap();
        let mut ends = [PollFd::new(&pidfd, PollFlags::IN)];
        poll(&mut ends, None).unwrap();
        assert!(has_ended(pidfd.as_fd()) && !is_alive(process));
        child.wait().unwrap();
        assert!(!is_alive(process));
    }

    #[test]
    fn a_pid_file_names_a_process_or_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web1");
        assert_eq!(read_pid_file(&path).unwrap(), None);
        fs::write(&path, "4242\n").unwrap();
        assert_eq!(read_pid_file(&path).unwrap(), Some(4242));
        for bad in ["", "x", "-1", "0", "99999999999"] {
            fs::write(&path, bad).unwrap();
            assert!(read_pid_file(&path).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_command_line_names_its_instance() {
        assert!(has_name(b"qemu\0-m\x00128\0-name\0web1\0-S\0", b"web1"));
        assert!(has_name(b"qemu\0-name\0guest=web1,debug-threads=on\0", b"web1"));
        assert!(!has_name(b"qemu\0-name\0web10\0", b"web1"));
        assert!(!has_name(b"editor\0web1\0", b"web1"));
        assert!(!has_name(b"", b"web1"));
    }
}
