//! Files and directories put in the place of the machine's own, in a mount namespace that
//! nobody else sees.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use tempfile::TempDir;

use crate::suite::are_mounts_private;

/// A file in the place of another one, until dropped.
#[derive(Debug)]
pub struct InPlaceOf(PathBuf);

impl InPlaceOf {
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, text: &str) -> Self {
        assert!(are_mounts_private(), "these are the machine's real files");
        let path = path.into();
        let directory = tempfile::tempdir().expect("create a directory");
        let file = directory.path().join("file");
        fs::write(&file, text).expect("write a file");
        mount_bind(&file, &path).expect("mount one file over another");
        Self(path)
    }
}

impl Drop for InPlaceOf {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// A directory that can be written into without its being changed, until dropped.
#[derive(Debug)]
pub struct Overlay {
    path: PathBuf,
    layers: TempDir,
}

impl Overlay {
    #[must_use]
    pub fn over(path: impl Into<PathBuf>) -> Self {
        assert!(are_mounts_private(), "these are the machine's real directories");
        let path = path.into();
        let layers = tempfile::tempdir().expect("create a directory");
        // An overlay cannot be a layer of another: a file system of its own can.
        mount("tmpfs", layers.path(), "tmpfs", MountFlags::empty(), None).expect("mount a tmpfs");
        let (upper, work) = (layers.path().join("upper"), layers.path().join("work"));
        fs::create_dir(&upper).and_then(|()| fs::create_dir(&work)).expect("create the layers");
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            path.display(),
            upper.display(),
            work.display()
        );
        let options = std::ffi::CString::new(options).expect("no NUL in a path");
        mount("overlay", &path, "overlay", MountFlags::empty(), Some(&*options))
            .expect("mount an overlay");
        Self { path, layers }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = unmount(&self.path, UnmountFlags::DETACH);
        let _ = unmount(self.layers.path(), UnmountFlags::DETACH);
    }
}

/// The users of Debian's Ganeti, until dropped.
#[must_use]
pub fn ganetis_users() -> InPlaceOf {
    let mut passwd = fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
    for (i, user) in ["masterd", "metad", "rapi", "confd"].iter().enumerate() {
        let _ = writeln!(passwd, "gnt-{user}:x:{0}:{0}::/:/bin/false", 60_000 + i);
    }
    InPlaceOf::new("/etc/passwd", &passwd)
}

/// The groups of Debian's Ganeti, until dropped.
#[must_use]
pub fn ganetis_groups() -> InPlaceOf {
    let mut group = fs::read_to_string("/etc/group").expect("read /etc/group");
    for (i, name) in
        ["masterd", "metad", "rapi", "confd", "luxid", "daemons", "admin"].iter().enumerate()
    {
        let _ = writeln!(group, "gnt-{name}:x:{}:", 60_000 + i);
    }
    InPlaceOf::new("/etc/group", &group)
}
