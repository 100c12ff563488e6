//! The examples of packaging/supervisors under the real supervisors: a stop, a deaf guest, a user's
//! power-off, a crash, a reboot.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kvmd::wire::record::Record;
use serde_json::Value;
use testbed::{PATIENCE, Signal, await_that, boot_sector, needs, openrc, send_signal};

/// What a supervisor is called by, how it is told to stop a service and to start it again, and what it
/// says of one that is down and is to stay so.
struct Kind {
    example: &'static str,
    program: &'static str,
    stop: &'static [&'static str],
    start: &'static [&'static str],
    status: &'static [&'static str],
    is_down: fn(&str) -> bool,
}

/// A script of tests/systemd or tests/openrc.
macro_rules! script {
    ($name:literal) => {
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/", $name)
    };
}

const SYSTEMD: Kind = Kind {
    example: "systemd",
    program: script!("systemd/boot"),
    stop: &[script!("systemd/systemctl"), "stop"],
    start: &[script!("systemd/systemctl"), "start"],
    status: &[script!("systemd/systemctl"), "show"],
    // "activating" while it waits to be started again.
    is_down: |said| {
        said.lines().any(|line| matches!(line, "ActiveState=inactive" | "ActiveState=failed"))
    },
};
const RUNIT: Kind = Kind {
    example: "runit",
    program: "runsv",
    stop: &["sv", "down"],
    start: &["sv", "up"],
    status: &["sv", "status"],
    is_down: |said| said.starts_with("down: ") && !said.contains("want up"),
};
const S6: Kind = Kind {
    example: "s6",
    program: "s6-supervise",
    stop: &["s6-svc", "-d"],
    start: &["s6-svc", "-u"],
    status: &["s6-svstat"],
    // "ready" for the next start: its finish script has ended, too.
    is_down: |said| {
        said.starts_with("down ") && said.contains(", ready ") && !said.contains("want up")
    },
};
const OPENRC: Kind = Kind {
    example: "openrc",
    program: script!("openrc/boot"),
    stop: &[script!("openrc/rc-service"), "stop"],
    start: &[script!("openrc/rc-service"), "start"],
    status: &[script!("openrc/rc-service"), "status"],
    is_down: |said| said.contains("status: stopped"),
};
const DAEMONTOOLS: Kind = Kind {
    example: "daemontools",
    program: "supervise",
    stop: &["svc", "-d"],
    start: &["svc", "-u"],
    status: &["svstat"],
    is_down: |said| said.contains(": down ") && !said.contains("want up"),
};

/// A service under its supervisor; both are ended when dropped.
struct Service {
    kind: Kind,
    directory: tempfile::TempDir,
    supervisor: Child,
    listener: UnixListener,
    serial: Option<UnixStream>,
}

impl Service {
    /// Starts the supervisor, which starts the guest, and waits until that is ready.
    fn start(kind: Kind, options: &str) -> Self {
        Self::start_with(kind, options, |_| ())
    }

