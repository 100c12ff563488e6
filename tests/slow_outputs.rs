//! A disk that does not answer, a pipe that nobody reads, a daemon that is killed while it writes:
//! the files are there in time all the same, and no end is lost.
//!
//! `strace` makes the disk slow: it delays each write to one file (`--inject=write:delay_enter`).

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use testbed::{Daemon, NODE_NAME, Node, Signal, StandIn, await_that, figure, needs, send_signal};

/// How long a write to the slow disk takes.
const DELAY: Duration = Duration::from_millis(500);

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

/// A daemon for which each write to this file takes [`DELAY`].
fn with_slow_file(node: &Node, file: &Path, arguments: &[&str]) -> Daemon {
    let path = format!("--trace-path={}", file.display());
    let inject = format!("--inject=write:delay_enter={}", DELAY.as_micros());
    let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "--trace=write", &path, &inject];
    node.start_wrapped(&wrapper, arguments)
}

/// The daemon itself, where a wrapper stays.
fn pid_of_the_daemon(node: &Node) -> u32 {
    fs::read_to_string(node.pid_file()).unwrap().trim().parse().unwrap()
}

/// Has a guest shut down by its user, and says how long its file took.
fn time_of_file(node: &Node, stand_in: &mut StandIn) -> Duration {
    let name = stand_in.name().to_string();
    let begin = Instant::now();
    stand_in.tell("shutdown guest-shutdown");
    while !node.has_shutdown_file(&name) {
        assert!(begin.elapsed() < testbed::PATIENCE, "no file for {name}");
        thread::sleep(Duration::from_millis(1));
    }
    begin.elapsed()
}

fn records(node: &Node) -> String {
    fs::read_to_string(node.path("var/log/ganeti/kvm-exits.jsonl")).unwrap_or_default()
}

/// While one instance's messages fill the log, the others have their files.
fn longest_delay(what: &str, slow: impl Fn(&Node) -> std::path::PathBuf) {
    const OTHERS: usize = 10;
    let node = node();
    let file = slow(&node);
    let daemon = with_slow_file(&node, &file, &[]);
    let mut others: Vec<_> =
        (0..OTHERS).map(|i| node.stand_in(format!("web{i}")).start()).collect();
    for other in &mut others {
        other.await_word("connected");
    }
    let longest = others.iter_mut().map(|other| time_of_file(&node, other)).max().unwrap();
    figure(
        &format!("{what} takes {} ms a write: longest delay of a file", DELAY.as_millis()),
        &format!("{} ms", longest.as_millis()),
    );
    assert!(longest < DELAY, "a file waited for the disk: {longest:?}");
    daemon.await_any_deaths(OTHERS);
    await_that("every end is recorded", || records(&node).lines().count() == OTHERS);
}

#[test]
fn a_log_on_a_slow_disk_delays_no_file() {
    needs!(Root, Strace);
    longest_delay("the log", Node::log_file);
}

#[test]
fn records_on_a_slow_disk_delay_no_file() {
    needs!(Root, Strace);
    longest_delay("the file of records", |node| node.path("var/log/ganeti/kvm-exits.jsonl"));
}

/// A daemon in the foreground whose stderr is a pipe.
struct Foreground(Child);

