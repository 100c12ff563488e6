//! How QEMU is to be run.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::{Long, Short, Value};

use crate::id::Name;
use crate::stop::{CodesError, ExitCodes, Plan, PlanError, Plans};
use crate::wire::command_line;

pub(super) const HELP: &str = "\
Runs QEMU in the foreground under any supervisor: a signal to end becomes the
guest's power button, and the exit code says why the virtual machine ended.

Usage: kvmd-run [OPTION...] [--] QEMU [ARGUMENT...]

      --signal=NAME=ACTION[,timeout=SECONDS][,then=ACTION][,again=ACTION]
                       What to do at a signal; can be given for several. ACTION
                       is powerdown (the guest's power button), quit (QEMU
                       flushes its disks and ends), kill, reset, nothing, or
                       monitor:COMMAND (any QMP command, by its name or as
                       JSON). timeout: how long ACTION has before the next one;
                       then: the next one [after powerdown quit, after quit
                       kill]; again: what to do if the same signal comes again
      --stop-timeout=SECONDS
                       How long a stop may take altogether [120]. The guest
                       gets all but the last 15 seconds, at least half
      --continue-to-stop
                       Let a paused guest go on to obey; otherwise it gets quit
      --reboot=WHAT    When the guest reboots: 'qemu' leaves it to QEMU, 'exit'
                       ends QEMU, for the supervisor to start it again [qemu]
      --exit-codes=CAUSE=N[,...]
                       Other exit codes than those below, by the name of the
                       cause, or 'requested', 'forced' or 'orphaned'
      --on-end=COMMAND
                       Run this with /bin/sh at the end; KVMD_CAUSE,
                       KVMD_INITIATOR, KVMD_EXIT_CODE and others say how it was
      --name=NAME      What to call the virtual machine [what QEMU's -name says]
      --records=PATH   Append a record of the end to this file, for
                       kvmd-why --file=PATH
      --end-with-parent
                       Do what TERM does if the process ends that started this
                       one: a supervisor that is killed leaves no guest behind
      --notify-fd=N    Write a line feed to this descriptor when the guest runs
                       (s6); systemd's NOTIFY_SOCKET needs no option
  -h, --help           Print this help
  -V, --version        Print the version

At TERM, RTMIN+3 and RTMIN+4 it does powerdown, then quit, then kill; at INT
the same, and quit if INT comes again; at QUIT and RTMIN+14 quit, then kill; at
RTMIN+15 reset; at HUP, USR1 and USR2 nothing.

Exit status:
  0    its user powered it off, or it ended as it was asked to: leave it down
  133  the guest rebooted, and QEMU is set to end then: start it again
  33   QEMU crashed, failed, was killed or ran out of memory: start it again
  34   the guest panicked            36  its watchdog fired: start it again
  40   an administrator ended it at its monitor or with a signal: leave it down
  41   it was asked to end, and had to be forced: leave it down
  42   its supervisor ended, so it was ended (--end-with-parent): start it again
  50   it is not known why: start it again
  64   the command line is wrong  71  QEMU did not start: start it again later

Examples:
  kvmd-run qemu-system-x86_64 -name web1 -m 1G -drive file=web1.qcow2
  kvmd-run --stop-timeout=30 --records=/var/log/web1.jsonl -- qemu-system-...
  kvmd-run --signal=USR1='monitor:{\"execute\": \"stop\"}' qemu-system-...

It needs no privilege and no configuration. QEMU keeps its own monitors, its
terminal and everything else on its command line; only -daemonize is refused.
";

/// What the user wants.
#[derive(Debug)]
pub(super) enum Invocation {
    Help,
    Version,
    Run(Box<Options>),
}

/// What becomes of QEMU when its guest reboots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Reboot {
    /// What its own command line says.
    #[default]
    Qemu,
    Exit,
}

/// How QEMU is to be run.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) plans: Plans,
    pub(super) stop_timeout: Duration,
    pub(super) continues_to_stop: bool,
    pub(super) reboot: Reboot,
    pub(super) exit_codes: ExitCodes,
    pub(super) on_end: Option<OsString>,
    pub(super) name: Option<Name>,
    pub(super) records: Option<PathBuf>,
    pub(super) ends_with_parent: bool,
    pub(super) notify_fd: Option<i32>,
    /// QEMU's own command line, the program first.
    pub(super) qemu: Vec<OsString>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            plans: Plans::default(),
            stop_timeout: Duration::from_secs(120),
            continues_to_stop: false,
            reboot: Reboot::default(),
            exit_codes: ExitCodes::default(),
            on_end: None,
            name: None,
            records: None,
            ends_with_parent: false,
            notify_fd: None,
            qemu: Vec::new(),
        }
    }
}

