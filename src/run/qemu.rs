//! The QEMU that was started: its process.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;

use super::arguments::{Options, Reboot, program};
use super::monitor::{Monitor, configuration};
use crate::id::Process;
use crate::sys::child::{self, Legacy};
use crate::sys::memory_cgroup::OomKills;
use crate::sys::process;
use crate::sys::signal_descriptor::SignalMask;
use crate::wire::{Quoted, Signal, WaitStatus};

/// Why there is no QEMU.
#[derive(Debug)]
pub(super) enum StartError {
    /// What it is to be given cannot be had.
    Prepare(io::Error),
    Execute(OsString, io::Error),
    /// It runs, and cannot be watched.
    Watch(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepare(error) => write!(f, "cannot make a monitor for QEMU: {error}"),
            Self::Execute(program, error) => {
                write!(f, "cannot run {}: {error}", Quoted(program.as_encoded_bytes()))?;
                match error.kind() {
                    io::ErrorKind::NotFound => f.write_str("; is QEMU installed, and in PATH?"),
                    io::ErrorKind::PermissionDenied => f.write_str("; is it executable?"),
                    _ => Ok(()),
                }
            }
            Self::Watch(error) => {
                write!(f, "cannot watch QEMU: {error}; kvmd-run needs Linux 5.3 or later")
            }
        }
    }
}

impl std::error::Error for StartError {}

impl StartError {
    /// It would be the same the next time: the command line names something that cannot be run.
    pub(super) fn is_lasting(&self) -> bool {
        let Self::Execute(_, error) = self else { return false };
        matches!(
            error.raw_os_error(),
            Some(libc::ENOENT | libc::EACCES | libc::ENOEXEC | libc::ENOTDIR)
        )
    }
}

/// A running QEMU.
#[derive(Debug)]
pub(super) struct Qemu {
    child: Child,
    pidfd: OwnedFd,
    pub(super) process: Process,
    oom_kills: Option<OomKills>,
}

impl Qemu {
    /// Starts it, with a monitor of ours.
    pub(super) fn start(
        options: &Options,
        mask: SignalMask,
    ) -> Result<(Self, Monitor), StartError> {
        let (ours, qemus) = UnixStream::pair().map_err(StartError::Prepare)?;
        let monitor = Monitor::new(ours).map_err(StartError::Prepare)?;
        let file = configuration(qemus.as_raw_fd());
        let file = child::memory_file(file.as_bytes()).map_err(StartError::Prepare)?;
        let mut words = options.qemu.clone();
        if options.reboot == Reboot::Exit {
            words.push("-no-reboot".into());
        }
        words.extend(["-readconfig".into(), format!("/dev/fd/{}", file.as_raw_fd()).into()]);
        let descriptors = [qemus.as_fd(), file.as_fd()];
        let legacy = Legacy { descriptors: &descriptors, mask: mask.with(deaf_to(options)) };
        let failed = |error| StartError::Execute(program(&options.qemu).into(), error);
        let mut child = child::spawn(&words, &legacy).map_err(failed)?;
        let watched = process::open_pidfd(child.id())
            .and_then(|pidfd| Ok((pidfd, process::identify(child.id())?)));
        let (pidfd, process) = watched.map_err(|error| {
            let _ = child.kill();
            let _ = child.wait();
            StartError::Watch(error)
        })?;
        let oom_kills = OomKills::of(child.id());
        Ok((Self { child, pidfd, process, oom_kills }, monitor))
    }

    /// Sends it a signal, if it is not dead yet. Whether it was sent.
    pub(super) fn send(&self, signal: Signal) -> io::Result<bool> {
        if process::has_ended(self.pidfd.as_fd()) {
            return Ok(false);
        }
        process::send(self.pidfd.as_fd(), signal)?;
        Ok(true)
    }

    pub(super) fn has_ended(&self) -> bool {
        process::has_ended(self.pidfd.as_fd())
    }

    /// Whether the OOM killer was in its control group since it was started.
    pub(super) fn may_have_been_out_of_memory(&self) -> bool {
        self.oom_kills.as_ref().is_some_and(OomKills::have_happened)
    }

    /// Waits for its end, and says how that was.
    pub(super) fn reap(&mut self) -> io::Result<WaitStatus> {
        self.child.wait().map(|status| WaitStatus(status.into_raw()))
    }

    pub(super) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }
}

/// What the supervisor and the terminal may send to all of our processes, and is for us. Not SIGHUP,
/// with which QEMU ends when we do; nor SIGUSR1 and SIGUSR2, which QEMU needs for itself.
fn deaf_to(options: &Options) -> impl Iterator<Item = Signal> {
    let is_qemus = |signal: &Signal| [Signal::HUP, Signal::USR1, Signal::USR2].contains(signal);
    options.plans.signals().filter(move |signal| !is_qemus(signal))
}
