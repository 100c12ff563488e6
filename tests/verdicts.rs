//! Each way in which a real QEMU ends, and what the daemon makes of it.

use std::fs;
use std::thread;
use std::time::Duration;

use testbed::{Daemon, Guest, Node, Signal, StandIn, Witness, execute_qmp, figure, needs};

/// What is to come of it: the cause, the initiator, and whether there is a file.
type Expected = (&'static str, &'static str, bool);

const USER: bool = true;
const NOBODY: bool = false;

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

/// Boots a guest with these arguments for QEMU, lets it end, and looks at the outcome.
fn verdict(arguments: &str, end: impl FnOnce(&mut Guest), expected: Expected) {
    verdict_with(&[], arguments, end, expected);
}

fn verdict_with(
    options: &[&str],
    arguments: &str,
    end: impl FnOnce(&mut Guest),
    expected: Expected,
) {
    let line = judged(options, arguments, end, expected);
    assert!(!line.contains("not known"), "{line}");
}

/// A guest that has panicked and had its CPUs started again may be another since: a snapshot that
/// is loaded looks just like that. The verdict stands, and the record says so.
fn verdict_after_a_panic(arguments: &str, end: impl FnOnce(&mut Guest)) {
    let line = judged(&[], arguments, end, ("guest-panic", "crash", NOBODY));
    assert!(line.ends_with("not known: whether a snapshot was loaded after the panic"), "{line}");
}

/// Boots a guest, has it end and checks the verdict and the file. Gives the log's line.
fn judged(
    options: &[&str],
    arguments: &str,
    end: impl FnOnce(&mut Guest),
    (cause, initiator, file): Expected,
) -> String {
    let node = node();
    let daemon = node.start_with(options);
    let mut guest = node.guest("web1").with(arguments).boot();
    daemon.await_line("is connected and running");
    let witness = Witness::new(&node, "web1", guest.pid());
    end(&mut guest);
    let seen = witness.observe();
    let death = daemon.await_death("web1");
    assert_eq!((&*death.cause, &*death.initiator), (cause, initiator), "{}", death.line);
    assert!(death.line.contains(&format!("(pid {})", guest.pid())), "{}", death.line);
    assert_eq!(seen.file_at_the_end, file, "when the process was dead: {}", death.line);
    assert_eq!(node.has_shutdown_file("web1"), file, "afterwards: {}", death.line);
    death.line
}

/// Waits for the end of an instance and checks the verdict and the file.
fn has_ended(node: &Node, daemon: &Daemon, name: &str, (cause, initiator, file): Expected) {
    let death = daemon.await_death(name);
    assert_eq!((&*death.cause, &*death.initiator), (cause, initiator), "{}", death.line);
    assert_eq!(node.has_shutdown_file(name), file, "{}", death.line);
}

#[test]
fn guest_powers_off() {
    needs!(Qemu, Root);
    verdict("", |guest| guest.tell(b'p'), ("guest-shutdown", "user", USER));
}

#[test]
fn guest_hibernates() {
    needs!(Qemu, Root);
    verdict("", |guest| guest.tell(b'h'), ("guest-shutdown", "user", USER));
}

#[test]
fn guest_obeys_a_powerdown_request() {
    needs!(Qemu, Root);
    verdict("", |guest| guest.execute(&["system_powerdown"]), ("powerdown", "admin", NOBODY));
}

#[test]
fn sigterm() {
    needs!(Qemu, Root);
    verdict("", |guest| guest.signal(Signal::TERM), ("host-signal", "admin", NOBODY));
}

#[test]
fn sigint() {
    needs!(Qemu, Root);
    verdict("", |guest| guest.signal(Signal::INT), ("host-signal", "admin", NOBODY));
}

#[test]
fn sighup() {
    needs!(Qemu, Root);
    verdict("", |guest| guest.signal(Signal::HUP), ("host-signal", "admin", NOBODY));
}

#[test]
fn sigterm_while_paused() {
    needs!(Qemu, Root);
    let end = |guest: &mut Guest| {
        guest.execute(&["stop"]);
        guest.signal(Signal::TERM);
    };
    verdict("", end, ("host-signal", "admin", NOBODY));
}

#[test]
fn sigterm_read_as_the_users_as_in_ganetis_own_tests() {
    needs!(Qemu, Root);
    let options = ["--signal-shutdown=user"];
    let end = |guest: &mut Guest| guest.signal(Signal::TERM);
    verdict_with(&options, "", end, ("host-signal", "user", USER));
}

