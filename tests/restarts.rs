//! The daemon is killed and started again at any moment: what it knew, and what was said while it
//! was down, is not lost; and where it is, it does not guess.

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use testbed::{Daemon, Death, Guest, Node, Signal, StandIn, await_that, example, figure, needs};

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

/// A daemon under a service manager that keeps descriptors: see `examples/service_manager.rs`.
fn start_under_manager(node: &Node) -> Daemon {
    start_under_manager_with(node, &[])
}

fn start_under_manager_with(node: &Node, arguments: &[&str]) -> Daemon {
    let manager = example("service_manager");
    let daemon = node.start_wrapped(&[manager.to_str().unwrap()], arguments);
    daemon.await_line("proc connector reports");
    daemon
}

/// Has the manager kill the daemon and start it again. Says which start is awaited.
fn kill_and_start(daemon: &Daemon) {
    daemon.signal(Signal::USR1);
}

fn await_start(daemon: &Daemon, count: usize) {
    daemon.await_lines("NOTICE ganeti-kvmd daemon startup", count);
}

fn connected(node: &Node, daemon: &Daemon, name: &str) -> StandIn {
    let stand_in = node.stand_in(name).connected();
    daemon.await_line(&format!("\"{name}\" (pid {}) is connected and running", stand_in.pid()));
    stand_in
}

#[test]
fn a_request_outlives_the_daemon_that_heard_it() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let mut guest = node.guest("web1").boot();
    daemon.await_line("is connected and running");
    guest.deafen();
    guest.execute(&["system_powerdown"]);
    let remembered = || {
        let state = node.path("var/run/ganeti-kvmd/state");
        fs::read_to_string(state).is_ok_and(|text| text.contains("Requested"))
    };
    await_that("it is written down", remembered);
    daemon.kill();
    let daemon = node.start();
    daemon.await_line("is connected and running");
    guest.tell(b'p');
    guest.wait();
    let death = daemon.await_death("web1");
    assert_eq!((&*death.cause, &*death.initiator), ("powerdown", "admin"), "{}", death.line);
    assert!(!node.has_shutdown_file("web1"));
}

/// Named as missing where something may have been said while no daemon listened.
const UNHEARD: &str = "what happened while the daemon was not listening";

fn missing_from_the_latest_record(node: &Node) -> String {
    let records = fs::read_to_string(node.path("var/log/ganeti/kvm-exits.jsonl")).unwrap();
    let record: Value = serde_json::from_str(records.lines().last().unwrap()).unwrap();
    record["missing"].to_string()
}

/// A powerdown request may have been missed in between. But Ganeti removes the file itself after
/// all that it did: so the file is made, and the record names what is not known.
#[test]
fn a_shutdown_after_a_restart_is_the_users_and_the_record_names_what_was_missed() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let mut guest = node.guest("web1").boot();
    daemon.await_line("is connected and running");
    daemon.kill();
    let daemon = node.start();
    daemon.await_line("is connected and running");
    guest.tell(b'p');
    guest.wait();
    let death = daemon.await_death("web1");
    assert_eq!((&*death.cause, &*death.initiator), ("guest-shutdown", "user"), "{}", death.line);
    assert!(death.line.contains(UNHEARD), "{}", death.line);
    assert!(node.has_shutdown_file("web1"), "{}", death.line);
    let missing = missing_from_the_latest_record(&node);
    assert!(missing.contains(UNHEARD), "{missing}");
}

/// The strict reading: no file for as long as a missed request may explain the shutdown.
#[test]
fn with_a_doubt_window_a_shutdown_after_a_missed_request_is_not_taken_for_the_users() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let mut guest = node.guest("web1").boot();
    daemon.await_line("is connected and running");
    daemon.kill();
    guest.deafen();
    guest.execute(&["system_powerdown"]);
    let daemon = node.start_with(&["--doubt-window=120"]);
    daemon.await_line("is connected and running");
    guest.tell(b'p');
    guest.wait();
    let death = daemon.await_death("web1");
    assert_eq!((&*death.cause, &*death.initiator), ("guest-shutdown", "unknown"));
    assert!(death.line.contains(UNHEARD), "{}", death.line);
    assert!(!node.has_shutdown_file("web1"));
}

