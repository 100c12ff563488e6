//! The connections to the instances: making them, hearing what is said.

use std::io::{self, Read, Write};
use std::net::Shutdown;

use log::{debug, error, warn};
use memchr::memrchr;

use super::complaints::withheld;
use super::endpoint::{self, Connected, Endpoint};
use super::{Daemon, FAIR_SHARE, pid};
use crate::id::{Incarnation, Inode, Moment, Name, Process};
use crate::sys::control_dir::{SOCKET_SUFFIX, SocketError};
use crate::sys::qmp_socket;
use crate::verdict::{ConnectError, Event, Peer, Said};
use crate::wire::lines::{LONGEST_LINE, Line};
use crate::wire::qmp::{Command, LineError, Message};
use crate::wire::{Excerpt, Printable};

impl Daemon {
    pub(super) fn connect(
        &mut self,
        now: Moment,
        incarnation: Incarnation,
        name: &Name,
        inode: Inode,
    ) -> Said {
        let registry = self.poll.registry();
        if let Some(endpoint) = self.endpoints.get_mut(&incarnation) {
            return match endpoint.reconnect(registry, incarnation) {
                // The process is known from the first time.
                Ok(()) => {
                    self.keep_other_connection(incarnation);
                    Said::Connected(Peer { process: None, has_pidfd: false, age: None })
                }
                Err(error) => self.not_connected(now, name, endpoint::ConnectError::Connect(error)),
            };
        }
        let Some(directory) = &self.directory else {
            return Said::NotConnected(ConnectError::Gone);
        };
        match Endpoint::connect(directory, &self.paths, registry, incarnation, name, inode) {
            Ok(Connected { mut endpoint, peer, remark }) => {
                if let Some(remark) = remark {
                    warn!("Instance {name}: {}", Printable(remark.as_bytes()));
                }
                if self.lacks_trace() {
                    endpoint.count_oom_kills();
                }
                self.endpoints.insert(incarnation, endpoint);
                self.keep_endpoint(incarnation);
                Said::Connected(peer)
            }
            Err(error) => self.not_connected(now, name, error),
        }
    }

    /// Says what there is to say of a failed attempt, and what it means.
    fn not_connected(&mut self, now: Moment, name: &Name, error: endpoint::ConnectError) -> Said {
        let path = self.path(name, SOCKET_SUFFIX);
        let means = match error {
            endpoint::ConnectError::Socket(SocketError::Gone) => ConnectError::Gone,
            endpoint::ConnectError::Socket(error @ SocketError::NotASocket(_)) => {
                error!("Cannot connect to {path}: {error}");
                ConnectError::Unfit
            }
            endpoint::ConnectError::Socket(SocketError::Io(error))
            | endpoint::ConnectError::Connect(error) => match error.raw_os_error() {
                Some(libc::ECONNREFUSED) => ConnectError::Refused,
                Some(libc::EAGAIN) => ConnectError::Busy,
                Some(libc::ENOENT) => ConnectError::Gone,
                Some(libc::EPROTOTYPE) => {
                    error!("Cannot connect to {path}: {error} (QEMU's are stream sockets)");
                    ConnectError::Unfit
                }
                _ if qmp_socket::is_shortage(&error) => {
                    if let Some(count) = self.shortages.make(now) {
                        error!(
                            "Cannot connect to {path}: {error}; trying again (raise LimitNOFILE, or free memory){}",
                            withheld(count)
                        );
                    }
                    ConnectError::Busy
                }
                _ => {
                    error!("Cannot connect to {path}: {error}; trying again");
                    ConnectError::Refused
                }
            },
        };
        debug!("Not connected to {path}: {means:?}");
        Said::NotConnected(means)
    }