#[test]
fn monitor_quit() {
    needs!(Qemu, Root);
    verdict("", |guest| guest.execute(&["quit"]), ("host-qmp-quit", "admin", NOBODY));
}

#[test]
fn sigkill() {
    needs!(Qemu, Root);
    verdict("", |guest| guest.signal(Signal::KILL), ("killed", "admin", NOBODY));
}

#[test]
fn sigsegv() {
    needs!(Qemu, Root);
    verdict("", |guest| guest.signal(Signal::SEGV), ("crashed", "crash", NOBODY));
}

#[test]
fn sigabrt() {
    needs!(Qemu, Root);
    verdict("", |guest| guest.signal(Signal::ABORT), ("crashed", "crash", NOBODY));
}

#[test]
fn sigbus() {
    needs!(Qemu, Root);
    verdict("", |guest| guest.signal(Signal::BUS), ("crashed", "crash", NOBODY));
}

#[test]
fn guest_panics() {
    needs!(Qemu, Root);
    verdict("-device pvpanic", |guest| guest.tell(b'c'), ("guest-panic", "crash", NOBODY));
}

#[test]
fn guest_panics_and_qemu_exits_with_1() {
    needs!(Qemu, Root);
    let arguments = "-device pvpanic -action panic=exit-failure";
    verdict(arguments, |guest| guest.tell(b'c'), ("guest-panic", "crash", NOBODY));
}

const GOES_ON: &str = "-device pvpanic -no-reboot -action panic=none";

#[test]
fn guest_panics_and_goes_on_and_resets() {
    needs!(Qemu, Root);
    let end = |guest: &mut Guest| {
        guest.tell(b'c');
        guest.tell(b'r');
    };
    verdict(GOES_ON, end, ("guest-panic", "crash", NOBODY));
}

/// Pausing a guest and letting it go on does not heal it.
#[test]
fn guest_panics_and_goes_on_after_a_stop_and_cont_and_resets() {
    needs!(Qemu, Root);
    let end = |guest: &mut Guest| {
        guest.tell(b'c');
        guest.await_answer();
        guest.execute(&["stop", "cont"]);
        guest.tell(b'r');
    };
    verdict_after_a_panic(GOES_ON, end);
}

#[test]
fn guest_panics_and_goes_on_after_a_stop_and_cont_and_powers_off() {
    needs!(Qemu, Root);
    let end = |guest: &mut Guest| {
        guest.tell(b'c');
        guest.await_answer();
        guest.execute(&["stop", "cont"]);
        guest.tell(b'p');
    };
    verdict_after_a_panic(GOES_ON, end);
}

#[test]
fn guest_panics_and_is_paused_and_somebody_has_it_go_on_and_it_resets() {
    needs!(Qemu, Root);
    let arguments = "-device pvpanic -no-reboot -action panic=pause";
    let end = |guest: &mut Guest| {
        guest.tell(b'c');
        guest.await_status("guest-panicked");
        guest.execute(&["cont"]);
        guest.tell(b'r');
    };
    verdict_after_a_panic(arguments, end);
}

/// These actions can be set at the monitor, too; then the command line does not show them.
#[test]
fn guest_panics_and_goes_on_as_it_was_set_at_the_monitor() {
    needs!(Qemu, Root);
    let end = |guest: &mut Guest| {
        guest.try_execute_raw(
            r#"{"execute": "set-action", "arguments": {"panic": "none", "reboot": "shutdown"}}"#,
        );
        guest.tell(b'c');
        guest.await_answer();
        guest.execute(&["stop", "cont"]);
        guest.tell(b'r');
    };
    verdict_after_a_panic("-device pvpanic", end);
}

/// After a reset the guest is a new one.
#[test]
fn guest_panics_and_reboots_and_powers_off_later() {
    needs!(Qemu, Root);
    let end = |guest: &mut Guest| {
        guest.tell(b'c');
        guest.tell(b'r');
        guest.await_reboot();
        guest.tell(b'p');
    };
    verdict("-device pvpanic -action panic=none", end, ("guest-shutdown", "user", USER));
}

/// A guest with kdump reports that its crash kernel is loaded instead of the panic. That kernel
/// then writes the core and resets the machine.
#[test]
fn guest_panics_and_its_crash_kernel_resets() {
    needs!(Qemu, Root);
    let end = |guest: &mut Guest| {
        guest.tell(b'k');
        guest.tell(b'r');
    };
    verdict("-device pvpanic -no-reboot", end, ("guest-panic", "crash", NOBODY));
}

