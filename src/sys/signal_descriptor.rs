//! Signals as something to be read, with who sent them: signalfd(2).

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::wire::Signal;

/// A set of signals that are blocked.
#[derive(Clone, Copy, Debug)]
pub struct SignalMask(libc::sigset_t);

impl SignalMask {
    fn of(signals: impl IntoIterator<Item = Signal>) -> Self {
        let mut mask = Self::none();
        for signal in signals {
            mask.add(signal);
        }
        mask
    }

    fn none() -> Self {
        let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the pointer is to a set that lives across the call, which fills it.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: it has been filled; and it holds integers only, which were zeroed.
        Self(unsafe { set.assume_init() })
    }

    fn add(&mut self, signal: Signal) {
        // SAFETY: the set lives across the call. A number that is no signal is an error, and changes
        // nothing.
        unsafe { libc::sigaddset(&raw mut self.0, signal.0) };
    }

    /// The same with these signals.
    #[must_use]
    pub fn with(mut self, signals: impl IntoIterator<Item = Signal>) -> Self {
        for signal in signals {
            self.add(signal);
        }
        self
    }

    /// Makes it this thread's. It may be called between fork(2) and exec.
    pub fn set(&self) -> io::Result<()> {
        self.change(libc::SIG_SETMASK).map(drop)
    }

    /// The same but for SIGHUP, which gets its default action as well: whoever was started under
    /// nohup(1) ignores it.
    pub(super) fn set_with_hang_up(mut self) -> io::Result<()> {
        // SAFETY: the set lives across the call; SIGHUP is a signal.
        unsafe { libc::sigdelset(&raw mut self.0, libc::SIGHUP) };
        // SAFETY: the default action is no function of this program.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
        self.set()
    }

    /// Gives what was blocked before.
    fn change(&self, how: libc::c_int) -> io::Result<Self> {
        let mut before = Self::none();
        // SAFETY: both pointers are to sets that live across the call.
        match unsafe { libc::pthread_sigmask(how, &raw const self.0, &raw mut before.0) } {
            0 => Ok(before),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Gives a signal its default action: whoever started this process may have ignored it. With SIGCHLD
/// ignored, the kernel forgets how children end, and the numbers that they had (wait(2)).
pub fn restore_default(signal: Signal) -> io::Result<()> {
    // SAFETY: the default action is no function of this program.
    match unsafe { libc::signal(signal.0, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Who sent a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// For a key of the terminal, or its end, among others.
    Kernel,
    Process {
        pid: u32,
        uid: u32,
    },
    /// A process that cannot be seen from this process's namespace.
    Outside {
        uid: u32,
    },
}

/// Signals that do nothing to this process any more but to be read from here.
#[derive(Debug)]
pub struct SignalDescriptor {
    descriptor: OwnedFd,
    before: SignalMask,
}

impl SignalDescriptor {
    /// Blocks these signals in this thread; so it has to be called before there is another one. SIGTTOU
    /// is blocked as well: a process in the background may set the terminal right, and write to it.
    pub fn open(signals: impl IntoIterator<Item = Signal>) -> io::Result<Self> {
        let mask = SignalMask::of(signals);
        let before = mask.with([Signal(libc::SIGTTOU)]).change(libc::SIG_BLOCK)?;
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: the set lives across the call.
        let descriptor = unsafe { libc::signalfd(-1, &raw const mask.0, flags) };
        if descriptor == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just opened it, and nobody else knows of it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self { descriptor, before })
    }

    /// What was blocked in this process when it was started.
    #[must_use]
    pub fn mask_before(&self) -> SignalMask {
        self.before
    }

    /// The next signal, if one is there. Several of one kind that have come since are one.
    pub fn read(&self) -> io::Result<Option<(Signal, Origin)>> {
        const LENGTH: usize = size_of::<libc::signalfd_siginfo>();
        let mut bytes = [0; LENGTH];
        match rustix::io::read(&self.descriptor, &mut bytes) {
            Ok(LENGTH) => {}
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // SAFETY: the kernel has written one such structure, and it holds integers only.
        let info: libc::signalfd_siginfo = unsafe { std::mem::transmute(bytes) };
        let origin = match (info.ssi_code, info.ssi_pid) {
            (libc::SI_KERNEL, _) => Origin::Kernel,
            (_, 0) => Origin::Outside { uid: info.ssi_uid },
            (_, pid) => Origin::Process { pid, uid: info.ssi_uid },
        };
        Ok(Some((Signal(info.ssi_signo.cast_signed()), origin)))
    }
}

impl AsFd for SignalDescriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_read_with_its_sender() {
        let (usr1, usr2) = (Signal::USR1, Signal::USR2);
        let signals = SignalDescriptor::open([usr1, usr2]).unwrap();
        assert_eq!(signals.read().unwrap(), None);
        // To this thread: that of the test.
        // SAFETY: it is blocked here, and kills nobody.
        unsafe { libc::pthread_kill(libc::pthread_self(), usr1.0) };
        let origin =
            Origin::Process { pid: std::process::id(), uid: rustix::process::getuid().as_raw() };
        assert_eq!(signals.read().unwrap(), Some((usr1, origin)));
        assert_eq!(signals.read().unwrap(), None);
        signals.mask_before().set().unwrap();
    }
}
