//! What the daemon counts for `--metrics-file`, and when it is there to be read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testbed::ways::{OPTIONS, WAYS};
use testbed::{Daemon, Node, Signal, StandIn, await_that, figure, needs};

fn node() -> (Node, PathBuf) {
    let node = Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"));
    let path = node.path("kvmd.prom");
    (node, path)
}

fn start(node: &Node, metrics: &Path, more: &[&str]) -> Daemon {
    let metrics = format!("--metrics-file={}", metrics.display());
    node.start_with(&[&[&*metrics], more].concat())
}

fn connected(node: &Node, daemon: &Daemon, name: &str) -> StandIn {
    let stand_in = node.stand_in(name).connected();
    daemon.await_line(&format!("\"{name}\" (pid {}) is connected and running", stand_in.pid()));
    stand_in
}

fn value(metrics: &Path, series: &str) -> Option<u64> {
    let text = fs::read_to_string(metrics).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("ganeti_kvmd_{series} ")));
    line.map(|value| value.parse().unwrap())
}

fn await_value(metrics: &Path, series: &str, expected: u64) {
    let what = format!("{series} is {expected}");
    await_that(&what, || value(metrics, series) == Some(expected));
}

#[test]
fn an_instance_that_crashes_again_and_another_that_crashes_once() {
    needs!(Root);
    let (node, metrics) = node();
    let daemon = start(&node, &metrics, &[]);
    for (name, recurrent) in [("web1", 0), ("web2", 0), ("web1", 1)] {
        let stand_in = connected(&node, &daemon, name);
        stand_in.signal(Signal::ABORT);
        daemon.await_line(&format!("\"{name}\" (pid {}) crashed", stand_in.pid()));
        // As Ganeti does before it starts an instance.
        fs::remove_file(node.socket(name)).unwrap();
        await_value(&metrics, "recurrent_crashes_total{cause=\"crashed\"}", recurrent);
    }
    await_value(&metrics, "exits_total{cause=\"crashed\",initiator=\"crash\"}", 3);
}

#[test]
fn an_end_that_could_not_be_recorded_is_counted() {
    needs!(Root);
    let (node, metrics) = node();
    // Something in its place that cannot be written to.
    fs::create_dir_all(node.path("var/log/ganeti/kvm-exits.jsonl")).unwrap();
    let daemon = start(&node, &metrics, &[]);
    await_value(&metrics, "lost_records_total", 0);
    let mut stand_in = connected(&node, &daemon, "web1");
    stand_in.tell("shutdown guest-shutdown");
    assert_eq!(daemon.await_death("web1").initiator, "user");
    await_value(&metrics, "lost_records_total", 1);
}

#[test]
fn an_instance_that_does_not_answer_is_counted() {
    needs!(Root);
    let (node, metrics) = node();
    let daemon = start(&node, &metrics, &[]);
    await_value(&metrics, "silent_total", 0);
    let _stand_in = node.stand_in("web1").with("--never-accept").start();
    daemon.await_line("does not answer at");
    await_value(&metrics, "silent_total", 1);
}

/// They are the successor's from then on, and there all the time: a daemon that hands over does not
/// remove what the next one has written.
#[test]
fn a_successor_replaces_the_figures() {
    needs!(Root);
    let (node, metrics) = node();
    let daemon = start(&node, &metrics, &[]);
    let mut stand_in = connected(&node, &daemon, "web1");
    await_value(&metrics, "instances", 1);
    let successor = start(&node, &metrics, &["--take-over"]);
    daemon.ended();
    assert!(metrics.exists());
    stand_in.tell("shutdown guest-shutdown");
    successor.await_death("web1");
    await_value(&metrics, "exits_total{cause=\"guest-shutdown\",initiator=\"user\"}", 1);
    successor.stop();
    assert!(!metrics.exists(), "nobody counts any more");
}

/// The sign of life: a file that nobody writes any more is that of a daemon that hangs.
#[test]
fn an_idle_daemon_writes_its_figures_once_a_minute() {
    needs!(Root);
    let (node, metrics) = node();
    let _daemon = start(&node, &metrics, &[]);
    await_that("the metrics are written", || metrics.exists());
    let beat = || value(&metrics, "heartbeat_timestamp_seconds").unwrap();
    let first = beat();
    assert!(first >= value(&metrics, "start_time_seconds").unwrap());
    await_that("it has written them again, and nothing has happened", || beat() > first + 10);
    let text = fs::read_to_string(&metrics).unwrap();
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    figure("what --metrics-file writes", &format!("{series} series, {} bytes", text.len()));
}

/// How much of a disk and of a journal one end takes, for docs/fleet.md: each way of the
/// demonstration once, on real QEMU.
#[test]
fn what_an_end_weighs() {
    needs!(Qemu, Root);
    let (node, metrics) = node();
    let daemon = start(&node, &metrics, &OPTIONS);
    daemon.await_line("trace shows who sends signals");
    let before = daemon.lines().len();
    for way in &WAYS {
        let mut guest = node.guest(way.name).with(way.arguments).boot();
        daemon.await_line(&format!("\"{}\" (pid {}) is connected", way.name, guest.pid()));
        (way.end)(&mut guest, &daemon);
        guest.wait();
        daemon.await_death(way.name);
    }
    // Without those of the debug log, which nobody keeps.
    let lines = daemon.lines().split_off(before);
    let lines: Vec<String> = lines.into_iter().filter(|it| !it.contains(" DEBUG ")).collect();
    let lines = lines.join("\n");
    daemon.stop();
    let records = node.path("var/log/ganeti/kvm-exits.jsonl");
    let text = fs::read_to_string(&records).unwrap();
    let mut sizes: Vec<usize> = text.lines().map(|line| line.len() + 1).collect();
    sizes.sort_unstable();
    assert_eq!(sizes.len(), WAYS.len());
    let packed = Command::new("gzip").arg("-c").arg(&records).output().unwrap().stdout.len();
    figure(
        &format!("the record of an end ({} ways to end)", sizes.len()),
        &format!(
            "{} to {} bytes, {} on average, {} compressed",
            sizes[0],
            sizes[sizes.len() - 1],
            text.len() / sizes.len(),
            packed / sizes.len()
        ),
    );
    let count = lines.lines().count();
    figure(
        "the log of an instance's life, from its start to its end",
        &format!("{} lines, {} bytes", count / WAYS.len(), lines.len() / WAYS.len()),
    );
    // A table that no disk would hold is no table of one node.
    assert!(text.len() / sizes.len() < 8192 && count / WAYS.len() < 20, "{lines}");
}
