//! A command of the administrator's in a process group of its own: it can be ended with everything that
//! it has started, and nothing of it is left when it has ended.
//!
//! What leaves the group (setsid(2)) is out of reach; a control group holds that, under systemd.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::child::{Environment, shell};
use super::signal_descriptor::SignalMask;
use crate::wire::Signal;

/// A running command; killed when dropped.
#[derive(Debug)]
pub struct ProcessGroup {
    /// The shell. As long as it has not been waited for, no other group can have its number.
    leader: Child,
    is_over: bool,
}

impl ProcessGroup {
    /// Starts the command with the shell. `input` becomes its stdin; its stdout goes where this
    /// process's stderr does.
    pub fn start(
        command: &OsStr,
        environment: Environment,
        input: OwnedFd,
        mask: SignalMask,
    ) -> io::Result<Self> {
        let output = rustix::io::dup(rustix::stdio::stderr())?;
        let mut shell = shell(command, environment, mask);
        shell.process_group(0).stdin(Stdio::from(input)).stdout(Stdio::from(output));
        Ok(Self { leader: shell.spawn()?, is_over: false })
    }

    /// Sends a signal to every process of the group, unless it is over.
    pub fn send(&self, signal: Signal) -> io::Result<()> {
        if self.is_over {
            return Err(io::ErrorKind::NotFound.into());
        }
        let signal = rustix::process::Signal::from_named_raw(signal.0);
        Ok(kill_process_group(self.number()?, signal.ok_or(io::ErrorKind::InvalidInput)?)?)
    }

    /// How the command ended, if it has; then whatever it has left behind in the group is killed.
    pub fn try_end(&mut self) -> io::Result<Option<ExitStatus>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(self.number()?), options) {
            Ok(None) => return Ok(None),
            Ok(Some(_)) => {}
            Err(error) => {
                // Somebody else has waited for it: by now the number may be another group's.
                self.is_over |= error == Errno::CHILD;
                return Err(error.into());
            }
        }
        // Often nobody is left.
        let _ = self.send(Signal::KILL);
        self.is_over = true;
        self.leader.wait().map(Some)
    }

    fn number(&self) -> io::Result<Pid> {
        let pid = i32::try_from(self.leader.id()).ok().and_then(Pid::from_raw);
        Ok(pid.ok_or(io::ErrorKind::NotFound)?)
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.send(Signal::KILL);
            // It may be stuck in the kernel; nobody waits for that.
            let _ = self.leader.try_wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::child::memory_file;
    use crate::sys::process::{await_end, open_pidfd};
    use crate::sys::signal_descriptor::SignalDescriptor;
    use std::time::Duration;

    fn start(command: &str, input: &[u8]) -> ProcessGroup {
        let mask = SignalDescriptor::open([]).unwrap().mask_before();
        let input = memory_file(input).unwrap();
        ProcessGroup::start(OsStr::new(command), vec![("WORD", "a b".into())], input, mask).unwrap()
    }

    fn until_end(group: &mut ProcessGroup) -> ExitStatus {
        let pidfd = open_pidfd(group.leader.id()).unwrap();
        assert!(await_end(&pidfd, Duration::from_secs(60)));
        group.try_end().unwrap().unwrap()
    }

    #[test]
    fn a_command_has_its_input_and_its_environment() {
        let mut group = start("read line && [ \"$line\" = \"$WORD\" ] && exit 7", b"a b\n");
        assert_eq!(until_end(&mut group).code(), Some(7));
    }

    /// As if it had been reaped by the kernel, which does so where SIGCHLD is ignored.
    #[test]
    fn a_group_that_somebody_else_has_waited_for_gets_no_signal_any_more() {
        let mut group = start("exit 0", b"");
        let pidfd = open_pidfd(group.leader.id()).unwrap();
        assert!(await_end(&pidfd, Duration::from_secs(60)));
        waitid(WaitId::Pid(group.number().unwrap()), WaitIdOptions::EXITED).unwrap();
        assert_eq!(group.try_end().unwrap_err().raw_os_error(), Some(libc::ECHILD));
        assert!(group.is_over);
        assert_eq!(group.send(Signal::KILL).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// The pid of a process that the command leaves behind, which it writes to a file.
    fn start_with_a_child(rest: &str) -> (ProcessGroup, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        let group = start(
            &format!("sleep 1000 & echo $! >{0}.new; mv {0}.new {0}; {rest}", path.display()),
            b"",
        );
        while !path.exists() {
            std::thread::yield_now();
        }
        let pid = std::fs::read_to_string(path).unwrap().trim().parse().unwrap();
        (group, open_pidfd(pid).unwrap())
    }

    #[test]
    fn nothing_is_left_of_it_however_it_ends() {
        let (mut group, child) = start_with_a_child("read line");
        assert!(until_end(&mut group).code().is_some());
        assert!(await_end(&child, Duration::from_secs(60)));

        let (mut group, child) = start_with_a_child("wait");
        assert!(group.try_end().unwrap().is_none());
        group.send(Signal::TERM).unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&until_end(&mut group)), Some(15));
        assert!(await_end(&child, Duration::from_secs(60)));

        let (group, child) = start_with_a_child("wait");
        drop(group);
        assert!(await_end(&child, Duration::from_secs(60)));
    }
}
