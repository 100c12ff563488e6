//! `kvmd-run` on real QEMU: every exit code, every way to stop, and what is left behind.

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use kvmd::wire::record::Record;
use testbed::{
    NOBODY, Outcome, Runner, RunnerBuilder, Signal, await_that, figure, linux_guest, needs,
    send_signal,
};

fn kvmd_run() -> RunnerBuilder {
    RunnerBuilder::new(env!("CARGO_BIN_EXE_kvmd-run"))
}

fn record(outcome: &Outcome) -> Record {
    let lines: Vec<&str> = outcome.records.lines().collect();
    let [line] = &*lines else { panic!("not one record: {lines:?}\n{:?}", outcome.lines) };
    Record::parse(line.as_bytes()).unwrap()
}

/// Sends SIGRTMIN and a number, which rustix has no name for.
fn send_real_time(runner: &Runner, number: i32) {
    let kill = format!("kill -{} {}", 34 + number, runner.pid());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// Waits for the end, and says the code, the cause and what the code was chosen for.
fn judged(runner: Runner) -> (i32, String, String) {
    let outcome = runner.end();
    let record = record(&outcome);
    let run = record.run.unwrap();
    assert_eq!(i32::from(run.exit_code), outcome.code(), "{:?}", outcome.lines);
    (outcome.code(), record.cause, run.why)
}

/// A way to end, and what is to be made of it.
struct Row {
    options: &'static [&'static str],
    qemu: &'static str,
    end: fn(&mut Runner),
    code: i32,
    cause: &'static str,
    why: &'static str,
}

const fn row(
    options: &'static [&'static str],
    qemu: &'static str,
    (code, cause, why): (i32, &'static str, &'static str),
    end: fn(&mut Runner),
) -> Row {
    Row { options, qemu, end, code, cause, why }
}

const POWERDOWN: (i32, &str, &str) = (0, "powerdown", "powerdown");
const FORCED: (i32, &str, &str) = (41, "host-qmp-quit", "forced");
const REBOOTED: (i32, &str, &str) = (133, "guest-reset", "guest-reset");

