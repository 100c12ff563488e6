//! What the end-to-end tests are played on.
//!
//! A [`Node`] is a directory that the daemon takes for the machine's root, and in which it
//! runs for real. [`Guest`]s are real QEMU processes, [`StandIn`]s are processes that speak
//! QMP and die as QEMU does, for tests that need hundreds. A [`Witness`] says what was there
//! when a process ended. Nothing here waits by sleeping: events are awaited, and what does
//! not come within a minute fails the test with the daemon's log.
//!
//! The library knows nothing of the daemon's code: it sees what an administrator sees.

// Here everything that goes wrong fails the test.
#![allow(clippy::missing_panics_doc)]

mod attacker;
mod console;
mod daemon;
mod guest;
mod hung_file;
mod journal;
mod memory_group;
mod mounts;
mod needs;
mod node;
mod runner;
mod stand_in;
pub mod suite;
pub mod ways;
mod witness;

use std::fs;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

pub use attacker::{Attacker, NOBODY};
pub use console::Console;
pub use daemon::{Daemon, Death, WITHOUT_TRACE};
pub use guest::{Booting, Guest, GuestBuilder, Listener, boot_sector, execute_qmp};
pub use hung_file::HungFile;
pub use journal::{Journal, JournalEntry};
pub use memory_group::MemoryGroup;
pub use mounts::{InPlaceOf, Overlay, ganetis_groups, ganetis_users};
pub use needs::{Need, can_run, kernel_is_at_least, linux_guest, openrc, promtool};
pub use node::{NODE_NAME, Node};
pub use runner::{Outcome, Runner, RunnerBuilder};
pub use rustix::process::Signal;
pub use stand_in::{StandIn, StandInBuilder};
pub use suite::in_private_mounts;
pub use witness::{Seen, Witness};

/// How long a test waits for what must come. Never measured, only exceeded by a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The same, but shorter where failures are expected (`TESTBED_PATIENCE`, in seconds).
#[must_use]
pub fn patience() -> Duration {
    let seconds = std::env::var("TESTBED_PATIENCE").ok().and_then(|text| text.parse().ok());
    seconds.map_or(PATIENCE, Duration::from_secs)
}

/// Whether there is no such process any more, or one that is only waited for.
#[must_use]
pub fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// A figure for the table that `make check` prints at its end: what was played, and what came of
/// it. It goes to the file that `FIGURES` names, too.
pub fn figure(what: &str, result: &str) {
    println!("{what}: {result}");
    if let Some(path) = std::env::var_os("FIGURES") {
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.and_then(|mut file| writeln!(file, "{what}|{result}")).expect("write down a figure");
    }
}

/// Looks again and again until it holds: for what sends no event.
pub fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience();
    while !holds() {
        assert!(Instant::now() < deadline, "waiting until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Copies a program that is to be run. Another process does it: if this one had the copy open for
/// writing, so would a child that another thread starts at that moment, and nobody could run it
/// (`ETXTBSY`, execve(2)).
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let status = Command::new("cp").args([from.as_ref(), to.as_ref()]).status().expect("run cp");
    assert!(status.success(), "cp {}: {status}", from.as_ref().display());
}

/// An example of this package, built beside the test or the example that runs.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("this program's path");
    let built = this.ancestors().map(|above| above.join("examples").join(name));
    built
        .take(4)
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("examples/{name} is not built: type cargo build --examples"))
}

/// This project's daemon, built beside the example that runs.
#[must_use]
pub fn daemon_program() -> PathBuf {
    let this = std::env::current_exe().expect("this program's path");
    let examples = this.parent().expect("the directory of the examples");
    examples.with_file_name("ganeti-kvmd")
}

/// The daemon that comes with Ganeti (Debian's `ganeti-haskell-3.x`), the latest installed.
#[must_use]
pub fn original() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/ganeti")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("usr/sbin/ganeti-kvmd"))
        .filter(|program| program.is_file())
        .collect();
    versions.sort();
    versions.pop()
}

/// Sends a signal to a process of the test's own.
pub fn send_signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let sent = pid.map(|pid| rustix::process::kill_process(pid, signal));
    assert_eq!(sent, Some(Ok(())), "cannot send {signal:?}");
}

/// Leaves the test, named as not run, unless everything is there that it needs.
#[macro_export]
macro_rules! needs {
    ($($need:ident $(($($number:literal),+))?),+ $(,)?) => {
        if !$crate::can_run(&[$($crate::Need::$need $(($($number),+))?),+]) {
            return;
        }
    };
}
