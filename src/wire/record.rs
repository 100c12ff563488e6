//! The exit record: one JSON object a line, for each end of an instance.
//!
//! Written by the daemon, read by `kvmd-why` and by whatever an administrator has. The schema is
//! versioned, and later versions only add to it: what is not there reads as absent, what is not
//! known is passed over. Text of others is made fit to print before it gets here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::{Sender, Shown};

/// The version of the schema.
pub const VERSION: u32 = 1;

/// The longest value in a command's environment, in characters; execve(2) takes 128 KiB.
const LONGEST_VALUE: usize = 1024;

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
    /// The node that it ended on; absent where the record was written. `kvmd-why` adds it to those that
    /// it has from elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// What `kvmd-run` told its supervisor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// The code that it exited with.
    pub exit_code: u8,
    /// What that code was chosen for: the cause, `requested`, `forced` or `orphaned`.
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

/// What a row tells of an end, and what it is chosen and counted by: a record without its evidence,
/// read where its line is. Whoever reads a million and tells of few reads this of each.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Outline<'a> {
    #[serde(borrow)]
    pub node: OwnNode<'a>,
    #[serde(borrow)]
    pub instance: Cow<'a, str>,
    pub pid: Option<u32>,
    #[serde(borrow)]
    pub end: Cow<'a, str>,
    pub uptime: Option<f64>,
    #[serde(borrow)]
    pub cause: Cow<'a, str>,
    #[serde(borrow)]
    pub initiator: Cow<'a, str>,
    #[serde(borrow)]
    pub signal: Option<Text<'a>>,
    pub exit_code: Option<i32>,
    #[serde(borrow)]
    pub sender: Option<SenderOutline<'a>>,
}

/// What [`Outline`] has of a [`Sender`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SenderOutline<'a> {
    pub kernel: bool,
    pub pid: Option<u32>,
    #[serde(borrow)]
    pub name: Option<Text<'a>>,
    pub uid: Option<u32>,
    pub login: Option<u32>,
}

/// A string that is not copied if it has no escapes. Serde does so for a bare `Cow` only, and not for
/// one in an `Option`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// What a record says of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OwnNode<'a> {
    #[default]
    Absent,
    Null,
    Named(Cow<'a, str>),
}

impl<'de: 'a, 'a> Deserialize<'de> for OwnNode<'a> {
    fn deserialize<D: Deserializer<'de>>(field: D) -> Result<Self, D::Error> {
        let name = Option::<Text<'a>>::deserialize(field)?;
        Ok(name.map_or(Self::Null, |name| Self::Named(name.0)))
    }
}

/// Why a line is not a record.
#[derive(Debug)]
pub enum NotARecord {
    Encoding,
    Json(serde_json::Error),
    Nameless,
}

impl fmt::Display for NotARecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encoding => f.write_str("it is not UTF-8"),
            Self::Json(error) => write!(f, "it is not a record: {error}"),
            Self::Nameless => f.write_str("it is not a record: it names no instance"),
        }
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

    /// What an administrator's command finds in its environment, in bounds and fit to print: a record
    /// may come from a file that anybody has written.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let fit = |text: &str| {
            let end = text.char_indices().nth(LONGEST_VALUE).map_or(text.len(), |(at, _)| at);
            Shown(&text[..end]).to_string()
        };
        let fit_or_nothing = |text: &Option<String>| fit(text.as_deref().unwrap_or_default());
        let mut environment = vec![
            ("KVMD_NAME", fit(&self.instance)),
            ("KVMD_PID", self.pid.map_or_else(String::new, |pid| pid.to_string())),
            ("KVMD_CAUSE", fit(&self.cause)),
            ("KVMD_INITIATOR", fit(&self.initiator)),
            ("KVMD_SUMMARY", fit(&self.summary)),
            ("KVMD_SIGNAL", fit_or_nothing(&self.signal)),
        ];
        environment.extend(self.node.iter().map(|node| ("KVMD_NODE", fit(node))));
        environment
    }

    /// Reads one line.
    pub fn parse(line: &[u8]) -> Result<Self, NotARecord> {
        serde_json::from_slice(line).map_err(NotARecord::Json)
    }
}

impl<'a> Outline<'a> {
    /// Reads one line. Everything in it is JSON then; of what is not in the outline, no more is known.
    pub fn parse(line: &'a [u8]) -> Result<Self, NotARecord> {
        let line = std::str::from_utf8(line).map_err(|_| NotARecord::Encoding)?;
        let outline: Self = serde_json::from_str(line).map_err(NotARecord::Json)?;
        if outline.instance.is_empty() { Err(NotARecord::Nameless) } else { Ok(outline) }
    }

    /// The node that it names.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        if let OwnNode::Named(node) = &self.node { Some(node) } else { None }
    }

    /// When it ended; nothing if the record does not say so in a way that is understood.
    #[must_use]
    pub fn ended(&self) -> Option<Timestamp> {
        self.end.parse().ok()
    }
}

