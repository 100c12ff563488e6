//! The Debians whose QEMU and whose kernel are played.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::directory;

/// A column of a table: what is played, and the suite that it is of.
pub(crate) struct Platform {
    pub(crate) title: &'static str,
    pub(crate) suite: &'static str,
}

/// Makes the Debian of this suite, unless it is there. Returns its directory.
pub(crate) fn make_debian(suite: &str, packages: &[&str]) -> Result<PathBuf, String> {
    let name = if packages.len() == 1 { suite.to_string() } else { format!("{suite}-machine") };
    let debian = directory().join(name);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/platforms/debian-root");
    let status = Command::new(script).arg(suite).arg(&debian).args(packages).status();
    if status.is_ok_and(|status| status.success()) {
        Ok(debian)
    } else {
        Err(format!("not run: its Debian cannot be made; see {}/log", debian.display()))
    }
}