#[test]
fn guest_panics_and_its_crash_kernel_powers_off() {
    needs!(Qemu, Root);
    let end = |guest: &mut Guest| {
        guest.tell(b'k');
        guest.tell(b'p');
    };
    verdict("-device pvpanic", end, ("guest-panic", "crash", NOBODY));
}

#[test]
fn guest_panics_and_its_crash_kernel_reboots_and_it_powers_off_later() {
    needs!(Qemu, Root);
    let end = |guest: &mut Guest| {
        guest.tell(b'k');
        guest.tell(b'r');
        guest.await_reboot();
        guest.tell(b'p');
    };
    verdict("-device pvpanic", end, ("guest-shutdown", "user", USER));
}

#[test]
fn guest_resets_and_is_not_to_reboot() {
    needs!(Qemu, Root);
    verdict("-no-reboot", |guest| guest.tell(b'r'), ("guest-reset", "user", USER));
}

#[test]
fn triple_fault_and_not_to_reboot() {
    needs!(Qemu, Root);
    verdict("-no-reboot", |guest| guest.tell(b't'), ("guest-reset", "user", USER));
}

#[test]
fn guest_resets_and_is_to_be_started_again() {
    needs!(Qemu, Root);
    let end = |guest: &mut Guest| guest.tell(b'r');
    verdict_with(&["--guest-reset=restart"], "-no-reboot", end, ("guest-reset", "user", NOBODY));
}

/// QEMU cannot reset a confidential guest (SEV-ES, TDX): it exits when that reboots, although its
/// command line does not ask for it. Here `set-action` makes it do the same.
#[test]
fn guest_resets_and_qemu_exits_although_its_command_line_does_not_ask_for_it() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let mut guest = node.guest("web1").boot();
    daemon.await_line("is connected and running");
    guest.try_execute_raw(r#"{"execute": "set-action", "arguments": {"reboot": "shutdown"}}"#);
    guest.tell(b'r');
    guest.wait();
    assert_eq!(daemon.await_death("web1").cause, "guest-reset");
    assert!(!node.has_shutdown_file("web1"), "it is to be started again");
}

#[test]
fn the_command_line_decides_what_a_reset_by_the_guest_means() {
    needs!(Root);
    let node = node();
    let daemon = node.start_with(&["-d"]);
    for (number, (options, file)) in [
        (&[][..], NOBODY),
        (&["-no-reboot"], USER),
        (&["--no-reboot"], USER),
        (&["-m", "128", "-no-reboot", "-nodefaults"], USER),
        (&["-action", "reboot=shutdown"], USER),
        (&["--action", "reboot=shutdown"], USER),
        (&["-action", "panic=none,reboot=shutdown,watchdog=pause"], USER),
        (&["-action", "reboot=reset"], NOBODY),
        (&["-action", "panic=none"], NOBODY),
        // The last one counts.
        (&["-action", "reboot=shutdown", "-action", "reboot=reset"], NOBODY),
        (&["-action", "reboot=reset", "-no-reboot"], USER),
        (&["-no-reboot", "-action", "reboot=reset"], NOBODY),
        // This is the kernel's command line, not QEMU's.
        (&["-append", "panic=10 -no-reboot"], NOBODY),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("web{number}");
        let builder = node.stand_in(&name);
        let builder = options.iter().fold(builder, |builder, option| builder.with(option));
        let mut stand_in = builder.connected();
        // No guest resets sooner than that.
        daemon.await_line(&format!("By the command line of process {} ", stand_in.pid()));
        stand_in.tell("shutdown guest-reset");
        let death = daemon.await_death(&name);
        assert_eq!(death.cause, "guest-reset", "{options:?}: {}", death.line);
        assert_eq!(node.has_shutdown_file(&name), file, "{options:?}: {}", death.line);
    }
}

#[test]
fn host_resets_and_it_is_not_to_reboot() {
    needs!(Qemu, Root);
    let end = |guest: &mut Guest| guest.execute(&["system_reset"]);
    verdict("-no-reboot", end, ("host-qmp-system-reset", "admin", NOBODY));
}

#[test]
fn watchdog_asks_for_a_powerdown() {
    needs!(Qemu, Root);
    let arguments = "-device ib700 -watchdog-action shutdown";
    verdict(arguments, |guest| guest.tell(b'w'), ("watchdog", "crash", NOBODY));
}

