//! A guest is stopped in whatever state it is.

use std::os::unix::net::UnixStream;

use testbed::{Runner, RunnerBuilder, Signal, await_that, needs, send_signal};

use crate::{
    AWAY, FORCED, MACHINES, POWERDOWN, Row, SLOWLY, judged, kvmd_run, row, send_real_time,
};

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
        row(&[], "-device pvpanic -no-shutdown", FORCED, panicked),
    ];
    for machine in MACHINES {
        for Row { options, qemu, end: prepare, code, cause, why } in &rows {
            let mut runner = kvmd_run().options(options).with(machine).with(qemu).boot();
            prepare(&mut runner);
            runner.signal(Signal::TERM);
            let expected = (*code, cause.to_string(), why.to_string());
            assert_eq!(judged(runner), expected, "{machine} {options:?} {qemu}");
        }
    }
    // Its guest has not begun.
    let builder = kvmd_run().with("-S");
    let runner = launch(builder, "prelaunch");
    runner.signal(Signal::TERM);
    assert_eq!(judged(runner).0, 0);
}

/// On a microvm the button is not that of a PC, but an event of ACPI's (GED).
#[test]
fn a_linux_guest_is_asked_until_it_hears() {
    needs!(Qemu, LinuxGuest);
    for machine in ["pc", "q35", "microvm"] {
        let [mut running, early] = [(); 2].map(|()| kvmd_run().launch_linux(machine));
        early.await_line("the guest runs");
        early.signal(Signal::TERM);
        // The kernel has a word of its own before it.
        running.await_ready();
        running.signal(Signal::TERM);
        for (when, runner) in [("when it ran", running), ("when it booted", early)] {
            let powerdown = "powerdown".to_string();
            assert_eq!(judged(runner), (0, powerdown.clone(), powerdown), "{machine}, {when}");
        }
    }
}

#[test]
fn a_microvm_without_acpi_has_no_button_and_is_ended() {
    needs!(Qemu, LinuxGuest);
    let mut runner = kvmd_run().options(&["--stop-timeout=2"]).launch_linux("microvm,acpi=off");
    runner.await_ready();
    runner.signal(Signal::TERM);
    let (code, cause, why) = FORCED;
    assert_eq!(judged(runner), (code, cause.into(), why.into()));
}

/// QEMU is told to end then, from 6.0 on; an older one boots it, and it is asked again. On a pc: the firmware
/// of Debian 11 gets no q35 through a reset.
#[test]
fn a_guest_that_answers_the_button_with_a_reboot_ends_as_well() {
    needs!(Qemu);
    let mut runner = kvmd_run().boot();
    runner.deafen();
    let mut listener = runner.listen();
    runner.signal(Signal::TERM);
    listener.await_event("POWERDOWN").unwrap();
    runner.tell(b'r');
    let (code, cause, _) = judged(runner);
    // A guest that boots may find the button still pressed: then nobody has asked it since its reset.
    assert!(code == 0 && ["powerdown", "guest-shutdown"].contains(&&*cause), "{code}, {cause}");
}

/// Starts a QEMU whose guest does not run yet, and waits until it is in this state.
fn launch(builder: RunnerBuilder, status: &str) -> Runner {
    let monitor = builder.path("qmp");
    let runner = builder.launch();
    await_that("QEMU has its monitors", || UnixStream::connect(&monitor).is_ok());
    runner.await_status(status);
    runner
}

/// Two hosts: a guest is migrated from one to the other.
#[test]
fn a_guest_is_stopped_where_it_has_gone() {
    needs!(Qemu);
    let there = kvmd_run();
    let incoming = format!("unix:{}", there.path("incoming").display());
    let there = launch(there.with("-incoming").with(&incoming), "inmigrate");
    let here = kvmd_run().boot();
    here.listen().execute(&AWAY.replace("exec:cat >/dev/null", &incoming));
    there.await_line("the guest runs");
    here.await_status("postmigrate");
    here.signal(Signal::TERM);
    assert_eq!(judged(here), (0, "host-qmp-quit".into(), "requested".into()));
    there.signal(Signal::TERM);
    let (code, cause, why) = POWERDOWN;
    assert_eq!(judged(there), (code, cause.into(), why.into()));
}

/// It is asked, and is another host's before it obeys.
#[test]
fn a_guest_that_is_migrated_meanwhile_is_not_waited_for() {
    needs!(Qemu);
    let mut runner = kvmd_run().boot();
    runner.deafen();
    let mut listener = runner.listen();
    listener.execute(SLOWLY);
    listener.execute(AWAY);
    runner.signal(Signal::TERM);
    listener.await_event("POWERDOWN").unwrap();
    listener.execute(&SLOWLY.replace("10000", "1000000000"));
    let requested = (0, "host-qmp-quit".to_string(), "requested".to_string());
    assert_eq!(judged(runner), requested);
}
