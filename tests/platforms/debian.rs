//! The Debians that are played: made by debootstrap, and entered as machines of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::column::Commit;
use crate::directory;

/// Where a clone of this project is in a Debian.
pub(crate) const CHECKOUT: &str = "/root/ganeti-kvmd";

/// Makes a Debian of this suite and with these packages, unless the one of this name is there.
/// Returns its directory.
pub(crate) fn make_debian(name: &str, suite: &str, packages: &[&str]) -> Result<PathBuf, String> {
    let debian = directory().join(name);
    make(Command::new(script("debian-root")).arg(suite).arg(&debian).args(packages), &debian)
}

/// The same for another architecture: unpacked only, since nothing of it can be run here.
pub(crate) fn make_foreign_debian(
    name: &str,
    (suite, architecture): (&str, &str),
    packages: &[&str],
) -> Result<PathBuf, String> {
    let debian = directory().join(name);
    let mut command = Command::new(script("foreign-root"));
    make(command.args([suite, architecture]).arg(&debian).args(packages), &debian)
}

fn make(command: &mut Command, debian: &Path) -> Result<PathBuf, String> {
    if command.status().is_ok_and(|status| status.success()) {
        Ok(debian.to_path_buf())
    } else {
        Err(format!("not run: its Debian cannot be made; see {}/log", debian.display()))
    }
}

/// One of the scripts beside this file.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/platforms").join(name)
}

/// Runs a command in a directory of such a Debian, as on a machine of its own.
pub(crate) fn on_debian(root: &Path, directory: &str, command: &[&str]) -> Command {
    let mut on_debian = Command::new(script("on-debian"));
    on_debian.arg(root).arg(directory).args(command);
    on_debian
}

/// Makes a clone of this commit at [`CHECKOUT`] in such a Debian, as a newcomer has it.
pub(crate) fn clone_into(root: &Path, commit: &Commit) -> Result<(), String> {
    let checkout = root.join(CHECKOUT.trim_start_matches('/'));
    let here = env!("CARGO_MANIFEST_DIR");
    if checkout.exists() {
        fs::remove_dir_all(&checkout).map_err(|it| format!("{}: {it}", checkout.display()))?;
    }
    let run = |command: &mut Command| {
        let status = command.status().map_err(|error| format!("{command:?}: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("{command:?} failed")) }
    };
    run(Command::new("git").args(["clone", "--quiet", "--no-hardlinks", here]).arg(&checkout))?;
    run(Command::new("git").arg("-C").arg(&checkout).args(["checkout", "--quiet", &commit.id]))?;
    // No crate can be fetched in there.
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        let manifest = Path::new(here).join(manifest);
        run(Command::new("cargo").args(["fetch", "--locked", "--manifest-path"]).arg(manifest))?;
    }
    Ok(())
}
