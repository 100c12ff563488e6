//! The connections to the instances: making them, and having each say its share.
//!
//! What is read from a connection is not taken from it until it is written down: if this daemon
//! ends before that, nothing is lost, and another goes on with the connection.

use std::collections::{HashMap, VecDeque};
use std::io;

use log::{debug, error};
use mio::Registry;

use super::complaints::{Complaints, withheld};
use super::endpoint::{Endpoint, Kept};
use crate::id::{Incarnation, Moment};
use crate::sys::control_dir::SocketError;
use crate::sys::qmp_socket;
use crate::verdict::{ConnectError, Event, Peer, Remembered};
use crate::wire::qmp::Command;

/// How much one connection may say before the others have their turn, in bytes.
const FAIR_SHARE: usize = 16 * 1024;

pub(super) struct Connections {
    endpoints: HashMap<Incarnation, Endpoint>,
    /// Those that have more to say than their share.
    unread: VecDeque<Incarnation>,
    /// Those from which what was read is yet to be taken.
    peeked: Vec<Incarnation>,
    /// Commands that are not sent yet; empty between two wake-ups.
    outbox: Vec<(Incarnation, Command)>,
    buffer: Box<[u8]>,
}

impl Connections {
    pub(super) fn new() -> Self {
        Self {
            endpoints: HashMap::new(),
            unread: VecDeque::new(),
            peeked: Vec::new(),
            outbox: Vec::new(),
            buffer: vec![0; FAIR_SHARE].into(),
        }
    }

    /// What is held open for this life.
    pub(super) fn get(&self, incarnation: Incarnation) -> Option<&Endpoint> {
        self.endpoints.get(&incarnation)
    }

    pub(super) fn count(&self) -> usize {
        self.endpoints.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Incarnation, &Endpoint)> {
        self.endpoints.iter().map(|(&incarnation, endpoint)| (incarnation, endpoint))
    }

    pub(super) fn add(&mut self, incarnation: Incarnation, endpoint: Endpoint) {
        self.endpoints.insert(incarnation, endpoint);
    }

    /// Connects once more, to the socket that is held already; nothing if none is.
    pub(super) fn reconnect(
        &mut self,
        registry: &Registry,
        incarnation: Incarnation,
    ) -> Option<io::Result<Peer>> {
        let endpoint = self.endpoints.get_mut(&incarnation)?;
        // The process is known from the first time.
        let peer = Peer { process: None, has_pidfd: false, age: None };
        Some(endpoint.reconnect(registry, incarnation).map(|()| peer))
    }

    /// Goes on with the connection of a life that an earlier daemon has opened.
    pub(super) fn adopt(&mut self, registry: &Registry, life: &Remembered, kept: Kept) {
        let Remembered { incarnation, ref name, process, .. } = *life;
        match Endpoint::adopt(registry, incarnation, name, process, kept) {
            Ok(endpoint) => self.add(incarnation, endpoint),
            Err(error) => error!("Cannot take over the connection to {name}: {error}"),
        }
    }

    /// Closes what is held open for this life; false if nothing is.
    pub(super) fn release(&mut self, registry: &Registry, incarnation: Incarnation) -> bool {
        let endpoint = self.endpoints.remove(&incarnation);
        endpoint.map(|endpoint| endpoint.close(registry)).is_some()
    }

    /// Has each count how often the OOM killer has struck where its process is, since nobody else
    /// reports that.
    pub(super) fn count_oom_kills(&mut self) {
        self.endpoints.values_mut().for_each(Endpoint::count_oom_kills);
    }

    /// The peer has closed its side: nothing more is coming than what is there to be read.
    pub(super) fn mark_hung_up(&mut self, incarnation: Incarnation) {
        if let Some(endpoint) = self.endpoints.get_mut(&incarnation) {
            endpoint.has_hung_up = true;
        }
    }

    /// Reads what QEMU has to say, as much as its share; the rest waits for the others. What was
    /// read stays in the connection until [`Connections::take_peeked`].
    pub(super) fn read(
        &mut self,
        now: Moment,
        incarnation: Incarnation,
        registry: &Registry,
        events: &mut VecDeque<Event>,
    ) {
        let Some(endpoint) = self.endpoints.get_mut(&incarnation) else { return };
        let had_peeked = endpoint.peeked > 0;
        let has_more = endpoint.read(now, incarnation, registry, &mut self.buffer, events);
        if endpoint.peeked > 0 && !had_peeked {
            self.peeked.push(incarnation);
        }
        if has_more && !std::mem::replace(&mut endpoint.waits, true) {
            self.unread.push_back(incarnation);
        }
    }

    /// How many connections have more to say than their share.
    pub(super) fn unread(&self) -> usize {
        self.unread.len()
    }

    /// The one of those that has waited for longest; it waits no more.
    pub(super) fn next_unread(&mut self) -> Option<Incarnation> {
        let incarnation = self.unread.pop_front()?;
        if let Some(endpoint) = self.endpoints.get_mut(&incarnation) {
            endpoint.waits = false;
        }
        Some(incarnation)
    }

    /// Takes from the connections what was read since this was done last.
    pub(super) fn take_peeked(&mut self) {
        for incarnation in self.peeked.drain(..) {
            if let Some(endpoint) = self.endpoints.get_mut(&incarnation) {
                endpoint.take_peeked(&mut self.buffer);
            }
        }
    }

    /// Has a command sent by [`Connections::send`].
    pub(super) fn add_command(&mut self, incarnation: Incarnation, command: Command) {
        self.outbox.push((incarnation, command));
    }

