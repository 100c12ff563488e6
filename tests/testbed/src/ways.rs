//! The ways in which a virtual machine ends, and what is right about each.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::{Daemon, Guest, Node, Signal};

/// A way to end.
#[derive(Debug)]
pub struct Way {
    pub name: &'static str,
    /// What is done to it, for a table.
    pub deed: &'static str,
    /// More arguments for QEMU.
    pub arguments: &'static str,
    /// Ends it. The daemon watches it, with [`OPTIONS`] or as the original.
    pub end: fn(&mut Guest, &Daemon),
    /// What is right, in this program's words.
    pub cause: &'static str,
    pub initiator: &'static str,
    /// Whether the original takes it for the user's doing (`ganeti-haskell-3.0`, measured).
    pub original_says_user: bool,
}

impl Way {
    /// Whether the user did it, and the file is to be there.
    #[must_use]
    pub fn is_users(&self) -> bool {
        self.initiator == "user"
    }

    /// What is left of the verdict where the kernel does not tell how processes end: cause and
    /// initiator.
    #[must_use]
    pub fn verdict_without_status(&self) -> (&'static str, &'static str) {
        match self.cause {
            "killed" | "crashed" => ("unknown", "unknown"),
            cause => (cause, self.initiator),
        }
    }
}

/// How long a powerdown request counts with [`OPTIONS`].
const POWERDOWN_WINDOW: Duration = Duration::from_secs(2);

/// What the debug log has of a powerdown request that the daemon has heard of.
const POWERDOWN: &str = "\"POWERDOWN\"";

/// What this program is to be started with, so that the way that outlasts a powerdown request
/// takes seconds instead of an hour, and can tell from the debug log when these begin.
pub const OPTIONS: [&str; 2] = ["-d", "--powerdown-window=2"];

/// Which of the two programs is played on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Ours,
    Theirs,
}

/// A guest that is going to end, and the daemon that watches it.
#[derive(Debug)]
pub struct WatchedGuest {
    pub guest: Guest,
    pub daemon: Daemon,
}

impl WatchedGuest {
    /// Starts the daemon and boots a guest under its eyes. The original loses some: those are
    /// booted again.
    #[must_use]
    pub fn boot(node: &Node, subject: Subject, name: &str, arguments: &str) -> Self {
        let options: &[&str] = match subject {
            Subject::Ours => &OPTIONS,
            Subject::Theirs => &["-d"],
        };
        for _ in 0..10 {
            let daemon = node.start_with(options);
            let guest = node.guest(name).with(arguments).boot();
            // Both say so, in debug mode, when QEMU has answered; only the original gives up.
            let answered = "Receive QMP message: {\"return\": {}}";
            let line = daemon.await_any_line(&[answered, "Catch monitor exception"]);
            if line.contains(answered) {
                return Self { guest, daemon };
            }
            // What a killed QEMU leaves behind would be tried by the next daemon.
            drop(guest);
            fs::remove_file(node.socket(name)).expect("remove a stale socket");
        }
        panic!("{subject:?} lost ten instances in a row");
    }

    /// Ends it in this way, and waits until the daemon is done with it. Returns the daemon.
    pub fn end(mut self, way: &Way) -> Daemon {
        (way.end)(&mut self.guest, &self.daemon);
        self.guest.wait();
        self.daemon.await_line("Stop monitor");
        self.daemon
    }
}

const fn way(
    name: &'static str,
    deed: &'static str,
    arguments: &'static str,
    (cause, initiator, original_says_user): (&'static str, &'static str, bool),
    end: fn(&mut Guest, &Daemon),
) -> Way {
    Way { name, deed, arguments, end, cause, initiator, original_says_user }
}

const USER: bool = true;
const NOT_USER: bool = false;

