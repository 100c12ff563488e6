//! The latest ends of all that go by: as many are kept as are shown.
//!
//! Clocks of nodes differ, and nothing in a record says by how much. So ends are in the order of the
//! times that their nodes gave them, and those of one time as they were read; one without a time comes
//! before all others.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use jiff::Timestamp;

pub(super) struct Latest<T> {
    most: usize,
    /// The earliest on top.
    kept: BinaryHeap<Reverse<Kept<T>>>,
    offered: u64,
}

struct Kept<T> {
    /// When it ended, and the how manieth it was.
    order: (Option<Timestamp>, u64),
    what: T,
}

impl<T> Latest<T> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, kept: BinaryHeap::new(), offered: 0 }
    }

    /// `make` is called if it is among the latest so far.
    pub(super) fn offer(&mut self, ended: Option<Timestamp>, make: impl FnOnce() -> T) {
        let order = (ended, self.offered);
        self.offered += 1;
        if self.kept.len() < self.most {
            self.kept.push(Reverse(Kept { order, what: make() }));
        } else if let Some(mut earliest) = self.kept.peek_mut()
            && earliest.0.order < order
        {
            *earliest = Reverse(Kept { order, what: make() });
        }
    }

    /// How many there were, kept or not.
    pub(super) fn offered(&self) -> u64 {
        self.offered
    }

    /// The latest last.
    pub(super) fn into_vec(self) -> Vec<T> {
        // The latest is the smallest in reverse.
        self.kept.into_sorted_vec().into_iter().rev().map(|Reverse(kept)| kept.what).collect()
    }
}

impl<T> Ord for Kept<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order.cmp(&other.order)
    }
}

impl<T> PartialOrd for Kept<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl<T> Eq for Kept<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_kept_is_the_end_of_a_stable_sort(
            times in prop::collection::vec(prop::option::of(0_i64..20), 0..60), most in 0_usize..70
        ) {
            let time = |second: i64| Timestamp::from_second(second).unwrap();
            let mut latest = Latest::new(most);
            for (i, ended) in times.iter().enumerate() {
                latest.offer(ended.map(time), || (*ended, i));
                prop_assert!(latest.kept.len() <= most);
            }
            prop_assert_eq!(latest.offered(), times.len() as u64);
            let mut all: Vec<_> = times.iter().copied().zip(0..).collect();
            all.sort_by_key(|(ended, _)| *ended);
            prop_assert_eq!(latest.into_vec(), &all[all.len().saturating_sub(most)..]);
        }
    }
}
