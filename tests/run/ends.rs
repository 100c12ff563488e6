//! Every exit code, and what has none of its own.

use std::fs;

use testbed::{Signal, await_that, figure, needs, send_signal};

use crate::{FORCED, MACHINES, POWERDOWN, REBOOTED, Row, judged, kvmd_run, row, send_real_time};

/// Every row of the table of exit codes but those of bad input.
const ROWS: [Row; 27] = [
    row(&[], "", (0, "guest-shutdown", "guest-shutdown"), |it| it.tell(b'p')),
    row(&[], "", POWERDOWN, |it| it.signal(Signal::TERM)),
    row(&[], "", POWERDOWN, |it| it.signal(Signal::INT)),
    row(&[], "", POWERDOWN, |it| send_real_time(it, 3)),
    row(&[], "", POWERDOWN, |it| send_real_time(it, 4)),
    row(&[], "", POWERDOWN, |it| drop(it.execute(&["system_powerdown"]))),
    // As systemd's KillMode=control-group does it.
    row(&[], "", POWERDOWN, |it| {
        send_signal(it.qemu(), Signal::TERM);
        it.signal(Signal::TERM);
    }),
    row(&["--signal=USR1=powerdown"], "", POWERDOWN, |it| it.signal(Signal::USR1)),
    row(&["--signal=TERM=monitor:system_powerdown"], "", POWERDOWN, |it| it.signal(Signal::TERM)),
    row(&[], "", (0, "host-qmp-quit", "requested"), |it| it.signal(Signal::QUIT)),
    row(&[], "", (0, "host-qmp-quit", "requested"), |it| send_real_time(it, 14)),
    row(&["--signal=USR1=kill"], "", (0, "killed", "requested"), |it| it.signal(Signal::USR1)),
    row(&["--reboot=exit"], "", REBOOTED, |it| it.tell(b'r')),
    row(&["--reboot=exit"], "", REBOOTED, |it| it.tell(b't')),
    row(&[], "-no-reboot", REBOOTED, |it| it.tell(b'r')),
    row(&["--reboot=exit"], "", (133, "host-qmp-system-reset", "guest-reset"), |it| {
        send_real_time(it, 15);
    }),
    row(&[], "", (33, "crashed", "crashed"), |it| send_signal(it.qemu(), Signal::SEGV)),
    row(&[], "", (33, "killed", "killed"), |it| send_signal(it.qemu(), Signal::KILL)),
    row(&[], "-device pvpanic", (34, "guest-panic", "guest-panic"), |it| it.tell(b'c')),
    row(&[], "-device ib700 -watchdog-action poweroff", (36, "watchdog", "watchdog"), |it| {
        it.tell(b'w');
    }),
    row(&[], "", (40, "host-qmp-quit", "host-qmp-quit"), |it| drop(it.execute(&["quit"]))),
    row(&[], "", (40, "host-signal", "host-signal"), |it| send_signal(it.qemu(), Signal::HUP)),
    row(&["--stop-timeout=2"], "", FORCED, |it| {
        it.deafen();
        it.signal(Signal::TERM);
    }),
    row(&[], "", FORCED, |it| {
        it.deafen();
        it.signal(Signal::INT);
        it.await_line("asking the guest");
        it.signal(Signal::INT);
    }),
    row(&["--signal=TERM=powerdown,timeout=1,then=kill"], "", (41, "killed", "forced"), |it| {
        it.deafen();
        it.signal(Signal::TERM);
    }),
    // It does not even answer.
    row(&["--stop-timeout=2"], "", (41, "killed", "forced"), |it| {
        send_signal(it.qemu(), Signal::STOP);
        it.signal(Signal::TERM);
    }),
    row(
        &["--exit-codes=guest-shutdown=9,forced=8"],
        "",
        (9, "guest-shutdown", "guest-shutdown"),
        |it| {
            it.tell(b'p');
        },
    ),
];

#[test]
fn every_end_has_its_exit_code() {
    needs!(Qemu);
    for machine in MACHINES {
        for (number, row) in ROWS.iter().enumerate() {
            let Row { options, qemu, end, code, cause, why } = row;
            let mut runner = kvmd_run().options(options).with(machine).with(qemu).boot();
            end(&mut runner);
            let expected = (*code, cause.to_string(), why.to_string());
            assert_eq!(judged(runner), expected, "{machine}, row {number}: {options:?} {qemu}");
        }
    }
    figure("ways to end under kvmd-run, each with its exit code", &ROWS.len().to_string());
}

/// QEMU 7.2 exits with the guest's code and says nothing; 10.0 calls it the guest's shutdown as well.
#[test]
fn a_guest_that_chooses_qemus_exit_code_does_not_choose_ours() {
    needs!(Qemu);
    let mut runner = kvmd_run().with("-device isa-debug-exit,iobase=0xf4").boot();
    runner.tell(b'x');
    let (code, cause, why) = judged(runner);
    assert!(
        matches!(
            (code, &*cause, &*why),
            (33, "failed", "failed") | (0, "guest-shutdown", "guest-shutdown")
        ),
        "{code}, {cause}, {why}"
    );
}

/// A process that speaks QMP as QEMU does, up to where its guest runs.
const GREETING: &str = r#"
    fd=$(sed -n 's/.*fd = "\(.*\)"/\1/p' "$2")
    echo '{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 9}}, "capabilities": []}}' >&$fd
    read -r line <&$fd; echo '{"return": {}}' >&$fd
    read -r line <&$fd; echo '{"return": {"status": "running", "running": true}}' >&$fd
