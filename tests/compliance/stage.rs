//! What a compliance test is played on: the machine's own paths, and one of the two programs.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use testbed::ways::Subject;
use testbed::{Node, Signal, StandIn, await_that, patience, send_signal};

/// The program under test: that of `KVMD_UNDER_TEST`.
pub(crate) fn subject() -> Subject {
    match std::env::var("KVMD_UNDER_TEST").as_deref() {
        Err(_) | Ok("ours") => Subject::Ours,
        Ok("theirs") => Subject::Theirs,
        Ok(other) => panic!("KVMD_UNDER_TEST is either 'ours' or 'theirs', not '{other}'"),
    }
}

fn program(subject: Subject) -> PathBuf {
    match subject {
        Subject::Ours => env!("CARGO_BIN_EXE_ganeti-kvmd").into(),
        Subject::Theirs => testbed::original().expect("the original is installed"),
    }
}

/// A node with nothing on it but Ganeti's files.
pub(crate) struct Stage {
    pub(crate) node: Node,
    pub(crate) subject: Subject,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Stage {
    pub(crate) fn new(subject: Subject) -> Self {
        Self { node: Node::machine(program(subject)), subject }
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        run_command(&mut self.command(arguments))
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.node.program());
        command.args(arguments).envs(self.node.environment());
        command
    }

    /// Starts the program as a daemon, which detaches itself.
    pub(crate) fn detach(&self, arguments: &[&str]) -> Detached {
        let arguments = [&["--no-user-checks"], arguments].concat();
        let run = self.run(&arguments);
        assert_eq!((run.code, &*run.stderr), (Some(0), ""), "{run:?}");
        let pid = fs::read_to_string(self.node.pid_file()).expect("read the pid file");
        let pid = pid.lines().next().and_then(|pid| pid.parse().ok()).expect("a pid");
        Detached { pid, log: self.node.log_file() }
    }

    /// Starts a stand-in and waits until the daemon has connected to it.
    pub(crate) fn stand_in(&self, name: &str) -> StandIn {
        self.stand_in_with(name, "--drain=0")
    }

    /// The same, with another option. It listens already when its socket appears: the original
    /// loses others now and then.
    pub(crate) fn stand_in_with(&self, name: &str, option: &str) -> StandIn {
        self.node.with_control_dir().stand_in(name).with("--ready").with(option).connected()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.node.log_file()).unwrap_or_default()
    }
}

/// Runs a command to its end.
pub(crate) fn run_command(command: &mut Command) -> Run {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.process_group(0).spawn().expect("start the program");
    let group = child.id();
    let (done, is_done) = std::sync::mpsc::channel();
    let output = thread::scope(|scope| {
        scope.spawn(move || {
            if is_done.recv_timeout(patience()).is_err() {
                let group = i32::try_from(group).ok().and_then(rustix::process::Pid::from_raw);
                let _ = group.map(|g| rustix::process::kill_process_group(g, Signal::KILL));
            }
        });
        let output = child.wait_with_output().expect("wait for the program");
        let _ = done.send(());
        output
    });
    Run {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A daemon that has detached itself; killed when dropped.
pub(crate) struct Detached {
    pub(crate) pid: u32,
    log: PathBuf,
}

impl Detached {
    /// Waits until the log has a line with this text. The log is a file: there is nothing to
    /// be woken by that both programs have.
    pub(crate) fn await_line(&self, text: &str) -> String {
        await_line(&self.log, text)
    }

    pub(crate) fn is_alive(&self) -> bool {
        !testbed::has_ended(self.pid)
    }

    /// Sends a signal, and waits until the process has ended of it.
    pub(crate) fn end(&self, signal: Signal) {
        send_signal(self.pid, signal);
        await_that("the daemon ends", || !self.is_alive());
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        if self.is_alive() {
            send_signal(self.pid, Signal::KILL);
            await_that("the daemon is gone", || !self.is_alive());
        }
    }
}

pub(crate) fn await_line(log: &Path, text: &str) -> String {
    let mut found = String::new();
    await_that(&format!("the log has {text:?}"), || {
        let log = fs::read_to_string(log).unwrap_or_default();
        let line = log.lines().find(|line| line.contains(text));
        found = line.unwrap_or_default().to_string();
        line.is_some()
    });
    found
}
