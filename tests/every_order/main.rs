//! Every order in which the sources can speak, with every restart of the daemon in between, every
//! gap on both sides of each time limit, a file that cannot be written, a source that is silent.
//!
//! Breadth first: each state that can be reached is visited once, however many orders lead to it.
//! What is expected comes from the rows (`rows.rs`), what must hold is in `world.rs`. A search of our
//! own instead of a model checker's crate: the core is the model already, one loop visits its states,
//! and two states are the same if they hash to the same 64 bits.
//!
//! One life has one restart at most, one gap and one removal of the file by Ganeti; with
//! `EVERY_ORDER=deep` it has two restarts. `make every-order` runs it: it wants an optimised build.

mod rows;
mod world;

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use rows::Row;
use world::{Asked, Budget, Sources, Step, World};

/// The sources that a node may have.
fn nodes() -> Vec<Sources> {
    let whole = Sources {
        connector: true,
        status: Asked::Never,
        pidfd: true,
        file_failures: 0,
        looks_lag: false,
    };
    vec![
        whole,
        Sources { pidfd: false, ..whole },
        Sources { connector: false, status: Asked::Known, ..whole },
        Sources { connector: false, status: Asked::OnceReaped, ..whole },
        Sources { connector: false, ..whole },
        Sources { connector: false, pidfd: false, ..whole },
        Sources { file_failures: 1, ..whole },
        Sources { file_failures: 2, ..whole },
        Sources { looks_lag: true, ..whole },
        Sources { looks_lag: true, file_failures: 1, ..whole },
    ]
}

/// How many states there are, and how many ends.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    states: u64,
    ends: u64,
}

/// More than any row has: one step that leads nowhere would have it go on for ever.
const MOST_STATES: u64 = 20_000_000;

/// Visits every state of this row on this node.
fn search(row: &Row, sources: Sources, budget: Budget) -> Seen {
    let mut seen = Seen::default();
    let mut known = HashSet::new();
    // The way to a state, so that one that is wrong can be played again.
    let mut open: VecDeque<(World<'_>, Vec<Step>)> =
        [(World::new(row, sources, budget), Vec::new())].into();
    while let Some((world, way)) = open.pop_front() {
        let steps = world.steps();
        if steps.is_empty() {
            seen.ends += 1;
            play(row, sources, &way, || world.end());
            continue;
        }
        for step in steps {
            let mut next = world.clone();
            let mut way = way.clone();
            way.push(step);
            play(row, sources, &way, || next.take(step));
            let mut hasher = DefaultHasher::new();
            next.hash(&mut hasher);
            if known.insert(hasher.finish()) {
                seen.states += 1;
                assert!(seen.states < MOST_STATES, "{}: it does not come to an end", row.name);
                open.push_back((next, way));
            }
        }
    }
    seen
}

/// Plays a piece, and says where it was if something does not hold.
fn play(row: &Row, sources: Sources, way: &[Step], piece: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(piece)) {
        eprintln!("row: {}\n{sources:?}\n{way:?}", row.name);
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn every_order_of_every_row_gives_its_verdict_and_its_file() {
    let is_deep = std::env::var_os("EVERY_ORDER").is_some_and(|how| how == "deep");
    let budget = Budget { restarts: if is_deep { 2 } else { 1 }, gaps: 1, removals: 1 };
    let rows = rows::all();
    let pieces: Vec<(&Row, Sources)> =
        rows.iter().flat_map(|row| nodes().into_iter().map(move |node| (row, node))).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let seen = thread::scope(|scope| {
        let work = || {
            let mut seen = Seen::default();
            loop {
                let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(&(row, sources)) = pieces.get(at) else { return seen };
                let more = search(row, sources, budget);
                seen.states += more.states;
                seen.ends += more.ends;
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().fold(Seen::default(), |mut sum, worker| {
            let seen = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            sum.states += seen.states;
            sum.ends += seen.ends;
            sum
        })
    });
    let Seen { states, ends } = seen;
    let what = format!("{} rows on {} kinds of node, in every order", rows.len(), nodes().len());
    testbed::figure(&what, &format!("{states} states, {ends} ends, no wrong one"));
}
