//! What is held open for one life of an instance, and what is said over it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use log::{debug, warn};
use memchr::memrchr;
use mio::Registry;

use super::complaints::{Complaints, withheld};
use super::wake::{self, Wake};
use crate::config::Paths;
use crate::id::{Incarnation, Inode, Moment, Name, Process};
use crate::sys::control_dir::{ControlDir, SocketError};
use crate::sys::memory_cgroup::OomKills;
use crate::sys::process;
use crate::sys::qmp_socket::{self, Listener};
use crate::verdict::{Event, Peer, Said};
use crate::wire::lines::{LONGEST_LINE, Line, Lines};
use crate::wire::qmp::{Command, LineError, Message};
use crate::wire::{Excerpt, Printable, StatusAnswer};

/// What the descriptors of an endpoint are called while somebody keeps them beyond the daemon's
/// end: the socket by its path, the connection to it, and the pidfd of its process.
pub(super) const DESCRIPTORS: [&str; 3] = ["sock", "qmp", "pidfd"];

#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) name: Name,
    /// Keeps the inode of the socket from being given to another.
    socket: OwnedFd,
    stream: Option<UnixStream>,
    process: Option<Process>,
    pidfd: Option<OwnedFd>,
    /// Counted where the kernel does not trace whom its OOM killer chose, or has lost some of that.
    pub(super) oom_kills: Option<OomKills>,
    lines: Lines,
    /// How many bytes were read and are yet to be taken from the connection.
    pub(super) peeked: usize,
    /// There is more to be read, and the others have their turn first.
    pub(super) waits: bool,
    /// Nothing more is coming than what is there to be read.
    pub(super) has_hung_up: bool,
    complaints: Complaints,
}

/// What is known of the process at the other end, with what there is to say about it.
struct Identity {
    process: Option<Process>,
    pidfd: Option<OwnedFd>,
    has_ended: bool,
    remark: Option<String>,
}

/// The descriptors of an endpoint that an earlier daemon has opened.
pub(super) struct Kept {
    pub(super) socket: OwnedFd,
    pub(super) stream: OwnedFd,
    pub(super) pidfd: OwnedFd,
}

/// A new connection.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) endpoint: Endpoint,
    pub(super) peer: Peer,
    pub(super) remark: Option<String>,
}

impl Endpoint {
    /// Connects to the socket `NAME.kvmd` with this inode and identifies its peer. The loop is
    /// woken by both from now on. Nothing, if the process that listened is dead and somebody else
    /// holds its socket.
    pub(super) fn connect(
        directory: &ControlDir,
        paths: &Paths,
        registry: &Registry,
        incarnation: Incarnation,
        name: &Name,
        inode: Inode,
    ) -> Result<Option<Connected>, SocketError> {
        let socket = directory.open_socket(name, inode)?;
        let stream = qmp_socket::connect(socket.as_fd())?;
        let Identity { process, pidfd, has_ended, remark } = identify(&stream, paths, name)?;
        // One that has spoken, and ended since, has still to be heard.
        let has_spoken = || qmp_socket::peek(&stream, &mut [0]).is_ok_and(|length| length > 0);
        if has_ended && !has_spoken() {
            return Ok(None);
        }
        let age = process.and_then(process::age);
        let peer = Peer { process, has_pidfd: pidfd.is_some(), age };
        let endpoint = Self::new(name.clone(), socket, stream, process, pidfd);
        endpoint.register(registry, incarnation)?;
        Ok(Some(Connected { endpoint, peer, remark }))
    }

    /// Goes on with what an earlier daemon has opened.
    pub(super) fn adopt(
        registry: &Registry,
        incarnation: Incarnation,
        name: &Name,
        process: Option<Process>,
        kept: Kept,
    ) -> io::Result<Self> {
        let stream = UnixStream::from(kept.stream);
        stream.set_nonblocking(true)?;
        let endpoint = Self::new(name.clone(), kept.socket, stream, process, Some(kept.pidfd));
        endpoint.register(registry, incarnation)?;
        Ok(endpoint)
    }

    fn new(
        name: Name,
        socket: OwnedFd,
        stream: UnixStream,
        process: Option<Process>,
        pidfd: Option<OwnedFd>,
    ) -> Self {
        Self {
            name,
            socket,
            stream: Some(stream),
            process,
            pidfd,
            oom_kills: None,
            lines: Lines::default(),
            peeked: 0,
            waits: false,
            has_hung_up: false,
            complaints: Complaints::default(),
        }
    }

