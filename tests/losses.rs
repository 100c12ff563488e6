//! Every source can lose what it has to say, and clocks jump: that is noticed, or does not matter.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_CONNECTOR;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{bind, getsockname};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use testbed::{Daemon, Node, Signal, StandIn, figure, needs};

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

fn connected(node: &Node, daemon: &Daemon, name: &str) -> StandIn {
    let stand_in = node.stand_in(name).connected();
    daemon.await_line(&format!("\"{name}\" (pid {}) is connected and running", stand_in.pid()));
    stand_in
}

/// A daemon that loses what inotify reports when that is more than four events.
fn with_short_queue(node: &Node, arguments: &[&str]) -> Daemon {
    const LENGTH: &str = "/proc/sys/fs/inotify/max_queued_events";
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = fs::read_to_string(LENGTH).unwrap();
    fs::write(LENGTH, "4").unwrap();
    let daemon = node.start_with(arguments);
    fs::write(LENGTH, before).unwrap();
    daemon
}

#[test]
fn inotify_that_lost_events_is_made_good() {
    needs!(Root);
    let node = node();
    let daemon = with_short_queue(&node, &[]);
    daemon.signal(Signal::STOP);
    for i in 0..20 {
        fs::write(node.control_dir().join(format!("file{i}")), "").unwrap();
    }
    let mut stand_in = node.stand_in("web1").start();
    daemon.signal(Signal::CONT);
    daemon.await_line("inotify lost events");
    stand_in.await_word("connected");
}

/// The metric of how often inotify has lost something.
fn inotify_losses(metrics: &Path) -> u64 {
    const LOSSES: &str = "ganeti_kvmd_losses_total{source=\"inotify\"} ";
    let text = fs::read_to_string(metrics).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix(LOSSES));
    count.map_or(0, |count| count.parse().unwrap())
}

/// Whoever can have the kernel drop events cannot fill the disk with lines about that.
#[test]
fn however_often_events_are_lost_few_lines_are_logged() {
    const TIMES: u64 = 20;
    needs!(Root);
    let node = node();
    let metrics = node.path("kvmd.prom");
    let daemon = with_short_queue(&node, &[&format!("--metrics-file={}", metrics.display())]);
    let is_stopped = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
        stat.rsplit_once(')').unwrap().1.starts_with(" T")
    };
    for round in 1..=TIMES {
        daemon.signal(Signal::STOP);
        testbed::await_that("it is stopped", is_stopped);
        for i in 0..20 {
            fs::write(node.control_dir().join(format!("file{round}-{i}")), "").unwrap();
        }
        daemon.signal(Signal::CONT);
        testbed::await_that("the loss is counted", || inotify_losses(&metrics) == round);
    }
    let mut stand_in = connected(&node, &daemon, "web1");
    stand_in.tell("shutdown guest-shutdown");
    daemon.await_death("web1");
    assert_eq!(daemon.count("inotify lost events"), 5, "{:#?}", daemon.lines());
}

/// The default size of sockets' receive buffers at its minimum, until dropped.
struct SmallBuffers(String);

const DEFAULT_SIZE: &str = "/proc/sys/net/core/rmem_default";

impl SmallBuffers {
    fn new() -> Self {
        let before = fs::read_to_string(DEFAULT_SIZE).unwrap();
        fs::write(DEFAULT_SIZE, "2304").unwrap();
        Self(before)
    }
}

impl Drop for SmallBuffers {
    fn drop(&mut self) {
        fs::write(DEFAULT_SIZE, &self.0).unwrap();
    }
}

#[test]
fn what_the_connector_has_lost_is_made_good() {
    const INSTANCES: usize = 100;
    needs!(Root, Strace);
    let node = node();
    let small = SmallBuffers::new();
    // The daemon believes that it has been given a larger one.
    let strace = ["strace", "-o", "/dev/null", "--trace=setsockopt"];
    let inject = ["--inject=setsockopt:retval=0:when=1"];
    let daemon = node.start_wrapped(&[&strace[..], &inject].concat(), &[]);
    daemon.await_line("proc connector reports");
    drop(small);
    let stand_ins: Vec<StandIn> =
        (0..INSTANCES).map(|i| node.stand_in(format!("web{i}")).connected()).collect();
    daemon.await_lines("is connected and running", INSTANCES);
    // They end while it is held: more than the buffer has room for.
    let pid = fs::read_to_string(node.pid_file()).unwrap().trim().parse().unwrap();
    testbed::send_signal(pid, Signal::STOP);
    for stand_in in &stand_ins {
        stand_in.signal(Signal::KILL);
    }
    drop(stand_ins);
    testbed::send_signal(pid, Signal::CONT);
    let deaths = daemon.await_any_deaths(INSTANCES);
    assert!(daemon.count("proc connector lost events") > 0, "nothing was lost");
    for death in &deaths {
        assert_eq!((&*death.cause, &*death.initiator), ("killed", "admin"), "{}", death.line);
    }
    assert_eq!(node.shutdown_files(), 0);
    // Asked whether it still tells, the kernel found room for the answer.
    assert_eq!(daemon.count("proc connector is not available"), 0);
    figure(
        &format!("{INSTANCES} killed, no room in the connector's buffer"),
        &format!("{} verdicts right", deaths.len()),
    );
}

