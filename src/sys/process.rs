//! Processes: which one is meant, and whether it lives.

use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, getppid, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal, setrlimit,
};

use super::{clock, plain_file};
use crate::id::Process;
use crate::wire::{Signal, StatusAnswer, WaitStatus, command_line};

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

/// The process that started this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent(Option<Pid>);

impl Parent {
    /// Has this process be sent this signal when the *thread* that started it ends.
    pub fn ends_with(signal: Signal) -> io::Result<Self> {
        let parent = Self(getppid());
        set_parent_process_death_signal(Some(to_named(signal)?))?;
        Ok(parent)
    }

    /// Whether it is gone: somebody else is the parent then.
    #[must_use]
    pub fn has_ended(self) -> bool {
        getppid() != self.0
    }
}

/// Sends a signal to the process of a pidfd. `ESRCH`: it has been reaped.
pub fn send(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    Ok(pidfd_send_signal(pidfd, to_named(signal)?)?)
}

fn to_named(signal: Signal) -> io::Result<rustix::process::Signal> {
    let named = rustix::process::Signal::from_named_raw(signal.0);
    Ok(named.ok_or(io::ErrorKind::InvalidInput)?)
}

/// Whether the process of a pidfd is dead.
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut ends = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ends, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

/// Waits until the process of a pidfd is dead, this long at most. Whether it is.
pub fn await_end(pidfd: &OwnedFd, at_most: Duration) -> bool {
    let mut ends = [PollFd::new(pidfd, PollFlags::IN)];
    let at_most = Timespec {
        tv_sec: at_most.as_secs().cast_signed(),
        tv_nsec: at_most.subsec_nanos().into(),
    };
    poll(&mut ends, Some(&at_most)).is_ok_and(|ready| ready > 0)
}

fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// The process that has this pid now, told apart from a later one by its start.
pub fn identify(pid: u32) -> io::Result<Process> {
    look_at(pid).map(|(process, _)| process)
}

/// The same, and whether it is dead. Its first thread counts: while others still end, a pidfd says that
/// it lives, and what it held open is open.
pub fn look_at(pid: u32) -> io::Result<(Process, bool)> {
    let stat = read_stat(pid)?;
    Ok((Process { pid, started: stat.started }, stat.is_dead()))
}

/// When a process began, by the clock of boot; nothing if that is not known.
#[must_use]
pub fn started(process: Process) -> Option<Duration> {
    /// `USER_HZ`, the unit of times in /proc: 100 on every architecture that runs KVM.
    const TICKS_PER_SECOND: u64 = 100;
    let ticks = Some(process.started).filter(|&ticks| ticks > 0)?;
    Some(Duration::from_millis(ticks * (1000 / TICKS_PER_SECOND)))
}

/// How long a process has been there; nothing if that is not known.
#[must_use]
pub fn age(process: Process) -> Option<Duration> {
    let now = clock::now().0.saturating_add(clock::boot_offset());
    Some(now.saturating_sub(started(process)?))
}

