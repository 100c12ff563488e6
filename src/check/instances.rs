//! What `--check` says of the instances on a node: whether their users may shut them down, who is at
//! their sockets, and files that are left.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use super::{Report, Standing};
use crate::config::{self, Paths};
use crate::id::Name;
use crate::sys::control_dir::{SHUTDOWN_SUFFIX, instance_name};
use crate::sys::{plain_file, process};
use crate::wire::Quoted;

/// So many instances are named where there are more.
const NAMED: usize = 5;

/// An instance as its files show it.
#[derive(Default)]
struct Instance {
    has_socket: bool,
    is_marked: bool,
    /// The process by Ganeti's pid file, if it runs.
    process: Option<u32>,
}

/// Looks at all of them. `is_running`: the daemon's pid, if it runs.
pub(super) fn report(report: &mut Report, paths: &Paths, is_running: Option<u32>) {
    let directory = paths.control_dir();
    let found = match find_instances(paths) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            report.say(Standing::Good, "no instance has been started on this node yet");
            return second_switch(report, paths, &BTreeMap::new());
        }
        Err(error) => {
            report.say(Standing::Wrong, &format!("{}: {error}", directory.display()));
            return;
        }
    };
    let listening = listening_sockets();
    let clients = clients();
    let (mut watched, mut unseen) = (0, 0);
    second_switch(report, paths, &found);
    for (name, instance) in &found {
        let path =
            directory.join(OsStr::from_bytes(&[name.as_bytes(), b".kvmd".as_slice()].concat()));
        let path = path.display().to_string();
        let is_served = listening.as_ref().is_none_or(|sockets| sockets.contains(&path));
        match instance {
            Instance { process: Some(pid), has_socket: false, .. } => {
                report.say(
                    Standing::Wrong,
                    &format!(
                        "instance {name} (pid {pid}) has no socket, so nobody can hear why it ends"
                    ),
                );
                Report::advise(&format!(
                    "somebody has deleted {path}; to have it again: gnt-instance reboot --type=full {name}"
                ));
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

/// The second of Ganeti's two switches: the parameter of each instance. Only Ganeti's master knows
/// what it is now, and it is what counts; on this node there is the cluster's default, and what each
/// instance was started with.
fn second_switch(report: &mut Report, paths: &Paths, found: &BTreeMap<Name, Instance>) {
    const SEE: &str = "gnt-instance list -o name,hv/user_shutdown";
    const TURN_ON: &str = "gnt-instance modify -H user_shutdown=True NAME, or for all: gnt-cluster modify -H kvm:user_shutdown=True (it counts at once)";
    let running = found.iter().filter(|(_, instance)| instance.process.is_some());
    let known: Vec<(&Name, bool)> = running
        .filter_map(|(name, _)| Some((name, config::was_user_shutdown_on(paths, name)?)))
        .collect();
    let off: Vec<&Name> = known.iter().filter(|(_, is_on)| !is_on).map(|(name, _)| *name).collect();
    if !off.is_empty() {
        let names: Vec<String> = off.iter().take(NAMED).map(ToString::to_string).collect();
        let others = match off.len() - names.len() {
            0 => String::new(),
            others => format!(" and {others} more"),
        };
        report.say(
            Standing::Reduced,
            &format!(
                "the parameter user_shutdown was off when these were started, {} of {}: {}{others}; with it off, Ganeti starts again what its user shuts down",
                off.len(),
                known.len(),
                names.join(", "),
            ),
        );
        Report::advise(&format!("what it is now: {SEE}; to turn it on: {TURN_ON}"));
    } else if !known.is_empty() {
        report.say(
            Standing::Good,
            &format!(
                "the parameter user_shutdown was on when the instances here were started ({})",
                known.len()
            ),
        );
    } else if config::user_shutdown_by_default(paths) == Some(false) {
        report.say(
            Standing::Reduced,
            "the parameter user_shutdown is off by default; with it off, Ganeti starts again what its user shuts down",
        );
        Report::advise(&format!("which have it on: {SEE}; to turn it on: {TURN_ON}"));
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
