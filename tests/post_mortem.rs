//! Why it died, and who did it: senders of signals, the OOM killer, core dumps, older QEMUs; and
//! how all of that is told.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use kvmd::sys::tracefs::{Tracefs, instance_name};
use serde_json::Value;
use testbed::{
    Daemon, Guest, MemoryGroup, Node, Signal, WITHOUT_TRACE, await_that, copy_program, needs,
};

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

/// The records of this node, the latest last.
fn records(node: &Node) -> Vec<Value> {
    let text = fs::read_to_string(node.path("var/log/ganeti/kvm-exits.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kvmd_why(node: &Node, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kvmd-why"))
        .args(arguments)
        .envs(node.environment())
        .output()
        .unwrap()
}

fn answer(node: &Node, arguments: &[&str]) -> String {
    let output = kvmd_why(node, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn watched(daemon: &Daemon, guest: Guest) -> Guest {
    daemon.await_line(&format!(
        "Instance \"{}\" (pid {}) is connected and running",
        guest.name(),
        guest.pid()
    ));
    guest
}

/// A copy of the shell under another name, as which the kernel knows it.
fn shell_named(node: &Node, name: &str) -> PathBuf {
    let path = node.path(name);
    copy_program("/bin/sh", &path);
    path
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

#[test]
fn three_senders_of_a_sigterm_are_told_apart() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    // An operator's shell, by its own word and by a program that it runs; a service manager.
    let manager = shell_named(&node, "systemd");
    let ways = [
        ("web1", "bash", PathBuf::from("bash"), "kill"),
        ("web2", "kill", PathBuf::from("bash"), "env kill"),
        ("web3", "systemd", manager, "kill"),
    ];
    for (name, expected, shell, kill) in ways {
        let guest = watched(&daemon, node.guest(name).boot());
        let pid = guest.pid();
        // What follows keeps the shell from becoming the program itself.
        run(Command::new(shell).args(["-c", &format!("{kill} -TERM {pid}; true")]));
        guest.wait();
        let death = daemon.await_death(name);
        assert_eq!((&*death.cause, &*death.initiator), ("host-signal", "admin"));
        let record = records(&node).pop().unwrap();
        assert_eq!(record["sender"]["name"], expected, "{record:#}");
        assert_eq!(record["signal"], "SIGTERM");
        assert!(death.line.contains(&format!("SIGTERM from {expected}[")), "{}", death.line);
        let told = answer(&node, &[name]);
        assert!(
            told.starts_with(&format!("{name} (pid {pid}) was killed by SIGTERM from {expected}[")),
            "{told}"
        );
        assert!(told.contains("; an administrator did it. Up "), "{told}");
        assert!(
            told.contains("QEMU said: host-signal. No core. Not marked as a user shutdown."),
            "{told}"
        );
    }
}

#[test]
fn the_ancestors_of_the_sender_are_named() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let guest = watched(&daemon, node.guest("web1").boot());
    let session = shell_named(&node, "session");
    // The sender stays, so that nothing is gone when it is looked at.
    let script = format!("bash -c 'kill -KILL {}; read'; true", guest.pid());
    let mut shell =
        Command::new(session).args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
    guest.wait();
    daemon.await_death("web1");
    let record = records(&node).pop().unwrap();
    assert_eq!(record["sender"]["name"], "bash", "{record:#}");
    assert_eq!(record["sender"]["uid"], 0);
    assert_eq!(record["sender"]["gone"], false);
    assert_eq!(record["sender"]["ancestors"][0]["name"], "session", "{record:#}");
    assert_eq!(record["sender"]["ancestors"][0]["pid"], shell.id());
    assert_eq!(record["sender"]["ancestors"][1]["pid"], std::process::id());
    let told = answer(&node, &["web1"]);
    assert!(told.contains(&format!(", run by session[{}] ← post_mortem", shell.id())), "{told}");
    drop(shell.stdin.take());
    shell.wait().unwrap();
}

#[test]
fn a_qemu_too_old_to_say_why_is_judged_by_who_sent_the_signal() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    for unsaid in ["data", "reason"] {
        for (end, cause, file) in [("TERM", "host-signal", false), ("", "guest-shutdown", true)] {
            let name = format!("{unsaid}{end}");
            let guest = node.guest(&name).that_does_not_say(unsaid).boot();
            let mut guest = watched(&daemon, guest);
            if end.is_empty() {
                guest.tell(b'p');
            } else {
                guest.signal(Signal::TERM);
            }
            guest.wait();
            let death = daemon.await_death(&name);
            assert_eq!(death.cause, cause, "{}", death.line);
            assert_eq!(node.has_shutdown_file(&name), file, "{}", death.line);
        }
    }
}