/// The line of a record with this node, whatever it has said of that.
#[must_use]
pub fn with_node(line: &[u8], outline: &Outline<'_>, node: &str) -> Vec<u8> {
    if outline.node != OwnNode::Absent {
        return with_other_node(line, node);
    }
    let line = line.trim_ascii_end();
    let line = line.strip_suffix(b"}").unwrap_or(line);
    // A string can always be written.
    let node = serde_json::to_string(node).unwrap_or_default();
    [line, b",\"node\":", node.as_bytes(), b"}"].concat()
}

/// The line with this node instead of the one that it names; its other fields are as they were, in
/// another order.
fn with_other_node(line: &[u8], node: &str) -> Vec<u8> {
    // It has been read as an object, and is one.
    let mut fields: BTreeMap<String, &RawValue> = serde_json::from_slice(line).unwrap_or_default();
    let node = serde_json::value::to_raw_value(node).unwrap_or_default();
    fields.insert("node".into(), &node);
    serde_json::to_vec(&fields).unwrap_or_default()
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
    }

    #[test]
    fn an_outline_is_what_the_record_says() {
        let sender = Sender { pid: Some(7), name: Some("a\\b".into()), ..Sender::default() };
        let record = Record {
            instance: "web1".into(),
            end: "2026-11-21T02:14:07.667502Z".into(),
            signal: Some("SIGTERM".into()),
            sender: Some(sender),
            evidence: vec![Evidence::default()],
            ..Record::default()
        };
        let line = record.to_line();
        let outline = Outline::parse(&line).unwrap();
        assert!(matches!(outline.instance, Cow::Borrowed("web1")));
        assert!(matches!(outline.signal, Some(Text(Cow::Borrowed("SIGTERM")))));
        assert_eq!(outline.sender.as_ref().unwrap().name, Some(Text("a\\b".into())));
        assert_eq!(outline.ended(), "2026-11-21T02:14:07.667502Z".parse().ok());
        assert_eq!((outline.node(), outline.exit_code), (None, None));
    }

    #[test]
    fn what_is_no_outline_says_why() {
        let why = |line: &[u8]| Outline::parse(line).unwrap_err().to_string();
        assert!(why(b"{\"instance\": \"we").contains("EOF while parsing"));
        assert!(why(b"{\"instance\": \"web1\"} x").contains("trailing characters"));
        assert!(why(b"{\"instance\": \"web1\", \"evidence\": [}").contains("expected value"));
        assert!(why(b"{}").contains("names no instance"));
        assert!(why(b"{\"instance\": \"web1\", \"x\": \"\xff\"}").contains("not UTF-8"));
    }

    #[test]
    fn a_node_is_added_to_what_a_line_says() {
        let line = b"{\"instance\": \"web1\", \"moon\": {}} \n";
        let with_node = |line: &[u8], node| with_node(line, &Outline::parse(line).unwrap(), node);
        let named = with_node(line, "node\"1");
        assert_eq!(named, br#"{"instance": "web1", "moon": {},"node":"node\"1"}"#);
        assert_eq!(Outline::parse(&named).unwrap().node(), Some("node\"1"));
        assert_eq!(Record::parse(&named).unwrap().node.as_deref(), Some("node\"1"));
        let renamed = with_node(&named, "node2");
        assert_eq!(renamed, br#"{"instance":"web1","moon":{},"node":"node2"}"#);
        let strange = br#"{"instance":"web1","nod\u0065":null,"x":1e999}"#;
        assert_eq!(with_node(strange, "n"), br#"{"instance":"web1","node":"n","x":1e999}"#);
    }

    #[test]
    fn no_record_forges_what_a_command_is_told() {
        let record = Record {
            instance: "web1".into(),
            cause: "a\0b\n\x1b".into(),
            summary: "\u{e9}".repeat(100_000),
            ..Record::default()
        };
        let environment: BTreeMap<_, _> = record.environment().into_iter().collect();
        assert_eq!(environment["KVMD_NAME"], "web1");
        assert!(!environment.contains_key("KVMD_NODE"));
        assert_eq!(environment["KVMD_CAUSE"], "a\\u{0}b\\n\\u{1b}");
        assert_eq!(environment["KVMD_SUMMARY"].chars().count(), 1024);
    }

    #[test]
    fn later_versions_only_add() {
        let line =
            br#"{"version": 2, "instance": "web1", "cause": "killed", "moon": {"phase": 1}}"#;
        let record = Record::parse(line).unwrap();
        assert_eq!((record.version, &*record.cause, record.pid), (2, "killed", None));
        let cut_off = Record::parse(br#"{"instance": "we"#).unwrap_err().to_string();
        assert!(cut_off.contains("EOF while parsing"), "{cut_off}");
    }
}
