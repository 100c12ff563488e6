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

/// How long a command on a node may take, in seconds: a test of Ganeti's QA takes two minutes on a busy
/// machine.
const LONGEST: u32 = 300;
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

/// Makes what all nodes have in common, and unpacks the package of our daemon, to compare it with what
/// runs. `ganeti` is where Ganeti's packages are.
pub(crate) fn make_base(top: &Path, ganeti: &Path, daemon: &Path) {
    let status = Command::new(script("base")).args([top, ganeti, daemon]).status();
    assert!(status.is_ok_and(|status| status.success()), "cannot make the nodes' files");
}

/// Our daemon, as it is in its package.
pub(crate) fn our_daemon(top: &Path) -> PathBuf {
    top.join("daemon/usr/sbin/ganeti-kvmd")
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
    pub(crate) fn new(top: &Path, cluster: &str, names: &[String], index: usize) -> Result<Self> {
        let name = names[index].clone();
        // It ends with the thread that plays on it.
        let mut keeper = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare"])
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
            .map_err(|error| Failed(format!("setpriv (package util-linux): {error}")))?;
        let mut output = BufReader::new(keeper.stdout.take().expect("stdout is piped"));
        let mut said = String::new();
        while !said.ends_with("ready\n") {
            match output.read_line(&mut said) {
                Ok(length) if length > 0 => {}
                _ => return Err(Failed(format!("making the node {name}: {said}"))),
            }
        }
        Ok(Self { name, keeper })
    }

    /// "node1" or "node2", the same in each cluster.
    pub(crate) fn short_name(&self) -> &str {
        let host = self.name.split('.').next().unwrap_or_default();
        host.rsplit('-').next().unwrap_or_default()
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

    /// The program that a process runs, byte by byte: paths differ from one root to another.
    pub(crate) fn runs(pid: u32, program: &Path) -> Result<()> {
        let read = |path: &Path| {
            fs::read(path).map_err(|error| Failed(format!("{}: {error}", path.display())))
        };
        let running = PathBuf::from(format!("/proc/{pid}/exe"));
        if read(&running)? == read(program)? {
            return Ok(());
        }
        let running = fs::read_link(running).unwrap_or_default();
        Err(Failed(format!("{} runs, and not {}", running.display(), program.display())))
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
