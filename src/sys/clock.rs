//! The one clock that verdicts are timed by, and how far the others are from it.

use std::time::Duration;

use rustix::time::{ClockId, DynamicClockId, Timespec, clock_gettime, clock_gettime_dynamic};

use super::plain_file;
use crate::id::Moment;

/// `CLOCK_MONOTONIC`: never set back, and the clock of the proc connector's timestamps.
#[must_use]
pub fn now() -> Moment {
    Moment(read(ClockId::Monotonic))
}

/// How far `CLOCK_BOOTTIME`, which start times in /proc are told in, is ahead of [`now`]: the
/// time that the machine has been suspended.
#[must_use]
pub fn boot_offset() -> Duration {
    read(ClockId::Boottime).saturating_sub(read(ClockId::Monotonic))
}

/// The time since 1970 that [`now`] showed 0, by what the clock on the wall shows now.
#[must_use]
pub fn wall_offset() -> Duration {
    read(ClockId::Realtime).saturating_sub(read(ClockId::Monotonic))
}

/// How long the calling thread has been on a CPU. A system call, other than the clocks above; so it
/// can fail, where somebody filters them.
#[must_use]
pub fn cpu_time() -> Option<Duration> {
    clock_gettime_dynamic(DynamicClockId::Known(ClockId::ThreadCPUTime)).ok().map(to_duration)
}

/// What tells this boot from every other; empty if the kernel does not say.
#[must_use]
pub fn boot_id() -> String {
    /// A UUID and a line feed.
    const LENGTH: usize = 37;
    let id = plain_file::read("/proc/sys/kernel/random/boot_id", LENGTH).unwrap_or_default();
    String::from_utf8_lossy(&id).trim().into()
}

fn read(clock: ClockId) -> Duration {
    to_duration(clock_gettime(clock))
}

fn to_duration(time: Timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanoseconds)
}
