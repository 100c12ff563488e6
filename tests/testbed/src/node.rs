//! A node: a directory that the daemon takes for the machine's root, or the machine itself.

use std::ffi::CStr;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::fs::{AtFlags, Mode, OFlags, openat, stat, statat, unlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create, fsmount,
    fsopen, mount, unmount,
};
use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::guest::GuestBuilder;
use crate::stand_in::StandInBuilder;
use crate::suite::are_mounts_private;

/// What the node is called in its cluster.
pub const NODE_NAME: &str = "node1.example.com";

/// Where Ganeti keeps its files, and where the daemon keeps those that are root's alone, each with
/// its mode.
const DIRECTORIES: [(&str, &CStr); 5] = [
    ("run/ganeti", c"mode=755"),
    ("var/lib/ganeti", c"mode=755"),
    ("var/log/ganeti", c"mode=755"),
    ("run/ganeti-kvmd", c"mode=700"),
    ("var/lib/ganeti-kvmd", c"mode=700"),
];

/// A node of its own, gone when dropped.
#[derive(Debug)]
pub struct Node {
    root: Root,
    program: PathBuf,
}

#[derive(Debug)]
enum Root {
    /// The daemon is told of it by `GANETI_ROOTDIR`.
    Directory(TempDir),
    /// The machine's own paths, in a mount namespace where Ganeti's directories are empty.
    Machine,
}

impl Node {
    /// A node on which `program` is the daemon, with the directories that Ganeti makes.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let node = Self::bare(program);
        node.with_control_dir();
        node
    }

    /// A node on which no instance was ever started: there is no control directory.
    #[must_use]
    pub fn bare(program: impl Into<PathBuf>) -> Self {
        let root = tempfile::Builder::new().prefix("node").tempdir().expect("create a root");
        let node = Self { root: Root::Directory(root), program: program.into() };
        for directory in ["var/run/ganeti", "var/lib/ganeti", "var/log/ganeti"] {
            fs::create_dir_all(node.path(directory)).expect("create Ganeti's directories");
        }
        node.in_a_cluster()
    }

    /// The machine itself, for a program that knows Ganeti's own paths only. To be made by a
    /// process that is in a mount namespace of its own (see [`crate::in_private_mounts`]), one
    /// at a time.
    #[must_use]
    pub fn machine(program: impl Into<PathBuf>) -> Self {
        assert!(are_mounts_private(), "these are the machine's real directories");
        for (directory, mode) in DIRECTORIES {
            let directory = Path::new("/").join(directory);
            fs::create_dir_all(&directory).expect("create the directories");
            mount("tmpfs", &directory, "tmpfs", MountFlags::empty(), Some(mode))
                .expect("mount an empty file system");
        }
        Self { root: Root::Machine, program: program.into() }.in_a_cluster()
    }

    /// Makes the directories that Ganeti makes when it starts its first instance.
    pub fn with_control_dir(&self) -> &Self {
        fs::create_dir_all(self.control_dir()).expect("create the control directory");
        fs::create_dir_all(self.pid_dir()).expect("create the pid directory");
        self
    }

    fn in_a_cluster(self) -> Self {
        self.set_ssconf("hypervisor_list", "kvm\n");
        self.set_ssconf("enabled_user_shutdown", "True\n");
        self.set_ssconf("node_vm_capable", &format!("{NODE_NAME}=True\n"));
        self
    }

    /// Writes what Ganeti's master would tell the node.
    pub fn set_ssconf(&self, key: &str, text: &str) {
        fs::write(self.ssconf(key), text).expect("write an ssconf file");
    }

    #[must_use]
    pub fn ssconf(&self, key: &str) -> PathBuf {
        self.path(format!("var/lib/ganeti/ssconf_{key}"))
    }

    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        match &self.root {
            Root::Directory(root) => root.path(),
            Root::Machine => Path::new("/"),
        }
    }

    /// What a program on this node has to find in its environment.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let mut environment = vec![("GANETI_HOSTNAME", NODE_NAME.into())];
        if let Root::Directory(root) = &self.root {
            environment.push(("GANETI_ROOTDIR", root.path().into()));
        }
        environment
    }

    #[must_use]
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root().join(below)
    }

    #[must_use]
    pub fn control_dir(&self) -> PathBuf {
        self.path("var/run/ganeti/kvm-hypervisor/ctrl")
    }

    #[must_use]
    pub fn pid_dir(&self) -> PathBuf {
        self.path("var/run/ganeti/kvm-hypervisor/pid")
    }

    /// The daemon's log.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.path("var/log/ganeti/kvm-daemon.log")
    }

    /// The daemon's own pid file.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.path("var/run/ganeti/ganeti-kvmd.pid")
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

    /// Starts the daemon and waits until it has everything that it watches.
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

    /// As [`Node::start_wrapped`]; nothing if the daemon ends with an error that it names.
    #[must_use]
    pub fn try_start_wrapped(&self, wrapper: &[&str], arguments: &[&str]) -> Option<Daemon> {
        Daemon::try_start(self, wrapper, arguments)
    }

    /// Runs the program with these arguments until it ends by itself.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.args(arguments).envs(self.environment()).stdin(Stdio::null());
        command.output().expect("run the program")
    }

    /// Whether the daemon's instance of the kernel's tracing is there.
    #[must_use]
    pub fn has_trace(&self) -> bool {
        self.trace_mode().is_some()
    }

    /// Whether some daemon has found that instance abandoned: its sticky bit says so.
    #[must_use]
    pub fn trace_is_marked(&self) -> bool {
        self.trace_mode().is_some_and(|mode| mode.contains(Mode::SVTX))
    }

    fn trace_mode(&self) -> Option<Mode> {
        let instances = trace_instances().expect("root may mount tracefs");
        let stat = statat(&instances, trace_name(self.root())?, AtFlags::empty()).ok()?;
        Some(Mode::from_raw_mode(stat.st_mode))
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

impl Drop for Node {
    fn drop(&mut self) {
        match &self.root {
            Root::Machine => {
                for (directory, _) in DIRECTORIES {
                    let _ = unmount(Path::new("/").join(directory), UnmountFlags::DETACH);
                }
            }
            Root::Directory(root) => remove_trace(root.path()),
        }
    }
}

/// Removes the instance of the kernel's tracing that a daemon below this root leaves when it is
/// killed.
fn remove_trace(root: &Path) {
    if let (Some(instances), Some(name)) = (trace_instances(), trace_name(root)) {
        let _ = unlinkat(&instances, name, AtFlags::REMOVEDIR);
    }
}

/// It is named after the daemon's private directory; nothing where no daemon has made that.
fn trace_name(root: &Path) -> Option<String> {
    let private = stat(root.join("var/run/ganeti-kvmd")).ok()?;
    Some(format!("ganeti-kvmd-{:x}-{:x}", private.st_dev, private.st_ino))
}

/// The directory of the kernel's tracing instances; nothing for whoever may not mount it.
fn trace_instances() -> Option<OwnedFd> {
    let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    fsconfig_create(&context).ok()?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let tracefs = fsmount(&context, flags, MountAttrFlags::empty()).ok()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(&tracefs, "instances", flags, Mode::empty()).ok()
}