#[test]
fn watchdog_powers_off() {
    needs!(Qemu, Root);
    let arguments = "-device ib700 -watchdog-action poweroff";
    verdict(arguments, |guest| guest.tell(b'w'), ("watchdog", "crash", NOBODY));
}

#[test]
fn watchdog_resets_and_it_is_not_to_reboot() {
    needs!(Qemu, Root);
    let arguments = "-device ib700 -watchdog-action reset -no-reboot";
    verdict(arguments, |guest| guest.tell(b'w'), ("watchdog", "crash", NOBODY));
}

/// An older QEMU does not say that it was a reset: only that the guest did it, or not even that.
#[test]
fn watchdog_of_an_older_qemu_resets_and_it_is_not_to_reboot() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    for unsaid in ["reason", "data"] {
        let guest = node.guest(unsaid).that_does_not_say(unsaid);
        let mut guest = guest.with("-device ib700 -watchdog-action reset -no-reboot").boot();
        daemon.await_line(&format!("\"{unsaid}\" (pid {}) is connected and running", guest.pid()));
        guest.tell(b'w');
        guest.wait();
        has_ended(&node, &daemon, unsaid, ("watchdog", "crash", NOBODY));
    }
}

/// QEMU sends at most one WATCHDOG a second and holds the next one back: when that comes, with the
/// time at which it happened, the guest has rebooted already.
#[test]
fn a_watchdog_event_that_qemu_held_back_does_not_count_after_the_reboot() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start_with(&["-d"]);
    for (lives, unsaid) in ["reason", "data"].into_iter().enumerate() {
        let guest = node.guest(unsaid).that_does_not_say(unsaid);
        let mut guest = guest.with("-device ib700 -watchdog-action reset").boot();
        daemon.await_line(&format!("\"{unsaid}\" (pid {}) is connected and running", guest.pid()));
        for _ in 0..2 {
            guest.tell(b'w');
            guest.await_reboot();
        }
        daemon.await_lines("\"WATCHDOG\"", 2 * lives + 2);
        guest.tell(b'p');
        guest.wait();
        has_ended(&node, &daemon, unsaid, ("guest-shutdown", "user", USER));
    }
}

/// More than a second, within which a daemon that is not held up hears what belongs together.
const LATE: Duration = Duration::from_millis(1500);

/// Plays instances `web0`, `web1`, ..., each of which reports WATCHDOG with this action, and then
/// does what `ends` has for it. The daemon is stopped in between for longer than a second; or it is
/// stopped before both, and hears them at once.
fn heard_late(
    is_held_up_before: bool,
    options: &str,
    bark: &str,
    ends: &[&[&str]],
) -> (Node, Daemon) {
    let node = node();
    let daemon = node.start_with(&["-d"]);
    let mut stand_ins: Vec<StandIn> = (0..ends.len())
        .map(|number| node.stand_in(format!("web{number}")).with(options).connected())
        .collect();
    daemon.await_lines("is connected and running", ends.len());
    if is_held_up_before {
        daemon.signal(Signal::STOP);
    }
    for stand_in in &mut stand_ins {
        stand_in.tell("clock 1000");
        stand_in.tell(&format!("event WATCHDOG {{\"action\": \"{bark}\"}}"));
    }
    if !is_held_up_before {
        daemon.await_lines("\"WATCHDOG\"", ends.len());
        daemon.signal(Signal::STOP);
    }
    for (mut stand_in, words) in stand_ins.into_iter().zip(ends) {
        words.iter().for_each(|word| stand_in.tell(word));
        stand_in.wait();
    }
    // The passing of time is what this is about.
    thread::sleep(LATE);
    daemon.signal(Signal::CONT);
    (node, daemon)
}

#[test]
fn watchdog_resets_and_it_is_not_to_reboot_however_late_that_is_heard() {
    needs!(Root);
    let end = &["clock 1000.0001", "shutdown guest-reset"][..];
    for is_held_up_before in [true, false] {
        let (node, daemon) = heard_late(is_held_up_before, "-no-reboot", "reset", &[end]);
        has_ended(&node, &daemon, "web0", ("watchdog", "crash", NOBODY));
    }
}

