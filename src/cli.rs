//! The command line: that of Ganeti's daemons, and options of our own.
//!
//! Scripts know Ganeti's, so its rules are kept to the letter: options can be abbreviated as
//! long as that is unambiguous and bundled if they are short; every mistake is told of, not
//! just the first; help goes before version and that before completion, and each before
//! everything else. `lexopt` takes the words apart.

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::{Long, Short, Value};

use crate::verdict::{GuestReset, Settings, SignalShutdown};

/// What the user wants.
#[derive(Debug)]
pub enum Command {
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

/// An option, as the help shows it.
struct Opt {
    short: Option<char>,
    long: &'static str,
    /// What the help calls its value, if it takes one.
    value: Option<&'static str>,
    help: &'static str,
    /// What the shell's completion may offer, in the notation of Ganeti's build.
    completion: &'static str,
}

const fn flag(short: Option<char>, long: &'static str, help: &'static str) -> Opt {
    Opt { short, long, value: None, help, completion: "none" }
}

/// Ganeti's own, in its order and its words.
static GANETIS: [Opt; 7] = [
    flag(Some('f'), "foreground", "Don't detach from the current terminal"),
    flag(None, "no-user-checks", "Ignore user checks"),
    flag(Some('d'), "debug", "Enable debug messages"),
    Opt {
        short: None,
        long: "syslog",
        value: Some("SYSLOG"),
        help: "Enable logging to syslog (except debug messages); one of 'no', 'yes' or 'only' [no]",
        completion: "choices=yes,no,only",
    },
    flag(Some('h'), "help", "show help"),
    flag(Some('V'), "version", "show the version of the program"),
    flag(None, "help-completion", "show completion info"),
];

/// Those that only this program has.
static OURS: [Opt; 8] = [
    Opt {
        short: None,
        long: "guest-reset",
        value: Some("READING"),
        help: "A guest resets itself and is not to reboot (reboot_behavior=exit): \
               'user' takes it for a user's shutdown, 'restart' for a wish to be started again [user]",
        completion: "choices=user,restart",
    },
    Opt {
        short: None,
        long: "signal-shutdown",
        value: Some("READING"),
        help: "A signal asks QEMU to end (SIGTERM, SIGINT, SIGHUP): 'admin' takes it for an \
               administrator's doing, 'user' for a user's shutdown, as Ganeti's own tests expect [admin]",
        completion: "choices=admin,user",
    },
    Opt {
        short: None,
        long: "powerdown-window",
        value: Some("SECONDS"),
        help: "For how long a powerdown request explains that the guest shuts down; 0: for ever [3600]",
        completion: "integer",
    },
    Opt {
        short: None,
        long: "doubt-window",
        value: Some("SECONDS"),
        help: "For how long a guest's shutdown may be due to a request that nobody heard, after \
               the daemon came late (its own restart, a connection that was taken): it is then \
               not taken for the user's [120]",
        completion: "integer",
    },
    Opt {
        short: None,
        long: "metrics-file",
        value: Some("PATH"),
        help: "Keep figures there in Prometheus's text format, as node_exporter's textfile \
               collector takes them (PATH ends in .prom)",
        completion: "file",
    },
    flag(
        None,
        "take-over",
        "Take the place of the daemon that runs, with its connections, so that nothing is missed \
         (after an upgrade); where a service manager keeps them, restart the service instead",
    ),
    flag(
        None,
        "check",
        "Look at this node and say what will work, what is reduced, and what to do; the exit code \
         is 1 if something is wrong",
    ),
    flag(None, "no-sandbox", "Keep every capability and system call, for debugging"),
];

/// What `--help` prints.
#[must_use]
pub fn help() -> String {
    let mut text = format!("{}\nUsage: ganeti-kvmd [OPTION...]\n", first_line());
    text.push_str(&table(&GANETIS));
    text.push_str("\nHow to read what can be read in two ways, and more to see:\n");
    text.push_str(&table(&OURS));
    text.push_str(
        "\nWatches the KVM instances of this node and tells Ganeti which of them their own\n\
         users have shut down: those get a file NAME.shutdown in the control directory.\n\
         For every instance that ends, the log says why, and whose doing it was; so does\n\
         kvmd-why NAME, weeks later too.\n",
    );
    text
}

/// What `--version` prints.
#[must_use]
pub fn version() -> String {
    format!("{}\nrunning on {} {}\n", first_line(), std::env::consts::OS, std::env::consts::ARCH)
}

/// What `--help-completion` prints: an option a line.
#[must_use]
pub fn completion() -> String {
    let mut text = String::new();
    for option in GANETIS.iter().chain(&OURS) {
        if let Some(short) = option.short {
            let _ = write!(text, "-{short},");
        }
        let _ = writeln!(text, "--{} {}", option.long, option.completion);
    }
    text
}

fn first_line() -> String {
    format!("ganeti-kvmd {} (for Ganeti 2.16 to 3.1)", env!("CARGO_PKG_VERSION"))
}

/// The options as Haskell's `getopt` lays them out, long descriptions folded.
fn table(options: &[Opt]) -> String {
    const FOLD_AT: usize = 78;
    let spelling = |option: &Opt| match option.value {
        Some(value) => format!("--{}={value}", option.long),
        None => format!("--{}", option.long),
    };
    let width = options.iter().map(|option| spelling(option).len()).max().unwrap_or_default();
    let is_folded = options.iter().any(|option| option.help.len() > 120);
    let mut text = String::new();
    for option in options {
        let short = option.short.map_or_else(|| "  ".into(), |short| format!("-{short}"));
        let start = format!("  {short}  {:width$}  ", spelling(option));
        text.push_str(&start);
        let mut column = start.len();
        for (i, word) in option.help.split(' ').enumerate() {
            if is_folded && column + 1 + word.len() > FOLD_AT {
                let _ = write!(text, "\n{:1$}{word}", "", start.len());
                column = start.len() + word.len();
            } else {
                let _ = write!(text, "{}{word}", if i == 0 { "" } else { " " });
                column += word.len() + usize::from(i > 0);
            }
        }
        text.push('\n');
    }
    text
}

/// What the words amount to while they are being read.
#[derive(Default)]
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
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut reading = Reading::default();
    loop {
        match parser.next() {
            Ok(None) => break,
            Ok(Some(Short(letter))) => {
                match GANETIS.iter().find(|option| option.short == Some(letter)) {
                    Some(option) => reading.take(option, None),
                    None => reading.mistake(&format!("unrecognized option `-{letter}'")),
                }
            }
            Ok(Some(Long(name))) => {
                let typed = name.to_string();
                reading.long(&typed, &mut parser);
            }
            Ok(Some(Value(_))) => reading.options.has_arguments = true,
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
            ([Opt { value: None, .. }], Some(_)) => {
                self.mistake(&format!("option `--{typed}' doesn't allow an argument"));
            }
            ([option @ Opt { value: None, .. }], None) => self.take(option, None),
            ([option @ Opt { value: Some(name), .. }], attached) => {
                match attached.map_or_else(|| parser.value(), Ok) {
                    Ok(value) => self.take(option, Some(&value.to_string_lossy())),
                    Err(_) => {
                        self.mistake(&format!("option `--{typed}' requires an argument {name}"));
                    }
                }
            }
            (several, _) => {
                let lines: String = several
                    .iter()
                    .map(|&option| {
                        let Opt { short, long, value, help, completion } = *option;
                        table(&[Opt { short, long, value, help, completion }])
                    })
                    .collect();
                self.mistake(&format!(
                    "option `--{typed}' is ambiguous; could be one of:\n{}",
                    lines.trim_end()
                ));
            }
        }
    }

