//! Nothing of the clusters is left on the machine, however the test ends.
//!
//! The test runs as a child of this very program, in a mount namespace of its own. The parent is the
//! one to whom the kernel hands every orphan of the nodes: Ganeti's daemons, QEMU, sshd. It reaps
//! them, as init would, and when the test has ended, or someone types Ctrl-C, it kills what is left.
//! Mounts and networks go with the last process that is in them. If the parent itself is killed, the
//! child kills all the same; if both are, the next run does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, wait,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::processes;
use crate::stories::memory_cgroup::{self, Controller};

/// The environment variable with the directory that the nodes are built in; set for the child.
const TOP: &str = "CLUSTER_TOP";

/// The environment variable that is set for the process that ends the child when its parent is no more.
const ORPHANED: &str = "CLUSTER_ORPHANED";

/// What the names of such directories begin with.
const PREFIX: &str = "kvmd-cluster";

/// What the child exits with when someone has interrupted the test, as a shell has it.
const INTERRUPTED: u8 = 130;

/// The directory that the nodes are built in, for the child; nothing in the parent. The child is told
/// by SIGTERM that its parent is no more, and starts another process then, which ends all that is in
/// there: the child, too, as it would play on.
pub(crate) fn top() -> Option<PathBuf> {
    let top = std::env::var_os(TOP).map(PathBuf::from)?;
    if std::env::var_os(ORPHANED).is_some() {
        processes::end_all(|| processes::that_mount(&top));
        std::process::exit(INTERRUPTED.into());
    }
    let mut signals = Signals::new([SIGTERM]).expect("catch signals");
    thread::spawn(move || {
        // It comes once for each thread that the parent had.
        signals.forever().next();
        let this = std::env::current_exe().expect("this program's path");
        Command::new(this).env(ORPHANED, "1").status().expect("run this program")
    });
    Some(top)
}

/// Runs this program once more, contained, and clears up behind it.
#[allow(clippy::zombie_processes)] // all that end are reaped, this one with the orphans
pub(crate) fn run_contained() -> ExitCode {
    remove_left();
    let top = tempfile::Builder::new().prefix(PREFIX).tempdir().expect("make a directory");
    // As long as it is locked, other runs let it be. Children do not inherit it.
    let lock = fs::File::open(top.path()).expect("open the directory");
    flock(&lock, FlockOperation::LockExclusive).expect("lock the directory");
    set_child_subreaper(Some(getpid())).expect("take in the orphans");
    let controller = Controller::as_it_is();
    // Registered before there is anything to clear up.
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).expect("catch signals");
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "private"])
        .arg(std::env::current_exe().expect("this program's path"))
        .args(std::env::args_os().skip(1))
        .env(TOP, top.path())
        .spawn()
        .expect("run setpriv (package util-linux)");
    let child = Pid::from_child(&child);
    thread::spawn(move || {
        for _ in signals.forever() {
            eprintln!("\nInterrupted: clearing up ...");
            let _ = kill_process(child, Signal::KILL);
        }
    });
    let code = reap_until(child);
    processes::end_all(processes::descendants);
    memory_cgroup::remove_left();
    controller.restore();
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

/// Removes what is left of runs that were killed: nobody holds their locks.
fn remove_left() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if is_ours && entry.path().is_dir() {
            remove_if_left(&entry.path());
        }
    }
    memory_cgroup::remove_left();
}

fn remove_if_left(top: &Path) {
    let Ok(lock) = fs::File::open(top) else { return };
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        println!("Removing what a run that was killed has left ({}) ...", top.display());
        processes::end_all(|| processes::that_mount(top));
        // It is empty: what was in it was a mount of those processes'.
        if let Err(error) = fs::remove_dir(top) {
            eprintln!("{}: {error}", top.display());
        }
    }
}
