//! What is asked.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use lexopt::prelude::{Long, Short, Value};

use super::acting::Command;
use super::reading::Found;
use super::source::{Origin, Source};

/// So many commands of `--exec` run at once, and so many seconds may each take, where nothing else is said.
const JOBS: u64 = 4;
const TIMEOUT: u64 = 60;

/// What the user wants.
#[derive(Debug)]
pub(super) enum Invocation {
    Help,
    Version,
    Tell(Question),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Colour {
    #[default]
    Auto,
    Always,
    Never,
}

/// What is asked of the records.
#[derive(Debug, Default)]
pub(super) struct Question {
    pub(super) instance: Option<String>,
    pub(super) all: bool,
    pub(super) summary: bool,
    pub(super) since: Option<Timestamp>,
    pub(super) cause: Option<String>,
    pub(super) json: bool,
    /// Where a page of them is to go; `-` is standard output.
    pub(super) html: Option<PathBuf>,
    pub(super) follow: bool,
    /// What is run for each end that comes.
    pub(super) exec: Option<Command>,
    /// Where the records are; the node's own, if there is none.
    pub(super) files: Vec<Source>,
    pub(super) colour: Colour,
}

impl Question {
    /// Whether this end is among those that are asked for.
    pub(super) fn asks_for(&self, found: &Found<'_>) -> bool {
        let outline = &found.outline;
        self.instance.as_ref().is_none_or(|name| outline.instance == *name)
            && self
                .cause
                .as_ref()
                .is_none_or(|cause| outline.cause == *cause || outline.initiator == *cause)
            && self.since.is_none_or(|since| found.ended.is_some_and(|ended| ended >= since))
    }

    /// Whether its parts go together.
    fn check(&self) -> Result<(), UsageError> {
        if self.summary && (self.json || self.follow) {
            let text = "--summary counts what is there, for people; it goes with neither --json nor --follow";
            return Err(UsageError(text.into()));
        }
        if self.exec.is_some() && !self.follow {
            return Err(UsageError("--exec is for ends that are yet to come: add --follow".into()));
        }
        if self.html.is_some() && (self.summary || self.json || self.follow) {
            let text = "--html makes a page; it goes with none of --summary, --json and --follow";
            return Err(UsageError(text.into()));
        }
        let from_stdin =
            self.files.iter().filter(|file| file.from == Origin::StandardInput).count();
        match from_stdin {
            0 => Ok(()),
            _ if self.follow => Err(UsageError(
                "--follow needs files that grow; standard input cannot be followed".into(),
            )),
            1 => Ok(()),
            _ => Err(UsageError("standard input can be read only once".into())),
        }
    }

    /// Where the records are.
    pub(super) fn sources(&self) -> Vec<Source> {
        match &*self.files {
            [] => vec![Source::own()],
            [one] => vec![one.clone()],
            several => several.iter().cloned().map(Source::among_others).collect(),
        }
    }
}

#[derive(Debug)]
pub(super) struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<lexopt::Error> for UsageError {
    fn from(error: lexopt::Error) -> Self {
        Self(error.to_string())
    }
}

pub(super) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    now: Timestamp,
) -> Result<Invocation, UsageError> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut question = Question::default();
    let (mut exec, mut jobs, mut timeout) = (None, None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('a') | Long("all") => question.all = true,
            Short('s') | Long("since") => {
                question.since = Some(since(&parser.value()?.to_string_lossy(), now)?);
            }
            Short('c') | Long("cause") => {
                question.cause = Some(parser.value()?.to_string_lossy().into_owned());
            }
            Long("summary") => question.summary = true,
            Short('j') | Long("json") => question.json = true,
            Long("html") => question.html = Some(parser.value()?.into()),
            Short('f') | Long("follow") => question.follow = true,
            Long("exec") => exec = Some(parser.value()?),
            Long("exec-jobs") => jobs = Some(number("--exec-jobs", &parser.value()?, 1000)?),
            Long("exec-timeout") => {
                timeout = Some(number("--exec-timeout", &parser.value()?, 86_400)?);
            }
            Long("file") => question.files.push(Source::parse(&parser.value()?)),
            Long("color" | "colour") => {
                question.colour = match &*parser.value()?.to_string_lossy() {
                    "auto" => Colour::Auto,
                    "always" => Colour::Always,
                    "never" => Colour::Never,
                    other => {
                        let text = format!(
                            "invalid value '{other}' for --color; pass auto, always or never"
                        );
                        return Err(UsageError(text));
                    }
                }
            }
            Short('h') | Long("help") => return Ok(Invocation::Help),
            Short('V') | Long("version") => return Ok(Invocation::Version),
            Value(name) if question.instance.is_none() => {
                question.instance = Some(name.to_string_lossy().into_owned());
            }
            Value(name) => {
                let name = name.to_string_lossy();
                return Err(UsageError(format!("only one instance at a time: '{name}'")));
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if exec.is_none() && (jobs.is_some() || timeout.is_some()) {
        return Err(UsageError("--exec-jobs and --exec-timeout go with --exec".into()));
    }
    question.exec = exec.map(|words| Command {
        words,
        at_once: jobs.unwrap_or(JOBS) as usize,
        at_most: Duration::from_secs(timeout.unwrap_or(TIMEOUT)),
    });
    question.check()?;
    Ok(Invocation::Tell(question))
}

/// A number from 1 on.
fn number(option: &str, text: &OsStr, most: u64) -> Result<u64, UsageError> {
    let text = text.to_string_lossy();
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| {
        UsageError(format!("invalid value '{text}' for {option}; pass a number from 1 to {most}"))
    })
}

