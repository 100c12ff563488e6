//! The socket options that no library has: classic BPF filters and the peer's pidfd.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use pid_filter::{Instruction, LONGEST};

/// `SO_PEERPIDFD` of `asm-generic/socket.h`, since Linux 6.5.
const SO_PEERPIDFD: libc::c_int = 77;

/// Has the kernel run `program` over every datagram before it is queued at `socket`. A filter
/// that was attached before is replaced in one step: no datagram passes unfiltered, and on an
/// error the old one stays.
///
/// `ENOMEM`: the filter does not fit into what `net.core.optmem_max` leaves (beside the old
/// one, until that is released). `EINVAL`: not a valid program.
pub fn attach_filter(socket: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    debug_assert!(program.len() <= LONGEST);
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    set(socket, libc::SO_ATTACH_FILTER, &filter)
}

/// Lets every datagram pass again.
pub fn detach_filter(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SO_DETACH_FILTER, &0)
}

/// A pidfd of the process that called `listen(2)` at the other end of a Unix socket. The
/// kernel has held on to that process since, so that no other can be meant.
///
/// `ENOPROTOOPT`: the kernel is older than Linux 6.5.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let pidfd: RawFd = get(socket, SO_PEERPIDFD)?;
    // SAFETY: on success the kernel has installed a new descriptor, which nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

/// The pid of the process that called `listen(2)` at the other end of a Unix socket; 0 if it
/// lives in a pid namespace that cannot be seen from here. It may be dead, and its pid
/// another's.
pub fn peer_pid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    peer_pid_and_uid(socket).map(|(pid, _)| pid)
}

/// The same with the user as whom it called, or connected.
pub fn peer_pid_and_uid(socket: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let credentials: Credentials = get(socket, libc::SO_PEERCRED)?;
    Ok((u32::try_from(credentials.pid).unwrap_or_default(), credentials.uid))
}

/// `struct ucred`.
#[repr(C)]
struct Credentials {
    pid: libc::pid_t,
    uid: libc::uid_t,
    gid: libc::gid_t,
}

/// A type of which every pattern of bits is a value.
///
/// # Safety
/// It must hold nothing but integers.
unsafe trait Plain {}
// SAFETY: it is an integer.
unsafe impl Plain for RawFd {}
// SAFETY: it is a structure of three integers.
unsafe impl Plain for Credentials {}

/// Reads an option of the socket level.
fn get<T: Plain>(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` and `length` live across the call, and `length` is the size of what the
    // first pointer points to; the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, the kernel wrote into it at most, and `Plain` says that any bits
    // are a value.
    Ok(unsafe { value.assume_init() })
}

/// Sets an option of the socket level. `T` is the structure that the option takes.
fn set<T>(socket: BorrowedFd<'_>, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which lives across the call. Where
    // `value` holds a pointer itself (`sock_fprog`), the slice behind it is borrowed by the
    // caller of this function for as long; the kernel only reads it. `Instruction` has the
    // layout of `sock_filter` (`repr(C)`, the same four fields).
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const _: () = assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());
