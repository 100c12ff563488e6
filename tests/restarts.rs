//! The daemon is killed and started again at any moment: what it knew, and what was said while it
//! was down, is not lost; and where it is, it does not guess.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use testbed::{Daemon, Death, Node, Signal, StandIn, await_that, example, figure, needs};

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

/// A daemon under a service manager that keeps descriptors: see `examples/service_manager.rs`.
fn start_under_manager(node: &Node) -> Daemon {
    let manager = example("service_manager");
    let daemon = node.start_wrapped(&[manager.to_str().unwrap()], &[]);
    daemon.await_line("proc connector tells");
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
    daemon.await_line(&format!("\"{name}\" (pid {}) is connected and runs", stand_in.pid()));
    stand_in
}

#[test]
fn a_request_outlives_the_daemon_that_heard_it() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let mut guest = node.guest("web1").boot();
    daemon.await_line("is connected and runs");
    guest.deafen();
    guest.execute(&["system_powerdown"]);
    let remembered = || {
        let state = node.path("var/run/ganeti/ganeti-kvmd.state");
        fs::read_to_string(state).is_ok_and(|text| text.contains("Requested"))
    };
    await_that("it is written down", remembered);
    daemon.kill();
    let daemon = node.start();
    daemon.await_line("is connected and runs");
    guest.tell(b'p');
    guest.wait();
    let death = daemon.await_death("web1");
    assert_eq!((&*death.cause, &*death.initiator), ("powerdown", "admin"), "{}", death.line);
    assert!(!node.has_shutdown_file("web1"));
}

#[test]
fn a_shutdown_after_a_request_that_nobody_heard_is_not_taken_for_the_users() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let mut guest = node.guest("web1").boot();
    daemon.await_line("is connected and runs");
    daemon.kill();
    guest.deafen();
    guest.execute(&["system_powerdown"]);
    let daemon = node.start();
    daemon.await_line("is connected and runs");
    guest.tell(b'p');
    guest.wait();
    let death = daemon.await_death("web1");
    assert_eq!((&*death.cause, &*death.initiator), ("guest-shutdown", "unknown"));
    assert!(death.line.contains("before the daemon was there to hear it"), "{}", death.line);
    assert!(!node.has_shutdown_file("web1"));
}

#[test]
fn the_doubt_after_a_restart_passes() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let mut guest = node.guest("web1").boot();
    daemon.await_line("is connected and runs");
    daemon.stop();
    let daemon = node.start_with(&["--doubt-window=1"]);
    daemon.await_line("is connected and runs");
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
    daemon.await_line("is connected and runs");
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
    daemon.await_line("proc connector tells");
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
            daemon.await_line(&format!("\"{name}\" (pid {}) is connected and runs", guest.pid()));
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
    daemon.await_line("is connected and runs");
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
    daemon.await_lines("Asked to hand over", 2);
    stand_in.tell("shutdown guest-shutdown");
    let death = daemon.await_death("web1");
    assert_eq!(death.initiator, "user", "{}", death.line);
}

#[test]
fn with_nobody_to_take_over_from_it_starts() {
    let node = node();
    let daemon = node.start_with(&["--take-over"]);
    assert_eq!(daemon.count("no daemon to take over from"), 1);
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
const MANY: usize = 40;

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
        let names: Vec<String> = (0..MANY).map(|number| format!("web{trial}-{number}")).collect();
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
        let count = told.len();
        told.dedup();
        assert_eq!((told.len(), count), (MANY, MANY), "each once");
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
        daemon.await_line(&format!("\"{name}\" (pid {}) is connected and runs", stand_in.pid()));
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
