//! No instance is missed, whatever comes and goes: sockets, directories, the daemon itself.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};

use testbed::{Booting, Daemon, Node, Signal, await_that, kernel_is_at_least, needs};

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

/// Where the original loses 3: it connects between `bind()` and `listen()` and never again.
#[test]
fn sixty_instances_one_after_the_other() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let mut guests = Vec::new();
    for i in 0..60 {
        guests.push(node.guest(&format!("web{i}")).boot());
    }
    assert_eq!(daemon.await_lines("is connected and runs", 60).len(), 60);
    for guest in &mut guests {
        guest.tell(b'p');
    }
    let deaths = daemon.await_any_deaths(60);
    assert!(deaths.iter().all(|death| death.initiator == "user"), "{deaths:?}");
    assert_eq!(node.shutdown_files(), 60);
}

#[test]
fn a_hundred_instances_at_once() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    let booting: Vec<_> = (0..100).map(|i| node.guest(&format!("web{i}")).launch()).collect();
    let mut guests: Vec<_> = booting.into_iter().map(Booting::await_ready).collect();
    assert_eq!(daemon.await_lines("is connected and runs", 100).len(), 100);
    for guest in &mut guests {
        guest.tell(b'p');
    }
    let deaths = daemon.await_any_deaths(100);
    assert!(deaths.iter().all(|death| death.initiator == "user"), "{deaths:?}");
    assert_eq!(node.shutdown_files(), 100);
}

#[test]
fn instances_that_run_already_are_found_at_start() {
    needs!(Root);
    let node = node();
    let stand_ins: Vec<_> = (0..200).map(|i| node.stand_in(format!("web{i}")).start()).collect();
    let daemon = node.start();
    daemon.await_lines("is connected and runs", 200);
    drop(stand_ins);
    assert!(daemon.await_any_deaths(200).iter().all(|death| death.cause == "killed"));
}

#[test]
fn a_socket_that_is_bound_long_before_somebody_listens() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut stand_in = node.stand_in("web1").with("--listen-late").start();
    daemon.await_line("Start monitor");
    stand_in.tell("listen");
    daemon.await_line("is connected and runs");
}

#[test]
fn a_full_backlog_is_outwaited() {
    needs!(Root);
    let node = node();
    let socket = node.socket("web1");
    let listener = UnixListener::bind(&socket).unwrap();
    // A listener takes one more than its backlog; then connecting would block.
    rustix::net::listen(&listener, 1).unwrap();
    let clients = [UnixStream::connect(&socket).unwrap(), UnixStream::connect(&socket).unwrap()];
    let daemon = node.start_with(&["-d"]);
    daemon.await_lines("Not connected", 3);
    let mut served = [listener.accept().unwrap().0, listener.accept().unwrap().0];
    drop(clients);
    served[0] = listener.accept().unwrap().0;
    let mut line = String::new();
    BufReader::new(&served[0]).read_line(&mut line).unwrap();
    assert_eq!(line, "{\"execute\": \"qmp_capabilities\"}\n");
}

/// Real QEMU serves one client at a time: the next is heard when the first leaves.
#[test]
fn a_client_slot_that_is_taken_is_outwaited() {
    needs!(Qemu, Root);
    let node = node();
    let mut guest = node.guest("web1").boot();
    let client = UnixStream::connect(node.socket("web1")).unwrap();
    let daemon = node.start();
    daemon.await_line("does not answer");
    drop(client);
    daemon.await_line("is connected and runs");
    guest.tell(b'p');
    assert_eq!(daemon.await_death("web1").initiator, "user");
    assert!(node.has_shutdown_file("web1"));
}

#[test]
fn an_instance_killed_while_its_slot_is_taken_still_gets_a_verdict() {
    needs!(Qemu, Root);
    let node = node();
    let guest = node.guest("web1").boot();
    let _client = UnixStream::connect(node.socket("web1")).unwrap();
    let daemon = node.start();
    daemon.await_line("does not answer");
    guest.signal(Signal::KILL);
    let death = daemon.await_death("web1");
    assert_eq!(death.cause, "killed");
    assert!(death.line.contains("not known: QEMU's own word"), "{}", death.line);
}

