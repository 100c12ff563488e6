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

use testbed::{Daemon, Node, Signal, StandIn, await_that, figure, needs, send_signal};

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

/// What may wait for a file: every call that is given a path, and those that read and write.
const TRACED: &str = "--trace=%file,read,readv,pread64,preadv,preadv2,write,writev,pwrite64,pwritev,\
     pwritev2,getdents64,sendfile,splice,copy_file_range,ftruncate,fallocate,fsync,fdatasync,\
     sync_file_range,syncfs,flock";

/// What the loop touches, and with which calls; `*` is any part of a name. docs/architecture.md says
/// so, too.
const OF_THE_LOOP: [(&str, &[&str]); 18] = [
    // QEMU, the kernel's connector, signals; the writer; the directory.
    ("socket:*", &["read", "write"]),
    ("anon_inode:*eventfd*", &["read", "write"]),
    ("anon_inode:inotify", &["read"]),
    // The control directory: looked at without being opened, and never written to.
    ("ROOT/var/run/ganeti/kvm-hypervisor/ctrl/*.kvmd", &["newfstatat", "openat O_PATH"]),
    ("ROOT/var/run/ganeti/kvm-hypervisor/ctrl/*.shutdown", &["mknodat", "unlinkat"]),
    ("ROOT/var/run/ganeti/kvm-hypervisor/pid/*", &["open", "read"]),
    // The state, and the pid file at the end.
    ("ROOT/var/run/ganeti-kvmd/state", &["rename", "write"]),
    ("ROOT/var/run/ganeti-kvmd/.state.tmp", &["openat", "rename", "write"]),
    ("ROOT/var/run/ganeti/ganeti-kvmd.pid", &["unlink"]),
    // Processes.
    ("/proc/*/stat", &["open", "read"]),
    ("/proc/*/status", &["open", "read"]),
    ("/proc/*/cmdline", &["open", "read"]),
    ("/proc/*/loginuid", &["open", "read"]),
    ("/proc/*/exe", &["readlink"]),
    // The daemon's instance of the kernel's trace, in tracefs as the machine has it mounted or, where it
    // has not, as nobody else sees it.
    ("*/instances/*/per_cpu/*/trace_pipe_raw", &["read"]),
    ("*/instances/*/events/*/filter", &["pwrite64"]),
    ("*/instances/*/events/*/enable", &["openat", "write"]),
    ("*/instances/*", &["unlinkat"]),
];

/// That of it which is needed to notice that something happens.
const SOCKETS_AND_EVENTS: &[(&str, &[&str])] = OF_THE_LOOP.first_chunk::<2>().unwrap();

/// Whether the text is this pattern, in which `*` is anything.
fn is_like(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

/// A system call, and what it was made on: `write(7<socket:[4]>, ...)`,
/// `openat(5</a/directory>, "a/file", O_RDONLY|O_PATH)`. Nothing for the rest of one that was
/// interrupted.
fn call(line: &str) -> Option<(String, Vec<String>)> {
    let (_, call) = line.split_once(' ')?;
    let (name, rest) = call.trim_start().split_once('(')?;
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return None;
    }
    let name = if rest.contains("|O_PATH") { format!("{name} O_PATH") } else { name.to_string() };
    // `<`, what a descriptor leads to, `>`: a path after it is below that.
    let mut directory = None;
    let mut paths = Vec::new();
    let mut rest = rest;
    while let Some(start) = rest.find(['<', '"']) {
        let is_path = rest[start..].starts_with('"');
        let Some((object, after)) = rest[start + 1..].split_once(if is_path { '"' } else { '>' })
        else {
            break;
        };
        match &directory {
            _ if object.is_empty() || object.starts_with("unfinished ") => {}
            _ if !is_path => directory = Some(object.to_string()),
            Some(directory) if !object.starts_with('/') => {
                paths.push(format!("{directory}/{object}"));
            }
            _ => paths.push(object.to_string()),
        }
        rest = after;
    }
    Some((name, if paths.is_empty() { directory.into_iter().collect() } else { paths }))
}

/// What these lines of strace's show of a thread that is not among this.
fn others_than(allowed: &[(&str, &[&str])], root: &str, lines: &[String]) -> Vec<String> {
    let mut others = Vec::new();
    for (name, objects) in lines.iter().filter_map(|line| call(line)) {
        let is_allowed = |object: &str| {
            let object = object.replacen(root, "ROOT", 1);
            allowed.iter().any(|(what, calls)| is_like(&object, what) && calls.contains(&&*name))
        };
        if objects.is_empty() || !objects.iter().all(|object| is_allowed(object)) {
            others.push(format!("{name} {}", objects.join(" ")));
        }
    }
    others.sort();
    others.dedup();
    others
}

