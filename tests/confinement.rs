//! Whatever gets into the daemon stays within the daemon's directories, as far as the kernel can
//! (Landlock). All other tests run under this confinement, too.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use testbed::{Daemon, NOBODY, Node, Signal, example, kernel_is_at_least, needs};

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

/// Whether this machine's kernel confines anybody; says so, if not.
fn has_landlock(attempts: &str) -> bool {
    let has_it = attempts.contains("enforced: true");
    if !has_it {
        eprintln!(
            "This kernel has no Landlock (see /sys/kernel/security/lsm): nothing is confined"
        );
    }
    has_it
}

/// Enters the sandbox of one of the daemon's threads with these directories, and makes these attempts.
fn attempted(role: &str, changing: &Path, written: &Path, attempts: &[String]) -> Output {
    Command::new(example("confined"))
        .arg(role)
        .args([changing, written])
        .args(attempts)
        .output()
        .expect("run the example")
}

/// The same as the loop, which is refused what it may not do, and goes on.
fn attempts(changing: &Path, written: &Path, attempts: &[String]) -> String {
    attempts_of("loop", changing, written, attempts)
}

fn attempts_of(role: &str, changing: &Path, written: &Path, attempts: &[String]) -> String {
    let output = attempted(role, changing, written, attempts);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_has_got_into_it_gets_no_further() {
    needs!(Root);
    let outside = tempfile::tempdir().unwrap();
    let changing = tempfile::tempdir().unwrap();
    let written = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    for directory in [&outside, &changing, &written] {
        for name in ["victim", "other", "third"] {
            fs::write(directory.path().join(name), "text").unwrap();
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = |what: &str, directory: &Path, name: &str| {
        format!("{what}:{}", directory.join(name).display())
    };
    let mut refused: Vec<String> =
        ["read", "write", "remove", "rename"].map(|what| at(what, outside.path(), "victim")).into();
    refused.extend(["create", "empty", "mkdir"].map(|what| at(what, outside.path(), "new")));
    refused.push(at("list", outside.path(), ""));
    // What would make it root of this machine.
    refused.extend(["read:/etc/shadow", "write:/etc/passwd", "read:/proc/1/mem"].map(String::from));
    refused.extend(["write:/proc/sys/kernel/core_pattern", "list:/proc"].map(String::from));
    refused.push("write:/dev/null".into());
    refused.push(at("write", changing.path(), "victim"));
    refused.push(at("create", changing.path(), "written"));
    refused.push(at("mkdir", written.path(), "directory"));
    // Landlock knows of TCP since its fourth version.
    if kernel_is_at_least(6, 7) {
        refused.push(format!("tcp:{}", listener.local_addr().unwrap().port()));
    }
    let mut allowed: Vec<String> = vec![
        at("read", changing.path(), "victim"),
        at("remove", changing.path(), "other"),
        at("list", changing.path(), ""),
        at("empty", changing.path(), "shutdown"),
        at("read", written.path(), "victim"),
        at("write", written.path(), "victim"),
        at("create", written.path(), "new"),
        at("rename", written.path(), "other"),
        at("remove", written.path(), "third"),
    ];
    allowed.extend(["read:/proc/1/stat", "read:/proc/1/cmdline"].map(String::from));
    let all: Vec<String> = refused.iter().chain(&allowed).cloned().collect();
    let came_of_it = attempts(changing.path(), written.path(), &all);
    if !has_landlock(&came_of_it) {
        return;
    }
    assert_outcomes(&came_of_it, &refused, &allowed);
    assert_eq!(fs::read_to_string(victim).unwrap(), "text");
}

fn assert_outcomes(came_of_it: &str, refused: &[String], allowed: &[String]) {
    let done: Vec<&String> = refused
        .iter()
        .filter(|attempt| !came_of_it.contains(&format!("{attempt}: PermissionDenied")))
        .collect();
    assert!(done.is_empty(), "not refused: {done:?}\n{came_of_it}");
    for attempt in allowed {
        assert!(came_of_it.contains(&format!("{attempt}: done")), "{attempt}\n{came_of_it}");
    }
}

/// The thread that writes has the log's directory and that of the metrics, and nothing of Ganeti's.
#[test]
fn what_has_got_into_the_writer_reaches_its_files_alone() {
    needs!(Root);
    let outside = tempfile::tempdir().unwrap();
    let written = tempfile::tempdir().unwrap();
    for directory in [&outside, &written] {
        for name in ["victim", "other", "third"] {
            fs::write(directory.path().join(name), "text").unwrap();
        }
    }
    let at = |what: &str, directory: &Path, name: &str| {
        format!("{what}:{}", directory.join(name).display())
    };
    let mut refused: Vec<String> =
        ["read", "write", "remove", "rename"].map(|what| at(what, outside.path(), "victim")).into();
    refused.push(at("create", outside.path(), "new"));
    refused.extend(["read:/etc/shadow", "write:/etc/passwd", "create:/run/new"].map(String::from));
    let mut allowed: Vec<String> = vec![
        at("read", written.path(), "victim"),
        at("write", written.path(), "victim"),
        at("create", written.path(), "new"),
        at("rename", written.path(), "other"),
        at("remove", written.path(), "third"),
    ];
    allowed.extend(["read:/proc/sys/kernel/core_pattern", "write:/dev/null"].map(String::from));
    let all: Vec<String> = refused.iter().chain(&allowed).cloned().collect();
    let came_of_it = attempts_of("writer", outside.path(), written.path(), &all);
    if !has_landlock(&came_of_it) {
        return;
    }
    assert_outcomes(&came_of_it, &refused, &allowed);
}

/// The threads that look into other processes, and into QEMU's logs.
#[test]
fn what_has_got_into_another_of_its_threads_gets_no_further() {
    needs!(Root);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "text").unwrap();
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("log");
    fs::write(&log, "text").unwrap();
    let is_killed = |role: &str, attempt: &str| {
        let output = attempted(role, directory.path(), logs.path(), &[attempt.into()]);
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{role} {attempt}: {output:?}");
    };
    // Where Ganeti has users of its own, the directory belongs to one of them and is closed to others.
    chown(logs.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    chown(&log, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(&log, fs::Permissions::from_mode(0o600)).unwrap();
    let (file, log) = (file.display(), log.display());
    for attempt in ["remove", "rename", "create", "empty", "mkdir", "list"] {
        is_killed("links", &format!("{attempt}:{file}.new"));
        if attempt != "list" {
            is_killed("lookup", &format!("{attempt}:{file}.new"));
        }
    }
    for attempt in ["read:/proc/1/stat", "read:/proc/self/mem", "write:/etc/passwd", "tcp:1"] {
        is_killed("links", attempt);
    }
    is_killed("lookup", "tcp:1");
    // Also where no Landlock keeps it from writing: it runs as root, whose files these are.
    for attempt in ["write:/proc/sys/kernel/core_pattern", &format!("create:{file}.new")] {
        for role in ["lookup", "lookup-without-landlock"] {
            is_killed(role, attempt);
        }
    }
    is_killed("lookup-without-landlock", "list:/proc");
    is_killed("lookup", "link:/proc/self/exe");
    // No Landlock is around this one, which is why it may open nothing.
    let link = format!("link:/proc/{}/exe", std::process::id());
    let output = attempted("links", directory.path(), logs.path(), &[link]);
    let came_of_it = String::from_utf8(output.stdout).unwrap();
    assert!(came_of_it.contains("exe: done"), "{came_of_it}");
    let refused = ["read:/etc/shadow", "read:/proc/1/mem", &format!("read:{file}")];
    let allowed = ["read:/proc/1/stat", "read:/proc/1/cmdline", &format!("read:{log}")];
    let all: Vec<String> = refused.iter().chain(&allowed).map(|it| (*it).into()).collect();
    let came_of_it = attempts_of("lookup", directory.path(), logs.path(), &all);
    if !has_landlock(&came_of_it) {
        return;
    }
    let listed = attempts_of("lookup", directory.path(), logs.path(), &["list:/proc".into()]);
    assert!(listed.contains("list:/proc: PermissionDenied"), "{listed}");
    for attempt in refused {
        assert!(came_of_it.contains(&format!("{attempt}: PermissionDenied")), "{came_of_it}");
    }
    for attempt in allowed {
        assert!(came_of_it.contains(&format!("{attempt}: done")), "{came_of_it}");
    }
}

/// Landlock hides it from the loop, and from those that read the rest.
#[test]
fn which_program_the_sender_of_a_signal_ran_is_in_the_record() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    one_ends(&node, &daemon, "web1");
    let all = fs::Permissions::from_mode(0o777);
    fs::set_permissions(node.root(), all.clone()).unwrap();
    fs::set_permissions(node.control_dir(), all).unwrap();
    let user = format!("--user={NOBODY}");
    let victim = node.stand_in("web2").with(&user).connected();
    daemon.await_line(&format!("\"web2\" (pid {}) is connected and running", victim.pid()));
    // Another user's process that is still there when it is looked at.
    let script = format!("kill -KILL {}; read -r _", victim.pid());
    let mut shell = Command::new("/bin/sh")
        .args(["-c", &script])
        .uid(NOBODY)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    daemon.await_death("web2");
    let records = fs::read_to_string(node.path("var/log/ganeti/kvm-exits.jsonl")).unwrap();
    let record: Value = serde_json::from_str(records.lines().last().unwrap()).unwrap();
    let program = fs::canonicalize("/bin/sh").unwrap();
    assert_eq!(record["sender"]["pid"], shell.id());
    assert_eq!(record["sender"]["executable"], program.to_str().unwrap(), "{record:#}");
    drop(shell.stdin.take());
    shell.wait().unwrap();
}

/// Up, and in the sandbox: an instance is connected in the loop only.
fn one_ends(node: &Node, daemon: &Daemon, name: &str) {
    let mut stand_in = node.stand_in(name).connected();
    stand_in.tell("shutdown guest-shutdown");
    assert_eq!(daemon.await_death(name).initiator, "user");
    assert!(node.has_shutdown_file(name));
}

/// Whoever can have its paths lead elsewhere cannot have it write there.
#[test]
fn where_its_log_directory_leads_elsewhere_it_writes_nothing() {
    needs!(Root);
    let elsewhere = tempfile::tempdir().unwrap();
    if !has_landlock(&attempts(elsewhere.path(), elsewhere.path(), &[])) {
        return;
    }
    let node = node();
    let daemon = node.start();
    one_ends(&node, &daemon, "web1");
    let logs = node.path("var/log/ganeti");
    fs::rename(&logs, node.path("moved")).unwrap();
    symlink(elsewhere.path(), &logs).unwrap();
    daemon.signal(Signal::HUP);
    daemon.await_line("Reopening log files");
    one_ends(&node, &daemon, "web2");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "it has written there");
    let line = daemon.await_line("kvm-exits.jsonl");
    assert!(line.contains("Permission denied"), "{line}");
    // What it has open it goes on with.
    let records = fs::read_to_string(node.path("moved/kvm-exits.jsonl")).unwrap();
    assert!(records.contains("web2"), "{records}");
}

/// What is there at the start only counts: a directory that comes later is out of reach.
#[test]
fn a_directory_that_is_missing_is_named() {
    needs!(Root);
    let node = node();
    let metrics = node.path("metrics/kvmd.prom");
    let daemon = node.start_with(&[&format!("--metrics-file={}", metrics.display())]);
    one_ends(&node, &daemon, "web1");
    let line = daemon.await_line("does not exist: if it is created later");
    assert!(line.contains(&node.path("metrics").display().to_string()), "{line}");
}

/// Each thing that the daemon opens again while it runs.
#[test]
fn what_it_is_there_for_is_within_its_reach() {
    needs!(Root);
    let node = node();
    let metrics_dir = tempfile::tempdir().unwrap();
    let metrics = metrics_dir.path().join("kvmd.prom");
    let daemon = node.start_with(&[&format!("--metrics-file={}", metrics.display())]);
    one_ends(&node, &daemon, "web1");
    testbed::await_that("the metrics are written", || {
        fs::read_to_string(&metrics).is_ok_and(|text| text.contains("initiator=\"user\""))
    });
    // A rotation.
    let log = node.log_file();
    fs::rename(&log, log.with_extension("1")).unwrap();
    daemon.signal(Signal::HUP);
    testbed::await_that("there is a new log", || log.is_file());
    // Everything in /run is another one.
    let run = node.path("var/run/ganeti");
    testbed::await_that("it is removed", || fs::remove_dir_all(&run).is_ok());
    node.with_control_dir();
    one_ends(&node, &daemon, "web2");
    // The state is removed, and written anew at the next look at everything.
    let state = node.path("var/run/ganeti-kvmd/state");
    fs::remove_file(&state).unwrap();
    fs::rename(node.control_dir(), node.path("aside")).unwrap();
    fs::rename(node.path("aside"), node.control_dir()).unwrap();
    testbed::await_that("it is written anew", || state.is_file());
    for failure in ["Cannot", "Permission denied"] {
        assert_eq!(daemon.count(failure), 0, "{:#?}", daemon.lines());
    }
    // The trace's instance, which was made in the loop, is removed in the end.
    assert!(node.has_trace());
    let status = daemon.stop();
    assert!(status.success(), "{status}");
    assert!(!node.has_trace());
    assert!(!metrics.exists());
}

/// strace answers for the kernel.
fn with_landlock_that(answers: &str, node: &Node) -> Daemon {
    let inject = format!("--inject=landlock_create_ruleset:{answers}");
    node.start_wrapped(
        &["strace", "-o", "/dev/null", "--trace=landlock_create_ruleset", &inject],
        &[],
    )
}

/// Before Linux 5.13, and where it is switched off.
#[test]
fn without_landlock_it_says_so_and_works() {
    needs!(Root, Strace);
    for error in ["ENOSYS", "EOPNOTSUPP"] {
        let node = node();
        let daemon = with_landlock_that(&format!("error={error}"), &node);
        one_ends(&node, &daemon, "web1");
        daemon.await_line("Not confined to its directories: this kernel has no Landlock");
        assert_eq!(daemon.count("ERROR"), 0, "{error}: {:#?}", daemon.lines());
    }
}

/// To be out of reach of what it is there for would be worse than to reach too much. This is the
/// thread that writes.
#[test]
fn where_one_of_its_directories_cannot_be_opened_it_is_not_confined() {
    needs!(Root);
    let node = node();
    let directory = node.path("loop");
    symlink(&directory, &directory).unwrap();
    let metrics = directory.join("kvmd.prom");
    let daemon = node.start_with(&[&format!("--metrics-file={}", metrics.display())]);
    one_ends(&node, &daemon, "web1");
    let line = daemon.await_line("cannot give up files with Landlock");
    assert!(line.contains(&directory.display().to_string()), "{line}");
    assert!(line.contains("running with more privileges than needed"), "{line}");
    assert_eq!(daemon.status("Seccomp"), 2, "what else can be given up is");
}

/// The first version knows nothing of truncation, of devices and of the network.
#[test]
fn of_an_older_landlock_it_takes_what_there_is() {
    needs!(Root, Strace);
    let outside = tempfile::tempdir().unwrap();
    let inside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "text").unwrap();
    let trace = inside.path().join("trace");
    let path = |path: &Path| path.to_str().unwrap().to_string();
    let output = Command::new("strace")
        .args(["-o", &path(&trace), "--trace=landlock_create_ruleset"])
        .arg("--inject=landlock_create_ruleset:retval=1:when=1")
        .args([example("confined"), "loop".into()])
        .args([inside.path(), inside.path()])
        .args(["read:", "write:"].map(|what| format!("{what}{}", path(&victim))))
        .arg(format!("create:{}", path(&inside.path().join("new"))))
        .output()
        .unwrap();
    let came_of_it = String::from_utf8(output.stdout).unwrap();
    if !has_landlock(&came_of_it) {
        return;
    }
    let trace = fs::read_to_string(trace).unwrap();
    assert!(trace.contains("= 1 (INJECTED)") && !trace.contains("NET"), "{trace}");
    assert_eq!(came_of_it.matches("PermissionDenied").count(), 2, "{came_of_it}");
    assert!(came_of_it.trim_end().ends_with("new: done"), "{came_of_it}");
}
