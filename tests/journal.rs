//! systemd's journal has every end, once, with its fields; and a journal that does not read, comes
//! back, or is not there, costs nothing but its own entries.
//!
//! Here a socket stands for the journal. packaging/test-systemd-inside and tests/supervisors.rs play
//! with the real one.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use testbed::{
    Daemon, Journal, JournalEntry, Node, PATIENCE, RunnerBuilder, Signal, await_that, figure, needs,
};

/// What a service of systemd's finds in its environment, if its stderr is the journal.
const STDERR_IS_THE_JOURNAL: [&str; 4] =
    ["sh", "-c", "JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) exec \"$@\"", "sh"];

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

fn records(node: &Node) -> String {
    fs::read_to_string(node.path("var/log/ganeti/kvm-exits.jsonl")).unwrap_or_default()
}

fn has_logged(node: &Node, text: &str) -> bool {
    fs::read_to_string(node.log_file()).is_ok_and(|log| log.contains(text))
}

/// Has the user of an instance shut it down.
fn shut_down(node: &Node, daemon: &Daemon, name: &str) {
    let mut guest = node.stand_in(name).connected();
    daemon.await_line(&format!("Instance \"{name}\" (pid {}) is connected", guest.pid()));
    guest.tell("shutdown guest-shutdown");
    guest.wait();
}

#[track_caller]
fn assert_field(entry: &JournalEntry, name: &str, value: &str) {
    assert_eq!(entry.get(name).map(String::as_str), Some(value), "{name}: {entry:?}");
}

#[test]
fn each_end_is_an_entry_with_its_fields() {
    needs!(Root);
    let node = node();
    let journal = Journal::of(&node);
    let daemon = node.start();
    shut_down(&node, &daemon, "web1");
    let entry = journal.entry();
    let death = daemon.await_death("web1");
    // The line of the log without what Ganeti has in front of it.
    assert_field(&entry, "MESSAGE", &death.line);
    assert_field(&entry, "MESSAGE_ID", "e956f20437404873a3480ed0c6f75b0a");
    assert_field(&entry, "PRIORITY", "5");
    assert_field(&entry, "SYSLOG_IDENTIFIER", "ganeti-kvmd");
    assert_field(&entry, "INSTANCE", "web1");
    assert_field(&entry, "CAUSE", "guest-shutdown");
    assert_field(&entry, "INITIATOR", "user");
    assert!(!entry.contains_key("SENDER_PID"), "{entry:?}");

    let guest = node.stand_in("web2").connected();
    guest.signal(Signal::KILL);
    let entry = journal.entry();
    assert_field(&entry, "INSTANCE", "web2");
    assert_field(&entry, "INSTANCE_PID", &guest.pid().to_string());
    assert_field(&entry, "CAUSE", "killed");
    assert_field(&entry, "MESSAGE_ID", "4cf983fc1c04451abbbb959491d601ee");
    assert_field(&entry, "SENDER_PID", &std::process::id().to_string());
    assert_field(&entry, "SENDER_UID", "0");
    assert!(entry.contains_key("SENDER_NAME"), "{entry:?}");

    let guest = node.stand_in("web3").connected();
    guest.signal(Signal::ABORT);
    let entry = journal.entry();
    assert_field(&entry, "CAUSE", "crashed");
    assert_field(&entry, "PRIORITY", "4");

    // The record and the line are there as ever, and the entry once.
    daemon.await_any_deaths(3);
    assert!(daemon.stop().success());
    assert_eq!(records(&node).lines().count(), 3);
    assert_eq!(journal.entries(), []);
}

