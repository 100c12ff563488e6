//! What is held open for one life of an instance.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::complaints::Complaints;
use super::restart::age;
use crate::config::Paths;
use crate::id::{Incarnation, Inode, Name, Process};
use crate::sys::control_dir::{ControlDir, SocketError};
use crate::sys::memory_cgroup::OomKills;
use crate::sys::process;
use crate::sys::qmp_socket::{self, Listener};
use crate::verdict::Peer;
use crate::wire::StatusAnswer;
use crate::wire::lines::Lines;

/// The two descriptors of one life that can wake the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Qmp,
    Pidfd,
}

/// Tokens below this belong to what the node has only one of.
const FIRST_TOKEN: usize = 16;

pub(super) fn token(incarnation: Incarnation, source: Source) -> Token {
    Token(FIRST_TOKEN + incarnation.0 as usize * 2 + usize::from(source == Source::Pidfd))
}

/// Whose token it is; nothing if it belongs to no life.
pub(super) fn source(token: Token) -> Option<(Incarnation, Source)> {
    let number = token.0.checked_sub(FIRST_TOKEN)?;
    let source = if number % 2 == 0 { Source::Qmp } else { Source::Pidfd };
    Some((Incarnation((number / 2) as u64), source))
}

#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) name: Name,
    /// Keeps the inode of the socket from being given to another.
    socket: OwnedFd,
    pub(super) stream: Option<UnixStream>,
    process: Option<Process>,
    pidfd: Option<OwnedFd>,
    /// Counted where the kernel does not trace whom its OOM killer chose.
    pub(super) oom_kills: Option<OomKills>,
    pub(super) lines: Lines,
    /// How many bytes were heard and are yet to be taken from the connection.
    pub(super) heard: usize,
    /// There is more to be heard, and the others have their turn first.
    pub(super) waits: bool,
    /// Nothing more is coming than what is there to be read.
    pub(super) has_hung_up: bool,
    pub(super) complaints: Complaints,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum ConnectError {
    Socket(SocketError),
    Connect(io::Error),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Connect(error)
    }
}

/// What is known of the process at the other end, with what there is to say about it.
struct Identity {
    process: Option<Process>,
    pidfd: Option<OwnedFd>,
    remark: Option<String>,
}

