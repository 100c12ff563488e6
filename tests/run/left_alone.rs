//! What it leaves alone, and can do without: the user's monitors, the terminal, privileges, listeners.

use std::fs;
use std::process::{Command, Stdio};

use testbed::{NOBODY, RunnerBuilder, Signal, await_that, needs, send_signal};

use crate::{judged, kvmd_run, record};

#[test]
fn the_users_own_monitors_go_on() {
    needs!(Qemu);
    let runner = kvmd_run().boot();
    let answers = runner.execute(&["query-name", "query-status"]);
    assert!(answers[0].contains("web1") && answers[1].contains("running"), "{answers:?}");
    drop(runner);
    for arguments in ["-nographic", "-display none -serial mon:stdio"] {
        let mut runner = kvmd_run().with("-accel tcg -m 16").with(arguments).launch_bare();
        runner.await_line("the guest runs");
        // Ctrl-A c: from the serial line to the monitor.
        runner.type_in(b"\x01cquit\n");
        assert_eq!(judged(runner), (40, "host-qmp-quit".into(), "host-qmp-quit".into()));
    }
}

/// A terminal, a shell in it, and `kvmd-run` in the foreground of that.
#[test]
fn a_killed_qemu_leaves_no_raw_terminal() {
    needs!(Qemu);
    let directory = tempfile::tempdir().unwrap();
    let script = format!(
        "stty -g >before; {} qemu-system-x86_64 -accel tcg -m 16 -nographic; echo $? >code; stty -g >after",
        env!("CARGO_BIN_EXE_kvmd-run")
    );
    let mut child = Command::new("script")
        .args(["-qefc", &script, "typescript"])
        .current_dir(&directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let said = directory.path().join("typescript");
    let pid_of_qemu = || {
        let said = fs::read_to_string(&said).ok()?;
        said.split_once(", pid ")?.1.split_once('\r')?.0.parse().ok()
    };
    await_that("QEMU runs", || pid_of_qemu().is_some() || child.try_wait().unwrap().is_some());
    let Some(qemu) = pid_of_qemu() else { panic!("{:?}", fs::read_to_string(&said)) };
    send_signal(qemu, Signal::KILL);
    child.wait().unwrap();
    let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    assert_eq!(read("code"), "33\n");
    assert_eq!(read("after"), read("before"));
}

#[test]
fn it_needs_no_privilege() {
    needs!(Qemu, Root);
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // Where this was built, others may have no access.
    let program = directory.path().join("kvmd-run");
    fs::copy(env!("CARGO_BIN_EXE_kvmd-run"), &program).unwrap();
    let boot = || RunnerBuilder::new(&program).as_user(NOBODY).boot();
    let runner = boot();
    runner.signal(Signal::TERM);
    let outcome = runner.end();
    assert_eq!(outcome.code(), 0, "{:?}", outcome.lines);
    let record = record(&outcome);
    assert_eq!(record.cause, "powerdown");
    assert_eq!(record.sender.unwrap().pid, Some(std::process::id()));
    boot().kill();
}

#[test]
fn nobody_has_to_listen() {
    needs!(Qemu);
    let closed = ["sh", "-c", "exec \"$@\" 2>&-", "sh"];
    let mut runner = kvmd_run().through(&closed).launch();
    runner.await_ready();
    runner.signal(Signal::TERM);
    assert_eq!(judged(runner).0, 0);
    // Nor a pipe that is full, and that nobody reads.
    let stuck =
        "mkfifo stderr && exec 3<>stderr && head -c 65536 /dev/zero >&3 && exec \"$@\" 2>&3";
    let mut runner = kvmd_run().through(&["sh", "-c", stuck, "sh"]).launch();
    runner.await_ready();
    runner.signal(Signal::TERM);
    await_that("it ends", || runner.has_ended());
    assert_eq!(judged(runner).0, 0);
    // And where the records cannot be written, that is said.
    let runner = kvmd_run().options(&["--records=/no/such/directory/file"]).boot();
    runner.signal(Signal::TERM);
    let outcome = runner.end();
    assert_eq!(outcome.code(), 0);
    assert!(outcome.lines.join("\n").contains("cannot write to /no/such/directory/file"));
}
