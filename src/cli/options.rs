//! The options: how each is spelt, what the help says of it, and what it does.
//!
//! One entry has all of it, so that there can be no option in the help that is read and then
//! passed over.

use std::path::PathBuf;
use std::time::Duration;

use super::{Reading, Syslog};
use crate::verdict::{GuestReset, SignalShutdown};

/// An option.
pub(super) struct Opt {
    pub(super) short: Option<char>,
    pub(super) long: &'static str,
    pub(super) effect: Effect,
    pub(super) help: &'static str,
}

/// What an option does.
pub(super) enum Effect {
    Flag(fn(&mut Reading)),
    /// It takes a value.
    With(Value),
}

/// The value that an option takes, and what is done with it.
pub(super) enum Value {
    /// One of a few words. Before them, what the help calls it.
    OneOf(&'static str, &'static [Choice]),
    Seconds(fn(&mut Reading, u64)),
    Path(fn(&mut Reading, PathBuf)),
}

type Choice = (&'static str, fn(&mut Reading));

impl Value {
    /// What the help calls it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::OneOf(name, _) => name,
            Self::Seconds(_) => "SECONDS",
            Self::Path(_) => "PATH",
        }
    }
}

impl Effect {
    /// What the shell's completion may offer, in the notation of Ganeti's build.
    pub(super) fn completion(&self) -> String {
        match self {
            Self::Flag(_) => "none".into(),
            Self::With(Value::OneOf(_, choices)) => {
                let choices: Vec<&str> = choices.iter().map(|(choice, _)| *choice).collect();
                format!("choices={}", choices.join(","))
            }
            Self::With(Value::Seconds(_)) => "integer".into(),
            Self::With(Value::Path(_)) => "file".into(),
        }
    }
}

const fn flag(
    short: Option<char>,
    long: &'static str,
    help: &'static str,
    set: fn(&mut Reading),
) -> Opt {
    Opt { short, long, effect: Effect::Flag(set), help }
}

/// Ganeti's own, in its order and its words.
pub(super) static GANETIS: [Opt; 7] = [
    flag(Some('f'), "foreground", "Don't detach from the current terminal", |reading| {
        reading.options.foreground = true;
    }),
    flag(None, "no-user-checks", "Ignore user checks", |reading| {
        reading.options.no_user_checks = true;
    }),
    flag(Some('d'), "debug", "Enable debug messages", |reading| reading.options.debug = true),
    Opt {
        short: None,
        long: "syslog",
        effect: Effect::With(Value::OneOf(
            "SYSLOG",
            &[
                ("yes", |reading| reading.options.syslog = Syslog::Yes),
                ("no", |reading| reading.options.syslog = Syslog::No),
                ("only", |reading| reading.options.syslog = Syslog::Only),
            ],
        )),
        help: "Enable logging to syslog (except debug messages); one of 'no', 'yes' or 'only' [no]",
    },
    flag(Some('h'), "help", "show help", |reading| reading.wants_help = true),
    flag(Some('V'), "version", "show the version of the program", |reading| {
        reading.wants_version = true;
    }),
    flag(None, "help-completion", "show completion info", |reading| {
        reading.wants_completion = true;
    }),
];

/// Those that only this program has.
pub(super) static OURS: [Opt; 8] = [
    Opt {
        short: None,
        long: "guest-reset",
        effect: Effect::With(Value::OneOf(
            "READING",
            &[
                ("user", |reading| reading.options.settings.guest_reset = GuestReset::User),
                ("restart", |reading| reading.options.settings.guest_reset = GuestReset::Restart),
            ],
        )),
        help: "How to treat a guest that resets itself where Ganeti does not let it reboot \
               (reboot_behavior=exit): 'user' as a shutdown by the user, 'restart' as a request to \
               be restarted [user]",
    },
    Opt {
        short: None,
        long: "signal-shutdown",
        effect: Effect::With(Value::OneOf(
            "READING",
            &[
                ("admin", |reading| {
                    reading.options.settings.signal_shutdown = SignalShutdown::Admin;
                }),
                ("user", |reading| {
                    reading.options.settings.signal_shutdown = SignalShutdown::User;
                }),
            ],
        )),
        help: "Who is responsible when a signal asks QEMU to end (SIGTERM, SIGINT, SIGHUP): \
               'admin', an administrator, or 'user', the instance's user, which Ganeti's own tests \
               expect [admin]",
    },
    Opt {
        short: None,
        long: "powerdown-window",
        effect: Effect::With(Value::Seconds(|reading, seconds| {
            let window = (seconds > 0).then(|| Duration::from_secs(seconds));
            reading.options.settings.powerdown_window = window;
        })),
        help: "How long a powerdown request explains a shutdown of the guest; 0: forever [3600]",
    },
    Opt {
        short: None,
        long: "doubt-window",
        effect: Effect::With(Value::Seconds(|reading, seconds| {
            reading.options.settings.doubt_window = Duration::from_secs(seconds);
        })),
        help: "For how long after nobody was listening (the daemon was down, or another client held \
               the connection) a guest's shutdown is not put down to its user: it may be the answer \
               to a request that was not heard. With 0 it always is the user's, and the record says \
               what was not heard [0]",
    },
    Opt {
        short: None,
        long: "metrics-file",
        effect: Effect::With(Value::Path(|reading, path| {
            reading.options.metrics_file = Some(path);
        })),
        help: "Write metrics to PATH in Prometheus's text format, for node_exporter's textfile \
               collector (PATH must end in .prom)",
    },
    flag(
        None,
        "take-over",
        "Replace the running daemon and inherit its connections, so that nothing is missed \
         (after an upgrade); where a service manager keeps them, restart the service instead",
        |reading| reading.options.takes_over = true,
    ),
    flag(
        None,
        "check",
        "Look at this node and print what will work, what is limited, and what to do; the \
         exit code is 1 if something is wrong",
        |reading| reading.wants_check = true,
    ),
    flag(None, "no-sandbox", "Keep all capabilities and system calls, for debugging", |reading| {
        reading.options.no_sandbox = true;
    }),
];
