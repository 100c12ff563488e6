//! `kvmd-why --follow --exec`: a command for each end, within bounds, and nothing left behind.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};

use testbed::{Signal, await_that, has_ended, send_signal};

const KVMD_WHY: &str = env!("CARGO_BIN_EXE_kvmd-why");

/// A `kvmd-why` that follows a file of records; killed when dropped.
struct Follower {
    directory: tempfile::TempDir,
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
}

impl Follower {
    /// Starts it with this command, in which `$D` is a directory of the test's own.
    fn start(options: &[&str], command: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let records = directory.path().join("records");
        File::create(&records).unwrap();
        let mut program = Command::new(KVMD_WHY);
        program.arg(format!("--file={}", records.display()));
        Self::start_as(program, directory, options, command)
    }

    /// The same on the records of this node, which are in `var/log/ganeti`.
    fn start_on_node(options: &[&str], command: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("var/log/ganeti");
        fs::create_dir_all(&log).unwrap();
        File::create(log.join("kvm-exits.jsonl")).unwrap();
        let mut program = Command::new(KVMD_WHY);
        program.env("GANETI_ROOTDIR", directory.path());
        Self::start_as(program, directory, options, command)
    }

    /// As whoever ignores SIGCHLD starts it.
    fn start_ignoring_children(options: &[&str], command: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let records = directory.path().join("records");
        File::create(&records).unwrap();
        let mut program = Command::new("env");
        program.args(["--ignore-signal=CHLD", KVMD_WHY]);
        program.arg(format!("--file={}", records.display()));
        Self::start_as(program, directory, options, command)
    }

