//! Who floods the trace of signals, and what is traced no more for that.
//!
//! A flood must end for good, and at its source: what the kernel lets pass wakes the loop and has to be
//! read, whatever becomes of it afterwards.

use std::collections::HashMap;
use std::time::Duration;

use log::warn;

use super::watchlist::Watchlist;
use crate::id::Moment;
use crate::wire::trace::{Scope, Strangers};

/// So many signals to one process are looked into at most: a QEMU that its guest has taken over can
/// send itself millions.
pub(super) const MOST_LOOKED_INTO: u32 = 16;
/// After so many they are not traced any more.
pub(super) const MOST_TRACED: u32 = 1000;

/// So many signals to processes that are not watched ...
const MOST_OF_STRANGERS: u32 = 1000;
/// ... are tolerated in this time. A process has a pid that stands between two of watched processes
/// by chance, or because it was forked until it had.
const OF_STRANGERS_WITHIN: Duration = Duration::from_secs(60);

/// How much is traced of whom, and who has had too much.
#[derive(Debug, Default)]
pub(super) struct Floods {
    /// How many signals to each watched process have been traced.
    counts: HashMap<u32, u32>,
    /// How many to others, since when, and what came of it.
    of_strangers: u32,
    of_strangers_since: Option<Moment>,
    strangers: Strangers,
    /// The latest process that was flooded and is watched no more: what the kernel still holds of it is
    /// no stranger's.
    former: Option<u32>,
}

impl Floods {
    /// Counts a signal to a watched process, and says whether it is worth a look.
    pub(super) fn is_looked_into(&mut self, pid: u32, watchlist: &mut Watchlist) -> bool {
        let count = self.counts.entry(pid).or_default();
        *count += 1;
        if *count == MOST_TRACED {
            warn!("Process {pid} receives too many signals; no longer tracing them");
            watchlist.request_update();
        }
        *count <= MOST_LOOKED_INTO
    }

    /// Counts what was traced though nobody watches the process. A range of the filter may let it pass,
    /// or it has the pid of one that has ended. The new filter has neither.
    pub(super) fn count_strangers(&mut self, pid: u32, at: Moment, watchlist: &mut Watchlist) {
        if self.former == Some(pid) {
            return;
        }
        if self.of_strangers_since.is_none_or(|since| at.since(since) >= OF_STRANGERS_WITHIN) {
            (self.of_strangers, self.of_strangers_since) = (0, Some(at));
        }
        self.of_strangers += 1;
        if self.of_strangers < MOST_OF_STRANGERS {
            return;
        }
        self.of_strangers = 0;
        watchlist.request_update();
        if self.strangers == Strangers::Tolerated {
            self.strangers = Strangers::KeptOut;
            warn!(
                "Processes that are not watched flood the kernel's trace of signals; from now on it is filtered for single processes only"
            );
        }
    }

    /// The process is watched no more. Another one may get its pid.
    pub(super) fn forget(&mut self, pid: u32) {
        if self.counts.remove(&pid).is_some_and(is_flood) {
            self.former = Some(pid);
        }
    }

    /// Whether there is something that is traced no more.
    pub(super) fn have_come(&self) -> bool {
        self.strangers == Strangers::KeptOut || self.counts.values().any(|&count| is_flood(count))
    }

    /// What is still traced of these processes. The OOM killer strikes each once, whatever was sent to
    /// it.
    pub(super) fn scope(&self, pids: Vec<u32>) -> Scope {
        let is_flooded = |pid: &u32| self.counts.get(pid).is_some_and(|&count| is_flood(count));
        let signalled = pids.iter().copied().filter(|pid| !is_flooded(pid)).collect();
        Scope { signalled, strangers: self.strangers, victims: pids }
    }
}

/// So many signals to one process are a flood.
fn is_flood(count: u32) -> bool {
    count >= MOST_TRACED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_strangers_signals_ends_with_a_filter_that_has_none() {
        let mut floods = Floods::default();
        let mut watchlist = Watchlist::default();
        watchlist.add(7);
        watchlist.take_update();
        let mut sent_at = |millisecond| {
            let at = Moment(Duration::from_millis(millisecond));
            floods.count_strangers(8, at, &mut watchlist);
            let strangers = floods.scope(watchlist.pids()).strangers;
            (watchlist.take_update().is_some(), strangers == Strangers::KeptOut)
        };
        // A few in a minute are no flood, however long it goes on.
        for second in 0..5 * u64::from(MOST_OF_STRANGERS) {
            assert_eq!(sent_at(1000 * second), (false, false), "{second}");
        }
        // One is, and so is the next: that one has the pid of a process that was watched, and is left
        // out as well as soon as the filter is set anew.
        let begun = 10_000_000;
        for count in 1..=2 * u64::from(MOST_OF_STRANGERS) {
            let is_flood = count.is_multiple_of(MOST_OF_STRANGERS.into());
            let are_kept_out = count >= MOST_OF_STRANGERS.into();
            assert_eq!(sent_at(begun + count), (is_flood, are_kept_out), "{count}");
        }
    }

    #[test]
    fn what_is_left_of_a_flooded_process_is_no_strangers_flood() {
        let (mut floods, mut watchlist) = (Floods::default(), Watchlist::default());
        watchlist.add(7);
        for _ in 0..MOST_TRACED {
            floods.is_looked_into(7, &mut watchlist);
        }
        watchlist.remove(7);
        floods.forget(7);
        for _ in 0..2 * MOST_OF_STRANGERS {
            floods.count_strangers(7, Moment::START, &mut watchlist);
        }
        assert!(!floods.have_come());
    }
}
