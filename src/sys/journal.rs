//! systemd's journal: its socket, and whether stderr leads to it.
//!
//! The crates that speak its protocol wait in `send(2)`, for as long as nobody reads, at a socket
//! that they keep to themselves. This one is waited for as stderr is: once.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::fs::fstat;
use rustix::stdio::stderr;

use super::writable::{PATIENCE, takes_more};
use crate::wire::journal::Entry;

/// Where the journal takes entries in.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// The journal of this machine.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    socket: UnixDatagram,
    /// Nobody has read for too long; not waited for again until somebody does.
    is_stuck: bool,
}

impl Journal {
    /// The one at this path; nothing if there is none.
    #[must_use]
    pub fn open(path: &Path) -> Option<Self> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        match socket.connect(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            // Any other error comes again when there is something to send.
            _ => Some(Self { path: path.to_path_buf(), socket, is_stuck: false }),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has it take in an entry. An error, if it does not: it is then without it.
    pub fn send(&mut self, entry: &Entry) -> io::Result<()> {
        let sent = match self.socket.send(entry.bytes()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.send_late(entry),
            // It has been restarted: its new socket is another one.
            Err(_) => {
                self.socket.connect(&self.path).and_then(|()| self.socket.send(entry.bytes()))
            }
            sent => sent,
        };
        let is_busy = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        self.is_stuck = sent.as_ref().is_err_and(is_busy);
        sent.map(|_| ())
    }

    /// Waits for it, unless that was in vain the last time.
    fn send_late(&self, entry: &Entry) -> io::Result<usize> {
        if self.is_stuck || !takes_more(self.socket.as_fd(), PATIENCE) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "nobody reads there"));
        }
        self.socket.send(entry.bytes())
    }
}

/// Whether a line on stderr goes there, and may begin with its priority, `<5>`: `JOURNAL_STREAM` of
/// systemd.exec(5), and sd-daemon(3).
#[must_use]
pub fn is_stderr() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Some((device, inode)) = stream.split_once(':') else { return false };
    fstat(stderr())
        .is_ok_and(|stat| device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::journal::Level;

    fn entry(number: u32) -> Entry {
        Entry::new("kvmd-run", Level::Notice, number)
    }

    fn read(socket: &UnixDatagram) -> String {
        let mut datagram = [0; 1000];
        let length = socket.recv(&mut datagram).unwrap();
        String::from_utf8_lossy(&datagram[..length]).into_owned()
    }

    #[test]
    fn where_there_is_none_there_is_none() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Journal::open(&directory.path().join("socket")).is_none());
    }

    #[test]
    fn a_journal_that_is_restarted_gets_what_comes_then() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let first = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        journal.send(&entry(1)).unwrap();
        assert!(read(&first).starts_with("MESSAGE=1\n"));
        drop(first);
        assert_eq!(journal.send(&entry(2)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(journal.send(&entry(3)).unwrap_err().kind(), io::ErrorKind::NotFound);
        let second = UnixDatagram::bind(&path).unwrap();
        journal.send(&entry(4)).unwrap();
        assert!(read(&second).starts_with("MESSAGE=4\n"));
    }

    #[test]
    fn a_journal_that_nobody_reads_is_left_behind_and_gets_entries_again_when_it_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let reader = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        let taken = (0..100_000).take_while(|number| journal.send(&entry(*number)).is_ok()).count();
        assert!(journal.is_stuck && taken > 0, "{taken}");
        // These are not waited for: it would take minutes.
        for number in 0..100 {
            assert!(journal.send(&entry(number)).is_err());
        }
        for number in 0..taken {
            assert!(read(&reader).starts_with(&format!("MESSAGE={number}\n")));
        }
        journal.send(&entry(7)).unwrap();
        assert!(!journal.is_stuck && read(&reader).starts_with("MESSAGE=7\n"));
    }
}
