//! QEMU's own log (`-D`): the line in which it says which signal ends it.
//!
//! Ganeti has each instance write one, cut short at each start. QEMU writes the line for SIGTERM,
//! SIGINT and SIGHUP, in every version, and whoever reads it needs no privilege but to read. It
//! belongs to root, for whom QEMU opens it before it becomes another user; its directory belongs to
//! Ganeti's users. The guest may have taken QEMU over: what stands there is worth no more than QEMU's
//! own word.
//!
//! It is on a disk: who reads it may wait, and is not to be the loop.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::plain_file;
use crate::wire::{Printable, Sender, Signal};

/// The end of the file that is looked at, in bytes. QEMU writes the line last.
const TAIL: usize = 4096;

/// What the line says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Termination {
    pub signal: Signal,
    /// Its pid, and how it was called if QEMU saw that: the first word of its command line. One that
    /// QEMU could not see is gone.
    pub sender: Sender,
}

/// Reads the last such line; nothing if there is none.
pub fn read(path: &Path) -> io::Result<Option<Termination>> {
    Ok(parse(&plain_file::read_end(path, TAIL)?))
}

/// `qemu-system-x86_64: terminating on signal 15 from pid 8234 (/usr/bin/python3)`
fn parse(log: &[u8]) -> Option<Termination> {
    log.rsplit(|&byte| byte == b'\n').find_map(|line| {
        let line = String::from_utf8_lossy(line);
        let (_, rest) = line.rsplit_once("terminating on signal ")?;
        let (signal, rest) = rest.split_once(" from pid ")?;
        let (sender, rest) = rest.split_once(" (")?;
        let program = rest.strip_suffix(')')?;
        let program = (program != "<unknown process>").then_some(program);
        Some(Termination {
            signal: Signal(signal.parse().ok()?),
            sender: sender_called(program, sender.parse().ok()?),
        })
    })
}

fn sender_called(program: Option<&str>, pid: u32) -> Sender {
    let command = program.map(|program| Printable(program.as_bytes()).to_string());
    let name = command.as_deref().map(|path| path.rsplit('/').next().unwrap_or(path).into());
    Sender { gone: command.is_none(), name, command, ..Sender::unseen(pid) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts() {
        let log = b"warning: x\nqemu-system-x86_64: terminating on signal 2 from pid 7 (sh)\n\
            qemu-system-x86_64: terminating on signal 15 from pid 8234 (/usr/bin/a (b))\n";
        let found = parse(log).unwrap();
        assert_eq!((found.signal, found.sender.pid), (Signal::TERM, Some(8234)));
        assert_eq!(found.sender.command.as_deref(), Some("/usr/bin/a (b)"));
        assert_eq!(found.sender.name.as_deref(), Some("a (b)"));
        assert!(found.sender.is_unseen(), "it can be looked at");
        assert_eq!(parse(b"terminating on signal 15 from pid x (y)\n"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn only_the_end_of_a_long_log_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web1.log");
        let mut log = vec![b'x'; 100_000];
        log.extend(b"\nqemu: terminating on signal 1 from pid 0 (<unknown process>)\n");
        std::fs::write(&path, &log).unwrap();
        let gone = Sender { gone: true, ..Sender::unseen(0) };
        let unknown = Termination { signal: Signal::HUP, sender: gone };
        assert_eq!(read(&path).unwrap(), Some(unknown));
        std::os::unix::fs::symlink(&path, directory.path().join("link")).unwrap();
        assert!(read(&directory.path().join("link")).is_err());
    }
}
