//! What is said to the administrator: a line each on stderr, where QEMU's own messages are as well.

use std::cell::RefCell;
use std::fmt::Arguments;

use crate::log::StderrOutput;
use crate::sys::journal;

/// How much a line matters: syslog(3)'s numbers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Level {
    Error = 3,
    Warning = 4,
    Notice = 5,
}

/// stderr, whatever is at its other end.
#[derive(Debug)]
pub(super) struct Voice {
    stderr: RefCell<StderrOutput>,
    /// It goes to systemd's journal, which takes a line's level.
    has_levels: bool,
}

impl Voice {
    pub(super) fn new() -> Self {
        Self { stderr: RefCell::default(), has_levels: journal::is_stderr() }
    }

    /// Says a line. Where nobody takes it, the virtual machine is to go on all the same, and to end when
    /// that is asked for.
    pub(super) fn say(&self, level: Level, text: Arguments<'_>) {
        let line = if self.has_levels {
            format!("<{}>{text}\n", level as u8)
        } else {
            format!("kvmd-run: {text}\n")
        };
        self.stderr.borrow_mut().write(line.as_bytes());
    }
}
