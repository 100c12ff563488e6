//! A stand-in for systemd's journal: a socket, and what is sent to it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::node::Node;
use crate::patience;

/// A journal that takes in what the test reads, and no more than a few entries beside.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

/// An entry, by the names of its fields.
pub type JournalEntry = BTreeMap<String, String>;

impl Journal {
    /// That of a node.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        Self::at(&node.path("run/systemd/journal/socket"))
    }

    /// One whose socket is at this path.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        let directory = path.parent().expect("a directory");
        fs::create_dir_all(directory).expect("create the journal's directory");
        let socket = UnixDatagram::bind(path).expect("bind the journal's socket");
        Self { socket, path: path.into() }
    }

    /// Another in its place, as after a restart.
    #[must_use]
    pub fn restarted(self) -> Self {
        let Self { socket, path } = self;
        drop(socket);
        fs::remove_file(&path).expect("remove the journal's socket");
        Self::at(&path)
    }

    /// Waits for the next entry.
    #[must_use]
    pub fn entry(&self) -> JournalEntry {
        self.socket.set_read_timeout(Some(patience())).expect("set a timeout");
        self.receive().expect("an entry of the journal")
    }

    /// The entries that are there.
    #[must_use]
    pub fn entries(&self) -> Vec<JournalEntry> {
        self.socket.set_nonblocking(true).expect("set non-blocking");
        let entries = std::iter::from_fn(|| self.receive().ok()).collect();
        self.socket.set_nonblocking(false).expect("set blocking");
        entries
    }

    /// Sends to it until it takes no more.
    pub fn fill(&self) {
        let socket = UnixDatagram::unbound().expect("a socket");
        socket.set_nonblocking(true).expect("set non-blocking");
        while socket.send_to(b"MESSAGE=filled\n", &self.path).is_ok() {}
    }

    /// The protocol's form for values with line feeds is not understood: nobody here is to need it.
    fn receive(&self) -> io::Result<JournalEntry> {
        let mut datagram = vec![0; 1 << 18];
        let length = self.socket.recv(&mut datagram)?;
        let text = std::str::from_utf8(&datagram[..length]).expect("an entry in UTF-8");
        let mut entry = JournalEntry::new();
        for line in text.lines() {
            let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("no field: {line}"));
            let before = entry.insert(name.into(), value.into());
            assert_eq!(before, None, "{name} is there twice: {text}");
        }
        Ok(entry)
    }
}
