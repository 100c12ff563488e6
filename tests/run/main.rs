//! `kvmd-run` on real QEMU: every exit code, every way to stop, what is on the disk, and what is left behind.
//!
//! `TESTBED_QEMU` names another QEMU than that of this machine: tests/platforms plays some of it so.

mod disk;
mod ends;
mod left_alone;
mod moments;
mod notified;
mod stops;
mod told;

use std::process::Command;

use kvmd::wire::record::Record;
use testbed::{Outcome, Runner, RunnerBuilder};

fn kvmd_run() -> RunnerBuilder {
    RunnerBuilder::new(env!("CARGO_BIN_EXE_kvmd-run"))
}

fn record(outcome: &Outcome) -> Record {
    let lines: Vec<&str> = outcome.records.lines().collect();
    let [line] = &*lines else { panic!("not one record: {lines:?}\n{:?}", outcome.lines) };
    Record::parse(line.as_bytes()).unwrap()
}

/// Sends SIGRTMIN and a number, which rustix has no name for.
fn send_real_time(runner: &Runner, number: i32) {
    let kill = format!("kill -{} {}", 34 + number, runner.pid());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// Waits for the end, and says the code, the cause and what the code was chosen for.
fn judged(runner: Runner) -> (i32, String, String) {
    let outcome = runner.end();
    let record = record(&outcome);
    // Shown where it is not what was expected: in which steps it came to this, and when.
    eprintln!("{}\n{:#?}", outcome.lines.join("\n"), record.evidence);
    let run = record.run.unwrap();
    assert_eq!(i32::from(run.exit_code), outcome.code(), "{:?}", outcome.lines);
    (outcome.code(), record.cause, run.why)
}

/// A way to end, and what is to be made of it.
struct Row {
    options: &'static [&'static str],
    qemu: &'static str,
    end: fn(&mut Runner),
    code: i32,
    cause: &'static str,
    why: &'static str,
}

const fn row(
    options: &'static [&'static str],
    qemu: &'static str,
    (code, cause, why): (i32, &'static str, &'static str),
    end: fn(&mut Runner),
) -> Row {
    Row { options, qemu, end, code, cause, why }
}

/// To migrate the guest to nowhere; and so slowly that it is not yet gone when something happens.
const AWAY: &str = r#"{"execute": "migrate", "arguments": {"uri": "exec:cat >/dev/null"}}"#;
const SLOWLY: &str =
    r#"{"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": 10000}}"#;

/// The machines that the guest of `tests/guest` boots on.
const MACHINES: [&str; 2] = ["-M pc", "-M q35"];

const POWERDOWN: (i32, &str, &str) = (0, "powerdown", "powerdown");
const FORCED: (i32, &str, &str) = (41, "host-qmp-quit", "forced");
const REBOOTED: (i32, &str, &str) = (133, "guest-reset", "guest-reset");
