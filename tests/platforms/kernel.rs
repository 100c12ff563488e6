//! The kernel of each Debian boots in a virtual machine, emulated, and this project's own tests run
//! there: those of the daemon with stand-ins for QEMU, and every way to end with real QEMU, itself
//! emulated within. The machine's programs are those of this machine's Debian, since the test programs
//! were built against its libraries; only the kernel is another's.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::column::{Cell, Column, Kind, today};
use crate::debian::{Platform, make_debian};
use crate::directory;

pub(crate) const PLATFORMS: [Platform; 4] = [
    Platform { title: "Kernel of Debian 11", suite: "bullseye" },
    Platform { title: "Kernel of Debian 12", suite: "bookworm" },
    Platform { title: "Kernel of Debian 13", suite: "trixie" },
    Platform { title: "Kernel of Debian 13, backports", suite: "trixie-backports" },
];

/// What the tests need in the machine: QEMU and an assembler for its guest, strace, `ss`, and
/// `insmod`.
const PACKAGES: [&str; 5] = ["qemu-system-x86", "strace", "binutils", "iproute2", "kmod"];

/// The test programs that are played, with `ways` for this very one: those that depend on the kernel
/// most. All others take minutes each when emulated.
pub(crate) const TESTS: [&str; 7] =
    ["check", "kernel_filter", "listeners", "sandbox", "confinement", "losses", "ways"];

/// What the machine's lines begin with that are cells.
const CELL: &str = "CELL|";

pub(crate) fn play(platform: &Platform) -> Result<Column, String> {
    let debian = make_debian(platform.suite, &["qemu-system-x86"])?;
    let machine = make_debian(&this_suite()?, &PACKAGES)?;
    let initramfs = directory().join("initramfs");
    make_initramfs(&machine.join("root"), &debian.join("unix_diag.ko"), &initramfs)?;
    let begin = Instant::now();
    let log = directory().join(format!("{}.console", platform.suite));
    let mut qemu = Command::new("timeout")
        .args([
            "3600",
            "qemu-system-x86_64",
            "-accel",
            "tcg,thread=multi",
            "-m",
            "4096",
            "-smp",
            "2",
        ])
        .args(["-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio"])
        .arg("-kernel")
        .arg(debian.join("vmlinuz"))
        .arg("-initrd")
        .arg(&initramfs)
        .args(["-append", "console=ttyS0 panic=-1 quiet no_timer_check"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("qemu-system-x86_64: {error}"))?;
    let output = BufReader::new(qemu.stdout.take().expect("stdout is piped"));
    let of_log = |error: std::io::Error| format!("{}: {error}", log.display());
    let mut console = File::create(&log).map_err(of_log)?;
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
    if cells.last().is_none_or(|cell| cell.what != "end") {
        cells.push(Cell {
            what: crate::column::FAILED.into(),
            result: "the machine ended before everything was played".into(),
        });
    }
    let kernel = cells.iter().find(|cell| cell.what == "kernel");
    let kernel =
        kernel.ok_or_else(|| format!("not run: it does not boot; see {}", log.display()))?;
    Ok(Column {
        kind: Kind::Kernel,
        title: platform.title.into(),
        version: format!("Linux {}", kernel.result),
        date: today(),
        seconds: begin.elapsed().as_secs(),
        cells,
    })
}

/// The Debian of this machine, against which the test programs were built.
fn this_suite() -> Result<String, String> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let suite = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    suite.map(String::from).ok_or_else(|| "not run: this machine is no Debian".into())
}

fn make_initramfs(root: &Path, module: &Path, initramfs: &Path) -> Result<(), String> {
    let daemon = Path::new(env!("CARGO_BIN_EXE_ganeti-kvmd"));
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut programs = format!("ganeti-kvmd {}\n", daemon.display());
    for name in TESTS {
        let program = match name {
            "ways" => this.clone(),
            _ => latest(name)?,
        };
        let _ = writeln!(programs, "{name} {}", program.display());
    }
    let list = directory().join("programs");
    fs::write(&list, programs).map_err(|error| format!("{}: {error}", list.display()))?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/platforms/initramfs");
    let status = Command::new(script).args([root, module, &list, initramfs]).status();
    if status.is_ok_and(|status| status.success()) {
        Ok(())
    } else {
        Err("not run: tests/platforms/initramfs failed".into())
    }
}

/// Cargo's latest build of a test program: it lies beside this one.
pub(crate) fn latest(test: &str) -> Result<std::path::PathBuf, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let entries =
        fs::read_dir(this.parent().expect("its directory")).into_iter().flatten().flatten();
    let is_it = |name: &str| {
        name.rsplit_once('-').is_some_and(|(stem, hash)| stem == test && !hash.contains('.'))
    };
    entries
        .filter(|entry| is_it(&entry.file_name().to_string_lossy()))
        .max_by_key(|entry| entry.metadata().and_then(|it| it.modified()).ok())
        .map(|entry| entry.path())
        .ok_or_else(|| format!("tests/{test}.rs is not built: type cargo test --no-run"))
}
