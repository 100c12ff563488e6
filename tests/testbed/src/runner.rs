//! `kvmd-run` under test: a process that has a real QEMU for a child, and what it says.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tempfile::TempDir;

use crate::guest::{Listener, ask_qmp, boot_sector};
use crate::{PATIENCE, Signal, await_that, linux_guest, send_signal};

/// A QEMU that is yet to be run under `kvmd-run`.
#[derive(Debug)]
pub struct RunnerBuilder {
    words: Vec<String>,
    wrapper: Vec<String>,
    qemu: Vec<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    user: Option<u32>,
    directory: TempDir,
}

/// A running `kvmd-run`; killed when dropped, and QEMU with it.
#[derive(Debug)]
pub struct Runner {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    listener: UnixListener,
    serial: Option<UnixStream>,
    directory: TempDir,
}

/// How long the guest's disk is, in bytes.
const DISK: u64 = 1 << 20;

/// The QEMU that is run: `TESTBED_QEMU`, separated by spaces, if it is not to be that of this machine.
fn qemu() -> Vec<String> {
    let words = std::env::var("TESTBED_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".into());
    words.split_whitespace().map(String::from).collect()
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    /// What it said, QEMU's own messages among it.
    pub lines: Vec<String>,
    /// The records that it wrote, a line each.
    pub records: String,
}

impl RunnerBuilder {
    /// `program` is `kvmd-run`.
    #[must_use]
    pub fn new(program: impl AsRef<Path>) -> Self {
        let mut builder = Self::bare();
        let program = program.as_ref().to_str().expect("a path in UTF-8").to_string();
        let records = format!("--records={}", builder.path("records").display());
        builder.words = vec![program, records];
        builder
    }

    /// QEMU by itself, to compare `kvmd-run` with: it is what the [`Runner`] calls `kvmd-run`.
    #[must_use]
    pub fn bare() -> Self {
        let directory = tempfile::Builder::new().prefix("run").tempdir().expect("a directory");
        Self {
            words: Vec::new(),
            wrapper: Vec::new(),
            qemu: qemu(),
            arguments: Vec::new(),
            environment: Vec::new(),
            user: None,
            directory,
        }
    }

    /// Options for `kvmd-run`.
    #[must_use]
    pub fn options(mut self, options: &[&str]) -> Self {
        self.words.extend(options.iter().map(ToString::to_string));
        self
    }

    /// More arguments for QEMU, separated by spaces.
    #[must_use]
    pub fn with(mut self, arguments: &str) -> Self {
        self.arguments.extend(arguments.split_whitespace().map(String::from));
        self
    }

    /// `kvmd-run` is started through a command that becomes it.
    #[must_use]
    pub fn through(mut self, wrapper: &[&str]) -> Self {
        self.wrapper.extend(wrapper.iter().map(ToString::to_string));
        self
    }