#[test]
fn without_the_trace_qemus_own_log_names_the_sender() {
    needs!(Qemu, Root);
    let node = node();
    fs::create_dir_all(node.path("var/log/ganeti/kvm")).unwrap();
    let daemon = node.start_wrapped(&WITHOUT_TRACE, &[]);
    daemon.await_line("trace of signals is not available");
    let log = |name: &str| node.path(format!("var/log/ganeti/kvm/{name}.log"));
    // As Ganeti starts it; and one that does not say why, whose stderr leads to the log just so.
    let detached = node.guest("web1").with(&format!("-D {}", log("web1").display())).daemonized();
    let redirect = format!("exec \"$@\" 2>{}", log("web2").display());
    let old = node.guest("web2").that_does_not_say("data").through(&["sh", "-c", &redirect, "sh"]);
    for guest in [detached, old] {
        let guest = watched(&daemon, guest.boot());
        guest.signal(Signal::TERM);
        let death = daemon.await_death(guest.name());
        assert_eq!(death.cause, "host-signal", "{}", death.line);
        assert!(!node.has_shutdown_file(guest.name()));
        let sender = &records(&node).pop().unwrap()["sender"];
        assert_eq!(sender["pid"], std::process::id(), "{sender:#}");
    }
    assert_eq!(daemon.count("trace of signals is not available"), 1, "said once");
}

/// Boots a guest, lets it outgrow its control group, and returns its record.
fn outgrow(node: &Node, daemon: &Daemon, name: &str) -> Value {
    let group = MemoryGroup::new("64M");
    // It takes its memory when it is told to, and not before it is in the group.
    let join = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", group.path().display());
    let guest = node
        .guest(name)
        .through(&["sh", "-c", &join, "sh"])
        .with("-m 512 -object memory-backend-ram,id=big,size=16M")
        .boot();
    let guest = watched(daemon, guest);
    group.add(guest.pid());
    // Memory that is preallocated is taken at once.
    guest.try_execute_raw(
        r#"{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram", "id": "more", "size": 268435456, "prealloc": true}}"#,
    );
    guest.wait();
    daemon.await_death(name);
    records(node).pop().unwrap()
}

#[test]
fn the_oom_killer_is_told_from_an_operator() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let record = outgrow(&node, &daemon, "web1");
    assert_eq!(record["cause"], "out-of-memory", "{record:#}");
    assert_eq!(record["initiator"], "crash");
    assert_eq!(record["sender"]["kernel"], true);
    assert_eq!(record["died_by"], "SIGKILL");
    let told = answer(&node, &["web1"]);
    assert!(told.contains("was killed by the kernel's OOM killer; something broke."), "{told}");

    let guest = watched(&daemon, node.guest("web2").boot());
    guest.signal(Signal::KILL);
    guest.wait();
    assert_eq!(daemon.await_death("web2").cause, "killed");
    assert!(answer(&node, &["web2"]).contains("was killed by SIGKILL from post_mortem"));
}

#[test]
fn without_the_trace_the_control_group_tells_of_the_oom_killer() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start_wrapped(&WITHOUT_TRACE, &[]);
    let record = outgrow(&node, &daemon, "web1");
    assert_eq!(record["cause"], "out-of-memory", "{record:#}");
}