    fn start_as(
        mut program: Command,
        directory: tempfile::TempDir,
        options: &[&str],
        command: &str,
    ) -> Self {
        let mut child = program
            .arg("--follow")
            .arg(format!("--exec={command}"))
            .args(options)
            .env("D", directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        if !options.contains(&"--json") {
            let heading = stdout.next().unwrap().unwrap();
            assert!(heading.starts_with("ENDED"), "{heading}");
        }
        Self { directory, child, stdout, stderr }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// These instances crash, all at once.
    fn crash(&self, instances: &[&str]) {
        let lines: Vec<String> =
            instances.iter().map(|name| record(name, "crashed", "crash")).collect();
        self.append(&lines.concat());
    }

    fn append(&self, text: &str) {
        let mut file = File::options().append(true).open(self.path("records")).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn complaint(&mut self) -> String {
        self.stderr.next().unwrap().unwrap()
    }

    /// The pids of its children, zombies among them.
    fn children(&self) -> String {
        let pid = self.child.id();
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap()
    }

    fn send(&self, signal: Signal) {
        send_signal(self.child.id(), signal);
    }

    /// Waits for its end; what else it has said.
    fn end(&mut self) -> (ExitStatus, Vec<String>) {
        let complaints = self.stderr.by_ref().map(Result::unwrap).collect();
        (self.child.wait().unwrap(), complaints)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn record(instance: &str, cause: &str, initiator: &str) -> String {
    let instance = serde_json::to_string(instance).unwrap();
    format!(
        "{{\"version\":1,\"instance\":{instance},\"pid\":4242,\"end\":\"2026-11-21T03:00:00.000000Z\",\
         \"cause\":\"{cause}\",\"initiator\":\"{initiator}\",\"summary\":\"ended\",\"signal\":\"SIGSEGV\"}}\n"
    )
}

#[test]
fn a_command_has_the_record_and_nothing_of_it_is_a_command() {
    let hostile = "a b$(touch $D/pwned); touch $D/pwned #`touch $D/pwned`\n\0\u{1b}[2J";
    let script = "cat >>$D/stdin; printf '%s\\n' \"$KVMD_NAME|$KVMD_PID|$KVMD_CAUSE|$KVMD_INITIATOR|$KVMD_SIGNAL\" >>$D/told; \
                  mv $D/told $D/told.$KVMD_CAUSE; echo said";
    let mut follower = Follower::start(&["--cause=crash", "--exec-jobs=1"], script);
    follower.append(&record("web1", "killed", "admin"));
    follower.append(&record(hostile, "crashed", "crash"));
    follower.append(&record("web2", "failed", "crash"));
    // What it prints is apart from what this prints.
    assert_eq!([follower.complaint(), follower.complaint()], ["said", "said"]);
    let told = "a b$(touch $D/pwned); touch $D/pwned #`touch $D/pwned`\\n\\u{0}\\u{1b}[2J|4242|crashed|crash|SIGSEGV\n";
    assert_eq!(follower.read("told.crashed"), told);
    assert_eq!(follower.read("told.failed"), "web2|4242|failed|crash|SIGSEGV\n");
    let records = record(hostile, "crashed", "crash") + &record("web2", "failed", "crash");
    assert_eq!(follower.read("stdin"), records);
    assert!(!follower.path("pwned").exists());
    let line = follower.stdout.next().unwrap().unwrap();
    assert!(line.contains("(pid 4242)") && !line.contains('\u{1b}'), "{line}");
}

/// Members of Ganeti's groups can rename files where the node's records are, and make some.
#[test]
fn what_somebody_has_put_in_the_place_of_the_records_runs_nothing() {
    let mut follower = Follower::start_on_node(&[], "echo ran $KVMD_NAME");
    let log = follower.path("var/log/ganeti");
    let records = log.join("kvm-exits.jsonl");
    let put = |name: &str, text: &str| {
        let new = log.join("new");
        fs::write(&new, text).unwrap();
        if name == "forged" {
            // Another name makes it as little the daemon's as another owner.
            fs::hard_link(&new, log.join("other")).unwrap();
        }
        fs::rename(&new, &records).unwrap();
    };
    put("forged", &record("forged", "crashed", "crash").replace("2026", "2126"));
    let complaint = follower.complaint();
    assert!(complaint.ends_with("it has other names as well; remove it"), "{complaint}");
    // What was recorded before it began.
    put("replayed", &record("replayed", "crashed", "crash"));
    let complaint = follower.complaint();
    assert!(complaint.starts_with("kvmd-why: replayed: its end is older than"), "{complaint}");
    put("new", &record("new", "crashed", "crash").replace("2026", "2126"));
    assert_eq!(follower.complaint(), "ran new");
    await_that("the command has ended", || follower.children().is_empty());
    follower.send(Signal::TERM);
    let (status, complaints) = follower.end();
    assert_eq!((status.code(), complaints.len()), (Some(0), 0), "{complaints:?}");
}

/// It is counted and cut as any other line that is no record, and the next ones are run.
#[test]
fn a_record_that_is_well_formed_in_part_is_named() {
    let mut follower = Follower::start(&[], "echo ran $KVMD_NAME");
    let torn = format!(
        "{{\"instance\":\"web1\",\"initiator\":\"crash\",\"evidence\":\"{}\"}}\n",
        "x".repeat(10_000)
    );
    follower.append(&(torn.repeat(3) + &record("web2", "crashed", "crash")));
    let complaint = follower.complaint();
    assert!(complaint.ends_with("/records: 3 lines are no records:"), "{complaint}");
    for _ in 0..3 {
        let complaint = follower.complaint();
        assert!(complaint.starts_with("  a new line: ") && complaint.len() < 400, "{complaint}");
    }
    assert_eq!(follower.complaint(), "ran web2");
}

#[test]
fn a_command_that_fails_is_named_and_the_next_is_run() {
    let script = "case $KVMD_NAME in web1) exit 3;; web2) kill -KILL $$;; esac; echo done >&2";
    let mut follower = Follower::start(&["--exec-jobs=1"], script);
    follower.crash(&["web1", "web2", "web3"]);
    assert_eq!(follower.complaint(), "kvmd-why: web1: the command failed: exit status: 3");
    assert_eq!(follower.complaint(), "kvmd-why: web2: the command failed: signal: 9 (SIGKILL)");
    assert_eq!(follower.complaint(), "done");
    await_that("no zombie is left", || follower.children().is_empty());
}

#[test]
fn the_end_of_a_command_is_seen_by_whoever_was_started_without() {
    let mut follower = Follower::start_ignoring_children(&[], "exit 3");
    follower.crash(&["web1"]);
    assert_eq!(follower.complaint(), "kvmd-why: web1: the command failed: exit status: 3");
}

#[test]
fn what_was_there_before_is_complained_of_before_it_follows() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("var/log/ganeti");
    fs::create_dir_all(&log).unwrap();
    fs::write(log.join("kvm-exits.jsonl"), "").unwrap();
    fs::write(log.join("kvm-exits.jsonl.1.xz"), "").unwrap();
    let mut program = Command::new(KVMD_WHY);
    program.env("GANETI_ROOTDIR", directory.path());
    let mut follower = Follower::start_as(program, directory, &[], "echo ran");
    let complaint = follower.complaint();
    assert!(complaint.contains("compressed in a way that is not supported"), "{complaint}");
    let end = record("web1", "crashed", "crash").replace("2026", "2126");
    fs::write(follower.path("var/log/ganeti/kvm-exits.jsonl"), end).unwrap();
    assert_eq!(follower.complaint(), "ran");
    follower.send(Signal::TERM);
    assert_eq!(follower.end().0.code(), Some(0));
}

#[test]
fn nobody_need_read_its_complaints() {
    for (argument, code) in [("--nonsense", 2), ("--file=/nowhere", 1), ("--help", 0)] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = Command::new(KVMD_WHY)
            .arg(argument)
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .status();
        assert_eq!(status.unwrap().code(), Some(code), "{argument}");
    }
}

#[test]
fn a_command_that_hangs_is_ended_with_all_that_it_has_started() {
    let script = "case $KVMD_NAME in web1) sleep 1000 & echo $! >$D/pid; wait;; web2) trap '' TERM; echo >$D/deaf; sleep 1000 & wait; wait;; esac; echo done >&2";
    let mut follower = Follower::start(&["--exec-jobs=1", "--exec-timeout=1"], script);
    follower.crash(&["web1", "web3", "web2", "web3"]);
    let complaint = follower.complaint();
    assert_eq!(
        complaint,
        "kvmd-why: web1: the command took longer than 1 s, and was asked to end: signal: 15 (SIGTERM)"
    );
    let pid = follower.read("pid").trim().parse().unwrap();
    await_that("what it has started is gone", || has_ended(pid));
    assert_eq!(follower.complaint(), "done");
    let complaint = follower.complaint();
    assert_eq!(
        complaint,
        "kvmd-why: web2: the command took longer than 1 s, did not end when it was asked to, and was killed"
    );
    assert_eq!(follower.complaint(), "done");
}

#[test]
fn only_so_many_run_and_only_so_many_wait() {
    const ENDS: usize = 1200;
    let script = "echo >>$D/begun; read line <$D/gate; echo >>$D/ended";
    let mut follower = Follower::start(&["--exec-jobs=2", "--exec-timeout=1000"], script);
    let gate = follower.path("gate");
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let mut gate = File::options().read(true).write(true).open(gate).unwrap();
    let names: Vec<String> = (0..ENDS).map(|i| format!("web{i}")).collect();
    follower.crash(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let complaint = follower.complaint();
    assert!(complaint.contains(": too many ends wait for their command; "), "{complaint}");
    let count = |follower: &Follower, file: &str| follower.read(file).lines().count();
    await_that("two run", || count(&follower, "begun") == 2);
    // Each line lets one go on.
    gate.write_all(b"\n").unwrap();
    await_that("one has ended, and another runs", || count(&follower, "begun") == 3);
    assert_eq!(count(&follower, "ended"), 1);
    gate.write_all("\n".repeat(ENDS).as_bytes()).unwrap();
    await_that("those that waited have run", || {
        count(&follower, "ended") >= 1000 && follower.children().is_empty()
    });
    follower.send(Signal::TERM);
    let (_, complaints) = follower.end();
    // Those that found no room, and those that still waited.
    let not_run = |complaint: &String| -> Option<usize> {
        complaint.split("not run for ").nth(1)?.split(' ').next()?.parse().ok()
    };
    let not_run: usize = complaints.iter().filter_map(not_run).sum();
    assert!(not_run >= ENDS - 1002, "{complaints:?}");
    assert_eq!(count(&follower, "begun") + not_run, ENDS, "{complaints:?}");
    assert!(count(&follower, "begun") <= 1002, "{complaints:?}");
}

#[test]
fn names_that_wait_are_cut_and_what_finds_no_room_is_told_of_when_there_is_some() {
    let script = "echo >>$D/begun; read line <$D/gate";
    let options = ["--json", "--exec-jobs=1", "--exec-timeout=1000"];
    let mut follower = Follower::start(&options, script);
    let gate = follower.path("gate");
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let mut gate = File::options().read(true).write(true).open(gate).unwrap();
    // Each name is escaped in six bytes; one runs, and as many wait as have 16 MiB.
    let long = "\u{1b}".repeat(100_000);
    follower.append(&record(&long, "crashed", "crash").repeat(30));
    let complaint = follower.complaint();
    assert!(complaint.contains(": too many ends wait for their command"), "{complaint}");
    assert!(complaint.len() < 10_000, "{}", complaint.len());
    await_that("one runs", || follower.read("begun").len() == 1);
    gate.write_all(b"\n").unwrap();
    // No further end has come.
    let complaint = follower.complaint();
    assert!(complaint.starts_with("kvmd-why: the command was not run for "), "{complaint}");
}

#[test]
fn a_signal_ends_it_and_every_command() {
    for (signal, script, said) in [
        (
            Signal::TERM,
            "echo $$ >$D/pid; sleep 1000",
            "was asked to end, as this ends: signal: 15 (SIGTERM)",
        ),
        (
            Signal::INT,
            "trap '' TERM; echo $$ >$D/pid; sleep 1000 & wait; wait",
            "was killed, as this ends",
        ),
    ] {
        let mut follower = Follower::start(&["--exec-jobs=1"], script);
        follower.crash(&["web1", "web2", "web3"]);
        await_that("the first runs", || follower.read("pid").ends_with('\n'));
        follower.send(signal);
        let (status, complaints) = follower.end();
        assert_eq!(status.code(), Some(0), "{complaints:?}");
        assert_eq!(
            complaints,
            [
                "kvmd-why: ending; the command is not run for 2 more that wait",
                &format!("kvmd-why: web1: the command {said}"),
            ]
        );
        assert!(has_ended(follower.read("pid").trim().parse().unwrap()));
    }
}

#[test]
fn a_stdout_that_nobody_reads_keeps_no_command_from_running() {
    const ENDS: usize = 900;
    let mut follower = Follower::start(&["--json"], "echo >>$D/run");
    let long = "x".repeat(200);
    let names: Vec<String> = (0..ENDS).map(|i| format!("{long}{i}")).collect();
    follower.crash(&names.iter().map(String::as_str).collect::<Vec<_>>());
    await_that("the command has run for each", || follower.read("run").len() == ENDS);
    follower.send(Signal::TERM);
    assert_eq!(follower.end().0.code(), Some(0));
}

/// Of `gnt-cluster command`, whose output is appended to a file every day.
#[test]
fn what_many_nodes_said_is_told_of_the_node_that_said_it() {
    let mut follower = Follower::start(&[], "echo $KVMD_NODE $KVMD_NAME");
    let rule = "-".repeat(48);
    let said = |node: &str, name: &str| {
        format!("{rule}\nnode: {node}\n{}\nreturn code = 0\n", record(name, "crashed", "crash"))
    };
    follower.append(&said("node1", "web1"));
    assert_eq!(follower.complaint(), "node1 web1");
    // In pieces: what came first says whose the rest is.
    let text = said("node2", "web2");
    let (one, other) = text.split_at(60);
    follower.append(one);
    follower.append(other);
    assert_eq!(follower.complaint(), "node2 web2");
}
