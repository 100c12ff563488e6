//! Ganeti's directories can be written to by its own daemons, some of which talk to the network.
//! What one of them plants there in the place of the daemon's files stops nothing, and leads
//! nowhere.
//!
//! The directories are as Ganeti makes them: of a group that may write, without a sticky bit, so
//! that no setting of the kernel (`fs.protected_symlinks` and the like) has a say.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use testbed::{Attacker, Daemon, NOBODY, Node, Signal, await_that, needs};

/// What somebody else's file holds, in the end as in the beginning.
const PRECIOUS: &str = "precious";

const PID_FILE: &str = "var/run/ganeti/ganeti-kvmd.pid";
const PRIVATE: &str = "var/run/ganeti-kvmd";
const STATE: &str = "var/run/ganeti-kvmd/state";
const LOG: &str = "var/log/ganeti/kvm-daemon.log";
const RECORDS: &str = "var/log/ganeti/kvm-exits.jsonl";

const NO_LINK: &str = "it is a symbolic link, not a plain file; remove it";
const NO_FIFO: &str = "it is a FIFO, not a plain file; remove it";
const NOT_OURS: &str = "it belongs to user 65534 and not to root; remove it";

/// A node whose directories are as Ganeti makes them; the attacker is in its group.
fn node() -> Node {
    let node = Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"));
    // That of a temporary directory is for nobody else.
    fs::set_permissions(node.root(), fs::Permissions::from_mode(0o755)).unwrap();
    // The daemon's own is not meant to be so, and does no harm if it is.
    fs::create_dir(node.path(PRIVATE)).unwrap();
    for directory in
        ["var/run/ganeti", "var/log/ganeti", PRIVATE].map(|directory| node.path(directory))
    {
        chown(&directory, None, Some(NOBODY)).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o775)).unwrap();
    }
    fs::write(precious(&node), PRECIOUS).unwrap();
    node
}

/// A file of root's to which no attacker has a way.
fn precious(node: &Node) -> PathBuf {
    node.path("precious")
}

fn assert_untouched(node: &Node) {
    let path = precious(node);
    assert_eq!(fs::read_to_string(&path).unwrap(), PRECIOUS, "what a link leads to was written to");
    let metadata = fs::metadata(path).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.uid()), (0o644, 0), "its mode was changed");
}

/// Plants it, and stays.
fn plant(attack: &[&str]) {
    Attacker::start(attack).await_done();
}

fn plant_link(node: &Node, path: &str) {
    plant(&["link", node.path(path).to_str().unwrap(), precious(node).to_str().unwrap()]);
}

fn plant_fifo(node: &Node, path: &str) {
    plant(&["fifo", node.path(path).to_str().unwrap()]);
}

fn plant_file(node: &Node, path: &str, text: &str) {
    plant(&["file", node.path(path).to_str().unwrap(), text]);
}

/// An instance ends, and is judged.
fn one_ends(node: &Node, daemon: &Daemon, name: &str) {
    let mut stand_in = node.stand_in(name).connected();
    stand_in.tell("shutdown guest-shutdown");
    assert_eq!(daemon.await_death(name).initiator, "user");
    assert!(node.has_shutdown_file(name));
}

/// It does not start, and says why: the path, and what this is.
fn is_refused(node: &Node, path: &str, what: &str) {
    assert!(node.try_start_wrapped(&[], &[]).is_none(), "it has started");
    let log = fs::read_to_string(node.log_file()).unwrap();
    let path = node.path(path).display().to_string();
    assert!(log.lines().any(|line| line.contains(&path) && line.contains(what)), "{log}");
}

/// A line with this path that says what this is.
fn is_told(node: &Node, daemon: &Daemon, path: &str, what: &str) {
    let path = node.path(path).display().to_string();
    await_that("it is told", || {
        daemon.lines().iter().any(|line| line.contains(&path) && line.contains(what))
    });
}

#[test]
fn a_link_in_the_place_of_the_pid_file() {
    needs!(Root);
    let node = node();
    plant_link(&node, PID_FILE);
    is_refused(&node, PID_FILE, NO_LINK);
    assert_untouched(&node);
}

#[test]
fn a_fifo_in_the_place_of_the_pid_file() {
    needs!(Root);
    let node = node();
    plant_fifo(&node, PID_FILE);
    is_refused(&node, PID_FILE, NO_FIFO);
    // Whoever asks who runs does not wait, either.
    let said = node.run(&["--check"]);
    assert!(String::from_utf8_lossy(&said.stdout).contains(NO_FIFO), "{said:?}");
}

