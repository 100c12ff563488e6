//! The writer: a thread at ordinary priority that waits for disks, pipes and the syslog in the
//! loop's place. It has the log, the records, the journal and the metrics.
//!
//! The loop runs before ordinary processes, so it must never wait for a thread that does not: an
//! ordinary thread that was stopped while it held a lock gets no processor as long as others want
//! one. Hence the loop takes no lock here, and never spins:
//!
//! - A job goes through a small channel of fixed size. The loop counts what is in it, so it never
//!   reaches a place in the channel that the writer is not done with, and keeps what does not fit.
//! - The writer answers with one number, how many jobs are done. They are done in their order.
//! - Both own a job together ([`Arc`]). The writer lets go of it before it counts it, so that what
//!   the loop has allocated is freed by the loop: an allocator's lock is a lock.
//! - The writer sleeps on an eventfd(2). To wake it is a system call that does not wait, and none at
//!   all while it is awake. It is made once for all that one turn of the loop has to write, unless
//!   that is much.
//!
//! Nothing here decides what is reported, or what a record says.

mod at_work;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use mio::Waker;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::write;

use super::sandbox;
use crate::id::Incarnation;
use crate::log::Queue;
use crate::sys::confinement::Reach;
use crate::sys::sandbox::Role;
use crate::verdict::Death;
pub(super) use at_work::Outputs;
use at_work::{AtWork, Job, Shared};

/// As many jobs as may wait, ...
const JOBS: usize = 8192;
/// ... and so many bytes of lines and figures.
const BYTES: usize = 1 << 20;
/// So many of them are in the channel, whose memory is taken for good. The loop keeps the others.
const CHANNEL: usize = 256;
/// It is not left asleep beside so many jobs.
const JOBS_AT_ONCE: usize = 64;
/// Jobs that are left to what is not a line of the log.
const RESERVED: usize = 256;

/// Room for the writer's stack, in bytes. It calls nothing deep.
const STACK: usize = 128 << 10;

/// The loop's side. To be used by one thread.
pub(super) struct Writer {
    inner: RefCell<Inner>,
}

struct Inner {
    sender: SyncSender<Arc<Job>>,
    alarm: Arc<OwnedFd>,
    shared: Arc<Shared>,
    /// In their order; the first is the one after `let_go`.
    unfinished: VecDeque<Arc<Job>>,
    /// So many of those, the last ones, are not in the channel yet.
    unsent: usize,
    let_go: u64,
    /// So many are in the channel since the writer was woken last.
    unheard: usize,
    bytes: usize,
    records: usize,
    has_metrics: bool,
    /// Lives whose record is written, or could not be.
    recorded: Vec<Incarnation>,
    /// When the process is to end, whatever is not written by then.
    end: Option<Instant>,
}

/// There is no room at present. The loop is woken when there may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl Writer {
    /// Starts the thread, and has all further lines of the calling one go through it. To be called
    /// before that gets in front of other processes: a thread begins as the one that starts it.
    /// `waker` wakes the loop when [`Writer::take_recorded`] may have something new.
    /// `reach`: the thread is to enter its sandbox, with these files within its reach.
    pub(super) fn start(
        outputs: Outputs,
        waker: Waker,
        reach: Option<Reach>,
    ) -> io::Result<Rc<Self>> {
        let (sender, receiver) = sync_channel(CHANNEL);
        let shared = Arc::<Shared>::default();
        let alarm = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let at_work = AtWork::new(outputs, waker, Arc::clone(&alarm), Arc::clone(&shared));
        let builder = thread::Builder::new().name("writer".into()).stack_size(STACK);
        builder.spawn(move || {
            if let Some(reach) = reach {
                sandbox::enter(Role::Writer, Some(&reach));
            }
            at_work.run(&receiver);
        })?;
        let inner = Inner {
            sender,
            alarm,
            shared,
            unfinished: VecDeque::new(),
            unsent: 0,
            let_go: 0,
            unheard: 0,
            bytes: 0,
            records: 0,
            has_metrics: false,
            recorded: Vec::new(),
            end: None,
        };
        let writer = Rc::new(Self { inner: RefCell::new(inner) });
        crate::log::queue_lines(Rc::<Self>::clone(&writer));
        Ok(writer)
    }

    /// Has the end of a life recorded and logged. Both are written when it is among those of
    /// [`Writer::take_recorded`].
    pub(super) fn add_record(
        &self,
        incarnation: Incarnation,
        death: Box<Death>,
    ) -> Result<(), (Box<Death>, NoRoom)> {
        let inner = &mut *self.inner.borrow_mut();
        if let Err(error) = inner.need_room(JOBS - RESERVED, BYTES / 2) {
            return Err((death, error));
        }
        inner.records += 1;
        let line = crate::log::info_line(format_args!("{death}"));
        inner.add(Job::Record(incarnation, death, line));
        Ok(())
    }

    /// Has the metrics replaced by those. One after the other: `NoRoom` while the former are being
    /// written.
    pub(super) fn add_metrics(&self, text: impl FnOnce() -> String) -> Result<(), NoRoom> {
        let inner = &mut *self.inner.borrow_mut();
        inner.reap();
        if inner.has_metrics {
            return Err(NoRoom);
        }
        inner.need_room(JOBS - RESERVED / 2, BYTES)?;
        inner.has_metrics = true;
        inner.add(Job::Metrics(text()));
        Ok(())
    }

    /// Has the metrics removed: who reads them is to see that nobody counts any more.
    pub(super) fn withdraw_metrics(&self) {
        let inner = &mut *self.inner.borrow_mut();
        // Without room, no disk has answered for long: they stay, as they would with a kill.
        if inner.has_room(JOBS, usize::MAX) {
            inner.add(Job::Withdraw);
        }
    }

    /// Has the files opened anew, as after their rotation.
    pub(super) fn reopen(&self) -> Result<(), NoRoom> {
        let inner = &mut *self.inner.borrow_mut();
        inner.need_room(JOBS - RESERVED / 2, BYTES)?;
        inner.add(Job::Reopen);
        Ok(())
    }

    /// The lives whose record has been written, or could not be, since the last call. To be called
    /// when the waker has woken the loop.
    pub(super) fn take_recorded(&self) -> Vec<Incarnation> {
        let inner = &mut *self.inner.borrow_mut();
        // First: what is done from here on wakes the loop again.
        inner.shared.is_woken.store(false, Ordering::SeqCst);
        inner.reap();
        std::mem::take(&mut inner.recorded)
    }

    /// Has the writer begin with what it was given. To be called before the loop sleeps.
    pub(super) fn wake(&self) {
        self.inner.borrow_mut().wake_the_writer();
    }

    /// The process is to end after this time, whatever is not written by then.
    pub(super) fn end_within(&self, longest: Duration) {
        self.inner.borrow_mut().end = Some(Instant::now() + longest);
    }

    /// How many records could not be written, since the start.
    pub(super) fn lost_records(&self) -> u64 {
        self.inner.borrow().shared.lost_records.load(Ordering::Relaxed)
    }

    /// Whether there are records that are not written yet.
    pub(super) fn has_records(&self) -> bool {
        self.inner.borrow().records > 0
    }
}

