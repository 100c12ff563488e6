//! Being on time: a guest that is powered off is gone within milliseconds, and on a busy machine the
//! daemon would wait longer than that for its turn.
//!
//! The calling thread runs before every ordinary process, at the lowest of the real-time priorities
//! (`sched(7)`). For how long it may, `daemon` decides. The kernel is the backstop: when the thread
//! has run for 200 ms without having slept once, it says so ([`HAS_RUN_TOO_LONG`]).

use std::io;
use std::time::Duration;

use rustix::event::{Timespec, poll};
use rustix::process::{Resource, Rlimit, setpriority_process, setrlimit};

/// The signal that says that it has run for too long without sleep (`RLIMIT_RTTIME`).
pub const HAS_RUN_TOO_LONG: i32 = libc::SIGXCPU;

const LONGEST: Duration = Duration::from_millis(200);

/// The lowest real-time priority.
const LOWEST: libc::c_int = 1;

/// Gets in front. Needs `CAP_SYS_NICE`. Threads that this one starts are ordinary ones.
///
/// `EPERM`: it is not allowed here (`RestrictRealtime=` of a service, a container, a kernel that
/// keeps real-time processors for other control groups).
pub fn raise() -> io::Result<()> {
    /// Long enough that it is not over before it has begun.
    const NAP: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000 };
    // The kernel adds a second to it with each signal.
    let soft = Some(LONGEST.as_micros() as u64);
    setrlimit(Resource::Rttime, Rlimit { current: soft, maximum: None })?;
    set(libc::SCHED_FIFO, LOWEST)?;
    // The kernel counts from the latest sleep at this priority: that may be long ago.
    let _ = poll(&mut [], Some(&NAP));
    Ok(())
}

/// Has the calling thread, which is an ordinary one, come before most others of its kind (`nice(2)`).
/// Needs `CAP_SYS_NICE`.
pub fn come_first_among_others() -> io::Result<()> {
    const FIRST: i32 = -20;
    // On Linux each thread has a value of its own.
    Ok(setpriority_process(None, FIRST)?)
}

/// Queues up with everybody else.
pub fn lower() -> io::Result<()> {
    set(libc::SCHED_OTHER, 0)
}

fn set(policy: libc::c_int, priority: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the pointer is to a value that lives across the call, of the type that the call
    // takes; 0 is the calling thread.
    let result = unsafe {
        libc::sched_setscheduler(0, policy | libc::SCHED_RESET_ON_FORK, &raw const parameters)
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
