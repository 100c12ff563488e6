//! The supervisor, as far as it listens: systemd's notifications (`sd_notify(3)`), and the line feed that
//! s6 waits for.
//!
//! It is not waited for. What a service manager has no room for is sent again, in its order.

use std::collections::VecDeque;
use std::mem::discriminant;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::id::Moment;
use crate::sys::service_manager::{ServiceManager, TRY_AGAIN, is_busy};

/// How much more time systemd is asked for at once. If this program is stuck, it has that long.
const AT_ONCE: Duration = Duration::from_secs(30);
/// And how often.
const OFTEN: Duration = Duration::from_secs(10);
/// What comes after the last resort: the kernel takes QEMU's memory apart.
const TO_DIE: Duration = Duration::from_secs(5);

/// What a service manager is to be told.
#[derive(Debug)]
enum Notice {
    Ready,
    Status(String),
    Stopping,
    /// This program is not stuck.
    Alive,
    /// It takes so much more time.
    Extend(Duration),
}

/// Whoever runs this program.
#[derive(Debug)]
pub(super) struct Supervisor {
    manager: Option<ServiceManager>,
    /// For the one line feed.
    descriptor: Option<OwnedFd>,
    is_ready: bool,
    /// When to ask for more time, and when all of it is over.
    extension: Option<(Moment, Moment)>,
    /// When its watchdog is to hear from this program, if it has one, and how often.
    watchdog: Option<(Moment, Duration)>,
    /// What the manager had no room for: one of each kind at most.
    unsent: VecDeque<Notice>,
    /// When that is sent again.
    again: Option<Moment>,
}

impl Supervisor {
    pub(super) fn new(
        now: Moment,
        manager: Option<ServiceManager>,
        descriptor: Option<OwnedFd>,
    ) -> Self {
        let interval = manager.as_ref().and_then(ServiceManager::interval);
        Self {
            manager,
            watchdog: interval.map(|interval| (now, interval)),
            descriptor,
            is_ready: false,
            extension: None,
            unsent: VecDeque::new(),
            again: None,
        }
    }

    /// The guest runs. Whether that is news.
    pub(super) fn notify_ready(&mut self, now: Moment) -> bool {
        if std::mem::replace(&mut self.is_ready, true) {
            return false;
        }
        self.notify(now, Notice::Ready);
        if let Some(descriptor) = self.descriptor.take() {
            // Nobody may listen any more.
            let _ = rustix::io::write(descriptor, b"\n");
        }
        true
    }

    pub(super) fn notify_status(&mut self, now: Moment, text: &str) {
        self.notify(now, Notice::Status(text.into()));
    }

    /// A stop has begun, at the end of which QEMU will be gone.
    pub(super) fn notify_stopping(&mut self, now: Moment) {
        self.notify(now, Notice::Stopping);
    }

    /// What remains to be done will be over by then.
    pub(super) fn ask_for_time(&mut self, now: Moment, ends: Moment) {
        self.extension = self.manager.is_some().then_some((now, ends));
        self.tick(now);
    }

    /// When [`Supervisor::tick`] is to be called.
    pub(super) fn due(&self) -> Option<Moment> {
        let extension = self.extension.map(|(next, _)| next);
        let watchdog = self.watchdog.map(|(next, _)| next);
        [extension, watchdog, self.again].into_iter().flatten().min()
    }

    /// Pleases the watchdog, asks for as much time as the stop may still take, a part at a time, and
    /// sends what there was no room for.
    pub(super) fn tick(&mut self, now: Moment) {
        if let Some((_, interval)) = self.watchdog.filter(|(next, _)| *next <= now) {
            self.watchdog = Some((now + interval, interval));
            self.notify(now, Notice::Alive);
        }
        if let Some((next, ends)) = self.extension.filter(|(next, _)| *next <= now) {
            self.extension = (next < ends).then_some((now + OFTEN, ends));
            let left = ends.since(next) + TO_DIE;
            self.notify(now, Notice::Extend(left.min(AT_ONCE)));
        }
        if self.again.is_some_and(|again| again <= now) {
            self.send(now);
        }
    }

    fn notify(&mut self, now: Moment, notice: Notice) {
        // An older one of its kind is no longer true.
        self.unsent.retain(|unsent| discriminant(unsent) != discriminant(&notice));
        self.unsent.push_back(notice);
        self.send(now);
    }

    fn send(&mut self, now: Moment) {
        self.again = None;
        while let Some(notice) = self.unsent.pop_front() {
            let Some(manager) = &self.manager else { continue };
            let sent = match &notice {
                Notice::Ready => manager.notify_ready(),
                Notice::Status(text) => manager.notify_status(text),
                Notice::Stopping => manager.notify_stopping(),
                Notice::Alive => manager.notify_alive(),
                Notice::Extend(time) => manager.extend_timeout(*time),
            };
            // Any other error: nobody listens any more.
            if sent.is_err_and(|error| is_busy(&error)) {
                self.unsent.push_front(notice);
                self.again = Some(now + TRY_AGAIN);
                return;
            }
        }
    }
}
