//! What Ganeti has to say: where its files are on this node, and whether to run here at all.

mod runtime;
mod ssconf;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub use ssconf::{SsconfError, has_kvm, is_user_shutdown_enabled, is_vm_capable, primary_family};

use crate::id::Name;
use crate::sys::confinement::Reach;
use crate::sys::journal;
use crate::sys::node_name::{Family, NodeName};
use crate::wire::Quoted;

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

    /// The file in which Ganeti keeps what it started an instance with.
    fn runtime_of(&self, name: &Name) -> PathBuf {
        let mut file = OsStr::from_bytes(name.as_bytes()).to_os_string();
        file.push(".runtime");
        self.at("/var/run/ganeti/kvm-hypervisor/conf").join(file)
    }

    /// The daemon's own pid file.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.at("/var/run/ganeti/ganeti-kvmd.pid")
    }

    /// A directory of the daemon's own: to that of the pid file Ganeti's other daemons may write.
    #[must_use]
    pub fn private_dir(&self) -> PathBuf {
        self.at("/var/run/ganeti-kvmd")
    }

    /// Where a daemon waits for what the one that runs has open.
    #[must_use]
    pub fn handover_socket(&self) -> PathBuf {
        self.private_dir().join("handover")
    }

    /// What QEMU itself logs, by Ganeti's `-D`.
    #[must_use]
    pub fn log_of(&self, name: &Name) -> PathBuf {
        let mut file = OsStr::from_bytes(name.as_bytes()).to_os_string();
        file.push(".log");
        self.at("/var/log/ganeti/kvm").join(file)
    }

    /// What the daemon remembers beyond its own end. Gone with the boot, like what it is about.
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.private_dir().join("state")
    }

    /// The exit records.
    #[must_use]
    pub fn records_file(&self) -> PathBuf {
        self.at("/var/log/ganeti/kvm-exits.jsonl")
    }

    /// The name that the name service gave this node last. It is wanted after a boot, when the name
    /// service may be the last to be up, so it is not in /run; and nobody but root may say what this
    /// node is called, so it is not in Ganeti's own directory, which belongs to its master daemon.
    #[must_use]
    pub fn node_name_file(&self) -> PathBuf {
        self.at("/var/lib/ganeti-kvmd/node-name")
    }

    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.at("/var/log/ganeti/kvm-daemon.log")
    }

    /// Where the journal takes entries in. A virtual cluster's nodes are none of its machine's.
    #[must_use]
    pub fn journal_socket(&self) -> PathBuf {
        self.at(journal::SOCKET)
    }

    /// A file in which Ganeti's master tells its nodes of the cluster.
    fn ssconf(&self, key: &str) -> PathBuf {
        self.at("/var/lib/ganeti").join(format!("ssconf_{key}"))
    }

    /// What the loop touches once it is up. Ganeti's directories in /run may vanish and come back.
    #[must_use]
    pub fn reach_of_loop(&self) -> Reach {
        let root = PathBuf::from(&self.root);
        let changing = if self.root.is_empty() { self.at("/var/run") } else { root };
        let written = vec![self.private_dir()];
        Reach { changing: vec![changing], written, ..Reach::default() }
    }

    /// What the threads touch that look into processes and logs: QEMU's own logs, whose directory
    /// Ganeti may make later than the one above it.
    #[must_use]
    pub fn reach_of_lookup(&self) -> Reach {
        Reach { read: vec![self.at("/var/log/ganeti")], ..Reach::default() }
    }

    /// What the writer touches.
    #[must_use]
    pub fn reach_of_writer(&self, metrics_file: Option<&Path>) -> Reach {
        let metrics = metrics_file.and_then(Path::parent).map(|directory| {
            let is_here = directory.as_os_str().is_empty();
            if is_here { PathBuf::from(".") } else { directory.to_path_buf() }
        });
        let written = [self.at("/var/log/ganeti")].into_iter().chain(metrics).collect();
        Reach { written, ..Reach::default() }
    }

    fn at(&self, path: &str) -> PathBuf {
        let mut rooted = self.root.clone();
        rooted.push(Path::new(path));
        rooted.into()
    }
}

/// Why the daemon is not to run on this node. Not an error: it exits with 0.
#[derive(Debug)]
pub enum WhyNot {
    NoKvm,
    NoUserShutdown,
    NotVmCapable(String),
    /// A file that says so cannot be read.
    Unreadable(PathBuf, io::Error),
    /// A file that says so is not what Ganeti writes.
    Malformed(SsconfError),
}

/// Whether there is something to do here: KVM is enabled in the cluster, so is the detection
/// of users' shutdowns, and this node may have instances. `node_name` is asked for last, since
/// it may take the name service to answer. Returns the name by which the node may.
pub fn should_run(
    paths: &Paths,
    node_name: impl FnOnce(Option<Family>) -> NodeName,
) -> Result<NodeName, WhyNot> {
    let read = |key| {
        let path = paths.ssconf(key);
        ssconf::read(&path).map_err(|error| WhyNot::Unreadable(path, error))
    };
    if !has_kvm(&read("hypervisor_list")?).map_err(WhyNot::Malformed)? {
        return Err(WhyNot::NoKvm);
    }
    if !is_user_shutdown_enabled(&read("enabled_user_shutdown")?).map_err(WhyNot::Malformed)? {
        return Err(WhyNot::NoUserShutdown);
    }
    let capable = read("node_vm_capable")?;
    // Ganeti takes a missing file for IPv4, and asks for no particular family on a bad one.
    let family = match read("primary_ip_family") {
        Ok(text) => primary_family(&text).ok(),
        Err(_) => Some(Family::V4),
    };
    let node = node_name(family);
    if is_vm_capable(&capable, &node.name).map_err(WhyNot::Malformed)? {
        Ok(node)
    } else {
        Err(WhyNot::NotVmCapable(node.name))
    }
}

