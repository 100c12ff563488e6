//! Many instances end at once, and many one after the other.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use testbed::{Node, Signal, StandIn, await_that, figure, needs};

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

/// How a stand-in ends: what is to come of it, and how it is brought about.
struct End {
    cause: &'static str,
    initiator: &'static str,
    bring_about: fn(&mut StandIn),
}

const ENDS: [End; 6] = [
    End {
        cause: "guest-shutdown",
        initiator: "user",
        bring_about: |stand_in| stand_in.tell("shutdown guest-shutdown"),
    },
    End {
        cause: "powerdown",
        initiator: "admin",
        bring_about: |stand_in| {
            stand_in.tell("event POWERDOWN");
            stand_in.tell("shutdown guest-shutdown");
        },
    },
    End {
        cause: "host-signal",
        initiator: "admin",
        bring_about: |stand_in| stand_in.signal(Signal::TERM),
    },
    End {
        cause: "killed",
        initiator: "admin",
        bring_about: |stand_in| stand_in.signal(Signal::KILL),
    },
    End {
        cause: "crashed",
        initiator: "crash",
        // Not SIGSEGV: the stand-in's runtime catches that, and lives on if no memory is at fault.
        bring_about: |stand_in| stand_in.signal(Signal::ABORT),
    },
    End { cause: "failed", initiator: "crash", bring_about: |stand_in| stand_in.tell("exit 3") },
];

/// Keeps every core busy with processes that come and go; killed when dropped.
struct Busy(Vec<Child>);

impl Busy {
    fn new() -> Self {
        let cores = thread::available_parallelism().map_or(2, usize::from);
        let shell = || {
            Command::new("sh")
                .args(["-c", "while :; do (:); done"])
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        };
        Self((0..cores).map(|_| shell()).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// How many processes this machine has ever started.
fn processes_so_far() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let line = stat.lines().find_map(|line| line.strip_prefix("processes ")).unwrap();
    line.parse().unwrap()
}

#[test]
fn five_hundred_end_at_once_in_six_ways_while_every_core_is_busy() {
    const INSTANCES: usize = 500;
    const OTHERS: u64 = 10_000;
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut stand_ins: Vec<StandIn> =
        (0..INSTANCES).map(|i| node.stand_in(format!("web{i}")).connected()).collect();
    daemon.await_lines("is connected and running", INSTANCES);
    let before = processes_so_far();
    let others = || processes_so_far() - before;
    let busy = Busy::new();
    await_that("half of the others came", || others() > OTHERS / 2);
    let begun = Instant::now();
    for (i, stand_in) in stand_ins.iter_mut().enumerate() {
        (ENDS[i % ENDS.len()].bring_about)(stand_in);
    }
    let asked_within = begun.elapsed();
    let deaths = daemon.await_any_deaths(INSTANCES);
    let told_within = begun.elapsed();
    await_that("the others came", || others() > OTHERS);
    drop(busy);
    for death in &deaths {
        let number: usize = death.name.strip_prefix("web").unwrap().parse().unwrap();
        let end = &ENDS[number % ENDS.len()];
        assert_eq!(
            (&*death.cause, &*death.initiator),
            (end.cause, end.initiator),
            "{}",
            death.line
        );
        assert_eq!(node.has_shutdown_file(&death.name), end.initiator == "user", "{}", death.line);
    }
    figure(
        &format!(
            "{INSTANCES} end in six ways within {asked_within:.1?}, {} others beside",
            others()
        ),
        &format!("{} verdicts right, told within {told_within:.1?}", deaths.len()),
    );
}

/// How much is to happen in `lives_and_events_without_end_leave_nothing_behind`: by default what
/// a check has time for.
fn how_many(variable: &str, default: usize) -> usize {
    std::env::var(variable)
        .map_or(default, |number| number.parse().unwrap_or_else(|_| panic!("{variable}={number}")))
}

/// Memory and descriptors stay as they are, however much has happened.
#[test]
fn lives_and_events_without_end_leave_nothing_behind() {
    const AT_ONCE: usize = 8;
    const WARM_UP: usize = 100;
    const ROUNDS: usize = 10;
    needs!(Root);
    let lives = how_many("STORM_LIVES", 1000);
    let events = how_many("STORM_EVENTS", 1_000_000);
    let node = node();
    let daemon = node.start();
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    let live = |name: &str| {
        let mut stand_in = node.stand_in(name).connected();
        stand_in.tell("shutdown guest-shutdown");
        stand_in.wait();
    };
    // Some live at the same time, each name many times.
    let live_all = |count: usize| {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for name in 0..AT_ONCE {
                let (next, live) = (&next, &live);
                scope.spawn(move || {
                    while next.fetch_add(1, Ordering::Relaxed) < count {
                        live(&format!("web{name}"));
                    }
                });
            }
        });
    };
    let mut flooding = node.stand_in("flood").connected();
    live_all(WARM_UP);
    flooding.tell(&format!("flood {}", WARM_UP * 10));
    daemon.await_any_deaths(WARM_UP);
    let (memory, open) = (daemon.status("VmRSS"), descriptors());
    for round in 1..=ROUNDS {
        flooding.tell(&format!("flood {}", events / ROUNDS));
        live_all(lives / ROUNDS);
        println!("{} lives: {} kB", round * lives / ROUNDS, daemon.status("VmRSS"));
    }
    // What it has sent is read when what it says last is known.
    flooding.tell("shutdown guest-shutdown");
    assert_eq!(daemon.await_death("flood").initiator, "user");
    let deaths = daemon.await_any_deaths(WARM_UP + lives + 1);
    let records = fs::read_to_string(node.path("var/log/ganeti/kvm-exits.jsonl")).unwrap();
    let is_users = |record: &&str| record.contains(r#""initiator":"user""#);
    let wrong: Vec<&str> = records.lines().filter(|record| !is_users(record)).collect();
    assert!(wrong.is_empty() && deaths.len() == records.lines().count(), "{wrong:#?}");
    let (after, open_after) = (daemon.status("VmRSS"), descriptors());
    figure(
        &format!("{lives} lives, {events} events"),
        &format!("{memory} kB and {open} descriptors, then {after} kB and {open_after}"),
    );
    assert!(after <= memory + 512, "{memory} kB became {after} kB");
    assert!(open_after <= open, "{open} descriptors became {open_after}");
}
