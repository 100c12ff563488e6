//! The control directory: what is watched in it, what is written into it, what is left alone.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use testbed::suite::Test;
use testbed::{Daemon, await_that};

use crate::stage::Stage;

const fn test(name: &'static str, says: &'static str, run: fn(&Stage)) -> Test<Stage> {
    Test { name, says, deviates: false, run }
}

/// Ganeti's own test of its daemon: a server that sends no greeting, in a process that lives
/// on, and says these bare strings.
fn ganetis_own_test(stage: &Stage, daemon: &Daemon, events: &[&str]) {
    let socket = stage.node.socket("instance");
    // It listens when its name appears: the original loses it otherwise, now and then.
    let elsewhere = socket.with_extension("elsewhere");
    let listener = UnixListener::bind(&elsewhere).unwrap();
    fs::hard_link(&elsewhere, &socket).unwrap();
    fs::remove_file(&elsewhere).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut accepted = None;
    await_that("the daemon connects", || {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (mut client, _) = accepted.unwrap();
    client.set_nonblocking(false).unwrap();
    client.set_read_timeout(Some(testbed::patience())).unwrap();
    let mut line = String::new();
    BufReader::new(&client).read_line(&mut line).unwrap();
    assert_eq!(line, "{\"execute\": \"qmp_capabilities\"}\n");
    for event in events {
        writeln!(client, "{event:?}").unwrap();
    }
    // Some of what is said may still be on its way to the client: that must not be lost.
    drop(client);
    drop(listener);
    fs::remove_file(&socket).unwrap();
    daemon.await_line("shutdown, ");
}

pub(crate) const TESTS: &[Test<Stage>] = &[
    test(
        "ganetis_own_test_of_a_users_shutdown",
        "Test/Ganeti/Kvmd.hs: DetectUserShutdown",
        |stage| {
            let daemon = stage.node.with_control_dir().start();
            ganetis_own_test(stage, &daemon, &["SHUTDOWN"]);
            await_that("the file is there", || stage.node.has_shutdown_file("instance"));
        },
    ),
    test(
        "ganetis_own_test_of_an_administrators_shutdown",
        "Test/Ganeti/Kvmd.hs: DetectAdminShutdown",
        |stage| {
            stage.node.with_control_dir();
            fs::write(stage.node.shutdown_file("instance"), "").unwrap();
            let daemon = stage.node.start();
            ganetis_own_test(stage, &daemon, &["POWERDOWN", "SHUTDOWN"]);
            await_that("the file is gone", || !stage.node.has_shutdown_file("instance"));
        },
    ),
    test(
        "a_user_shutdown_leaves_an_empty_file",
        "design-kvmd: \"an empty file, called the shutdown file, in the KVM control directory\"",
        |stage| {
            let daemon = stage.node.with_control_dir().start();
            let mut stand_in = stage.stand_in("web1");
            stand_in.tell("shutdown guest-shutdown");
            daemon.await_line("Stop monitor");
            let file = fs::symlink_metadata(stage.node.shutdown_file("web1")).unwrap();
            assert!(file.is_file());
            assert_eq!((file.len(), file.uid(), file.mode() & 0o777), (0, 0, 0o644));
        },
    ),
    test("the_daemons_umask_holds_for_the_file", "contract: umask 077", |stage| {
        stage.node.with_control_dir();
        let daemon = stage.detach(&[]);
        let mut stand_in = stage.stand_in("web1");
        stand_in.tell("shutdown guest-shutdown");
        daemon.await_line("Stop monitor");
        let file = fs::symlink_metadata(stage.node.shutdown_file("web1")).unwrap();
        assert_eq!(file.mode() & 0o777, 0o600);
    }),
    test(
        "the_directory_may_come_later",
        "design-kvmd: \"the case when the KVM control directory does not exist because, for example, Ganeti was not yet started\"",
        |stage| {
            let daemon = stage.node.start();
            await_that("its parent is watched", || daemon.watches(Path::new("/run/ganeti")));
            // One after the other: of two at once the original misses the second, at times.
            let ctrl = stage.node.control_dir();
            for directory in [ctrl.parent().unwrap(), &*ctrl] {
                fs::create_dir(directory).unwrap();
                await_that("the directory is watched", || daemon.watches(directory));
            }
            let mut stand_in = stage.stand_in("web1");
            stand_in.tell("shutdown guest-shutdown");
            daemon.await_line("Stop monitor");
            assert!(stage.node.has_shutdown_file("web1"));
        },
    ),
    test(
        "instances_that_run_already_are_watched",
        "design-kvmd: \"if the KVM daemon is started after the first Ganeti instance has been created\"",
        |stage| {
            stage.node.with_control_dir();
            let mut stand_in = stage.node.stand_in("web1").start();
            let daemon = stage.node.start();
            stand_in.await_word("connected");
            stand_in.tell("shutdown guest-shutdown");
            daemon.await_line("Stop monitor");
            assert!(stage.node.has_shutdown_file("web1"));
        },
    ),
    test(
        "other_sockets_are_left_alone",
        "contract: X.qmp, X.monitor, X.serial, X.qga: leave them alone",
        |stage| {
            stage.node.with_control_dir();
            let listeners: Vec<UnixListener> = ["qmp", "monitor", "serial", "qga"]
                .iter()
                .map(|kind| {
                    let path = stage.node.control_dir().join(format!("web1.{kind}"));
                    let listener = UnixListener::bind(path).unwrap();
                    listener.set_nonblocking(true).unwrap();
                    listener
                })
                .collect();
            let _daemon = stage.node.start();
            let _stand_in = stage.stand_in("web1");
            for listener in listeners {
                let accepted = listener.accept().map(|_: (UnixStream, _)| ());
                assert!(accepted.is_err(), "somebody has connected");
            }
        },
    ),
];