/// Whether this very process still runs. One that is dead and not yet reaped does not.
///
/// An error says nothing of that: `EMFILE`, `ENFILE` and `ENOMEM` are this process's own, and may
/// pass.
pub fn is_alive(process: Process) -> io::Result<bool> {
    match read_stat(process.pid) {
        Ok(stat) => Ok(stat.started == process.started && !stat.is_dead()),
        // The latter, if it ended after its file had been opened.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lets this process open as many files as it ever may: 1024 is what a shell leaves it, and what
/// Ganeti's daemon-util does. Nobody here uses `select(2)`, which can do with no more.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a value that lives across the call, of the type that the call fills.
    // (rustix's own takes for granted that it does not fail.)
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let most = Rlimit { current: Some(limit.rlim_max), maximum: Some(limit.rlim_max) };
    Ok(setrlimit(Resource::Nofile, most)?)
}

/// How this very process ended, if it is dead and not yet reaped.
///
/// Whoever may not see that is shown a 0. So it is looked whether the kernel shows something else
/// that takes the same permission (`PTRACE_MODE_READ_FSCREDS`, see ptrace(2)): `/proc/PID/io`.
#[must_use]
pub fn zombies_status(process: Process) -> Option<WaitStatus> {
    let stat = read_stat(process.pid).ok()?;
    let is_readable = plain_file::read(format!("/proc/{}/io", process.pid), 1).is_ok();
    (is_readable && stat.started == process.started && stat.is_dead()).then_some(stat.status)
}

/// What the kernel keeps of a process that has ended (`PIDFD_GET_INFO`): its status, from Linux
/// 6.15 on, once it has been reaped. For any process, no privilege needed.
#[must_use]
pub fn status_of(pidfd: BorrowedFd<'_>) -> StatusAnswer {
    /// `PIDFD_INFO_EXIT` of `linux/pidfd.h`.
    const INFO_EXIT: u64 = 1 << 3;
    const GET_INFO: Opcode = opcode::read_write::<PidfdInfo>(0xff, 11);

    let mut info = PidfdInfo { mask: INFO_EXIT, cgroup: 0, ids: [0; 11], exit_code: 0 };
    // SAFETY: the number says that the kernel reads and writes a structure of the size of
    // `PidfdInfo`, whose layout is that of `struct pidfd_info` in its first version; it holds
    // integers only, so that whatever is written is a value.
    let asked = unsafe { ioctl(pidfd, Updater::<GET_INFO, PidfdInfo>::new(&mut info)) };
    match asked {
        Ok(()) if info.mask & INFO_EXIT != 0 => StatusAnswer::Known(WaitStatus(info.exit_code)),
        Ok(()) => StatusAnswer::NotYet,
        // ENOTTY: before Linux 6.13. ESRCH: reaped, before Linux 6.15.
        Err(_) => StatusAnswer::Never,
    }
}

/// Whether [`status_of`] knows how a process ended that has been reaped (Linux 6.15).
#[must_use]
pub fn has_statuses_of_the_dead() -> bool {
    super::connector::kernel_version() >= (6, 15)
}

/// `struct pidfd_info` of `linux/pidfd.h`, as it was first.
#[repr(C)]
struct PidfdInfo {
    /// What is asked for, and then what is valid.
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// What `/proc/PID/stat` says (proc(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) name: Vec<u8>,
    state: char,
    pub(super) parent: u32,
    /// In clock ticks since boot.
    pub(super) started: u64,
    /// 0 for whoever may not see it.
    status: WaitStatus,
}

impl Stat {
    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

pub(super) fn read_stat(pid: u32) -> io::Result<Stat> {
    /// 52 numbers of 20 digits at most, and a name of 64 bytes at most.
    const LONGEST: usize = 52 * 21 + 64;
    let stat = plain_file::read_at_once(format!("/proc/{pid}/stat"), LONGEST)?;
    parse_stat(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_stat(stat: &[u8]) -> Option<Stat> {
    // The second field is the command's name in parentheses, and may hold any byte.
    let name_begin = stat.iter().position(|&byte| byte == b'(')? + 1;
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    // The third field of the line is the first of these.
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        name: stat.get(name_begin..name_end)?.to_vec(),
        state: field(3)?.chars().next()?,
        parent: field(4)?.parse().ok()?,
        started: field(22)?.parse().ok()?,
        status: WaitStatus(field(52).and_then(|status| status.parse().ok()).unwrap_or_default()),
    })
}

/// `/proc/PID/status` (proc(5)). It is long only if the process is in many groups.
pub(super) fn read_status(pid: u32) -> io::Result<String> {
    const LONGEST: usize = 65_536;
    let status = plain_file::read(format!("/proc/{pid}/status"), LONGEST)?;
    Ok(String::from_utf8_lossy(&status).into_owned())
}

/// Whether a process has a handler for a signal (`SigCgt` of proc(5)).
pub fn catches(pid: u32, signal: rustix::process::Signal) -> io::Result<bool> {
    let status = read_status(pid)?;
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    Ok(caught.unwrap_or_default() >> (signal.as_raw() - 1) & 1 == 1)
}

/// The pid that a pid file names; nothing if there is no such file.
pub fn read_pid_file(path: &Path) -> io::Result<Option<u32>> {
    /// More than a number that is one, with what is around it.
    const LONGEST: usize = 32;
    let text = match plain_file::read(path, LONGEST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let pid = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    let pid = pid.filter(|&pid| text.len() < LONGEST && to_pid(pid).is_some());
    pid.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a process id"))
}

/// Whether this process is the QEMU of the instance, by the rule that Ganeti itself goes by:
/// its command line has its name.
#[must_use]
pub fn is_named(pid: u32, name: &[u8]) -> bool {
    command_line(pid).is_ok_and(|arguments| has_name(&arguments, name))
}

/// The arguments that a process was started with, each with a NUL behind it: what it shows of
/// itself, 128 KiB at most.
pub fn command_line(pid: u32) -> io::Result<Vec<u8>> {
    /// In bytes. Those of a QEMU with many disks have some ten thousand.
    const LONGEST: usize = 131_072;
    plain_file::read(format!("/proc/{pid}/cmdline"), LONGEST)
}

fn has_name(arguments: &[u8], name: &[u8]) -> bool {
    command_line::name(arguments) == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;

    #[test]
    fn a_name_may_look_like_the_rest_of_the_line() {
        let stat = b"7 (a) Z 1 (b\xff) S 1 7 7 0 -1 4194304 5 0 0 0 1 2 0 0 20 0 1 0 98765 1 1";
        let stat = parse_stat(stat).unwrap();
        assert_eq!((stat.state, stat.parent, stat.started), ('S', 1, 98765));
        assert_eq!(stat.name, b"a) Z 1 (b\xff");
        assert_eq!(parse_stat(b"7 (a) S 1"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    fn this_process_lives_and_an_earlier_one_with_its_pid_does_not() {
        let this = identify(std::process::id()).unwrap();
        assert!(is_alive(this).unwrap());
        assert!(!is_alive(Process { started: this.started - 1, ..this }).unwrap());
    }

    #[test]
    fn a_child_that_was_not_reaped_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = identify(child.id()).unwrap();
        let pidfd = open_pidfd(child.id()).unwrap();
        let mut ends = [PollFd::new(&pidfd, PollFlags::IN)];
        poll(&mut ends, None).unwrap();
        assert!(has_ended(pidfd.as_fd()) && !is_alive(process).unwrap());
        child.wait().unwrap();
        assert!(!is_alive(process).unwrap());
    }

    #[test]
    fn how_it_ended_is_seen_before_it_is_reaped_and_on_some_kernels_after() {
        let mut child = std::process::Command::new("false").spawn().unwrap();
        let process = identify(child.id()).unwrap();
        let pidfd = open_pidfd(child.id()).unwrap();
        assert_eq!(zombies_status(Process { started: 0, ..process }), None);
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
        // Who is not root may not read `/proc/PID/io` of a dead process, not even of its own.
        let seen = rustix::process::geteuid().is_root().then_some(WaitStatus(0x100));
        assert_eq!(zombies_status(process), seen);
        assert!(!matches!(status_of(pidfd.as_fd()), StatusAnswer::Known(_)));
        child.wait().unwrap();
        assert_eq!(zombies_status(process), None);
        let after = status_of(pidfd.as_fd());
        assert!(
            matches!(after, StatusAnswer::Never | StatusAnswer::Known(WaitStatus(0x100))),
            "{after:?}"
        );
    }

    #[test]
    fn a_pid_file_names_a_process_or_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web1");
        assert_eq!(read_pid_file(&path).unwrap(), None);
        fs::write(&path, "4242\n").unwrap();
        assert_eq!(read_pid_file(&path).unwrap(), Some(4242));
        let long = format!("4242{}", "\n".repeat(100));
        for bad in ["", "x", "-1", "0", "99999999999", &long] {
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
