//! What a test cannot do without, and what is said where it is missing.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::time::{ClockId, clock_gettime, clock_settime};

use crate::original;

/// Something that not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `qemu-system-x86_64` and an assembler for its guest.
    Qemu,
    /// `qemu-img`, to look into a disk.
    QemuImg,
    /// Root in the initial namespaces: for the proc connector and for sysctls.
    Root,
    /// `/dev/fuse`, for a file that nobody can read.
    Fuse,
    /// `strace`, to make system calls fail.
    Strace,
    /// The daemon that comes with Ganeti, to be compared with.
    Original,
    /// Ganeti's Python code.
    Ganeti,
    /// Prometheus's own client library for Python.
    PrometheusClient,
    /// Prometheus's `promtool`, which tries rules.
    Promtool,
    /// The Linux guest of `tests/linux_guest`.
    LinuxGuest,
    /// A machine whose clock may be set.
    WallClock,
    /// This version of the kernel, or a later one.
    Linux(u32, u32),
    /// Files in the directory for temporary ones that know when they were made; those of a tmpfs do on
    /// later kernels only.
    TimesOfBirth,
    /// systemd, to be booted in namespaces, and version 2 of control groups for it.
    Systemd,
    /// The `OpenRC` of `tests/openrc`.
    OpenRc,
    Runit,
    S6,
    Daemontools,
    Chromium,
}

/// Whether this machine has all of it. If not, the running test is named on stderr and in the
/// file that `NOT_RUN` names, and under `CI=true` it fails.
#[must_use]
pub fn can_run(needs: &[Need]) -> bool {
    let missing: Vec<String> =
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
            Self::QemuImg => has_program("qemu-img"),
            Self::Root => rustix::process::geteuid().is_root(),
            Self::Fuse => Path::new("/dev/fuse").exists(),
            Self::Strace => has_program("strace"),
            Self::Original => original().is_some(),
            Self::Ganeti => python_package().is_some(),
            Self::PrometheusClient => {
                Path::new("/usr/lib/python3/dist-packages/prometheus_client").is_dir()
            }
            Self::Promtool => promtool().is_some(),
            Self::LinuxGuest => linux_guest("initramfs.cpio.gz").is_file(),
            Self::Linux(major, minor) => kernel_is_at_least(major, minor),
            Self::Systemd => {
                let has_groups = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
                    .iter()
                    .any(|place| Path::new(place).join("cgroup.procs").exists());
                has_groups && Path::new("/lib/systemd/systemd").exists()
            }
            Self::TimesOfBirth => {
                tempfile::tempfile().and_then(|file| file.metadata()?.created()).is_ok()
            }
            Self::OpenRc => openrc().join("usr/sbin/supervise-daemon").is_file(),
            Self::Runit => is_in_path("runsv"),
            Self::S6 => is_in_path("s6-supervise"),
            Self::Daemontools => is_in_path("svscan"),
            Self::Chromium => is_in_path("chromium"),
            Self::WallClock => {
                clock_settime(ClockId::Realtime, clock_gettime(ClockId::Realtime)).is_ok()
            }
        }
    }

    fn describe(self) -> String {
        let text = match self {
            Self::Linux(major, minor) => return format!("Linux {major}.{minor}"),
            Self::Qemu => "qemu-system-x86_64 and binutils (packages qemu-system-x86, binutils)",
            Self::QemuImg => "qemu-img (package qemu-utils)",
            Self::Root => "root",
            Self::Fuse => "/dev/fuse (modprobe fuse)",
            Self::Strace => "strace (package strace)",
            Self::Original => "the original ganeti-kvmd (package ganeti-haskell-3.0)",
            Self::Ganeti => "Ganeti's Python code (package ganeti-3.0)",
            Self::PrometheusClient => "python3-prometheus-client (package of that name)",
            Self::Promtool => "promtool (tests/prometheus target/prometheus promtool)",
            Self::WallClock => "CAP_SYS_TIME",
            Self::Systemd => "systemd (package systemd) and control groups of version 2",
            Self::TimesOfBirth => "a /tmp whose files have a time of birth",
            Self::OpenRc => "OpenRC (tests/openrc/build target/openrc)",
            Self::Runit => "runit (package runit)",
            Self::S6 => "s6 (package s6)",
            Self::Daemontools => "daemontools (package daemontools)",
            Self::Chromium => "a browser (package chromium)",
            Self::LinuxGuest => "a Linux guest (tests/linux_guest/build target/linux_guest)",
        };
        text.into()
    }
}

fn has_program(name: &str) -> bool {
    let mut command = Command::new(name);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// For programs that know no `--version`.
fn is_in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

/// Where Debian's `ganeti-3.x` has its Python code.
fn python_package() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/share/ganeti").into_iter().flatten().flatten();
    versions.map(|version| version.path().join("ganeti/backend.py")).find(|code| code.is_file())
}

/// A file of the Linux guest, as the Makefile has it made: `vmlinuz` or `initramfs.cpio.gz`.
#[must_use]
pub fn linux_guest(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/linux_guest").join(file)
}

/// The program, as the Makefile has it fetched, or that of an installed Prometheus.
#[must_use]
pub fn promtool() -> Option<PathBuf> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/prometheus/promtool");
    let installed = || has_program("promtool").then(|| PathBuf::from("promtool"));
    if fetched.is_file() { Some(fetched) } else { installed() }
}

/// The directory with `OpenRC`, as the Makefile has it unpacked.
#[must_use]
pub fn openrc() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/openrc")
}

/// Whether the running kernel is this version or a later one.
#[must_use]
pub fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the release");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(this)), Some(Ok(that))) => (this, that) >= (major, minor),
        _ => false,
    }
}