#[test]
fn the_control_directory_and_its_parents_come_late() {
    needs!(Root);
    let node = Node::bare(env!("CARGO_BIN_EXE_ganeti-kvmd"));
    let daemon = node.start();
    fs::create_dir_all(node.control_dir()).unwrap();
    fs::create_dir_all(node.pid_dir()).unwrap();
    let _stand_in = node.stand_in("web1").connected();
    daemon.await_line("is connected and runs");
}

/// The control directory is made anew, and an instance in it lives from its beginning to its end
/// under the daemon's eyes.
fn comes_back(node: &Node, daemon: &Daemon, name: &str) {
    fs::create_dir_all(node.control_dir()).unwrap();
    fs::create_dir_all(node.pid_dir()).unwrap();
    let mut stand_in = node.stand_in(name).connected();
    daemon.await_line(&format!("Instance \"{name}\" (pid {}) is connected", stand_in.pid()));
    stand_in.tell("shutdown guest-shutdown");
    daemon.await_death(name);
    assert!(node.has_shutdown_file(name));
}

#[test]
fn the_control_directory_vanishes_and_comes_back() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    for i in 0..20 {
        fs::remove_dir_all(node.control_dir()).unwrap();
        if i % 2 == 0 {
            // The daemon may put its own file there meanwhile.
            await_that("it is removed", || fs::remove_dir_all(node.path("var/run/ganeti")).is_ok());
        }
        comes_back(&node, &daemon, &format!("web{i}"));
    }
}

#[test]
fn the_directory_at_which_it_waits_is_replaced() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let parent = node.path("var/run/ganeti");
    for i in 0..20 {
        fs::remove_dir_all(parent.join("kvm-hypervisor")).unwrap();
        daemon.await_lines(&format!("Watch directory \"{}\"", parent.display()), i + 1);
        // The daemon has a file open in it, the one with its pid: that holds it, and nobody is told
        // that it is gone.
        await_that("it is removed", || fs::remove_dir_all(&parent).is_ok());
        comes_back(&node, &daemon, &format!("web{i}"));
    }
}

#[test]
fn the_control_directory_is_moved_away_and_another_takes_its_place() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let parent = node.path("var/run/ganeti");
    for (i, moved) in [node.control_dir(), parent.join("kvm-hypervisor"), parent].iter().enumerate()
    {
        fs::rename(moved, node.path(format!("old{i}"))).unwrap();
        fs::create_dir_all(node.control_dir()).unwrap();
        fs::create_dir_all(node.pid_dir()).unwrap();
        let stand_in = node.stand_in(format!("web{i}")).connected();
        daemon.await_line(&format!("Instance \"web{i}\" (pid {}) is connected", stand_in.pid()));
    }
}

#[test]
fn an_instance_whose_directory_was_replaced_is_still_judged() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut stand_in = node.stand_in("web1").connected();
    daemon.await_line("is connected and runs");
    fs::rename(node.control_dir(), node.path("old")).unwrap();
    fs::create_dir(node.control_dir()).unwrap();
    daemon.await_lines("kvm-hypervisor/ctrl/\"", 2);
    stand_in.tell("shutdown guest-shutdown");
    assert_eq!(daemon.await_death("web1").initiator, "user");
    assert!(node.has_shutdown_file("web1"), "in the directory that Ganeti looks at");
}

#[test]
fn a_path_through_a_symbolic_link_as_var_run_is() {
    needs!(Root);
    let node = Node::bare(env!("CARGO_BIN_EXE_ganeti-kvmd"));
    fs::rename(node.path("var/run"), node.path("run")).unwrap();
    symlink(node.path("run"), node.path("var/run")).unwrap();
    let daemon = node.start();
    fs::create_dir_all(node.control_dir()).unwrap();
    let _stand_in = node.stand_in("web1").connected();
    daemon.await_line("is connected and runs");
}