impl Foreground {
    fn start(node: &Node, arguments: &[&str]) -> Self {
        let mut command = Command::new(node.program());
        command.args(["-f", "--no-user-checks"]).args(arguments).envs(node.environment());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn has_logged(node: &Node, text: &str) -> bool {
    fs::read_to_string(node.log_file()).is_ok_and(|log| log.contains(text))
}

#[test]
fn a_stderr_that_nobody_reads_holds_nothing_up() {
    const MESSAGES: usize = 2000;
    needs!(Root);
    let node = node();
    let mut daemon = Foreground::start(&node, &["-d"]);
    await_that("it watches", || has_logged(&node, "Watch directory"));
    let mut talker = node.stand_in("talker").connected();
    let mut other = node.stand_in("other").connected();
    talker.tell(&format!("flood {MESSAGES}"));
    // More than any pipe holds by default, and nobody has read a byte.
    await_that("the log has more than the pipe", || {
        fs::metadata(node.log_file()).is_ok_and(|file| file.len() > 128 << 10)
    });
    let delay = time_of_file(&node, &mut other);
    figure(
        "-f, and nobody reads its stderr: delay of a file",
        &format!("{} ms", delay.as_millis()),
    );
    await_that("the end is recorded", || records(&node).contains("\"other\""));
    await_that("the end is logged", || has_logged(&node, "Instance \"other\" (pid"));
    let begin = Instant::now();
    send_signal(daemon.0.id(), Signal::TERM);
    let status = daemon.0.wait().unwrap();
    figure(
        "-f, and nobody reads its stderr: SIGTERM to the end",
        &format!("{} ms", begin.elapsed().as_millis()),
    );
    assert!(status.success(), "{status}");
    let log = fs::read_to_string(node.log_file()).unwrap();
    assert!(log.trim_end().ends_with("daemon shutdown"), "{log}");
    let mut said = String::new();
    daemon.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("daemon startup"), "{said}");
}

#[test]
fn a_disk_that_does_not_answer_does_not_keep_it_from_ending() {
    needs!(Root, Strace);
    let node = node();
    let path = format!("--trace-path={}", node.log_file().display());
    // Longer than any test; the first lines come through.
    let inject = "--inject=write:delay_enter=600s:when=8+";
    let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "--trace=write", &path, inject];
    let daemon = node.start_wrapped(&wrapper, &[]);
    let pid = pid_of_the_daemon(&node);
    let mut guests: Vec<_> = (0..4).map(|i| node.stand_in(format!("web{i}")).connected()).collect();
    for guest in &mut guests {
        time_of_file(&node, guest);
    }
    send_signal(pid, Signal::TERM);
    // strace does not reap it before the write that it delays is over.
    await_that("it has ended", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        status.is_err() || status.is_ok_and(|status| status.contains("State:\tZ"))
    });
    drop(daemon);
    // What was not written down is for the next one.
    let next = node.start();
    await_that("every end is recorded", || {
        (0..4).all(|i| records(&node).contains(&format!("\"web{i}\"")))
    });
    drop(next);
}

/// Killed while records are being written, or when they are written and the daemon does not know
/// yet: what has ended is recorded by this one or the next.
#[test]
fn a_kill_between_a_record_and_its_acknowledgement_loses_no_end() {
    const ROUNDS: usize = 100;
    const EACH: usize = 3;
    needs!(Root);
    let node = node();
    let mut daemon = node.start();
    let mut twice = 0;
    for round in 0..ROUNDS {
        let guests: Vec<_> =
            (0..EACH).map(|i| node.stand_in(format!("web{round}-{i}")).connected()).collect();
        daemon.await_lines("is connected and running", EACH);
        for mut guest in guests {
            guest.tell("shutdown guest-shutdown");
            guest.wait();
        }
        // At every distance from the first record.
        let begin = Instant::now();
        let wait = Duration::from_micros(30 * round as u64);
        let first = format!("\"web{round}-0\"");
        while round % 2 == 0 && !records(&node).contains(&first) {
            assert!(begin.elapsed() < testbed::PATIENCE, "no record of {first}");
        }
        thread::sleep(wait);
        daemon.kill();
        daemon = node.start();
        let mut counts = HashMap::new();
        await_that("every end is recorded", || {
            counts.clear();
            for i in 0..EACH {
                let name = format!("\"web{round}-{i}\"");
                let count = records(&node).matches(&format!("\"instance\":{name}")).count();
                counts.insert(name, count);
            }
            counts.values().all(|&count| count >= 1)
        });
        assert!(counts.values().all(|&count| count <= 2), "{counts:?}");
        twice += counts.values().filter(|&&count| count == 2).count();
    }
    figure(
        &format!("{ROUNDS} kills while {EACH} ends are being recorded"),
        &format!("none lost, {twice} of {} recorded twice", ROUNDS * EACH),
    );
}

/// The resident memory of the daemon, in kB.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_flood_of_debug_lines_into_a_slow_log_costs_debug_lines_only() {
    const MESSAGES: usize = 20_000;
    needs!(Root, Strace);
    let node = node();
    let path = format!("--trace-path={}", node.log_file().display());
    // So slow that the flood does not fit, and fast enough to see its end.
    let inject = "--inject=write:delay_enter=2000";
    let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "--trace=write", &path, inject];
    let daemon = node.start_wrapped(&wrapper, &["-d"]);
    let pid = pid_of_the_daemon(&node);
    let mut talker = node.stand_in("talker").connected();
    let mut other = node.stand_in("other").connected();
    daemon.await_lines("is connected and running", 2);
    let before = memory(pid);
    talker.tell(&format!("flood {MESSAGES}"));
    let delay = time_of_file(&node, &mut other);
    let grown = memory(pid).saturating_sub(before);
    daemon.await_death("other");
    let lost = daemon.await_line("debug lines of the log were lost because writing was too slow");
    assert!(lost.contains(" WARNING "), "{lost}");
    assert_eq!(daemon.count(" INFO Stop monitor"), 1);
    let others = daemon.lines();
    assert!(
        !others.iter().any(|line| line.contains("WARNING")
            && line.contains(" lines of the log")
            && !line.contains("debug lines")),
        "more than debug lines were lost"
    );
    figure(
        &format!("{MESSAGES} debug lines into a slow log"),
        &format!("{grown} kB of memory, another's file after {} ms", delay.as_millis()),
    );
    assert!(grown < 4096, "{grown} kB");
}

