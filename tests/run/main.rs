//! `kvmd-run` on real QEMU: every exit code, every way to stop, and what is left behind.

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

const POWERDOWN: (i32, &str, &str) = (0, "powerdown", "powerdown");
const FORCED: (i32, &str, &str) = (41, "host-qmp-quit", "forced");
const REBOOTED: (i32, &str, &str) = (133, "guest-reset", "guest-reset");
