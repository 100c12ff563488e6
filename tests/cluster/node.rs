//! A node of a cluster: namespaces of its own, its files an overlay over the machine's.
//!
//! The scripts `base` and `node` make it. It shares the machine's pid namespace, as the kernel reports
//! how processes end nowhere else.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// How long a command on a node may take, in seconds.
const LONGEST: u32 = 100;
/// How long one may take that stays until the test ends: what `timeout` takes for no limit.
const FOREVER: u32 = 0;

/// A command on a node failed; with everything that it has printed.
#[derive(Clone, Debug)]
pub(crate) struct Failed(pub(crate) String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) type Result<T> = std::result::Result<T, Failed>;

/// Makes what all nodes have in common. `packages` is where Ganeti's are.
pub(crate) fn make_base(top: &Path, packages: &Path) {
    let status = Command::new(script("base")).args([top, packages]).status();
    assert!(status.is_ok_and(|status| status.success()), "cannot make the nodes' files");
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster").join(name)
}

/// Where the floppy disk of an instance is on each node.
pub(crate) fn floppy(instance: &str) -> String {
    format!("/srv/{instance}.floppy")
}

/// A node; its processes are killed when the test ends.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// The process that keeps its namespaces.
    keeper: Child,
}

impl Node {
    /// Makes a node of this cluster: the first or the second of `names`.
    pub(crate) fn new(top: &Path, cluster: &str, names: &[String], index: usize) -> Self {
        let name = names[index].clone();
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--net", "--uts", "--propagation", "private"])
            .arg(script("node"))
            .arg(top)
            .args([&name, &(11 + index).to_string(), &name, cluster])
            .args(names)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Ctrl-C is the parent's business: it kills everything at once.
            .process_group(0)
            .spawn()
            .expect("run unshare (package util-linux)");
        let mut output = BufReader::new(keeper.stdout.take().expect("stdout is piped"));
        let mut said = String::new();
        while !said.ends_with("ready\n") {
            let length = output.read_line(&mut said).expect("read what the node says");
            assert!(length > 0, "cannot make the node {name}: {said}");
        }
        Self { name, keeper }
    }

    /// The process that keeps its namespaces.
    pub(crate) fn pid(&self) -> u32 {
        self.keeper.id()
    }

    /// A file of the node's, seen from outside. No part of `path` may be a symbolic link.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid())).join(path.trim_start_matches('/'))
    }

    /// Puts a floppy disk with the guest of `tests/guest` at [`floppy`]. Each instance has one of its
    /// own: QEMU lets nobody else have what it writes to.
    pub(crate) fn make_floppy(&self, instance: &str) -> Result<()> {
        let path = self.path(&floppy(instance));
        let made = fs::copy(testbed::boot_sector(), &path)
            .and_then(|_| fs::OpenOptions::new().write(true).open(&path)?.set_len(1_474_560));
        made.map_err(|error| Failed(format!("making {}: {error}", path.display())))
    }

    /// A command to be run on the node, as root after a login.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        self.command_in(&["--mount", "--net", "--uts"], LONGEST, words)
    }

    fn command_in(&self, namespaces: &[&str], longest: u32, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.pid().to_string()])
            .args(namespaces)
            .args(["--", "env", "-i", "HOME=/root", "USER=root", "LC_ALL=C.UTF-8"])
            .args(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(["DEBIAN_FRONTEND=noninteractive", "timeout", &longest.to_string()])
            .args(words)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command on the node; what it has printed.
    pub(crate) fn run(&self, words: &[&str]) -> Result<String> {
        finish(&mut self.command(words), words)
    }

    /// The same with another limit, in seconds.
    pub(crate) fn run_for(&self, longest: u32, words: &[&str]) -> Result<String> {
        finish(&mut self.command_in(&["--mount", "--net", "--uts"], longest, words), words)
    }

    /// The same in the machine's own network: what starts the daemon has to be there.
    pub(crate) fn run_in_machine_network(&self, words: &[&str]) -> Result<String> {
        finish(&mut self.command_in(&["--mount", "--uts"], LONGEST, words), words)
    }

    /// Runs a program of this machine in the node's network; what it has printed.
    pub(crate) fn run_beside(&self, words: &[&str]) -> Result<String> {
        finish(&mut self.command_in(&["--net"], LONGEST, words), words)
    }

    /// Starts a program of this machine in the node's network, until the test ends.
    pub(crate) fn serve(&self, words: &[&str]) -> Result<()> {
        start(&mut self.command_in(&["--net"], FOREVER, words))
    }

    /// Starts a program on the node, until the test ends.
    pub(crate) fn serve_inside(&self, words: &[&str]) -> Result<()> {
        start(&mut self.command_in(&["--mount", "--net", "--uts"], FOREVER, words))
    }

    /// Installs Debian packages, as an administrator does.
    pub(crate) fn install(&self, packages: &[&Path]) -> Result<()> {
        let mut words = ["apt-get", "install", "-q", "-y"].map(ToString::to_string).to_vec();
        for package in packages {
            let name =
                package.file_name().and_then(|name| name.to_str()).expect("a package's name");
            let at = format!("/root/{name}");
            fs::copy(package, self.path(&at))
                .map_err(|error| Failed(format!("copying {}: {error}", package.display())))?;
            words.push(at);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.run_in_machine_network(&words).map(drop)
    }

    /// The pid of one of Ganeti's daemons here, if it runs.
    pub(crate) fn daemon(&self, name: &str) -> Option<u32> {
        self.run(&["/usr/lib/ganeti/daemon-util", "check", name]).ok()?;
        let pid = fs::read_to_string(self.path(&format!("run/ganeti/{name}.pid"))).ok()?;
        pid.trim().parse().ok()
    }

    pub(crate) fn daemon_util(&self, verb: &str, daemon: &str) -> Result<()> {
        self.run(&["/usr/lib/ganeti/daemon-util", verb, daemon]).map(drop)
    }
}

/// Starts a program whose end is the business of `containment`.
#[allow(clippy::zombie_processes)] // nothing ends before the test does
fn start(command: &mut Command) -> Result<()> {
    let started = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    started.map(drop).map_err(|error| Failed(format!("nsenter: {error}")))
}

fn finish(command: &mut Command, words: &[&str]) -> Result<String> {
    let output = command.output().map_err(|error| Failed(format!("nsenter: {error}")))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).trim().to_string();
    if output.status.success() {
        Ok(text)
    } else {
        Err(Failed(format!("{}: {}: {text}", words.join(" "), output.status)))
    }
}