    fn register(&self, registry: &Registry, incarnation: Incarnation) -> io::Result<()> {
        if let Some(stream) = &self.stream {
            Wake::Qmp(incarnation).register(registry, stream)?;
        }
        if let Some(pidfd) = &self.pidfd {
            Wake::Pidfd(incarnation).register(registry, pidfd)?;
        }
        Ok(())
    }

    /// Begins to count how often the OOM killer has struck where the process is.
    pub(super) fn count_oom_kills(&mut self) {
        if self.oom_kills.is_none() {
            self.oom_kills = self.process.and_then(|process| OomKills::of(process.pid));
        }
    }

    /// What is to be kept beyond the daemon's end, and what each is called ([`DESCRIPTORS`]).
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        let stream = self.stream.as_ref().map(AsFd::as_fd);
        let pidfd = self.pidfd.as_ref().map(AsFd::as_fd);
        let descriptors = [Some(self.socket.as_fd()), stream, pidfd];
        DESCRIPTORS.into_iter().zip(descriptors).filter_map(|(kind, it)| Some((kind, it?)))
    }

    /// Connects again to the socket that is held already, whose process is known.
    pub(super) fn reconnect(
        &mut self,
        registry: &Registry,
        incarnation: Incarnation,
    ) -> io::Result<()> {
        let stream = qmp_socket::connect(self.socket.as_fd())?;
        Wake::Qmp(incarnation).register(registry, &stream)?;
        self.stream = Some(stream);
        self.lines = Lines::default();
        Ok(())
    }

    /// Reads what QEMU has to say, as much as the buffer holds, and says whether more may be there.
    /// What was read stays in the connection until [`Endpoint::take_peeked`].
    pub(super) fn read(
        &mut self,
        now: Moment,
        incarnation: Incarnation,
        registry: &Registry,
        buffer: &mut [u8],
        events: &mut VecDeque<Event>,
    ) -> bool {
        let Some(stream) = &self.stream else { return false };
        if self.peeked > 0 {
            return true;
        }
        match qmp_socket::peek(stream, buffer) {
            Ok(0) => self.end(now, incarnation, registry, events),
            Ok(length) => {
                // The rest of a line comes with a wake-up of its own; that of one which is too
                // long is of no interest.
                let whole = memrchr(b'\n', &buffer[..length]).map_or(0, |newline| newline + 1);
                let is_to_wait = !self.has_hung_up && length - whole < LONGEST_LINE;
                self.peeked = if is_to_wait { whole } else { length };
                let Self { name, lines, complaints, .. } = self;
                lines.feed(&buffer[..self.peeked], |line| {
                    events.extend(heard(&line, now, incarnation, name, complaints));
                });
                // A stream that gives less than was asked for is empty (epoll(7)); that of a peer
                // that is gone may wake the loop no more.
                return length == buffer.len() || self.has_hung_up;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            // ECONNRESET: closed by a peer that had not read everything.
            Err(error) => {
                debug!("Connection of instance {}: {error}", self.name);
                self.end(now, incarnation, registry, events);
            }
        }
        false
    }

    /// The stream has ended.
    fn end(
        &mut self,
        now: Moment,
        incarnation: Incarnation,
        registry: &Registry,
        events: &mut VecDeque<Event>,
    ) {
        self.hang_up(registry);
        let Self { name, lines, complaints, .. } = self;
        lines.finish(|line| events.extend(heard(&line, now, incarnation, name, complaints)));
        events.push_back(Event::Of(incarnation, Said::Closed));
    }

    /// Takes from the connection what was read. `buffer` is the one that it was read into.
    pub(super) fn take_peeked(&mut self, buffer: &mut [u8]) {
        let peeked = std::mem::take(&mut self.peeked);
        if let Some(stream) = &mut self.stream {
            // It is there. If not, it is read twice, which changes no verdict.
            let _ = stream.read_exact(&mut buffer[..peeked]);
        }
    }

    pub(super) fn send(&mut self, command: Command) {
        let bytes = command.line();
        let Some(stream) = &mut self.stream else { return };
        // There is room for the few bytes that this ever sends, unless the peer takes nothing in:
        // then the connection is worth nothing. Its end is read like any other.
        if !matches!(stream.write(bytes), Ok(written) if written == bytes.len()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Closes the connection. It is to wake the loop no more even if somebody else keeps it open.
    fn hang_up(&mut self, registry: &Registry) {
        if let Some(stream) = self.stream.take() {
            wake::deregister(registry, &stream);
        }
        (self.peeked, self.has_hung_up) = (0, false);
    }

    /// Closes everything, in the same way.
    pub(super) fn close(mut self, registry: &Registry) {
        self.hang_up(registry);
        if let Some(pidfd) = &self.pidfd {
            wake::deregister(registry, pidfd);
        }
    }

    /// How the process has ended, as far as its pid or its pidfd tells.
    pub(super) fn status(&self) -> StatusAnswer {
        match (self.process.and_then(process::zombies_status), &self.pidfd) {
            (Some(status), _) => StatusAnswer::Known(status),
            (None, Some(pidfd)) => process::status_of(pidfd.as_fd()),
            (None, None) => StatusAnswer::Never,
        }
    }

    /// Whether the process lives, as far as anybody knows. Where it cannot be looked at, it does not.
    pub(super) fn is_alive(&self) -> bool {
        match (&self.pidfd, self.process) {
            (Some(pidfd), _) => !process::has_ended(pidfd.as_fd()),
            (None, Some(process)) => process::is_alive(process).unwrap_or(false),
            (None, None) => true,
        }
    }
}

/// What QEMU says with a line; nothing if it makes no sense.
fn heard(
    line: &Line<'_>,
    now: Moment,
    incarnation: Incarnation,
    name: &Name,
    complaints: &mut Complaints,
) -> Option<Event> {
    let (text, parsed) = match line {
        Line::Whole(text) => (*text, Message::parse(text)),
        Line::TooLong => (&b""[..], Err(LineError::TooLong)),
    };
    match parsed {
        Ok(message) => {
            debug!("Receive QMP message: {}", Printable(text));
            Some(Event::Of(incarnation, Said::Heard(message)))
        }
        Err(error) => {
            if let Some(count) = complaints.make(now) {
                warn!(
                    "Instance {name} sent something that is not a QMP message ({error}): {}{}",
                    Excerpt(text),
                    withheld(count)
                );
            }
            None
        }
    }
}

/// Asks the kernel who listens, and compares with the pid file. The kernel is right.
fn identify(stream: &UnixStream, paths: &Paths, name: &Name) -> io::Result<Identity> {
    let path = paths.pid_file_of(name);
    let in_pid_file = process::read_pid_file(&path);
    match qmp_socket::listener(stream)? {
        Listener::Known { pid, pidfd } => {
            let remark = match in_pid_file {
                Ok(Some(other)) if other != pid => Some(format!(
                    "the pid file {} says {other}, the kernel says {pid}; believing the kernel",
                    path.display()
                )),
                Err(error) => Some(format!("cannot read the pid file {}: {error}", path.display())),
                Ok(_) => None,
            };
            let seen = unless_short_of_descriptors(process::look_at(pid))?;
            // Dead and reaped in the meantime: the pidfd tells, or else the first look at it.
            let (process, is_dead) = seen.unwrap_or((Process { pid, started: 0 }, false));
            let has_ended = is_dead || is_over(process, pidfd.as_ref());
            Ok(Identity { process: Some(process), pidfd, has_ended, remark })
        }
        Listener::Unknown => match in_pid_file {
            Ok(Some(pid)) if process::is_named(pid, name.as_bytes()) => {
                let seen = unless_short_of_descriptors(process::look_at(pid))?;
                let pidfd = unless_short_of_descriptors(process::open_pidfd(pid))?;
                let has_ended =
                    seen.is_some_and(|(it, is_dead)| is_dead || is_over(it, pidfd.as_ref()));
                let process = seen.map(|(process, _)| process);
                Ok(Identity { process, pidfd, has_ended, remark: None })
            }
            _ => {
                let remark = format!(
                    "neither the kernel nor the pid file {} names its process",
                    path.display()
                );
                let remark = Some(remark);
                Ok(Identity { process: None, pidfd: None, has_ended: false, remark })
            }
        },
    }
}

/// Whether every thread of it has ended.
fn is_over(process: Process, pidfd: Option<&OwnedFd>) -> bool {
    match pidfd {
        Some(pidfd) => process::has_ended(pidfd.as_fd()),
        None => process::is_alive(process).is_ok_and(|is_alive| !is_alive),
    }
}

/// What was found, if anything was. A shortage is no answer: it is tried again.
fn unless_short_of_descriptors<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if qmp_socket::is_shortage(&error) => Err(error),
        found => Ok(found.ok()),
    }
}
