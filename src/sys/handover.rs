//! Handing what is open over to another process of this program.
//!
//! The successor listens at a socket and asks the daemon that runs with a signal. That one sends
//! its descriptors, a message each, and ends when it is told that they have arrived; if it is not,
//! it goes on as before.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind,
    connect, listen, recvmsg, send, sendmsg, socket_with,
};
use rustix::process::{Signal, pidfd_send_signal};

use super::private_directory;
use super::process::{self, open_pidfd};
use super::socket_option::peer_pid_and_uid;

/// How long one side waits for the other: the daemon for all that its successor does.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest message, in bytes.
const LONGEST: usize = 256;

/// What is said when every descriptor has been sent, and the answer when all are there. Anything
/// else without a descriptor is the reason why none is given.
const END: &[u8] = b"end";
const TAKEN: &[u8] = b"taken";

/// What the daemon was told to give, by the names that it gave.
pub type Inheritance = BTreeMap<String, OwnedFd>;

/// The signal with which it is asked.
const PLEASE: Signal = Signal::USR2;

/// Takes over what the daemon with this pid has open, at a socket that is made for that. Returns
/// when it has ended; on an error it goes on, unless that says otherwise.
pub fn take_over(pid: u32, path: &Path) -> io::Result<Inheritance> {
    let predecessor = open_pidfd(pid)?;
    if !process::catches(pid, PLEASE)? {
        return Err(io::Error::other(
            "it is another program, or an older version that cannot hand over",
        ));
    }
    private_directory::prepare(directory_of(path))?;
    let listener = Listener::at(path)?;
    pidfd_send_signal(&predecessor, PLEASE)?;
    let connection = listener.accept(pid)?;
    let inheritance = receive_all(&connection)?;
    send(&connection, TAKEN, SendFlags::NOSIGNAL)?;
    let mut end = [PollFd::new(&predecessor, PollFlags::IN)];
    if poll(&mut end, Some(&timespec(PATIENCE)))? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "it has handed everything over but does not end",
        ));
    }
    Ok(inheritance)
}

/// A socket at which the daemon is waited for.
struct Listener<'a> {
    socket: OwnedFd,
    path: &'a Path,
}

impl<'a> Listener<'a> {
    fn at(path: &'a Path) -> io::Result<Self> {
        private_directory::require(directory_of(path))?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = new_socket()?;
        // Before it has a name: that gets this mode.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        let listener = Self { socket, path };
        listen(&listener.socket, 1)?;
        Ok(listener)
    }

    fn accept(&self, pid: u32) -> io::Result<OwnedFd> {
        let until = Instant::now() + PATIENCE;
        loop {
            wait_for(&self.socket, PollFlags::IN, until, "it does not answer")?;
            let connection = match accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Err(Errno::AGAIN) => continue,
                accepted => accepted?,
            };
            let (peer, user) = peer_pid_and_uid(connection.as_fd())?;
            // Anybody else is not it, and does not keep it away.
            if peer == pid && private_directory::is_trusted(user) {
                set_socket_timeout(&connection, Timeout::Recv, Some(PATIENCE))?;
                return Ok(connection);
            }
        }
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.path);
    }
}

fn receive_all(connection: &OwnedFd) -> io::Result<Inheritance> {
    let mut inheritance = Inheritance::new();
    loop {
        let (text, descriptor) = receive_one(connection)?;
        match descriptor {
            Some(descriptor) => drop(inheritance.insert(text, descriptor)),
            None if text.as_bytes() == END => return Ok(inheritance),
            None if text.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            None => return Err(io::Error::other(text)),
        }
    }
}

/// A successor that has asked, as the daemon sees it. It gets so much time for all of it.
#[derive(Debug)]
pub struct Asking {
    socket: OwnedFd,
    until: Instant,
}

impl Asking {
    /// Finds whoever waits at `path`, where nobody but root can.
    pub fn at(path: &Path) -> io::Result<Self> {
        private_directory::require(directory_of(path))?;
        let socket = new_socket()?;
        match connect(&socket, &SocketAddrUnix::new(path)?) {
            Err(Errno::AGAIN) => {
                return Err(timed_out("the process that waits there accepts nobody"));
            }
            connected => connected?,
        }
        let (_, user) = peer_pid_and_uid(socket.as_fd())?;
        if !private_directory::is_trusted(user) {
            return Err(io::Error::other(format!(
                "the process that waits there belongs to user {user}"
            )));
        }
        Ok(Self { socket, until: Instant::now() + PATIENCE })
    }

    /// Gives a copy of a descriptor, under this name.
    pub fn give(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        let text = [IoSlice::new(name.as_bytes())];
        loop {
            match sendmsg(&self.socket, &text, &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => self.wait_for(PollFlags::OUT, "it takes nothing in")?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Everything was given. Returns when it is known to have arrived.
    pub fn finish(&self) -> io::Result<()> {
        self.wait_for(PollFlags::OUT, "it takes nothing in")?;
        send(&self.socket, END, SendFlags::NOSIGNAL)?;
        self.wait_for(PollFlags::IN, "it does not say that it has everything")?;
        match receive_one(&self.socket)? {
            (answer, _) if answer.as_bytes() == TAKEN => Ok(()),
            _ => Err(io::Error::other("the new daemon went away")),
        }
    }

    fn wait_for(&self, what: PollFlags, otherwise: &'static str) -> io::Result<()> {
        wait_for(&self.socket, what, self.until, otherwise)
    }

    /// Nothing is given, for this reason.
    pub fn refuse(&self, reason: &str) -> io::Result<()> {
        send(&self.socket, reason.as_bytes(), SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

/// One message, with the descriptor in it; an empty one if the other side has closed.
fn receive_one(socket: &OwnedFd) -> io::Result<(String, Option<OwnedFd>)> {
    let mut text = [0; LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let pieces = &mut [IoSliceMut::new(&mut text)];
    let received = recvmsg(socket, pieces, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptor = descriptors.next().and_then(|mut descriptors| descriptors.next());
    Ok((String::from_utf8_lossy(&text[..received.bytes.min(LONGEST)]).into_owned(), descriptor))
}

/// Nobody else is to be met there.
fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// One that never waits.
fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Waits until the socket is ready, or it is late.
fn wait_for(
    socket: &OwnedFd,
    what: PollFlags,
    until: Instant,
    otherwise: &'static str,
) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match poll(&mut [PollFd::new(socket, what)], Some(&timespec(left))) {
            Ok(0) => return Err(timed_out(otherwise)),
            Err(Errno::INTR) => {}
            ready => return Ok(ready.map(|_| ())?),
        }
    }
}

fn timed_out(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().cast_signed(), tv_nsec: duration.subsec_nanos().into() }
}
