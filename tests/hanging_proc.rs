//! A process can have everybody hang who looks at it: the kernel waits for its memory map. The daemon
//! looks at whoever sends a signal to an instance, and goes on. So it does with QEMU's own log on a
//! disk that does not answer.
//!
//! While such a process is there, ps(1) hangs as well.

use std::fs;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use testbed::{
    Attacker, Daemon, HungFile, NOBODY, Node, Signal, StandIn, WITHOUT_TRACE, await_that, figure,
    needs,
};

const SIGHUP: &str = "1";
const SIGKILL: &str = "9";

/// As many looks of the daemon's can hang.
const THREADS: usize = 3;

/// What the log says when all of them do.
const STUCK: &str = "threads that look into processes and logs hang";

/// Where QEMU's own logs are.
const LOGS: &str = "var/log/ganeti/kvm";

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

/// A node with a file that never comes, which is given up before those who wait for it.
struct Hostile {
    attackers: Vec<Attacker>,
    file: Option<HungFile>,
    daemon: Option<Daemon>,
    node: Node,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.file.take();
    }
}

impl Hostile {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;

        let node = node();
        let all = fs::Permissions::from_mode(0o777);
        fs::set_permissions(node.root(), all.clone()).unwrap();
        fs::set_permissions(node.control_dir(), all).unwrap();
        let daemon = node.start();
        let file = HungFile::mount(&node.path("hung"));
        Self { attackers: Vec::new(), file: Some(file), daemon: Some(daemon), node }
    }

    /// Each QEMU's own log is this file, and the daemon is told of no signal by anybody else.
    fn with_logs_that_hang() -> Self {
        let node = node();
        fs::create_dir_all(node.path("var/log/ganeti")).unwrap();
        let file = HungFile::mount(&node.path(LOGS));
        let daemon = node.start_wrapped(&WITHOUT_TRACE, &[]);
        daemon.await_line("trace of signals is not available");
        Self { attackers: Vec::new(), file: Some(file), daemon: Some(daemon), node }
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    fn victim(&self, name: &str) -> StandIn {
        let user = format!("--user={NOBODY}");
        let victim = self.node.stand_in(name).with(&user).with("--deaf-to-hup").connected();
        let line = format!("\"{name}\" (pid {}) is connected and running", victim.pid());
        self.daemon().await_line(&line);
        victim
    }

    /// Has a process that hangs whoever looks at it send this signal, and returns its pid.
    fn attack(&mut self, signal: &str, victim: &StandIn) -> u32 {
        let file = self.file.as_ref().unwrap().path();
        let words = ["hang", file.to_str().unwrap(), &victim.pid().to_string(), signal];
        let mut attacker = Attacker::start(&words);
        attacker.await_done();
        let pid = attacker.pid();
        self.attackers.push(attacker);
        pid
    }

    /// The record of this instance's end.
    fn record(&self, name: &str) -> Value {
        self.daemon().await_death(name);
        let path = self.node.path("var/log/ganeti/kvm-exits.jsonl");
        let find = || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let mut records = text.lines().filter_map(|line| serde_json::from_str(line).ok());
            records.find(|record: &Value| record["instance"] == name)
        };
        await_that("it is in the records", || find().is_some());
        find().unwrap()
    }
}

const MORE: &str = "more of who sent the signal than its pid";

#[test]
fn a_sender_that_hangs_whoever_looks_at_it() {
    needs!(Root, Fuse);
    let mut hostile = Hostile::new();
    let victim = hostile.victim("web1");
    let mut other = hostile.node.stand_in("web2").with("--drain=60000").connected();
    hostile.daemon().await_lines("is connected and running", 2);
    let begun = Instant::now();
    let sender = hostile.attack(SIGKILL, &victim);
    let asked = Instant::now();
    other.tell("shutdown guest-shutdown");
    await_that("it is marked", || hostile.node.has_shutdown_file("web2"));
    let marked = asked.elapsed();
    let record = hostile.record("web1");
    figure(
        "a sender that hangs whoever looks at it",
        &format!("another's file after {marked:.1?}, the record after {:.1?}", begun.elapsed()),
    );
    assert_eq!((&record["cause"], &record["died_by"]), (&"killed".into(), &"SIGKILL".into()));
    assert_eq!(
        (&record["sender"]["pid"], &record["sender"]["name"]),
        (&sender.into(), &Value::Null)
    );
    assert_eq!(record["missing"], Value::from(vec![MORE]), "{record:#}");
    let line = format!("what process {sender} shows of itself takes longer than a second");
    hostile.daemon().await_line(&line);
    // It still looks at others, ...
    let victim = hostile.victim("web3");
    testbed::send_signal(victim.pid(), Signal::KILL);
    let record = hostile.record("web3");
    assert_eq!(record["sender"]["pid"], std::process::id());
    assert_eq!((&record["sender"]["uid"], &record["missing"]), (&0.into(), &Value::Array(vec![])));
    // ... and it ends when it is asked to.
    let status = hostile.daemon.take().unwrap().stop();
    assert!(status.success(), "{status}");
}

