//! No instance is missed, whatever comes and goes: sockets, directories, the daemon itself.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::Shutdown;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use testbed::{Booting, Daemon, Node, Signal, StandIn, await_that, kernel_is_at_least, needs};

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
    assert_eq!(daemon.await_lines("is connected and running", 60).len(), 60);
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
    assert_eq!(daemon.await_lines("is connected and running", 100).len(), 100);
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
    daemon.await_lines("is connected and running", 200);
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
    daemon.await_line("is connected and running");
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
    daemon.await_line("is connected and running");
    guest.tell(b'p');
    assert_eq!(daemon.await_death("web1").initiator, "user");
    assert!(node.has_shutdown_file("web1"));
}

/// A guest that is younger than this has hardly booted: it was not asked to power down before.
const OLD_ENOUGH: Duration = Duration::from_secs(11);

/// Another client holds the connection while there is a powerdown request, which the daemon misses.
/// When the guest shuts down later, that may be the reason, or its user.
fn asked_while_the_slot_was_taken(options: &[&str], initiator: &str, file: bool) {
    let node = node();
    let booted = Instant::now();
    let mut guest = node.guest("web1").boot();
    let client = UnixStream::connect(node.socket("web1")).unwrap();
    let daemon = node.start_with(options);
    daemon.await_line("does not answer");
    guest.deafen();
    guest.execute(&["system_powerdown"]);
    await_that("the guest is old enough", || booted.elapsed() > OLD_ENOUGH);
    drop(client);
    daemon.await_line("is connected and running");
    guest.tell(b'p');
    guest.wait();
    let death = daemon.await_death("web1");
    let verdict = (&*death.cause, &*death.initiator, node.has_shutdown_file("web1"));
    assert_eq!(verdict, ("guest-shutdown", initiator, file), "{}", death.line);
    assert!(
        death.line.contains("what happened while the daemon was not listening"),
        "{}",
        death.line
    );
}

#[test]
fn a_request_while_the_slot_was_taken_is_recorded_as_missing() {
    needs!(Qemu, Root);
    asked_while_the_slot_was_taken(&[], "user", true);
}

/// The window begins when QEMU begins to speak. From the connection on it would be over by then:
/// the daemon complains after five seconds of silence.
#[test]
fn with_a_doubt_window_a_request_while_the_slot_was_taken_leaves_no_file() {
    needs!(Qemu, Root);
    asked_while_the_slot_was_taken(&["--doubt-window=4"], "unknown", false);
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
    assert!(death.line.contains("not known: what QEMU said"), "{}", death.line);
}

#[test]
fn the_control_directory_and_its_parents_come_late() {
    needs!(Root);
    let node = Node::bare(env!("CARGO_BIN_EXE_ganeti-kvmd"));
    let daemon = node.start();
    fs::create_dir_all(node.control_dir()).unwrap();
    fs::create_dir_all(node.pid_dir()).unwrap();
    let _stand_in = node.stand_in("web1").connected();
    daemon.await_line("is connected and running");
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
    daemon.await_line("is connected and running");
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
    daemon.await_line("is connected and running");
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
        daemon.await_line("is connected and running");
        if restart % 2 == 0 {
            assert!(daemon.stop().success());
        } else {
            daemon.kill();
        }
        assert!(!node.has_shutdown_file("web1"));
    }
    let daemon = node.start_with(undoubting);
    daemon.await_line("is connected and running");
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
        daemon.await_lines("is connected and running", life);
        guest.signal(Signal::KILL);
        guest.wait();
        assert!(node.socket("web1").exists(), "a stale socket");
        daemon.await_deaths("web1", life);
    }
    let mut guest = node.guest("web1").boot();
    daemon.await_lines("is connected and running", 4);
    guest.tell(b'p');
    assert_eq!(daemon.await_deaths("web1", 4)[3].initiator, "user");
}

/// Copies one of a stand-in's sockets, as a child inherits it: the one at which it listens, or its
/// connection to the daemon.
fn inherit_socket(stand_in: &StandIn, node: &Node, listens: bool) -> OwnedFd {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let path = node.socket(stand_in.name());
    // Num, RefCount, Protocol, Flags (with SO_ACCEPTCON), Type, St, Inode, Path
    let inode = sockets
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|field| {
            field.get(7) == Some(&path.to_str().unwrap()) && (field[3] == "00010000") == listens
        })
        .map(|field| format!("socket:[{}]", field[6]))
        .expect("it has such a socket");
    let descriptors = fs::read_dir(format!("/proc/{}/fd", stand_in.pid())).unwrap();
    let number = descriptors
        .flatten()
        .find(|it| fs::read_link(it.path()).is_ok_and(|target| target.as_os_str() == &*inode))
        .and_then(|it| it.file_name().to_str()?.parse().ok())
        .expect("it has a descriptor of it");
    let pid = Pid::from_raw(stand_in.pid().cast_signed()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()).unwrap()
}

