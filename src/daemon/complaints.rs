//! How often the log complains of the same thing.

use std::time::Duration;

use crate::id::Moment;

/// So many complaints are made at once, ...
const BURST: u32 = 5;
/// ... and then one in this time.
const INTERVAL: Duration = Duration::from_secs(60);

/// Bounds what one peer, or one lasting fault, can write into the log.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    made: u32,
    last: Option<Moment>,
    withheld: u64,
}

impl Complaints {
    /// Whether to complain now, and how many complaints were withheld since the last.
    pub(super) fn make(&mut self, now: Moment) -> Option<u64> {
        let is_due = self.last.is_none_or(|last| now.since(last) >= INTERVAL);
        if is_due {
            self.made = 0;
        }
        if self.made >= BURST {
            self.withheld += 1;
            return None;
        }
        // After a pause one is made, not a burst.
        self.made = if is_due && self.last.is_some() { BURST } else { self.made + 1 };
        self.last = Some(now);
        Some(std::mem::take(&mut self.withheld))
    }
}

/// How often a source has lost something. Whoever makes it lose more cannot fill the log with that.
#[derive(Debug, Default)]
pub(super) struct LossCount {
    total: u64,
    complaints: Complaints,
}

impl LossCount {
    /// Counts a loss. If it is to be logged, this is what to append to the line.
    pub(super) fn add(&mut self, now: Moment) -> Option<String> {
        self.total += 1;
        self.complaints.make(now).map(withheld)
    }

    /// How many there were since the start.
    pub(super) fn total(&self) -> u64 {
        self.total
    }
}

/// What is appended to a complaint that stands for others.
pub(super) fn withheld(count: u64) -> String {
    if count == 0 { String::new() } else { format!(" ({count} more like this since the last one)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_reduced_to_a_burst_and_one_a_minute() {
        let mut complaints = Complaints::default();
        let mut made = 0;
        let mut told = 0;
        for millisecond in 0..600_000 {
            let now = Moment(Duration::from_millis(millisecond));
            if let Some(withheld) = complaints.make(now) {
                made += 1;
                told += withheld;
            }
        }
        assert_eq!(made, BURST + 9);
        assert!(told > 500_000, "{told}");
    }

    #[test]
    fn every_loss_is_counted_and_few_are_logged() {
        let mut losses = LossCount::default();
        let last_of_burst = u64::from(BURST) - 1;
        let logged: Vec<String> = (0..=last_of_burst + 60_000)
            .filter_map(|millisecond| losses.add(Moment(Duration::from_millis(millisecond))))
            .collect();
        let last = format!(" ({} more like this since the last one)", 59_999);
        assert_eq!(logged.len(), BURST as usize + 1, "{logged:?}");
        assert!(logged[..BURST as usize].iter().all(String::is_empty), "{logged:?}");
        assert!(*logged.last().unwrap() == last, "{logged:?}");
        assert_eq!(losses.total(), u64::from(BURST) + 60_000);
    }
}
