//! Each way in which a real QEMU ends, and what the daemon makes of it.

use testbed::{Guest, Node, Signal, Witness, figure, needs};

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
    (cause, initiator, file): Expected,
) {
    let node = node();
    let daemon = node.start_with(options);
    let mut guest = node.guest("web1").with(arguments).boot();
    daemon.await_line("is connected and runs");
    let witness = Witness::new(&node, "web1", guest.pid());
    end(&mut guest);
    let seen = witness.observe();
    let death = daemon.await_death("web1");
    assert_eq!((&*death.cause, &*death.initiator), (cause, initiator), "{}", death.line);
    assert!(death.line.contains(&format!("(pid {})", guest.pid())), "{}", death.line);
    assert!(!death.line.contains("not known"), "{}", death.line);
    assert_eq!(seen.file_at_the_end, file, "when the process was dead: {}", death.line);
    assert_eq!(node.has_shutdown_file("web1"), file, "afterwards: {}", death.line);
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

#[test]
fn isa_debug_exit() {
    needs!(Qemu, Root);
    let arguments = "-device isa-debug-exit,iobase=0xf4,iosize=4";
    verdict(arguments, |guest| guest.tell(b'x'), ("failed", "crash", NOBODY));
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
    daemon.await_line("\"STOP\"");
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