    /// The same after a change to the example, in the directory with this path.
    fn start_with(kind: Kind, options: &str, change: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::Builder::new().prefix("service").tempdir().unwrap();
        let below = |name: &str| directory.path().join(name);
        let service = below("web1");
        fs::create_dir(&service).unwrap();
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/supervisors");
        for file in fs::read_dir(example.join(kind.example)).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), service.join(file.file_name())).unwrap();
        }
        change(&service);
        // Where this was built may be a home, which a service of systemd's does not see.
        fs::copy(boot_sector(), below("image")).unwrap();
        let listener = UnixListener::bind(below("serial")).unwrap();
        let qemu = format!(
            "qemu-system-x86_64 -accel tcg -display none -nodefaults -m 16 -serial unix:{} -drive file={},format=raw,if=ide",
            below("serial").display(),
            below("image").display()
        );
        let options = format!("--records={} {options}", below("records").display());
        fs::write(below("web1.conf"), format!("QEMU=\"{qemu}\"\nOPTIONS=\"{options}\"\n")).unwrap();
        let supervisor = supervisor(&kind, &service);
        let mut service = Self { kind, directory, supervisor, listener, serial: None };
        service.await_guest();
        service
    }

    /// Kills the supervisor, and starts another at once, as the one above it would.
    fn replace_supervisor(&mut self) {
        self.supervisor.kill().unwrap();
        self.supervisor.wait().unwrap();
        self.supervisor = supervisor(&self.kind, &self.directory());
    }

    /// Waits until it is started, or started again. A QEMU that cannot have the disk yet connects, too,
    /// and ends.
    fn await_guest(&mut self) {
        self.listener.set_nonblocking(true).unwrap();
        await_that("the guest is started", || {
            let Ok((mut serial, _)) = self.listener.accept() else { return false };
            serial.set_nonblocking(false).unwrap();
            serial.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut said = [0];
            let is_ready = serial.read_exact(&mut said).is_ok() && said == *b"R";
            self.serial = Some(serial);
            is_ready
        });
    }

    fn tell(&mut self, command: u8) {
        self.serial.as_mut().unwrap().write_all(&[command]).unwrap();
    }

    fn deafen(&mut self) {
        self.tell(b'd');
        expect(self.serial.as_mut().unwrap(), b'!');
    }

    fn directory(&self) -> PathBuf {
        self.directory.path().join("web1")
    }

    fn say(&self, words: &[&str]) {
        let mut command = Command::new(words[0]);
        let status = command.args(&words[1..]).arg(self.directory()).stdout(Stdio::null()).status();
        assert!(status.unwrap().success(), "{words:?}");
    }

    /// The cause and the exit code of each end so far.
    fn ends(&self) -> Vec<(String, u8)> {
        let text = fs::read_to_string(self.directory.path().join("records")).unwrap_or_default();
        let records = text.lines().map(|line| Record::parse(line.as_bytes()).unwrap());
        records.map(|record| (record.cause, record.run.unwrap().exit_code)).collect()
    }

    /// Waits for so many ends, and gives the last of them.
    fn await_end(&self, count: usize) -> (String, u8) {
        let mut ends = Vec::new();
        await_that(&format!("there are {count} ends"), || {
            ends = self.ends();
            ends.len() >= count
        });
        ends.swap_remove(count - 1)
    }

    /// What the supervisor says of the service.
    fn status(&self) -> String {
        let mut command = Command::new(self.kind.status[0]);
        let output = command.args(&self.kind.status[1..]).arg(self.directory()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What journalctl(1) says in the systemd that runs it.
    fn journal(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(script!("systemd/journalctl"));
        let output = command.arg(self.directory()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until the supervisor says that it leaves the service down.
    fn await_down(&mut self) {
        await_that("the service is down", || (self.kind.is_down)(&self.status()));
        assert!(self.listener.accept().is_err(), "it was started again");
    }

    fn qemu(&self) -> u32 {
        *processes(&self.directory.path().join("serial"), "qemu").first().expect("QEMU runs")
    }
}

/// Starts the supervisor of the service in this directory.
fn supervisor(kind: &Kind, service: &Path) -> Child {
    Command::new(kind.program)
        .arg(service)
        .env("PATH", path())
        .env("KVMD_RUN_CONF", service.parent().unwrap())
        .env("OPENRC", openrc())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The processes of this program that have this path on their command line.
fn processes(path: &Path, program: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let marked = path.display().to_string();
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let name = line.split('\0').next().unwrap_or_default().rsplit('/').next();
        name.is_some_and(|name| name.starts_with(program)) && line.contains(&marked)
    })
    .collect()
}

fn expect(serial: &mut UnixStream, letter: u8) {
    let mut said = [0];
    serial.read_exact(&mut said).unwrap();
    assert_eq!(said, [letter]);
}

/// With the program that was built for this test in front.
fn path() -> OsString {
    let built = Path::new(env!("CARGO_BIN_EXE_kvmd-run")).parent().unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = [built.to_path_buf()].into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(all).unwrap()
}

impl Drop for Service {
    fn drop(&mut self) {
        // Where it is the first process of a namespace, all others are gone before it is.
        let first = fs::read_to_string(self.directory.path().join("first.pid"));
        if let Some(first) = first.ok().and_then(|pid| pid.trim().parse().ok()) {
            send_signal(first, Signal::KILL);
        } else {
            let _ = self.supervisor.kill();
        }
        let _ = self.supervisor.wait();
        if self.kind.example == "systemd" {
            let mut command = Command::new(script!("systemd/control-group"));
            let _ = command.arg(self.directory.path()).arg("--remove").status();
        }
        // It is its own master now; QEMU goes with it.
        for pid in processes(&self.directory.path().join("serial"), "kvmd-run") {
            send_signal(pid, Signal::KILL);
        }
    }
}

fn play(kind: fn() -> Kind) {
    // It is asked, it obeys, and stays down until it is wanted again.
    let mut service = Service::start(kind(), "");
    service.say(service.kind.stop);
    assert_eq!(service.await_end(1), ("powerdown".into(), 0));
    service.await_down();
    service.say(service.kind.start);
    service.await_guest();
    // It crashes, and it reboots: it is started again each time.
    send_signal(service.qemu(), Signal::SEGV);
    assert_eq!(service.await_end(2), ("crashed".into(), 33));
    service.await_guest();
    service.tell(b'r');
    assert_eq!(service.await_end(3), ("guest-reset".into(), 133));
    service.await_guest();
    // Its user powers it off: it stays down.
    service.tell(b'p');
    assert_eq!(service.await_end(4), ("guest-shutdown".into(), 0));
    service.await_down();
    drop(service);
    play_deaf(kind);
}

/// Its supervisor is killed: its guest is shut down, and another supervisor can start it.
fn play_orphaned(kind: Kind) {
    let mut service = Service::start(kind, "");
    let qemu = service.qemu();
    service.replace_supervisor();
    // Those that are started before it is down cannot have its disk, and end with 71.
    await_that("it is shut down", || service.ends().contains(&("powerdown".into(), 42)));
    await_that("QEMU is gone", || !fs::exists(format!("/proc/{qemu}")).unwrap());
    service.await_guest();
    service.say(service.kind.stop);
    service.await_down();
}

fn play_deaf(kind: fn() -> Kind) {
    // It is deaf, and gone within the budget.
    let mut service = Service::start(kind(), "--stop-timeout=2");
    service.deafen();
    service.say(service.kind.stop);
    assert_eq!(service.await_end(1), ("host-qmp-quit".into(), 41));
    service.await_down();
}

#[test]
fn systemd_stops_it_gracefully_and_knows_when_to_start_it_again() {
    needs!(Qemu, Root, Systemd);
    play(|| SYSTEMD);
}

/// Adds lines to the section `[Service]` of systemd's unit.
fn drop_in(lines: &'static str) -> impl FnOnce(&Path) {
    move |service| {
        let directory = service.join("kvmd-run@.service.d");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("test.conf"), format!("[Service]\n{lines}\n")).unwrap();
    }
}

#[test]
fn systemd_is_told_when_the_guest_runs_and_what_goes_on() {
    needs!(Qemu, Root, Systemd);
    let service = Service::start(SYSTEMD, "");
    let mut said = String::new();
    // The guest may be a moment ahead.
    await_that("the unit is active", || {
        said = service.status();
        said.lines().any(|line| line == "ActiveState=active")
    });
    let has = |start: &str| said.lines().any(|line| line.starts_with(start));
    assert!(has("StatusText=the guest runs: QEMU ") && has("NRestarts=0"), "{said}");
}

#[test]
fn systemds_journal_has_the_end_once_and_explains_it() {
    needs!(Qemu, Root, Systemd);
    let mut service = Service::start(SYSTEMD, "");
    service.tell(b'p');
    assert_eq!(service.await_end(1), ("guest-shutdown".into(), 0));
    service.await_down();
    let said = service.journal(&["INSTANCE=web1", "-o", "json"]);
    let entries: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), 1, "{said}");
    for (field, value) in [
        ("CAUSE", "guest-shutdown"),
        ("INITIATOR", "user"),
        ("SYSLOG_IDENTIFIER", "kvmd-run"),
        ("PRIORITY", "5"),
        ("_SYSTEMD_UNIT", "kvmd-run@web1.service"),
    ] {
        assert_eq!(entries[0][field], value, "{field}: {said}");
    }
    let explained = service.journal(&["-x", "INSTANCE=web1"]);
    assert!(
        explained.contains("Subject: Virtual machine web1 was powered off from inside"),
        "{explained}"
    );
    // Nor is it there as a line of stderr's.
    let all = service.journal(&["--unit=kvmd-run@web1.service", "-o", "cat"]);
    assert!(all.contains("the guest runs: QEMU "), "{all}");
    assert_eq!(all.matches("Exiting with 0").count(), 1, "{all}");
}