/// The daemon connects, and QEMU does not speak to it before another client has left. What was
/// missed until then can show its effect later.
#[test]
fn the_doubt_after_a_restart_lasts_from_when_qemu_begins_to_speak() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let mut guest = node.guest("web1").boot();
    daemon.await_line("is connected and running");
    daemon.kill();
    let client = UnixStream::connect(node.socket("web1")).unwrap();
    // Less than the five seconds of silence after which the daemon complains.
    let daemon = node.start_with(&["--doubt-window=4"]);
    daemon.await_line("does not answer");
    guest.deafen();
    guest.execute(&["system_powerdown"]);
    drop(client);
    daemon.await_line("is connected and running");
    guest.tell(b'p');
    guest.wait();
    let death = daemon.await_death("web1");
    assert_eq!((&*death.cause, &*death.initiator), ("guest-shutdown", "unknown"), "{}", death.line);
    assert!(death.line.contains(UNHEARD), "{}", death.line);
    assert!(!node.has_shutdown_file("web1"));
}

#[test]
fn the_doubt_after_a_restart_passes() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let mut guest = node.guest("web1").boot();
    daemon.await_line("is connected and running");
    daemon.stop();
    let daemon = node.start_with(&["--doubt-window=1"]);
    daemon.await_line("is connected and running");
    // The passing of time is what this is about.
    thread::sleep(Duration::from_millis(1500));
    guest.tell(b'p');
    guest.wait();
    let death = daemon.await_death("web1");
    assert_eq!(death.initiator, "user", "{}", death.line);
    assert!(node.has_shutdown_file("web1"));
}

#[test]
fn an_end_while_no_daemon_ran_is_told_and_not_guessed() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let mut guest = node.guest("web1").boot();
    daemon.await_line("is connected and running");
    daemon.kill();
    guest.tell(b'p');
    guest.wait();
    let daemon = node.start();
    let death = daemon.await_death("web1");
    assert_eq!((&*death.cause, &*death.initiator), ("unknown", "unknown"), "{}", death.line);
    assert!(!node.has_shutdown_file("web1"));
    // It is told once.
    daemon.stop();
    let daemon = node.start();
    daemon.await_line("proc connector reports");
    assert_eq!(daemon.count("Instance \"web1\""), 0);
}

#[test]
fn under_a_manager_what_happened_while_the_daemon_was_down_is_read_by_the_next() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = start_under_manager(&node);
    let guests: Vec<_> = ["user", "admin", "killed"]
        .iter()
        .map(|name| {
            let guest = node.guest(name).boot();
            daemon
                .await_line(&format!("\"{name}\" (pid {}) is connected and running", guest.pid()));
            guest
        })
        .collect();
    let [mut user, admin, killed] = guests.try_into().unwrap();
    // It stops where it stands, while the instances end: as if it were killed and started again
    // much later.
    let pid = fs::read_to_string(node.pid_file()).unwrap().trim().parse().unwrap();
    testbed::send_signal(pid, Signal::STOP);
    user.tell(b'p');
    user.wait();
    admin.execute(&["system_powerdown"]);
    admin.wait();
    killed.signal(Signal::KILL);
    killed.wait();
    assert!(!node.has_shutdown_file("user"));
    kill_and_start(&daemon);
    for (name, cause, initiator, file) in [
        ("user", "guest-shutdown", "user", true),
        ("admin", "powerdown", "admin", false),
        ("killed", "killed", "admin", false),
    ] {
        let death = daemon.await_death(name);
        assert_eq!((&*death.cause, &*death.initiator), (cause, initiator), "{}", death.line);
        assert!(!death.line.contains("not known"), "{}", death.line);
        assert_eq!(node.has_shutdown_file(name), file, "{name}");
    }
}