    /// Sends the commands that wait.
    pub(super) fn send(&mut self) {
        for (incarnation, command) in self.outbox.drain(..) {
            if let Some(endpoint) = self.endpoints.get_mut(&incarnation) {
                endpoint.send(command);
            }
        }
    }
}

/// Logs what there is to say of a failed attempt to connect to the socket at `path`, and returns
/// what it means.
pub(super) fn not_connected(
    error: SocketError,
    path: &str,
    now: Moment,
    shortages: &mut Complaints,
) -> ConnectError {
    let means = match error {
        SocketError::Gone => ConnectError::Gone,
        SocketError::NotASocket(_) => {
            if let Some(count) = shortages.make(now) {
                error!("Cannot connect to {path}: {error}{}", withheld(count));
            }
            ConnectError::Unfit
        }
        SocketError::Io(error) => match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => ConnectError::Refused,
            Some(libc::EAGAIN) => ConnectError::Busy,
            Some(libc::ENOENT) => ConnectError::Gone,
            Some(libc::EPROTOTYPE) => {
                error!("Cannot connect to {path}: {error} (QEMU uses stream sockets)");
                ConnectError::Unfit
            }
            _ if qmp_socket::is_shortage(&error) => {
                if let Some(count) = shortages.make(now) {
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
    means
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Name;
    use crate::sys::process::open_pidfd;
    use crate::verdict::Said;
    use crate::wire::qmp;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    const NOW: Moment = Moment(Duration::ZERO);
    const LIFE: Incarnation = Incarnation(1);
    const STOP: &[u8] = b"{\"event\": \"STOP\"}\n";

    /// One connection, its other end, and what it is registered with.
    fn connected() -> (Connections, UnixStream, mio::Poll) {
        let poll = mio::Poll::new().unwrap();
        let (here, there) = UnixStream::pair().unwrap();
        let mut connections = Connections::new();
        let kept = Kept {
            socket: File::open("/dev/null").unwrap().into(),
            stream: here.into(),
            pidfd: open_pidfd(std::process::id()).unwrap(),
        };
        let endpoint = Endpoint::adopt(poll.registry(), LIFE, &Name::new(b"web1"), None, kept);
        connections.add(LIFE, endpoint.unwrap());
        (connections, there, poll)
    }

    fn read(connections: &mut Connections, poll: &mio::Poll) -> Vec<Said> {
        let mut events = VecDeque::new();
        connections.read(NOW, LIFE, poll.registry(), &mut events);
        let said = |event| match event {
            Event::Of(LIFE, said) => said,
            other => panic!("{other:?}"),
        };
        events.into_iter().map(said).collect()
    }

    fn is_stop(said: &Said) -> bool {
        matches!(said, Said::Heard(qmp::Message::Event(qmp::Event::Stop, _)))
    }

    #[test]
    fn what_is_read_stays_there_until_it_is_taken() {
        let (mut connections, mut qemu, poll) = connected();
        qemu.write_all(&[STOP, &STOP[..9]].concat()).unwrap();
        assert!(matches!(&*read(&mut connections, &poll), [said] if is_stop(said)));
        // Another daemon would read it again; this one does not.
        let mut descriptors = connections.get(LIFE).unwrap().descriptors();
        let (_, stream) = descriptors.find(|(kind, _)| *kind == "qmp").unwrap();
        let copy = UnixStream::from(stream.try_clone_to_owned().unwrap());
        drop(descriptors);
        let mut seen = [0; 64];
        assert_eq!(qmp_socket::peek(&copy, &mut seen).unwrap(), STOP.len() + 9);
        assert!(read(&mut connections, &poll).is_empty());
        connections.take_peeked();
        assert_eq!(qmp_socket::peek(&copy, &mut seen).unwrap(), 9);
        qemu.write_all(&STOP[9..]).unwrap();
        assert!(matches!(&*read(&mut connections, &poll), [said] if is_stop(said)));
    }

    #[test]
    fn one_with_more_than_its_share_waits_for_the_others() {
        let (mut connections, mut qemu, poll) = connected();
        let count = 3 * FAIR_SHARE / STOP.len();
        qemu.write_all(&STOP.repeat(count)).unwrap();
        let mut found = read(&mut connections, &poll).len();
        assert!(found > 0 && found < count, "{found}");
        assert_eq!(connections.unread(), 1);
        while let Some(incarnation) = connections.next_unread() {
            assert_eq!(incarnation, LIFE);
            connections.take_peeked();
            found += read(&mut connections, &poll).len();
        }
        assert_eq!(found, count);
    }

    #[test]
    fn the_last_word_needs_no_line_feed_and_comes_before_the_end() {
        let (mut connections, mut qemu, poll) = connected();
        qemu.write_all(b"nonsense\n\"STOP\"").unwrap();
        drop(qemu);
        connections.mark_hung_up(LIFE);
        let mut said = read(&mut connections, &poll);
        connections.take_peeked();
        said.extend(read(&mut connections, &poll));
        assert!(matches!(&*said, [stop, Said::Closed] if is_stop(stop)), "{said:?}");
        assert!(connections.release(poll.registry(), LIFE));
        assert!(!connections.release(poll.registry(), LIFE));
    }

    #[test]
    fn a_command_is_sent_when_its_turn_has_come() {
        let (mut connections, mut qemu, _poll) = connected();
        connections.add_command(LIFE, Command::Negotiate);
        qemu.set_nonblocking(true).unwrap();
        let mut line = [0; 64];
        assert_eq!(qemu.read(&mut line).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        connections.send();
        let length = qemu.read(&mut line).unwrap();
        assert_eq!(&line[..length], Command::Negotiate.line());
    }
}
