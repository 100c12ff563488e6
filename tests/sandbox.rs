//! What the daemon has given up, as the kernel shows it. All other tests run in the sandbox, too.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use testbed::{Daemon, Node, await_that, needs};

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

/// A field of `/proc/PID/status` in hexadecimal.
fn mask(daemon: &Daemon, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:"))).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

/// Up, and in the sandbox: an instance is connected in the loop only.
fn in_the_loop(node: &Node, daemon: &Daemon) {
    let stand_in = node.stand_in("web1").connected();
    daemon.await_line(&format!("(pid {}) is connected and running", stand_in.pid()));
}

#[test]
fn few_capabilities_are_left_and_none_can_come_back() {
    const CAP_DAC_OVERRIDE: u64 = 1 << 1;
    const CAP_NET_ADMIN: u64 = 1 << 12;
    const CAP_SYS_PTRACE: u64 = 1 << 19;
    const CAP_SYS_NICE: u64 = 1 << 23;
    needs!(Root);
    let node = node();
    let daemon = node.start();
    in_the_loop(&node, &daemon);
    // It is of no use under Landlock.
    let ptrace = if daemon.count("Not confined") > 0 { CAP_SYS_PTRACE } else { 0 };
    for field in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(
            mask(&daemon, field),
            CAP_DAC_OVERRIDE | CAP_NET_ADMIN | CAP_SYS_NICE | ptrace,
            "{field}"
        );
    }
    assert_eq!(mask(&daemon, "CapInh"), 0);
    assert_eq!(daemon.status("NoNewPrivs"), 1);
    // SECCOMP_MODE_FILTER
    assert_eq!(daemon.status("Seccomp"), 2);
}

/// The directory in /proc of the thread that writes.
fn writer(daemon: &Daemon) -> PathBuf {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let is_writer = |task: &PathBuf| {
        std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "writer")
    };
    tasks.map(|task| task.unwrap().path()).find(is_writer).expect("a thread that writes")
}

#[test]
fn the_thread_that_writes_can_open_files_and_is_an_ordinary_one() {
    const CAP_DAC_OVERRIDE: u64 = 1 << 1;
    needs!(Root);
    let node = node();
    let daemon = node.start();
    in_the_loop(&node, &daemon);
    let writer = writer(&daemon);
    let status = std::fs::read_to_string(writer.join("status")).unwrap();
    for field in ["CapEff", "CapPrm", "CapBnd"] {
        assert!(status.contains(&format!("{field}:\t{CAP_DAC_OVERRIDE:016x}\n")), "{status}");
    }
    assert!(status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n"), "{status}");
    // proc_pid_stat(5): the fields nice, priority for real time, and policy.
    let priorities = |stat: PathBuf| {
        let stat = std::fs::read_to_string(stat).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        [16, 37, 38].map(|field| fields[field].to_string())
    };
    // As nice as whoever started it, which is this test.
    assert_eq!(priorities(writer.join("stat")), priorities("/proc/self/stat".into()));
}

#[test]
fn a_system_call_that_is_not_the_daemons_kills_it() {
    needs!(Root, Strace);
    let node = node();
    // Where it would wait, strace has it ask for its parent. It dies before its first lines are
    // written, perhaps. On arm64 there is but one of the two calls.
    let inject = "--inject=epoll_pwait,?epoll_wait:retval=0:syscall=getppid";
    let mut strace = Command::new("strace");
    strace.args(["-o", "/dev/null", "--trace=epoll_pwait,?epoll_wait", inject]).arg(node.program());
    strace.args(["-f", "--no-user-checks"]).envs(node.environment());
    let status = strace.stdin(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    // strace dies as its tracee has.
    assert_eq!(status.signal(), Some(libc::SIGSYS), "{status}");
}

#[test]
fn without_it_everything_is_kept_and_the_log_says_so() {
    needs!(Root);
    let node = node();
    let daemon = node.start_with(&["--no-sandbox"]);
    in_the_loop(&node, &daemon);
    daemon.await_line("WARNING No sandbox");
    assert_eq!(daemon.status("Seccomp"), 0);
    let this = std::fs::read_to_string("/proc/self/status").unwrap();
    assert!(this.contains(&format!("CapEff:\t{:016x}", mask(&daemon, "CapEff"))));
}

#[test]
fn the_threads_that_look_into_processes_keep_less() {
    const CAP_DAC_READ_SEARCH: u64 = 1 << 2;
    const CAP_SYS_PTRACE: u64 = 1 << 19;
    needs!(Root);
    let node = node();
    let daemon = node.start();
    in_the_loop(&node, &daemon);
    let threads = [("kvmd-lookup", 3, CAP_DAC_READ_SEARCH), ("kvmd-links", 1, CAP_SYS_PTRACE)];
    for (name, count, kept) in threads {
        let threads = || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
            tasks
                .map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap())
                .filter(|status| status.starts_with(&format!("Name:\t{name}\n")))
                .collect::<Vec<String>>()
        };
        assert_eq!(threads().len(), count, "{name}");
        // Each enters by itself, and the filter is the last that it does.
        let are_in = |all: &[String]| all.iter().all(|status| status.contains("Seccomp:\t2\n"));
        await_that("they are in the sandbox", || are_in(&threads()));
        for status in threads() {
            for line in [
                format!("CapEff:\t{kept:016x}"),
                format!("CapPrm:\t{kept:016x}"),
                format!("CapBnd:\t{kept:016x}"),
                "NoNewPrivs:\t1".into(),
            ] {
                assert!(status.lines().any(|it| it == line), "{line}: {status}");
            }
        }
    }
}
