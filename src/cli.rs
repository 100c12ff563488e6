//! The command line.

use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

use lexopt::prelude::{Long, Short, ValueExt};

use crate::verdict::{GuestReset, Settings, SignalShutdown};

/// What the user wants.
#[derive(Debug)]
pub enum Command {
    Help,
    Version,
    Run(Options),
}

/// How the daemon is to run.
#[derive(Debug, Default)]
pub struct Options {
    pub foreground: bool,
    pub debug: bool,
    pub no_user_checks: bool,
    pub settings: Settings,
}

/// The command line cannot be understood.
#[derive(Debug)]
pub struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

impl From<lexopt::Error> for UsageError {
    fn from(error: lexopt::Error) -> Self {
        Self(error.to_string())
    }
}

pub const HELP: &str = "\
Usage: ganeti-kvmd [OPTION...]
Watches the KVM instances of this node and tells Ganeti which of them their own
users have shut down: those get a file NAME.shutdown in the KVM control directory.
For every instance that ends, the log says why, and whose doing it was.

  -f  --foreground       Don't detach from the current terminal
      --no-user-checks   Ignore user checks
  -d  --debug            Enable debug messages
  -h  --help             show help
  -V  --version          show the version of the program

How to read what can be read in two ways:
      --guest-reset=READING       A guest that resets itself and is not to reboot
                                  (reboot_behavior=exit): 'user' takes it for a
                                  user's shutdown, 'restart' for a wish to be
                                  started again [user]
      --signal-shutdown=READING   A signal that asks QEMU to end (SIGTERM, SIGINT,
                                  SIGHUP): 'admin' takes it for an administrator's
                                  doing, 'user' for a user's shutdown, as Ganeti's
                                  own tests expect [admin]
      --powerdown-window=SECONDS  For how long a powerdown request explains that
                                  the guest shuts down; 0: for ever [3600]
";

/// Reads the command line, without the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut options = Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            Short('f') | Long("foreground") => options.foreground = true,
            Short('d') | Long("debug") => options.debug = true,
            Long("no-user-checks") => options.no_user_checks = true,
            Long("guest-reset") => {
                let readings = [("user", GuestReset::User), ("restart", GuestReset::Restart)];
                options.settings.guest_reset = choose("guest-reset", &mut parser, readings)?;
            }
            Long("signal-shutdown") => {
                let readings = [("admin", SignalShutdown::Admin), ("user", SignalShutdown::User)];
                options.settings.signal_shutdown =
                    choose("signal-shutdown", &mut parser, readings)?;
            }
            Long("powerdown-window") => {
                let seconds: u64 = parser.value()?.parse()?;
                options.settings.powerdown_window =
                    Some(seconds).filter(|&seconds| seconds != 0).map(Duration::from_secs);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Command::Run(options))
}

/// One of two readings.
fn choose<T: Copy>(
    option: &str,
    parser: &mut lexopt::Parser,
    readings: [(&str, T); 2],
) -> Result<T, UsageError> {
    let value = parser.value()?.string()?;
    let [(first, _), (second, _)] = readings;
    readings.iter().find(|(name, _)| *name == value).map(|&(_, reading)| reading).ok_or_else(|| {
        UsageError(format!("--{option} is either '{first}' or '{second}', not '{value}'"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Options {
        match parse(arguments.iter().map(OsString::from)) {
            Ok(Command::Run(options)) => options,
            other => panic!("{arguments:?}: {other:?}"),
        }
    }

    fn error(arguments: &[&str]) -> String {
        parse(arguments.iter().map(OsString::from)).unwrap_err().to_string()
    }

    #[test]
    fn by_default_signals_are_the_administrators_and_resets_the_users() {
        let settings = options(&[]).settings;
        assert_eq!(settings.signal_shutdown, SignalShutdown::Admin);
        assert_eq!(settings.guest_reset, GuestReset::User);
        assert_eq!(settings.powerdown_window, Some(Duration::from_secs(3600)));
    }

    #[test]
    fn each_reading_can_be_chosen() {
        let settings = options(&["--signal-shutdown=user", "--guest-reset", "restart"]).settings;
        assert_eq!(settings.signal_shutdown, SignalShutdown::User);
        assert_eq!(settings.guest_reset, GuestReset::Restart);
        assert_eq!(options(&["--powerdown-window=0"]).settings.powerdown_window, None);
    }

    #[test]
    fn short_options_can_be_bundled() {
        let options = options(&["-fd", "--no-user-checks"]);
        assert!(options.foreground && options.debug && options.no_user_checks);
    }

    #[test]
    fn an_error_names_the_option_and_the_remedy() {
        let text = error(&["--signal-shutdown=guest"]);
        assert_eq!(text, "--signal-shutdown is either 'admin' or 'user', not 'guest'");
        assert!(error(&["--powerdown-window=-1"]).contains("-1"));
        assert!(error(&["--nonsense"]).contains("--nonsense"));
        assert!(error(&["web1"]).contains("web1"));
    }
}
