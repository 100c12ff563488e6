//! The demonstration behind `make demo`: real QEMU guests die in ten ways, and the daemon says
//! why, whose doing it was, and how early it knew.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use testbed::{Daemon, Guest, Node, Seen, Signal, Witness};

/// A way to die.
struct Way {
    name: &'static str,
    /// What is done to it, for the table.
    deed: &'static str,
    /// More arguments for QEMU.
    arguments: &'static str,
    end: fn(&mut Guest),
    cause: &'static str,
    initiator: &'static str,
    file: bool,
    /// What is left of the verdict if the kernel does not tell how processes end.
    reduced: Option<(&'static str, &'static str)>,
}

const WAYS: [Way; 10] = [
    Way {
        name: "web1",
        deed: "the guest powers off",
        arguments: "",
        end: |guest| guest.tell(b'p'),
        cause: "guest-shutdown",
        initiator: "user",
        file: true,
        reduced: None,
    },
    Way {
        name: "web2",
        deed: "powerdown request, obeyed",
        arguments: "",
        end: |guest| guest.execute(&["system_powerdown"]),
        cause: "powerdown",
        initiator: "admin",
        file: false,
        reduced: None,
    },
    Way {
        name: "web3",
        deed: "SIGTERM",
        arguments: "",
        end: |guest| guest.signal(Signal::TERM),
        cause: "host-signal",
        initiator: "admin",
        file: false,
        reduced: None,
    },
    Way {
        name: "web4",
        deed: "SIGKILL",
        arguments: "",
        end: |guest| guest.signal(Signal::KILL),
        cause: "killed",
        initiator: "admin",
        file: false,
        reduced: Some(("unknown", "unknown")),
    },
    Way {
        name: "web5",
        deed: "SIGSEGV",
        arguments: "",
        end: |guest| guest.signal(Signal::SEGV),
        cause: "crashed",
        initiator: "crash",
        file: false,
        reduced: Some(("unknown", "unknown")),
    },
    Way {
        name: "web6",
        deed: "guest panic (pvpanic)",
        arguments: "-device pvpanic",
        end: |guest| guest.tell(b'c'),
        cause: "guest-panic",
        initiator: "crash",
        file: false,
        reduced: None,
    },
    Way {
        name: "web7",
        deed: "guest resets, -no-reboot",
        arguments: "-no-reboot",
        end: |guest| guest.tell(b'r'),
        cause: "guest-reset",
        initiator: "user",
        file: true,
        reduced: None,
    },
    Way {
        name: "web8",
        deed: "monitor command: quit",
        arguments: "",
        end: |guest| guest.execute(&["quit"]),
        cause: "host-qmp-quit",
        initiator: "admin",
        file: false,
        reduced: None,
    },
    Way {
        name: "web9",
        deed: "stop, cont, then it powers off",
        arguments: "",
        end: |guest| {
            guest.execute(&["stop", "cont"]);
            guest.tell(b'p');
        },
        cause: "guest-shutdown",
        initiator: "user",
        file: true,
        reduced: None,
    },
    Way {
        name: "web10",
        deed: "watchdog, action poweroff",
        arguments: "-device ib700 -watchdog-action poweroff",
        end: |guest| guest.tell(b'w'),
        cause: "watchdog",
        initiator: "crash",
        file: false,
        reduced: None,
    },
];

fn main() -> ExitCode {
    let node = Node::new(daemon_program());
    println!("A node of its own below {}.", node.root().display());
    let daemon = node.start();
    println!("The daemon runs (pid {}).", daemon.pid());
    let is_reduced = daemon.count("proc connector is not available") > 0;
    if is_reduced {
        println!("{}", daemon.await_line("proc connector is not available"));
        println!(
            "So SIGKILL and SIGSEGV will show as unknown. As root, and outside of containers, they are told apart."
        );
    }

    let mut table = String::from(
        "\ninstance  what was done to it             cause           initiator  file  before the end\n",
    );
    let mut wrong = 0;
    for way in &WAYS {
        let (row, is_right) = play(&node, &daemon, way, is_reduced);
        table.push_str(&row);
        wrong += usize::from(!is_right);
    }
    println!("{table}");
    let stopped = daemon.stop();
    println!("The daemon has ended ({stopped}); the node is removed.");
    if wrong == 0 {
        println!("All {} verdicts are right.", WAYS.len());
        ExitCode::SUCCESS
    } else {
        println!("{wrong} of {} verdicts are WRONG.", WAYS.len());
        ExitCode::FAILURE
    }
}

/// Boots a guest, lets it die, and compares the verdict with what is right.
fn play(node: &Node, daemon: &Daemon, way: &Way, is_reduced: bool) -> (String, bool) {
    println!("{}: booting QEMU, then: {} ...", way.name, way.deed);
    let mut guest = node.guest(way.name).with(way.arguments).boot();
    daemon.await_line(&format!("Instance \"{}\" (pid {}) is connected", way.name, guest.pid()));
    let witness = Witness::new(node, way.name, guest.pid());
    (way.end)(&mut guest);
    let seen = witness.observe();
    guest.wait();
    let death = daemon.await_death(way.name);
    println!("  {}", death.line);

    let file = node.has_shutdown_file(way.name);
    let (cause, initiator) =
        way.reduced.filter(|_| is_reduced).unwrap_or((way.cause, way.initiator));
    let is_right = death.cause == cause
        && death.initiator == initiator
        && file == way.file
        && seen.file_at_the_end == way.file;
    let mut row = format!(
        "{:<8}  {:<30}  {:<14}  {:<9}  {:<4}  {}",
        way.name,
        way.deed,
        death.cause,
        death.initiator,
        if file { "yes" } else { "no" },
        lead(seen),
    );
    if !is_right {
        let expected = if way.file { "a file" } else { "no file" };
        let _ = write!(row, "  WRONG: should be {cause}, {initiator}, {expected}");
    }
    row.push('\n');
    (row, is_right)
}

/// For how long the file had been there when the process was dead.
fn lead(seen: Seen) -> String {
    let in_ms = |lead: Duration| format!("{:.1} ms", lead.as_secs_f64() * 1000.0);
    seen.lead.map_or_else(|| "-".into(), in_ms)
}

/// The daemon's program, built beside this one.
fn daemon_program() -> PathBuf {
    let this = std::env::current_exe().expect("this program's path");
    let examples = this.parent().expect("the directory of the examples");
    examples.with_file_name("ganeti-kvmd")
}
