//! Whatever its peers do, the daemon leaves four fifths of each second to ordinary processes, and a
//! file is there in time all the same.

use std::collections::VecDeque;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testbed::{Daemon, Node, StandIn, Witness, figure, needs};

/// For how long each is watched under attack, in seconds.
const WATCHED: u64 = 5;

/// How long the other instances take to close their disks.
const DRAIN: Duration = Duration::from_millis(200);

/// A fifth of a second, and what the watching may be wrong by.
const ALLOWED: Duration = Duration::from_millis(220);

/// What a daemon has used of a CPU so far, in nanoseconds, and whether it is at real-time priority.
fn look(pid: u32) -> (u64, bool) {
    let used = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    // Field 41 of proc(5); the first one here is the third.
    let policy = fields.split_whitespace().nth(41 - 3).unwrap();
    (used.split(' ').next().unwrap().parse().unwrap(), policy == libc::SCHED_FIFO.to_string())
}

/// What it used in the busiest second.
#[derive(Clone, Copy, Debug, Default)]
struct Busiest {
    /// At real-time priority.
    in_front: Duration,
    altogether: Duration,
}

/// Watches a daemon until it is to stop. Has to be in front of the daemon for that.
fn watch(pid: u32, is_over: &AtomicBool) -> Busiest {
    const SECOND: Duration = Duration::from_secs(1);
    let parameters = libc::sched_param { sched_priority: 2 };
    // SAFETY: the pointer is to a value of the right type that lives across the call.
    let result =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, std::ptr::from_ref(&parameters)) };
    assert_eq!(result, 0, "root may have real-time priority");
    let mut busiest = Busiest::default();
    let mut second: VecDeque<(Instant, Duration, Duration)> = VecDeque::new();
    let (mut before, mut was_in_front) = look(pid);
    while !is_over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(2));
        let (now, (used, is_in_front)) = (Instant::now(), look(pid));
        let used_since = Duration::from_nanos(used - before);
        // Of the two milliseconds in which it changes, half.
        let in_front = used_since * (u32::from(was_in_front) + u32::from(is_in_front)) / 2;
        (before, was_in_front) = (used, is_in_front);
        second.push_back((now, in_front, used_since));
        while second.front().is_some_and(|(then, ..)| now - *then > SECOND) {
            second.pop_front();
        }
        busiest.in_front = busiest.in_front.max(second.iter().map(|it| it.1).sum());
        busiest.altogether = busiest.altogether.max(second.iter().map(|it| it.2).sum());
    }
    busiest
}

/// So many peers flood a daemon for 50 ms and pause for 2 ms, again and again, while other instances
/// are shut down one after the other by their users.
fn flood_in_bursts(peers: usize) -> Busiest {
    let node = Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"));
    let daemon = node.start();
    let mut flooding: Vec<StandIn> =
        (0..peers).map(|i| node.stand_in(format!("flood{i}")).connected()).collect();
    let others: Vec<StandIn> = (0..WATCHED).map(|i| connected(&node, &daemon, i)).collect();
    for peer in &mut flooding {
        peer.tell(&format!("bursts 50 2 {}", WATCHED * 1000 / 50 + 20));
    }
    let is_over = AtomicBool::new(false);
    let (busiest, seen) = thread::scope(|scope| {
        let busiest = scope.spawn(|| watch(daemon.pid(), &is_over));
        let seen: Vec<_> = others
            .into_iter()
            .map(|mut other| {
                // How it fares in a second of attack is what this is about.
                thread::sleep(Duration::from_secs(1));
                let witness = Witness::new(&node, other.name(), other.pid());
                other.tell("shutdown guest-shutdown");
                let seen = witness.observe();
                other.wait();
                seen
            })
            .collect();
        is_over.store(true, Ordering::Relaxed);
        (busiest.join().unwrap(), seen)
    });
    let in_time = seen.iter().filter(|seen| seen.file_at_the_end).count();
    let leads: Option<Vec<Duration>> = seen.iter().map(|seen| seen.lead).collect();
    let slowest =
        leads.and_then(|leads| leads.into_iter().min()).map(|lead| DRAIN.saturating_sub(lead));
    figure(
        &format!("{peers} peers flood for 50 ms and pause for 2 ms"),
        &format!(
            "busiest second: {:.0?} at real-time priority, {:.0?} altogether; {in_time} of {} files in time, the slowest after {:.1?}",
            busiest.in_front,
            busiest.altogether,
            seen.len(),
            slowest.unwrap_or(DRAIN)
        ),
    );
    assert_eq!(in_time, seen.len(), "{seen:?}");
    busiest
}

fn connected(node: &Node, daemon: &Daemon, number: u64) -> StandIn {
    let name = format!("web{number}");
    let other = node.stand_in(&name).with(&format!("--drain={}", DRAIN.as_millis())).connected();
    daemon.await_line(&format!("\"{name}\" (pid {}) is connected and running", other.pid()));
    other
}

/// The kernel's own brake for all of a machine's real-time processes, taken off until dropped.
struct WithoutKernelsBrake(String);

const KERNELS_BRAKE: &str = "/proc/sys/kernel/sched_rt_runtime_us";

impl WithoutKernelsBrake {
    fn new() -> Self {
        let before = fs::read_to_string(KERNELS_BRAKE).unwrap();
        fs::write(KERNELS_BRAKE, "-1").unwrap();
        Self(before)
    }
}

impl Drop for WithoutKernelsBrake {
    fn drop(&mut self) {
        fs::write(KERNELS_BRAKE, &self.0).unwrap();
    }
}

fn assert_braked(busiest: Busiest) {
    assert!(busiest.in_front <= ALLOWED, "{busiest:?}");
    // Otherwise the attack was none.
    assert!(busiest.altogether > ALLOWED, "{busiest:?}");
}

/// One after the other: each wants a machine to itself.
#[test]
fn it_is_in_front_for_a_fifth_of_each_second_at_most() {
    needs!(Root);
    assert_braked(flood_in_bursts(1));
    assert_braked(flood_in_bursts(50));
    let without = WithoutKernelsBrake::new();
    let busiest = flood_in_bursts(1);
    drop(without);
    assert_braked(busiest);
}
