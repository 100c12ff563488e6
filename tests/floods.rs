//! Whoever floods the kernel's trace of signals holds up nobody, and hides nothing that matters.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;
use testbed::{MemoryGroup, Node, Signal, StandIn, await_that, needs};

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

#[test]
fn a_process_that_floods_itself_with_signals_is_let_go() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    // As a guest that has taken over its QEMU might do it.
    let flooding = node.stand_in("web1").with("--deaf-to-hup").connected();
    let quiet = node.stand_in("web2").connected();
    daemon.await_lines("is connected and running", 2);
    let trap =
        format!("i=0; while [ $i -lt 20000 ]; do kill -HUP {}; i=$((i+1)); done", flooding.pid());
    run(Command::new("sh").args(["-c", &trap]));
    daemon.await_line("receives too many signals");
    quiet.signal(Signal::KILL);
    assert!(daemon.await_death("web2").line.contains("SIGKILL from floods"));
    flooding.signal(Signal::KILL);
    assert_eq!(daemon.await_death("web1").cause, "killed");
}

/// It sends them faster than anybody could look into them, and never stops.
#[test]
fn one_that_floods_itself_for_ever_holds_up_nobody() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut flooding = node.stand_in("flood").connected();
    let mut quiet: Vec<StandIn> =
        (0..10).map(|i| node.stand_in(format!("web{i}")).connected()).collect();
    daemon.await_lines("is connected and running", quiet.len() + 1);
    let before = daemon.status("VmHWM");
    flooding.tell(&format!("flood-itself {}", u64::MAX));
    for stand_in in &mut quiet {
        stand_in.tell("shutdown guest-shutdown");
        let name = stand_in.name().to_string();
        assert_eq!(daemon.await_death(&name).initiator, "user");
        assert!(node.has_shutdown_file(&name));
    }
    daemon.await_line("receives too many signals");
    let grown = daemon.status("VmHWM") - before;
    assert!(grown < 1024, "{grown} kB more memory");
    assert!(!flooding.has_ended(), "the flood is over");
    flooding.signal(Signal::KILL);
    assert_eq!(daemon.await_death("flood").cause, "killed");
}

/// Nor does the OOM killer's choice go untold because of what came before it.
#[test]
fn the_oom_killer_is_heard_of_one_that_has_flooded_itself() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut flooding = node.stand_in("web1").connected();
    daemon.await_line("is connected and running");
    flooding.tell("flood-itself 20000");
    flooding.await_word("flooded");
    daemon.await_line("receives too many signals");
    let group = MemoryGroup::new("64M");
    group.add(flooding.pid());
    flooding.tell("grow");
    let death = daemon.await_death("web1");
    assert_eq!((&*death.cause, &*death.initiator), ("out-of-memory", "crash"), "{}", death.line);
    let records = fs::read_to_string(node.path("var/log/ganeti/kvm-exits.jsonl")).unwrap();
    let record: Value = serde_json::from_str(records.lines().last().unwrap()).unwrap();
    let sources: Vec<&Value> = record["evidence"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|piece| piece["what"].as_str().unwrap().contains("OOM"))
        .map(|piece| &piece["source"])
        .collect();
    assert_eq!(sources, ["trace"], "{record:#}");
}

/// Each processor's events have a buffer of their own, in which only they overwrite each other.
fn on_the_first_processor(stand_in: &StandIn) {
    let pid = stand_in.pid().to_string();
    let taskset = ["--all-tasks", "--cpu-list", "--pid", "0", &pid];
    run(Command::new("taskset").args(taskset).stdout(Stdio::null()));
}

