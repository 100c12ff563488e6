//! What is to be traced, and what becomes of that where the filters have no room for all of it.

use std::ops::RangeInclusive;

use pid_filter::cover;

use super::filter::{MOST_RANGES, filter, room};
use crate::wire::Signal;

/// What is to be traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Signals to these processes, ...
    pub signalled: Vec<u32>,
    /// ... where there is no room for each by itself: ...
    pub strangers: Strangers,
    /// ... and whether the OOM killer chooses one of these.
    pub victims: Vec<u32>,
}

impl Scope {
    /// All there is to be known of these processes.
    #[must_use]
    pub fn all_of(pids: &[u32]) -> Self {
        Self { signalled: pids.into(), strangers: Strangers::Tolerated, victims: pids.into() }
    }

    /// The filter for these signals, and how many processes it leaves out for want of room.
    #[must_use]
    pub fn signal_filter(&self, signals: &[Signal]) -> (String, usize) {
        let (ranges, left_out) = ranges(signals, &self.signalled, self.strangers);
        (filter(signals, &ranges), left_out)
    }

    /// The filter for the OOM killer's choices. A stranger is chosen once: he does no harm.
    #[must_use]
    pub fn victim_filter(&self) -> String {
        let (ranges, _) = ranges(&[], &self.victims, Strangers::Tolerated);
        filter(&[], &ranges)
    }
}

/// What becomes of those who are watched, and of those who are not, where there are too many for one
/// filter: more than about 280.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strangers {
    /// Neighbours are joined, and whoever is between them is traced as well.
    #[default]
    Tolerated,
    /// Some who are watched are not traced.
    KeptOut,
}

/// The ranges of pids that a filter with these signals lets pass, and how many of `pids` are in none.
fn ranges(signals: &[Signal], pids: &[u32], strangers: Strangers) -> (Vec<(u32, u32)>, usize) {
    let cover = |most| -> Vec<(u32, u32)> {
        cover(pids, most).into_iter().map(RangeInclusive::into_inner).collect()
    };
    let mut alone = cover(usize::MAX);
    let room = room(signals, &alone);
    if room < alone.len() && strangers == Strangers::Tolerated {
        return (cover(MOST_RANGES), 0);
    }
    let left_out = alone.split_off(room);
    let count = left_out.iter().map(|&(first, last)| (last - first) as usize + 1).sum();
    (alone, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::trace::LONGEST_FILTER;

    #[test]
    fn strangers_pass_where_there_is_no_room_and_only_if_they_are_tolerated() {
        let signals = &[Signal::TERM; 12];
        let pids = |count: u32| (0..count).map(|i| 1_000_000 + 2 * i).collect::<Vec<_>>();
        for strangers in [Strangers::Tolerated, Strangers::KeptOut] {
            let (few, left_out) = ranges(signals, &pids(280), strangers);
            assert!(few.iter().all(|(first, last)| first == last), "{few:?}");
            assert_eq!((few.len(), left_out), (280, 0));
        }
        let many = pids(1000);
        let (joined, left_out) = ranges(signals, &many, Strangers::Tolerated);
        assert_eq!((joined.len(), left_out), (MOST_RANGES, 0));
        let passes = |pid: u32| joined.iter().any(|&(first, last)| (first..=last).contains(&pid));
        assert!(many.iter().all(|&pid| passes(pid)));
        let (alone, left_out) = ranges(signals, &many, Strangers::KeptOut);
        assert_eq!(alone.len() + left_out, many.len());
        assert!(alone.len() >= 280 && alone.iter().all(|(first, last)| first == last));
        assert!(filter(signals, &alone).len() <= LONGEST_FILTER);
        // Those with consecutive pids count each.
        let all: Vec<u32> = (0..1000).map(|i| 1_000_000 + 3 * (i / 2) + i % 2).collect();
        let (alone, left_out) = ranges(signals, &all, Strangers::KeptOut);
        assert_eq!(2 * alone.len() + left_out, all.len());
    }
}