#[test]
fn watchdog_of_an_older_qemu_resets_however_late_that_is_heard() {
    needs!(Root);
    let ends = [
        &["clock 1000.0001", "event SHUTDOWN {\"guest\": true}", "exit 0"][..],
        &["line {\"event\": \"SHUTDOWN\"}", "exit 0"],
    ];
    for is_held_up_before in [true, false] {
        let (node, daemon) = heard_late(is_held_up_before, "-no-reboot", "reset", &ends);
        for name in ["web0", "web1"] {
            has_ended(&node, &daemon, name, ("watchdog", "crash", NOBODY));
        }
    }
}

/// The time that QEMU gives for the two shows that they belong together.
#[test]
fn watchdog_asks_for_a_powerdown_however_late_that_is_heard() {
    needs!(Root);
    let end = &["clock 1000.0001", "event POWERDOWN", "clock 1003", "shutdown guest-shutdown"][..];
    for is_held_up_before in [true, false] {
        let (node, daemon) = heard_late(is_held_up_before, "-no-reboot", "shutdown", &[end]);
        has_ended(&node, &daemon, "web0", ("watchdog", "crash", NOBODY));
    }
}

/// The time that QEMU gives shows that this request came ten seconds after the watchdog.
#[test]
fn an_administrator_asks_for_a_powerdown_long_after_the_watchdog_has() {
    needs!(Root);
    let ends = [
        &["clock 1010", "event POWERDOWN", "clock 1013", "shutdown guest-shutdown"][..],
        // The watchdog's own request, which the guest ignores, comes first.
        &[
            "clock 1000.0001",
            "event POWERDOWN",
            "clock 1010",
            "event POWERDOWN",
            "clock 1013",
            "shutdown guest-shutdown",
        ],
    ];
    for is_held_up_before in [true, false] {
        let (node, daemon) = heard_late(is_held_up_before, "-no-reboot", "shutdown", &ends);
        for name in ["web0", "web1"] {
            has_ended(&node, &daemon, name, ("powerdown", "admin", NOBODY));
        }
    }
}

/// QEMU 7.2 exits with what the guest chose and says nothing, as one that has failed does; 10.0 calls
/// it the guest's shutdown as well.
#[test]
fn isa_debug_exit() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let arguments = "-device isa-debug-exit,iobase=0xf4,iosize=4";
    let mut guest = node.guest("web1").with(arguments).boot();
    daemon.await_line("is connected and running");
    let mut listener = guest.listen();
    guest.tell(b'x');
    let expected = match listener.await_event("SHUTDOWN") {
        Some(_) => ("guest-shutdown", "user", USER),
        None => ("failed", "crash", NOBODY),
    };
    let death = daemon.await_death("web1");
    let file = node.has_shutdown_file("web1");
    assert_eq!((&*death.cause, &*death.initiator, file), expected, "{}", death.line);
    assert!(death.line.contains("exit status 7"), "{}", death.line);
}

#[test]
fn stop_and_cont_and_then_the_guest_powers_off() {
    needs!(Qemu, Root);
    let end = |guest: &mut Guest| {
        guest.execute(&["stop", "cont"]);
        guest.tell(b'p');
    };
    verdict("", end, ("guest-shutdown", "user", USER));
}

/// The daemon connects while the guest is suspended. WAKEUP is the only event that says that it
/// runs again; there is no RESUME.
#[test]
fn suspended_guest_of_an_older_qemu_wakes_and_powers_off() {
    needs!(Qemu, Root);
    let node = node();
    let mut guest = node.guest("web1").that_does_not_say("data").boot();
    guest.suspend();
    let daemon = node.start();
    daemon.await_line("is connected and not running");
    guest.wake();
    guest.tell(b'p');
    guest.wait();
    has_ended(&node, &daemon, "web1", ("guest-shutdown", "user", USER));
}

#[test]
fn guest_of_an_older_qemu_is_suspended_and_wakes_and_powers_off() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let mut guest = node.guest("web1").that_does_not_say("data").boot();
    daemon.await_line("is connected and running");
    guest.suspend();
    guest.wake();
    guest.tell(b'p');
    guest.wait();
    has_ended(&node, &daemon, "web1", ("guest-shutdown", "user", USER));
}

