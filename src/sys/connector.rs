//! The kernel's proc connector: how watched processes end.
//!
//! One netlink socket in the multicast group of the process events. A classic BPF filter that
//! holds the watched pids is attached before the group is joined, so that the rest of the
//! machine's processes never wake the daemon. The socket can lose events (`ENOBUFS`) and can
//! be refused without a word; both are told apart from silence here.
//!
//! From Linux 6.6 on every user may send requests, and the kernel's answer to each goes to every
//! listener. So the daemon's own have random numbers, and the filter lets the answer to one pass
//! only while that one is made.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_CONNECTOR;
use netlink_sys::{Socket, SocketAddr};
use pid_filter::{LONGEST, Program, SHORTEST};

use super::random::random;
use super::socket_option::{attach_filter, detach_filter};
use crate::id::Moment;
use crate::wire::proc_event::{self, ProcMessage, Request};

/// The multicast group of the process events, `CN_IDX_PROC` of `linux/connector.h`, as a mask.
const PROC_GROUP: u32 = 1;

/// How much may be queued, in bytes. Memory is taken only while something is queued; four
/// megabytes hold the end of about 5000 processes.
const RECEIVE_BUFFER: usize = 4 << 20;

/// The kernel answers LISTEN before `send(2)` returns (since Linux 2.6.39). In other namespaces than
/// the first it does not answer at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Since Linux 6.6 a socket counts as one listener however often it says so. Before that each
/// LISTEN adds one, which nothing takes away when a process dies: asking twice would leave the
/// machine's process events switched on for ever.
const IDEMPOTENT_LISTEN: (u32, u32) = (6, 6);

/// Why the kernel will not tell of exits.
#[derive(Debug)]
pub enum Unavailable {
    Socket(io::Error),
    /// The filter could not be attached, at any size.
    Filter(io::Error),
    Bind(io::Error),
    /// Another network namespace than the initial one (`ECONNREFUSED`), for one.
    Send(io::Error),
    /// The kernel's answer to LISTEN, an errno.
    Refused(i32),
    /// No answer to LISTEN: another user or pid namespace than the initial one, or already as with
    /// [`Unavailable::SwitchedOff`].
    Silent,
    /// The same of a socket that was answered before.
    FellSilent,
    /// The same of every socket, after one was answered. The kernel counts its listeners, and makes no
    /// event and no answer while there are less than one; from Linux 6.6 on any user can have it count
    /// one less, as often as he likes (`cn_proc_mcast_ctl` of `drivers/connector/cn_proc.c`: IGNORE
    /// after a request that is none).
    SwitchedOff,
}

/// What the socket had to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    Message(ProcMessage),
    /// It listens: the kernel has acknowledged it.
    Listening,
    /// The kernel had more to say than the socket could hold.
    Lost,
    /// Not from the kernel, or not of the proc connector's form.
    Foreign,
}

/// How precisely the watched processes are picked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Nothing else passes.
    Exact,
    /// Some pids share a range with strangers: the kernel's limit, or `net.core.optmem_max`.
    Ranges,
    /// Everything passes.
    Unfiltered,
}

/// A socket that listens, or has asked to.
#[derive(Debug)]
pub struct Connector {
    // Not to be cloned: both copies would close the one descriptor.
    socket: Socket,
    /// The number of the last request, and until when its answer is waited for.
    request: u32,
    answer_due: Option<Moment>,
    is_listening: bool,
    /// The kernel had more to say than the socket could hold, and nobody was told.
    has_lost: bool,
    /// What was peeked at last is taken already.
    is_taken: bool,
    /// Somebody else keeps the socket for a later daemon.
    is_kept: bool,
    /// How long a filter the kernel took last, if not one of full length.
    room: usize,
}

