//! The exit record: one JSON object a line, for each end of an instance.
//!
//! Written by the daemon, read by `kvmd-why` and by whatever an administrator has. The schema is
//! versioned, and later versions only add to it: what is not there reads as absent, what is not
//! known is passed over. Text of others is made fit to print before it gets here.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Sender;

/// The version of the schema.
pub const VERSION: u32 = 1;

/// The end of one life of an instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    pub version: u32,
    pub instance: String,
    pub pid: Option<u32>,
    /// When the process began, RFC 3339 in UTC.
    pub start: Option<String>,
    /// When it was found to have ended, RFC 3339 in UTC.
    pub end: String,
    /// Seconds between the two.
    pub uptime: Option<f64>,
    /// One word: see the table in README.md.
    pub cause: String,
    /// `user`, `admin`, `crash` or `unknown`.
    pub initiator: String,
    /// What happened, to follow the instance's name.
    pub summary: String,
    /// The signal that ended it or asked it to end; under `kvmd-run`, the one that asked that.
    pub signal: Option<String>,
    /// The exit code, if it exited and that is known.
    pub exit_code: Option<i32>,
    /// The signal that it died by, if it did.
    pub died_by: Option<String>,
    pub core: Option<Core>,
    /// Who sent the signal.
    pub sender: Option<Sender>,
    /// QEMU's version.
    pub qemu: Option<String>,
    /// Whether it was marked as shut down by its user; absent if nothing was decided.
    pub marked: Option<bool>,
    /// In the order in which it happened.
    pub evidence: Vec<Evidence>,
    /// How many pieces were let go, after the first few.
    pub omitted: u64,
    /// What should have been known and is not.
    pub missing: Vec<String>,
    /// What `kvmd-run` made of it; absent where the daemon wrote the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
}

/// What `kvmd-run` told its supervisor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// The code that it exited with.
    pub exit_code: u8,
    /// What that code was chosen for: the cause, `requested` or `forced`.
    pub why: String,
}

/// A core dump.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Core {
    /// Whether one was written, as far as the exit status tells.
    pub dumped: bool,
    /// `kernel.core_pattern` at that time.
    pub pattern: Option<String>,
    /// How to look at it, or where it is.
    pub hint: Option<String>,
}

/// A piece of evidence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// Seconds from the end; negative before it.
    pub at: f64,
    pub source: String,
    pub what: String,
}

/// Why a line is not a record.
#[derive(Debug)]
pub struct NotARecord(serde_json::Error);

impl fmt::Display for NotARecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for NotARecord {}

impl Record {
    /// The line, with its line feed.
    #[must_use]
    pub fn to_line(&self) -> Vec<u8> {
        // It can fail for maps with keys that are not strings only.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// Reads one line.
    pub fn parse(line: &[u8]) -> Result<Self, NotARecord> {
        serde_json::from_slice(line).map_err(NotARecord)
    }

    /// When it ended; nothing if the record does not say so in a way that is understood.
    #[must_use]
    pub fn ended(&self) -> Option<Timestamp> {
        self.end.parse().ok()
    }
}

/// A time since 1970 in RFC 3339, to the microsecond.
#[must_use]
pub fn rfc3339(since_1970: std::time::Duration) -> String {
    let microseconds = i64::try_from(since_1970.as_micros()).unwrap_or_default();
    let time = Timestamp::from_microsecond(microseconds).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_record_survives_its_line() {
        let record = Record {
            version: VERSION,
            instance: "web1".into(),
            end: rfc3339(Duration::from_micros(1_795_227_247_667_502)),
            sender: Some(Sender { pid: Some(7), ..Sender::default() }),
            evidence: vec![Evidence { at: -0.25, source: "qmp".into(), what: "STOP".into() }],
            ..Record::default()
        };
        let line = record.to_line();
        assert_eq!(line.iter().position(|&byte| byte == b'\n'), Some(line.len() - 1));
        assert_eq!(Record::parse(&line).unwrap(), record);
        assert_eq!(record.end, "2026-11-21T02:14:07.667502Z");
        let ended = Timestamp::from_microsecond(1_795_227_247_667_502).unwrap();
        assert_eq!(record.ended(), Some(ended));
        assert_eq!(Record { end: "today".into(), ..record }.ended(), None);
    }

    #[test]
    fn later_versions_only_add() {
        let line =
            br#"{"version": 2, "instance": "web1", "cause": "killed", "moon": {"phase": 1}}"#;
        let record = Record::parse(line).unwrap();
        assert_eq!((record.version, &*record.cause, record.pid), (2, "killed", None));
        let cut_off = Record::parse(br#"{"instance": "we"#).unwrap_err().to_string();
        assert!(cut_off.starts_with("EOF while parsing"), "{cut_off}");
    }
}