#[test]
fn a_core_dump_is_told_with_where_it_went() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    for (limit, dumped) in [("unlimited", true), ("0", false)] {
        let name = format!("core{limit}");
        let through = format!("--core={limit}");
        let guest = node.guest(&name).through(&["prlimit", &through]).boot();
        let guest = watched(&daemon, guest);
        guest.signal(Signal::SEGV);
        guest.wait();
        assert_eq!(daemon.await_death(&name).cause, "crashed");
        let record = records(&node).pop().unwrap();
        let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        // A program that takes cores is given them whatever the limit.
        let dumped = dumped || pattern.starts_with('|');
        assert_eq!(record["core"]["dumped"], dumped, "{record:#}");
        assert_eq!(record["core"]["hint"].is_string(), dumped);
        assert_eq!(record["died_by"], "SIGSEGV");
        let told = answer(&node, &[&name]);
        let expected = if dumped { "It dumped core: " } else { "would have dumped core" };
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn the_record_has_everything_and_is_not_for_everybody() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let mut guest = watched(&daemon, node.guest("web1").boot());
    guest.tell(b'p');
    guest.wait();
    daemon.await_death("web1");
    let file = node.path("var/log/ganeti/kvm-exits.jsonl");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    let record = records(&node).pop().unwrap();
    assert_eq!(record["version"], 1);
    assert_eq!(record["instance"], "web1");
    assert_eq!(
        (&record["cause"], &record["initiator"]),
        (&"guest-shutdown".into(), &"user".into())
    );
    assert_eq!((&record["marked"], &record["exit_code"]), (&true.into(), &0.into()));
    assert_eq!(record["missing"], Value::Array(vec![]));
    let uptime = record["uptime"].as_f64().unwrap();
    assert!(uptime > 0.0 && uptime < 3600.0, "{uptime}");
    assert!(record["start"].as_str().unwrap() < record["end"].as_str().unwrap());
    assert!(record["qemu"].as_str().unwrap().contains('.'), "{record:#}");
    let evidence = record["evidence"].as_array().unwrap();
    let at = |what: &str| {
        let piece = evidence.iter().find(|piece| piece["what"] == what);
        piece.unwrap_or_else(|| panic!("{what}: {record:#}"))["at"].as_f64().unwrap()
    };
    assert!(at("SHUTDOWN guest-shutdown") <= at("marked as shut down by its user"));
    assert!(at("marked as shut down by its user") < at("the process was found dead"));
    assert_eq!(evidence.iter().filter(|piece| piece["source"] == "proc-connector").count(), 1);
}

#[test]
fn the_records_outlive_rotations_and_torn_lines() {
    needs!(Qemu, Root);
    let node = node();
    let file = node.path("var/log/ganeti/kvm-exits.jsonl");
    // Whoever wrote it before was killed in the middle of a line.
    fs::write(&file, "{\"instance\": \"to").unwrap();
    let daemon = node.start();
    let end = |name: &str| {
        let mut guest = watched(&daemon, node.guest(name).boot());
        guest.tell(b'p');
        guest.wait();
        daemon.await_death(name);
    };
    end("web1");
    fs::rename(&file, file.with_extension("jsonl.1")).unwrap();
    daemon.signal(Signal::HUP);
    daemon.await_line("Reopening log files");
    end("web2");
    assert_eq!(records(&node).len(), 1);
    run(Command::new("gzip").arg(file.with_extension("jsonl.1")));
    let table = answer(&node, &[]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[0].starts_with("ENDED (UTC)"), "{table}");
    assert!(lines[1].contains("  web1 ") && lines[2].contains("  web2 "), "{table}");
    assert!(!table.contains('\x1b'), "no colours for a file");
}

