//! A memory control group of version 1 or 2, removed when dropped.

use std::fs;
use std::path::{Path, PathBuf};

use crate::node::{Failed, Result};

/// What the names of all groups begin with.
const PREFIX: &str = "kvmd-cluster-";

#[derive(Debug)]
pub(crate) struct MemoryCgroup(PathBuf);

impl MemoryCgroup {
    /// A group for this process alone, which may take so many bytes.
    pub(crate) fn around(pid: u32, limit: u64) -> Result<Self> {
        let (v1, v2) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let name = format!("{PREFIX}{pid}");
        let (path, file) = if v1.is_dir() {
            (v1.join(name), "memory.limit_in_bytes")
        } else {
            let _ = fs::write(v2.join("cgroup.subtree_control"), "+memory");
            (v2.join(name), "memory.max")
        };
        let failed = |error| {
            Failed(format!(
                "this machine has no memory control groups ({}): {error}",
                path.display()
            ))
        };
        fs::create_dir(&path).map_err(failed)?;
        let group = Self(path.clone());
        fs::write(path.join(file), limit.to_string()).map_err(failed)?;
        fs::write(path.join("cgroup.procs"), pid.to_string()).map_err(failed)?;
        Ok(group)
    }
}

/// Removes what a test that was interrupted has left: only an empty group can be removed.
pub(crate) fn remove_left() {
    for root in ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"] {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // The kernel takes a moment to empty it.
        testbed::await_that("the control group is empty", || fs::remove_dir(&self.0).is_ok());
    }
}
