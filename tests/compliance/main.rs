//! The contract of `ganeti-kvmd`, played on this program or on the original.
//!
//! `KVMD_UNDER_TEST=ours` (the default) or `theirs` (the binary of Debian's package
//! `ganeti-haskell-3.0`). Each test names the sentence that it checks, and where it stands.
//! Where this program does otherwise on purpose, the test is marked, and DEVIATIONS.md has the
//! reason; a mark that is not true fails.

mod command_line;
mod control_directory;
mod logs;
mod process;
mod stage;
mod verdicts;
mod whether_to_run;

use std::process::ExitCode;

use stage::Stage;
use testbed::suite::{self, Test};
use testbed::ways::Subject;
use testbed::{Need, can_run, in_private_mounts};

fn main() -> ExitCode {
    if !can_run(&[Need::Root]) {
        return ExitCode::SUCCESS;
    }
    let subject = stage::subject();
    if subject == Subject::Theirs && !can_run(&[Need::Original]) {
        return ExitCode::SUCCESS;
    }
    if let Some(code) = in_private_mounts() {
        return code;
    }
    let tests: Vec<&Test<Stage>> = [
        command_line::TESTS,
        process::TESTS,
        logs::TESTS,
        whether_to_run::TESTS,
        control_directory::TESTS,
        verdicts::TESTS,
    ]
    .into_iter()
    .flatten()
    .collect();
    let list = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/compliance/DEVIATIONS.md");
    if let Err(complaints) = suite::deviations_are_listed(&tests, list) {
        println!("{complaints}");
        return ExitCode::FAILURE;
    }
    let title = match subject {
        Subject::Ours => "Compliance, ours",
        Subject::Theirs => "Compliance, the original",
    };
    suite::run(title, &tests, subject == Subject::Theirs, || Stage::new(subject))
}
