//! The processes that the filters of the proc connector and of the trace are to let pass.

use std::collections::BTreeSet;

/// The watched processes, by their pids.
#[derive(Debug, Default)]
pub(super) struct Watchlist {
    pids: BTreeSet<u32>,
    /// The filters do not have all of them, or not as they should.
    is_update_due: bool,
}

impl Watchlist {
    pub(super) fn add(&mut self, pid: u32) {
        self.pids.insert(pid);
        self.is_update_due = true;
    }

    /// It stays in the filters until those are set for another reason: a dead process sends no
    /// events. Another that gets its pid may (see [`super::floods`]).
    pub(super) fn remove(&mut self, pid: u32) {
        self.pids.remove(&pid);
    }

    pub(super) fn contains(&self, pid: u32) -> bool {
        self.pids.contains(&pid)
    }

    /// In their order.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.pids.iter().copied().collect()
    }

    /// Has the filters set anew, even though nothing was added.
    pub(super) fn request_update(&mut self) {
        self.is_update_due = true;
    }

    /// What the filters are to be set to; nothing if they can stay as they are.
    pub(super) fn take_update(&mut self) -> Option<Vec<u32>> {
        std::mem::take(&mut self.is_update_due).then(|| self.pids())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_are_set_for_a_new_process_and_not_for_one_that_is_gone() {
        let mut watchlist = Watchlist::default();
        assert_eq!(watchlist.take_update(), None);
        watchlist.add(8);
        watchlist.add(7);
        assert_eq!(watchlist.take_update(), Some(vec![7, 8]));
        watchlist.remove(7);
        assert_eq!(watchlist.take_update(), None);
        watchlist.request_update();
        assert_eq!(watchlist.take_update(), Some(vec![8]));
        assert!(watchlist.contains(8) && !watchlist.contains(7));
    }
}
