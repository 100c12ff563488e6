//! The verdicts, on real QEMU: those that the original gets right, and those that it does not.

use std::fs;

use testbed::suite::Test;
use testbed::ways::{Subject, WAYS, WatchedGuest};
use testbed::{Need, Signal, await_that, can_run};

use crate::stage::Stage;

/// Lets an instance end in this way, and looks for the file when everything is over.
fn play(stage: &Stage, name: &str) {
    if !can_run(&[Need::Qemu]) {
        return;
    }
    let way = WAYS.iter().find(|way| way.name == name).expect("a way of this name");
    let node = &stage.node;
    node.with_control_dir();
    let watched = WatchedGuest::boot(node, stage.subject, "web1", way.arguments);
    let _daemon = watched.end(way);
    assert_eq!(node.has_shutdown_file("web1"), way.is_users(), "{}", way.deed);
}

macro_rules! right {
    ($name:literal, $says:literal) => {
        Test {
            name: concat!("verdict_", $name),
            says: $says,
            deviates: false,
            run: |stage| play(stage, $name),
        }
    };
}

macro_rules! wrong_in_the_original {
    ($name:literal, $says:literal) => {
        Test {
            name: concat!("verdict_", $name),
            says: $says,
            deviates: true,
            run: |stage| play(stage, $name),
        }
    };
}

pub(crate) const TESTS: &[Test<Stage>] = &[
    right!("poweroff", "design-kvmd: \"by a user, through poweroff from inside the instance\""),
    right!("hibernate", "a guest that hibernates wants to stay off"),
    right!(
        "powerdown",
        "design-kvmd: \"Upon an administrator powerdown, the QMP protocol sends two events\""
    ),
    wrong_in_the_original!(
        "sigterm",
        "design-kvmd: \"this is an action performed by the administrator\""
    ),
    wrong_in_the_original!("sigint", "as SIGTERM"),
    wrong_in_the_original!("sighup", "as SIGTERM"),
    wrong_in_the_original!("quit", "a command at the monitor is the administrator's"),
    wrong_in_the_original!("panic", "a guest that panics did not shut down"),
    right!("guestreset", "gnt-instance(8), reboot_behavior: \"will treat a reboot as a shutdown\""),
    wrong_in_the_original!("hostreset", "a reset from outside is the administrator's"),
    wrong_in_the_original!("rebooted", "a request that the guest answered by a reboot is over"),
    wrong_in_the_original!("ignored", "a request long past explains nothing any more"),
    wrong_in_the_original!(
        "stopcont",
        "issue 1381: a stop by hand must not make a later power-off the administrator's"
    ),
    right!("sigkill", "design-kvmd: \"crashes and signals, such as, SIGKILL\""),
    right!("sigsegv", "design-kvmd: \"crashes and signals, such as, SIGKILL\""),
    right!("sigabrt", "design-kvmd: \"crashes and signals, such as, SIGKILL\""),
    right!("watchdog", "a guest that hangs did not shut down"),
    wrong_in_the_original!("watchdogreset", "a guest that hangs did not shut down"),
    Test {
        name: "the_file_is_there_while_the_process_still_drains",
        says: "contract: user powers off in the guest: be there before the process is dead",
        deviates: true,
        run: |stage| {
            let daemon = stage.node.with_control_dir().start();
            let mut stand_in = stage.stand_in_with("web1", "--drain=3600000");
            stand_in.tell("shutdown guest-shutdown");
            await_that("the file is there", || stage.node.has_shutdown_file("web1"));
            assert!(!stand_in.has_ended());
            stand_in.signal(Signal::KILL);
            daemon.await_line("Stop monitor");
            assert!(stage.node.has_shutdown_file("web1"));
        },
    },
    Test {
        name: "an_instance_that_listens_late_is_not_lost",
        says: "design-kvmd: \"listening on the QMP sockets of all KVM instances within a node\"",
        deviates: true,
        run: |stage| {
            let daemon = stage.node.with_control_dir().start_with(&["-d"]);
            let mut stand_in = stage.node.stand_in("web1").with("--listen-late").start();
            // Both say that they have tried and failed.
            daemon.await_line(match stage.subject {
                Subject::Ours => "Not connected to",
                Subject::Theirs => "Catch monitor exception",
            });
            stand_in.tell("listen");
            stand_in.await_word("connected");
        },
    },
    Test {
        name: "what_follows_an_open_socket_is_not_lost",
        says: "issue 52: stale files",
        deviates: false,
        run: |stage| {
            let daemon = stage.node.with_control_dir().start();
            let stand_in = stage.stand_in("web1");
            fs::write(stage.node.shutdown_file("web1"), "").unwrap();
            stand_in.signal(Signal::KILL);
            daemon.await_line("Detect admin shutdown");
            await_that("the file is gone", || !stage.node.has_shutdown_file("web1"));
        },
    },
];
