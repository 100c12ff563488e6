//! A directory that the daemon takes for the machine's root.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::guest::GuestBuilder;
use crate::stand_in::StandInBuilder;

/// A node of its own, removed when dropped.
#[derive(Debug)]
pub struct Node {
    root: TempDir,
    program: PathBuf,
}

impl Node {
    /// A node on which `program` is the daemon, with the directories that Ganeti makes.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let node = Self::bare(program);
        fs::create_dir_all(node.control_dir()).expect("create the control directory");
        fs::create_dir_all(node.pid_dir()).expect("create the pid directory");
        node
    }

    /// A node on which no instance was ever started: there is no control directory.
    #[must_use]
    pub fn bare(program: impl Into<PathBuf>) -> Self {
        let root = tempfile::Builder::new().prefix("node").tempdir().expect("create a root");
        let node = Self { root, program: program.into() };
        fs::create_dir_all(node.path("var/run/ganeti")).expect("create the run directory");
        fs::create_dir_all(node.path("var/log/ganeti")).expect("create the log directory");
        node
    }

    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    #[must_use]
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(below)
    }

    #[must_use]
    pub fn control_dir(&self) -> PathBuf {
        self.path("var/run/ganeti/kvm-hypervisor/ctrl")
    }

    #[must_use]
    pub fn pid_dir(&self) -> PathBuf {
        self.path("var/run/ganeti/kvm-hypervisor/pid")
    }

    #[must_use]
    pub fn socket(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.in_control_dir(name.as_ref(), ".kvmd")
    }

    #[must_use]
    pub fn shutdown_file(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.in_control_dir(name.as_ref(), ".shutdown")
    }

    fn in_control_dir(&self, name: &OsStr, suffix: &str) -> PathBuf {
        let mut file = name.to_os_string();
        file.push(suffix);
        self.control_dir().join(file)
    }

    #[must_use]
    pub fn has_shutdown_file(&self, name: impl AsRef<OsStr>) -> bool {
        self.shutdown_file(name).exists()
    }

    /// How many instances are marked as shut down by their user.
    #[must_use]
    pub fn shutdown_files(&self) -> usize {
        let entries = fs::read_dir(self.control_dir()).expect("list the control directory");
        entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().ends_with(".shutdown"))
            .count()
    }

    /// Starts the daemon and waits until it watches.
    #[must_use]
    pub fn start(&self) -> Daemon {
        self.start_with(&[])
    }

    /// As [`Node::start`], with more arguments.
    #[must_use]
    pub fn start_with(&self, arguments: &[&str]) -> Daemon {
        self.start_wrapped(&[], arguments)
    }

    /// As [`Node::start_with`], through another command (`strace ...`, `prlimit ...`).
    #[must_use]
    pub fn start_wrapped(&self, wrapper: &[&str], arguments: &[&str]) -> Daemon {
        Daemon::start(self, wrapper, arguments)
    }

    /// A real QEMU, yet to be booted.
    #[must_use]
    pub fn guest(&self, name: &str) -> GuestBuilder<'_> {
        GuestBuilder::new(self, name)
    }

    /// A process that behaves like QEMU as far as the daemon can see, yet to be started.
    #[must_use]
    pub fn stand_in(&self, name: impl AsRef<OsStr>) -> StandInBuilder<'_> {
        StandInBuilder::new(self, name.as_ref())
    }
}