impl Connector {
    /// Opens a socket, attaches a filter for `pids`, joins the group and asks to listen.
    pub fn open(pids: &[u32], now: Moment) -> Result<Self, Unavailable> {
        let socket = Socket::new(NETLINK_CONNECTOR).map_err(Unavailable::Socket)?;
        socket.set_non_blocking(true).map_err(Unavailable::Socket)?;
        // Without CAP_NET_ADMIN the limit of net.core.rmem_max holds; that is worth no error.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err()
        {
            let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER);
        }
        let mut connector = Self {
            socket,
            request: 0,
            answer_due: None,
            is_listening: false,
            has_lost: false,
            is_taken: false,
            is_kept: false,
            room: LONGEST,
        };
        connector.attach(pids, None).map_err(Unavailable::Filter)?;
        let group = SocketAddr::new(0, PROC_GROUP);
        connector.socket.bind(&group).map_err(Unavailable::Bind)?;
        connector.ask(pids, now)?;
        Ok(connector)
    }

    /// Goes on with a socket that an earlier daemon has opened in this way, with everything that
    /// the kernel has told it since. `is_kept`: see [`Connector::leave_open`].
    #[must_use]
    pub fn adopt(socket: OwnedFd, is_kept: bool) -> Self {
        // SAFETY: the descriptor is owned, and given away here.
        let socket = unsafe { Socket::from_raw_fd(socket.into_raw_fd()) };
        Self {
            socket,
            request: 0,
            answer_due: None,
            is_listening: true,
            has_lost: false,
            is_taken: false,
            is_kept,
            room: LONGEST,
        }
    }

    /// Has the kernel tell of exactly these pids from now on, in one step.
    ///
    /// Where there is no room for a filter that long, a shorter one is tried that joins pids
    /// into ranges; the old one stays in force until a new one is. A watched process is never
    /// filtered out: if no filter at all can be had, everything passes.
    pub fn watch(&mut self, pids: &[u32]) -> io::Result<Precision> {
        match self.attach(pids, None) {
            Ok(precision) => Ok(precision),
            Err(_) => detach_filter(self.socket.as_fd()).map(|()| Precision::Unfiltered),
        }
    }

    /// Tries filters of full length again: `net.core.optmem_max` may have been raised.
    pub fn forget_shortage(&mut self) {
        self.room = LONGEST;
    }

    /// Lets pass what concerns these pids, and the answer to this request.
    fn attach(&mut self, pids: &[u32], request: Option<u32>) -> io::Result<Precision> {
        loop {
            let program = match request {
                Some(number) => Program::awaiting_answer(pids, answer_to(number), self.room),
                None => Program::watching(pids, self.room),
            };
            match attach_filter(self.socket.as_fd(), &program) {
                Ok(()) if program.is_exact() => return Ok(Precision::Exact),
                Ok(()) => return Ok(Precision::Ranges),
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOMEM) && program.len() > SHORTEST =>
                {
                    self.room = (program.len() / 2).max(SHORTEST);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks whether the kernel still tells of exits, where asking again is free. The answer is
    /// [`Received::Listening`], or none by [`Connector::deadline`]. `pids` are those that are watched.
    pub fn ask_again(&mut self, pids: &[u32], now: Moment) -> Result<(), Unavailable> {
        if kernel_version() < IDEMPOTENT_LISTEN {
            return Ok(());
        }
        match self.ask(pids, now) {
            // The answer would not pass. What is watched still does.
            Err(Unavailable::Filter(_)) => Ok(()),
            asked => asked,
        }
    }

    fn ask(&mut self, pids: &[u32], now: Moment) -> Result<(), Unavailable> {
        self.request = random().map_err(Unavailable::Send)?;
        let room = self.room;
        self.attach(pids, Some(self.request)).map_err(Unavailable::Filter)?;
        let request = Request::Listen.to_datagram(self.request);
        let sent = self.socket.send(&request, 0).map_err(Unavailable::Send);
        // Its answer has passed by now. Where there is no room to replace the filter, it is the
        // only one that ever will.
        self.room = room;
        let _ = self.attach(pids, None);
        sent?;
        self.answer_due = Some(now + ANSWER_WITHIN);
        Ok(())
    }

    /// Somebody else keeps the socket: the kernel is to go on telling it when this one is closed.
    pub fn leave_open(&mut self) {
        self.is_kept = true;
    }

    /// Nobody else keeps it any more: the kernel is to be told when this one is closed.
    pub fn close_with_this(&mut self) {
        self.is_kept = false;
    }

    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.is_listening
    }

    /// When silence becomes a refusal.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        self.answer_due
    }

    /// The next message; nothing if there is none.
    pub fn receive(&mut self) -> Result<Option<Received>, Unavailable> {
        self.next(0)
    }

    /// The same. The message stays where it is until [`Connector::take`], for whoever has the
    /// socket then.
    pub fn peek(&mut self) -> Result<Option<Received>, Unavailable> {
        match self.next(libc::MSG_PEEK) {
            // To look at it may take a copy, for which there is no memory. To take it does not.
            Err(Unavailable::Socket(error)) if error.raw_os_error() == Some(libc::ENOMEM) => {
                let received = self.next(0);
                self.is_taken = matches!(received, Ok(Some(it)) if it != Received::Lost);
                received
            }
            peeked => peeked,
        }
    }

    /// Takes the message away that was peeked at.
    pub fn take(&mut self) {
        if std::mem::take(&mut self.is_taken) {
            return;
        }
        let mut nothing: [u8; 0] = [];
        while let Err(error) = self.socket.recv_from(&mut &mut nothing[..], 0) {
            match error.raw_os_error() {
                // That comes before the message.
                Some(libc::ENOBUFS) => self.has_lost = true,
                Some(libc::EINTR) => {}
                // It is there. If not, it is received twice, which changes no verdict.
                _ => return,
            }
        }
    }

    fn next(&mut self, flags: i32) -> Result<Option<Received>, Unavailable> {
        if std::mem::take(&mut self.has_lost) {
            return Ok(Some(Received::Lost));
        }
        let mut datagram = [0; proc_event::LONGEST];
        let received = self.socket.recv_from(&mut &mut datagram[..], libc::MSG_TRUNC | flags);
        let (length, sender) = match received {
            Ok(received) => received,
            Err(error) => {
                return match error.raw_os_error() {
                    Some(libc::EAGAIN) => Ok(None),
                    Some(libc::EINTR) => self.next(flags),
                    Some(libc::ENOBUFS) => Ok(Some(Received::Lost)),
                    _ => Err(Unavailable::Socket(error)),
                };
            }
        };
        // Only the kernel has port 0. With MSG_TRUNC the length is that of the whole datagram.
        let message = datagram.get(..length).filter(|_| sender.port_number() == 0);
        let Some(message) = message.and_then(|bytes| ProcMessage::parse(bytes).ok()) else {
            return Ok(Some(Received::Foreign));
        };
        match message {
            ProcMessage::Acknowledged { request, errno }
                if request == answer_to(self.request) && self.answer_due.is_some() =>
            {
                self.answer_due = None;
                if errno != 0 {
                    return Err(Unavailable::Refused(errno.cast_signed()));
                }
                self.is_listening = true;
                Ok(Some(Received::Listening))
            }
            message => Ok(Some(Received::Message(message))),
        }
    }
}

