//! The writer's side: it does one job after the other, and waits for whatever that takes.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use log::{error, warn};
use mio::Waker;
use rustix::io::read;

use crate::account;
use crate::daemon::journal::Journal;
use crate::daemon::records::Records;
use crate::id::Incarnation;
use crate::log::Log;
use crate::sys::replaced_file::replace;
use crate::verdict::Death;

/// While lines are being lost, the log says so once in this time.
const NOTICE_INTERVAL: Duration = Duration::from_secs(5);

/// What is to be written.
pub(super) enum Job {
    /// A line of the log.
    Line(Vec<u8>),
    /// How this life has ended: as a record, as an entry of the journal and, for whoever sees it to
    /// find those, as a line of the log after them.
    Record(Incarnation, Box<Death>, Vec<u8>),
    /// The metrics, in the place of the former.
    Metrics(String),
    /// There are to be no metrics any more.
    Withdraw,
    /// Open the files anew, as after their rotation.
    Reopen,
}

impl Job {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Line(line) => line.len(),
            Self::Metrics(text) => text.len(),
            // Without a record, it would wait elsewhere.
            Self::Record(..) | Self::Withdraw | Self::Reopen => 0,
        }
    }

    /// Whether the loop goes on with something when it is done.
    pub(super) fn is_awaited(&self) -> bool {
        matches!(self, Self::Record(..) | Self::Metrics(_))
    }
}

/// What the loop and the writer tell each other.
#[derive(Default)]
pub(super) struct Shared {
    /// So many jobs are done.
    pub(super) done: AtomicU64,
    /// The writer has found nothing to do, and reads its eventfd.
    pub(super) is_asleep: AtomicBool,
    /// The loop has something that it found no room for, here or in the channel.
    pub(super) wants_room: AtomicBool,
    /// The loop has been woken, and has not looked since.
    pub(super) is_woken: AtomicBool,
    /// The loop waits for nothing else, outside of its `epoll_wait`.
    pub(super) is_waited_for: AtomicBool,
    pub(super) lost_lines: AtomicU64,
    pub(super) lost_debug_lines: AtomicU64,
    /// Ends that could not be recorded, since the start.
    pub(super) lost_records: AtomicU64,
}

/// What the thread works with.
pub(in crate::daemon) struct Outputs {
    pub(in crate::daemon) log: Log,
    pub(in crate::daemon) log_file: PathBuf,
    pub(in crate::daemon) records: Records,
    pub(in crate::daemon) journal: Journal,
    pub(in crate::daemon) metrics_file: Option<PathBuf>,
}

/// The writer's side.
pub(super) struct AtWork {
    outputs: Outputs,
    waker: Waker,
    alarm: Arc<OwnedFd>,
    shared: Arc<Shared>,
    /// The loop's thread.
    owner: Thread,
    last_notice: Option<Instant>,
    /// The last attempt to write the metrics failed; logged once.
    has_metrics_failed: bool,
}

impl AtWork {
    /// For the calling thread, which is the loop's.
    pub(super) fn new(
        outputs: Outputs,
        waker: Waker,
        alarm: Arc<OwnedFd>,
        shared: Arc<Shared>,
    ) -> Self {
        let owner = thread::current();
        Self { outputs, waker, alarm, shared, owner, last_notice: None, has_metrics_failed: false }
    }

    pub(super) fn run(mut self, receiver: &Receiver<Arc<Job>>) {
        loop {
            self.shared.is_asleep.store(false, Ordering::SeqCst);
            while let Ok(job) = receiver.try_recv() {
                self.finish(job);
            }
            self.log_lost_lines();
            if self.shared.wants_room.swap(false, Ordering::SeqCst) {
                self.wake_the_loop();
            }
            if self.shared.is_waited_for.load(Ordering::SeqCst) {
                self.owner.unpark();
            }
            self.shared.is_asleep.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            match receiver.try_recv() {
                Ok(job) => self.finish(job),
                Err(TryRecvError::Empty) if self.shared.wants_room.load(Ordering::SeqCst) => {}
                // An error is that of a signal: it looks once more.
                Err(TryRecvError::Empty) => drop(read(&self.alarm, &mut [0; 8])),
                // The loop is over, and so will be the process.
                Err(TryRecvError::Disconnected) => return,
            }
        }
    }

    fn finish(&mut self, job: Arc<Job>) {
        self.perform(&job);
        let is_awaited = job.is_awaited();
        drop(job);
        self.shared.done.fetch_add(1, Ordering::SeqCst);
        if is_awaited {
            self.wake_the_loop();
        }
        let lost = [&self.shared.lost_lines, &self.shared.lost_debug_lines];
        if lost.iter().any(|lost| lost.load(Ordering::Relaxed) > 0)
            && self.last_notice.is_none_or(|last| last.elapsed() >= NOTICE_INTERVAL)
        {
            self.log_lost_lines();
        }
    }

    fn perform(&mut self, job: &Job) {
        match job {
            Job::Line(line) => self.outputs.log.write(line),
            Job::Record(_, death, line) => {
                let record = account::record(death);
                if !self.outputs.records.write(&record) {
                    self.shared.lost_records.fetch_add(1, Ordering::Relaxed);
                }
                if self.outputs.journal.write(death, &record) {
                    self.outputs.log.write_beside_journal(line);
                } else {
                    self.outputs.log.write(line);
                }
            }
            Job::Metrics(text) => self.replace_metrics(text),
            Job::Withdraw => {
                if let Some(path) = &self.outputs.metrics_file {
                    let _ = std::fs::remove_file(path);
                }
            }
            Job::Reopen => {
                if let Err(error) = self.outputs.log.reopen() {
                    let path = self.outputs.log_file.display();
                    error!("Cannot reopen the log file {path}: {error}");
                }
                self.outputs.records.reopen();
            }
        }
    }

    fn replace_metrics(&mut self, text: &str) {
        let Some(path) = &self.outputs.metrics_file else { return };
        let has_failed_before = self.has_metrics_failed;
        let replaced = replace(path, text.as_bytes(), 0o644);
        self.has_metrics_failed = replaced.is_err();
        if let Err(error) = replaced
            && !has_failed_before
        {
            error!("Cannot write the metrics to {}: {error}", path.display());
        }
    }

    fn wake_the_loop(&self) {
        if !self.shared.is_woken.swap(true, Ordering::SeqCst) {
            // It fails only if the loop has been woken too often to count.
            let _ = self.waker.wake();
        }
    }

    /// Says how many lines there was no room for, if any.
    fn log_lost_lines(&mut self) {
        let lines = self.shared.lost_lines.swap(0, Ordering::Relaxed);
        let debug_lines = self.shared.lost_debug_lines.swap(0, Ordering::Relaxed);
        if lines > 0 {
            warn!("{lines} lines of the log were lost because writing was too slow");
        }
        if debug_lines > 0 {
            warn!("{debug_lines} debug lines of the log were lost because writing was too slow");
        }
        if lines + debug_lines > 0 {
            self.last_notice = Some(Instant::now());
        }
    }
}
