//! `--check`: looks at a node and says what will work, what is reduced, and what to do.
//!
//! It changes nothing and stays out of QEMU's way: no socket is connected to, since the place of the
//! one client that QEMU serves may be the daemon's.

mod instances;

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use crate::config::{self, Paths};
use crate::sys::connector::{Connector, Received, Unavailable};
use crate::sys::pid_file::PidFile;
use crate::sys::trace::{self, Trace};
use crate::sys::tracefs::{self, Tracefs};
use crate::sys::{clock, confinement, node_name, plain_file, priority, process};

/// How it stands with one thing that the daemon needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Good,
    /// The daemon works without it, and tells less.
    Reduced,
    /// It does not do what it is for.
    Wrong,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Good => "good",
            Self::Reduced => "limited",
            Self::Wrong => "WRONG",
        })
    }
}

/// Prints a line for each thing, and remembers the worst.
struct Report {
    worst: Standing,
}

impl Report {
    fn say(&mut self, standing: Standing, what: &str) {
        println!("{standing:<9}{what}");
        self.worst = self.worst.max(standing);
    }

    fn advise(remedy: &str) {
        println!("{:<9}→ {remedy}", "");
    }
}

/// Looks at everything. The exit code is 1 if something is wrong.
pub(crate) fn run() -> ExitCode {
    let paths = Paths::from_environment();
    let mut report = Report { worst: Standing::Good };
    let is_running = running_daemon(&mut report, &paths);
    cluster(&mut report, &paths);
    connector(&mut report);
    signals(&mut report, &paths, is_running);
    processes(&mut report);
    files(&mut report, &paths);
    protection(&mut report);
    instances::report(&mut report, &paths, is_running);
    match report.worst {
        Standing::Good => println!("\nEverything is as it should be."),
        Standing::Reduced => println!("\nIt works, with the limits listed above."),
        Standing::Wrong => println!("\nSomething has to be fixed: see above."),
    }
    if report.worst == Standing::Wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Where Ganeti's own start script is: packages for Debian have it in the first place, those for
/// Rocky Linux in the second.
fn daemon_util() -> Option<&'static str> {
    let paths = ["/usr/lib/ganeti/daemon-util", "/usr/lib64/ganeti/daemon-util"];
    paths.into_iter().find(|path| Path::new(path).exists())
}

/// The daemon that runs, if one does.
fn running_daemon(report: &mut Report, paths: &Paths) -> Option<u32> {
    let pid = match PidFile::holder(&paths.pid_file()) {
        Ok(pid) => pid,
        Err(error) => {
            let path = paths.pid_file();
            report.say(Standing::Wrong, &format!("{}: {error}", path.display()));
            return None;
        }
    };
    let Some(pid) = pid else {
        report.say(Standing::Wrong, "ganeti-kvmd is not running");
        let or = daemon_util().map(|path| format!(" (or {path} start ganeti-kvmd)"));
        Report::advise(&format!("systemctl start ganeti-kvmd{}", or.unwrap_or_default()));
        return None;
    };
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    let program = program.map_or_else(|_| "unknown".into(), |it| it.display().to_string());
    report.say(Standing::Good, &format!("ganeti-kvmd is running: process {pid}, {program}"));
    let this = std::env::current_exe().unwrap_or_default().display().to_string();
    if program != this {
        report.say(Standing::Reduced, &format!("it is a different program from this one, {this}"));
        Report::advise("systemctl restart ganeti-kvmd");
    }
    Some(pid)
}

/// The first of Ganeti's two switches.
fn cluster(report: &mut Report, paths: &Paths) {
    let find = |family| {
        let node = node_name::find(family, &paths.node_name_file());
        if let Some(failure) = node.failure() {
            let text = format!("cannot look up this node's name: {failure}");
            report.say(Standing::Reduced, &text);
            Report::advise(node_name::REMEDY);
        }
        node
    };
    match config::should_run(paths, find) {
        Ok(_) => report.say(
            Standing::Good,
            "the cluster has KVM and user_shutdown enabled, and this node may have instances",
        ),
        Err(why) => {
            report.say(Standing::Wrong, &why.to_string());
            Report::advise(why.remedy());
        }
    }
}

