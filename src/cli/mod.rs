//! The command line: that of Ganeti's daemons, and options of our own.
//!
//! Scripts know Ganeti's, so its rules are kept to the letter: options can be abbreviated as
//! long as that is unambiguous and bundled if they are short; every mistake is told of, not
//! just the first; help goes before version and that before completion, and each before
//! everything else. `lexopt` takes the words apart, [`options`] says what each does.

mod help;
mod options;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use lexopt::Arg::{self, Long, Short};

use crate::verdict::Settings;
pub use help::{completion, help, version};
use options::{Effect, GANETIS, OURS, Opt, Value};

/// What the user wants.
#[derive(Debug)]
pub enum Invocation {
    Help,
    Version,
    Completion,
    /// Look at the node, and say what will work.
    Check,
    Run(Options),
}

/// How the daemon is to run.
#[derive(Debug, Default)]
pub struct Options {
    pub foreground: bool,
    pub debug: bool,
    pub no_user_checks: bool,
    pub syslog: Syslog,
    pub settings: Settings,
    /// It is not to give up what it does not need.
    pub no_sandbox: bool,
    /// Another daemon runs, and is to hand over what it has open.
    pub takes_over: bool,
    /// Where to put figures for Prometheus.
    pub metrics_file: Option<PathBuf>,
    /// There were words that are not options, which this program does not take.
    pub has_arguments: bool,
}

/// Whether the log goes to syslog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Syslog {
    #[default]
    No,
    /// And to the file.
    Yes,
    /// And not to the file.
    Only,
}

/// The command line cannot be understood.
#[derive(Debug, PartialEq, Eq)]
pub enum UsageError {
    /// Options that do not exist, are ambiguous, lack a value or take none: one a line.
    Options(String),
    /// A value that an option does not take.
    Value(String),
}

/// What the words amount to while they are being read.
#[derive(Debug, Default)]
struct Reading {
    options: Options,
    wants_help: bool,
    wants_version: bool,
    wants_completion: bool,
    wants_check: bool,
    mistakes: String,
    bad_value: Option<String>,
}

/// Reads the command line, without the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut reading = Reading::default();
    loop {
        match parser.next() {
            Ok(None) => break,
            Ok(Some(Short(letter))) => reading.short(letter),
            Ok(Some(Long(name))) => {
                let typed = name.to_string();
                reading.long(&typed, &mut parser);
            }
            Ok(Some(Arg::Value(_))) => reading.options.has_arguments = true,
            Err(lexopt::Error::UnexpectedValue { option, .. }) => {
                reading.mistake(&format!("option `{option}' doesn't allow an argument"));
            }
            Err(error) => reading.mistake(&error.to_string()),
        }
    }
    reading.conclude()
}

impl Reading {
    fn mistake(&mut self, text: &str) {
        self.mistakes.push_str(text);
        self.mistakes.push('\n');
    }

    /// A short option. None of those takes a value.
    fn short(&mut self, letter: char) {
        match GANETIS.iter().find(|option| option.short == Some(letter)) {
            Some(Opt { effect: Effect::Flag(set), .. }) => set(self),
            _ => self.mistake(&format!("unrecognized option `-{letter}'")),
        }
    }

    /// A long option, perhaps abbreviated.
    fn long(&mut self, typed: &str, parser: &mut lexopt::Parser) {
        let exact = GANETIS.iter().chain(&OURS).find(|option| option.long == typed);
        let starting = |options: &'static [Opt]| -> Vec<&Opt> {
            options.iter().filter(|option| option.long.starts_with(typed)).collect()
        };
        // What is enough for one of Ganeti's stays enough, whatever this program has besides.
        let candidates = match (exact, starting(&GANETIS)) {
            (Some(option), _) => vec![option],
            (None, none) if none.is_empty() => starting(&OURS),
            (None, ganetis) => ganetis,
        };
        // The value in the same word, after '='.
        let attached = parser.optional_value();
        match (&*candidates, attached) {
            ([], Some(value)) => {
                let value = value.to_string_lossy();
                self.mistake(&format!("unrecognized option `--{typed}={value}'"));
            }
            ([], None) => self.mistake(&format!("unrecognized option `--{typed}'")),
            ([Opt { effect: Effect::Flag(_), .. }], Some(_)) => {
                self.mistake(&format!("option `--{typed}' doesn't allow an argument"));
            }
            ([Opt { effect: Effect::Flag(set), .. }], None) => set(self),
            ([Opt { effect: Effect::With(expected), long, .. }], attached) => {
                if let Ok(value) = attached.map_or_else(|| parser.value(), Ok) {
                    self.value(long, expected, &value);
                } else {
                    let name = expected.name();
                    self.mistake(&format!("option `--{typed}' requires an argument {name}"));
                }
            }
            (several, _) => {
                let lines = several.iter().map(|&option| help::table(std::slice::from_ref(option)));
                self.mistake(&format!(
                    "option `--{typed}' is ambiguous; could be one of:\n{}",
                    lines.collect::<String>().trim_end()
                ));
            }
        }
    }

    /// The value of an option that takes one.
    fn value(&mut self, long: &str, expected: &Value, value: &OsStr) {
        let text = value.to_string_lossy();
        match expected {
            Value::OneOf(_, choices) => {
                if let Some((_, set)) = choices.iter().find(|(choice, _)| *choice == text) {
                    set(self);
                } else {
                    let quoted = |(choice, _): &(&str, _)| format!("'{choice}'");
                    let choices: Vec<String> = choices.iter().map(quoted).collect();
                    self.refuse(long, &text, &format!("one of {}", choices.join(", ")));
                }
            }
            Value::Seconds(set) => match text.parse() {
                Ok(seconds) => set(self, seconds),
                Err(_) => self.refuse(long, &text, "a number of seconds"),
            },
            Value::Path(set) => set(self, value.into()),
        }
    }

    /// Only the first value that cannot be taken is reported.
    fn refuse(&mut self, long: &str, value: &str, expected: &str) {
        self.bad_value.get_or_insert_with(|| {
            format!("Invalid value '{value}' for --{long}, pass {expected}")
        });
    }

    fn conclude(self) -> Result<Invocation, UsageError> {
        if !self.mistakes.is_empty() {
            return Err(UsageError::Options(self.mistakes));
        }
        if let Some(text) = self.bad_value {
            return Err(UsageError::Value(text));
        }
        Ok(if self.wants_help {
            Invocation::Help
        } else if self.wants_version {
            Invocation::Version
        } else if self.wants_completion {
            Invocation::Completion
        } else if self.wants_check {
            Invocation::Check
        } else {
            Invocation::Run(self.options)
        })
    }
}