/// A socket of the proc connector: its inode, and its owner's descriptor of it.
fn connector_of(pid: u32) -> (String, i32) {
    let sockets = fs::read_to_string("/proc/net/netlink").unwrap();
    let fields = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
    // sk, protocol, port, groups, rmem, wmem, dump, locks, drops, inode
    let ours: Vec<String> = sockets
        .lines()
        .map(fields)
        .filter(|field| field[1] == NETLINK_CONNECTOR.to_string() && field[3] == "00000001")
        .map(|field| format!("socket:[{}]", field[9]))
        .collect();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let found = descriptors.flatten().find_map(|descriptor| {
        let target = fs::read_link(descriptor.path()).ok()?.into_os_string().into_string().ok()?;
        let number = descriptor.file_name().to_str()?.parse().ok()?;
        ours.contains(&target).then_some((target, number))
    });
    found.expect("the daemon has a socket of the proc connector")
}

/// From here on nothing reaches this socket, not even the answer to the question whether anybody is there:
/// it is in no group any more.
fn leave_the_group(pid: u32, descriptor: i32) {
    let pidfd = pidfd_open(Pid::from_raw(pid.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
    let socket: OwnedFd = pidfd_getfd(pidfd, descriptor, PidfdGetfdFlags::empty()).unwrap();
    let address: SocketAddrNetlink = getsockname(&socket).unwrap().try_into().unwrap();
    bind(&socket, &SocketAddrNetlink::new(address.pid(), 0)).unwrap();
}

/// Another directory is a reason to do so.
fn look_at_everything_again(node: &Node) {
    let elsewhere = node.path("elsewhere");
    fs::rename(node.control_dir(), &elsewhere).unwrap();
    fs::rename(&elsewhere, node.control_dir()).unwrap();
}

/// Some kernels forget their listeners (Linux 6.6.13 to 6.6.17), and then say nothing of it.
#[test]
fn a_connector_that_has_fallen_silent_is_replaced() {
    // An older one counts a listener twice who asks twice, so it is not asked.
    needs!(Root, Linux(6, 6));
    let node = node();
    let daemon = node.start();
    daemon.await_line("proc connector reports");
    let missed = connected(&node, &daemon, "missed");
    let told = connected(&node, &daemon, "told");
    let (before, descriptor) = connector_of(daemon.pid());
    leave_the_group(daemon.pid(), descriptor);
    missed.signal(Signal::KILL);
    let death = daemon.await_death("missed");
    assert_eq!((&*death.cause, &*death.initiator), ("killed", "admin"), "{}", death.line);
    look_at_everything_again(&node);
    let line = daemon.await_line("proc connector is not available");
    assert!(line.contains("did not answer"), "{line}");
    daemon.await_lines("proc connector reports", 2);
    assert_ne!(connector_of(daemon.pid()).0, before);
    told.signal(Signal::KILL);
    let death = daemon.await_death("told");
    assert_eq!((&*death.cause, &*death.initiator), ("killed", "admin"), "{}", death.line);
    assert_eq!(node.shutdown_files(), 0);
}

/// From Linux 6.6 on any user can switch it off for everybody. That is not tried here: it would be off
/// until the machine is booted. To the daemon it is the same if no socket gets into the group.
#[test]
fn a_connector_that_answers_no_socket_any_more_is_said_to_be_switched_off() {
    needs!(Root, Strace, Linux(6, 6));
    let node = node();
    let strace = ["strace", "-o", "/dev/null", "--trace=bind"];
    let every_other = ["--inject=bind:retval=0:when=2+"];
    let daemon = node.start_wrapped(&[&strace[..], &every_other].concat(), &[]);
    daemon.await_line("proc connector reports");
    let marked = connected(&node, &daemon, "marked");
    let killed = connected(&node, &daemon, "killed");
    let pid = fs::read_to_string(node.pid_file()).unwrap().trim().parse().unwrap();
    leave_the_group(pid, connector_of(pid).1);
    look_at_everything_again(&node);
    let line = daemon.await_line("has been switched off for everybody");
    assert!(line.contains("a reboot switches it on again"), "{line}");
    // Whether it was read from the pidfd or seen in the trace.
    killed.signal(Signal::KILL);
    assert_eq!(daemon.await_death("killed").cause, "killed");
    user_ends(&daemon, marked);
    assert!(node.has_shutdown_file("marked"));
    // It was confined when it had the connector: what it says it reads is what it can.
    assert_eq!(daemon.count("taken from /proc"), 0, "{:#?}", daemon.lines());
    look_at_everything_again(&node);
    user_ends(&daemon, connected(&node, &daemon, "later"));
    assert_eq!(daemon.count("switched off for everybody"), 1, "said once");
}

fn user_ends(daemon: &Daemon, mut stand_in: StandIn) {
    let name = stand_in.name().to_string();
    stand_in.tell("shutdown guest-shutdown");
    assert_eq!(daemon.await_death(&name).initiator, "user");
}

/// `struct nlmsghdr`, `struct cn_msg` and `struct proc_event` of a process's end, as the kernel
/// sends them.
fn end_of(pid: u32, status: u32) -> Vec<u8> {
    const PROC_EVENT_EXIT: u32 = 0x8000_0000;
    const NLMSG_DONE: u16 = 3;
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let event: Vec<u8> = words(&[
        PROC_EVENT_EXIT,
        0,
        0,
        0,
        pid,
        pid,
        status,
        Signal::CHILD.as_raw().cast_unsigned(),
        1,
        1,
    ]);
    let connector: Vec<u8> = words(&[1, 1, 0, 0, event.len() as u32]);
    let length = (16 + connector.len() + event.len()) as u32;
    let header: Vec<u8> = words(&[length, u32::from(NLMSG_DONE), 0, 0]);
    [header, connector, event].concat()
}

#[test]
fn what_another_process_says_at_the_connector_is_not_believed() {
    needs!(Root);
    let node = node();
    let daemon = node.start_with(&["--debug"]);
    daemon.await_line("proc connector reports");
    let mut stand_in = connected(&node, &daemon, "web1");
    let mut forger = Socket::new(NETLINK_CONNECTOR).unwrap();
    forger.bind_auto().unwrap();
    assert!(forger.as_raw_fd() >= 0);
    let daemons = SocketAddr::new(daemon.pid(), 0);
    let forged = end_of(stand_in.pid(), 9);
    assert_eq!(forger.send_to(&forged, &daemons, 0).unwrap(), forged.len());
    daemon.await_line("Foreign message at the proc connector");
    stand_in.tell("shutdown guest-shutdown");
    let death = daemon.await_death("web1");
    assert_eq!((&*death.cause, &*death.initiator), ("guest-shutdown", "user"), "{}", death.line);
    assert!(death.line.contains("exit status 0"), "{}", death.line);
}

/// The clock on the wall set to another time, and set right again when dropped.
struct OtherTime {
    /// What it is ahead of the steady clock when it is right.
    right: Duration,
}

fn time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap())
}

