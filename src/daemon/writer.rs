//! The writer: a thread at ordinary priority that waits for disks, pipes and the syslog in the
//! loop's place. It has the log, the records and the metrics.
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
//!   all while it is awake.
//!
//! Nothing here decides what is reported, or what a record says.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use log::{error, warn};
use mio::Waker;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};

use super::records::Records;
use super::sandbox;
use crate::id::Incarnation;
use crate::log::{Log, Queue};
use crate::sys::confinement::Reach;
use crate::sys::replaced_file::replace;
use crate::sys::sandbox::Role;
use crate::verdict::Death;

/// As many jobs as may wait, ...
const JOBS: usize = 8192;
/// ... and so many bytes of lines and figures.
const BYTES: usize = 1 << 20;
/// So many of them are in the channel, whose memory is taken for good. The loop keeps the others.
const CHANNEL: usize = 256;
/// Jobs that are left to what is not a line of the log.
const RESERVED: usize = 256;

/// Room for the writer's stack, in bytes. It calls nothing deep.
const STACK: usize = 128 << 10;

/// While lines are being lost, the log says so once in this time.
const NOTICE_INTERVAL: Duration = Duration::from_secs(5);

/// What is to be written.
enum Job {
    /// A line of the log.
    Line(Vec<u8>),
    /// How this life has ended: as a record and, for whoever sees it to find that, as a line of the
    /// log after it.
    Record(Incarnation, Box<Death>, Vec<u8>),
    /// The metrics, in the place of the former.
    Metrics(String),
    /// There are to be no metrics any more.
    Withdraw,
    /// Open the files anew, as after their rotation.
    Reopen,
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Self::Line(line) => line.len(),
            Self::Metrics(text) => text.len(),
            // Without a record, it would wait elsewhere.
            Self::Record(..) | Self::Withdraw | Self::Reopen => 0,
        }
    }

    /// Whether the loop goes on with something when it is done.
    fn is_awaited(&self) -> bool {
        matches!(self, Self::Record(..) | Self::Metrics(_))
    }
}

/// What the loop and the writer tell each other.
#[derive(Default)]
struct Shared {
    /// So many jobs are done.
    done: AtomicU64,
    /// The writer has found nothing to do, and reads its eventfd.
    is_asleep: AtomicBool,
    /// The loop has something that it found no room for, here or in the channel.
    wants_room: AtomicBool,
    /// The loop has been woken, and has not looked since.
    is_woken: AtomicBool,
    /// The loop waits for nothing else, outside of its `epoll_wait`.
    is_waited_for: AtomicBool,
    lost_lines: AtomicU64,
    lost_debug_lines: AtomicU64,
}

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

/// What the thread works with.
pub(super) struct Outputs {
    pub(super) log: Log,
    pub(super) log_file: PathBuf,
    pub(super) records: Records,
    pub(super) metrics_file: Option<PathBuf>,
}

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
        let at_work = AtWork {
            outputs,
            waker,
            alarm: Arc::clone(&alarm),
            shared: Arc::clone(&shared),
            owner: thread::current(),
            last_notice: None,
            has_metrics_failed: false,
        };
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

    /// The process is to end after this time, whatever is not written by then.
    pub(super) fn end_within(&self, longest: Duration) {
        self.inner.borrow_mut().end = Some(Instant::now() + longest);
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
        let mut has_sent = false;
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
            has_sent = true;
        }
        // One that sleeps has emptied the channel, and is to say so if there is more.
        if has_sent || self.unsent > 0 {
            self.wake_the_writer();
        }
    }

    fn wake_the_writer(&self) {
        // Either the writer sees the job before it sleeps, or this sees that it sleeps.
        fence(Ordering::SeqCst);
        let is_asleep = &self.shared.is_asleep;
        if is_asleep.swap(false, Ordering::SeqCst)
            && write(&self.alarm, &1_u64.to_ne_bytes()).is_err()
        {
            // The next job is another occasion.
            is_asleep.store(true, Ordering::SeqCst);
        }
    }
}

/// The writer's side.
struct AtWork {
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
    fn run(mut self, receiver: &Receiver<Arc<Job>>) {
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
                self.outputs.records.write(death);
                self.outputs.log.write(line);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn writer(directory: &Path) -> (Rc<Writer>, mio::Poll) {
        let poll = mio::Poll::new().unwrap();
        let log = Log::new();
        let log_file = directory.join("log");
        log.to_file(&log_file).unwrap();
        let outputs = Outputs {
            log,
            log_file,
            records: Records::open(&directory.join("records")),
            metrics_file: Some(directory.join("kvmd.prom")),
        };
        let waker = Waker::new(poll.registry(), mio::Token(0)).unwrap();
        (Writer::start(outputs, waker, None).unwrap(), poll)
    }

    #[test]
    fn lines_are_written_in_their_order_however_many_there_are_at_once() {
        const LINES: usize = 100_000;
        let directory = tempfile::tempdir().unwrap();
        let (writer, mut poll) = writer(directory.path());
        let mut events = mio::Events::with_capacity(1);
        for number in 0..LINES {
            writer.add_line(false, format!("{number}\n").into());
            // As many as fit, and then the writer says when there is room again.
            while writer.inner.borrow_mut().need_room(JOBS / 2, BYTES) == Err(NoRoom) {
                poll.poll(&mut events, Some(Duration::from_secs(60))).unwrap();
                assert!(!events.is_empty(), "not woken");
                assert!(writer.take_recorded().is_empty());
            }
        }
        writer.finish(Duration::from_secs(60));
        let log = fs::read_to_string(directory.path().join("log")).unwrap();
        let expected: Vec<String> = (0..LINES).map(|number| number.to_string()).collect();
        assert!(log.lines().eq(&expected), "{} lines", log.lines().count());
    }

    #[test]
    fn metrics_replace_each_other_and_are_gone_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kvmd.prom");
        let (writer, _poll) = writer(directory.path());
        for text in ["one", "two"] {
            writer.add_metrics(|| text.into()).unwrap();
            writer.finish(Duration::from_secs(60));
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        writer.withdraw_metrics();
        writer.finish(Duration::from_secs(60));
        assert!(!path.exists());
    }
}