impl Queue for Writer {
    fn add_line(&self, is_debug: bool, line: Vec<u8>) {
        let inner = &mut *self.inner.borrow_mut();
        let (jobs, bytes) =
            if is_debug { (JOBS / 2, BYTES / 2) } else { (JOBS - RESERVED / 2, BYTES) };
        if inner.has_room(jobs, bytes) {
            inner.add(Job::Line(line));
        } else {
            let shared = &inner.shared;
            let lost = if is_debug { &shared.lost_debug_lines } else { &shared.lost_lines };
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn finish(&self, longest: Duration) {
        // It is borrowed where a panic comes from here.
        let Ok(mut inner) = self.inner.try_borrow_mut() else { return };
        let latest = Instant::now() + longest;
        let end = inner.end.map_or(latest, |end| end.min(latest));
        inner.shared.is_waited_for.store(true, Ordering::SeqCst);
        loop {
            inner.reap();
            inner.wake_the_writer();
            let left = end.saturating_duration_since(Instant::now());
            if inner.unfinished.is_empty() || left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }
}

impl Inner {
    /// Whether fewer jobs and bytes than that wait.
    fn has_room(&mut self, jobs: usize, bytes: usize) -> bool {
        let has_room = |this: &Self| this.unfinished.len() < jobs && this.bytes < bytes;
        if !has_room(self) {
            self.reap();
        }
        has_room(self)
    }

    /// As above; without room, the loop is woken when the channel is empty.
    fn need_room(&mut self, jobs: usize, bytes: usize) -> Result<(), NoRoom> {
        if self.has_room(jobs, bytes) {
            return Ok(());
        }
        self.shared.wants_room.store(true, Ordering::SeqCst);
        // All may have been done before the writer could know.
        if self.has_room(jobs, bytes) { Ok(()) } else { Err(NoRoom) }
    }

    /// Lets go of what is done, and sends what there is room for then.
    fn reap(&mut self) {
        let done = self.shared.done.load(Ordering::SeqCst);
        while self.let_go < done {
            self.let_go += 1;
            let Some(job) = self.unfinished.pop_front() else { break };
            self.bytes -= job.bytes();
            match &*job {
                Job::Record(incarnation, ..) => {
                    self.records -= 1;
                    self.recorded.push(*incarnation);
                }
                Job::Metrics(_) => self.has_metrics = false,
                Job::Line(_) | Job::Withdraw | Job::Reopen => {}
            }
        }
        if self.unfinished.is_empty() {
            self.unfinished.shrink_to(CHANNEL);
        }
        self.send();
    }

    /// There is room for it.
    fn add(&mut self, job: Job) {
        self.bytes += job.bytes();
        self.unfinished.push_back(Arc::new(job));
        self.unsent += 1;
        // Otherwise what is done would be kept until there is no room for more.
        self.reap();
    }

    /// Sends what the channel has room for.
    fn send(&mut self) {
        while self.unsent > 0 {
            let sent = self.unfinished.len() - self.unsent;
            if sent >= CHANNEL {
                self.shared.wants_room.store(true, Ordering::SeqCst);
                break;
            }
            // It cannot be full. It is closed if the writer has panicked, which ends the process.
            if self.sender.try_send(Arc::clone(&self.unfinished[sent])).is_err() {
                break;
            }
            self.unsent -= 1;
            self.unheard += 1;
        }
        // One that sleeps has emptied the channel, and is to say so if there is more.
        if self.unheard >= JOBS_AT_ONCE || self.unsent > 0 {
            self.wake_the_writer();
        }
    }

    fn wake_the_writer(&mut self) {
        if std::mem::take(&mut self.unheard) == 0 && self.unsent == 0 {
            return;
        }
        // Either the writer sees the job before it sleeps, or this sees that it sleeps.
        fence(Ordering::SeqCst);
        let is_asleep = &self.shared.is_asleep;
        if is_asleep.swap(false, Ordering::SeqCst)
            && write(&self.alarm, &1_u64.to_ne_bytes()).is_err()
        {
            // The next job is another occasion.
            is_asleep.store(true, Ordering::SeqCst);
            self.unheard = 1;
        }
    }
}

#[cfg(test)]
mod tests;