#[test]
fn a_line_of_which_the_daemon_has_seen_half_is_whole_for_the_next() {
    needs!(Root);
    let node = node();
    let daemon = start_under_manager(&node);
    let mut stand_in = connected(&node, &daemon, "web1");
    stand_in.tell(r#"piece {"event": "SHUTDOWN", "data": {"guest": tr"#);
    // When another one has been heard, that was seen.
    let other = connected(&node, &daemon, "web2");
    kill_and_start(&daemon);
    await_start(&daemon, 2);
    stand_in.tell(r#"line ue, "reason": "guest-shutdown"}}"#);
    stand_in.tell("exit 0");
    let death = daemon.await_death("web1");
    assert_eq!(death.initiator, "user", "{}", death.line);
    assert!(node.has_shutdown_file("web1"));
    drop(other);
}

#[test]
fn a_manager_that_wants_to_know_is_told_that_the_daemon_goes_on() {
    let node = node();
    let manager = example("service_manager");
    let wrapper = ["env", "WATCHDOG_USEC=100000", manager.to_str().unwrap()];
    let daemon = node.start_wrapped(&wrapper, &[]);
    daemon.await_lines("hears that it goes on", 3);
}

/// systemd takes a service for failed that ends without having been up, and starts it again.
#[test]
fn with_nothing_to_do_on_this_node_it_ends_in_good_order() {
    let node = node();
    node.set_ssconf("enabled_user_shutdown", "False\n");
    let path = node.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let environment = format!("NOTIFY_SOCKET={}", path.display());
    assert!(node.try_start_wrapped(&["env", &environment], &[]).is_none());
    let mut message = [0; 64];
    let length = manager.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"READY=1\n");
}

#[test]
fn a_successor_knows_what_was_asked_of_a_guest() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let mut guest = node.guest("web1").boot();
    daemon.await_line("is connected and running");
    guest.deafen();
    guest.execute(&["system_powerdown"]);
    // Handed over is what was heard, and what is yet to be.
    let successor = node.start_with(&["--take-over"]);
    let (said, _) = daemon.ended();
    assert!(said.iter().any(|line| line.contains("Handed over 1 connections")), "{said:#?}");
    guest.tell(b'p');
    guest.wait();
    let death = successor.await_death("web1");
    assert_eq!((&*death.cause, &*death.initiator), ("powerdown", "admin"), "{}", death.line);
    assert!(!node.has_shutdown_file("web1"));
}