#[test]
fn as_many_of_them_as_there_are_looks() {
    needs!(Root, Fuse);
    let mut hostile = Hostile::new();
    let victim = hostile.victim("web1");
    for _ in 0..THREADS {
        hostile.attack(SIGHUP, &victim);
    }
    hostile.daemon().await_line(STUCK);
    testbed::send_signal(victim.pid(), Signal::KILL);
    let record = hostile.record("web1");
    assert_eq!(record["cause"], "killed");
    assert_eq!(record["sender"]["pid"], rustix::thread::gettid().as_raw_pid());
    assert_eq!(record["missing"], Value::from(vec![MORE]), "{record:#}");
    // When they can be read again, so is everybody.
    hostile.file.take();
    hostile.daemon().await_line("Processes and logs are looked into again");
    let victim = hostile.victim("web2");
    testbed::send_signal(victim.pid(), Signal::KILL);
    let record = hostile.record("web2");
    assert_eq!((&record["sender"]["uid"], &record["missing"]), (&0.into(), &Value::Array(vec![])));
    assert_eq!(hostile.daemon().count(STUCK), 1, "said once");
}

const SENDER: &str = "who sent the signal";
const LOG: &str = "what QEMU's own log says";

/// Whether this is on record as not known. On this node the exit status is not, either.
fn lacks(record: &Value, what: &str) -> bool {
    record["missing"].as_array().unwrap().iter().any(|missing| missing == what)
}

#[test]
fn a_log_of_qemus_that_hangs_whoever_reads_it() {
    needs!(Root, Fuse);
    let mut hostile = Hostile::with_logs_that_hang();
    let mut victims: Vec<StandIn> =
        (0..=THREADS).map(|i| hostile.node.stand_in(format!("web{i}")).connected()).collect();
    let mut other = hostile.node.stand_in("other").with("--drain=60000").connected();
    hostile.daemon().await_lines("is connected and running", victims.len() + 1);
    let begun = Instant::now();
    victims[0].signal(Signal::TERM);
    let file = hostile.file.as_ref().unwrap();
    await_that("its log is being read", || victims[0].has_ended() && file.readers() > 0);
    other.tell("shutdown guest-shutdown");
    await_that("it is marked", || hostile.node.has_shutdown_file("other"));
    let marked = begun.elapsed();
    let record = hostile.record("web0");
    figure(
        "a QEMU whose own log hangs whoever reads it",
        &format!("another's file after {marked:.1?}, the record after {:.1?}", begun.elapsed()),
    );
    assert_eq!(record["cause"], "host-signal");
    assert_eq!([lacks(&record, SENDER), lacks(&record, LOG)], [true; 2], "{record:#}");
    hostile.daemon().await_line("web0.log\" takes longer than a second");

    // As many as there are threads, and one more.
    for victim in &victims[1..] {
        victim.signal(Signal::TERM);
    }
    for victim in &victims[1..] {
        let record = hostile.record(victim.name());
        assert_eq!([lacks(&record, SENDER), lacks(&record, LOG)], [true; 2], "{record:#}");
    }
    hostile.daemon().await_line(STUCK);
    // When the disk answers, so does the log. The daemon has mounts of its own.
    hostile.file.take();
    let its_mounts = ["--mount", "--target", &hostile.daemon().pid().to_string()];
    let mut unmount = Command::new("nsenter");
    unmount.args(its_mounts).arg("umount").arg(hostile.node.path(LOGS));
    assert!(unmount.status().unwrap().success());
    hostile.daemon().await_line("Processes and logs are looked into again");
    let last = hostile.node.stand_in("web9").connected();
    hostile.daemon().await_line("\"web9\" (pid");
    let said = "qemu-system-x86_64: terminating on signal 15 from pid 77 (<unknown process>)\n";
    fs::write(hostile.node.path(LOGS).join("web9.log"), said).unwrap();
    last.signal(Signal::TERM);
    let record = hostile.record("web9");
    assert_eq!(record["sender"]["pid"], 77);
    assert_eq!([lacks(&record, SENDER), lacks(&record, LOG)], [false; 2], "{record:#}");
    let status = hostile.daemon.take().unwrap().stop();
    assert!(status.success(), "{status}");
}
