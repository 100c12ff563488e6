//! Real QEMU, with a guest of one boot sector.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

use crate::node::Node;
use crate::{PATIENCE, Signal, await_that, send_signal};

/// A guest that is yet to be booted.
#[derive(Debug)]
pub struct GuestBuilder<'a> {
    node: &'a Node,
    name: String,
    arguments: Vec<String>,
    is_daemonized: bool,
    /// What QEMU is started through.
    wrapper: Vec<String>,
    /// What it does not say about a shutdown: see `examples/old_qemu.rs`.
    unsaid: Option<&'static str>,
}

/// A running guest; killed when dropped.
#[derive(Debug)]
pub struct Guest {
    name: String,
    /// Absent where QEMU has detached itself.
    child: Option<Child>,
    pid: u32,
    serial: UnixStream,
    qmp: PathBuf,
}

impl<'a> GuestBuilder<'a> {
    pub(crate) fn new(node: &'a Node, name: &str) -> Self {
        Self {
            node,
            name: name.into(),
            arguments: Vec::new(),
            is_daemonized: false,
            wrapper: Vec::new(),
            unsaid: None,
        }
    }

    /// More arguments for QEMU, separated by spaces.
    #[must_use]
    pub fn with(mut self, arguments: &str) -> Self {
        self.arguments.extend(arguments.split_whitespace().map(String::from));
        self
    }

    /// QEMU detaches itself, as it does under Ganeti: then it is nobody's child but init's.
    #[must_use]
    pub fn daemonized(mut self) -> Self {
        self.is_daemonized = true;
        self
    }

    /// QEMU is started through a command that becomes QEMU (`prlimit ...`).
    #[must_use]
    pub fn through(mut self, wrapper: &[&str]) -> Self {
        self.wrapper.extend(wrapper.iter().map(ToString::to_string));
        self
    }

    /// The daemon hears an older QEMU: one whose SHUTDOWN lacks its `reason` or its `data`.
    #[must_use]
    pub fn that_does_not_say(mut self, unsaid: &'static str) -> Self {
        self.unsaid = Some(unsaid);
        self
    }

    /// Boots it and waits until its guest is ready.
    #[must_use]
    pub fn boot(self) -> Guest {
        self.launch().await_ready()
    }

    /// Starts QEMU without waiting for the guest.
    #[must_use]
    pub fn launch(self) -> Booting {
        let serial_path = self.node.path(format!("{}.serial", self.name));
        let _ = fs::remove_file(&serial_path);
        let serial = UnixListener::bind(&serial_path).expect("bind the serial line");
        let qmp = self.node.control_dir().join(format!("{}.qmp", self.name));
        let pid_file = self.node.pid_dir().join(&self.name);
        let (mut words, mut socket) = (self.wrapper.clone(), self.node.socket(&self.name));
        if let Some(unsaid) = self.unsaid {
            let real = self.node.path(format!("{}.real", self.name));
            let program = crate::example("old_qemu");
            for word in [&program, &socket, &real, &unsaid.into()] {
                words.push(word.to_str().expect("a path in UTF-8").into());
            }
            socket = real;
        }
        words.push("qemu-system-x86_64".into());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .current_dir(self.node.root())
            .args(["-accel", "tcg", "-display", "none", "-nodefaults", "-m", "16"])
            .args(["-name", &self.name])
            .arg("-drive")
            .arg(format!("file={},format=raw,if=ide,file.locking=off", boot_sector().display()))
            .arg("-serial")
            .arg(format!("unix:{}", serial_path.display()))
            .arg("-qmp")
            .arg(format!("unix:{},server,nowait", qmp.display()))
            .arg("-qmp")
            .arg(format!("unix:{},server,nowait", socket.display()))
            .arg("-pidfile")
            .arg(&pid_file)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if self.is_daemonized {
            command.arg("-daemonize");
        }
        let mut child = command.spawn().expect("start qemu-system-x86_64");
        let (child, pid) = if self.is_daemonized {
            assert!(child.wait().expect("wait for QEMU to detach").success());
            let pid = fs::read_to_string(&pid_file).expect("read QEMU's pid file");
            (None, pid.trim().parse().expect("a pid"))
        } else {
            let pid = child.id();
            (Some(child), pid)
        };
        Booting { name: self.name, child, pid, serial, qmp }
    }
}

/// QEMU runs; its guest is not ready yet.
#[derive(Debug)]
pub struct Booting {
    name: String,
    child: Option<Child>,
    pid: u32,
    serial: UnixListener,
    qmp: PathBuf,
}

impl Booting {
    /// Waits until the guest is ready.
    #[must_use]
    pub fn await_ready(self) -> Guest {
        let mut wanted = [PollFd::new(&self.serial, PollFlags::IN)];
        let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        let ready = poll(&mut wanted, Some(&patience)).expect("wait for the serial line");
        assert_eq!(ready, 1, "QEMU (pid {}) does not connect its serial line", self.pid);
        let (serial, _) = self.serial.accept().expect("accept the serial line");
        serial.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        let Self { name, child, pid, qmp, .. } = self;
        let mut guest = Guest { name, child, pid, serial, qmp };
        guest.await_letter(b'R');
        guest
    }
}

impl Guest {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Gives the guest one of the commands of `tests/guest/guest.S`.
    pub fn tell(&mut self, command: u8) {
        self.serial.write_all(&[command]).expect("write to the serial line");
    }

    /// Makes the guest deaf to the power button.
    pub fn deafen(&mut self) {
        self.tell(b'd');
        self.await_letter(b'!');
    }

