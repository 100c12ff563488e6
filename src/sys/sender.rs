//! Who sent a signal: what /proc still has of a process, right after it did.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::plain_file;
use super::process::{self, Stat, read_stat};
use crate::id::{Moment, Process};
use crate::wire::{Ancestor, Printable, Sender};

/// As many ancestors are looked at; beyond them is init.
const MOST_ANCESTORS: usize = 8;

/// What `/proc/PID/loginuid` holds where nobody has logged in.
const NO_LOGIN: u32 = u32::MAX;

/// The longest such number, in bytes.
const LONGEST_LOGIN: usize = 10;

/// So much of a command line is looked at, in bytes: a process can have its own be as long as all
/// that it can map. More than is shown.
const LONGEST_COMMAND: usize = 4096;

/// Looks at the task that sent a signal at this moment. `boot_offset` is how far the clock of
/// start times is ahead of that of moments: the time the machine has been suspended.
///
/// A process that began after the signal is another one with the same pid. So is its program, which
/// has been read before: see [`executable`].
#[must_use]
pub fn look_at(
    task: u32,
    sent: Moment,
    boot_offset: Duration,
    executable: Option<String>,
) -> Sender {
    let began_before = |stat: &Stat| {
        let began = process::started(Process { pid: task, started: stat.started });
        began.is_none_or(|began| began <= sent.0 + boot_offset)
    };
    let Some(stat) = read_stat(task).ok().filter(began_before) else {
        return Sender { pid: Some(task), gone: true, ..Sender::default() };
    };
    let status = process::read_status(task).unwrap_or_default();
    let pid = number(&status, "Tgid:").unwrap_or(task);
    // A thread may have a name of its own.
    let stat = if pid == task { stat } else { read_stat(pid).unwrap_or(stat) };
    let login = plain_file::read(format!("/proc/{pid}/loginuid"), LONGEST_LOGIN).ok();
    let login = login.and_then(|uid| std::str::from_utf8(&uid).ok()?.trim().parse().ok());
    Sender {
        kernel: false,
        pid: Some(pid),
        gone: false,
        name: Some(printable(&stat.name)),
        uid: number(&status, "Uid:"),
        login: login.filter(|&uid| uid != NO_LOGIN),
        executable,
        command: command(pid),
        ancestors: ancestors(stat.parent),
    }
}

fn ancestors(mut pid: u32) -> Vec<Ancestor> {
    let mut ancestors = Vec::new();
    while pid > 1 && ancestors.len() < MOST_ANCESTORS {
        let Ok(stat) = read_stat(pid) else { break };
        let name = printable(&stat.name);
        ancestors.push(Ancestor { pid, name, command: command(pid).unwrap_or_default() });
        pid = stat.parent;
    }
    ancestors
}

/// The arguments, separated by spaces; nothing for a task of the kernel's own, or one that is
/// gone.
fn command(pid: u32) -> Option<String> {
    let arguments = plain_file::read(format!("/proc/{pid}/cmdline"), LONGEST_COMMAND).ok()?;
    let arguments = arguments.strip_suffix(b"\0").unwrap_or(&arguments);
    let spaced: Vec<u8> =
        arguments.iter().map(|&byte| if byte == 0 { b' ' } else { byte }).collect();
    (!spaced.is_empty()).then(|| printable(&spaced))
}

/// The program that this task runs; nothing for a task of the kernel's own, and for one that this
/// thread may not look into as a debugger would.
#[must_use]
pub fn executable(task: u32) -> Option<String> {
    let target = fs::read_link(format!("/proc/{task}/exe")).ok()?;
    Some(printable(target.as_os_str().as_bytes()))
}

fn printable(bytes: &[u8]) -> String {
    Printable(bytes).to_string()
}

/// The first number behind `key` in `/proc/PID/status`.
fn number(status: &str, key: &str) -> Option<u32> {
    let value = status.lines().find_map(|line| line.strip_prefix(key))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;

    #[test]
    fn this_process_and_those_that_started_it_are_named() {
        let pid = std::process::id();
        let this = look_at(pid, clock::now(), clock::boot_offset(), executable(pid));
        assert!(!this.gone);
        assert_eq!(this.pid, Some(std::process::id()));
        assert_eq!(this.uid, Some(rustix::process::getuid().as_raw()));
        assert!(this.executable.is_some_and(|path| path.contains("kvmd")));
        let parent = rustix::process::getppid().unwrap().as_raw_pid();
        assert_eq!(this.ancestors.first().map(|first| first.pid), u32::try_from(parent).ok());
    }

    #[test]
    fn one_that_began_later_is_another() {
        let early = Moment(Duration::ZERO);
        let gone = look_at(std::process::id(), early, Duration::ZERO, Some("/bin/sh".into()));
        assert!(gone.gone && gone.name.is_none() && gone.executable.is_none());
    }
}
