//! The demonstration behind `make demo`: real QEMU guests die in every way that there is, and the
//! daemon says why, whose doing it was, and how early it knew.

use std::fmt::Write as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use testbed::ways::{OPTIONS, WAYS, Way};
use testbed::{Daemon, Node, RunnerBuilder, Seen, Signal, Witness, daemon_program};

fn main() -> ExitCode {
    let node = Node::new(daemon_program());
    println!("A node of its own below {}.", node.root().display());
    let daemon = node.start_with(&OPTIONS);
    println!("The daemon runs (pid {}).", daemon.pid());
    let is_reduced = daemon.count("proc connector is not available") > 0;
    if is_reduced {
        println!("{}", daemon.await_line("proc connector is not available"));
        println!(
            "So SIGKILL and SIGSEGV may show as unknown. As root, and outside of containers, they are told apart."
        );
    }

    let mut table = String::from(
        "\ninstance       what was done to it                       cause                  initiator  file  before the end\n",
    );
    let mut wrong = 0;
    for way in &WAYS {
        let (row, is_right) = play(&node, &daemon, way, is_reduced);
        table.push_str(&row);
        wrong += usize::from(!is_right);
    }
    println!("{table}");
    let why = daemon_program().with_file_name("kvmd-why");
    println!("$ kvmd-why sigterm");
    let told = Command::new(why).arg("sigterm").envs(node.environment()).status();
    assert!(told.is_ok_and(|status| status.success()), "kvmd-why has no answer");
    println!();
    play_runner();
    let stopped = daemon.stop();
    println!("The daemon has ended ({stopped}); the node is removed.");
    if wrong == 0 {
        println!("All {} verdicts are right.", WAYS.len());
        ExitCode::SUCCESS
    } else {
        println!("{wrong} of {} verdicts are WRONG.", WAYS.len());
        ExitCode::FAILURE
    }
}

/// A supervisor's view: SIGTERM to `kvmd-run`, and what comes of it.
fn play_runner() {
    println!("$ kvmd-run qemu-system-x86_64 -name web1 ... & kill $!");
    let runner = RunnerBuilder::new(daemon_program().with_file_name("kvmd-run")).boot();
    runner.signal(Signal::TERM);
    let outcome = runner.end();
    for line in &outcome.lines {
        println!("  {line}");
    }
    assert_eq!(outcome.code(), 0, "the guest was not shut down");
    println!();
}

/// Boots a guest, lets it die, and compares the verdict with what is right.
fn play(node: &Node, daemon: &Daemon, way: &Way, is_reduced: bool) -> (String, bool) {
    println!("{}: booting QEMU, then: {} ...", way.name, way.deed);
    let mut guest = node.guest(way.name).with(way.arguments).boot();
    daemon.await_line(&format!("Instance \"{}\" (pid {}) is connected", way.name, guest.pid()));
    let witness = Witness::new(node, way.name, guest.pid());
    (way.end)(&mut guest, daemon);
    let seen = witness.observe();
    guest.wait();
    let death = daemon.await_death(way.name);
    println!("  {}", death.line);

    let file = node.has_shutdown_file(way.name);
    let (cause, initiator) = (way.cause, way.initiator);
    let verdict = (&*death.cause, &*death.initiator);
    let is_right = (verdict == (cause, initiator)
        || is_reduced && verdict == way.verdict_without_status())
        && file == way.is_users()
        && seen.file_at_the_end == way.is_users();
    let mut row = format!(
        "{:<13}  {:<40}  {:<21}  {:<9}  {:<4}  {}",
        way.name,
        way.deed,
        death.cause,
        death.initiator,
        if file { "yes" } else { "no" },
        lead(seen),
    );
    if !is_right {
        let expected = if way.is_users() { "a file" } else { "no file" };
        let _ = write!(row, "  WRONG: should be {cause}, {initiator}, {expected}");
    }
    row.push('\n');
    (row, is_right)
}

/// For how long the file had been there when the process was dead.
fn lead(seen: Seen) -> String {
    let in_ms = |lead: Duration| format!("{:.1} ms", lead.as_secs_f64() * 1000.0);
    seen.lead.map_or_else(|| "-".into(), in_ms)
}
