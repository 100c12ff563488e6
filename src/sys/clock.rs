//! The one clock that verdicts are timed by.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::verdict::Moment;

/// `CLOCK_MONOTONIC`: never set back, and the clock of the proc connector's timestamps.
#[must_use]
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Moment(Duration::new(seconds, nanoseconds))
}