#[test]
fn where_stderr_is_the_journal_an_end_is_not_there_twice() {
    needs!(Root);
    let node = node();
    let journal = Journal::of(&node);
    let daemon = node.start_wrapped(&STDERR_IS_THE_JOURNAL, &[]);
    shut_down(&node, &daemon, "web1");
    assert_field(&journal.entry(), "INSTANCE", "web1");
    await_that("the log's file has the line", || has_logged(&node, ": cause guest-shutdown"));
    // One that the journal does not take in goes there the other way.
    journal.fill();
    shut_down(&node, &daemon, "web2");
    daemon.await_death("web2");
    assert_eq!(daemon.count("\"web1\" (pid "), 1, "{:?}", daemon.lines());
    assert_eq!(daemon.count(": cause "), 1, "{:?}", daemon.lines());
}

#[test]
fn a_journal_that_nobody_reads_holds_nothing_up() {
    const ENDS: u32 = 5;
    needs!(Root);
    let node = node();
    let journal = Journal::of(&node);
    let daemon = node.start();
    journal.fill();
    let mut longest = Duration::ZERO;
    for i in 0..ENDS {
        let mut guest = node.stand_in(format!("web{i}")).connected();
        let begin = Instant::now();
        guest.tell("shutdown guest-shutdown");
        while !node.has_shutdown_file(format!("web{i}")) {
            assert!(begin.elapsed() < PATIENCE, "no file for web{i}");
        }
        longest = longest.max(begin.elapsed());
        guest.wait();
    }
    daemon.await_any_deaths(ENDS as usize);
    figure(
        "a journal that nobody reads: longest delay of a file",
        &format!("{} ms", longest.as_millis()),
    );
    assert_eq!(records(&node).lines().count(), ENDS as usize);
    assert_eq!(daemon.count("takes nothing in"), 1, "{:?}", daemon.lines());
    // It is read again.
    assert!(journal.entries().iter().all(|entry| entry["MESSAGE"] == "filled"));
    shut_down(&node, &daemon, "late");
    assert_field(&journal.entry(), "INSTANCE", "late");
    daemon.await_line(&format!("takes ends in again; {ENDS} are missing there"));
}

/// Many ends come faster than a journal reads, which takes in ten at once (the sysctl
/// `net.unix.max_dgram_qlen`), or 512 under systemd.
#[test]
fn many_ends_at_once_are_all_there() {
    const ENDS: usize = 60;
    needs!(Root);
    let node = node();
    let journal = Journal::of(&node);
    let daemon = node.start();
    let guests: Vec<_> = (0..ENDS).map(|i| node.stand_in(format!("web{i}")).connected()).collect();
    daemon.await_lines("is connected and running", ENDS);
    for guest in &guests {
        guest.signal(Signal::KILL);
    }
    await_that("more have ended than fit", || records(&node).lines().count() > 11);
    let names: BTreeSet<String> = (0..ENDS).map(|_| journal.entry()["INSTANCE"].clone()).collect();
    assert_eq!(names.len(), ENDS, "{names:?}");
    daemon.await_any_deaths(ENDS);
    assert_eq!(daemon.count("WARNING The journal"), 0, "{:?}", daemon.lines());
}

#[test]
fn a_journal_that_is_restarted_gets_the_next_end() {
    needs!(Root);
    let node = node();
    let journal = Journal::of(&node);
    let daemon = node.start();
    shut_down(&node, &daemon, "web1");
    assert_field(&journal.entry(), "INSTANCE", "web1");
    let journal = journal.restarted();
    shut_down(&node, &daemon, "web2");
    assert_field(&journal.entry(), "INSTANCE", "web2");
    daemon.await_any_deaths(2);
    assert_eq!(daemon.count("WARNING The journal"), 0, "{:?}", daemon.lines());
}

#[test]
fn where_there_is_no_journal_nothing_is_said() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    shut_down(&node, &daemon, "web1");
    daemon.await_death("web1");
    assert_eq!(daemon.count("journal"), 0, "{:?}", daemon.lines());
}