#[test]
fn somebody_elses_pid_file() {
    needs!(Root);
    let node = node();
    plant_file(&node, PID_FILE, "1\n");
    is_refused(&node, PID_FILE, NOT_OURS);
}

#[test]
fn links_in_the_place_of_the_log_the_records_and_the_state() {
    needs!(Root);
    let node = node();
    let temporary = "var/run/ganeti-kvmd/.state.tmp";
    for path in [LOG, RECORDS, STATE, temporary] {
        plant_link(&node, path);
    }
    let daemon = node.start();
    for path in [LOG, RECORDS, STATE] {
        is_told(&node, &daemon, path, NO_LINK);
    }
    one_ends(&node, &daemon, "web1");
    assert_untouched(&node);
    assert!(node.path(STATE).symlink_metadata().unwrap().is_file(), "it has one of its own");
}

#[test]
fn fifos_in_the_place_of_the_log_the_records_and_the_state() {
    needs!(Root);
    let node = node();
    for path in [LOG, RECORDS, STATE] {
        plant_fifo(&node, path);
    }
    let daemon = node.start();
    for path in [LOG, RECORDS, STATE] {
        is_told(&node, &daemon, path, NO_FIFO);
    }
    one_ends(&node, &daemon, "web1");
    assert!(node.path(STATE).symlink_metadata().unwrap().is_file(), "it has one of its own");
}

/// One that somebody holds open for reading, and does not read, takes in 64 KiB.
#[test]
fn a_fifo_that_nobody_empties_in_the_place_of_the_records() {
    const ENDS: usize = 120;
    needs!(Root);
    let node = node();
    plant_fifo(&node, RECORDS);
    let _held = fs::File::options().read(true).write(true).open(node.path(RECORDS)).unwrap();
    let daemon = node.start();
    for number in 0..ENDS {
        one_ends(&node, &daemon, &format!("web{number}"));
    }
}

#[test]
fn somebody_elses_log_records_and_state() {
    needs!(Root);
    let node = node();
    // As if an instance had been marked, and was to be judged by that.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let forged = format!("{{\"version\":3,\"boot\":\"{}\"}}\n{{\"Last\":7}}\n", boot.trim());
    for (path, text) in [(LOG, ""), (RECORDS, ""), (STATE, &*forged)] {
        plant_file(&node, path, text);
    }
    let daemon = node.start();
    for path in [LOG, RECORDS, STATE] {
        is_told(&node, &daemon, path, NOT_OURS);
    }
    one_ends(&node, &daemon, "web1");
    for path in [LOG, RECORDS] {
        assert_eq!(fs::read_to_string(node.path(path)).unwrap(), "", "{path}");
    }
    let state = fs::metadata(node.path(STATE)).unwrap();
    assert_eq!((state.uid(), state.mode() & 0o777), (0, 0o600), "it has one of its own");
}

/// Where `fs.protected_hardlinks` is off, anybody can give any file another name.
#[test]
fn another_name_of_a_precious_file_in_the_place_of_each() {
    const LINKED: &str = "it has other names as well; remove it";
    needs!(Root);
    let node = node();
    for path in [LOG, RECORDS, STATE] {
        fs::hard_link(precious(&node), node.path(path)).unwrap();
    }
    let daemon = node.start();
    for path in [LOG, RECORDS, STATE] {
        is_told(&node, &daemon, path, LINKED);
    }
    one_ends(&node, &daemon, "web1");
    drop(daemon);
    assert_untouched(&node);
    fs::remove_file(node.path(LOG)).unwrap();
    let _ = fs::remove_file(node.path(PID_FILE));
    fs::hard_link(precious(&node), node.path(PID_FILE)).unwrap();
    is_refused(&node, PID_FILE, LINKED);
    assert_untouched(&node);
}