fn set_wall_clock(time: Duration) {
    let tv_sec = time.as_secs().cast_signed();
    clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec: time.subsec_nanos().into() })
        .unwrap();
}

impl OtherTime {
    fn new() -> Self {
        Self { right: time(ClockId::Realtime).saturating_sub(time(ClockId::Monotonic)) }
    }
}

impl Drop for OtherTime {
    fn drop(&mut self) {
        set_wall_clock(time(ClockId::Monotonic) + self.right);
    }
}

#[test]
fn a_clock_that_jumps_changes_no_verdict() {
    const JUMP: Duration = Duration::from_secs(2 * 3600);
    needs!(Root, WallClock);
    let node = node();
    let daemon = node.start();
    let mut asked = connected(&node, &daemon, "asked");
    let mut forth = connected(&node, &daemon, "forth");
    let mut back = connected(&node, &daemon, "back");
    asked.tell("event POWERDOWN");
    {
        let _other_time = OtherTime::new();
        // Longer than a powerdown request is good for.
        set_wall_clock(time(ClockId::Realtime) + JUMP);
        asked.tell("shutdown guest-shutdown");
        forth.tell("shutdown guest-shutdown");
        assert_eq!(daemon.await_death("asked").initiator, "admin");
        assert_eq!(daemon.await_death("forth").initiator, "user");
        set_wall_clock(time(ClockId::Realtime).saturating_sub(2 * JUMP));
        back.tell("shutdown guest-shutdown");
        assert_eq!(daemon.await_death("back").initiator, "user");
    }
}

/// While a machine is suspended, the clock of boot goes on and the steady one stands still. A time
/// namespace sets them apart in the same way.
#[test]
fn a_machine_that_was_suspended_changes_no_verdict() {
    needs!(Root);
    let node = node();
    let mut before = node.stand_in("before").start();
    let ten_days = ["unshare", "--time", "--boottime", "864000", "--fork", "--kill-child"];
    let daemon = node.start_wrapped(&ten_days, &[]);
    daemon.await_line("proc connector reports");
    // Not taken for one that has run unwatched for ten days.
    daemon.await_line("\"before\"");
    before.tell("shutdown guest-shutdown");
    assert_eq!(daemon.await_death("before").initiator, "user");
    let mut after = connected(&node, &daemon, "after");
    after.tell("event POWERDOWN");
    after.tell("shutdown guest-shutdown");
    assert_eq!(daemon.await_death("after").initiator, "admin");
    let killed = connected(&node, &daemon, "killed");
    killed.signal(Signal::KILL);
    let death = daemon.await_death("killed");
    assert_eq!((&*death.cause, &*death.initiator), ("killed", "admin"), "{}", death.line);
    assert!(death.line.contains("SIGKILL from"), "{}", death.line);
}
