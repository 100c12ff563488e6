//! An entry of systemd's journal, in the native protocol: a datagram of `NAME=value` lines
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
//!
//! A value with a line feed would need the protocol's other form, with a length in front; one that was
//! written in this form would forge the field after it. None has one: every value is escaped here,
//! whoever has made it fit to print before, and has an end.

use std::fmt::{Display, Write};

use super::Shown;

/// The most bytes of one value. journalctl(1) shows `null` in the place of a field that is longer than
/// 4096 bytes in JSON, its name included.
const LONGEST: usize = 4000;

/// The facility DAEMON (`syslog(3)`): the syslog's, and that of an entry which the journal forwards there.
pub const DAEMON: u8 = 3;

/// How much an entry, or a line of the syslog, matters: syslog(3)'s numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Error = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry(String);

impl Entry {
    /// One of this program's.
    #[must_use]
    pub fn new(program: &str, level: Level, message: impl Display) -> Self {
        Self(String::new())
            .with("MESSAGE", message)
            .with("PRIORITY", level as u8)
            .with("SYSLOG_FACILITY", DAEMON)
            .with("SYSLOG_IDENTIFIER", program)
    }

    /// With one more field. `name` is of capital letters, digits and `_`, and begins with a letter.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Display) -> Self {
        let mut value = Shown(&value.to_string()).to_string();
        if value.len() > LONGEST {
            let end = (0..=LONGEST - 3).rev().find(|&at| value.is_char_boundary(at));
            value.truncate(end.unwrap_or_default());
            value.push_str("...");
        }
        // Into memory: it cannot fail.
        let _ = writeln!(self.0, "{name}={value}");
        self
    }

    /// The same with a field that is there if its value is known.
    #[must_use]
    pub fn with_known(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// The datagram.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(entry: &Entry) -> &str {
        std::str::from_utf8(entry.bytes()).unwrap()
    }

    #[test]
    fn an_entry_is_a_line_for_each_field() {
        let entry = Entry::new("ganeti-kvmd", Level::Warning, "web1 crashed")
            .with("INSTANCE", "web1")
            .with_known("SENDER_PID", Some(7))
            .with_known("SENDER_NAME", None::<&str>);
        assert_eq!(
            text(&entry),
            "MESSAGE=web1 crashed\nPRIORITY=4\nSYSLOG_FACILITY=3\nSYSLOG_IDENTIFIER=ganeti-kvmd\n\
             INSTANCE=web1\nSENDER_PID=7\n"
        );
    }

    #[test]
    fn no_value_forges_a_field() {
        let hostile = "x\nINSTANCE=web2\n\nMESSAGE\n\0\0\0\0\0\0\0\0\r\u{1b}[2J\u{2028}";
        let entry = Entry::new("ganeti-kvmd", Level::Notice, hostile).with("INSTANCE", hostile);
        let names: Vec<&str> =
            text(&entry).lines().map(|line| line.split_once('=').unwrap().0).collect();
        assert_eq!(
            names,
            ["MESSAGE", "PRIORITY", "SYSLOG_FACILITY", "SYSLOG_IDENTIFIER", "INSTANCE"]
        );
        assert!(text(&entry).chars().all(|c| c == '\n' || !c.is_control()), "{entry:?}");
    }

    #[test]
    fn a_value_has_an_end() {
        let entry = Entry::new("ganeti-kvmd", Level::Notice, "ü".repeat(100_000));
        let message = text(&entry).lines().next().unwrap();
        assert!(message.ends_with("ü...") && message.len() <= 4096, "{}", message.len());
        assert!(message.len() > LONGEST, "{}", message.len());
        let exact = "x".repeat(LONGEST);
        assert!(text(&Entry::new("", Level::Notice, &exact)).contains(&format!("={exact}\n")));
    }
}