    fn take(&mut self, option: &Opt, value: Option<&str>) {
        let settings = &mut self.options.settings;
        match (option.long, value) {
            ("foreground", _) => self.options.foreground = true,
            ("debug", _) => self.options.debug = true,
            ("check", _) => self.wants_check = true,
            ("no-sandbox", _) => self.options.no_sandbox = true,
            ("take-over", _) => self.options.takes_over = true,
            ("no-user-checks", _) => self.options.no_user_checks = true,
            ("help", _) => self.wants_help = true,
            ("version", _) => self.wants_version = true,
            ("help-completion", _) => self.wants_completion = true,
            ("syslog", Some("no")) => self.options.syslog = Syslog::No,
            ("syslog", Some("yes")) => self.options.syslog = Syslog::Yes,
            ("syslog", Some("only")) => self.options.syslog = Syslog::Only,
            ("guest-reset", Some("user")) => settings.guest_reset = GuestReset::User,
            ("guest-reset", Some("restart")) => settings.guest_reset = GuestReset::Restart,
            ("signal-shutdown", Some("admin")) => settings.signal_shutdown = SignalShutdown::Admin,
            ("signal-shutdown", Some("user")) => settings.signal_shutdown = SignalShutdown::User,
            ("powerdown-window", Some(value)) => match value.parse() {
                Ok(0) => settings.powerdown_window = None,
                Ok(seconds) => settings.powerdown_window = Some(Duration::from_secs(seconds)),
                Err(_) => self.refuse(option, value, "a number of seconds"),
            },
            ("doubt-window", Some(value)) => match value.parse() {
                Ok(seconds) => settings.doubt_window = Duration::from_secs(seconds),
                Err(_) => self.refuse(option, value, "a number of seconds"),
            },
            ("metrics-file", Some(path)) => self.options.metrics_file = Some(path.into()),
            (_, Some(value)) => {
                let choices = option.completion.strip_prefix("choices=").unwrap_or_default();
                let choices: Vec<String> =
                    choices.split(',').map(|choice| format!("'{choice}'")).collect();
                self.refuse(option, value, &format!("one of {}", choices.join(", ")));
            }
            (_, None) => {}
        }
    }

