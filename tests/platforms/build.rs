//! The test programs that run in the machines that `kernel.rs` boots, and where they were built.

use std::fs;
use std::path::{Path, PathBuf};

use crate::column::Commit;
use crate::debian::{CHECKOUT, clone_into, make_debian, on_debian};
use crate::directory;

/// Programs hold the paths that they were built at, and find their files there.
pub(crate) struct Build {
    /// The root in which all paths are.
    pub(crate) root: PathBuf,
    pub(crate) checkout: String,
    /// Where `ganeti-kvmd` is, and the examples and the test programs in directories of their own.
    pub(crate) programs: String,
}

/// What builds for arm64 on amd64: all of it is Debian's own.
const CROSS_PACKAGES: [&str; 7] = [
    "git",
    "ca-certificates",
    "cargo",
    "rustc",
    "libstd-rust-dev:arm64",
    "gcc-aarch64-linux-gnu",
    "libc6-dev-arm64-cross",
];
const ARM64: &str = "aarch64-unknown-linux-gnu";
/// Outside of the clone, which is made anew each time: the crates need not be.
const CROSS_TARGET: &str = "/root/target";

impl Build {
    /// That of which this program is a part.
    pub(crate) fn of_this_machine() -> Self {
        let daemon = Path::new(env!("CARGO_BIN_EXE_ganeti-kvmd"));
        Self {
            root: "/".into(),
            checkout: env!("CARGO_MANIFEST_DIR").into(),
            programs: daemon.parent().expect("its directory").display().to_string(),
        }
    }

    /// This commit, built on a Debian of this suite with the Rust of its backports.
    pub(crate) fn for_arm64(suite: &str, commit: &Commit) -> Result<Self, String> {
        let name = format!("{suite}-cross");
        let debian = make_debian(&name, &format!("{suite}-backports"), &CROSS_PACKAGES)?;
        let root = debian.join("root");
        clone_into(&root, commit)?;
        println!("Building for arm64 ...");
        let log = directory().join(format!("{name}.log"));
        let to_log = |error: std::io::Error| format!("{}: {error}", log.display());
        let output = fs::File::create(&log).map_err(to_log)?;
        // What is stripped now need not be copied into the machine's memory.
        let build = format!(
            "export CARGO_TARGET_DIR={CROSS_TARGET}
             export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
             export CARGO_PROFILE_DEV_STRIP=symbols CARGO_PROFILE_TEST_STRIP=symbols
             cargo test --workspace --locked --target {ARM64} --no-run &&
             cargo test --locked --target {ARM64} --no-run --test platforms &&
             cargo build --locked --target {ARM64} --bins --examples"
        );
        let status = on_debian(&root, CHECKOUT, &["sh", "-c", &build])
            .stdout(output.try_clone().map_err(to_log)?)
            .stderr(output)
            .status();
        if !status.is_ok_and(|status| status.success()) {
            return Err(format!("not run: it cannot be built for arm64; see {}", log.display()));
        }
        let programs = format!("{CROSS_TARGET}/{ARM64}/debug");
        Ok(Self { root, checkout: CHECKOUT.into(), programs })
    }

    /// Cargo's latest build of a test program, be it one of `tests/` or a library's unit tests.
    pub(crate) fn test(&self, test: &str) -> Result<String, String> {
        let programs = self.root.join(self.programs.trim_start_matches('/')).join("deps");
        let is_it = |name: &str| {
            name.rsplit_once('-').is_some_and(|(stem, hash)| stem == test && !hash.contains('.'))
        };
        let entries = fs::read_dir(programs).into_iter().flatten().flatten();
        entries
            .filter(|entry| is_it(&entry.file_name().to_string_lossy()))
            .max_by_key(|entry| entry.metadata().and_then(|it| it.modified()).ok())
            .map(|entry| format!("{}/deps/{}", self.programs, entry.file_name().to_string_lossy()))
            .ok_or_else(|| format!("{test} is not built: type cargo test --workspace --no-run"))
    }
}