/// Makes the daemon look at everything again, and waits until it would have recorded the end of any
/// instance that it takes for dead.
fn look_again(node: &Node, daemon: &Daemon, round: usize) {
    let elsewhere = node.path("elsewhere");
    fs::rename(node.control_dir(), &elsewhere).unwrap();
    fs::rename(&elsewhere, node.control_dir()).unwrap();
    let name = format!("other{round}");
    let other = node.stand_in(&name).connected();
    daemon.await_line(&format!("\"{name}\" (pid {}) is connected and running", other.pid()));
    // Its connection outlives it: the daemon waits for that as long as it waits for anything.
    let _connection = inherit_socket(&other, node, false);
    other.signal(Signal::KILL);
    let death = daemon.await_death(&name);
    assert!(death.line.contains("the end of the connection"), "{}", death.line);
}

/// QEMU is gone, and a child of it still holds the socket at which it listened. A connection to
/// that is not another life, and its end is not another end.
fn is_survived_by_an_orphan(accepts: bool) {
    let node = node();
    let daemon = node.start();
    let mut stand_in = node.stand_in("web1").connected();
    daemon.await_line("is connected and running");
    stand_in.tell(r#"event SHUTDOWN {"guest": true, "reason": "guest-shutdown"}"#);
    await_that("the file is there", || node.has_shutdown_file("web1"));
    let listener = UnixListener::from(inherit_socket(&stand_in, &node, true));
    stand_in.signal(Signal::KILL);
    stand_in.wait();
    daemon.await_death("web1");
    let accepting = listener.try_clone().unwrap();
    let orphan = thread::spawn(move || {
        let mut connections = Vec::new();
        while let (true, Ok(connection)) = (accepts, accepting.accept()) {
            connections.push(connection);
        }
    });
    for round in 0..2 {
        look_again(&node, &daemon, round);
        let is_there = node.has_shutdown_file("web1");
        assert!(is_there, "removed in round {round}: {:#?}", daemon.lines());
    }
    let deaths = daemon.await_deaths("web1", 1);
    assert_eq!(deaths.len(), 1, "{deaths:#?}");
    assert_eq!((&*deaths[0].cause, &*deaths[0].initiator), ("guest-shutdown", "user"));

    // The next daemon knows nothing of that life, and finds the same.
    daemon.stop();
    let daemon = node.start();
    look_again(&node, &daemon, 2);
    assert!(node.has_shutdown_file("web1"), "removed by the next daemon: {:#?}", daemon.lines());
    rustix::net::shutdown(&listener, Shutdown::Both).unwrap();
    orphan.join().unwrap();
    drop(listener);
    look_again(&node, &daemon, 3);
    let is_there = node.has_shutdown_file("web1");
    assert!(is_there, "removed when the orphan is gone: {:#?}", daemon.lines());
    assert_eq!(daemon.count("Instance \"web1\""), 0, "{:#?}", daemon.lines());

    // Ganeti starts it again.
    fs::remove_file(node.socket("web1")).unwrap();
    let web1 = node.stand_in("web1").connected();
    daemon.await_line(&format!("\"web1\" (pid {}) is connected and running", web1.pid()));
}

#[test]
fn an_orphan_that_holds_the_socket_is_not_another_life() {
    needs!(Root);
    is_survived_by_an_orphan(false);
}

#[test]
fn an_orphan_that_accepts_connections_is_not_another_life() {
    needs!(Root);
    is_survived_by_an_orphan(true);
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
    daemon.await_line(&format!("(pid {}) is connected and running", guest.pid()));
    guest.tell(b'p');
    guest.wait();
    let death = daemon.await_death("web1");
    assert!(death.line.ends_with("initiator user, exit status 0"), "{}", death.line);
    assert!(node.has_shutdown_file("web1"));

    let guest = node.guest("web2").boot();
    daemon.await_lines("is connected and running", 2);
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

/// A QEMU that is killed closes its socket with the last of its threads, which may be much later than the
/// first on a busy machine. What is left of it is no instance.
#[test]
fn a_process_whose_first_thread_is_dead_is_not_another_life() {
    needs!(Root);
    let node = node();
    let mut dying = node.stand_in("web1").with("--first-thread-ends").start();
    dying.await_word("listening");
    let stat = format!("/proc/{}/stat", dying.pid());
    await_that("its first thread is dead", || {
        fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "))
    });
    let daemon = node.start_with(&["-d"]);
    daemon.await_line("The QEMU of \"web1\" is dead");
    dying.signal(Signal::KILL);
    dying.wait();
    let other = node.stand_in("web2").connected();
    other.signal(Signal::KILL);
    daemon.await_death("web2");
    assert_eq!(daemon.count("Instance \"web1\""), 0, "{:#?}", daemon.lines());
}