"#;

#[test]
fn an_end_without_a_word_is_not_known() {
    needs!(Qemu);
    let runner = kvmd_run().that_runs(&["bash", "-c", GREETING, "qemu"]).launch_bare();
    assert_eq!(judged(runner), (50, "exited".into(), "exited".into()));
}

/// Between its SHUTDOWN and its end a real QEMU answers that its guest runs, if it is asked.
#[test]
fn an_answer_after_the_shutdown_does_not_take_it_back() {
    needs!(Qemu);
    let script = format!(
        "{GREETING}
        read -r line <&$fd
        echo '{{\"event\": \"SHUTDOWN\", \"data\": {{\"guest\": true, \"reason\": \"guest-shutdown\"}}}}' >&$fd
        echo '{{\"return\": {{\"status\": \"running\", \"running\": true}}}}' >&$fd"
    );
    let runner = kvmd_run().that_runs(&["bash", "-c", &script, "qemu"]).launch_bare();
    runner.await_line("the guest runs");
    runner.signal(Signal::TERM);
    let shutdown = "guest-shutdown".to_string();
    assert_eq!(judged(runner), (0, shutdown.clone(), shutdown));
}

/// Whether a process of this test's, by a word of its command line, is there.
fn is_there(word: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes.map(|process| process.path().join("cmdline")).any(|path| {
        fs::read(path)
            .is_ok_and(|line| line.split(|&byte| byte == 0).any(|it| it == word.as_bytes()))
    })
}

#[test]
fn bad_input_is_a_clear_error_and_leaves_nothing_behind() {
    needs!(Qemu);
    let marked = format!("bad-input-{}", std::process::id());
    let qemu = |arguments: &str| {
        kvmd_run().with(&format!("-accel tcg -display none -m 16 -name {marked} {arguments}"))
    };
    let rows = [
        (kvmd_run().that_runs(&[]), 64, "no command; pass QEMU"),
        (kvmd_run().that_runs(&["/no/such/qemu"]), 64, "cannot run \"/no/such/qemu\""),
        (kvmd_run().that_runs(&["/etc/passwd"]), 64, "is it executable?"),
        (qemu("-daemonize"), 64, "leave out -daemonize"),
        (qemu("").options(&["--signal=TERM=stop"]), 64, "there is no action \"stop\""),
        (qemu("").options(&["--signal=NONE=quit"]), 64, "there is no signal \"NONE\""),
        (qemu("").options(&["--stop-timeout=0"]), 64, "1 to 86400"),
        (qemu("").options(&["--exit-codes=no=1"]), 64, "there is no cause"),
        (qemu("").options(&["--notify-fd=77"]), 64, "descriptor 77 cannot be used"),
        (kvmd_run().that_runs(&["true"]), 71, "before it was up, exit status 0"),
        (qemu("-nonsense"), 71, "before it was up, exit status 1"),
        (qemu("-chardev null,id=kvmd-run"), 71, "before it was up"),
        (qemu("-drive file=/no/such/image"), 71, "before it was up"),
        // It has greeted by then.
        (qemu("-kernel /no/such/kernel"), 71, "before it was up, exit status 1"),
        (qemu("-device nonsense"), 71, "before it was up, exit status 1"),
    ];
    for (builder, code, said) in rows {
        let outcome = builder.launch_bare().end();
        let all = outcome.lines.join("\n");
        assert_eq!(outcome.code(), code, "{all}");
        assert!(all.contains(said), "{said} is not in:\n{all}");
        assert!(!is_there(&marked), "QEMU is left behind");
    }
}

#[test]
fn what_is_no_qemu_can_be_stopped_all_the_same() {
    needs!(Qemu);
    let runner = kvmd_run().that_runs(&["sh", "-c", "exec sleep 1000", "sh"]).launch_bare();
    let sleep = runner.qemu();
    runner.signal(Signal::TERM);
    assert_eq!(judged(runner).0, 0);
    assert!(!fs::exists(format!("/proc/{sleep}")).unwrap());
}

/// What a wrapper has started before it became QEMU, such as swtpm, holds QEMU's monitor as well.
#[test]
fn a_companion_of_qemus_is_not_taken_for_it() {
    needs!(Qemu);
    let builder = kvmd_run();
    let pid = builder.path("companion");
    let script = format!(
        "sleep 1000 >/dev/null 2>&1 & echo $! >{}; exec qemu-system-x86_64 \"$@\"",
        pid.display()
    );
    let mut runner = builder.that_runs(&["sh", "-c", &script, "sh"]).boot();
    let companion = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    runner.tell(b'p');
    let outcome = runner.end();
    send_signal(companion, Signal::KILL);
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    assert!(!outcome.lines.join("\n").contains("background"), "{outcome:?}");
}

#[test]
fn a_qemu_that_goes_into_the_background_all_the_same_is_ended() {
    needs!(Qemu);
    let marked = format!("background-{}", std::process::id());
    let script = format!(
        "exec qemu-system-x86_64 -accel tcg -display none -m 16 -name {marked} -daemonize \"$@\""
    );
    let runner = kvmd_run().that_runs(&["sh", "-c", &script, "sh"]).launch_bare();
    let outcome = runner.end();
    assert!(outcome.lines.join("\n").contains("went into the background"), "{outcome:?}");
    await_that("that QEMU has ended", || !is_there(&marked));
}
