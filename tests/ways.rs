//! The ways in which a virtual machine ends, and what is right about each.

use testbed::{Daemon, Guest, Signal};

/// A way to end.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    /// What is done to it, for a table.
    pub(crate) deed: &'static str,
    /// More arguments for QEMU.
    pub(crate) arguments: &'static str,
    pub(crate) end: fn(&mut Guest, &Daemon),
    pub(crate) cause: &'static str,
    pub(crate) initiator: &'static str,
    /// Whether the original takes it for the user's doing.
    pub(crate) original_says_user: bool,
}

impl Way {
    /// Whether the user did it, and the file is to be there.
    pub(crate) fn is_users(&self) -> bool {
        self.initiator == "user"
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

pub(crate) const WAYS: [Way; 17] = [
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
        "reboots when asked to stop, later powers off",
        "",
        ("guest-shutdown", "user", NOT_USER),
        |guest, daemon| {
            guest.deafen();
            guest.execute(&["system_powerdown"]);
            daemon.await_line("\"POWERDOWN\"");
            guest.tell(b'r');
            guest.await_reboot();
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
