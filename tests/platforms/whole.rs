//! A whole Debian that is not this machine's, with its own Rust, QEMU and Ganeti, and a fresh clone
//! there: what README.md has a newcomer type, and what makes, installs and plays the package.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::column::{Beginning, Cell, Column, Commit, Kind, WRONG};
use crate::debian::{CHECKOUT, clone_into, make_debian, on_debian};
use crate::directory;

/// A column of the table, and the suite that it is of.
pub(crate) struct Platform {
    pub(crate) title: &'static str,
    suite: &'static str,
}

pub(crate) const PLATFORMS: [Platform; 1] =
    [Platform { title: "Debian 13 itself", suite: "trixie-backports" }];

/// What a newcomer has before he types the first command. The rest is installed by that.
const PACKAGES: [&str; 7] =
    ["make", "git", "ca-certificates", "cargo", "rustc", "rust-clippy", "rustfmt"];

/// Typed one after the other.
const COMMANDS: [&str; 5] = ["check", "test-deb", "cluster", "demo", "compare"];

/// What each of the cells is.
pub(crate) fn rows() -> impl Iterator<Item = String> {
    COMMANDS.iter().map(|target| format!("`make {target}`"))
}

/// Types them, and has the column kept after each: all of them take most of an hour.
pub(crate) fn play(
    platform: &Platform,
    commit: &Commit,
    keep: &mut dyn FnMut(&Column),
) -> Result<(), String> {
    let beginning = Beginning::now(commit);
    let name = format!("{}-whole", platform.suite);
    let debian = make_debian(&name, platform.suite, &PACKAGES)?;
    let root = debian.join("root");
    clone_into(&root, commit)?;
    let mut cells = Vec::new();
    for (target, what) in COMMANDS.into_iter().zip(rows()) {
        let begin_one = Instant::now();
        println!("make {target} ...");
        let log = directory().join(format!("{name}.make-{target}"));
        let said = Said::by(&mut on_debian(&root, CHECKOUT, &["make", target]), &log)?;
        let result = said.result(begin_one.elapsed().as_secs(), &log);
        println!("make {target}: {result}");
        cells.push(Cell { what, result });
        keep(&beginning.column(Kind::Whole, platform.title, version(&root)?, cells.clone()));
    }
    Ok(())
}

/// The versions of what this Debian brings.
fn version(root: &Path) -> Result<String, String> {
    let ask = "cat /etc/debian_version; rustc --version | cut -d ' ' -f 1-2; \
               dpkg-query --show --showformat 'QEMU ${Version}\n' qemu-system-x86; \
               dpkg-query --show --showformat 'Ganeti ${Version}\n' 'ganeti-3.[0-9]'";
    let output =
        on_debian(root, CHECKOUT, &["sh", "-c", ask]).output().map_err(|it| it.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(format!("Debian {}", said.lines().collect::<Vec<_>>().join(", ")))
}

/// What a command printed, as far as the table has it.
struct Said {
    is_success: bool,
    tests_passed: usize,
    last_line: String,
}

impl Said {
    /// Runs it. All that it prints goes to the log.
    fn by(command: &mut Command, log: &Path) -> Result<Self, String> {
        let of_log = |error: std::io::Error| format!("{}: {error}", log.display());
        let mut file = File::create(log).map_err(of_log)?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file.try_clone().map_err(of_log)?)
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (mut tests_passed, mut last_line) = (0, String::new());
        for line in output.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim().to_string();
            writeln!(file, "{line}").map_err(of_log)?;
            tests_passed += passed(&line);
            if !line.is_empty() {
                last_line = line;
            }
        }
        let is_success = child.wait().is_ok_and(|status| status.success());
        Ok(Self { is_success, tests_passed, last_line })
    }

    fn result(&self, seconds: u64, log: &Path) -> String {
        if !self.is_success {
            let log = log.file_name().unwrap_or_default().display();
            return format!("{WRONG}: {} (see target/platforms/{log})", self.last_line);
        }
        let tests = match self.tests_passed {
            0 => String::new(),
            passed => format!("{passed} tests pass. "),
        };
        format!("{tests}{} ({} min {} s)", self.last_line, seconds / 60, seconds % 60)
    }
}

/// How many tests have passed, if it is the line that says so.
fn passed(line: &str) -> usize {
    let rest = line.strip_prefix("test result: ok. ").unwrap_or_default();
    rest.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}
