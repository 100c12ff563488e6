//! Guests of the QEMU of each Debian end in every way there is, under the eyes of the daemon of this
//! build. That QEMU runs in the root of its Debian, and the daemon outside of it, on this machine's
//! kernel.

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::process::{Command, ExitCode};

use testbed::Node;
use testbed::ways::{OPTIONS, WAYS, Way};

use crate::column::{Beginning, Cell, Column, Commit, Kind, NOT_RUN, WRONG};
use crate::debian::make_debian;
use crate::page::WAY;
use crate::{DIES_WITH_ITS_PARENT, supervised};

/// A column of the table, and the suite that it is of.
pub(crate) struct Platform {
    pub(crate) title: &'static str,
    suite: &'static str,
    /// The options that it is known not to have.
    lacks: &'static [&'static str],
}

pub(crate) const PLATFORMS: [Platform; 4] = [
    Platform { title: "QEMU of Debian 11", suite: "bullseye", lacks: &["-action"] },
    Platform { title: "QEMU of Debian 12", suite: "bookworm", lacks: &[] },
    Platform { title: "QEMU of Debian 13", suite: "trixie", lacks: &[] },
    Platform { title: "QEMU of Debian 13, backports", suite: "trixie-backports", lacks: &[] },
];

const AS_ANOTHER_USER: &str = "as another user, then it powers off";
const IN_A_CHROOT: &str = "in a chroot of its own, then it powers off";

/// What is done to each guest, as a cell's name.
pub(crate) fn deeds() -> impl Iterator<Item = &'static str> {
    WAYS.iter().map(|way| way.deed).chain([AS_ANOTHER_USER, IN_A_CHROOT])
}

/// What there is of a QEMU: the command it is started through, and the options that it has.
struct Qemu {
    through: Vec<String>,
    lacks: &'static [&'static str],
    version: String,
    help: String,
}

/// What a QEMU of which this machine's root is not to be changed needs in its own.
const MOUNTS: [&str; 2] = ["/proc", "/dev"];

pub(crate) fn play(platform: &Platform, commit: &Commit) -> Result<Column, String> {
    let beginning = Beginning::now(commit);
    let debian = make_debian(platform.suite, platform.suite, &["qemu-system-x86"])?;
    let root = debian.join("root");
    // The sockets, the boot sector and whatever else QEMU is told of.
    let shared = std::env::temp_dir();
    let shared = shared.to_str().expect("a path in UTF-8");
    for directory in MOUNTS.into_iter().chain([shared]) {
        let inside = root.join(directory.trim_start_matches('/'));
        fs::create_dir_all(&inside).map_err(|error| format!("{}: {error}", inside.display()))?;
        let status = Command::new("mount").args(["--rbind", directory]).arg(&inside).status();
        if !status.is_ok_and(|status| status.success()) {
            return Err(format!("cannot mount {directory} in {}", root.display()));
        }
    }
    let through = ["chroot", root.to_str().expect("a path in UTF-8")].map(String::from);
    let qemu = Qemu::new(through.to_vec(), platform.lacks)?;
    println!("{} on {}", qemu.version, kernel_release());
    let mut cells = play_ways(&qemu, |cell| println!("{}: {}", cell.what, cell.result));
    cells.extend(supervised::play(&words(&qemu.through).join(" ")));
    Ok(beginning.column(Kind::Qemu, platform.title, qemu.version, cells))
}