impl Options {
    /// QEMU's command line, as `/proc/PID/cmdline` would show it.
    pub(super) fn command_line(&self) -> Vec<u8> {
        let words = self.qemu.iter().map(|word| word.as_bytes());
        words.flat_map(|word| word.iter().copied().chain([0])).collect()
    }

    /// What the virtual machine is called.
    pub(super) fn guest_name(&self) -> Name {
        let command_line = self.command_line();
        let from_qemu = command_line::name(&command_line).and_then(name);
        let program = self.qemu.first().and_then(|program| {
            PathBuf::from(program).file_name().and_then(|program| name(program.as_bytes()))
        });
        let given = self.name.clone().or(from_qemu).or(program);
        given.unwrap_or_else(|| Name::new(b"qemu"))
    }
}

fn name(bytes: &[u8]) -> Option<Name> {
    Name::try_from(bytes.to_vec()).ok()
}

/// Why the command line cannot be understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum UsageError {
    Option(String),
    Signal(PlanError),
    ExitCodes(CodesError),
    Value { option: &'static str, value: String, expected: &'static str },
    NoCommand,
    Daemonize,
    TimeoutTooLong { signal: String, timeout: u64, budget: u64 },
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(error) => f.write_str(error),
            Self::Signal(error) => write!(f, "--signal: {error}"),
            Self::ExitCodes(error) => write!(f, "--exit-codes: {error}"),
            Self::Value { option, value, expected } => {
                write!(f, "invalid value '{value}' for {option}; pass {expected}")
            }
            Self::NoCommand => f.write_str(
                "no command; pass QEMU and its arguments, such as: kvmd-run qemu-system-x86_64 -m 1G ...",
            ),
            Self::Daemonize => f.write_str(
                "QEMU must not go into the background, where it would outlive its supervisor; leave out -daemonize",
            ),
            Self::TimeoutTooLong { signal, timeout, budget } => write!(
                f,
                "--signal: the timeout of {timeout} s for {signal} leaves no time for what comes next; pass less than --stop-timeout, which is {budget} s"
            ),
        }
    }
}

impl std::error::Error for UsageError {}

impl From<lexopt::Error> for UsageError {
    fn from(error: lexopt::Error) -> Self {
        Self::Option(error.to_string())
    }
}

/// Reads the command line, without the program's name.
pub(super) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Invocation, UsageError> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut options = Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("signal") => {
                let text = text("--signal", parser.value()?, "text in UTF-8")?;
                let (signal, plan) = Plan::parse(&text).map_err(UsageError::Signal)?;
                options.plans.set(signal, plan);
            }
            Long("stop-timeout") => options.stop_timeout = stop_timeout(parser.value()?)?,
            Long("continue-to-stop") => options.continues_to_stop = true,
            Long("reboot") => {
                let expected = "'qemu' or 'exit'";
                options.reboot = match &*text("--reboot", parser.value()?, expected)? {
                    "qemu" => Reboot::Qemu,
                    "exit" => Reboot::Exit,
                    other => return Err(refused("--reboot", other, expected)),
                };
            }
            Long("exit-codes") => {
                let text = text("--exit-codes", parser.value()?, "text in UTF-8")?;
                options.exit_codes.change(&text).map_err(UsageError::ExitCodes)?;
            }
            Long("on-end") => options.on_end = Some(parser.value()?),
            Long("name") => {
                let value = parser.value()?;
                let given = name(value.as_bytes());
                options.name = Some(given.ok_or_else(|| {
                    refused("--name", &value.to_string_lossy(), "a name without a slash")
                })?);
            }
            Long("records") => options.records = Some(parser.value()?.into()),
            Long("end-with-parent") => options.ends_with_parent = true,
            Long("notify-fd") => {
                let expected = "the number of an open descriptor, 3 or more";
                let value = text("--notify-fd", parser.value()?, expected)?;
                let number = value.parse().ok().filter(|&number| number > 2);
                options.notify_fd =
                    Some(number.ok_or_else(|| refused("--notify-fd", &value, expected))?);
            }
            Short('h') | Long("help") => return Ok(Invocation::Help),
            Short('V') | Long("version") => return Ok(Invocation::Version),
            Value(program) => {
                options.qemu.push(program);
                options.qemu.extend(parser.raw_args()?);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    conclude(options)
}