#[test]
fn neither_a_name_nor_qemu_forges_a_field() {
    needs!(Root);
    let node = node();
    let journal = Journal::of(&node);
    let daemon = node.start();
    let mut guest = node.stand_in("x\nINSTANCE=web1\n\nMESSAGE=y").connected();
    daemon.await_line("is connected and running");
    guest.tell(
        r#"event SHUTDOWN {"guest": true, "reason": "x\nCAUSE=killed\nMESSAGE_ID=4cf983fc1c04451abbbb959491d601ee"}"#,
    );
    guest.tell("exit 0");
    guest.wait();
    // It fails at a field that is there twice.
    let entry = journal.entry();
    assert_field(&entry, "INSTANCE", r"x\nINSTANCE=web1\n\nMESSAGE=y");
    assert_field(&entry, "CAUSE", "x?CAUSE?killed?MESSAGE_ID?4cf983fc1c04451abbbb959491d601ee");
    // What its reason is, nobody here knows.
    assert_field(&entry, "MESSAGE_ID", "a1229cb69cf7412bbaed59c1aa4ea04d");
    assert!(entry["MESSAGE"].starts_with(r#"Instance "x\nINSTANCE=web1\n"#), "{entry:?}");
}

/// `kvmd-run`, on a machine that has a journal at this socket.
fn with_journal(wrapper: &[&str]) -> (RunnerBuilder, Journal) {
    const MACHINE: &str = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && \
         touch /run/systemd/journal/socket && mount --bind \"$JOURNAL\" /run/systemd/journal/socket && \
         exec \"$@\"";
    let builder = RunnerBuilder::new(env!("CARGO_BIN_EXE_kvmd-run"));
    let path = builder.path("journal");
    let journal = Journal::at(&path);
    let machine = ["unshare", "--mount", "sh", "-c", MACHINE, "sh"];
    let builder = builder.env("JOURNAL", path.to_str().unwrap()).through(&machine);
    (builder.through(wrapper), journal)
}

#[test]
fn kvmd_run_has_an_entry_for_its_end() {
    needs!(Qemu, Root);
    let (builder, journal) = with_journal(&[]);
    let mut runner = builder.boot();
    let qemu = runner.qemu();
    runner.tell(b'p');
    let outcome = runner.end();
    let entry = journal.entry();
    assert_field(&entry, "SYSLOG_IDENTIFIER", "kvmd-run");
    assert_field(&entry, "INSTANCE", "web1");
    assert_field(&entry, "INSTANCE_PID", &qemu.to_string());
    assert_field(&entry, "CAUSE", "guest-shutdown");
    assert_field(&entry, "INITIATOR", "user");
    // The same as the daemon's: the same is meant.
    assert_field(&entry, "MESSAGE_ID", "e956f20437404873a3480ed0c6f75b0a");
    assert!(entry["MESSAGE"].ends_with("Exiting with 0"), "{entry:?}");
    assert!(outcome.lines.contains(&format!("kvmd-run: {}", entry["MESSAGE"])), "{outcome:?}");
    assert_eq!(journal.entries(), []);
}

#[test]
fn kvmd_run_says_its_end_once_where_stderr_is_the_journal() {
    needs!(Qemu, Root);
    let (builder, journal) = with_journal(&STDERR_IS_THE_JOURNAL);
    let runner = builder.boot();
    runner.signal(Signal::TERM);
    let outcome = runner.end();
    let entry = journal.entry();
    assert_field(&entry, "CAUSE", "powerdown");
    // Who asked for the end.
    assert_field(&entry, "SENDER_PID", &std::process::id().to_string());
    let has = |text: &str| outcome.lines.iter().any(|line| line.contains(text));
    assert!(has("<5>") && !has("Exiting with"), "{outcome:?}");

    // One that the journal does not take in goes there the other way.
    let (builder, journal) = with_journal(&STDERR_IS_THE_JOURNAL);
    let runner = builder.boot();
    journal.fill();
    runner.signal(Signal::TERM);
    let outcome = runner.end();
    let has = |text: &str| outcome.lines.iter().any(|line| line.contains(text));
    assert!(has("Exiting with 0") && has("does not take the end in"), "{outcome:?}");
}