    pub(super) fn send(&mut self, incarnation: Incarnation, command: Command) {
        let bytes = command.line();
        let Some(endpoint) = self.endpoints.get_mut(&incarnation) else { return };
        let Some(stream) = &mut endpoint.stream else { return };
        // There is room for the few bytes that this ever sends, unless the peer takes nothing in:
        // then the connection is worth nothing. Its end is read like any other.
        if !matches!(stream.write(bytes), Ok(written) if written == bytes.len()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Hears what QEMU has to say, as much as its share; the rest waits for the others. What was
    /// heard stays in the connection until it is written down (see [`Daemon::consume`]): then
    /// nothing is lost if this daemon ends, and another goes on with the connection.
    pub(super) fn read(&mut self, now: Moment, incarnation: Incarnation) {
        let Some(endpoint) = self.endpoints.get_mut(&incarnation) else { return };
        let Some(stream) = &endpoint.stream else { return };
        if endpoint.heard > 0 {
            self.wait_for_others(incarnation);
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        match qmp_socket::peek(stream, &mut buffer) {
            Ok(0) => self.closed(now, incarnation),
            Ok(length) => {
                let has_hung_up = endpoint.has_hung_up;
                // The rest of a line comes with a wake-up of its own; that of one which is too
                // long is of no interest.
                let whole = memrchr(b'\n', &buffer[..length]).map_or(0, |newline| newline + 1);
                let is_to_wait = !has_hung_up && length - whole < LONGEST_LINE;
                endpoint.heard = if is_to_wait { whole } else { length };
                let heard = endpoint.heard;
                if heard > 0 {
                    self.heard_from.push(incarnation);
                    self.take_in(now, incarnation, &buffer[..heard]);
                }
                // A stream that gives less than was asked for is empty (epoll(7)); that of a peer
                // that is gone may wake the loop no more.
                if length == FAIR_SHARE || has_hung_up {
                    self.wait_for_others(incarnation);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.wait_for_others(incarnation);
            }
            // ECONNRESET: closed by a peer that had not read everything.
            Err(error) => {
                debug!("Connection of instance {}: {error}", endpoint.name);
                self.closed(now, incarnation);
            }
        }
        self.buffer = buffer;
    }

    /// Hears those who had more to say than their share, each once.
    pub(super) fn read_on(&mut self, now: Moment) {
        for _ in 0..self.unread.len() {
            let Some(incarnation) = self.unread.pop_front() else { break };
            if let Some(endpoint) = self.endpoints.get_mut(&incarnation) {
                endpoint.waits = false;
                self.read(now, incarnation);
            }
        }
    }

    /// Has the connection looked at again when every other source has been.
    fn wait_for_others(&mut self, incarnation: Incarnation) {
        if let Some(endpoint) = self.endpoints.get_mut(&incarnation)
            && !std::mem::replace(&mut endpoint.waits, true)
        {
            self.unread.push_back(incarnation);
        }
    }

    /// Takes from the connections what was heard since this was done last.
    pub(super) fn consume(&mut self) {
        for incarnation in self.heard_from.drain(..) {
            let Some(endpoint) = self.endpoints.get_mut(&incarnation) else { continue };
            let heard = std::mem::take(&mut endpoint.heard);
            if let Some(stream) = &mut endpoint.stream {
                // It is there. If not, it is heard twice, which changes no verdict.
                let _ = stream.read_exact(&mut self.buffer[..heard]);
            }
        }
    }

    /// Takes a piece of the stream apart into lines.
    fn take_in(&mut self, now: Moment, incarnation: Incarnation, piece: &[u8]) {
        let Some(endpoint) = self.endpoints.get_mut(&incarnation) else { return };
        let mut lines = std::mem::take(&mut endpoint.lines);
        lines.feed(piece, |line| self.heard(now, incarnation, &line));
        if let Some(endpoint) = self.endpoints.get_mut(&incarnation) {
            endpoint.lines = lines;
        }
    }

    fn closed(&mut self, now: Moment, incarnation: Incarnation) {
        if let Some(endpoint) = self.endpoints.get_mut(&incarnation) {
            endpoint.hang_up(self.poll.registry());
            let mut lines = std::mem::take(&mut endpoint.lines);
            lines.finish(|line| self.heard(now, incarnation, &line));
        }
        self.handle(now, Event::Of(incarnation, Said::Closed));
    }

    fn heard(&mut self, now: Moment, incarnation: Incarnation, line: &Line<'_>) {
        let (text, parsed) = match line {
            Line::Whole(text) => (*text, Message::parse(text)),
            Line::TooLong => (&b""[..], Err(LineError::TooLong)),
        };
        match parsed {
            Ok(message) => {
                debug!("Receive QMP message: {}", Printable(text));
                self.handle(now, Event::Of(incarnation, Said::Heard(message)));
            }
            Err(error) => {
                let Some(endpoint) = self.endpoints.get_mut(&incarnation) else { return };
                if let Some(count) = endpoint.complaints.make(now) {
                    warn!(
                        "Instance {} sent what is not a QMP message ({error}): {}{}",
                        endpoint.name,
                        Excerpt(text),
                        withheld(count)
                    );
                }
            }
        }
    }

    pub(super) fn warn_silent(&self, name: &Name, process: Option<Process>) {
        let path = self.path(name, SOCKET_SUFFIX);
        warn!(
            "Instance {name}{} does not answer at {path}: another client holds the connection (see `ss -xp`), or QEMU hangs; waiting",
            pid(process)
        );
    }
}