impl Drop for Connector {
    /// Tells the kernel that there is a listener less; otherwise it would go on making events
    /// that nobody reads.
    fn drop(&mut self) {
        if self.is_listening && !self.is_kept {
            let _ = self.socket.send(&Request::Ignore.to_datagram(0), 0);
        }
    }
}

impl AsFd for Connector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The number that the kernel's answer to a request has.
fn answer_to(request: u32) -> u32 {
    request.wrapping_add(1)
}

/// Major and minor version of the running kernel; the oldest one if it cannot be read.
pub(super) fn kernel_version() -> (u32, u32) {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(error) => write!(f, "netlink socket: {error}"),
            Self::Filter(error) => write!(f, "attaching the filter: {error}"),
            Self::Bind(error) => write!(f, "joining the group: {error} (needs CAP_NET_ADMIN)"),
            Self::Send(error) => write!(
                f,
                "asking to listen: {error} (the connector exists only in the initial network namespace)"
            ),
            Self::Refused(errno) => write!(
                f,
                "asking to listen: {} (needs CAP_NET_ADMIN)",
                io::Error::from_raw_os_error(*errno)
            ),
            Self::Silent => f.write_str(
                "the kernel did not answer (it does so only in the initial user and pid namespaces; from Linux 6.6 on any user can switch it off)",
            ),
            Self::FellSilent => {
                f.write_str("the kernel did not answer, though it did before; trying another socket")
            }
            Self::SwitchedOff => f.write_str(
                "the kernel answers no socket any more. It has been switched off for everybody, as any user of this machine can from Linux 6.6 on; tried again every half minute, which may take long to be enough, and a reboot switches it on again",
            ),
        }
    }
}

impl std::error::Error for Unavailable {}
