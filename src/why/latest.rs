//! The latest ends of all that go by: as many are kept as are shown, and as there is room for.
//!
//! Clocks of nodes differ, and nothing in a record says by how much. So ends are in the order of the
//! times that their nodes gave them, and those of one time as they were read; one without a time comes
//! before all others.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use jiff::Timestamp;

pub(super) struct Latest<T> {
    most: usize,
    most_bytes: usize,
    /// The earliest on top.
    kept: BinaryHeap<Reverse<Kept<T>>>,
    bytes: usize,
    /// The latest that had no room: whatever is earlier has none either, however small it is.
    left_out: Option<Order>,
    offered: u64,
}

/// When it ended, and its place in the order of reading.
type Order = (Option<Timestamp>, u64);

struct Kept<T> {
    order: Order,
    bytes: usize,
    what: T,
}

impl<T> Latest<T> {
    pub(super) fn new(most: usize) -> Self {
        Self::within(most, usize::MAX)
    }

    /// No more than so many, and so many bytes.
    pub(super) fn within(most: usize, most_bytes: usize) -> Self {
        Self { most, most_bytes, kept: BinaryHeap::new(), bytes: 0, left_out: None, offered: 0 }
    }

    /// `make` is called if it may be among the latest so far; what it makes has so many bytes. One that
    /// cannot be made was not offered.
    pub(super) fn offer<E>(
        &mut self,
        ended: Option<Timestamp>,
        bytes: usize,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<(), E> {
        let order = (ended, self.offered);
        if self.left_out.is_none_or(|left_out| order >= left_out) {
            self.kept.push(Reverse(Kept { order, bytes, what: make()? }));
            self.bytes += bytes;
        }
        self.offered += 1;
        while self.kept.len() > self.most || self.bytes > self.most_bytes {
            let Some(Reverse(earliest)) = self.kept.pop() else { break };
            self.bytes -= earliest.bytes;
            self.left_out = Some(earliest.order);
        }
        Ok(())
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
            times in prop::collection::vec((prop::option::of(0_i64..20), 0_usize..9), 0..60),
            most in 0_usize..70, most_bytes in 0_usize..300
        ) {
            let time = |second: i64| Timestamp::from_second(second).unwrap();
            let mut latest = Latest::within(most, most_bytes);
            for (i, (ended, bytes)) in times.iter().enumerate() {
                latest.offer(ended.map(time), *bytes, || Ok::<_, ()>(((*ended, *bytes), i))).unwrap();
                prop_assert!(latest.kept.len() <= most && latest.bytes <= most_bytes);
            }
            prop_assert_eq!(latest.offered(), times.len() as u64);
            let mut all: Vec<_> = times.iter().copied().zip(0..).collect();
            all.sort_by_key(|((ended, _), _)| *ended);
            let fit = (0..=all.len()).find(|&first| {
                let bytes: usize = all[first..].iter().map(|((_, bytes), _)| bytes).sum();
                all.len() - first <= most && bytes <= most_bytes
            });
            prop_assert_eq!(latest.into_vec(), &all[fit.unwrap()..]);
        }
    }
}