    /// What `kvmd-run` runs in the place of QEMU.
    #[must_use]
    pub fn that_runs(mut self, words: &[&str]) -> Self {
        self.qemu = words.iter().map(ToString::to_string).collect();
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// It runs as this user. Takes root.
    #[must_use]
    pub fn as_user(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// A file in the directory of this test.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Boots the guest of `tests/guest` and waits until it is ready, and `kvmd-run` knows that it runs: on
    /// a busy machine the guest can be first.
    #[must_use]
    pub fn boot(self) -> Runner {
        let is_bare = self.words.is_empty();
        let mut runner = self.launch();
        runner.await_ready();
        if !is_bare {
            runner.await_line("the guest runs");
        }
        runner
    }

    /// Starts the guest of `tests/guest` without waiting for it.
    #[must_use]
    pub fn launch(mut self) -> Runner {
        let image = self.path("image");
        fs::copy(boot_sector(), &image).expect("copy the boot sector");
        // The BIOS reads no disk of a single sector on a q35.
        let disk = fs::OpenOptions::new().write(true).open(&image).expect("open the disk");
        disk.set_len(DISK).expect("make the disk longer");
        self.chown(&image);
        let drive = format!("file={},format=raw,if=ide,file.locking=off", image.display());
        self = self.with("-m 16 -drive").with(&drive);
        self.launch_with_devices()
    }

    /// Starts the guest of `tests/linux_guest` on this machine of QEMU's, without waiting for it.
    #[must_use]
    pub fn launch_linux(self, machine: &str) -> Runner {
        // QEMU may see no more of this machine's files than the directory of this test.
        let [kernel, initramfs] = ["vmlinuz", "initramfs.cpio.gz"].map(|name| {
            let copy = self.path(name);
            fs::copy(linux_guest(name), &copy).expect("copy the Linux guest");
            copy.display().to_string()
        });
        let system = format!("-M {machine} -m 192 -kernel {kernel} -initrd {initramfs}");
        // Without KVM a microvm has no clock by which its kernel could find out how fast its TSC is.
        let clock = if machine.starts_with("microvm") { " tsc_early_khz=2000000" } else { "" };
        let mut builder = self.with(&system);
        // The kernel keeps quiet at the serial line. On a busy host the timer of an emulated machine may not
        // tick ten times while the kernel tries it: then that panics, and says nothing.
        builder.arguments.extend(["-append".into(), format!("quiet no_timer_check{clock}")]);
        builder.launch_with_devices()
    }

    /// Starts QEMU with a serial line, a monitor of the user's, and nothing else that was not asked
    /// for.
    #[must_use]
    pub fn launch_with_devices(mut self) -> Runner {
        let [serial, qmp] = ["serial", "qmp"].map(|name| self.path(name));
        let listener = UnixListener::bind(&serial).expect("bind the serial line");
        self.chown(&serial);
        self = self.with("-accel tcg -display none -nodefaults -name web1 -serial");
        self = self.with(&format!("unix:{}", serial.display()));
        self = self.with("-qmp").with(&format!("unix:{},server,nowait", qmp.display()));
        self.start(listener)
    }

    /// Starts it with nothing but what was asked for.
    #[must_use]
    pub fn launch_bare(self) -> Runner {
        let listener = UnixListener::bind(self.path("serial")).expect("bind the serial line");
        self.start(listener)
    }

    fn chown(&self, path: &Path) {
        if let Some(user) = self.user {
            std::os::unix::fs::chown(path, Some(user), None).expect("give a file away");
        }
    }

    fn start(self, listener: UnixListener) -> Runner {
        self.chown(self.directory.path());
        let Self { words, wrapper, qemu, arguments, environment, user, directory } = self;
        let words = wrapper.iter().chain(&words).chain(&qemu).chain(&arguments);
        let words: Vec<&String> = words.collect();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .envs(environment)
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let mut child = command.spawn().expect("start kvmd-run");
        let stderr = child.stderr.take().expect("stderr is piped");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let reader = thread::spawn({
            let lines = Arc::clone(&lines);
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            }
        });
        Runner { child, lines, reader: Some(reader), listener, serial: None, directory }
    }
}

impl Runner {
    /// Waits until the guest is ready.
    pub fn await_ready(&mut self) {
        if self.serial.is_none() {
            self.await_serial_line();
        }
        self.await_letter(b'R');
    }

    /// Waits until QEMU has opened the guest's serial line, before the guest runs.
    pub fn await_serial_line(&mut self) {
        let child = pidfd(self.pid());
        let [opens, ends] = [self.listener.as_fd(), child.as_fd()];
        await_one(&mut [opens, ends].map(|it| PollFd::from_borrowed_fd(it, PollFlags::IN)));
        self.listener.set_nonblocking(true).expect("set non-blocking");
        let Ok((serial, _)) = self.listener.accept() else {
            panic!("it has ended:\n{}", self.lines().join("\n"));
        };
        serial.set_nonblocking(false).expect("set blocking");
        serial.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        self.serial = Some(serial);
    }

