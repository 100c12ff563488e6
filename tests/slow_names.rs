//! The name service does not answer: the daemon comes up by the name that it knew last, and does not
//! wait for it when it takes over.

use std::fs;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testbed::{Daemon, NODE_NAME, Node, StandIn, Witness, await_that, figure, needs};

/// What the node's host is called.
const HOST: &str = "node1";

/// The daemon is to be up within this time.
const LIMIT: Duration = Duration::from_secs(5);

/// A machine's name service: its own /etc/hosts, and a DNS server that takes every question and
/// answers none.
struct NameService {
    files: TempDir,
    _server: UdpSocket,
}

impl NameService {
    /// At an address of its own: the tests run at the same time.
    fn that_never_answers_at(address: &str) -> Self {
        let server = UdpSocket::bind((address, 53)).expect("root may be a DNS server");
        let service = Self { files: tempfile::tempdir().unwrap(), _server: server };
        service.write("resolv.conf", &format!("nameserver {address}\n"));
        service.write("nsswitch.conf", "hosts: files dns\n");
        service.write("hosts", "127.0.0.1 localhost\n");
        service
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.files.path().join(file), text).unwrap();
    }

    /// The same, where /etc/hosts has this node.
    fn answers(&self) {
        self.write("hosts", &format!("192.0.2.7 {NODE_NAME} {HOST}\n"));
    }

    fn answers_no_more(&self) {
        self.write("hosts", "127.0.0.1 localhost\n");
    }

    /// Starts a daemon on a host that is called [`HOST`] and has this name service.
    fn start(&self, node: &Node, arguments: &[&str]) -> Option<Daemon> {
        let script = format!(
            "hostname {HOST}; cd {} && for file in *; do mount --bind $file /etc/$file; done; cd /; \
             unset GANETI_HOSTNAME; exec \"$@\"",
            self.files.path().display()
        );
        let unshare = ["unshare", "--mount", "--uts", "--propagation", "private"];
        let shell = ["sh", "-c", &script, "sh"];
        node.try_start_wrapped(&[&unshare[..], &shell].concat(), arguments)
    }
}

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

/// Kept after the daemon's end, and after the machine's.
fn has_run_where_the_name_service_answers(node: &Node, names: &NameService) {
    names.answers();
    let daemon = names.start(node, &[]).expect("it runs by the name that it was given");
    assert_eq!(daemon.count("Cannot look up this node's name"), 0);
    daemon.stop();
    names.answers_no_more();
    fs::remove_dir_all(node.path("var/run/ganeti")).unwrap();
    fs::create_dir(node.path("var/run/ganeti")).unwrap();
    node.with_control_dir();
}

#[test]
fn it_comes_up_in_time_by_the_name_that_it_knew_last() {
    needs!(Root);
    let (node, names) = (node(), NameService::that_never_answers_at("127.53.0.1"));
    has_run_where_the_name_service_answers(&node, &names);
    let begun = Instant::now();
    let daemon = names.start(&node, &[]).expect("it runs by the name that it knew last");
    let up_after = begun.elapsed();
    figure("a name service that never answers", &format!("up after {up_after:.1?}"));
    assert!(up_after < LIMIT, "{up_after:?}");
    let warning = daemon.await_line("Cannot look up this node's name");
    assert!(warning.contains(&format!("taking {NODE_NAME}, the name by which")), "{warning}");
    assert_eq!(daemon.count("WARNING Cannot look up this node's name"), 1);
    // The resolver gives up in the end, in its own time, beside a daemon that is confined.
    await_that("nobody waits for the name service any more", || !still_waits(&daemon));
    let mut stand_in = connected(&node, &daemon);
    stand_in.tell("shutdown guest-shutdown");
    assert_eq!(daemon.await_death("web1").initiator, "user");
}

/// Whether one of its threads waits for the name service.
fn still_waits(daemon: &Daemon) -> bool {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().flatten();
    threads.into_iter().any(|thread| {
        fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name == "name service\n")
    })
}

fn connected(node: &Node, daemon: &Daemon) -> StandIn {
    let stand_in = node.stand_in("web1").with("--drain=2000").connected();
    daemon.await_line(&format!("\"web1\" (pid {}) is connected and running", stand_in.pid()));
    stand_in
}

#[test]
fn a_node_that_never_had_another_name_takes_the_hosts() {
    needs!(Root);
    let (node, names) = (node(), NameService::that_never_answers_at("127.53.0.2"));
    let begun = Instant::now();
    assert!(names.start(&node, &[]).is_none(), "{HOST} is no node of this cluster");
    assert!(begun.elapsed() < LIMIT);
    let log = fs::read_to_string(node.log_file()).unwrap();
    assert!(log.contains(&format!("taking {HOST}, the host's own name")), "{log}");
    assert!(log.contains(&format!("Node \"{HOST}\" is not VM capable, exiting")), "{log}");
    node.set_ssconf("node_vm_capable", &format!("{HOST}=True\n"));
    let daemon = names.start(&node, &[]).expect("it runs by the host's name");
    daemon.stop();
    // That was nobody's answer.
    assert!(!node.path("var/lib/ganeti-kvmd").exists());
}

/// One daemon takes over from another. When it begins, the name service answers no more, and when
/// everything has been handed over, an instance ends.
fn ends_while_taken_over(node: &Node, names: &NameService, daemon: Daemon) -> Daemon {
    let mut stand_in = connected(node, &daemon);
    let witness = Witness::new(node, "web1", stand_in.pid());
    let (successor, seen) = std::thread::scope(|scope| {
        let successor = scope.spawn(|| names.start(node, &["--take-over"]));
        await_that("it takes over", || {
            fs::read_to_string(node.log_file()).unwrap().contains("Taking over from process")
        });
        names.answers_no_more();
        daemon.await_line("Handed over 1 connections");
        stand_in.tell("shutdown guest-shutdown");
        (successor.join().unwrap(), witness.observe())
    });
    assert!(seen.file_at_the_end, "{seen:?}");
    let successor = successor.expect("it takes over");
    assert_eq!(successor.await_death("web1").initiator, "user");
    let (_, status) = daemon.ended();
    assert!(status.success(), "{status}");
    successor
}

/// What a successor has to ask, it asks before it takes anything.
#[test]
fn where_nobody_answers_an_instance_has_its_file_in_time_during_a_take_over() {
    needs!(Root);
    let (node, names) = (node(), NameService::that_never_answers_at("127.53.0.3"));
    has_run_where_the_name_service_answers(&node, &names);
    let daemon = names.start(&node, &[]).expect("it runs by the name that it knew last");
    let successor = ends_while_taken_over(&node, &names, daemon);
    assert_eq!(successor.count("WARNING Cannot look up this node's name"), 1);
}

#[test]
fn a_successor_asks_once() {
    needs!(Root);
    let (node, names) = (node(), NameService::that_never_answers_at("127.53.0.4"));
    names.answers();
    let daemon = names.start(&node, &[]).expect("it runs by the name that it was given");
    let successor = ends_while_taken_over(&node, &names, daemon);
    assert_eq!(successor.count("Cannot look up this node's name"), 0);
}
