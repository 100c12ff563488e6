//! Covers a set of process ids with few ranges.
//!
//! Two kernel filters have room for only so much: a classic BPF program for 4096
//! instructions, a trace event's filter for 4095 bytes of text. Both may let a stranger
//! pass, since user space looks again; neither may ever drop a watched process. So where
//! the room ends, neighbouring pids are joined into one range, the closest neighbours
//! first, because a narrow gap holds the fewest strangers.

use std::ops::RangeInclusive;

/// Covers every one of `pids` with at most `most` ranges (one, if `most` is 0), in
/// ascending order and never touching each other.
///
/// Consecutive pids always share a range: that costs nothing. Beyond that, ranges are
/// joined only if `most` demands it, so that with room enough nothing but `pids` is
/// covered. `pids` may be in any order and may repeat.
#[must_use]
pub fn cover(pids: &[u32], most: usize) -> Vec<RangeInclusive<u32>> {
    let mut sorted = pids.to_vec();
    sorted.sort_unstable();
    let mut ranges: Vec<RangeInclusive<u32>> = Vec::new();
    for pid in sorted {
        match ranges.last_mut() {
            Some(last) if pid <= last.end().saturating_add(1) => *last = *last.start()..=pid,
            _ => ranges.push(pid..=pid),
        }
    }
    join_closest(ranges, most.max(1))
}

/// Joins neighbours across the narrowest gaps until `most` ranges are left.
fn join_closest(ranges: Vec<RangeInclusive<u32>>, most: usize) -> Vec<RangeInclusive<u32>> {
    let Some(surplus) = ranges.len().checked_sub(most).filter(|&surplus| surplus > 0) else {
        return ranges;
    };
    // Gap `i` lies between range `i` and range `i + 1`.
    let width = |i: usize| ranges[i + 1].start() - ranges[i].end();
    let mut gaps: Vec<usize> = (0..ranges.len() - 1).collect();
    gaps.select_nth_unstable_by_key(surplus - 1, |&i| width(i));
    let mut closed = vec![false; gaps.len()];
    for &gap in &gaps[..surplus] {
        closed[gap] = true;
    }

    let mut joined: Vec<RangeInclusive<u32>> = Vec::with_capacity(most);
    for (i, range) in ranges.into_iter().enumerate() {
        match joined.last_mut() {
            Some(last) if closed[i - 1] => *last = *last.start()..=*range.end(),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_to_watch_is_no_range() {
        assert!(cover(&[], 10).is_empty());
    }

    #[test]
    fn consecutive_pids_share_a_range_at_no_cost() {
        assert_eq!(cover(&[7, 5, 6, 6, 9], 10), [5..=7, 9..=9]);
    }

    #[test]
    fn the_narrowest_gap_is_closed_first() {
        assert_eq!(cover(&[10, 20, 22, 90], 3), [10..=10, 20..=22, 90..=90]);
        assert_eq!(cover(&[10, 20, 22, 90], 2), [10..=22, 90..=90]);
    }

    #[test]
    fn the_largest_pid_does_not_overflow() {
        assert_eq!(cover(&[u32::MAX, u32::MAX - 1], 1), [u32::MAX - 1..=u32::MAX]);
    }

    proptest! {
        #[test]
        fn every_pid_is_covered_and_room_is_kept(pids in prop::collection::vec(0u32..5000, 0..300), most in 0usize..400) {
            let ranges = cover(&pids, most);
            prop_assert!(ranges.len() <= most.max(1));
            for pid in &pids {
                prop_assert!(ranges.iter().any(|range| range.contains(pid)));
            }
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].end() + 1 < *pair[1].start());
            }
        }

        #[test]
        fn with_room_enough_nothing_else_is_covered(pids in prop::collection::vec(0u32..5000, 0..300), other in 0u32..5000) {
            let ranges = cover(&pids, pids.len());
            prop_assert_eq!(ranges.iter().any(|range| range.contains(&other)), pids.contains(&other));
        }
    }
}
