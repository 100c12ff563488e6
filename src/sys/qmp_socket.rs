//! Connecting to a QMP socket, and learning who is at the other end.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::process;
use super::socket_option::{peer_pid, peer_pidfd};

/// Who called `listen(2)` on the socket.
#[derive(Debug)]
pub enum Listener {
    /// The kernel names it.
    Known {
        pid: u32,
        /// Absent where the kernel is older than 5.3.
        pidfd: Option<OwnedFd>,
    },
    /// It has died, or lives in a process namespace that cannot be seen from here.
    Unknown,
}

/// Connects to the socket that is held by its path (`O_PATH`), without waiting.
///
/// It is reached through `/proc/self/fd`, so that it is the very inode that was looked at,
/// whatever bears its name by now, and a long path is no obstacle (a Unix address holds 107
/// bytes).
///
/// `ECONNREFUSED`: nobody listens. `EAGAIN`: the backlog is full.
pub fn connect(socket: BorrowedFd<'_>) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", socket.as_raw_fd()))?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let stream = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&stream, &address)?;
    Ok(UnixStream::from(stream))
}

/// Looks at what there is to be read, and leaves it there.
pub fn peek(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    let (length, _) = rustix::net::recv(stream, buffer, RecvFlags::PEEK)?;
    Ok(length)
}

/// The process at the other end.
///
/// Only a shortage of descriptors or memory is an error; everything else is an answer.
pub fn listener(stream: &UnixStream) -> io::Result<Listener> {
    let Some(pid) = peer_pid(stream.as_fd()).ok().filter(|&pid| pid != 0) else {
        return Ok(Listener::Unknown);
    };
    let pidfd = match peer_pidfd(stream.as_fd()) {
        Ok(pidfd) => Some(pidfd),
        Err(error) if is_shortage(&error) => return Err(error),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            match process::open_pidfd(pid) {
                Ok(pidfd) => Some(pidfd),
                Err(error) if is_shortage(&error) => return Err(error),
                Err(error) if is_absent(&error) => None,
                Err(_) => return Ok(Listener::Unknown),
            }
        }
        // The kernel knows the process, and knows it to be gone.
        Err(_) => return Ok(Listener::Unknown),
    };
    Ok(Listener::Known { pid, pidfd })
}

/// Whether a call failed for want of descriptors or memory, which may pass.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS))
}

/// Whether the kernel, or a filter in front of it, does not have the call.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}
