//! A test program that runs in a mount namespace of its own, one test after the other.
//!
//! For what knows Ganeti's real paths only: the original daemon, Ganeti's own Python code.

use std::fmt::Write as _;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// One test.
#[derive(Debug)]
pub struct Test<S> {
    pub name: &'static str,
    /// What is checked: a sentence of the manual, of a design document or of the contract, and
    /// where it stands.
    pub says: &'static str,
    /// The original does otherwise, and this program does so on purpose.
    pub deviates: bool,
    pub run: fn(&S),
}

/// What came of a test.
enum Outcome {
    Passed,
    Failed,
    /// As expected of a deviation, on the original.
    Deviated,
    /// A deviation that is none: the original passes, too.
    DoesNotDeviate,
}

/// The environment variable that names the mount namespace of the rest of the machine.
const SHARED_MOUNTS: &str = "TESTBED_SHARED_MOUNTS";

fn mount_namespace() -> PathBuf {
    fs::read_link("/proc/self/ns/mnt").expect("see this process's mount namespace")
}

/// Whether what this process mounts is seen by nobody else.
pub(crate) fn are_mounts_private() -> bool {
    std::env::var_os(SHARED_MOUNTS).is_some_and(|shared| mount_namespace() != shared)
}

/// Starts this program anew in a mount namespace of its own, unless it is in one.
///
/// Returns the exit code of that other run; nothing, if this is it.
#[must_use]
pub fn in_private_mounts() -> Option<ExitCode> {
    if are_mounts_private() {
        return None;
    }
    let this = std::env::current_exe().expect("this program's path");
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(this)
        .args(std::env::args_os().skip(1))
        .env(SHARED_MOUNTS, mount_namespace())
        .status()
        .expect("run unshare (package util-linux)");
    Some(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs those tests whose names contain one of the program's arguments, or all of them.
///
/// `setting` makes what a test is given; `is_original` if the original is under test. The exit
/// code is 0 if each passed, or deviated as announced.
pub fn run<S>(
    title: &str,
    tests: &[&Test<S>],
    is_original: bool,
    setting: impl Fn() -> S,
) -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let chosen: Vec<&&Test<S>> = tests
        .iter()
        .filter(|test| filters.is_empty() || filters.iter().any(|f| test.name.contains(f)))
        .collect();
    println!("\n{title}: {} tests", chosen.len());
    let mut wrong = Vec::new();
    let mut deviations = 0;
    for test in &chosen {
        let started = Instant::now();
        let (outcome, output) = run_one(test, is_original, &setting);
        let word = match outcome {
            Outcome::Passed => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Deviated => "deviates, as listed",
            Outcome::DoesNotDeviate => "FAILED: listed as a deviation, and is none",
        };
        println!("  {} ... {word} ({:.1} s)", test.name, started.elapsed().as_secs_f32());
        match outcome {
            Outcome::Passed => {}
            Outcome::Deviated => deviations += 1,
            Outcome::Failed | Outcome::DoesNotDeviate => {
                println!("    says: {}", test.says);
                wrong.push(format!("{}\n{output}", test.name));
            }
        }
    }
    for failure in &wrong {
        println!("\n---- {failure}");
    }
    let passed = chosen.len() - deviations - wrong.len();
    println!("{title}: {passed} passed, {deviations} deviate as listed, {} FAILED", wrong.len());
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_one<S>(test: &Test<S>, is_original: bool, setting: &impl Fn() -> S) -> (Outcome, String) {
    let output = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let before = panic::take_hook();
    panic::set_hook(Box::new({
        let output = std::sync::Arc::clone(&output);
        move |info| {
            if let Ok(mut output) = output.lock() {
                let _ = writeln!(output, "{info}");
            }
        }
    }));
    let result = panic::catch_unwind(AssertUnwindSafe(|| (test.run)(&setting())));
    panic::set_hook(before);
    let outcome = match (result.is_ok(), test.deviates && is_original) {
        (true, false) => Outcome::Passed,
        (false, false) => Outcome::Failed,
        (false, true) => Outcome::Deviated,
        (true, true) => Outcome::DoesNotDeviate,
    };
    let output = output.lock().map(|output| output.clone()).unwrap_or_default();
    (outcome, output)
}

/// Fails unless the headings of a list of deviations are the names of those tests that
/// deviate.
pub fn deviations_are_listed<S>(tests: &[&Test<S>], list: &str) -> Result<(), String> {
    let text = fs::read_to_string(list).map_err(|error| format!("{list}: {error}"))?;
    let listed: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let deviating: Vec<&str> =
        tests.iter().filter(|test| test.deviates).map(|test| test.name).collect();
    let mut complaints = String::new();
    for name in &deviating {
        if !listed.contains(name) {
            let _ = writeln!(complaints, "{name} deviates and is not listed");
        }
    }
    for name in &listed {
        if !deviating.contains(name) {
            let _ = writeln!(complaints, "{name} is listed and no test deviates");
        }
    }
    if complaints.is_empty() { Ok(()) } else { Err(format!("{list}:\n{complaints}")) }
}
