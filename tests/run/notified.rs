//! What the supervisor hears while it goes on.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use testbed::{PATIENCE, RunnerBuilder, Signal, await_that, needs};

use crate::kvmd_run;

/// A service manager's end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

/// What fills its queue.
const NO_ROOM: &str = "no room";

impl Manager {
    fn of(builder: RunnerBuilder) -> (Self, RunnerBuilder) {
        let path = builder.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let builder = builder.env("NOTIFY_SOCKET", path.display().to_string());
        (Self { socket, path }, builder)
    }

    /// The next message that is `kvmd-run`'s.
    fn next(&self) -> String {
        let mut message = [0; 4096];
        loop {
            let length = self.socket.recv(&mut message).unwrap();
            let text = String::from_utf8_lossy(&message[..length]).trim_end().to_string();
            if text != NO_ROOM {
                break text;
            }
        }
    }

    fn be_busy(&self) {
        let filler = UnixDatagram::unbound().unwrap();
        filler.set_nonblocking(true).unwrap();
        while filler.send_to(NO_ROOM.as_bytes(), &self.path).is_ok() {}
    }

    /// Waits until it has heard so often, from now on, that `kvmd-run` goes on.
    fn await_alive(&self, times: usize) {
        self.rest();
        let mut heard = 0;
        while heard < times {
            heard += usize::from(self.next() == ALIVE);
        }
    }

    /// Everything that it has not looked at yet.
    fn rest(&self) -> Vec<String> {
        self.socket.set_nonblocking(true).unwrap();
        let mut messages = Vec::new();
        let mut message = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut message) {
            messages.push(String::from_utf8_lossy(&message[..length]).trim_end().to_string());
        }
        self.socket.set_nonblocking(false).unwrap();
        messages
    }
}

const ALIVE: &str = "WATCHDOG=1";

#[test]
fn supervisors_are_notified() {
    needs!(Qemu);
    let (manager, builder) = Manager::of(kvmd_run());
    let runner = builder.boot();
    assert_eq!(manager.next(), "READY=1");
    assert!(manager.next().starts_with("STATUS=the guest runs: QEMU "));
    runner.signal(Signal::TERM);
    let messages: Vec<String> = (0..4).map(|_| manager.next()).collect();
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
    let (manager, builder) = Manager::of(kvmd_run());
    manager.be_busy();
    let runner = builder.boot();
    runner.await_line("the guest runs");
    assert_eq!(manager.next(), "READY=1");
    assert!(manager.next().starts_with("STATUS=the guest runs: QEMU "));
    runner.signal(Signal::TERM);
    assert_eq!(runner.end().code(), 0);
}

/// systemd's `WatchdogSec=`. It goes on even after QEMU's end, while the administrator's command runs.
#[test]
fn a_watchdog_hears_that_it_goes_on() {
    needs!(Qemu);
    let options = ["--on-end=: >runs; read -r _ <go"];
    let (manager, builder) = Manager::of(kvmd_run().options(&options));
    let (runs, go) = (builder.path("runs"), builder.path("go"));
    let wrapper = "mkfifo go; WATCHDOG_PID=$$ exec \"$@\"";
    let builder = builder.env("WATCHDOG_USEC", "200000").through(&["sh", "-c", wrapper, "sh"]);
    let mut runner = builder.boot();
    manager.await_alive(3);
    // QEMU is not the one who is to tell it.
    let environment = fs::read(format!("/proc/{}/environ", runner.qemu())).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    assert!(environment.contains("PATH="), "{environment:?}");
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        assert!(!environment.contains(name), "{name} is in {environment:?}");
    }
    runner.tell(b'p');
    await_that("the command runs", || runs.exists());
    manager.await_alive(3);
    fs::write(go, "\n").unwrap();
    assert_eq!(runner.end().code(), 0);
}

#[test]
fn a_watchdog_that_waits_for_another_hears_nothing() {
    needs!(Qemu);
    for (name, value) in [("WATCHDOG_PID", "1"), ("WATCHDOG_USEC", "0"), ("WATCHDOG_USEC", "x")] {
        let (manager, builder) = Manager::of(kvmd_run().env("WATCHDOG_USEC", "1000"));
        let runner = builder.env(name, value).boot();
        runner.signal(Signal::TERM);
        assert_eq!(runner.end().code(), 0);
        let heard = manager.rest();
        assert!(heard.contains(&"READY=1".into()), "{heard:?}");
        assert!(!heard.contains(&ALIVE.into()), "{name}={value}: {heard:?}");
    }
}
