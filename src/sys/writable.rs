//! Somebody who is to read what is written for him: a pipe, a socket. He may never do it.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How long a reader may take before it is left behind.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Whether something can be written without waiting; waits for that for `longest`.
#[must_use]
pub fn takes_more(output: BorrowedFd<'_>, longest: Duration) -> bool {
    let timeout = Timespec {
        tv_sec: longest.as_secs().cast_signed(),
        tv_nsec: longest.subsec_nanos().into(),
    };
    loop {
        match poll(&mut [PollFd::from_borrowed_fd(output, PollFlags::OUT)], Some(&timeout)) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            // The write will say what is wrong.
            Err(_) => return true,
        }
    }
}