/// What was overwritten before it could be read is known from elsewhere.
#[test]
fn the_control_group_tells_of_the_oom_killer_once_the_trace_has_lost_something() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut flooding: Vec<StandIn> =
        (0..3).map(|i| node.stand_in(format!("flood{i}")).connected()).collect();
    let mut victim = node.stand_in("web1").connected();
    daemon.await_lines("is connected and running", 4);
    let group = MemoryGroup::new("64M");
    group.add(victim.pid());
    on_the_first_processor(&victim);
    flooding.iter().for_each(on_the_first_processor);
    let mut flood = |i: usize| {
        flooding[i].tell("flood-itself 20000");
        flooding[i].await_word("flooded");
    };

    daemon.signal(Signal::STOP);
    flood(0);
    daemon.signal(Signal::CONT);
    daemon.await_line("trace lost some signals");
    // While nobody reads, it is chosen, and that is overwritten. (What came first never is.)
    daemon.signal(Signal::STOP);
    flood(1);
    victim.tell("grow");
    await_that("it is killed", || testbed::has_ended(victim.pid()));
    flood(2);
    daemon.signal(Signal::CONT);
    let death = daemon.await_death("web1");
    assert_eq!((&*death.cause, &*death.initiator), ("out-of-memory", "crash"), "{}", death.line);
}

/// A process that ignores SIGHUP and is not watched. Once it is told to, it sends itself one after the
/// other, for ever, and says so after every ten thousand.
struct Stranger {
    shell: Child,
    words: Lines<BufReader<ChildStdout>>,
}

impl Stranger {
    fn new() -> Self {
        const SCRIPT: &str = "trap '' HUP; read -r _; while :; do \
             i=0; while [ $i -lt 10000 ]; do kill -HUP $$; i=$((i+1)); done; echo; done";
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let words = BufReader::new(shell.stdout.take().unwrap()).lines();
        Self { shell, words }
    }

    fn floods_itself(&mut self) {
        self.shell.stdin.take().unwrap().write_all(b"\n").unwrap();
    }

    /// Waits until it has sent itself so many times ten thousand signals more.
    fn await_more(&mut self, times: usize) {
        assert_eq!(self.words.by_ref().take(times).flatten().count(), times);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.shell.kill().unwrap();
        self.shell.wait().unwrap();
    }
}

/// Where there are so many that the filter joins neighbours, a stranger may have a pid between two of
/// them: by chance, or because he forked until he had.
#[test]
fn a_stranger_between_two_who_are_watched_keeps_nobody_busy() {
    const INSTANCES: usize = 400;
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut stand_ins = Vec::new();
    let mut strangers = Vec::new();
    for i in 0..INSTANCES {
        stand_ins.push(node.stand_in(format!("web{i}")).connected());
        strangers.push(Stranger::new());
    }
    daemon.await_lines("is connected and running", INSTANCES);
    // The narrowest gaps are closed.
    let mut pids: Vec<u32> = stand_ins.iter().map(StandIn::pid).collect();
    pids.sort_unstable();
    let width = |stranger: &Stranger| {
        let place = pids.partition_point(|&pid| pid < stranger.shell.id());
        let ends = pids.get(place.wrapping_sub(1)).zip(pids.get(place));
        ends.map_or(u32::MAX, |(first, last)| last - first)
    };
    let stranger = strangers.iter_mut().min_by_key(|stranger| width(stranger)).unwrap();
    stranger.floods_itself();
    daemon.await_line("Processes that are not watched flood the kernel's trace");
    daemon.await_line("has no room for");
    let before = daemon.context_switches();
    stranger.await_more(20);
    let woken = daemon.context_switches() - before;
    assert!(woken < 100, "200,000 signals to a stranger woke it {woken} times");

    // What is traced still is; and whom the filter has no room for is marked as before.
    stand_ins.sort_by_key(StandIn::pid);
    let traced = &stand_ins[0];
    traced.signal(Signal::KILL);
    let death = daemon.await_death(traced.name());
    assert!(death.line.contains("SIGKILL from floods"), "{}", death.line);
    let left_out = stand_ins.last_mut().unwrap();
    let name = left_out.name().to_string();
    left_out.tell("shutdown guest-shutdown");
    assert_eq!(daemon.await_death(&name).initiator, "user");
    assert!(node.has_shutdown_file(&name));
}
