//! The service manager, as `sd_notify(3)` and `sd_listen_fds(3)` have it: told that the program is
//! up, what it does and how long it needs, and given descriptors that are to outlive it.
//!
//! It is never waited for, which the `sd-notify` crate cannot do: a message for which it has no
//! room is an error, and to be sent again ([`is_busy`]) after [`TRY_AGAIN`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg_addr, socket_with,
};
use sd_notify::{NotifyState, listen_fds_with_names, watchdog_enabled};

/// How soon a message is to be sent again that it had no room for.
pub const TRY_AGAIN: Duration = Duration::from_millis(10);

/// A service manager that listens.
#[derive(Debug)]
pub struct ServiceManager {
    socket: OwnedFd,
    address: SocketAddrUnix,
    /// How often it is to be told that this process goes on, if it wants to know.
    interval: Option<Duration>,
}

/// Whether it had no room for a message, or for another descriptor in one (`ETOOMANYREFS`: there
/// are as many on their way as this process may have open).
#[must_use]
pub fn is_busy(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.raw_os_error() == Some(Errno::TOOMANYREFS.raw_os_error())
}

impl ServiceManager {
    /// The one that started this process, if one did and wants to be notified (`NOTIFY_SOCKET`).
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        let name = std::env::var_os("NOTIFY_SOCKET")?;
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddrUnix::new_abstract_name(name),
            None => SocketAddrUnix::new(name.as_bytes()),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None);
        // Half of the time after which it would take this process for stuck (`WatchdogSec=`). Zero
        // means off.
        let interval = watchdog_enabled().filter(|limit| !limit.is_zero()).map(|limit| limit / 2);
        Some(Self { socket: socket.ok()?, address: address.ok()?, interval })
    }

    /// How often [`ServiceManager::notify_alive`] is to be called; nothing if never.
    #[must_use]
    pub fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// This process is not stuck.
    pub fn notify_alive(&self) -> io::Result<()> {
        self.send(&[NotifyState::Watchdog], &[])
    }

    /// The descriptors that it has kept from an earlier run, by their names. Of two under one
    /// name one is kept.
    #[must_use]
    pub fn kept_descriptors(&self) -> BTreeMap<String, OwnedFd> {
        let Ok(descriptors) = listen_fds_with_names() else { return BTreeMap::new() };
        let owned = descriptors.map(|(descriptor, name)| {
            // SAFETY: the manager has handed these numbers to this very process (`LISTEN_PID`),
            // which owns them from its start; this is called once, so that nobody else does.
            (name, unsafe { OwnedFd::from_raw_fd(descriptor) })
        });
        owned.collect()
    }

    /// The program is up.
    pub fn notify_ready(&self) -> io::Result<()> {
        self.send(&[NotifyState::Ready], &[])
    }

    /// What goes on, in words for people: one line.
    pub fn notify_status(&self, text: &str) -> io::Result<()> {
        self.send(&[NotifyState::Status(text)], &[])
    }

    /// It is about to end.
    pub fn notify_stopping(&self) -> io::Result<()> {
        self.send(&[NotifyState::Stopping], &[])
    }

    /// It needs so much more time from now, an hour at most, whatever its unit says.
    pub fn extend_timeout(&self, time: Duration) -> io::Result<()> {
        let microseconds = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        self.send(&[NotifyState::ExtendTimeoutUsec(microseconds)], &[])
    }

    /// Has it keep a copy of a descriptor under this name, whatever happens to this process.
    ///
    /// It must not poll it: a connection that has hung up would be dropped together with what was
    /// not yet read.
    pub fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let state =
            [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
        self.send(&state, &[descriptor])
    }

    /// Has it close what it keeps under this name.
    pub fn forget(&self, name: &str) -> io::Result<()> {
        self.send(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)], &[])
    }

    fn send(&self, state: &[NotifyState<'_>], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut message = String::new();
        for line in state {
            // Into memory: it cannot fail.
            let _ = writeln!(message, "{line}");
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let text = [IoSlice::new(message.as_bytes())];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg_addr(&self.socket, &self.address, &text, &mut ancillary, flags)?;
        Ok(())
    }
}
