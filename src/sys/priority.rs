//! Being on time: a guest that is powered off is gone within milliseconds, and on a busy machine the
//! daemon would wait longer than that for its turn.
//!
//! It runs before every ordinary process, at the lowest of the real-time priorities (`sched(7)`).
//! Nobody can make it keep a processor for itself: when it has run for 200 ms without having slept
//! once, the kernel says so ([`HAS_RUN_TOO_LONG`]), and it is to be ordinary again.

use std::io;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

/// The signal that says that it has run for too long without sleep (`RLIMIT_RTTIME`).
pub const HAS_RUN_TOO_LONG: i32 = libc::SIGXCPU;

const LONGEST: Duration = Duration::from_millis(200);

/// The lowest real-time priority.
const LOWEST: libc::c_int = 1;

/// Gets in front. Needs `CAP_SYS_NICE`.
///
/// `EPERM`: it is not allowed here (`RestrictRealtime=` of a service, a container, a kernel that
/// keeps real-time processors for other control groups).
pub fn raise() -> io::Result<()> {
    let soft = Some(LONGEST.as_micros() as u64);
    setrlimit(Resource::Rttime, Rlimit { current: soft, maximum: None })?;
    set(libc::SCHED_FIFO, LOWEST)
}

/// Queues up with everybody else.
pub fn lower() -> io::Result<()> {
    set(libc::SCHED_OTHER, 0)
}

fn set(policy: libc::c_int, priority: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the pointer is to a value that lives across the call, of the type that the call
    // takes; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
