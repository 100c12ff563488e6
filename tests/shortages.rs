//! A full disk, no descriptors left: said, tried again, and no verdict lost.

use std::fs;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use testbed::{Death, Node, StandIn, needs};

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

/// A file system of its own over the control directory, with room for a few files.
struct SmallDisk<'a>(&'a Node);

impl<'a> SmallDisk<'a> {
    fn new(node: &'a Node) -> Self {
        mount("tmpfs", node.control_dir(), "tmpfs", MountFlags::empty(), Some(c"nr_inodes=16"))
            .expect("mount a small file system");
        Self(node)
    }

    /// Leaves no room for another file.
    fn fill(&self) {
        let fill = |i| fs::write(self.0.control_dir().join(format!("filler{i}")), "");
        let full = (0..100).map(fill).find_map(Result::err).expect("the disk fills up");
        assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    }

    fn make_room(&self) {
        fs::remove_file(self.0.control_dir().join("filler0")).unwrap();
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.0.control_dir(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk() {
    needs!(Root);
    let node = node();
    let disk = SmallDisk::new(&node);
    let daemon = node.start();
    let mut stand_in = node.stand_in("web1").with("--drain=100").connected();
    daemon.await_line("is connected and running");
    disk.fill();
    stand_in.tell("shutdown guest-shutdown");
    let line = daemon.await_line("Cannot create");
    assert!(line.contains("No space left on device") && line.contains("trying again"), "{line}");
    disk.make_room();
    assert_eq!(daemon.await_death("web1").initiator, "user");
    daemon.await_lines("Detect user shutdown", 2);
    // Served in turn: when the next instance is connected, the file has been written.
    let _next = node.stand_in("web2").connected();
    assert!(node.has_shutdown_file("web1"));
}

#[test]
fn no_descriptors_left() {
    needs!(Root);
    let node = node();
    let daemon = node.start_wrapped(&["prlimit", "--nofile=28:28"], &[]);
    let mut stand_ins: Vec<_> = (0..10).map(|i| node.stand_in(format!("web{i}")).start()).collect();
    let line = daemon.await_line("Cannot connect");
    assert!(line.contains("Too many open files") && line.contains("LimitNOFILE"), "{line}");
    // Whoever is connected is judged, and its end makes room for the others.
    for ended in 0..stand_ins.len() {
        let line = daemon.await_lines(" is connected", ended + 1).swap_remove(ended);
        let is_named = |stand_in: &&mut StandIn| line.contains(&format!("\"{}\"", stand_in.name()));
        let stand_in = stand_ins.iter_mut().find(is_named).expect("one of ours is connected");
        stand_in.tell("shutdown guest-shutdown");
        assert_eq!(daemon.await_death(stand_in.name()).initiator, "user");
        assert!(node.has_shutdown_file(stand_in.name()));
    }
    let said = daemon.count("Too many open files");
    assert!(said <= 6, "said, and not again and again: {:#?}", daemon.lines());
}

/// A restarted daemon that can open nothing knows nothing of them: they have not ended for that.
#[test]
fn no_descriptors_left_after_a_restart() {
    const VMS: usize = 12;
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut stand_ins: Vec<_> =
        (0..VMS).map(|i| node.stand_in(format!("web{i}")).connected()).collect();
    daemon.await_lines(" is connected", VMS);
    daemon.kill();
    let daemon = node.start_wrapped(&["prlimit", "--nofile=28:28"], &[]);
    daemon.await_line("Cannot connect");
    // Those that it could connect to are served, and one ends.
    let line = daemon.await_line(" is connected");
    let is_named = |stand_in: &&mut StandIn| line.contains(&format!("\"{}\"", stand_in.name()));
    let first = stand_ins.iter_mut().find(is_named).expect("one of ours is connected");
    let first_name = first.name().to_string();
    first.tell("shutdown guest-shutdown");
    daemon.await_death(&first_name);
    let living = stand_ins.iter().filter(|stand_in| stand_in.name() != first_name);
    let ended: Vec<&str> = living
        .map(StandIn::name)
        .filter(|name| daemon.lines().iter().any(|line| is_the_end_of(line, name)))
        .collect();
    assert!(ended.is_empty(), "they live: {ended:?}");
    // And each is judged in its turn.
    let mut stand_ins: Vec<_> =
        stand_ins.into_iter().filter(|stand_in| stand_in.name() != first_name).collect();
    for stand_in in &mut stand_ins {
        stand_in.tell("exit 0");
    }
    daemon.await_any_deaths(VMS);
}

fn is_the_end_of(line: &str, name: &str) -> bool {
    Death::parse(line).is_some_and(|death| death.name == name)
}

/// What Ganeti's daemon-util starts has 1024, of many more that it may have.
#[test]
fn it_takes_as_many_descriptors_as_it_may_have() {
    let node = node();
    let daemon = node.start_wrapped(&["prlimit", "--nofile=64:4000"], &[]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let limit: Vec<&str> = limit.split_whitespace().collect();
    assert_eq!(limit, ["4000", "4000", "files"]);
}
