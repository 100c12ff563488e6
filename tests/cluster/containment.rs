//! Nothing of the clusters is left on the machine, however the test ends.
//!
//! The test runs as a child of this very program, in a mount namespace of its own. The parent is the
//! one to whom the kernel hands every orphan of the nodes: Ganeti's daemons, QEMU, sshd. It reaps
//! them, as init would, and when the test has ended, or someone types Ctrl-C, it kills what is left.
//! Mounts and networks go with the last process that is in them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, wait,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::stories;

/// The environment variable with the directory that the nodes are built in; set for the child.
const TOP: &str = "CLUSTER_TOP";

/// What the child exits with when someone has interrupted the test, as a shell has it.
const INTERRUPTED: u8 = 130;

/// The directory that the nodes are built in, for the child; nothing in the parent.
pub(crate) fn top() -> Option<PathBuf> {
    std::env::var_os(TOP).map(PathBuf::from)
}

/// Runs this program once more, contained, and clears up behind it.
#[allow(clippy::zombie_processes)] // all that end are reaped, this one with the orphans
pub(crate) fn run_contained() -> ExitCode {
    let top = tempfile::Builder::new().prefix("kvmd-cluster").tempdir().expect("make a directory");
    set_child_subreaper(Some(getpid())).expect("take in the orphans");
    // Registered before there is anything to clear up.
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).expect("catch signals");
    let child = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().expect("this program's path"))
        .args(std::env::args_os().skip(1))
        .env(TOP, top.path())
        .spawn()
        .expect("run unshare (package util-linux)");
    let child = Pid::from_child(&child);
    thread::spawn(move || {
        for _ in signals.forever() {
            eprintln!("\nInterrupted: clearing up ...");
            let _ = kill_process(child, Signal::KILL);
        }
    });
    let code = reap_until(child);
    end_daemons();
    kill_descendants();
    stories::memory_cgroup::remove_left();
    drop(top);
    code
}

/// Reaps whatever ends until the child does.
fn reap_until(child: Pid) -> ExitCode {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => return exit_code(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("waiting for the test: {error}"),
        }
    }
}

fn exit_code(status: WaitStatus) -> ExitCode {
    let code = status.exit_status().and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(INTERRUPTED))
}

/// Has our daemons end by themselves: they remove their part of the kernel's trace then.
fn end_daemons() {
    let daemons: Vec<Pid> = descendants().into_iter().filter(|&pid| is_daemon(pid)).collect();
    for &pid in &daemons {
        let _ = kill_process(pid, Signal::TERM);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while daemons.iter().any(|&pid| is_daemon(pid)) && Instant::now() < deadline {
        let _ = wait(WaitOptions::NOHANG);
        thread::sleep(Duration::from_millis(10));
    }
}

fn is_daemon(pid: Pid) -> bool {
    let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
    name.is_ok_and(|name| name == "ganeti-kvmd\n")
}

/// Kills every process that this one has started, or that such a process has, until there is none.
fn kill_descendants() {
    loop {
        for pid in descendants() {
            let _ = kill_process(pid, Signal::KILL);
        }
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn descendants() -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some((pid, parent)) = pid_and_parent(&entry.path()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = children.remove(&getpid().as_raw_nonzero().get()).unwrap_or_default();
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    found.into_iter().filter_map(Pid::from_raw).collect()
}

fn pid_and_parent(process: &Path) -> Option<(i32, i32)> {
    let pid = process.file_name()?.to_str()?.parse().ok()?;
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some((pid, fields.split(' ').nth(1)?.parse().ok()?))
}
