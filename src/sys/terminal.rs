//! The terminal of a child that may not have the time to set it right.

use std::os::fd::BorrowedFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

/// How stdin, stdout and stderr were set.
#[derive(Debug)]
pub struct Terminal([Option<(OFlags, Option<Termios>)>; 3]);

impl Terminal {
    #[must_use]
    pub fn now() -> Self {
        Self(descriptors().map(|descriptor| {
            let flags = fcntl_getfl(descriptor).ok()?;
            Some((flags, tcgetattr(descriptor).ok()))
        }))
    }

    /// Sets them as they were. QEMU makes its terminal raw and its descriptors non-blocking, and sets
    /// that right where it ends by itself.
    pub fn restore(&self) {
        for (descriptor, state) in descriptors().into_iter().zip(&self.0) {
            let Some((flags, termios)) = state else { continue };
            // It can fail only where somebody has taken the terminal away.
            let _ = fcntl_setfl(descriptor, *flags);
            if let Some(termios) = termios {
                let _ = tcsetattr(descriptor, OptionalActions::Now, termios);
            }
        }
    }
}

fn descriptors() -> [BorrowedFd<'static>; 3] {
    [stdin(), stdout(), stderr()]
}
