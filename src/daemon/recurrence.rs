//! Which instances have crashed of late: a crash loop shows in one figure, without a name in it.
//!
//! It forgets whoever has not crashed for an hour, and with the daemon.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::{Moment, Name};

/// A crash so long after the last one is a first one. Ganeti's watcher starts an instance again
/// within five minutes, or ten.
const MEMORY: Duration = Duration::from_secs(3600);

/// As many instances are remembered: names are given by whoever may write to the control directory.
const MOST: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Recurrence {
    last: BTreeMap<Name, Moment>,
}

impl Recurrence {
    /// Whether the instance has crashed before, not long ago. It has now.
    pub(super) fn note(&mut self, name: &Name, at: Moment) -> bool {
        self.last.retain(|_, last| at.since(*last) < MEMORY);
        let recurs = self.last.contains_key(name);
        if recurs || self.last.len() < MOST {
            self.last.insert(name.clone(), at);
        }
        recurs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: u64) -> Moment {
        Moment(Duration::from_secs(60 * minute))
    }

    #[test]
    fn a_crash_recurs_within_the_hour_and_on_the_same_instance() {
        let mut recurrence = Recurrence::default();
        let (web1, web2) = (Name::new(b"web1"), Name::new(b"web2"));
        assert!(!recurrence.note(&web1, at(0)));
        assert!(!recurrence.note(&web2, at(1)), "another's");
        assert!(recurrence.note(&web1, at(59)));
        assert!(recurrence.note(&web1, at(118)), "an hour from the last, not from the first");
        assert!(!recurrence.note(&web2, at(119)), "long ago");
    }

    #[test]
    fn names_without_end_take_no_memory_without_end() {
        let mut recurrence = Recurrence::default();
        for i in 0..2 * MOST {
            assert!(!recurrence.note(&Name::new(format!("web{i}").as_bytes()), at(0)));
        }
        assert_eq!(recurrence.last.len(), MOST);
        assert!(recurrence.note(&Name::new(b"web0"), at(1)));
        assert!(!recurrence.note(&Name::new(b"new"), at(61)), "those are forgotten");
        assert!(recurrence.note(&Name::new(b"new"), at(62)));
    }
}