#[test]
fn whoever_cannot_take_over_leaves_the_daemon_as_it_is() {
    needs!(Root);
    let node = node();
    let daemon = start_under_manager(&node);
    let mut stand_in = connected(&node, &daemon, "web1");
    let refused = node.run(&["-f", "--no-user-checks", "--take-over"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("restart the service instead"), "{said}");
    // Somebody sends the signal, and nobody waits.
    let pid = fs::read_to_string(node.pid_file()).unwrap().trim().parse().unwrap();
    testbed::send_signal(pid, Signal::USR2);
    daemon.await_lines("Cannot hand over", 2);
    stand_in.tell("shutdown guest-shutdown");
    let death = daemon.await_death("web1");
    assert_eq!(death.initiator, "user", "{}", death.line);
}

#[test]
fn with_nobody_to_take_over_from_it_starts() {
    let node = node();
    let daemon = node.start_with(&["--take-over"]);
    assert_eq!(daemon.count("No daemon is running that could hand over"), 1);
}

/// How one daemon takes the place of another.
#[derive(Clone, Copy, Debug)]
enum Change {
    TakenOver,
    KilledUnderManager,
    StoppedAndStarted,
}

const CHANGES: [Change; 3] =
    [Change::TakenOver, Change::KilledUnderManager, Change::StoppedAndStarted];

impl Change {
    fn start_first(self, node: &Node) -> Daemon {
        match self {
            Self::KilledUnderManager => start_under_manager_with(node, &["-d"]),
            Self::TakenOver | Self::StoppedAndStarted => node.start_with(&["-d"]),
        }
    }

    /// Lets the daemon hear everything first, and the next one connect to `web1`.
    fn come_about(self, node: &Node, daemon: Daemon) -> Daemon {
        // By the time it is connected to another instance it has written down what it heard before.
        let other = connected(node, &daemon, "other");
        let next = match self {
            Self::TakenOver => node.start_with(&["--take-over"]),
            Self::KilledUnderManager => {
                kill_and_start(&daemon);
                await_start(&daemon, 2);
                daemon.await_line("Took over 2 connections");
                return daemon;
            }
            Self::StoppedAndStarted => {
                daemon.stop();
                let next = node.start();
                next.await_lines("is connected and", 2);
                return next;
            }
        };
        next.await_line("Took over 2 connections");
        drop(other);
        next
    }
}

/// More events than a daemon may ignore: each has to be remembered, however many came before.
const MANY: usize = 1100;

/// Fails with every outcome that is wrong, so that the changes can be compared.
fn assert_each(outcomes: &[(Change, Death, bool)], (cause, initiator, file): (&str, &str, bool)) {
    let wrong: Vec<String> = outcomes
        .iter()
        .filter(|(_, death, has_file)| {
            (&*death.cause, &*death.initiator, *has_file) != (cause, initiator, file)
        })
        .map(|(change, death, has_file)| format!("{change:?}: {} (file: {has_file})", death.line))
        .collect();
    assert!(wrong.is_empty(), "to be {cause}, {initiator} (file: {file}): {wrong:#?}");
}

/// For each change: boots a guest with these arguments, does `before` to it, changes the daemon,
/// and ends the guest by `after`.
fn outlives_the_daemon(
    arguments: &str,
    before: impl Fn(&mut Guest, &Daemon),
    after: impl Fn(&mut Guest),
    expected: (&str, &str, bool),
) {
    let outcomes = CHANGES.map(|change| {
        let node = node();
        let daemon = change.start_first(&node);
        let mut guest = node.guest("web1").with(arguments).boot();
        daemon.await_line("is connected and running");
        before(&mut guest, &daemon);
        let daemon = change.come_about(&node, daemon);
        after(&mut guest);
        guest.wait();
        (change, daemon.await_death("web1"), node.has_shutdown_file("web1"))
    });
    assert_each(&outcomes, expected);
}

fn pause_often(guest: &Guest, daemon: &Daemon) {
    guest.execute(&["stop", "cont"].repeat(MANY / 2));
    daemon.await_lines("\"RESUME\"", MANY / 2);
}

#[test]
fn a_request_after_a_thousand_other_events_outlives_the_daemon_that_heard_it() {
    needs!(Qemu, Root);
    let before = |guest: &mut Guest, daemon: &Daemon| {
        guest.deafen();
        pause_often(guest, daemon);
        guest.execute(&["system_powerdown"]);
        daemon.await_line("\"POWERDOWN\"");
    };
    outlives_the_daemon("", before, |guest| guest.tell(b'p'), ("powerdown", "admin", false));
}

/// Ganeti repeats its request every five seconds: a thousand times in an hour and a half.
#[test]
fn a_reboot_after_a_thousand_requests_outlives_the_daemon_that_heard_it() {
    needs!(Qemu, Root);
    let before = |guest: &mut Guest, daemon: &Daemon| {
        guest.deafen();
        guest.execute(&vec!["system_powerdown"; MANY]);
        daemon.await_lines("\"POWERDOWN\"", MANY);
        guest.tell(b'r');
        guest.await_reboot();
        daemon.await_line("\"RESET\"");
    };
    outlives_the_daemon("", before, |guest| guest.tell(b'p'), ("guest-shutdown", "user", true));
}

/// With `-no-shutdown` QEMU stays when its guest has powered off. The signal that ends it then
/// changes nothing.
#[test]
fn a_users_shutdown_after_a_thousand_other_events_outlives_the_daemon_that_heard_it() {
    needs!(Qemu, Root);
    let before = |guest: &mut Guest, daemon: &Daemon| {
        pause_often(guest, daemon);
        guest.tell(b'p');
        daemon.await_line("\"SHUTDOWN\"");
        daemon.await_lines("\"STOP\"", MANY / 2 + 1);
    };
    let after = |guest: &mut Guest| guest.signal(Signal::TERM);
    outlives_the_daemon("-no-shutdown", before, after, ("guest-shutdown", "user", true));
}

/// The same while QEMU drains, for longer than a real one does here.
#[test]
fn the_file_of_a_shutdown_after_a_thousand_other_events_stays_if_the_daemon_changes_meanwhile() {
    needs!(Root);
    let outcomes = CHANGES.map(|change| {
        let node = node();
        let daemon = change.start_first(&node);
        let mut stand_in = connected(&node, &daemon, "web1");
        for _ in 0..MANY / 2 {
            stand_in.tell("event STOP");
            stand_in.tell("event RESUME");
        }
        stand_in.tell(r#"event SHUTDOWN {"guest": true, "reason": "guest-shutdown"}"#);
        await_that("the file is there", || node.has_shutdown_file("web1"));
        let daemon = change.come_about(&node, daemon);
        stand_in.tell("exit 0");
        (change, daemon.await_death("web1"), node.has_shutdown_file("web1"))
    });
    assert_each(&outcomes, ("guest-shutdown", "user", true));
}

/// A QEMU that drains its disks answers nobody; but the thread of its monitor greets whoever comes.
#[test]
fn the_file_of_a_shutdown_stays_if_a_daemon_comes_meanwhile_that_knows_nothing_of_it() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let slow = "-drive if=none,id=slow,driver=null-co,size=1M,latency-ns=5000000000";
    let mut guest = node.guest("web1").with(slow).boot();
    daemon.await_line("is connected and running");
    guest.try_execute_raw(
        r#"{"execute": "human-monitor-command", "arguments": {"command-line": "qemu-io slow \"aio_read 0 512\""}}"#,
    );
    guest.tell(b'p');
    await_that("the file is there", || node.has_shutdown_file("web1"));
    daemon.kill();
    fs::remove_file(node.path("var/run/ganeti-kvmd/state")).unwrap();
    let daemon = node.start_with(&["--debug"]);
    daemon.await_line(r#"Receive QMP message: {"QMP""#);
    assert!(!guest.has_ended(), "it still drains");
    let death = daemon.await_death("web1");
    assert!(death.line.contains("not known: what QEMU said"), "{}", death.line);
    assert!(node.has_shutdown_file("web1"), "{}", death.line);
}

/// The new daemon learns that the guest's processors run. That does not mean that it is well.
#[test]
fn a_panic_of_a_guest_that_goes_on_outlives_the_daemon_that_heard_it() {
    needs!(Qemu, Root);
    for (panic, event) in [(b'c', "\"GUEST_PANICKED\""), (b'k', "\"GUEST_CRASHLOADED\"")] {
        let before = |guest: &mut Guest, daemon: &Daemon| {
            guest.tell(panic);
            daemon.await_line(event);
        };
        let arguments = "-device pvpanic -no-reboot -action panic=none";
        let after = |guest: &mut Guest| guest.tell(b'r');
        outlives_the_daemon(arguments, before, after, ("guest-panic", "crash", false));
    }
}

/// QEMU's command line says whether a reset ends it. The next daemon has to know that, too.
#[test]
fn what_a_reset_by_the_guest_means_outlives_the_daemon() {
    needs!(Qemu, Root);
    for (arguments, file) in [("", false), ("-no-reboot", true)] {
        let set_action = |guest: &mut Guest, _: &Daemon| {
            guest.try_execute_raw(
                r#"{"execute": "set-action", "arguments": {"reboot": "shutdown"}}"#,
            );
        };
        let after = |guest: &mut Guest| guest.tell(b'r');
        outlives_the_daemon(arguments, set_action, after, ("guest-reset", "user", file));
    }
}

/// How a stand-in ends in a trial.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    User,
    Admin,
    Signal,
    Kill,
}

const ENDS: [End; 4] = [End::User, End::Admin, End::Signal, End::Kill];

impl End {
    fn bring_about(self, stand_in: &mut StandIn) {
        match self {
            Self::User => stand_in.tell("shutdown guest-shutdown"),
            Self::Admin => {
                stand_in.tell("event POWERDOWN");
                stand_in.tell("shutdown guest-shutdown");
            }
            Self::Signal => stand_in.signal(Signal::TERM),
            Self::Kill => stand_in.signal(Signal::KILL),
        }
    }

    fn verdict(self) -> (&'static str, &'static str) {
        match self {
            Self::User => ("guest-shutdown", "user"),
            Self::Admin => ("powerdown", "admin"),
            Self::Signal => ("host-signal", "admin"),
            Self::Kill => ("killed", "admin"),
        }
    }
}

/// From 0 to 4 milliseconds, a different one for each trial.
fn moment(trial: usize) -> Duration {
    Duration::from_micros((trial as u64 * 2_654_435_761 % 4_000_000_007) % 4000)
}

const TRIALS: usize = 500;
const HANDOVERS: usize = 200;
const STOPS: usize = 10;
const AT_ONCE: usize = 40;

#[test]
fn killed_at_any_moment_it_loses_nothing_under_a_manager() {
    needs!(Root);
    let node = node();
    let daemon = start_under_manager(&node);
    let mut wrong = Vec::new();
    for trial in 0..TRIALS {
        let end = ENDS[trial % ENDS.len()];
        let name = format!("web{trial}");
        let mut stand_in = node.stand_in(&name).with("--drain=2").connected();
        // Whether the daemon has heard everything by then is left to chance.
        end.bring_about(&mut stand_in);
        thread::sleep(moment(trial));
        kill_and_start(&daemon);
        await_start(&daemon, trial + 2);
        let death = daemon.await_death(&name);
        let file = node.has_shutdown_file(&name);
        if (&*death.cause, &*death.initiator) != end.verdict() || file != (end == End::User) {
            wrong.push(format!("{} (file: {file})", death.line));
        }
    }
    figure(
        &format!("killed {TRIALS} times around an end, descriptors kept"),
        &format!("{} verdicts right", TRIALS - wrong.len()),
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn killed_at_any_moment_it_never_writes_a_wrong_file() {
    needs!(Root);
    let node = node();
    let (mut unknown, mut right) = (0, 0);
    for trial in 0..TRIALS {
        let end = ENDS[trial % ENDS.len()];
        let name = format!("web{trial}");
        let daemon = node.start();
        let mut stand_in = connected(&node, &daemon, &name);
        end.bring_about(&mut stand_in);
        thread::sleep(moment(trial));
        let said = daemon.kill();
        let told = said.iter().filter_map(|line| Death::parse(line)).find(|d| d.name == name);
        let death = told.unwrap_or_else(|| node.start().await_death(&name));
        if death.initiator == "unknown" {
            unknown += 1;
        } else {
            assert_eq!((&*death.cause, &*death.initiator), end.verdict(), "{}", death.line);
            right += 1;
        }
        let file = node.has_shutdown_file(&name);
        assert!(!file || end == End::User, "a wrong file: {}", death.line);
    }
    figure(
        &format!("killed {TRIALS} times around an end, nothing kept"),
        &format!("{right} right, {unknown} unknown, no wrong file"),
    );
}

#[test]
fn stopped_while_many_end_it_tells_of_each_once() {
    needs!(Root);
    let node = node();
    for trial in 0..STOPS {
        let daemon = node.start();
        let names: Vec<String> =
            (0..AT_ONCE).map(|number| format!("web{trial}-{number}")).collect();
        let stand_ins: Vec<_> = names.iter().map(|name| connected(&node, &daemon, name)).collect();
        for stand_in in &stand_ins {
            testbed::send_signal(stand_in.pid(), Signal::KILL);
        }
        thread::sleep(moment(trial));
        daemon.signal(Signal::TERM);
        let mut lines = daemon.ended().0;
        let next = node.start();
        let told: Vec<String> = deaths(&lines);
        for name in names.iter().filter(|name| !told.contains(name)) {
            next.await_death(name);
        }
        next.signal(Signal::TERM);
        lines.extend(next.ended().0);
        let mut told = deaths(&lines);
        told.sort_unstable();
        let mut expected = names;
        expected.sort_unstable();
        assert_eq!(told, expected, "trial {trial}, each once:\n{}", lines.join("\n"));
    }
}

/// Whose ends these lines tell.
fn deaths(lines: &[String]) -> Vec<String> {
    lines.iter().filter_map(|line| Death::parse(line)).map(|death| death.name).collect()
}

#[test]
fn taken_over_at_any_moment_nothing_is_lost() {
    needs!(Root);
    let node = node();
    let mut daemon = node.start();
    for trial in 0..HANDOVERS {
        let end = ENDS[trial % ENDS.len()];
        let name = format!("web{trial}");
        let mut stand_in = node.stand_in(&name).with("--drain=2").connected();
        daemon.await_line(&format!("\"{name}\" (pid {}) is connected and running", stand_in.pid()));
        end.bring_about(&mut stand_in);
        thread::sleep(moment(trial));
        let successor = node.start_with(&["--take-over"]);
        let (said, _) = daemon.ended();
        let told = said.iter().filter_map(|line| Death::parse(line)).find(|d| d.name == name);
        let death = told.unwrap_or_else(|| successor.await_death(&name));
        assert_eq!((&*death.cause, &*death.initiator), end.verdict(), "{}", death.line);
        assert_eq!(node.has_shutdown_file(&name), end == End::User, "{}", death.line);
        daemon = successor;
    }
    figure(&format!("taken over {HANDOVERS} times around an end"), "every verdict right");
}
