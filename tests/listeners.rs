//! The kernel makes events of processes for as long as anybody listens to its proc connector. Before
//! Linux 6.6 it only counts who has said that he listens, and who has said that he does no more.

use std::fs;
use std::path::Path;

use testbed::{Daemon, Node, Signal, await_that, example, needs, send_signal};

/// A daemon under a service manager that keeps descriptors, and what it sends, as strace sees it.
fn start_under_manager(node: &Node, trace: &Path) -> Daemon {
    let (manager, trace) = (example("service_manager"), trace.to_str().unwrap());
    let strace = ["strace", "-o", trace, "-xx", "--trace=sendto"];
    let daemon = node.start_wrapped(&[&[manager.to_str().unwrap()], &strace[..]].concat(), &[]);
    daemon.await_line("proc connector reports");
    daemon
}

/// How often an operation was asked of the connector: `PROC_CN_MCAST_LISTEN` is 1,
/// `PROC_CN_MCAST_IGNORE` is 2.
fn asked(trace: &Path, operation: u32) -> usize {
    let [a, b, c, d] = operation.to_ne_bytes();
    let end = format!("\\x{a:02x}\\x{b:02x}\\x{c:02x}\\x{d:02x}");
    // The whole datagram has 40 bytes, and the operation is at its end.
    let request = format!("{end}\"], 40, ");
    fs::read_to_string(trace).unwrap().matches(&request).count()
}

fn ends(node: &Node, daemon: &Daemon, signal: Signal) {
    let pid: u32 = fs::read_to_string(node.pid_file()).unwrap().trim().parse().unwrap();
    send_signal(pid, signal);
    daemon.await_line("ganeti-kvmd daemon shutdown");
    await_that("it is gone", || !Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn ended_for_good_under_a_manager_it_listens_no_more() {
    needs!(Root, Strace);
    let node = Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"));
    let trace = node.path("trace");
    let daemon = start_under_manager(&node, &trace);
    assert!(asked(&trace, 1) >= 1, "{}", fs::read_to_string(&trace).unwrap());
    ends(&node, &daemon, Signal::INT);
    let text = fs::read_to_string(&trace).unwrap();
    assert_eq!(asked(&trace, 2), 1, "it has not said that it listens no more: {text}");
}

/// What happens until then is for the next one.
#[test]
fn ended_to_be_started_again_under_a_manager_it_goes_on_listening() {
    needs!(Root, Strace);
    let node = Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"));
    let trace = node.path("trace");
    let daemon = start_under_manager(&node, &trace);
    ends(&node, &daemon, Signal::TERM);
    assert_eq!(asked(&trace, 2), 0, "{}", fs::read_to_string(&trace).unwrap());
}