/// In a machine booted by `kernel.rs`: prints a line for each cell, as `inside` does.
pub(crate) fn play_inside() -> ExitCode {
    let qemu = match Qemu::new(Vec::new(), &[]) {
        Ok(qemu) => qemu,
        Err(error) => {
            println!("CELL|failed|ways: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("CELL|qemu|{}", qemu.version);
    let cells = play_ways(&qemu, |cell| println!("CELL|{WAY}{}|{}", cell.what, cell.result));
    if cells.iter().all(|cell| !cell.result.starts_with(WRONG)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

pub(crate) fn kernel_release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}

/// The command that a QEMU is started with.
fn words(through: &[String]) -> Vec<String> {
    through.iter().cloned().chain(["qemu-system-x86_64".into()]).collect()
}

impl Qemu {
    fn new(through: Vec<String>, lacks: &'static [&'static str]) -> Result<Self, String> {
        let words = words(&through);
        let ask = |option: &str| {
            let output = Command::new(&words[0]).args(&words[1..]).arg(option).output();
            let output = output.map_err(|error| format!("{words:?}: {error}"))?;
            Ok::<_, String>(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let version = ask("--version")?;
        let version = version.lines().next().unwrap_or_default();
        let version = version.strip_prefix("QEMU emulator version ").unwrap_or(version);
        Ok(Self {
            version: format!("QEMU {}", version.split(' ').next().unwrap_or(version)),
            help: ask("--help")?,
            through,
            lacks,
        })
    }

    /// The arguments that a way needs; or why it cannot be played, which is wrong unless it is known.
    fn has(&self, arguments: &str) -> Result<(), String> {
        for option in arguments.split_whitespace().filter(|it| it.starts_with('-')) {
            // One line for each option, which begins with it.
            let is_option = |line: &str| line.split_whitespace().next() == Some(option);
            if !self.help.lines().any(is_option) {
                let said = if self.lacks.contains(&option) { NOT_RUN } else { WRONG };
                return Err(format!("{said}: this QEMU has no {option}"));
            }
        }
        Ok(())
    }

    /// How this QEMU gives up root, and how it is locked into a directory. Both options were replaced
    /// by `-run-with`.
    fn dropping_root(&self) -> [(&'static str, &'static str); 2] {
        if self.help.contains("user=username") {
            [(AS_ANOTHER_USER, "-run-with user=nobody"), (IN_A_CHROOT, "-run-with chroot=/srv")]
        } else {
            [(AS_ANOTHER_USER, "-runas nobody"), (IN_A_CHROOT, "-chroot /srv")]
        }
    }
}

/// A cell for each way, told of as soon as it is there: what comes after it may not come.
fn play_ways(qemu: &Qemu, tell: impl Fn(&Cell)) -> Vec<Cell> {
    // What fails is printed with its cell.
    panic::set_hook(Box::new(|_| {}));
    let play = |deed: &str, arguments: &str, way: &Way| {
        let result = qemu.has(arguments).map_or_else(
            |reason| reason,
            |()| {
                let play = AssertUnwindSafe(|| play_way(qemu, way, arguments));
                panic::catch_unwind(play).unwrap_or_else(|panic| {
                    let text = panic.downcast_ref::<String>().cloned();
                    let text =
                        text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                    let text = text.unwrap_or_default();
                    println!("{text}");
                    format!("{WRONG}: {}", text.lines().next().unwrap_or("it failed"))
                })
            },
        );
        let cell = Cell { what: deed.into(), result };
        tell(&cell);
        cell
    };
    let mut cells: Vec<Cell> = WAYS.iter().map(|way| play(way.deed, way.arguments, way)).collect();
    let powers_off = &WAYS[0];
    for (deed, arguments) in qemu.dropping_root() {
        cells.push(play(deed, arguments, powers_off));
    }
    let _ = panic::take_hook();
    cells
}

/// Boots a guest, ends it, and compares the verdict with what is right.
fn play_way(qemu: &Qemu, way: &Way, arguments: &str) -> String {
    let node = Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"));
    let daemon = node.start_wrapped(&DIES_WITH_ITS_PARENT, &OPTIONS);
    let through = qemu.through.iter().map(String::as_str);
    let through: Vec<&str> = DIES_WITH_ITS_PARENT.into_iter().chain(through).collect();
    let mut guest = node.guest(way.name).through(&through).with(arguments).boot();
    daemon.await_line(&format!("Instance \"{}\" (pid {}) is connected", way.name, guest.pid()));
    (way.end)(&mut guest, &daemon);
    guest.wait();
    let death = daemon.await_death(way.name);
    let has_file = node.has_shutdown_file(way.name);
    let is_right =
        (&*death.cause, &*death.initiator, has_file) == (way.cause, way.initiator, way.is_users());
    let file = if has_file { "file" } else { "no file" };
    let said = format!("{}, {}, {file}", death.cause, death.initiator);
    if is_right {
        said
    } else {
        format!("{WRONG}: {said}; should be {}, {}", way.cause, way.initiator)
    }
}
