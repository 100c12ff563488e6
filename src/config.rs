//! Where Ganeti keeps its files on this node.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::verdict::Name;

/// Ganeti's paths, each below `GANETI_ROOTDIR` where that is set (its virtual clusters).
#[derive(Clone, Debug)]
pub struct Paths {
    root: OsString,
}

impl Paths {
    /// The paths below the directory that the environment names.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::below(&std::env::var_os("GANETI_ROOTDIR").unwrap_or_default())
    }

    /// The paths below `root`; an empty one is the machine's own root.
    #[must_use]
    pub fn below(root: &OsStr) -> Self {
        Self { root: root.to_os_string() }
    }

    /// The KVM control directory, with a slash at its end as in Ganeti's own log lines.
    #[must_use]
    pub fn control_dir(&self) -> PathBuf {
        self.at("/var/run/ganeti/kvm-hypervisor/ctrl/")
    }

    /// The file to which Ganeti has QEMU write its pid.
    #[must_use]
    pub fn pid_file_of(&self, name: &Name) -> PathBuf {
        self.at("/var/run/ganeti/kvm-hypervisor/pid").join(OsStr::from_bytes(name.as_bytes()))
    }

    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.at("/var/log/ganeti/kvm-daemon.log")
    }

    fn at(&self, path: &str) -> PathBuf {
        let mut rooted = self.root.clone();
        rooted.push(Path::new(path));
        rooted.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_below_the_root() {
        let name = Name::new(b"web1");
        let paths = Paths::below(OsStr::new("/tmp/cluster"));
        for path in [paths.control_dir(), paths.log_file(), paths.pid_file_of(&name)] {
            assert!(path.starts_with("/tmp/cluster/var"), "{path:?}");
        }
        let real = Paths::below(OsStr::new(""));
        assert_eq!(real.log_file(), Path::new("/var/log/ganeti/kvm-daemon.log"));
    }
}