/// Whether an instance whose own parameters say nothing of it may be shut down by its user: the
/// cluster's default. Nothing if its file does not say.
pub fn user_shutdown_by_default(paths: &Paths) -> Option<bool> {
    ssconf::user_shutdown_by_default(&ssconf::read(&paths.ssconf("hvparams_kvm")).ok()?)
}

/// Whether its user might shut this instance down when Ganeti started it; it may have been told
/// otherwise since. Nothing if its file does not say.
pub fn was_user_shutdown_on(paths: &Paths, name: &Name) -> Option<bool> {
    runtime::user_shutdown(&runtime::read(&paths.runtime_of(name)).ok()?)
}

/// The lines that Ganeti's own daemon writes; scripts know them.
impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKvm => f.write_str("KVM not enabled, exiting"),
            Self::NoUserShutdown => f.write_str("User shutdown not enabled, exiting"),
            Self::NotVmCapable(node) => {
                write!(f, "Node {} is not VM capable, exiting", Quoted(node.as_bytes()))
            }
            Self::Unreadable(path, error) => {
                write!(f, "{}: openFile: {}", path.display(), GanetisWords(error))
            }
            Self::Malformed(error) => error.fmt(f),
        }
    }
}

impl WhyNot {
    /// What to do about it, for an administrator who expected otherwise.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoKvm => "To make it run: gnt-cluster modify --enabled-hypervisors=kvm,...",
            Self::NoUserShutdown => {
                "To make it run: gnt-cluster modify --user-shutdown=yes; then, for each instance that its user may shut down: gnt-instance modify -H user_shutdown=True NAME, or for all: gnt-cluster modify -H kvm:user_shutdown=True"
            }
            Self::NotVmCapable(_) => "To make it run: gnt-node modify --vm-capable=yes NODE",
            Self::Unreadable(..) | Self::Malformed(_) => {
                "To make Ganeti write its files to this node again: gnt-cluster redist-conf"
            }
        }
    }
}

/// A system's error in the words of Ganeti's Haskell daemons, which scripts know.
#[derive(Debug)]
pub struct GanetisWords<'a>(pub &'a io::Error);

impl fmt::Display for GanetisWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0.raw_os_error() {
            Some(libc::ENOENT) => "does not exist",
            Some(libc::EEXIST) => "already exists",
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => "permission denied",
            Some(libc::EAGAIN | libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOSPC) => {
                "resource exhausted"
            }
            Some(libc::EBUSY) => "resource busy",
            Some(libc::EISDIR | libc::ENOTDIR) => "inappropriate type",
            Some(libc::EINVAL | libc::ELOOP | libc::ENAMETOOLONG) => "invalid argument",
            _ => "failed",
        };
        let text = self.0.to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        write!(f, "{kind} ({text})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_path_is_below_the_root() {
        let name = Name::new(b"web1");
        let paths = Paths::below(OsStr::new("/tmp/cluster"));
        for path in [
            paths.control_dir(),
            paths.log_file(),
            paths.pid_file(),
            paths.pid_file_of(&name),
            paths.ssconf("x"),
        ] {
            assert!(path.starts_with("/tmp/cluster/var"), "{}", path.display());
        }
        let real = Paths::below(OsStr::new(""));
        assert_eq!(real.log_file(), Path::new("/var/log/ganeti/kvm-daemon.log"));
    }

    #[test]
    fn errors_in_ganetis_words() {
        let said = |number| GanetisWords(&io::Error::from_raw_os_error(number)).to_string();
        assert_eq!(said(libc::ENOENT), "does not exist (No such file or directory)");
        assert_eq!(said(libc::EAGAIN), "resource exhausted (Resource temporarily unavailable)");
    }

    /// A cluster of its own, and the answer that it gives.
    fn answer(files: &[(&str, &str)]) -> String {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path().as_os_str());
        fs::create_dir_all(root.path().join("var/lib/ganeti")).unwrap();
        for (key, text) in files {
            fs::write(paths.ssconf(key), text).unwrap();
        }
        match should_run(&paths, |_| NodeName::given("node1")) {
            Ok(_) => "run".into(),
            Err(why) => why.to_string().replace(root.path().to_str().unwrap(), ""),
        }
    }

    const KVM: (&str, &str) = ("hypervisor_list", "xen-pvm\nkvm\n");
    const ENABLED: (&str, &str) = ("enabled_user_shutdown", "True\n");
    const CAPABLE: (&str, &str) = ("node_vm_capable", "node0=False\nnode1=True\n");

    #[test]
    fn it_runs_where_all_three_files_say_so() {
        assert_eq!(answer(&[KVM, ENABLED, CAPABLE]), "run");
    }

    #[test]
    fn the_first_no_is_told_in_ganetis_words() {
        let no_kvm = ("hypervisor_list", "xen-pvm\n");
        assert_eq!(answer(&[no_kvm]), "KVM not enabled, exiting");
        let disabled = ("enabled_user_shutdown", "False");
        assert_eq!(answer(&[KVM, disabled]), "User shutdown not enabled, exiting");
        let incapable = ("node_vm_capable", "node1=False\nnode1=True\n");
        assert_eq!(answer(&[KVM, ENABLED, incapable]), "Node \"node1\" is not VM capable, exiting");
        assert_eq!(
            answer(&[KVM, ENABLED]),
            "/var/lib/ganeti/ssconf_node_vm_capable: openFile: does not exist (No such file or directory)"
        );
    }
}
