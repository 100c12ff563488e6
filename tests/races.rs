//! Ganeti acts at the same time as the daemon: neither may undo what the other has done.

use std::fs;
use std::thread;
use std::time::Duration;

use testbed::{Booting, Guest, Node, Signal, StandIn, needs};

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

/// How Ganeti ends an instance by force (`_StopInstance` of its `hv_kvm`): SIGTERM, a look
/// every 10 ms until it is dead, and then at once the file is removed.
fn stop_by_force(node: &Node, name: &str, pid: u32, mut has_ended: impl FnMut() -> bool) {
    testbed::send_signal(pid, Signal::TERM);
    while !has_ended() {
        // Ganeti's own pace is what is tested here.
        thread::sleep(Duration::from_millis(10));
    }
    let _ = fs::remove_file(node.shutdown_file(name));
}

/// Where the original leaves 39 of 100 files behind.
#[test]
fn twenty_guests_stopped_by_force_at_once_leave_no_file() {
    needs!(Qemu, Root);
    let node = node();
    // Even where a signal counts as the user's, the file comes first and Ganeti's removal last.
    for options in [&[][..], &["--signal-shutdown=user"]] {
        let daemon = node.start_with(options);
        for round in 1..=5 {
            let booting: Vec<_> =
                (0..20).map(|i| node.guest(&format!("web{i}")).launch()).collect();
            let guests: Vec<Guest> = booting.into_iter().map(Booting::await_ready).collect();
            daemon.await_lines("is connected and running", round * 20);
            thread::scope(|scope| {
                for guest in guests {
                    scope.spawn(|| {
                        let (name, pid) = (guest.name().to_string(), guest.pid());
                        let mut guest = guest;
                        stop_by_force(&node, &name, pid, || guest.has_ended());
                    });
                }
            });
            let deaths = daemon.await_any_deaths(round * 20);
            assert!(deaths.iter().all(|death| death.cause == "host-signal"), "{deaths:?}");
            assert_eq!(node.shutdown_files(), 0, "round {round}, {options:?}");
        }
    }
}

/// Where the original leaves 345 of 400 files behind.
#[test]
fn two_hundred_stand_ins_stopped_by_force_at_once_leave_no_file() {
    needs!(Root);
    let node = node();
    for options in [&[][..], &["--signal-shutdown=user"]] {
        let daemon = node.start_with(options);
        for round in 1..=2 {
            // Some drain for a while, some are gone at once.
            let stand_ins: Vec<StandIn> = (0..200)
                .map(|i| {
                    let drain = format!("--drain={}", i % 25);
                    node.stand_in(format!("web{i}")).with(&drain).start()
                })
                .collect();
            daemon.await_lines("is connected and running", round * 200);
            thread::scope(|scope| {
                for mut stand_in in stand_ins {
                    let node = &node;
                    scope.spawn(move || {
                        let (name, pid) = (stand_in.name().to_string(), stand_in.pid());
                        stop_by_force(node, &name, pid, || stand_in.has_ended());
                    });
                }
            });
            let deaths = daemon.await_any_deaths(round * 200);
            assert!(deaths.iter().all(|death| death.cause == "host-signal"), "{deaths:?}");
            assert_eq!(node.shutdown_files(), 0, "round {round}, {options:?}");
        }
    }
}

/// The old life's end is told late; the new one's user has powered off by then.
#[test]
fn a_late_verdict_leaves_the_next_life_alone() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    for life in 0..100 {
        let old = node.stand_in("web1").connected();
        old.signal(Signal::KILL);
        fs::remove_file(node.socket("web1")).unwrap();
        let mut new = node.stand_in("web1").connected();
        new.tell("shutdown guest-shutdown");
        let deaths = daemon.await_deaths("web1", 2 * life + 2);
        let initiators: Vec<&str> =
            deaths[2 * life..].iter().map(|death| &*death.initiator).collect();
        assert!(initiators.contains(&"user") && initiators.contains(&"admin"), "{deaths:?}");
        assert!(node.has_shutdown_file("web1"), "life {life}");
        fs::remove_file(node.shutdown_file("web1")).unwrap();
    }
}

/// What Ganeti removes while QEMU drains stays removed.
#[test]
fn the_end_of_the_process_does_not_write_the_file_again() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    for i in 0..50 {
        let name = format!("web{i}");
        let mut stand_in = node.stand_in(&name).with("--drain=20").connected();
        stand_in.tell("shutdown guest-shutdown");
        daemon.await_line(&format!("{name}.shutdown\""));
        while fs::remove_file(node.shutdown_file(&name)).is_err() {
            thread::yield_now();
        }
        daemon.await_death(&name);
        assert!(!node.has_shutdown_file(&name));
    }
}
