//! How many processes of a control group the OOM killer has killed: where the kernel does not
//! trace whom it chose, that says whether one was.
//!
//! `memory.events` of cgroup v2, `memory.oom_control` of v1 (Linux 4.13 and later), see
//! `admin-guide/cgroup-v2.rst` of the kernel's documentation.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::plain_file;

/// As much as is looked at of the list of a process's groups, whose paths its user may choose (4096
/// bytes each at most, in about a dozen hierarchies), and of a group's counters, in bytes.
const LONGEST_LIST: usize = 65_536;
const LONGEST_COUNTERS: usize = 4096;

/// The counter of one group, and what it showed when it was first looked at.
#[derive(Debug)]
pub struct OomKills {
    path: PathBuf,
    before: u64,
}

impl OomKills {
    /// Of the group that this process is in. Nothing for the root group, which counts none, or
    /// where there is no memory controller.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let groups = plain_file::read(format!("/proc/{pid}/cgroup"), LONGEST_LIST).ok()?;
        let path = candidates(&groups).into_iter().find(|path| path.exists())?;
        Some(Self { before: read(&path)?, path })
    }

    /// Whether it has grown since.
    #[must_use]
    pub fn have_happened(&self) -> bool {
        read(&self.path).is_some_and(|now| now > self.before)
    }
}

/// Where the counters of these groups may be: lines `HIERARCHY:CONTROLLERS:PATH`.
fn candidates(groups: &[u8]) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for line in groups.split(|&byte| byte == b'\n') {
        let mut parts = line.splitn(3, |&byte| byte == b':');
        let (Some(_), Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let Some(group) = group.strip_prefix(b"/").filter(|group| !group.is_empty()) else {
            continue;
        };
        let group = Path::new(std::ffi::OsStr::from_bytes(group));
        if controllers.is_empty() {
            for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
                paths.push(Path::new(mount).join(group).join("memory.events"));
            }
        } else if controllers.split(|&byte| byte == b',').any(|name| name == b"memory") {
            paths.push(Path::new("/sys/fs/cgroup/memory").join(group).join("memory.oom_control"));
        }
    }
    paths
}

fn read(path: &Path) -> Option<u64> {
    let text = plain_file::read(path, LONGEST_COUNTERS).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_found_and_the_root_is_none() {
        let groups = b"12:memory:/vms/web1\n1:name=systemd:/x\n0::/machine.slice/web1.scope\n";
        let found = candidates(groups);
        assert!(found.contains(&"/sys/fs/cgroup/memory/vms/web1/memory.oom_control".into()));
        assert!(found.contains(&"/sys/fs/cgroup/machine.slice/web1.scope/memory.events".into()));
        assert_eq!(found.len(), 3);
        assert_eq!(candidates(b"4:memory:/\n0::/\n\nnonsense\n"), Vec::<PathBuf>::new());
    }
}