/// The default `KillMode=` of systemd, which sends SIGTERM to QEMU as well.
#[test]
fn systemd_may_signal_qemu_too() {
    needs!(Qemu, Root, Systemd);
    let change = drop_in("KillMode=control-group");
    let mut service = Service::start_with(SYSTEMD, "", change);
    service.say(service.kind.stop);
    assert_eq!(service.await_end(1), ("powerdown".into(), 0));
    service.await_down();
}

#[test]
fn systemd_gives_a_stop_the_time_that_it_asks_for() {
    needs!(Qemu, Root, Systemd);
    // It would kill all of it after two seconds; the guest has half of ten.
    let mut service =
        Service::start_with(SYSTEMD, "--stop-timeout=10", drop_in("TimeoutStopSec=2"));
    service.deafen();
    service.say(service.kind.stop);
    assert_eq!(service.await_end(1), ("host-qmp-quit".into(), 41));
    service.await_down();
    assert!(service.status().lines().any(|line| line == "Result=exit-code"));
}

/// What systemd says of a time, in microseconds since the machine was booted.
fn microseconds(status: &str, property: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(property)?.strip_prefix('='));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{property}: {status}"))
}

#[test]
fn systemd_s_watchdog_lets_it_go_on_and_starts_it_again_if_it_hangs() {
    needs!(Qemu, Root, Systemd);
    let change = drop_in("WatchdogSec=1\nTimeoutAbortSec=1");
    let mut service = Service::start_with(SYSTEMD, "", change);
    await_that("it has pleased the watchdog for three times as long as that waits", || {
        let status = service.status();
        assert!(status.lines().any(|line| line == "NRestarts=0"), "{status}");
        let [began, pleased] = ["ExecMainStartTimestampMonotonic", "WatchdogTimestampMonotonic"]
            .map(|property| microseconds(&status, property));
        pleased > began + 3_000_000
    });
    let qemu = service.qemu();
    let runner = processes(&service.directory.path().join("serial"), "kvmd-run");
    send_signal(runner[0], Signal::STOP);
    // QEMU ends with it.
    service.await_guest();
    assert!(service.qemu() != qemu && !fs::exists(format!("/proc/{qemu}")).unwrap());
    service.say(service.kind.stop);
    assert_eq!(service.await_end(1), ("powerdown".into(), 0));
}