/// What a service manager has kept of an endpoint.
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
    /// woken by both from now on.
    pub(super) fn connect(
        directory: &ControlDir,
        paths: &Paths,
        registry: &Registry,
        incarnation: Incarnation,
        name: &Name,
        inode: Inode,
    ) -> Result<Connected, ConnectError> {
        let socket = directory.open_socket(name, inode).map_err(ConnectError::Socket)?;
        let stream = qmp_socket::connect(socket.as_fd())?;
        let Identity { process, pidfd, remark } = identify(&stream, paths, name)?;
        register(registry, &stream, token(incarnation, Source::Qmp))?;
        if let Some(pidfd) = &pidfd {
            register(registry, pidfd, token(incarnation, Source::Pidfd))?;
        }
        let age = process.and_then(age);
        let peer = Peer { process, has_pidfd: pidfd.is_some(), age };
        let endpoint = Self {
            name: name.clone(),
            socket,
            stream: Some(stream),
            process,
            pidfd,
            oom_kills: None,
            lines: Lines::default(),
            heard: 0,
            waits: false,
            has_hung_up: false,
            complaints: Complaints::default(),
        };
        Ok(Connected { endpoint, peer, remark })
    }

    /// Begins to count how often the OOM killer has struck where the process is.
    pub(super) fn count_oom_kills(&mut self) {
        if self.oom_kills.is_none() {
            self.oom_kills = self.process.and_then(|process| OomKills::of(process.pid));
        }
    }

    /// Goes on with what a service manager has kept.
    pub(super) fn adopt(
        registry: &Registry,
        incarnation: Incarnation,
        name: &Name,
        process: Option<Process>,
        kept: Kept,
    ) -> io::Result<Self> {
        let stream = UnixStream::from(kept.stream);
        stream.set_nonblocking(true)?;
        register(registry, &stream, token(incarnation, Source::Qmp))?;
        register(registry, &kept.pidfd, token(incarnation, Source::Pidfd))?;
        Ok(Self {
            name: name.clone(),
            socket: kept.socket,
            stream: Some(stream),
            process,
            pidfd: Some(kept.pidfd),
            oom_kills: None,
            lines: Lines::default(),
            heard: 0,
            waits: false,
            has_hung_up: false,
            complaints: Complaints::default(),
        })
    }

    /// What is to be kept beyond the daemon's end, and what each is called.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        let stream = self.stream.as_ref().map(|stream| ("qmp", stream.as_fd()));
        let pidfd = self.pidfd.as_ref().map(|pidfd| ("pidfd", pidfd.as_fd()));
        [Some(("sock", self.socket.as_fd())), stream, pidfd].into_iter().flatten()
    }

    /// Closes the connection. The loop is to hear no more of it even if somebody else keeps it
    /// open.
    pub(super) fn hang_up(&mut self, registry: &Registry) {
        if let Some(stream) = self.stream.take() {
            let _ = registry.deregister(&mut SourceFd(&stream.as_raw_fd()));
        }
        (self.heard, self.has_hung_up) = (0, false);
    }

    /// Closes everything, in the same way.
    pub(super) fn close(mut self, registry: &Registry) {
        self.hang_up(registry);
        if let Some(pidfd) = &self.pidfd {
            let _ = registry.deregister(&mut SourceFd(&pidfd.as_raw_fd()));
        }
    }

    /// Connects again to the socket that is held already, whose process is known.
    pub(super) fn reconnect(
        &mut self,
        registry: &Registry,
        incarnation: Incarnation,
    ) -> io::Result<()> {
        let stream = qmp_socket::connect(self.socket.as_fd())?;
        register(registry, &stream, token(incarnation, Source::Qmp))?;
        self.stream = Some(stream);
        self.lines = Lines::default();
        Ok(())
    }

    /// How the process has ended, as far as its pid or its pidfd tells.
    pub(super) fn status(&self) -> StatusAnswer {
        match (self.process.and_then(process::zombies_status), &self.pidfd) {
            (Some(status), _) => StatusAnswer::Known(status),
            (None, Some(pidfd)) => process::status_of(pidfd.as_fd()),
            (None, None) => StatusAnswer::Never,
        }
    }

    /// Whether the process lives, as far as anybody knows.
    pub(super) fn is_alive(&self) -> bool {
        match (&self.pidfd, self.process) {
            (Some(pidfd), _) => !process::has_ended(pidfd.as_fd()),
            (None, Some(process)) => process::is_alive(process),
            (None, None) => true,
        }
    }
}

fn register(registry: &Registry, descriptor: &impl AsRawFd, token: Token) -> io::Result<()> {
    registry.register(&mut SourceFd(&descriptor.as_raw_fd()), token, Interest::READABLE)
}

/// Asks the kernel who listens, and compares with the pid file. The kernel is right.
fn identify(stream: &UnixStream, paths: &Paths, name: &Name) -> io::Result<Identity> {
    let path = paths.pid_file_of(name);
    let in_pid_file = process::read_pid_file(&path);
    match qmp_socket::listener(stream)? {
        Listener::Known { pid, pidfd } => {
            let remark = match in_pid_file {
                Ok(Some(other)) if other != pid => Some(format!(
                    "the pid file {} says {other}, the kernel {pid}; taking the kernel's word",
                    path.display()
                )),
                Err(error) => Some(format!("cannot read the pid file {}: {error}", path.display())),
                Ok(_) => None,
            };
            // Dead and reaped in the meantime: the pidfd tells, or else the first look at it.
            let process = process::identify(pid).unwrap_or(Process { pid, started: 0 });
            Ok(Identity { process: Some(process), pidfd, remark })
        }
        Listener::Unknown => match in_pid_file {
            Ok(Some(pid)) if process::is_named(pid, name.as_bytes()) => {
                let process = process::identify(pid).ok();
                Ok(Identity { process, pidfd: process::open_pidfd(pid).ok(), remark: None })
            }
            _ => {
                let remark = format!(
                    "neither the kernel nor the pid file {} names its process",
                    path.display()
                );
                Ok(Identity { process: None, pidfd: None, remark: Some(remark) })
            }
        },
    }
}