impl UsageError {
    /// The exit code that scripts know.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Options(_) => 2,
            Self::Value(_) => 1,
        }
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Options(mistakes) => write!(f, "Command line error: {mistakes}\n{}", help()),
            Self::Value(text) => writeln!(f, "Error while parsing command line arguments:\n{text}"),
        }
    }
}

impl std::error::Error for UsageError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{GuestReset, SignalShutdown};
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::time::Duration;

    fn read(line: &str) -> Result<Invocation, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn options(line: &str) -> Options {
        match read(line) {
            Ok(Invocation::Run(options)) => options,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn mistakes(line: &str) -> String {
        match read(line) {
            Err(UsageError::Options(mistakes)) => mistakes,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn by_default_signals_are_the_administrators_and_resets_the_users() {
        let settings = options("").settings;
        assert_eq!(settings.signal_shutdown, SignalShutdown::Admin);
        assert_eq!(settings.guest_reset, GuestReset::User);
        assert_eq!(settings.powerdown_window, Some(Duration::from_secs(3600)));
    }

    #[test]
    fn each_reading_can_be_chosen() {
        let settings = options("--signal-shutdown=user --guest-reset restart").settings;
        assert_eq!(settings.signal_shutdown, SignalShutdown::User);
        assert_eq!(settings.guest_reset, GuestReset::Restart);
        assert_eq!(options("--powerdown-window=0").settings.powerdown_window, None);
    }

    #[test]
    fn a_path_may_hold_any_bytes() {
        let path = OsStr::from_bytes(b"/run/\xff.prom");
        let Ok(Invocation::Run(options)) = parse(["--metrics-file".into(), path.into()]) else {
            panic!("not understood");
        };
        assert_eq!(options.metrics_file.as_deref(), Some(Path::new(path)));
    }

    #[test]
    fn short_options_can_be_bundled_and_long_ones_abbreviated() {
        let options = options("-fd --no-u --sys yes");
        assert!(options.foreground && options.debug && options.no_user_checks);
        assert_eq!(options.syslog, Syslog::Yes);
    }

    #[test]
    fn help_goes_before_version_before_completion_before_arguments() {
        assert!(matches!(read("-Vh x --help-c"), Ok(Invocation::Help)));
        assert!(matches!(read("x --help-c -V"), Ok(Invocation::Version)));
        assert!(matches!(read("--help-c -- --nonsense"), Ok(Invocation::Completion)));
        assert!(options("-f -- -d").has_arguments);
        assert!(options("-").has_arguments);
    }

    #[test]
    fn every_mistake_is_told_in_getopts_words() {
        assert_eq!(
            mistakes("-x --bogus=3 -fy"),
            "unrecognized option `-x'\nunrecognized option `--bogus=3'\nunrecognized option `-y'\n"
        );
        assert_eq!(mistakes("--fore=1"), "option `--fore' doesn't allow an argument\n");
        assert_eq!(mistakes("--sys"), "option `--sys' requires an argument SYSLOG\n");
        assert_eq!(
            mistakes("--he"),
            "option `--he' is ambiguous; could be one of:\n  -h  --help  show help\n      --help-completion  show completion info\n"
        );
    }

    #[test]
    fn a_value_that_an_option_does_not_take_is_told_with_those_that_it_does() {
        let told = |line: &str| read(line).unwrap_err().to_string();
        assert!(
            told("--syslog=maybe -h")
                .contains("'maybe' for --syslog, pass one of 'yes', 'no', 'only'")
        );
        assert!(
            told("--powerdown-window=-1")
                .contains("'-1' for --powerdown-window, pass a number of seconds")
        );
        assert_eq!(read("--signal-shutdown=x").unwrap_err().exit_code(), 1);
        assert_eq!(read("-x").unwrap_err().exit_code(), 2);
    }
}
