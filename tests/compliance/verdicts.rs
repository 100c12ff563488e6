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
    right!("panicked", "a stop and a cont do not heal a guest that has panicked"),
    wrong_in_the_original!("crashkernel", "a guest that panics did not shut down"),
    right!("guestreset", "gnt-instance(8), reboot_behavior: \"will treat a reboot as a shutdown\""),
    wrong_in_the_original!("hostreset", "a reset from outside is the administrator's"),
    wrong_in_the_original!("rebooted", "a request that the guest answered by a reboot is over"),
    wrong_in_the_original!("ignored", "a request long past explains nothing any more"),
    wrong_in_the_original!(
        "stopcont",
        "issue 1381: a stop by hand must not make a later power-off the administrator's"
    ),
    right!("woken", "a guest that was suspended can power off like any other"),
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
        name: "a_guest_that_qemu_cannot_reset_is_to_be_started_again",
        says: "gnt-instance(8): reboot_behavior decides; without it QEMU has no -no-reboot",
        deviates: true,
        run: |stage| {
            let daemon = stage.node.with_control_dir().start();
            // Like QEMU it takes its time to end: until then its command line can be read.
            let mut stand_in = stage.stand_in_with("web1", "--drain=500");
            stand_in.tell("shutdown guest-reset");
            daemon.await_line("Stop monitor");
            assert!(!stage.node.has_shutdown_file("web1"));
        },
    },
    Test {
        name: "a_restart_of_the_daemon_does_not_hide_a_users_shutdown",
        says: "design-kvmd: \"by a user, through poweroff from inside the instance\"",
        deviates: false,
        run: |stage| {
            let daemon = stage.node.with_control_dir().start();
            let mut stand_in = stage.stand_in("web1");
            daemon.stop();
            let daemon = stage.node.start();
            stand_in.await_word("connected");
            stand_in.tell("shutdown guest-shutdown");
            daemon.await_line("Stop monitor");
            await_that("the file is there", || stage.node.has_shutdown_file("web1"));
        },
    },
    Test {
        name: "a_file_from_an_earlier_life_goes_when_the_guest_is_started",
        says: "issue 52: stale files",
        deviates: true,
        run: |stage| {
            let daemon = stage.node.with_control_dir().start();
            fs::write(stage.node.shutdown_file("web1"), "").unwrap();
            // As Ganeti starts it: held until it is told to go on.
            let mut stand_in = stage.stand_in_with("web1", "-S");
            // The original does not ask whether it runs.
            if stage.subject == Subject::Ours {
                daemon.await_line("is connected and not running");
            }
            stand_in.tell("event RESUME");
            await_that("the file is gone", || !stage.node.has_shutdown_file("web1"));
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
