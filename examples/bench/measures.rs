//! What is measured of a daemon and its virtual machines.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::net::RecvFlags;
use testbed::{Node, Signal, await_that, send_signal};

use crate::herd::{Habits, Herd, name};
use crate::observer::{Observer, Seen};
use crate::stamps::now;
use crate::subject::{Memory, Running, Subject, available_memory};
use crate::table::{median, percentile};

/// Machines that are there before the daemon is.
#[derive(Debug)]
pub(crate) struct Attached {
    /// From the start of the daemon until the last machine has been spoken to, in nanoseconds.
    pub(crate) took: f64,
    pub(crate) memory: Memory,
}

/// The median of some rounds.
pub(crate) fn attach(subject: Subject, machines: usize, rounds: usize) -> Attached {
    let node = subject.node();
    let herd = Herd::start(&node, machines, Habits::default());
    let mut took = Vec::new();
    loop {
        let begun = now();
        let daemon = subject.start(&node);
        let answered = herd.await_commands(subject.commands());
        took.push((answered - begun) as f64);
        daemon.await_idle();
        if took.len() == rounds {
            return Attached { took: median(&mut took), memory: daemon.memory() };
        }
        daemon.stop();
        herd.await_silence();
    }
}

/// A daemon with machines that were started after it.
fn watched(subject: Subject, machines: usize, habits: Habits) -> (Node, Running, Herd) {
    let node = subject.node();
    let daemon = subject.start(&node);
    await_that("the daemon watches", || {
        let log = std::fs::read_to_string(node.path("var/log/ganeti/bench.log"));
        log.is_ok_and(|log| log.contains("Watch directory"))
    });
    let herd = Herd::start(&node, machines, habits);
    herd.await_commands(subject.commands());
    daemon.await_idle();
    (node, daemon, herd)
}

/// Each machine sends events, all at the same time.
#[derive(Debug)]
pub(crate) struct Flood {
    pub(crate) before: Memory,
    pub(crate) after: Memory,
    /// In nanoseconds.
    pub(crate) cpu_per_event: f64,
    /// It was stopped before the end: the daemon took more than half of the memory there was.
    pub(crate) was_stopped: bool,
}

pub(crate) fn flood(subject: Subject, machines: usize, events: u64) -> Flood {
    let (_node, daemon, mut herd) =
        watched(subject, machines, Habits { flood: events, ..Habits::default() });
    let (before, cpu) = (daemon.memory(), daemon.cpu());
    let bound = available_memory() / 2;
    let was_stopped = !herd.flood(|| daemon.rss() > bound);
    if !was_stopped {
        daemon.await_idle();
    }
    let cpu = (daemon.cpu() - cpu) as f64;
    let cpu_per_event = cpu / (machines as f64 * events as f64);
    Flood { before, after: daemon.memory(), cpu_per_event, was_stopped }
}

/// All guests power off at once.
#[derive(Debug, Default)]
pub(crate) struct Storm {
    /// How many were gone when there was no file yet.
    pub(crate) gone_unmarked: f64,
    /// How many files never came.
    pub(crate) never: usize,
    /// From the end of the last machine to the last file, in nanoseconds; negative if that was
    /// there before.
    pub(crate) lag: f64,
    /// From a machine's event to its file.
    pub(crate) delay: f64,
    pub(crate) longest_delays: f64,
}

/// The median of some rounds, so long after the machines have been attached to. In front of other
/// processes this daemon is for a fifth of any second, and it has used that up when a thousand
/// machines were started at once.
pub(crate) fn storm(subject: Subject, machines: usize, rounds: usize, later: Duration) -> Storm {
    let mut storms: Vec<Storm> = (0..rounds)
        .map(|_| {
            let (node, daemon, mut herd) = watched(subject, machines, Habits::default());
            thread::sleep(later);
            let seen = Observer::new(&node, &herd).power_off(&mut herd);
            drop(daemon);
            Storm::new(&seen)
        })
        .collect();
    let mut median_of = |value: fn(&Storm) -> f64| {
        median(&mut storms.iter_mut().map(|storm| value(storm)).collect::<Vec<_>>())
    };
    Storm {
        gone_unmarked: median_of(|storm| storm.gone_unmarked),
        lag: median_of(|storm| storm.lag),
        delay: median_of(|storm| storm.delay),
        longest_delays: median_of(|storm| storm.longest_delays),
        never: storms.iter().map(|storm| storm.never).sum(),
    }
}

impl Storm {
    fn new(seen: &[Seen]) -> Self {
        let unmarked = seen.iter().filter(|seen| !seen.was_marked_in_time).count();
        let never = seen.iter().filter(|seen| seen.marked.is_none()).count();
        let last_file = seen.iter().filter_map(|seen| seen.marked).max();
        let last_end = seen.iter().filter_map(|seen| seen.gone).max();
        let lag = match (last_file, last_end) {
            (Some(file), Some(end)) => file as f64 - end as f64,
            _ => f64::NAN,
        };
        let mut delays = delays(seen);
        Self {
            gone_unmarked: unmarked as f64,
            never,
            lag,
            delay: median(&mut delays),
            longest_delays: percentile(&mut delays, 99),
        }
    }
}

