//! A descriptor that this process was started with, and was told the number of.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Takes the descriptor with this number, which no child is to inherit from here on. To be called
/// before this process opens any of its own, and once for each number; 0, 1 and 2 are not to be had.
///
/// `EBADF`: it is not open.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the number is not -1, and is only asked about here: where it is not open, the kernel
    // says so.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(descriptor)?;
    fcntl_setfd(descriptor, flags | FdFlags::CLOEXEC)?;
    // SAFETY: it is open; and nobody else here owns it, as the caller sees to.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