    fn refuse(&mut self, option: &Opt, value: &str, expected: &str) {
        self.bad_value.get_or_insert_with(|| {
            format!("Invalid value '{value}' for --{}, pass {expected}", option.long)
        });
    }

    fn conclude(self) -> Result<Command, UsageError> {
        if !self.mistakes.is_empty() {
            return Err(UsageError::Options(self.mistakes));
        }
        if let Some(text) = self.bad_value {
            return Err(UsageError::Value(text));
        }
        Ok(if self.wants_help {
            Command::Help
        } else if self.wants_version {
            Command::Version
        } else if self.wants_completion {
            Command::Completion
        } else if self.wants_check {
            Command::Check
        } else {
            Command::Run(self.options)
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

    fn read(line: &str) -> Result<Command, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn options(line: &str) -> Options {
        match read(line) {
            Ok(Command::Run(options)) => options,
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
    fn short_options_can_be_bundled_and_long_ones_abbreviated() {
        let options = options("-fd --no-u --sys yes");
        assert!(options.foreground && options.debug && options.no_user_checks);
        assert_eq!(options.syslog, Syslog::Yes);
    }

    #[test]
    fn help_goes_before_version_before_completion_before_arguments() {
        assert!(matches!(read("-Vh x --help-c"), Ok(Command::Help)));
        assert!(matches!(read("x --help-c -V"), Ok(Command::Version)));
        assert!(matches!(read("--help-c -- --nonsense"), Ok(Command::Completion)));
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

    #[test]
    fn the_help_fits_a_terminal_and_the_completion_has_every_option() {
        let help = help();
        for line in help.lines().filter(|line| !line.contains("syslog")) {
            assert!(line.len() <= 80, "{line}");
        }
        for option in GANETIS.iter().chain(&OURS) {
            assert!(help.contains(&format!("--{}", option.long)));
            assert!(completion().contains(&format!("--{} ", option.long)));
        }
    }
}