/// The name of a system call, and what it was made on: `write(7<socket:[4]>, ...)`,
/// `openat(5</a/directory>, "a/file", ...)`.
fn object(line: &str) -> Option<(&str, String)> {
    let (_, call) = line.split_once(' ')?;
    let (name, rest) = call.trim_start().split_once('(')?;
    let within = |open: char, close: char| {
        let (_, rest) = rest.split_once(open)?;
        rest.split_once(close).map(|(object, _)| object)
    };
    match (within('<', '>'), within('"', '"')) {
        (Some(directory), Some(path)) if name == "openat" && !path.starts_with('/') => {
            Some((name, format!("{directory}/{path}")))
        }
        (_, Some(path)) if ["open", "rename", "unlink"].iter().any(|it| name.starts_with(it)) => {
            Some((name, path.into()))
        }
        (object, _) => Some((name, object?.into())),
    }
}

#[test]
fn the_loop_touches_no_file_but_those_in_memory() {
    needs!(Root, Strace);
    let node = node();
    let trace = node.path("trace");
    let calls =
        "--trace=open,openat,read,write,writev,pread64,pwrite64,rename,unlink,fsync,fdatasync";
    let metrics = format!("--metrics-file={}", node.path("metrics.prom").display());
    let daemon = node.start_wrapped(
        &["strace", "-f", "-y", "-s", "0", "-qq", "-o", trace.to_str().unwrap(), calls],
        &["-d", &metrics],
    );
    let pid = pid_of_the_daemon(&node);
    daemon.await_line("The kernel's trace");
    // What comes before is its start.
    let begin = fs::read_to_string(&trace).unwrap().lines().count();
    let mut guests: Vec<_> =
        (0..20).map(|i| node.stand_in(format!("web{i}")).connected()).collect();
    daemon.await_lines("is connected and running", guests.len());
    for (i, guest) in guests.iter_mut().enumerate() {
        guest.tell("event RTC_CHANGE");
        if i % 2 == 0 {
            guest.tell("shutdown guest-shutdown");
        } else {
            guest.signal(Signal::KILL);
        }
    }
    daemon.await_any_deaths(guests.len());
    send_signal(pid, Signal::HUP);
    daemon.await_line("Reopening log files");
    send_signal(pid, Signal::TERM);
    daemon.await_line("daemon shutdown");
    drop(daemon);

    let text = fs::read_to_string(&trace).unwrap();
    let root = node.root().to_str().unwrap();
    let own = format!("{pid} ");
    let mut seen: Vec<String> = Vec::new();
    for line in text.lines().skip(begin).filter(|line| line.starts_with(&own)) {
        let Some((name, object)) = object(line) else { continue };
        let is_allowed = object.starts_with("socket:")
            || object.starts_with("UNIX")
            || object.starts_with("NETLINK")
            || object.starts_with("anon_inode:")
            || object.starts_with("pipe:")
            // What the kernel makes up as it is read.
            || object.starts_with("/proc/")
            || object.starts_with("/sys/")
            // The kernel's trace, mounted where only the daemon sees it.
            || object.starts_with("/instances/")
            // Ganeti's, in /run: sockets, marks and pid files, and the daemon's own state.
            || object.starts_with(&format!("{root}/var/run/ganeti"));
        if !is_allowed {
            seen.push(format!("{name} {object}"));
        }
    }
    seen.sort();
    seen.dedup();
    assert!(seen.is_empty(), "the loop of {NODE_NAME} waits for {seen:#?}");
    let writer = text.lines().skip(begin).filter(|line| !line.starts_with(&own));
    let log = node.log_file();
    assert!(
        writer.filter_map(object).any(|(_, object)| Path::new(&object) == log),
        "somebody has written the log"
    );
}
