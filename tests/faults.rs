//! System calls fail on purpose, each kind that the daemon makes, at many places: it goes on, no
//! file is wrong, and when the fault has passed the next verdict is right.
//!
//! `strace` does it (`--inject`), to each of the daemon's threads. A first run without a fault says
//! which calls there are and how often each is made; of these places some are tried with one error
//! each, or every place with every error if `FAULTS=all` says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use testbed::{Daemon, Death, Node, await_that, figure, needs};

const ERRORS: [&str; 6] = ["EMFILE", "ENOSPC", "EIO", "EINTR", "EACCES", "ENOMEM"];

/// How many places are tried for each call, unless it is to be all.
const PLACES: usize = 6;

/// Not made to fail. Memory that is not given ends any program of this kind, and its service
/// manager starts it again; so would a kernel without random numbers; the others do not fail.
const SPARED: [&str; 12] = [
    "brk",
    "mmap",
    "munmap",
    "mprotect",
    "close",
    "exit_group",
    "execve",
    "rt_sigreturn",
    "restart_syscall",
    "getrandom",
    "getpid",
    "geteuid",
];

/// What makes a fault in what comes before unimportant: from here on it is the daemon's own code, in
/// each of its threads.
const BEGIN: &str = "PR_SET_NAME";

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

/// One call that is to fail.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fault {
    call: String,
    /// Which one of its kind, from 1, since the program or its thread was started. strace counts
    /// for each thread, so that one of each may fail.
    number: usize,
    error: &'static str,
}

/// Two instances end at the same time, one by its user.
fn two_end(node: &Node, round: usize) -> [String; 2] {
    let names = ["user", "admin"].map(|who| format!("{who}{round}"));
    let [mut user, mut admin] = [0, 1].map(|i| node.stand_in(&names[i]).connected());
    user.tell("shutdown guest-shutdown");
    admin.tell("event POWERDOWN");
    admin.tell("shutdown guest-shutdown");
    user.wait();
    admin.wait();
    names
}

/// They have been judged, and rightly.
fn assert_right(node: &Node, daemon: &Daemon, [user, admin]: &[String; 2]) {
    let death = daemon.await_death(user);
    assert_eq!((&*death.cause, &*death.initiator), ("guest-shutdown", "user"), "{}", death.line);
    let death = daemon.await_death(admin);
    assert_eq!((&*death.cause, &*death.initiator), ("powerdown", "admin"), "{}", death.line);
    await_that("the user's file is there", || node.has_shutdown_file(user));
    assert!(!node.has_shutdown_file(admin), "{admin} has a file");
}

fn strace<'a>(trace: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["strace", "-f", "-o", trace.to_str().unwrap()], more].concat()
}

/// How often a thread makes a call: before the daemon's own code, and then.
type Counts = BTreeMap<String, (usize, usize)>;

/// What each thread does, the main one first.
fn calls() -> Vec<Counts> {
    let node = node();
    let trace = node.path("trace");
    let daemon = node.start_wrapped(&strace(&trace, &[]), &[]);
    let names = two_end(&node, 0);
    assert_right(&node, &daemon, &names);
    drop(daemon);
    // By thread: whether its own code has begun, and its calls.
    let mut threads: Vec<(&str, bool, Counts)> = Vec::new();
    let text = fs::read_to_string(trace).unwrap();
    for line in text.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let Some((name, _)) = call.trim_start().split_once('(') else { continue };
        // What strace says of the end of a call, of a signal or of a process.
        if name.starts_with(['<', '-', '+']) {
            continue;
        }
        let index = threads.iter().position(|(it, ..)| *it == thread).unwrap_or_else(|| {
            threads.push((thread, false, Counts::new()));
            threads.len() - 1
        });
        let (_, has_begun, calls) = &mut threads[index];
        *has_begun |= call.contains(BEGIN);
        let (before, since) = calls.entry(name.to_string()).or_insert((0, 0));
        *(if *has_begun { since } else { before }) += 1;
    }
    assert!(threads.len() > 2, "not the loop, the writer and those that look into processes");
    let own_calls = |(_, has_begun, mut calls): (&str, bool, Counts)| {
        assert!(has_begun, "the daemon's own code was not found");
        calls.retain(|name, _| !SPARED.contains(&name.as_str()));
        calls
    };
    threads.into_iter().map(own_calls).collect()
}