/// All of them.
pub const WAYS: [Way; 21] = [
    way("poweroff", "the guest powers off", "", ("guest-shutdown", "user", USER), |guest, _| {
        guest.tell(b'p');
    }),
    way("hibernate", "the guest hibernates", "", ("guest-shutdown", "user", USER), |guest, _| {
        guest.tell(b'h');
    }),
    way(
        "powerdown",
        "powerdown request, obeyed",
        "",
        ("powerdown", "admin", NOT_USER),
        |guest, _| {
            guest.execute(&["system_powerdown"]);
        },
    ),
    way("sigterm", "SIGTERM", "", ("host-signal", "admin", USER), |guest, _| {
        guest.signal(Signal::TERM);
    }),
    way("sigint", "SIGINT", "", ("host-signal", "admin", USER), |guest, _| {
        guest.signal(Signal::INT);
    }),
    way("sighup", "SIGHUP", "", ("host-signal", "admin", USER), |guest, _| {
        guest.signal(Signal::HUP);
    }),
    way("quit", "monitor command: quit", "", ("host-qmp-quit", "admin", USER), |guest, _| {
        guest.execute(&["quit"]);
    }),
    way(
        "panic",
        "guest panic (pvpanic)",
        "-device pvpanic",
        ("guest-panic", "crash", USER),
        |guest, _| {
            guest.tell(b'c');
        },
    ),
    way(
        "panicked",
        "panics, goes on after stop, cont; resets",
        "-device pvpanic -action panic=none -no-reboot",
        ("guest-panic", "crash", NOT_USER),
        |guest, _| {
            guest.tell(b'c');
            guest.await_answer();
            guest.execute(&["stop", "cont"]);
            guest.tell(b'r');
        },
    ),
    way(
        "crashkernel",
        "panics, its crash kernel resets",
        "-device pvpanic -no-reboot",
        ("guest-panic", "crash", USER),
        |guest, _| {
            guest.tell(b'k');
            guest.tell(b'r');
        },
    ),
    way(
        "guestreset",
        "guest resets, -no-reboot",
        "-no-reboot",
        ("guest-reset", "user", USER),
        |guest, _| {
            guest.tell(b'r');
        },
    ),
    way(
        "hostreset",
        "host resets it, -no-reboot",
        "-no-reboot",
        ("host-qmp-system-reset", "admin", USER),
        |guest, _| {
            guest.execute(&["system_reset"]);
        },
    ),
    way(
        "rebooted",
        "reboots at a request, later powers off",
        "",
        ("guest-shutdown", "user", NOT_USER),
        |guest, _| {
            guest.deafen();
            guest.execute(&["system_powerdown"]);
            guest.tell(b'r');
            guest.await_reboot();
            guest.tell(b'p');
        },
    ),
    way(
        "ignored",
        "ignores a request, later powers off",
        "",
        ("guest-shutdown", "user", NOT_USER),
        |guest, daemon| {
            guest.deafen();
            let heard = daemon.count(POWERDOWN);
            guest.execute(&["system_powerdown"]);
            // It counts from when the daemon hears of it.
            daemon.await_lines(POWERDOWN, heard + 1);
            thread::sleep(POWERDOWN_WINDOW + Duration::from_secs(1));
            guest.tell(b'p');
        },
    ),
    way(
        "stopcont",
        "stop, cont, then it powers off",
        "",
        ("guest-shutdown", "user", NOT_USER),
        |guest, _| {
            guest.execute(&["stop", "cont"]);
            guest.tell(b'p');
        },
    ),
    way(
        "woken",
        "is suspended, wakes, powers off",
        "",
        ("guest-shutdown", "user", USER),
        |guest, _| {
            guest.suspend();
            guest.wake();
            guest.tell(b'p');
        },
    ),
    way("sigkill", "SIGKILL", "", ("killed", "admin", NOT_USER), |guest, _| {
        guest.signal(Signal::KILL);
    }),
    way("sigsegv", "SIGSEGV", "", ("crashed", "crash", NOT_USER), |guest, _| {
        guest.signal(Signal::SEGV);
    }),
    way("sigabrt", "SIGABRT", "", ("crashed", "crash", NOT_USER), |guest, _| {
        guest.signal(Signal::ABORT);
    }),
    way(
        "watchdog",
        "watchdog, action poweroff",
        "-device ib700 -watchdog-action poweroff",
        ("watchdog", "crash", NOT_USER),
        |guest, _| {
            guest.tell(b'w');
        },
    ),
    way(
        "watchdogreset",
        "watchdog, action reset, -no-reboot",
        "-device ib700 -watchdog-action reset -no-reboot",
        ("watchdog", "crash", USER),
        |guest, _| {
            guest.tell(b'w');
        },
    ),
];