#[test]
fn kvmd_why_says_clearly_what_it_cannot_tell() {
    needs!(Qemu, Root);
    let node = node();
    let complaint = |arguments: &[&str]| {
        let output = kvmd_why(&node, arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let text = complaint(&[]);
    assert!(
        text.contains("kvm-exits.jsonl: No such file") && text.contains("ganeti-kvmd run"),
        "{text}"
    );
    let daemon = node.start();
    assert_eq!(answer(&node, &[]), "No instance has ended here since the records began.\n");
    let guest = watched(&daemon, node.guest("web1").boot());
    guest.signal(Signal::KILL);
    guest.wait();
    daemon.await_death("web1");
    // It works while the daemon is down.
    daemon.stop();
    assert!(answer(&node, &["web1"]).contains("was killed by SIGKILL"));
    let text = complaint(&["web2"]);
    assert!(
        text.contains("no record of an instance web2")
            && text.contains("Instances on record: web1"),
        "{text}"
    );
    let text = complaint(&["--cause=user"]);
    assert!(text.contains("No record matches"), "{text}");
    assert_eq!(kvmd_why(&node, &["--nonsense"]).status.code(), Some(2));
    // Another user may not read it, and is told so.
    let mut open = fs::metadata(node.root()).unwrap().permissions();
    open.set_mode(0o755);
    fs::set_permissions(node.root(), open).unwrap();
    let program = node.path("kvmd-why");
    copy_program(env!("CARGO_BIN_EXE_kvmd-why"), &program);
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&program)
        .envs(node.environment())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("Permission denied") && text.contains("as root"), "{text}");
}

#[test]
fn kvmd_why_follows_what_comes() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let mut follower = Command::new(env!("CARGO_BIN_EXE_kvmd-why"))
        .args(["--follow", "--cause=killed"])
        .envs(node.environment())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let heading = lines.next().unwrap().unwrap();
    assert!(heading.starts_with("ENDED"), "{heading}");
    for (name, signal) in [("web1", Signal::TERM), ("web2", Signal::KILL)] {
        let guest = watched(&daemon, node.guest(name).boot());
        guest.signal(signal);
        guest.wait();
        daemon.await_death(name);
    }
    let line = lines.next().unwrap().unwrap();
    assert!(line.contains("web2 (pid ") && line.contains("was killed by SIGKILL"), "{line}");
    follower.kill().unwrap();
    follower.wait().unwrap();
}

/// Reads the file with the parser of Prometheus's own client library.
fn parsed_metrics(path: &Path) -> String {
    let script = "
import sys
from prometheus_client.parser import text_string_to_metric_families
for family in text_string_to_metric_families(open(sys.argv[1]).read()):
    for sample in family.samples:
        labels = ','.join('%s=%s' % pair for pair in sorted(sample.labels.items()))
        print(family.type, sample.name, labels, sample.value)
";
    let output = Command::new("/usr/bin/python3").args(["-c", script]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_metrics_are_prometheuss() {
    needs!(Qemu, Root, PrometheusClient);
    let node = node();
    let path = node.path("kvmd.prom");
    let daemon = node.start_with(&["--metrics-file", path.to_str().unwrap()]);
    let mut user = watched(&daemon, node.guest("web1").boot());
    let killed = watched(&daemon, node.guest("web2").boot());
    let _running = watched(&daemon, node.guest("web3").boot());
    user.tell(b'p');
    user.wait();
    killed.signal(Signal::KILL);
    killed.wait();
    daemon.await_any_deaths(2);
    let has = |line: &str| parsed_metrics(&path).lines().any(|other| other == line);
    for line in [
        "counter ganeti_kvmd_exits_total cause=guest-shutdown,initiator=user 1.0",
        "counter ganeti_kvmd_exits_total cause=killed,initiator=admin 1.0",
        "counter ganeti_kvmd_exits_total cause=crashed,initiator=crash 0.0",
        "counter ganeti_kvmd_recurrent_crashes_total cause=crashed 0.0",
        "counter ganeti_kvmd_lost_records_total  0.0",
        "gauge ganeti_kvmd_instances  1.0",
        "gauge ganeti_kvmd_source_up source=proc-connector 1.0",
        "gauge ganeti_kvmd_source_up source=trace 1.0",
        "counter ganeti_kvmd_losses_total source=inotify 0.0",
        "histogram ganeti_kvmd_file_delay_seconds_count  1.0",
        "histogram ganeti_kvmd_file_delay_seconds_bucket le=+Inf 1.0",
    ] {
        await_that(line, || has(line));
    }
    daemon.stop();
    assert!(!path.exists(), "nobody counts any more");
}

#[test]
fn the_trace_is_taken_over_after_a_kill_and_removed_at_the_end() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    daemon.await_line("trace shows who sends signals");
    let guest = watched(&daemon, node.guest("web1").boot());
    daemon.kill();
    assert!(node.has_trace());
    let daemon = node.start();
    daemon.await_line("trace shows who sends signals");
    let guest = watched(&daemon, guest);
    guest.signal(Signal::KILL);
    guest.wait();
    assert!(daemon.await_death("web1").line.contains("SIGKILL from post_mortem"));
    daemon.stop();
    assert!(!node.has_trace());
}

#[test]
fn no_name_forges_a_record() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let name = "a\"}\n{\"instance\": \"web1\u{1b}[2J";
    let stand_in = node.stand_in(name).connected();
    daemon.await_line("is connected and running");
    stand_in.signal(Signal::KILL);
    daemon.await_any_deaths(1);
    let records = records(&node);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["instance"], r#"a\"}\n{\"instance\": \"web1\u{1b}[2J"#);
    let table = answer(&node, &["--color=never"]);
    assert!(table.lines().count() == 2 && !table.contains('\x1b'), "{table}");
    std::io::stdout().flush().unwrap();
}