/// Those of all threads. What is the same for some is tried once, and what would fail in the main
/// thread before its own code is not.
fn faults(threads: &[Counts]) -> Vec<Fault> {
    let before = |call: &str| threads[0].get(call).map_or(0, |&(before, _)| before);
    let faults = threads.iter().flat_map(faults_of);
    let faults: BTreeSet<Fault> =
        faults.filter(|fault| fault.number > before(&fault.call)).collect();
    faults.into_iter().collect()
}

fn faults_of(calls: &Counts) -> Vec<Fault> {
    let is_all = std::env::var("FAULTS").is_ok_and(|which| which == "all");
    let mut faults = Vec::new();
    for (i, (call, &(before, since))) in calls.iter().enumerate() {
        let places = if is_all { since } else { since.min(PLACES) };
        for place in 0..places {
            let number = before + 1 + place * since / places;
            let errors = match call.as_str() {
                // For a descriptor that is one, epoll_wait(2) has no other.
                "epoll_pwait" | "epoll_wait" => &["EINTR"][..],
                _ if is_all => &ERRORS,
                _ => &ERRORS[(i + place) % ERRORS.len()..][..1],
            };
            let fault = |&error| Fault { call: call.clone(), number, error };
            faults.extend(errors.iter().map(fault));
        }
    }
    faults
}

/// What came of it.
enum Outcome {
    /// The daemon did not come up, and said why.
    NotStarted,
    Survived,
    /// The call was not made so often this time.
    NotReached,
}

fn try_fault(fault: &Fault) -> Outcome {
    const ROUNDS: usize = 4;
    let node = node();
    let trace = node.path("trace");
    let injected =
        || fs::read_to_string(&trace).map_or(0, |text| text.matches("(INJECTED)").count());
    let only = format!("--trace={}", fault.call);
    let inject = format!("--inject={}:error={}:when={}", fault.call, fault.error, fault.number);
    let wrapper = strace(&trace, &[&only, &inject]);
    let Some(daemon) = node.try_start_wrapped(&wrapper, &[]) else {
        assert!(injected() > 0, "it did not start, and no call has failed");
        let daemon = node.start();
        let names = two_end(&node, 0);
        assert_right(&node, &daemon, &names);
        return Outcome::NotStarted;
    };
    let mut outcome = Outcome::NotReached;
    for round in 0..ROUNDS {
        let before = injected();
        let names = two_end(&node, round);
        // The other thread may make its call of this number only now.
        let is_told = |name: &String| {
            daemon.lines().iter().filter_map(|line| Death::parse(line)).any(|it| it.name == *name)
        };
        await_that("both ends are logged, or a call fails", || {
            before == 0 || injected() > before || names.iter().all(is_told)
        });
        if before > 0 && injected() == before {
            assert_right(&node, &daemon, &names);
            outcome = Outcome::Survived;
            break;
        }
    }
    // Not even those whose own calls have failed.
    for round in 0..ROUNDS {
        assert!(!node.has_shutdown_file(format!("admin{round}")), "a wrong file: {round}");
    }
    outcome
}

#[test]
fn whatever_call_fails_the_next_verdict_is_right() {
    needs!(Root, Strace);
    let calls = calls();
    let faults = faults(&calls);
    let kinds: BTreeSet<&String> = faults.iter().map(|fault| &fault.call).collect();
    let left = Mutex::new(faults.iter());
    let outcomes = Mutex::new((0, 0, 0));
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(fault) = left.lock().unwrap().next() else { break };
                    let tried = std::panic::catch_unwind(|| try_fault(fault));
                    let mut outcomes = outcomes.lock().unwrap();
                    match tried {
                        Ok(Outcome::Survived) => outcomes.0 += 1,
                        Ok(Outcome::NotStarted) => outcomes.1 += 1,
                        Ok(Outcome::NotReached) => outcomes.2 += 1,
                        Err(_) => failed.lock().unwrap().push(fault.clone()),
                    }
                }
            });
        }
    });
    let (survived, not_started, not_reached) = outcomes.into_inner().unwrap();
    figure(
        &format!("{} failing system calls of {} kinds", faults.len(), kinds.len()),
        &format!(
            "{survived} survived, {not_started} named at the start, {not_reached} not made this time, {} not survived",
            faults.len() - survived - not_started - not_reached
        ),
    );
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(not_reached * 4 < faults.len(), "too many were not reached");
}
