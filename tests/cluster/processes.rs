//! The processes of a test's clusters: how they are found, and how they are ended.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, wait};

use crate::cluster::KVMD;

/// How long daemons may take to end by themselves.
const LONGEST: Duration = Duration::from_secs(10);

/// Ends all of these, and those that they start meanwhile. The daemons come last, when nobody is left
/// who would start them again, and end by themselves: they remove their part of the kernel's trace then.
pub(crate) fn end_all(find: impl Fn() -> Vec<Pid>) {
    end(Signal::KILL, None, || find().into_iter().filter(|&pid| !is_daemon(pid)).collect());
    end(Signal::TERM, Some(LONGEST), &find);
    end(Signal::KILL, None, &find);
}

/// Sends this signal to those that are found until there are none, or it has taken so long.
fn end(signal: Signal, longest: Option<Duration>, find: impl Fn() -> Vec<Pid>) {
    let deadline = longest.map(|longest| Instant::now() + longest);
    loop {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        let found = find();
        if found.is_empty() || deadline.is_some_and(|deadline| Instant::now() > deadline) {
            return;
        }
        for pid in found {
            let _ = kill_process(pid, signal);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn is_daemon(pid: Pid) -> bool {
    let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
    name.is_ok_and(|name| name.trim_end() == KVMD)
}

/// Every process that this one has started, or that such a process has.
pub(crate) fn descendants() -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for pid in all() {
        if let Some(parent) = parent(pid) {
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

/// Every other process that has something mounted from this directory, or in it: whoever started it, the
/// mounts of a cluster are in no namespace but its own.
pub(crate) fn that_mount(top: &Path) -> Vec<Pid> {
    let top = top.to_string_lossy();
    let mounts = |pid: &i32| {
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        mounts.contains(&*top)
    };
    all()
        .into_iter()
        .filter(mounts)
        .filter_map(Pid::from_raw)
        .filter(|&pid| pid != getpid())
        .collect()
}

fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(1)?.parse().ok()
}