fn delays(seen: &[Seen]) -> Vec<f64> {
    let delay = |seen: &Seen| seen.marked.map(|marked| marked as f64 - seen.sent as f64);
    seen.iter().filter_map(delay).collect()
}

/// One machine after the other, on a node with no other: from event to file, as somebody sees it
/// who waits for it.
pub(crate) fn one_by_one(subject: Subject, lives: usize) -> Vec<f64> {
    let (node, daemon, _) = watched(subject, 0, Habits::default());
    let live = |_| {
        let mut herd = Herd::start(&node, 1, Habits::default());
        herd.await_commands(subject.commands());
        thread::sleep(Duration::from_millis(5));
        let seen = Observer::new(&node, &herd).power_off(&mut herd);
        let _ = std::fs::remove_file(node.shutdown_file(name(0)));
        delays(&seen)
    };
    let delays = (0..lives).flat_map(live).collect();
    drop(daemon);
    delays
}

/// The same, as the machine sees it, which looks again and again and ends only when its file is
/// there. For a daemon that does not wait for its end.
pub(crate) fn one_by_one_until_marked(subject: Subject, lives: usize) -> Vec<f64> {
    let (node, daemon, _) = watched(subject, 0, Habits::default());
    let live = |_| {
        let habits = Habits { until_marked: true, ..Habits::default() };
        let mut herd = Herd::start(&node, 1, habits);
        herd.await_commands(subject.commands());
        thread::sleep(Duration::from_millis(5));
        herd.power_off();
        herd.reap();
        let stamps = herd.stamps()[0];
        let _ = std::fs::remove_file(node.shutdown_file(name(0)));
        (stamps.marked > 0).then(|| (stamps.marked - stamps.shutdown) as f64)
    };
    let delays = (0..lives).filter_map(live).collect();
    drop(daemon);
    delays
}

/// The least that it can take: a thread at the daemon's priority that waits for a message, reads it
/// and makes a file, and another that sends it and looks for the file until it is there.
pub(crate) fn floor(rounds: usize) -> Vec<f64> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    let (mut vm, daemon) = UnixStream::pair().expect("a pair of sockets");
    let file = path.clone();
    let waiting = thread::spawn(move || {
        // Where that is not allowed, the daemon goes without it, too.
        let _ = kvmd::sys::priority::raise();
        let mut poll = Poll::new().expect("create an epoll instance");
        let mut events = Events::with_capacity(1);
        let fd = daemon.as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&fd), Token(0), Interest::READABLE)
            .expect("watch a socket");
        let mut buffer = [0; 4096];
        loop {
            poll.poll(&mut events, None).expect("wait for a message");
            if rustix::net::recv(&daemon, &mut buffer, RecvFlags::empty()).is_ok_and(|it| it.0 == 0)
            {
                return;
            }
            mknodat(CWD, &file, FileType::RegularFile, Mode::RUSR, 0).expect("make a file");
        }
    });
    let round = |_| {
        thread::sleep(Duration::from_millis(5));
        let sent = now();
        vm.write_all(b"{\"event\": \"SHUTDOWN\"}\n").expect("send a message");
        while !path.exists() {}
        let took = now() - sent;
        std::fs::remove_file(&path).expect("remove the file");
        took as f64
    };
    let took = (0..rounds).map(round).collect();
    drop(vm);
    waiting.join().expect("the thread ends");
    took
}

/// How many system calls a verdict takes, and which, when so many end at once.
pub(crate) fn system_calls(subject: Subject, machines: usize) -> Option<(f64, String)> {
    let (node, daemon, mut herd) = watched(subject, machines, Habits::default());
    let summary = node.path("var/log/ganeti/strace");
    let mut strace = Command::new("strace")
        .args(["-f", "-q", "-c", "-o"])
        .arg(&summary)
        .args(["-p", &daemon.pid().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let status = format!("/proc/{}/status", daemon.pid());
    await_that("strace has attached", || {
        std::fs::read_to_string(&status).is_ok_and(|status| !status.contains("TracerPid:\t0"))
    });
    herd.power_off();
    herd.reap();
    daemon.await_idle();
    send_signal(strace.id(), Signal::INT);
    strace.wait().expect("wait for strace");
    let summary = std::fs::read_to_string(summary).expect("read the summary");
    // "% time, seconds, usecs/call, calls, errors, syscall"; errors may be absent.
    let calls = summary.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = *words.last().filter(|&&name| name != "total" && name != "syscall")?;
        words.get(3)?.parse::<f64>().ok().map(|calls| (calls / machines as f64, name))
    });
    let mut calls: Vec<(f64, &str)> = calls.collect();
    calls.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    let total = calls.iter().map(|(calls, _)| calls).sum();
    let shown = calls.iter().filter(|(calls, _)| *calls >= 0.05);
    let shown: Vec<String> = shown.map(|(calls, name)| format!("{name} {calls:.1}")).collect();
    Some((total, shown.join(", ")))
}