#[test]
fn runit_stops_it_gracefully_and_knows_when_to_start_it_again() {
    needs!(Qemu, Runit);
    play(|| RUNIT);
}

#[test]
fn s6_stops_it_gracefully_and_knows_when_to_start_it_again() {
    needs!(Qemu, S6);
    play(|| S6);
}

#[test]
fn openrc_stops_it_gracefully_and_knows_when_to_start_it_again() {
    needs!(Qemu, Root, OpenRc);
    play(|| OPENRC);
}

#[test]
fn daemontools_stop_it_gracefully_and_know_when_to_start_it_again() {
    needs!(Qemu, Daemontools);
    play(|| DAEMONTOOLS);
}

#[test]
fn a_killed_supervisor_of_runit_leaves_no_guest_behind() {
    needs!(Qemu, Runit);
    play_orphaned(RUNIT);
}

#[test]
fn a_killed_supervisor_of_s6_leaves_no_guest_behind() {
    needs!(Qemu, S6);
    play_orphaned(S6);
}

/// Nobody starts it again there: `supervise-daemon` is what would.
#[test]
fn a_killed_supervisor_of_openrc_leaves_no_guest_behind() {
    needs!(Qemu, Root, OpenRc);
    let service = Service::start(OPENRC, "");
    let qemu = service.qemu();
    let supervisor = processes(&service.directory.path().join("records"), "supervise-daemon");
    send_signal(supervisor[0], Signal::KILL);
    assert_eq!(service.await_end(1), ("powerdown".into(), 42));
    await_that("QEMU is gone", || !fs::exists(format!("/proc/{qemu}")).unwrap());
}

#[test]
fn a_killed_supervisor_of_daemontools_leaves_no_guest_behind() {
    needs!(Qemu, Daemontools);
    play_orphaned(DAEMONTOOLS);
}