    /// Waits until it has booted again after a reset.
    pub fn await_reboot(&mut self) {
        self.await_letter(b'R');
    }

    /// Waits until it has obeyed everything that it was told.
    pub fn await_answer(&mut self) {
        self.tell(b'?');
        self.await_letter(b'!');
    }

    /// Suspends it to RAM.
    pub fn suspend(&mut self) {
        self.tell(b's');
        self.await_status("suspended");
    }

    /// Wakes it, and waits until it is ready again.
    pub fn wake(&mut self) {
        self.execute(&["system_wakeup"]);
        self.await_letter(b'R');
    }

    fn await_letter(&mut self, expected: u8) {
        let mut letter = [0];
        self.serial.read_exact(&mut letter).expect("the guest says something");
        assert_eq!(letter, [expected]);
    }

    /// Has QEMU execute QMP commands over Ganeti's own monitor, one after the other. A QEMU that
    /// is gone before it answers has not refused.
    pub fn execute(&self, commands: &[&str]) {
        execute_qmp(&self.qmp, commands);
    }

    /// A client of Ganeti's own monitor, which hears what the daemon hears at its own.
    #[must_use]
    pub fn listen(&self) -> Listener {
        Listener::new(&self.qmp)
    }

    /// Waits until QEMU is in this state: a `RunState` of QEMU's `qapi/run-state.json`.
    pub fn await_status(&self, status: &str) {
        let expected = format!("\"status\": \"{status}\"");
        await_that(&format!("QEMU is {status}"), || {
            ask_qmp(&self.qmp, &["query-status"]).pop().is_some_and(|it| it.contains(&expected))
        });
    }

    /// Has QEMU execute a request that may be the end of it; whatever it answers.
    pub fn try_execute_raw(&self, request: &str) {
        let stream = UnixStream::connect(&self.qmp).expect("connect to the monitor");
        let requests = format!("{{\"execute\": \"qmp_capabilities\"}}\n{request}\n");
        (&stream).write_all(requests.as_bytes()).expect("write to the monitor");
        // Until it ends or has answered both.
        let lines = BufReader::new(&stream).lines().map_while(Result::ok);
        let _ = lines.filter(|line| !line.contains("\"event\"")).nth(2);
    }

    pub fn signal(&self, signal: Signal) {
        send_signal(self.pid, signal);
    }

    /// Whether QEMU has ended; it is reaped then.
    pub fn has_ended(&mut self) -> bool {
        let child = self.child.as_mut().expect("QEMU has not detached itself");
        child.try_wait().expect("look at QEMU").is_some()
    }

    /// Waits until QEMU has ended, and reaps it.
    pub fn wait(mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("QEMU has not detached itself");
        child.wait().expect("wait for QEMU")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        } else if is_qemu(self.pid) {
            send_signal(self.pid, Signal::KILL);
        }
    }
}

fn is_qemu(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("qemu"))
}

/// Has QEMU execute QMP commands at this socket, one after the other.
pub fn execute_qmp(socket: &Path, commands: &[&str]) {
    ask_qmp(socket, commands);
}

/// The same, with what it answered to each; nothing where it was gone before.
pub(crate) fn ask_qmp(socket: &Path, commands: &[&str]) -> Vec<String> {
    let mut listener = Listener::new(socket);
    commands.iter().map(|command| listener.execute(command)).collect()
}

/// A client of a monitor.
#[derive(Debug)]
pub struct Listener {
    stream: UnixStream,
    lines: Lines<BufReader<UnixStream>>,
}

impl Listener {
    /// Connects to the monitor at this socket.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("connect to the monitor");
        stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        let mut lines = BufReader::new(stream.try_clone().expect("a second descriptor")).lines();
        let greeting = lines.next().expect("a greeting").expect("a greeting");
        assert!(greeting.contains("QMP"), "{greeting}");
        let mut listener = Self { stream, lines };
        listener.execute("qmp_capabilities");
        listener
    }

    /// Gives a command, by its name or as a whole JSON object, without waiting for its answer.
    pub fn request(&self, command: &str) {
        let request = if command.starts_with('{') {
            format!("{command}\n")
        } else {
            format!("{{\"execute\": \"{command}\"}}\n")
        };
        (&self.stream).write_all(request.as_bytes()).expect("write to the monitor");
    }

    /// What QEMU answers to a command; nothing where it was gone before.
    pub fn execute(&mut self, command: &str) -> String {
        self.request(command);
        let mut lines = self.lines.by_ref().map_while(Result::ok);
        let answer = lines.find(|line| !line.contains("\"event\"")).unwrap_or_default();
        assert!(!answer.contains("\"error\""), "{command}: {answer}");
        answer
    }

    /// Waits for an event that contains this, and gives it; nothing if QEMU ends before.
    pub fn await_event(&mut self, text: &str) -> Option<String> {
        let mut lines = self.lines.by_ref().map_while(Result::ok);
        lines.find(|line| line.contains("\"event\"") && line.contains(text))
    }
}

/// The guest's boot sector, assembled once in each test program.
#[must_use]
pub fn boot_sector() -> &'static Path {
    static IMAGE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = IMAGE.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest/guest.S");
        let directory = tempfile::tempdir().expect("create a directory");
        let (object, image) = (directory.path().join("guest.o"), directory.path().join("guest"));
        run(Command::new("as").args(["--32", "-o"]).arg(&object).arg(source));
        run(Command::new("ld")
            .args(["-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o"])
            .args([&image, &object]));
        (directory, image)
    });
    path
}

fn run(command: &mut Command) {
    let status = command.status();
    assert!(status.as_ref().is_ok_and(ExitStatus::success), "{command:?}: {status:?}");
}
