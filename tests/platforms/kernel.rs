//! The kernel of each Debian boots in a virtual machine, emulated, and this project's own tests run
//! there: those of the daemon with stand-ins for QEMU, and every way to end with real QEMU, itself
//! emulated within. The machine's programs are those of this machine's Debian, since the test programs
//! were built against its libraries; only the kernel is another's.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::build::Build;
use crate::column::{Beginning, Cell, Column, Commit, Kind};
use crate::debian::{make_debian, make_foreign_debian, script};
use crate::{DIES_WITH_ITS_PARENT, directory, expected};

/// A kernel, and the machine that boots it.
pub(crate) struct Platform {
    pub(crate) title: &'static str,
    suite: &'static str,
    architecture: Architecture,
    /// What tests need that it is known not to have, in the words of `tests/testbed/src/needs.rs`.
    lacks: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Architecture {
    Amd64,
    Arm64,
}

const fn amd64(
    title: &'static str,
    suite: &'static str,
    lacks: &'static [&'static str],
) -> Platform {
    Platform { title, suite, architecture: Architecture::Amd64, lacks }
}

pub(crate) const PLATFORMS: [Platform; 5] = [
    amd64(
        "Kernel of Debian 11",
        "bullseye",
        &["Linux 6.6", "a /tmp whose files have a time of birth"],
    ),
    amd64("Kernel of Debian 12", "bookworm", &["Linux 6.6"]),
    amd64("Kernel of Debian 13", "trixie", &[]),
    amd64("Kernel of Debian 13, backports", "trixie-backports", &[]),
    Platform {
        title: "Debian 13 on arm64",
        suite: "trixie",
        architecture: Architecture::Arm64,
        lacks: &[],
    },
];

/// What the tests need in the machine: QEMU and an assembler for its guest, strace, `ss`, and
/// `insmod`.
const PACKAGES: [&str; 5] = ["qemu-system-x86", "strace", "binutils", "iproute2", "kmod"];
/// The same on arm64, where an assembler for the guest is one for another architecture.
const FOREIGN_PACKAGES: [&str; 5] =
    ["qemu-system-x86", "strace", "binutils-x86-64-linux-gnu", "iproute2", "kmod"];

/// The test programs that are played, and what they are called in the table: the unit tests, and of those
/// in `tests/` the ones that depend on the kernel most. All others take minutes each when emulated.
pub(crate) const TESTS: [(&str, &str); 8] = [
    ("kvmd", "unit tests"),
    ("pid_filter", "unit tests of bpf/"),
    ("check", "tests/check.rs"),
    ("kernel_filter", "tests/kernel_filter.rs"),
    ("listeners", "tests/listeners.rs"),
    ("sandbox", "tests/sandbox.rs"),
    ("confinement", "tests/confinement.rs"),
    ("losses", "tests/losses.rs"),
];
/// This very program, which plays the ways to end.
const WAYS: &str = "platforms";

/// How many cases a property test tries there: emulated they would take most of the time.
pub(crate) const PROPTEST_CASES: u32 = 32;

/// What the machine's lines begin with that are cells.
const CELL: &str = "CELL|";
/// The name of the cell that says which boot it was, if not the first.
pub(crate) const BOOT: &str = "boot";

/// What is booted.
struct Machine {
    kernel: PathBuf,
    module: PathBuf,
    root: PathBuf,
    build: Build,
}

impl Machine {
    fn new(platform: &Platform, commit: &Commit) -> Result<Self, String> {
        let suite = platform.suite;
        let of = |debian: PathBuf| [debian.join("vmlinuz"), debian.join("unix_diag.ko")];
        Ok(match platform.architecture {
            // The programs are this machine's; only the kernel is another's.
            Architecture::Amd64 => {
                let [kernel, module] = of(make_debian(suite, suite, &["qemu-system-x86"])?);
                let this = this_suite()?;
                let debian = make_debian(&format!("{this}-machine"), &this, &PACKAGES)?;
                Self { kernel, module, root: debian.join("root"), build: Build::of_this_machine() }
            }
            Architecture::Arm64 => {
                let name = format!("{suite}-arm64");
                let debian = make_foreign_debian(&name, (suite, "arm64"), &FOREIGN_PACKAGES)?;
                let [kernel, module] = of(debian.clone());
                Self {
                    kernel,
                    module,
                    root: debian.join("root"),
                    build: Build::for_arm64(suite, commit)?,
                }
            }
        })
    }