/// As at every rotation.
#[test]
fn links_and_fifos_that_are_planted_while_it_runs() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    one_ends(&node, &daemon, "web1");
    plant_link(&node, LOG);
    plant_fifo(&node, RECORDS);
    plant_link(&node, STATE);
    daemon.signal(Signal::HUP);
    daemon.await_line("Reopening log files");
    is_told(&node, &daemon, LOG, NO_LINK);
    is_told(&node, &daemon, RECORDS, NO_FIFO);
    one_ends(&node, &daemon, "web2");
    // The old ones stay in use.
    let records = fs::read_to_string(node.path(format!("{RECORDS}.elsewhere"))).unwrap();
    await_that("the record is in the old file", || records.contains("web1"));
    // What the next one is to go on with is where it looks for it.
    let look = || drop(fs::rename(node.control_dir(), node.path("aside")));
    look();
    daemon.await_line("Watch directory");
    fs::rename(node.path("aside"), node.control_dir()).unwrap();
    await_that("the state is in its place again", || {
        node.path(STATE).symlink_metadata().is_ok_and(|metadata| metadata.is_file())
    });
    assert_untouched(&node);
}

/// As it is, if nobody has made it otherwise.
#[test]
fn where_the_state_is_nobody_else_can_write() {
    needs!(Root);
    let node = node();
    fs::remove_dir(node.path(PRIVATE)).unwrap();
    let daemon = node.start();
    one_ends(&node, &daemon, "web1");
    assert!(node.path(STATE).is_file());
    let private = fs::metadata(node.path(PRIVATE)).unwrap();
    assert_eq!((private.uid(), private.mode() & 0o777), (0, 0o700));
    assert_eq!(daemon.count("Cannot keep the state"), 0);
}

/// It is said, and to be put right.
#[test]
fn a_directory_of_its_own_that_others_can_write_to_is_named() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    is_told(&node, &daemon, PRIVATE, "others may write to it; chmod 700");
}

/// Neither can be removed by its name.
#[test]
fn a_directory_in_the_place_of_what_is_to_become_the_state() {
    needs!(Root);
    let node = node();
    let temporary = node.path("var/run/ganeti-kvmd/.state.tmp");
    fs::create_dir(&temporary).unwrap();
    fs::write(temporary.join("file"), "").unwrap();
    let daemon = node.start();
    one_ends(&node, &daemon, "web1");
    assert_eq!(daemon.count("Cannot write"), 0, "{:#?}", daemon.lines());
    assert!(node.path(STATE).is_file());
}

/// At this path somebody waits, and takes nothing in: as many as may wait there, do.
fn stuck_successor(path: &Path) -> Vec<std::os::fd::OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = || {
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    };
    let address = SocketAddrUnix::new(path).unwrap();
    let mut held = vec![socket()];
    rustix::net::bind(&held[0], &address).unwrap();
    rustix::net::listen(&held[0], 1).unwrap();
    loop {
        let client = socket();
        if rustix::net::connect(&client, &address).is_err() {
            return held;
        }
        held.push(client);
    }
}

#[test]
fn a_successor_that_never_accepts() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let private = node.path(PRIVATE);
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    let _stuck = [private.join("handover"), node.path("var/run/ganeti/handover")]
        .map(|path| stuck_successor(&path));
    daemon.signal(Signal::USR2);
    let line = daemon.await_line("Cannot hand over");
    assert!(line.contains("running on"), "{line}");
    one_ends(&node, &daemon, "web1");
}

/// It accepts, and then takes nothing in.
#[test]
fn a_successor_that_never_reads() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let _instances: Vec<_> =
        (0..40).map(|i| node.stand_in(format!("many{i}")).connected()).collect();
    daemon.await_lines("is connected and running", 40);
    let private = node.path(PRIVATE);
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let path = private.join("handover");
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    daemon.signal(Signal::USR2);
    let mut connection = None;
    await_that("it comes", || {
        connection = rustix::net::accept(&listener).ok();
        connection.is_some()
    });
    daemon.await_line("Cannot hand over");
    one_ends(&node, &daemon, "web1");
}

/// Whoever may write where the two would meet could be met there.
#[test]
fn a_meeting_place_that_others_can_write_to() {
    needs!(Root);
    let node = node();
    let mut daemon = node.start();
    let private = node.path(PRIVATE);
    assert!(node.try_start_wrapped(&[], &["--take-over"]).is_none(), "it has taken over");
    let log = fs::read_to_string(node.log_file()).unwrap();
    let path = private.display().to_string();
    let is_said = |line: &str| line.contains(&path) && line.contains("others may write to it");
    assert!(log.lines().any(is_said), "{log}");
    daemon.assert_alive();
    one_ends(&node, &daemon, "web1");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    let successor = node.start_with(&["--take-over"]);
    one_ends(&node, &successor, "web2");
    let _ = std::io::stdout().flush();
}