/// The calls in which it does, as far as the architecture has them.
#[cfg(target_arch = "x86_64")]
const SLEEPING: [libc::c_long; 2] = [libc::SYS_epoll_wait, libc::SYS_epoll_pwait];
#[cfg(not(target_arch = "x86_64"))]
const SLEEPING: [libc::c_long; 1] = [libc::SYS_epoll_pwait];

/// Whether the daemon's main thread sleeps until something happens.
fn loop_sleeps(pid: u32) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/task/{pid}/syscall")).unwrap_or_default();
    let number = call.split(' ').next().and_then(|number| number.parse().ok());
    let state = fs::read_to_string(format!("/proc/{pid}/task/{pid}/stat")).unwrap_or_default();
    let is_asleep = state.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" S"));
    is_asleep && number.is_some_and(|it| SLEEPING.contains(&it))
}

/// The event loop's thread waits for no disk and no pipe: it touches what is in memory, and what the
/// kernel makes up as it is read, and of that no more than is listed here.
#[test]
fn the_loop_touches_what_is_listed_and_nothing_else() {
    const GUESTS: usize = 20;
    needs!(Root, Strace);
    let node = node();
    let trace = node.path("trace");
    let metrics_file = node.path("metrics.prom");
    let metrics = format!("--metrics-file={}", metrics_file.display());
    fs::create_dir_all(node.path("var/log/ganeti/kvm")).unwrap();
    let daemon = node.start_wrapped(
        &["strace", "-f", "-y", "-s", "0", "-qq", "-o", trace.to_str().unwrap(), TRACED],
        &["-d", &metrics],
    );
    let pid = pid_of_the_daemon(&node);
    let of_the_loop = format!("{pid} ");
    let lines = |of_the_loops: bool| -> Vec<String> {
        let text = fs::read_to_string(&trace).unwrap();
        let lines = text.lines().filter(|line| line.starts_with(&of_the_loop) == of_the_loops);
        lines.map(String::from).collect()
    };
    daemon.await_line("The kernel's trace shows who sends signals");
    let early = node.stand_in("early").connected();
    daemon.await_line("is connected and running");

    // Other processes come and go, and files in other directories.
    await_that("the loop sleeps", || loop_sleeps(pid));
    let begin = lines(true).len();
    for i in 0..100 {
        assert!(Command::new("true").status().unwrap().success());
        fs::write(node.path(format!("file{i}")), "").unwrap();
    }
    await_that("the loop sleeps", || loop_sleeps(pid));
    let quiet = lines(true).split_off(begin);
    let root = node.root().to_str().unwrap();
    assert_eq!(others_than(SOCKETS_AND_EVENTS, root, &quiet), [""; 0], "in a quiet time");

    let begin = lines(true).len();
    let mut guests: Vec<_> =
        (0..GUESTS).map(|i| node.stand_in(format!("web{i}")).connected()).collect();
    daemon.await_lines("is connected and running", GUESTS + 1);
    for (i, guest) in guests.iter_mut().enumerate() {
        guest.tell("event RTC_CHANGE");
        match i % 5 {
            0 => guest.tell("shutdown guest-shutdown"),
            1 => guest.tell("shutdown host-qmp-quit"),
            2 => guest.signal(Signal::KILL),
            3 => guest.signal(Signal::ABORT),
            // It does not say why, and its own log is read.
            _ => guest.tell("exit 0"),
        }
    }
    daemon.await_any_deaths(GUESTS);
    assert_eq!(node.shutdown_files(), GUESTS / 5);
    await_that("the metrics have them", || {
        let text = fs::read_to_string(&metrics_file).unwrap_or_default();
        let counts = text.lines().filter(|line| line.starts_with("ganeti_kvmd_exits_total"));
        let counts = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
        counts.sum::<usize>() == GUESTS
    });
    send_signal(pid, Signal::HUP);
    daemon.await_line("Reopening log files");
    send_signal(pid, Signal::TERM);
    daemon.await_line("daemon shutdown");
    drop((early, daemon));
    let busy = lines(true).split_off(begin);
    let created = busy.iter().filter(|line| line.contains(" mknodat(")).count();
    assert_eq!(created, GUESTS / 5, "its calls are seen");
    assert_eq!(others_than(&OF_THE_LOOP, root, &busy), [""; 0], "in a busy time");

    // Others have written and read them all the same.
    let others = lines(false);
    let records = node.path("var/log/ganeti/kvm-exits.jsonl");
    let own_log = node.path("var/log/ganeti/kvm/web4.log");
    for file in [node.log_file(), records, metrics_file, own_log] {
        let file = file.to_str().unwrap();
        let is_of_it = |line: &String| {
            call(line).is_some_and(|(_, objects)| objects.iter().any(|object| object == file))
        };
        assert!(others.iter().any(is_of_it), "nobody has touched {file}");
    }
    figure(
        &format!("files that the loop touches while {GUESTS} instances come and end"),
        &format!("none but those listed, in {} calls", busy.len()),
    );
}
