//! What a test cannot do without, and what is said where it is missing.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::{Command, Stdio};

/// Something that not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `qemu-system-x86_64` and an assembler for its guest.
    Qemu,
    /// Root in the initial namespaces: for the proc connector and for sysctls.
    Root,
    /// `strace`, to make system calls fail.
    Strace,
    /// The daemon that comes with Ganeti, to be compared with.
    Original,
}

/// Whether this machine has all of it. If not, the running test is named on stderr and in the
/// file that `NOT_RUN` names, and under `CI=true` it fails.
#[must_use]
pub fn can_run(needs: &[Need]) -> bool {
    let missing: Vec<&str> =
        needs.iter().filter(|need| !need.is_met()).map(|need| need.describe()).collect();
    if missing.is_empty() {
        return true;
    }
    let test = std::thread::current().name().unwrap_or("a test").to_string();
    let text = format!("{test}: needs {}", missing.join(", "));
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "cannot run {text}");
    eprintln!("not run: {text}");
    if let Some(path) = std::env::var_os("NOT_RUN") {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let _ = file.and_then(|mut file| writeln!(file, "{text}"));
    }
    false
}

impl Need {
    fn is_met(self) -> bool {
        match self {
            Self::Qemu => has_program("qemu-system-x86_64") && has_program("as"),
            Self::Root => rustix::process::geteuid().is_root(),
            Self::Strace => has_program("strace"),
            Self::Original => has_program("/usr/lib/ganeti/3.0/usr/sbin/ganeti-kvmd"),
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Qemu => "qemu-system-x86_64 and binutils (packages qemu-system-x86, binutils)",
            Self::Root => "root",
            Self::Strace => "strace (package strace)",
            Self::Original => "the original ganeti-kvmd (package ganeti-haskell-3.0)",
        }
    }
}

fn has_program(name: &str) -> bool {
    let mut command = Command::new(name);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