    fn qemu(&self, architecture: Architecture, initramfs: &Path) -> Command {
        let (program, machine, console): (_, &[&str], _) = match architecture {
            Architecture::Amd64 => ("qemu-system-x86_64", &[], "ttyS0"),
            Architecture::Arm64 => {
                ("qemu-system-aarch64", &["-machine", "virt", "-cpu", "cortex-a72"], "ttyAMA0")
            }
        };
        // Neither of the two outlives this program, whether it is interrupted or killed.
        let mut qemu = Command::new(DIES_WITH_ITS_PARENT[0]);
        qemu.args(&DIES_WITH_ITS_PARENT[1..])
            .args(["timeout", "--foreground", "3600"])
            .args(DIES_WITH_ITS_PARENT)
            .arg(program)
            .args(machine)
            .args(["-accel", "tcg,thread=multi", "-m", "4096", "-smp", "2"])
            .args(["-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(initramfs)
            .arg("-append")
            .arg(format!("console={console} panic=-1 quiet no_timer_check"));
        qemu
    }
}

pub(crate) fn play(platform: &Platform, commit: &Commit) -> Result<Column, String> {
    let beginning = Beginning::now(commit);
    let machine = Machine::new(platform, commit)?;
    let initramfs = directory().join("initramfs");
    make_initramfs(&machine, &initramfs)?;
    let log = directory().join(format!("{}.console", platform.title.replace(' ', "-")));
    let mut cells = boot(machine.qemu(platform.architecture, &initramfs), &log)?;
    if is_emulators_fault(&log) {
        let first = log.with_extension("first.console");
        println!("The kernel stumbled over the emulator ({}): once more ...", first.display());
        fs::rename(&log, &first).map_err(|error| format!("{}: {error}", log.display()))?;
        cells = boot(machine.qemu(platform.architecture, &initramfs), &log)?;
        cells.push(Cell {
            what: BOOT.into(),
            result: "the second: in the first one the kernel stumbled over the emulator".into(),
        });
    }
    let kernel = cells.iter().find(|cell| cell.what == "kernel");
    let kernel =
        kernel.ok_or_else(|| format!("not run: it does not boot; see {}", log.display()))?;
    let version = format!("Linux {}", kernel.result);
    for failure in expected::failures(&cells, platform.lacks) {
        println!("{}: {}", failure.what, failure.result);
        cells.push(failure);
    }
    Ok(beginning.column(Kind::Kernel, platform.title, version, cells))
}

/// Boots the machine and waits for its end. Returns the cells that it has played; what it says goes to
/// the log.
fn boot(mut qemu: Command, log: &Path) -> Result<Vec<Cell>, String> {
    let mut qemu = qemu
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{qemu:?}: {error}"))?;
    let output = BufReader::new(qemu.stdout.take().expect("stdout is piped"));
    let of_log = |error: std::io::Error| format!("{}: {error}", log.display());
    let mut console = File::create(log).map_err(of_log)?;
    let mut cells = Vec::new();
    for line in output.split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_string();
        writeln!(console, "{line}").map_err(of_log)?;
        if let Some((what, result)) = line.strip_prefix(CELL).and_then(|it| it.split_once('|')) {
            println!("{what}: {result}");
            cells.push(Cell { what: what.into(), result: result.into() });
        }
    }
    let _ = qemu.wait();
    Ok(cells)
}

/// The kernel patches its code while it runs, with a breakpoint where it is not done yet. An emulator of
/// two processors may have the second run into one that the first has taken away again. That takes a
/// panic for no fault of anybody's here; it was seen on a busy host.
fn is_emulators_fault(log: &Path) -> bool {
    fs::read_to_string(log).is_ok_and(|console| console.contains("Oops: int3"))
}

/// The Debian of this machine, against which the test programs were built.
fn this_suite() -> Result<String, String> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let suite = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    suite.map(String::from).ok_or_else(|| "not run: this machine is no Debian".into())
}

fn make_initramfs(machine: &Machine, initramfs: &Path) -> Result<(), String> {
    let build = &machine.build;
    let mut programs = format!("ganeti-kvmd {}/ganeti-kvmd\n", build.programs);
    for test in TESTS.iter().map(|(test, _)| *test).chain([WAYS]) {
        let _ = writeln!(programs, "{test} {}", build.test(test)?);
    }
    let list = directory().join("programs");
    fs::write(&list, programs).map_err(|error| format!("{}: {error}", list.display()))?;
    let status = Command::new(script("initramfs"))
        .args([&machine.root, &machine.module, &build.root])
        .arg(&build.checkout)
        .args([&list, initramfs])
        .env("PROPTEST_CASES", PROPTEST_CASES.to_string())
        .status();
    if status.is_ok_and(|status| status.success()) {
        Ok(())
    } else {
        Err("not run: tests/platforms/initramfs failed".into())
    }
}