/// Every row of the table of exit codes but those of bad input.
const ROWS: [Row; 29] = [
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
    // It answers the button with a reboot.
    row(&[], "", POWERDOWN, |it| {
        it.deafen();
        it.signal(Signal::TERM);
        it.await_line("asking the guest");
        await_that("the button is pressed", || {
            it.execute(&["query-status"]);
            true
        });
        it.tell(b'r');
    }),
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
    row(&[], "-device isa-debug-exit,iobase=0xf4", (33, "failed", "failed"), |it| it.tell(b'x')),
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
    for (number, Row { options, qemu, end, code, cause, why }) in ROWS.into_iter().enumerate() {
        let mut runner = kvmd_run().options(options).with(qemu).boot();
        end(&mut runner);
        let expected = (code, cause.to_string(), why.to_string());
        assert_eq!(judged(runner), expected, "row {number}: {options:?} {qemu}");
    }
    figure("ways to end under kvmd-run, each with its exit code", &ROWS.len().to_string());
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

/// Numbers that look random, the same in every run: xorshift.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[test]
fn a_stop_at_any_moment_ends_well() {
    needs!(Qemu);
    let mut dice = Dice(0x5eed);
    let mut causes = std::collections::BTreeMap::<String, u32>::new();
    for number in 0..200 {
        let when = number % 5;
        let options: &[&str] = if when == 2 { &["--continue-to-stop"] } else { &[] };
        let mut runner = kvmd_run().options(options).launch();
        let pause = Duration::from_micros(dice.roll(150_000));
        let qemu = format!("/proc/{}", runner.qemu());
        if when > 0 {
            runner.await_ready();
        }
        match when {
            // While QEMU starts and its guest boots, and while that runs.
            0 | 1 => thread::sleep(pause),
            2 => drop(runner.execute(&["stop"])),
            3 => {
                runner.tell(b'r');
                thread::sleep(pause);
            }
            _ => {
                runner.tell(b'p');
                thread::sleep(pause / 10);
            }
        }
        runner.signal(Signal::TERM);
        if number % 3 == 0 {
            runner.signal(Signal::TERM);
        }
        let outcome = runner.end();
        let said = outcome.lines.join("\n");
        assert_eq!(outcome.code(), 0, "number {number}:\n{said}");
        assert!(!fs::exists(&qemu).unwrap(), "number {number}: QEMU is left behind");
        *causes.entry(record(&outcome).cause).or_default() += 1;
    }
    figure(
        "SIGTERM to kvmd-run at 200 random moments: boot, running, pause, reset, power-off",
        &format!("200 ended with 0: {causes:?}"),
    );
}

#[test]
fn qemu_does_not_outlive_it() {
    needs!(Qemu);
    let mut delays = Vec::new();
    for number in 0..100 {
        let mut runner = kvmd_run().launch();
        // Half of them while they boot.
        if number % 2 == 0 {
            runner.await_ready();
        }
        delays.push(runner.kill());
    }
    delays.sort();
    figure(
        "kvmd-run killed with SIGKILL, 100 times: QEMU gone",
        &format!(
            "100 times, within {:.1} ms (median {:.1} ms)",
            delays[99].as_secs_f64() * 1000.0,
            delays[50].as_secs_f64() * 1000.0
        ),
    );
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
fn the_record_says_who_asked_and_kvmd_why_tells_it() {
    needs!(Qemu);
    let builder = kvmd_run();
    let records = builder.path("records");
    let runner = builder.boot();
    let qemu = runner.qemu();
    runner.signal(Signal::TERM);
    let why = |arguments: &[&str]| {
        let file = format!("--file={}", records.display());
        let output = Command::new(env!("CARGO_BIN_EXE_kvmd-why"))
            .arg(file)
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    await_that("there is a record", || records.exists());
    await_that("it is written", || why(&["web1"]).contains("kvmd-run exited with 0."));
    let told = why(&["web1"]);
    let this = std::process::id();
    assert!(
        told.starts_with(&format!(
            "web1 (pid {qemu}) obeyed a powerdown request after SIGTERM from "
        )),
        "{told}"
    );
    assert!(told.contains(&format!("[{this}] (uid ")), "{told}");
    assert!(told.contains("QEMU said: guest-shutdown."), "{told}");
    let (_, evidence) = told.split_once("The evidence").unwrap();
    let pieces = ["SIGTERM from", "pressed the guest's power button", "POWERDOWN", "SHUTDOWN"];
    let places: Vec<usize> = pieces.iter().map(|piece| evidence.find(piece).unwrap()).collect();
    assert!(places.is_sorted(), "{told}");
    assert!(!told.contains("mark"), "{told}");
    let record = record(&runner.end());
    assert_eq!((record.signal.as_deref(), record.exit_code), (Some("SIGTERM"), Some(0)));
    assert!(record.qemu.is_some() && record.uptime.is_some() && record.missing.is_empty());
}

#[test]
fn a_command_learns_the_verdict() {
    needs!(Qemu);
    let builder = kvmd_run().options(&["--name=db1", "--on-end=env >environment; exit 3"]);
    let environment = builder.path("environment");
    let runner = builder.boot();
    send_signal(runner.qemu(), Signal::KILL);
    await_that("the command has run", || {
        fs::read_to_string(&environment).is_ok_and(|text| text.contains("KVMD_WHY"))
    });
    let text = fs::read_to_string(&environment).unwrap();
    for line in ["KVMD_NAME=db1", "KVMD_CAUSE=killed", "KVMD_INITIATOR=admin", "KVMD_EXIT_CODE=33"]
    {
        assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
    }
    let outcome = runner.end();
    assert_eq!(outcome.code(), 33);
    assert!(outcome.lines.iter().any(|line| line.contains("--on-end failed")), "{outcome:?}");
}

#[test]
fn supervisors_are_notified() {
    needs!(Qemu);
    let builder = kvmd_run();
    let path = builder.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(testbed::PATIENCE)).unwrap();
    let next = || {
        let mut message = [0; 4096];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).trim_end().to_string()
    };
    let runner = builder.env("NOTIFY_SOCKET", path.display().to_string()).boot();
    assert_eq!(next(), "READY=1");
    assert!(next().starts_with("STATUS=the guest runs: QEMU "));
    runner.signal(Signal::TERM);
    let messages: Vec<String> = (0..4).map(|_| next()).collect();
    assert!(messages.iter().any(|it| it == "STOPPING=1"), "{messages:?}");
    assert!(messages.iter().any(|it| it == "EXTEND_TIMEOUT_USEC=30000000"), "{messages:?}");
    assert!(messages.iter().any(|it| it.starts_with("STATUS=asking the guest")), "{messages:?}");
    assert_eq!(runner.end().code(), 0);

    let builder = kvmd_run().options(&["--notify-fd=3"]);
    let ready = builder.path("ready");
    let runner = builder.through(&["sh", "-c", "exec \"$@\" 3>ready", "sh"]).boot();
    await_that("s6 is notified", || fs::read(&ready).is_ok_and(|bytes| bytes == b"\n"));
    // QEMU does not hold it.
    let descriptors = fs::read_dir(format!("/proc/{}/fd", runner.qemu())).unwrap();
    let targets = descriptors.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    assert!(targets.into_iter().all(|target| target != ready));
}

/// A service manager that does not read holds up nothing, and misses nothing in the end.
#[test]
fn a_supervisor_that_is_busy_is_notified_later() {
    needs!(Qemu);
    let builder = kvmd_run();
    let path = builder.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(testbed::PATIENCE)).unwrap();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"no room", &path).is_ok() {}
    let runner = builder.env("NOTIFY_SOCKET", path.display().to_string()).boot();
    runner.await_line("the guest runs");
    let next = || {
        let mut message = [0; 4096];
        loop {
            let length = socket.recv(&mut message).unwrap();
            if &message[..length] != b"no room" {
                break String::from_utf8_lossy(&message[..length]).trim_end().to_string();
            }
        }
    };
    assert_eq!(next(), "READY=1");
    assert!(next().starts_with("STATUS=the guest runs: QEMU "));
    runner.signal(Signal::TERM);
    assert_eq!(runner.end().code(), 0);
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
        (kvmd_run().that_runs(&["true"]), 71, "before it had opened its monitor, exit status 0"),
        (qemu("-nonsense"), 71, "before it had opened its monitor, exit status 1"),
        (qemu("-chardev null,id=kvmd-run"), 71, "before it had opened its monitor"),
        (qemu("-drive file=/no/such/image"), 71, "before it had opened its monitor"),
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