#[test]
fn a_restart_picks_up_what_runs() {
    needs!(Qemu, Root);
    let node = node();
    // Without the doubt that a request may have been made in between: see restarts.rs.
    let undoubting = &["--doubt-window=0"];
    let mut guest = node.guest("web1").boot();
    for restart in 0..4 {
        let daemon = node.start_with(undoubting);
        daemon.await_line("is connected and runs");
        if restart % 2 == 0 {
            assert!(daemon.stop().success());
        } else {
            daemon.kill();
        }
        assert!(!node.has_shutdown_file("web1"));
    }
    let daemon = node.start_with(undoubting);
    daemon.await_line("is connected and runs");
    guest.tell(b'p');
    assert_eq!(daemon.await_death("web1").initiator, "user");
    assert!(node.has_shutdown_file("web1"));
}

#[test]
fn what_a_crashed_qemu_leaves_behind_does_not_disturb_its_next_life() {
    needs!(Qemu, Root);
    let node = node();
    let daemon = node.start();
    for life in 1..=3 {
        let guest = node.guest("web1").boot();
        daemon.await_lines("is connected and runs", life);
        guest.signal(Signal::KILL);
        guest.wait();
        assert!(node.socket("web1").exists(), "a stale socket");
        daemon.await_deaths("web1", life);
    }
    let mut guest = node.guest("web1").boot();
    daemon.await_lines("is connected and runs", 4);
    guest.tell(b'p');
    assert_eq!(daemon.await_deaths("web1", 4)[3].initiator, "user");
}

#[test]
fn without_the_proc_connector_users_are_still_recognised() {
    needs!(Qemu, Root);
    // Another network namespace: the request to listen fails. Another user namespace: it is
    // refused without a word.
    for unshare in [&["unshare", "--net"][..], &["unshare", "--user", "--map-root-user"]] {
        let node = node();
        let daemon = node.start_wrapped(unshare, &[]);
        daemon.await_line("proc connector is not available");
        for (name, signal) in [("web1", None), ("web2", Some(Signal::KILL))] {
            let mut guest = node.guest(name).boot();
            daemon.await_line(&format!("Instance \"{name}\" (pid {}) is connected", guest.pid()));
            match signal {
                None => guest.tell(b'p'),
                Some(signal) => guest.signal(signal),
            }
            guest.wait();
        }
        let death = daemon.await_death("web1");
        assert_eq!((&*death.cause, &*death.initiator), ("guest-shutdown", "user"));
        assert!(node.has_shutdown_file("web1"));
        let death = daemon.await_death("web2");
        // /proc and the pidfd know, or, on an older kernel, may have known.
        if kernel_is_at_least(6, 15) {
            assert_eq!(death.cause, "killed", "{}", death.line);
        } else {
            assert!(matches!(&*death.cause, "killed" | "unknown"), "{}", death.line);
        }
        assert!(!node.has_shutdown_file("web2"));
        assert_eq!(daemon.count("proc connector is not available"), 1, "said once");
    }
}

#[test]
fn without_pidfds_and_credentials_the_pid_file_serves() {
    needs!(Qemu, Root, Strace);
    let node = node();
    let daemon = node.start_wrapped(
        &[
            "strace",
            "-o",
            "/dev/null",
            "--trace=pidfd_open,getsockopt",
            "--inject=pidfd_open:error=ENOSYS",
            "--inject=getsockopt:error=ENOPROTOOPT",
        ],
        &[],
    );
    let mut guest = node.guest("web1").boot();
    daemon.await_line(&format!("(pid {}) is connected and runs", guest.pid()));
    guest.tell(b'p');
    guest.wait();
    let death = daemon.await_death("web1");
    assert!(death.line.ends_with("initiator user, exit status 0"), "{}", death.line);
    assert!(node.has_shutdown_file("web1"));

    let guest = node.guest("web2").boot();
    daemon.await_lines("is connected and runs", 2);
    guest.signal(Signal::KILL);
    guest.wait();
    assert_eq!(daemon.await_death("web2").cause, "killed");
}

#[test]
fn a_pid_file_that_lies_is_said_and_not_believed() {
    needs!(Root);
    let node = node();
    fs::write(node.pid_dir().join("web1"), "1\n").unwrap();
    let daemon = node.start();
    let stand_in = node.stand_in("web1").connected();
    daemon.await_line("says 1, the kernel");
    stand_in.signal(Signal::KILL);
    let death = daemon.await_death("web1");
    assert!(death.line.contains(&format!("(pid {})", stand_in.pid())), "{}", death.line);
}