/// As in a container: the daemon has directories of its own where another one has the same paths.
fn in_mounts_of_its_own(node: &Node) -> [String; 7] {
    let run = node.path("var/run");
    let script = format!(
        "mount -t tmpfs tmpfs {0} && mkdir -p {0}/ganeti/kvm-hypervisor/ctrl && exec \"$@\"",
        run.display()
    );
    ["unshare", "--mount", "--propagation=private", "sh", "-c", &script, "sh"].map(String::from)
}

#[test]
fn two_daemons_with_the_same_paths_do_not_share_the_trace() {
    needs!(Root);
    let node = node();
    let first = node.start();
    first.await_line("The kernel's trace shows who sends signals");
    let wrapper = in_mounts_of_its_own(&node);
    let second = node.start_wrapped(&wrapper.each_ref().map(String::as_str), &[]);
    second.await_line("The kernel's trace shows who sends signals");
    second.stop();
    assert!(node.has_trace(), "the second daemon's end takes nothing from the first");
}

#[test]
fn what_is_left_of_the_trace_by_a_node_that_is_gone_is_removed() {
    needs!(Root);
    let gone = node();
    let daemon = gone.start();
    let stand_in = gone.stand_in("web1").connected();
    daemon.await_line("\"web1\"");
    daemon.await_line("is connected and running");
    daemon.kill();
    assert!(gone.has_trace());

    // Its daemon may come back, and will want to know who killed its instance.
    let other = node();
    other.start().stop();
    let tracefs = Tracefs::find().unwrap();
    let name = instance_name(&gone.path("var/run/ganeti-kvmd"));
    let remove = |away| tracefs.remove_if_abandoned(&name, away).unwrap();
    assert!(!remove(Duration::ZERO), "its instance runs");
    stand_in.signal(Signal::KILL);
    stand_in.wait();

    // The next daemon of any node marks it, and one that comes much later removes it.
    other.start().stop();
    assert!(!remove(Duration::from_secs(600)), "it may be being started again");
    assert!(gone.has_trace());
    assert!(remove(Duration::ZERO), "it is marked");
    assert!(!gone.has_trace());
}

#[test]
fn a_daemon_that_comes_back_takes_the_mark_from_its_trace() {
    needs!(Root);
    let node = node();
    node.start().kill();
    let tracefs = Tracefs::find().unwrap();
    let name = instance_name(&node.path("var/run/ganeti-kvmd"));
    assert!(!tracefs.remove_if_abandoned(&name, Duration::from_secs(600)).unwrap());
    assert!(node.trace_is_marked());
    let daemon = node.start();
    assert!(!node.trace_is_marked());
    assert!(!tracefs.remove_if_abandoned(&name, Duration::ZERO).unwrap(), "it is in use");
    daemon.stop();
}
