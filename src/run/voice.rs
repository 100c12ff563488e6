//! What is said to the administrator: a line each on stderr, where QEMU's own messages are as well. The
//! end is an entry of the journal, too, where there is one.

use std::cell::RefCell;
use std::fmt::Arguments;
use std::path::Path;

use crate::log::StderrOutput;
use crate::sys::journal::{self, Journal};
use crate::wire::journal::Entry;
pub(super) use crate::wire::journal::Level;

/// Who says it.
pub(super) const PROGRAM: &str = "kvmd-run";

/// stderr, whatever is at its other end.
#[derive(Debug)]
pub(super) struct Voice {
    stderr: RefCell<StderrOutput>,
    /// It goes to systemd's journal, which takes a line's level.
    is_journal: bool,
}

impl Voice {
    pub(super) fn new() -> Self {
        Self { stderr: RefCell::default(), is_journal: journal::is_stderr() }
    }

    /// Says a line. Where nobody takes it, the virtual machine is to go on all the same, and to end when
    /// that is asked for.
    pub(super) fn say(&self, level: Level, text: Arguments<'_>) {
        let line = if self.is_journal {
            format!("<{}>{text}\n", level as u8)
        } else {
            format!("{PROGRAM}: {text}\n")
        };
        self.stderr.borrow_mut().write(line.as_bytes());
    }

    /// Says how it ended, which this entry tells the journal. That is not to have it once more by way
    /// of stderr.
    pub(super) fn say_end(&self, level: Level, words: &str, entry: &Entry) {
        let sent = Journal::open(Path::new(journal::SOCKET)).map(|mut it| it.send(entry));
        if !(self.is_journal && matches!(sent, Some(Ok(())))) {
            self.say(level, format_args!("{words}"));
        }
        if let Some(Err(error)) = sent {
            let text = format_args!("the journal does not take the end in: {error}");
            self.say(Level::Warning, text);
        }
    }
}