fn connector(report: &mut Report) {
    const TELLS: &str = "the kernel's proc connector reports how processes end";
    let answer = Connector::open(&[], clock::now()).and_then(|mut it| it.receive());
    match answer {
        Ok(Some(Received::Listening)) => report.say(Standing::Good, TELLS),
        other => {
            let reason = other.err().unwrap_or(Unavailable::Silent);
            report.say(
                Standing::Reduced,
                &format!("the kernel's proc connector does not report how processes end: {reason}"),
            );
            Report::advise("run it as root, outside containers; see ganeti-kvmd(8)");
        }
    }
}

fn signals(report: &mut Report, paths: &Paths, is_running: Option<u32>) {
    let mut name = tracefs::instance_name(&paths.private_dir());
    name.push("-check");
    let tracefs = Tracefs::find().map_err(trace::Unavailable::NoTracefs);
    match tracefs.and_then(|tracefs| Trace::open(&tracefs, &name, &[])) {
        Ok(_) => report.say(Standing::Good, "the kernel's trace shows who sends signals"),
        Err(trace::Unavailable::InUse) if is_running.is_some() => {}
        Err(reason) => {
            report.say(
                Standing::Reduced,
                &format!("the kernel's trace does not show who sends signals: {reason}"),
            );
        }
    }
}

fn processes(report: &mut Report) {
    match process::open_pidfd(std::process::id()) {
        Ok(_) => report.say(Standing::Good, "pidfds report when a process ends"),
        Err(error) => {
            report.say(
                Standing::Reduced,
                &format!("no pidfds ({error}): using the proc connector and /proc instead"),
            );
            Report::advise("use Linux 5.3 or later");
        }
    }
}

/// What the daemon writes.
fn files(report: &mut Report, paths: &Paths) {
    for path in [paths.records_file(), paths.state_file(), paths.log_file()] {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let may = rustix::fs::access(directory, rustix::fs::Access::WRITE_OK);
        if let Err(error) = may.map_err(io::Error::from) {
            // The daemon makes its own.
            if error.kind() == io::ErrorKind::NotFound && directory == paths.private_dir() {
                continue;
            }
            report.say(Standing::Wrong, &format!("cannot write {}: {error}", path.display()));
            Report::advise(&format!("make sure that {} exists", directory.display()));
        }
    }
}

/// What can keep the daemon on time, and in bounds should it ever be taken over: as far as this machine
/// has it. What the daemon made of it is in its log.
fn protection(report: &mut Report) {
    // In a thread that ends: it is not to stay as this leaves it.
    let raised = std::thread::spawn(priority::raise).join();
    match raised.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())) {
        Ok(()) => report.say(Standing::Good, "a real-time priority is allowed, to be on time"),
        Err(error) => {
            report.say(
                Standing::Reduced,
                &format!(
                    "no real-time priority ({error}): on a busy machine a guest may be gone before its file is there"
                ),
            );
            Report::advise("run it as root, outside containers, without RestrictRealtime=");
        }
    }
    if confinement::is_available() {
        report.say(
            Standing::Good,
            "the kernel has Landlock, to confine the daemon to its directories",
        );
    } else {
        report.say(
            Standing::Reduced,
            "the kernel has no Landlock, or has it off: only capabilities and seccomp confine it",
        );
        Report::advise("use Linux 5.13 or later, with landlock in /sys/kernel/security/lsm");
    }
    if plain_file::read("/sys/fs/selinux/enforce", 16).is_ok_and(|text| text.starts_with(b"1")) {
        report.say(Standing::Reduced, "SELinux is enforcing, and has not been tested with this");
        Report::advise("what it denies: ausearch -m AVC -c ganeti-kvmd");
    }
}
