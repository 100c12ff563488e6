//! A guest is stopped in whatever state it is.

use std::os::unix::net::UnixStream;

use testbed::{Runner, Signal, await_that, linux_guest, needs, send_signal};

use crate::{FORCED, POWERDOWN, Row, judged, kvmd_run, row, send_real_time};

#[test]
fn a_reset_of_the_supervisors_leaves_the_guest_running() {
    needs!(Qemu);
    let mut runner = kvmd_run().boot();
    send_real_time(&runner, 15);
    runner.await_reboot();
    for ignored in [Signal::HUP, Signal::USR1, Signal::USR2] {
        runner.signal(ignored);
        let name = kvmd::wire::Signal(ignored.as_raw()).to_string();
        runner.await_line(&format!("{name} from "));
    }
    // It is blocked in QEMU.
    send_signal(runner.qemu(), Signal::TERM);
    send_signal(runner.qemu(), Signal::INT);
    runner.tell(b'r');
    runner.await_reboot();
    runner.signal(Signal::TERM);
    assert_eq!(judged(runner).0, 0);
}

#[test]
fn a_guest_is_stopped_in_whatever_state_it_is() {
    needs!(Qemu);
    let suspended = |it: &mut Runner| {
        it.tell(b's');
        it.await_status("suspended");
    };
    let paused = |it: &mut Runner| drop(it.execute(&["stop"]));
    let shut_down = |it: &mut Runner| {
        it.tell(b'p');
        it.await_status("shutdown");
    };
    let panicked = |it: &mut Runner| {
        it.tell(b'c');
        it.await_status("guest-panicked");
    };
    let rows = [
        row(&[], "", POWERDOWN, suspended),
        row(&[], "", FORCED, paused),
        row(&["--continue-to-stop"], "", POWERDOWN, paused),
        row(&[], "-no-shutdown", (0, "guest-shutdown", "guest-shutdown"), shut_down),
        row(&[], "-device pvpanic -action panic=pause", FORCED, panicked),
    ];
    for Row { options, qemu, end: prepare, code, cause, why } in rows {
        let mut runner = kvmd_run().options(options).with(qemu).boot();
        prepare(&mut runner);
        runner.signal(Signal::TERM);
        assert_eq!(judged(runner), (code, cause.into(), why.into()), "{options:?} {qemu}");
    }
    // Its guest has not begun.
    let builder = kvmd_run().with("-S");
    let monitor = builder.path("qmp");
    let runner = builder.launch();
    await_that("QEMU has its monitors", || UnixStream::connect(&monitor).is_ok());
    runner.await_status("prelaunch");
    runner.signal(Signal::TERM);
    assert_eq!(judged(runner).0, 0);
}

#[test]
fn a_linux_guest_is_asked_until_it_hears() {
    needs!(Qemu, LinuxGuest);
    let boot = || {
        let kernel = linux_guest("vmlinuz").display().to_string();
        let initrd = linux_guest("initramfs.cpio.gz").display().to_string();
        let system = format!("-m 192 -kernel {kernel} -initrd {initrd}");
        // An argument with a space in it cannot be given with the others.
        kvmd_run().with(&system).with("-append quiet").launch_with_devices()
    };
    let mut running = boot();
    let early = boot();
    early.await_line("the guest runs");
    early.signal(Signal::TERM);
    // The kernel has a word of its own before it.
    running.await_ready();
    running.signal(Signal::TERM);
    for runner in [running, early] {
        assert_eq!(judged(runner), (0, "powerdown".into(), "powerdown".into()));
    }
}
