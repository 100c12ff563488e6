//! Counts of what is frequent, in bounded memory, however many different things there are.
//!
//! As long as there are fewer than [`MOST`] different keys, every count is exact: so it is for the nodes
//! of a cluster, its causes and the senders of its signals. Beyond that the rarer half is let go and
//! its largest count remembered: a key that comes (back) later may have been counted so often before.
//! So each count has a lower and an upper bound, and what is shown says both where they differ. This is
//! the Lossy Counting of Manku and Motwani (VLDB 2002), with the table's size given instead of the
//! error. After N counts the bounds are 2N / `MOST` apart at most, and every key that has been
//! counted more often than that is there: whatever is unusual stands out of a million ends.
//!
//! Exact counts of a bounded number of keys, the first to come, would be simpler: but who comes first
//! is not who matters, and whoever sends made-up names first would hide everybody else.

use std::collections::HashMap;

/// So many different keys are counted: the most that a hash table of 65,536 places takes, 6 MB and the
/// keys.
const MOST: usize = 57_344;

/// The longest part of a key that tells it from others, in bytes.
const LONGEST_KEY: usize = 255;

/// How often something was counted, and `T`, what else is known of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally<T> {
    /// So often at least.
    pub(super) count: u64,
    /// So often more at most: it may have been there before and let go.
    missed: u64,
    pub(super) known: T,
}

impl<T> Tally<T> {
    /// So often at most.
    pub(super) fn most(&self) -> u64 {
        self.count + self.missed
    }
}

/// Counts by key.
#[derive(Debug)]
pub(super) struct Frequent<T> {
    // The standard hasher has a secret: nobody can choose names that collide.
    tallies: HashMap<Box<str>, Tally<T>>,
    most: usize,
    /// The highest that a key which is not in the table can have been counted.
    floor: u64,
    total: u64,
}

impl<T: Default> Default for Frequent<T> {
    fn default() -> Self {
        Self::with_room_for(MOST)
    }
}

impl<T: Default> Frequent<T> {
    fn with_room_for(most: usize) -> Self {
        Self { tallies: HashMap::new(), most, floor: 0, total: 0 }
    }

    /// Counts this key once more, and has it noted what else is known of it.
    pub(super) fn count(&mut self, key: &str, note: impl FnOnce(&mut T)) {
        let key = beginning(key);
        self.total += 1;
        if let Some(tally) = self.tallies.get_mut(key) {
            tally.count += 1;
            note(&mut tally.known);
            return;
        }
        if self.tallies.len() >= self.most {
            self.let_go();
        }
        let mut tally = Tally { count: 1, missed: self.floor, known: T::default() };
        note(&mut tally.known);
        self.tallies.insert(key.into(), tally);
    }

    /// Makes room: half of the table at least.
    fn let_go(&mut self) {
        let mut counts: Vec<u64> = self.tallies.values().map(Tally::most).collect();
        let middle = counts.len() / 2;
        let (_, median, _) = counts.select_nth_unstable(middle);
        self.floor = *median;
        self.tallies.retain(|_, tally| tally.most() > self.floor);
    }

    /// How often anything was counted.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// How many different keys there were, if none had to be let go.
    pub(super) fn different(&self) -> Option<usize> {
        (self.floor == 0).then_some(self.tallies.len())
    }

    /// How many different keys there were at least; as many, where none had to be let go.
    pub(super) fn different_at_least(&self) -> usize {
        if self.floor == 0 { self.tallies.len() } else { self.most }
    }

    /// The highest that a key which was let go can have been counted.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// How many keys in the table were counted so often at least.
    pub(super) fn at_least(&self, count: u64) -> usize {
        self.tallies.values().filter(|tally| tally.count >= count).count()
    }

    /// The most frequent keys, the first most often; by name where that is the same.
    pub(super) fn top(&self, most: usize) -> Vec<(&str, &Tally<T>)> {
        let mut top: Vec<_> = self.tallies.iter().map(|(key, tally)| (&**key, tally)).collect();
        top.sort_unstable_by(|(a, x), (b, y)| y.count.cmp(&x.count).then(a.cmp(b)));
        top.truncate(most);
        top
    }
}

/// What a key is known by. Of a longer one the rest is not told apart.
pub(super) fn beginning(key: &str) -> &str {
    if key.len() <= LONGEST_KEY {
        return key;
    }
    let end = (0..=LONGEST_KEY).rev().find(|&at| key.is_char_boundary(at));
    &key[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn few_are_counted_exactly_and_in_order() {
        let mut frequent: Frequent<()> = Frequent::default();
        for key in ["b", "a", "c", "b", "a", "b"] {
            frequent.count(key, |()| ());
        }
        let top: Vec<_> =
            frequent.top(2).iter().map(|(key, it)| (*key, it.count, it.missed)).collect();
        assert_eq!(top, [("b", 3, 0), ("a", 2, 0)]);
        assert_eq!((frequent.total(), frequent.different(), frequent.at_least(2)), (6, Some(3), 2));
    }

    #[test]
    fn names_that_are_made_up_hide_nobody() {
        let mut frequent: Frequent<()> = Frequent::with_room_for(100);
        for i in 0..10_000 {
            frequent.count(&format!("made up {i}"), |()| ());
            if i % 20 == 0 {
                frequent.count("real", |()| ());
            }
        }
        let top = frequent.top(1);
        assert_eq!(top[0].0, "real");
        assert!(top[0].1.count <= 500 && 500 <= top[0].1.most(), "{top:?}");
        assert_eq!(frequent.different(), None);
    }

    #[test]
    fn a_long_key_takes_no_more_than_its_share() {
        let mut frequent: Frequent<()> = Frequent::default();
        let long = "\u{e9}".repeat(100_000);
        frequent.count(&long, |()| ());
        frequent.count(&format!("{long}!"), |()| ());
        assert_eq!(frequent.top(9).len(), 1);
        assert_eq!(frequent.top(1)[0].0.len(), 254);
    }

    proptest! {
        /// Against a count of all: the bounds are true, and what was frequent is there.
        #[test]
        fn a_count_is_between_its_bounds(
            keys in prop::collection::vec(prop_oneof![0_u32..6, 0_u32..200], 0..1500), most in 1_usize..40
        ) {
            let mut frequent: Frequent<()> = Frequent::with_room_for(most);
            let mut all: HashMap<String, u64> = HashMap::new();
            for key in keys {
                let key = key.to_string();
                frequent.count(&key, |()| ());
                *all.entry(key).or_default() += 1;
                prop_assert!(frequent.tallies.len() <= most);
            }
            let total: u64 = all.values().sum();
            prop_assert_eq!(frequent.total(), total);
            let error = 2 * total / most as u64;
            prop_assert!(frequent.floor <= error, "{} of {total}", frequent.floor);
            if let Some(different) = frequent.different() {
                prop_assert_eq!(different, all.len());
            }
            let top: HashMap<&str, &Tally<()>> = frequent.top(usize::MAX).into_iter().collect();
            for (key, &count) in &all {
                match top.get(&**key) {
                    Some(tally) => {
                        prop_assert!(tally.count <= count && count <= tally.most(), "{key}: {tally:?}");
                        prop_assert!(tally.missed <= error);
                    }
                    None => prop_assert!(count <= frequent.floor),
                }
            }
            prop_assert!(top.keys().all(|key| all.contains_key(*key)));
        }
    }
}