/// What can only be said when all of it is known.
fn conclude(options: Options) -> Result<Invocation, UsageError> {
    if options.qemu.is_empty() {
        return Err(UsageError::NoCommand);
    }
    if command_line::has_daemonize(&options.command_line()) {
        return Err(UsageError::Daemonize);
    }
    if let Some((signal, timeout)) = options.plans.longer_than(options.stop_timeout) {
        return Err(UsageError::TimeoutTooLong {
            signal: signal.to_string(),
            timeout: timeout.as_secs(),
            budget: options.stop_timeout.as_secs(),
        });
    }
    Ok(Invocation::Run(Box::new(options)))
}

fn stop_timeout(value: OsString) -> Result<Duration, UsageError> {
    /// No supervisor waits for longer than a day, and times stay far from where they could overflow.
    const MOST: u64 = 86_400;
    let expected = "a whole number of seconds, 1 to 86400";
    let value = text("--stop-timeout", value, expected)?;
    match value.parse() {
        Ok(seconds @ 1..=MOST) => Ok(Duration::from_secs(seconds)),
        _ => Err(refused("--stop-timeout", &value, expected)),
    }
}

fn text(
    option: &'static str,
    value: OsString,
    expected: &'static str,
) -> Result<String, UsageError> {
    let refuse = |value: OsString| refused(option, &value.to_string_lossy(), expected);
    value.into_string().map_err(refuse)
}

fn refused(option: &'static str, value: &str, expected: &'static str) -> UsageError {
    UsageError::Value { option, value: value.into(), expected }
}

/// The words after the program's, for a message.
pub(super) fn program(qemu: &[OsString]) -> &OsStr {
    qemu.first().map(OsString::as_os_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(line: &str) -> Result<Invocation, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn options(line: &str) -> Options {
        match read(line) {
            Ok(Invocation::Run(options)) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn qemus_arguments_are_its_own() {
        let read = options("--reboot=exit --name web2 qemu -name web1 --help -- -V");
        assert_eq!(read.qemu, ["qemu", "-name", "web1", "--help", "--", "-V"]);
        assert_eq!(read.reboot, Reboot::Exit);
        assert_eq!(read.guest_name(), Name::new(b"web2"));
        assert_eq!(options("-- --odd -m 1").qemu, ["--odd", "-m", "1"]);
    }

    #[test]
    fn a_guest_is_called_what_qemu_calls_it_or_by_the_program() {
        assert_eq!(options("qemu -name guest=web1,process=x").guest_name(), Name::new(b"web1"));
        assert_eq!(options("/usr/bin/qemu-kvm").guest_name(), Name::new(b"qemu-kvm"));
        assert_eq!(options("qemu -name a/b").guest_name(), Name::new(b"qemu"));
    }

    #[test]
    fn every_mistake_says_what_to_pass() {
        for (line, said) in [
            ("", "no command; pass QEMU"),
            ("--", "no command"),
            ("--nonsense qemu", "invalid option '--nonsense'"),
            ("--signal=TERM=stop qemu", "--signal: there is no action \"stop\"; pass powerdown"),
            ("--signal=FOO=quit qemu", "--signal: there is no signal \"FOO\""),
            ("--stop-timeout=0 qemu", "'0' for --stop-timeout; pass a whole number"),
            ("--stop-timeout=99999999999999999999 qemu", "for --stop-timeout"),
            ("--reboot=maybe qemu", "'maybe' for --reboot; pass 'qemu' or 'exit'"),
            ("--exit-codes=x=1 qemu", "--exit-codes: there is no cause"),
            ("--name=a/b qemu", "without a slash"),
            ("--name= qemu", "for --name"),
            ("--notify-fd=2 qemu", "3 or more"),
            ("--notify-fd=x qemu", "3 or more"),
            (
                "--signal=TERM=powerdown,timeout=200 qemu",
                "pass less than --stop-timeout, which is 120 s",
            ),
            ("qemu -daemonize", "leave out -daemonize"),
            ("qemu --daemonize -m 1", "leave out -daemonize"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(said), "{line}: {error}");
        }
    }

    #[test]
    fn the_help_fits_a_terminal_and_needs_no_command() {
        assert!(HELP.lines().all(|line| line.len() <= 80));
        assert!(matches!(read("--help --nonsense"), Ok(Invocation::Help)));
        assert!(matches!(read("-V"), Ok(Invocation::Version)));
    }

    proptest! {
        #[test]
        fn no_words_make_the_parser_panic(words in prop::collection::vec("(--(signal|stop-timeout|exit-codes|notify-fd|reboot|name|on-end)=?)?[a-zA-Z0-9=,:{}\"+-]{0,20}", 0..5)) {
            if let Err(error) = parse(words.into_iter().map(OsString::from)) {
                prop_assert!(!error.to_string().contains('\n'));
            }
        }
    }
}