/// A time ago, a day or a time, in UTC.
fn since(text: &str, now: Timestamp) -> Result<Timestamp, UsageError> {
    // A day alone is its midnight.
    let in_utc = |time: DateTime| time.to_zoned(TimeZone::UTC).ok().map(|time| time.timestamp());
    let ago = |span: Span| now.to_zoned(TimeZone::UTC).checked_sub(span.abs()).ok();
    None.or_else(|| text.parse().ok())
        .or_else(|| text.parse().ok().and_then(in_utc))
        .or_else(|| text.parse().ok().and_then(ago).map(|time| time.timestamp()))
        .ok_or_else(|| {
            UsageError(format!(
                "invalid value '{text}' for --since; pass how long ago (2h, 3 days), a day (2026-11-20) or a time (2026-11-20 03:00), in UTC"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record::Outline;

    fn read(line: &str) -> Result<Invocation, UsageError> {
        let now = "2026-11-21T08:00:00Z".parse().unwrap();
        parse(line.split_whitespace().map(OsString::from), now)
    }

    fn question(line: &str) -> Question {
        match read(line) {
            Ok(Invocation::Tell(question)) => question,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_time_can_be_told_in_several_ways() {
        for (told, meant) in [
            ("2h", "2026-11-21T06:00:00Z"),
            ("1d", "2026-11-20T08:00:00Z"),
            ("2026-11-20", "2026-11-20T00:00:00Z"),
            // As this program prints it.
            ("2026-11-20 15:00:00", "2026-11-20T15:00:00Z"),
            ("2026-11-20T15:00", "2026-11-20T15:00:00Z"),
            ("2026-11-20T03:00:00+01:00", "2026-11-20T02:00:00Z"),
        ] {
            let now = "2026-11-21T08:00:00Z".parse().unwrap();
            let since = since(told, now).unwrap();
            assert_eq!(since.to_string(), meant, "{told}");
        }
        assert!(read("--since=yesterday").unwrap_err().to_string().contains("2026-11-20"));
    }

    #[test]
    fn ends_are_chosen_by_name_cause_and_time() {
        let outline = Outline {
            instance: "web1".into(),
            cause: "crashed".into(),
            initiator: "crash".into(),
            ..Outline::default()
        };
        let ended = "2026-11-21T07:00:00.000001Z".parse().ok();
        let found = Found { outline, ended, node: None, line: b"" };
        for yes in ["", "web1", "-a -c crashed", "-c crash web1", "--since 2h"] {
            assert!(question(yes).asks_for(&found), "{yes}");
        }
        for no in ["web", "-c killed", "--since=10m", "web1 -c user"] {
            assert!(!question(no).asks_for(&found), "{no}");
        }
    }

    #[test]
    fn a_command_has_its_bounds() {
        let exec = |line: &str| question(line).exec.unwrap();
        let command = |words: &str, at_once, seconds| Command {
            words: words.into(),
            at_once,
            at_most: Duration::from_secs(seconds),
        };
        assert_eq!(exec("-f --exec=mail"), command("mail", 4, 60));
        let line = "-f --exec-jobs=1 --exec=mail --exec-timeout=5";
        assert_eq!(exec(line), command("mail", 1, 5));
        for wrong in [
            "--exec=mail",
            "-f --exec-jobs=1",
            "-f --exec=x --exec-jobs=0",
            "-f --exec=x --exec-timeout=1d",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        assert!(read("a b").unwrap_err().to_string().contains("one instance"));
        assert!(read("--colour=pink").is_err());
        assert!(read("--nonsense").is_err());
        assert!(read("--summary --json").unwrap_err().to_string().contains("neither --json"));
        assert!(read("--html=page --json").unwrap_err().to_string().contains("none of"));
        assert!(read("--file=- --file=node1=-").unwrap_err().to_string().contains("only once"));
        assert!(read("--file=- --follow").unwrap_err().to_string().contains("cannot be followed"));
        assert!(matches!(read("-h --nonsense"), Ok(Invocation::Help)));
    }
}
