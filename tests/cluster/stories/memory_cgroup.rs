//! A memory control group of version 1 or 2, removed when dropped.

use std::fs;
use std::path::{Path, PathBuf};

use crate::node::{Failed, Result};

/// What the names of all groups begin with.
const PREFIX: &str = "kvmd-cluster-";

const V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";
/// What groups of version 2 may control.
const SUBTREE_CONTROL: &str = "/sys/fs/cgroup/cgroup.subtree_control";

#[derive(Debug)]
pub(crate) struct MemoryCgroup(PathBuf);

impl MemoryCgroup {
    /// A group for this process alone, which may take so many bytes.
    pub(crate) fn around(pid: u32, limit: u64) -> Result<Self> {
        let name = format!("{PREFIX}{pid}");
        let v1 = Path::new(V1);
        let (path, file) = if v1.is_dir() {
            (v1.join(name), "memory.limit_in_bytes")
        } else {
            let _ = fs::write(SUBTREE_CONTROL, "+memory");
            (Path::new(V2).join(name), "memory.max")
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

/// Whether groups of version 2 control memory, before any is made here.
pub(crate) struct Controller {
    is_off: bool,
}

impl Controller {
    pub(crate) fn as_it_is() -> Self {
        let controlled = fs::read_to_string(SUBTREE_CONTROL);
        let is_off = controlled.is_ok_and(|it| !it.split_whitespace().any(|it| it == "memory"));
        Self { is_off }
    }

    /// Leaves it as it was, once the groups are gone.
    pub(crate) fn restore(&self) {
        if self.is_off {
            // It fails if someone else has come to rely on it.
            let _ = fs::write(SUBTREE_CONTROL, "-memory");
        }
    }
}

/// Removes what a test that was interrupted has left: only an empty group can be removed.
pub(crate) fn remove_left() {
    for root in [V1, V2] {
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