/// Ganeti starts QEMU with `-S` and the guest with `cont`. Once the guest runs, a file that was
/// there before is certainly stale.
#[test]
fn a_file_from_an_earlier_life_goes_when_the_guest_is_started() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start_with(&["-d"]);
    fs::write(node.shutdown_file("web1"), "").unwrap();
    let booting = node.guest("web1").with("-S").launch();
    daemon.await_line("is connected and not running");
    execute_qmp(&node.control_dir().join("web1.qmp"), &["cont"]);
    let mut guest = booting.await_ready();
    daemon.await_line("\"RESUME\"");
    // The daemon has dealt with RESUME by the time it is connected to another instance.
    let _other = node.stand_in("web2").connected();
    daemon.await_line("is connected and running");
    assert!(!node.has_shutdown_file("web1"), "a stale file beside a guest that runs");
    guest.tell(b'p');
    guest.wait();
    has_ended(&node, &daemon, "web1", ("guest-shutdown", "user", USER));
}

#[test]
fn deaf_guest_is_terminated_after_a_powerdown_request() {
    needs!(Qemu, Root);
    let end = |guest: &mut Guest| {
        guest.deafen();
        guest.execute(&["system_powerdown"]);
        guest.signal(Signal::TERM);
    };
    verdict("", end, ("host-signal", "admin", NOBODY));
}

#[test]
fn guest_reboots_instead_of_obeying_and_powers_off_later() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start_with(&["-d"]);
    let mut guest = node.guest("web1").boot();
    guest.deafen();
    guest.execute(&["system_powerdown"]);
    guest.tell(b'r');
    daemon.await_line("\"RESET\"");
    guest.await_reboot();
    guest.tell(b'p');
    let death = daemon.await_death("web1");
    assert_eq!((&*death.cause, &*death.initiator), ("guest-shutdown", "user"));
    assert!(node.has_shutdown_file("web1"));
}

#[test]
fn powered_off_without_shutdown_and_terminated_later() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start_with(&["-d"]);
    let mut guest = node.guest("web1").with("-no-shutdown").boot();
    guest.tell(b'p');
    // That it has heard QEMU's STOP does not say that the file is there: it reads, then acts.
    daemon.await_line("Detect user shutdown, creating file");
    assert!(node.has_shutdown_file("web1"));
    guest.signal(Signal::TERM);
    let death = daemon.await_death("web1");
    assert_eq!((&*death.cause, &*death.initiator), ("guest-shutdown", "user"));
    assert!(node.has_shutdown_file("web1"));
}

#[test]
fn powered_off_without_shutdown_and_started_again() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start_with(&["-d"]);
    let mut guest = node.guest("web1").with("-no-shutdown").boot();
    guest.tell(b'p');
    daemon.await_line("\"STOP\"");
    guest.execute(&["system_reset", "cont"]);
    daemon.await_line("removed stale file");
    assert!(!node.has_shutdown_file("web1"));
    guest.signal(Signal::KILL);
    assert_eq!(daemon.await_death("web1").cause, "killed");
    assert!(!node.has_shutdown_file("web1"));
}

#[test]
fn panicked_and_paused_it_lives() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start_with(&["-d"]);
    let mut guest = node.guest("web1").with("-device pvpanic -no-shutdown").boot();
    guest.tell(b'c');
    daemon.await_line("\"STOP\"");
    assert_eq!(daemon.count("cause"), 0);
    guest.signal(Signal::KILL);
    let death = daemon.await_death("web1");
    assert_eq!((&*death.cause, &*death.initiator), ("guest-panic", "crash"));
    assert!(!node.has_shutdown_file("web1"));
}

#[test]
fn qemu_that_detached_itself_as_under_ganeti() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let mut guest = node.guest("web1").daemonized().boot();
    let witness = Witness::new(&node, "web1", guest.pid());
    guest.tell(b'p');
    assert!(witness.observe().file_at_the_end);
    let death = daemon.await_death("web1");
    assert!(death.line.contains("initiator user, exit status 0"), "{}", death.line);
}

/// Where the original is too late in 5 of 30: its file comes after the end of the process.
#[test]
fn the_file_of_a_power_off_is_there_before_the_process_is_gone_50_of_50_times() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let mut leads = Vec::new();
    for trial in 0..50 {
        let name = format!("web{trial}");
        let mut guest = node.guest(&name).boot();
        let witness = Witness::new(&node, &name, guest.pid());
        guest.tell(b'p');
        let seen = witness.observe();
        assert!(seen.file_at_the_end, "trial {trial}");
        leads.extend(seen.lead);
        guest.wait();
    }
    assert_eq!(daemon.await_any_deaths(50).len(), 50);
    leads.sort_unstable();
    figure(
        "the file was there before QEMU's end",
        &format!("shortest {:.1?}, median {:.1?}", leads[0], leads[25]),
    );
}
