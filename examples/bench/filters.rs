//! How long it takes to have the kernel watch one process more or less.

use std::ffi::OsStr;

use kvmd::sys::clock;
use kvmd::sys::connector::Connector;
use kvmd::sys::trace::{Trace, Unavailable};
use kvmd::sys::tracefs::Tracefs;
use kvmd::wire::trace::Scope;

use crate::stamps::now;
use crate::table::median;

const ROUNDS: usize = 200;

/// In nanoseconds: of the proc connector's filter, and of the trace's. None where the kernel does
/// not have it.
pub(crate) fn update(machines: u32) -> (Option<f64>, Option<f64>) {
    // As pids of a machine are: in order, with others between them.
    let pids: Vec<u32> = (0..machines).map(|i| 1000 + i * 7 + i % 3).collect();
    let connector = Connector::open(&pids, clock::now()).ok().map(|mut connector| {
        time(&pids, |pids| connector.watch(pids).map(|_| ()).expect("set the filter"))
    });
    let trace = Tracefs::find()
        .map_err(Unavailable::NoTracefs)
        .and_then(|tracefs| Trace::open(&tracefs, OsStr::new("ganeti-kvmd-bench"), &pids))
        .ok()
        .map(|trace| {
            time(&pids, |pids| {
                trace.watch(&Scope::all_of(pids)).expect("set the trace's filter");
            })
        });
    (connector, trace)
}

/// The median time for one that goes or comes.
fn time(pids: &[u32], mut watch: impl FnMut(&[u32])) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|round| {
            let mut those = pids.to_vec();
            if round % 2 == 0 {
                those.remove(round * 31 % pids.len());
            }
            let begun = now();
            watch(&those);
            (now() - begun) as f64
        })
        .collect();
    median(&mut times)
}
