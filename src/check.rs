//! `--check`: looks at a node and says what will work, what is reduced, and what to do.
//!
//! It changes nothing and stays out of QEMU's way: no socket is connected to, since the place of the
//! one client that QEMU serves may be the daemon's.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::config::{self, Paths};
use crate::id::Name;
use crate::sys::connector::{Connector, Received, Unavailable};
use crate::sys::control_dir::{SHUTDOWN_SUFFIX, instance_name};
use crate::sys::pid_file::PidFile;
use crate::sys::trace::{self, Trace};
use crate::sys::tracefs::{self, Tracefs};
use crate::sys::{clock, node_name, plain_file, process};
use crate::wire::Quoted;

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
    instances(&mut report, &paths, is_running);
    match report.worst {
        Standing::Good => println!("\nEverything is as it should be."),
        Standing::Reduced => println!("\nIt works, with the limits listed above."),
        Standing::Wrong => println!("\nSomething has to be fixed: see above."),
    }
    if report.worst == Standing::Wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS }
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
        Report::advise("systemctl start ganeti-kvmd (or daemon-util start ganeti-kvmd)");
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

/// An instance as its files show it.
#[derive(Default)]
struct Instance {
    has_socket: bool,
    is_marked: bool,
    /// The process by Ganeti's pid file, if it runs.
    process: Option<u32>,
}

/// The second switch, sockets, who is at them, and files that are left.
fn instances(report: &mut Report, paths: &Paths, is_running: Option<u32>) {
    let directory = paths.control_dir();
    let found = match find_instances(paths) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            report.say(Standing::Good, "no instance has been started on this node yet");
            return;
        }
        Err(error) => {
            report.say(Standing::Wrong, &format!("{}: {error}", directory.display()));
            return;
        }
    };
    let listening = listening_sockets();
    let clients = clients();
    let (mut watched, mut unseen) = (0, 0);
    for (name, instance) in &found {
        let path = directory
            .join(std::ffi::OsStr::from_bytes(&[name.as_bytes(), b".kvmd".as_slice()].concat()));
        let path = path.display().to_string();
        let is_served = listening.as_ref().is_none_or(|sockets| sockets.contains(&path));
        match instance {
            Instance { process: Some(pid), has_socket: false, .. } => {
                report.say(
                    Standing::Reduced,
                    &format!(
                        "instance {name} (pid {pid}) has no socket: user shutdown is off for it"
                    ),
                );
                Report::advise(
                    "to turn it on: gnt-instance modify -H user_shutdown=True NAME, then gnt-instance reboot --type=full NAME",
                );
            }
            Instance { has_socket: true, .. } if !is_served => {
                report.say(
                    Standing::Good,
                    &format!(
                        "instance {name} is not running; its socket is left over from an earlier life"
                    ),
                );
            }
            Instance { has_socket: true, .. } => match clients.get(&path) {
                Some(None) => unseen += 1,
                Some(Some(client))
                    if is_running.is_some_and(|pid| client.contains(&format!("pid={pid},"))) =>
                {
                    watched += 1;
                }
                Some(Some(client)) => {
                    report.say(
                        Standing::Wrong,
                        &format!("instance {name}: another client holds its connection: {client}"),
                    );
                    Report::advise("stop that client; QEMU serves one at a time");
                }
                None if is_running.is_some() && !clients.is_empty() => {
                    report.say(
                        Standing::Wrong,
                        &format!("the daemon is not connected to instance {name}"),
                    );
                    Report::advise("look for its name in the daemon's log");
                }
                None => {}
            },
            Instance { .. } => {}
        }
        if instance.is_marked && instance.process.is_some() {
            report.say(
                Standing::Reduced,
                &format!("instance {name} is running but marked as shut down by its user"),
            );
            Report::advise("the daemon removes such a mark when it connects to the instance");
        }
    }
    if watched > 0 {
        report.say(Standing::Good, &format!("{watched} instances are watched"));
    }
    if unseen > 0 {
        report.say(
            Standing::Reduced,
            &format!("who holds the connection of {unseen} instances cannot be seen with `ss -xp`"),
        );
        Report::advise("run this as root, after: modprobe unix_diag");
    }
}

fn find_instances(paths: &Paths) -> io::Result<BTreeMap<Name, Instance>> {
    let mut found: BTreeMap<Name, Instance> = BTreeMap::new();
    for entry in fs::read_dir(paths.control_dir())? {
        let file = entry?.file_name();
        let marked = file.as_bytes().strip_suffix(SHUTDOWN_SUFFIX).filter(|name| !name.is_empty());
        if let Some(name) = instance_name(file.as_bytes()) {
            found.entry(name).or_default().has_socket = true;
        } else if let Some(name) = marked {
            found.entry(Name::new(name)).or_default().is_marked = true;
        }
    }
    let pid_files = paths.pid_file_of(&Name::new(b"."));
    for entry in fs::read_dir(pid_files).into_iter().flatten().flatten() {
        let name = Name::new(entry.file_name().as_bytes());
        let pid = process::read_pid_file(&entry.path()).ok().flatten();
        if let Some(pid) = pid.filter(|&pid| process::is_named(pid, name.as_bytes())) {
            found.entry(name).or_default().process = Some(pid);
        }
    }
    Ok(found)
}

/// The paths at which somebody listens: `/proc/net/unix`, see `net/unix/af_unix.c`.
fn listening_sockets() -> Option<Vec<String>> {
    /// `__SO_ACCEPTCON`
    const LISTENS: u32 = 0x10000;
    /// In bytes: anybody may have sockets there.
    const LONGEST: usize = 16 << 20;
    let table = plain_file::read("/proc/net/unix", LONGEST).ok()?;
    let table = String::from_utf8_lossy(&table);
    let path_of = |line: &str| {
        let mut fields = line.split_whitespace();
        let flags = fields.nth(3).and_then(|flags| u32::from_str_radix(flags, 16).ok())?;
        (flags & LISTENS != 0).then(|| fields.nth(3).map(String::from)).flatten()
    };
    Some(table.lines().filter_map(path_of).collect())
}

/// Who is at the other end of each socket with a path, as `ss -xp` has it; nothing without it. Only
/// root sees other users' processes, and without the kernel's module `unix_diag` nobody sees which
/// socket is the other end.
fn clients() -> BTreeMap<String, Option<String>> {
    let output = Command::new("ss").args(["-x", "-p", "-H"]).stdin(Stdio::null()).output();
    let Ok(output) = output else { return BTreeMap::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    // u_str ESTAB 0 0 PATH INODE * PEER users:((...))
    let lines: Vec<Vec<&str>> =
        text.lines().map(|line| line.split_whitespace().collect()).collect();
    let users: BTreeMap<&str, &str> =
        lines.iter().filter_map(|fields| Some((*fields.get(5)?, *fields.get(8)?))).collect();
    lines
        .iter()
        .filter(|fields| fields.get(1) == Some(&"ESTAB"))
        .filter_map(|fields| {
            let (path, peer) = (*fields.get(4)?, *fields.get(7)?);
            let client = users.get(peer).map(|client| {
                let client = Quoted(client.as_bytes()).to_string();
                client.trim_matches('"').replace("\\\"", "\"")
            });
            (path != "*").then(|| (path.to_string(), client))
        })
        .collect()
}
