//! The kernel's trace of signals: who sent which to a watched process.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use log::{Level, error, info, warn};
use mio::Interest;
use mio::unix::SourceFd;

use super::endpoint::Endpoint;
use super::metrics::Lossy;
use super::{Daemon, TRACE};
use crate::id::Moment;
use crate::sys::trace::{Trace, Tracefs, Unavailable};
use crate::sys::{clock, sender};
use crate::verdict::{Event, Sent};
use crate::wire::trace::{TraceEvent, Traced};
use crate::wire::{Printable, Sender};

/// Nobody has anything to say, if nobody has said anything for so long.
pub(super) const QUIET: Duration = Duration::from_millis(10);
/// For how long the trace waits for that.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// As many signals to one process are looked into: a QEMU that its guest has taken over can send
/// itself millions.
const MOST_LOOKED_INTO: u32 = 16;
/// After so many they are not traced any more.
const MOST_TRACED: u32 = 1000;

impl Daemon {
    /// Has the trace opened where there is none: at once if an earlier daemon has left one, with
    /// what it holds; else when nobody has anything to say.
    pub(super) fn check_trace(&mut self, now: Moment) {
        if self.trace.is_some() || self.trace_is_wanted_since.is_some() {
            return;
        }
        if self.tracefs.is_none() {
            match Tracefs::find() {
                Ok(tracefs) => self.tracefs = Some(tracefs),
                Err(reason) => return self.lose_trace(&reason),
            }
        }
        self.trace_is_wanted_since = Some(now);
        if self.tracefs.as_ref().is_some_and(|it| it.has(&self.paths.trace_name())) {
            self.open_trace();
        }
    }

    /// Whether there is known to be none. Before that is known it may be about to be opened.
    pub(super) fn lacks_trace(&self) -> bool {
        self.trace.is_none() && !self.trace_state.is_empty()
    }

    /// Opens it, if it is wanted and there is nothing else to do.
    pub(super) fn open_trace_when_quiet(&mut self, now: Moment, was_woken: bool) {
        let is_quiet = !was_woken && self.unread.is_empty() && self.ends.is_empty();
        let is_due = |since| is_quiet || now.since(since) >= LONGEST_WAIT;
        if self.trace_is_wanted_since.is_some_and(is_due) {
            self.open_trace();
            self.settle(now);
        }
    }

    fn open_trace(&mut self) {
        self.trace_is_wanted_since = None;
        let Some(tracefs) = &self.tracefs else { return };
        let pids: Vec<u32> = self.watched_pids.iter().copied().collect();
        let opened = Trace::open(tracefs, &self.paths.trace_name(), &pids).and_then(|trace| {
            let registry = self.poll.registry();
            let register =
                |source: i32| registry.register(&mut SourceFd(&source), TRACE, Interest::READABLE);
            trace
                .sources()
                .try_for_each(|source| register(source.as_raw_fd()))
                .map_err(|error| Unavailable::Failed("wait for its events", error))?;
            Ok(trace)
        });
        match opened {
            Ok(trace) => {
                self.trace = Some(trace);
                self.say_trace(Level::Info, "The kernel's trace tells who sends signals");
                self.drain_trace();
            }
            Err(reason) => self.lose_trace(&reason),
        }
    }

    fn lose_trace(&mut self, reason: &Unavailable) {
        let is_news = self.say_trace(
            Level::Warn,
            &format!(
                "The kernel's trace of signals is not available: {reason}. Who sent a signal is known from QEMU's own log only, and an OOM kill from the control group's counter"
            ),
        );
        self.trace = None;
        if is_news {
            self.endpoints.values_mut().for_each(Endpoint::count_oom_kills);
        }
    }

    /// Says it, if that is not what was said last.
    fn say_trace(&mut self, level: Level, state: &str) -> bool {
        let is_news = self.trace_state != state;
        if is_news {
            state.clone_into(&mut self.trace_state);
            log::log!(level, "{state}");
        }
        is_news
    }

    pub(super) fn update_trace_filter(&mut self, pids: &[u32]) {
        let Some(trace) = &self.trace else { return };
        let floods = |pid: &u32| self.signals_traced.get(pid).is_some_and(|&n| n >= MOST_TRACED);
        let pids: Vec<u32> = pids.iter().copied().filter(|pid| !floods(pid)).collect();
        if let Err(error) = trace.watch(&pids) {
            error!("Cannot set the filter of the kernel's trace of signals: {error}");
        }
    }

    /// Takes in everything that has been traced so far.
    pub(super) fn drain_trace(&mut self) {
        let Some(trace) = &mut self.trace else { return };
        let mut traced = Vec::new();
        match trace.drain(|event| traced.push(event)) {
            Ok(false) => {}
            Ok(true) => {
                self.metrics.lost(Lossy::Trace);
                info!("The kernel's trace of signals lost some");
            }
            Err(error) => self.lose_trace(&Unavailable::Failed("read it", error)),
        }
        for event in traced {
            self.traced(event);
        }
    }

    fn traced(&mut self, event: TraceEvent) {
        // A range of the filter may let strangers pass.
        if !self.watched_pids.contains(&event.pid) {
            return;
        }
        let count = self.signals_traced.entry(event.pid).or_default();
        *count += 1;
        if *count > MOST_LOOKED_INTO {
            if *count == MOST_TRACED {
                warn!("Process {} is sent too many signals; tracing them no more", event.pid);
                self.filter_lacks_one = true;
            }
            return;
        }
        let at = Moment(event.at);
        let pid = event.pid;
        self.events.push_back(match event.what {
            Traced::OomVictim => Event::OutOfMemory { pid, at },
            Traced::Signal { signal, is_kernels } => {
                let sender = if is_kernels { Sender::kernel() } else { self.sender(event.by, at) };
                Event::Signalled { pid, sent: Sent { at, signal, sender: Arc::new(sender) } }
            }
        });
    }

    /// The process that sent a signal at this moment; of one that is gone the kernel may
    /// remember the name.
    fn sender(&self, task: u32, at: Moment) -> Sender {
        let mut sender = sender::look_at(task, at, clock::boot_offset());
        if sender.gone {
            let name = self.trace.as_ref().and_then(|trace| trace.remembered_name(task));
            sender.name = name.map(|name| Printable(&name).to_string());
        }
        sender
    }

    /// Who sent a signal by QEMU's own word: its pid, and how it was called if QEMU saw that.
    pub(super) fn sender_by_own_log(pid: u32, program: Option<&str>, now: Moment) -> Sender {
        let sender = sender::look_at(pid, now, clock::boot_offset());
        let called = program.map(|program| Printable(program.as_bytes()).to_string());
        let is_called = sender.command.as_deref().and_then(|command| command.split(' ').next());
        if called.is_some() && is_called == called.as_deref() {
            return sender;
        }
        // It is gone, and another one may have its pid by now.
        let name = called.as_deref().map(|path| path.rsplit('/').next().unwrap_or(path).into());
        Sender { pid: Some(pid), gone: true, name, command: called, ..Sender::default() }
    }
}