    /// Waits until it has booted again.
    pub fn await_reboot(&mut self) {
        self.await_letter(b'R');
    }

    fn await_letter(&mut self, expected: u8) {
        let mut letter = [0];
        let serial = self.serial.as_mut().expect("a serial line");
        serial.read_exact(&mut letter).expect("the guest says something");
        assert_eq!(letter, [expected]);
    }

    /// Gives the guest one of the commands of `tests/guest/guest.S`.
    pub fn tell(&mut self, command: u8) {
        let serial = self.serial.as_mut().expect("a serial line");
        serial.write_all(&[command]).expect("write to the serial line");
    }

    /// The guest's serial line, to be read even after its end.
    pub fn take_serial_line(&mut self) -> UnixStream {
        self.serial.take().expect("a serial line")
    }

    /// Makes the guest deaf to the power button.
    pub fn deafen(&mut self) {
        self.tell(b'd');
        self.await_letter(b'!');
    }

    /// Has QEMU execute commands at the user's own monitor. Gives the answers.
    pub fn execute(&self, commands: &[&str]) -> Vec<String> {
        ask_qmp(&self.directory.path().join("qmp"), commands)
    }

    /// Listens to QEMU at the user's own monitor, which has no other client until this is dropped.
    #[must_use]
    pub fn listen(&self) -> Listener {
        Listener::new(&self.directory.path().join("qmp"))
    }

    /// Waits until QEMU is in this state, by the user's own monitor.
    pub fn await_status(&self, status: &str) {
        let expected = format!("\"status\": \"{status}\"");
        await_that(&format!("QEMU is {status}"), || {
            self.execute(&["query-status"]).pop().is_some_and(|it| it.contains(&expected))
        });
    }

    /// Types at QEMU's stdin.
    pub fn type_in(&mut self, text: &[u8]) {
        let stdin = self.child.stdin.as_mut().expect("stdin is piped");
        stdin.write_all(text).and_then(|()| stdin.flush()).expect("type");
    }

    /// The pid of `kvmd-run`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The pid of QEMU, once it runs.
    #[must_use]
    pub fn qemu(&self) -> u32 {
        let path = format!("/proc/{0}/task/{0}/children", self.pid());
        let mut pid = None;
        await_that("kvmd-run has a child", || {
            let children = fs::read_to_string(&path).unwrap_or_default();
            pid = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
            pid.is_some()
        });
        pid.expect("a child")
    }

    pub fn signal(&self, signal: Signal) {
        send_signal(self.pid(), signal);
    }

    /// Everything said so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a line that contains this.
    pub fn await_line(&self, text: &str) {
        await_that(&format!("it says {text:?}"), || {
            self.lines().iter().any(|line| line.contains(text))
        });
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("look at kvmd-run").is_some()
    }

    /// Waits for its end.
    pub fn end(mut self) -> Outcome {
        let status = self.child.wait().expect("wait for kvmd-run");
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let records = fs::read_to_string(self.directory.path().join("records"));
        Outcome { status, lines: self.lines(), records: records.unwrap_or_default() }
    }

    /// Kills it with SIGKILL, and says how long QEMU was there after that.
    pub fn kill(mut self) -> Duration {
        let qemu = pidfd(self.qemu());
        let began = Instant::now();
        self.child.kill().expect("kill kvmd-run");
        await_one(&mut [PollFd::new(&qemu, PollFlags::IN)]);
        began.elapsed()
    }
}

fn pidfd(pid: u32) -> OwnedFd {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    pidfd_open(pid, PidfdFlags::empty()).expect("a pidfd")
}

/// Waits for one of these.
fn await_one(descriptors: &mut [PollFd<'_>]) {
    let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    let ready = poll(descriptors, Some(&patience)).expect("wait");
    assert!(ready > 0, "it has not come within {PATIENCE:?}");
}

impl Outcome {
    /// The exit code.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("{}: {:?}", self.status, self.lines))
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
