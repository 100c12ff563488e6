//! Many virtual machines of `examples/bench_vm.rs` at once, one process each.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, mkfifoat};
use tempfile::TempDir;
use testbed::{Node, await_that};

use crate::stamps::{Place, Stamps};

/// Between two looks at the stamps. Each look is a few hundred microseconds for thousands.
const LOOK: Duration = Duration::from_millis(4);

/// They are killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Herd {
    directory: TempDir,
    children: Vec<Child>,
    /// Under whose eyes they live.
    program: PathBuf,
    stamps: Place,
    power: Option<File>,
    flood: Option<File>,
}

/// How the machines are to behave.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Habits {
    /// How many events each sends when it is told to flood.
    pub(crate) flood: u64,
    /// They end only when they have seen their file.
    pub(crate) until_marked: bool,
}

impl Herd {
    /// Starts `count` machines; returns when each listens.
    pub(crate) fn start(node: &Node, count: usize, habits: Habits) -> Self {
        let directory = tempfile::Builder::new().prefix("herd").tempdir().expect("a directory");
        let gate = |name| {
            let path = directory.path().join(name);
            mkfifoat(CWD, &path, Mode::RWXU).expect("create a FIFO");
            // For both, so that it does not wait for the other side.
            OpenOptions::new().read(true).write(true).open(path).expect("open a FIFO")
        };
        let (power, flood) = (gate("power"), gate("flood"));
        let stamps = File::create(directory.path().join("stamps")).expect("create the stamps");
        stamps.set_len((count * 64) as u64).expect("make room for the stamps");
        let stamps = Place::open(directory.path(), 0);
        let mut herd = Self {
            directory,
            children: Vec::new(),
            program: node.program().into(),
            stamps,
            power: Some(power),
            flood: Some(flood),
        };
        let program = testbed::example("bench_vm");
        for index in 0..count {
            herd.add(node, &program, index, habits);
        }
        await_that("every machine has its socket", || {
            (0..count).rev().all(|index| node.socket(name(index)).exists())
        });
        herd
    }

    fn add(&mut self, node: &Node, program: &Path, index: usize, habits: Habits) {
        let mut command = Command::new(program);
        command.arg(self.directory.path()).arg(index.to_string()).arg(node.socket(name(index)));
        if habits.flood > 0 {
            command.arg(format!("--flood={}", habits.flood));
        }
        if habits.until_marked {
            let mut option = std::ffi::OsString::from("--until-marked=");
            option.push::<&OsStr>(node.shutdown_file(name(index)).as_ref());
            command.arg(option);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        self.children.push(child.expect("start a virtual machine"));
    }

    pub(crate) fn len(&self) -> usize {
        self.children.len()
    }

    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.children.iter().map(Child::id)
    }

    pub(crate) fn stamps(&self) -> Vec<Stamps> {
        self.stamps.read(self.len())
    }

    /// Waits until each has been sent as many commands over its connection; returns the moment
    /// of the last one.
    pub(crate) fn await_commands(&self, commands: u64) -> u64 {
        self.await_all("has been spoken to", |stamps| stamps.commands >= commands);
        self.stamps().iter().map(|stamps| stamps.last_command).max().unwrap_or_default()
    }

    /// Waits until nobody is connected to any.
    pub(crate) fn await_silence(&self) {
        self.await_all("is alone", |stamps| stamps.commands == 0);
    }

    /// Has all send their events; returns when each has, or when `give_up` says so.
    pub(crate) fn flood(&mut self, mut give_up: impl FnMut() -> bool) -> bool {
        self.flood = None;
        while !self.stamps().iter().all(|stamps| stamps.flooded > 0) {
            if give_up() {
                return false;
            }
            thread::sleep(LOOK * 10);
        }
        true
    }

    /// Has all power off, at once.
    pub(crate) fn power_off(&mut self) {
        self.power = None;
    }

    /// Waits for the end of each.
    pub(crate) fn reap(&mut self) {
        for child in &mut self.children {
            child.wait().expect("wait for a virtual machine");
        }
    }

    fn await_all(&self, what: &str, holds: impl Fn(&Stamps) -> bool) {
        let deadline = Instant::now() + testbed::patience();
        while !self.stamps().iter().all(&holds) {
            let met = self.stamps().iter().filter(|stamps| holds(stamps)).count();
            let (all, daemon) = (self.len(), self.program.display());
            let seconds = testbed::patience().as_secs();
            assert!(
                Instant::now() < deadline,
                "waited {seconds} s until each of {all} VMs {what} ({daemon}): {met} were"
            );
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

/// What the machine of this number is called.
pub(crate) fn name(index: usize) -> String {
    format!("vm{index}")
}
