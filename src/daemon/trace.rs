//! The kernel's trace of signals: who sent which to a watched process.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use log::{Level, error, info, warn};
use mio::Registry;

use super::complaints::LossCount;
use super::floods::Floods;
use super::wake::Wake;
use super::watchlist::Watchlist;
use crate::id::Moment;
use crate::sys::trace::{Trace, Unavailable};
use crate::sys::tracefs::Tracefs;
use crate::verdict::{Event, Sent};
use crate::wire::trace::{TraceEvent, Traced};
use crate::wire::{Printable, Sender};

/// Nobody has anything to say, if nobody has said anything for so long.
const QUIET: Duration = Duration::from_millis(10);
/// For how long the trace waits for that.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The trace has just turned out not to tell everything: from now on each connection has to count
/// OOM kills, which nobody else may report.
#[derive(Debug)]
pub(super) struct Lost;

/// The trace, whether there is one or not.
pub(super) struct TraceSource {
    /// What the instance of the kernel's tracing is called.
    name: OsString,
    tracefs: Option<Tracefs>,
    trace: Option<Trace>,
    /// There is none yet.
    is_wanted_since: Option<Moment>,
    /// What the log said last of it; empty before it is known whether there is one.
    state: String,
    floods: Floods,
    /// How many watched processes had no room in the filter that was set last.
    left_out: usize,
    /// There may be something to be read, though nothing will wake the loop for that.
    has_more: bool,
    /// How often the kernel has lost some.
    losses: LossCount,
}

impl TraceSource {
    /// A trace of this name, which is not opened before [`TraceSource::check`].
    pub(super) fn new(name: OsString) -> Self {
        Self {
            name,
            tracefs: None,
            trace: None,
            is_wanted_since: None,
            state: String::new(),
            floods: Floods::default(),
            left_out: 0,
            has_more: false,
            losses: LossCount::default(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.trace.is_some()
    }

    /// Whether an OOM kill may go untold: there is known to be no trace (before that is known it may
    /// be about to be opened), or it has lost something.
    pub(super) fn may_miss_oom_kills(&self) -> bool {
        (self.trace.is_none() && !self.state.is_empty()) || self.losses() > 0
    }

    /// Whether there may be something to be read, though nothing will wake the loop for that.
    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    /// How often the kernel has lost some.
    pub(super) fn losses(&self) -> u64 {
        self.losses.total()
    }

    /// When [`TraceSource::open_when_quiet`] has something to do if no source speaks.
    pub(super) fn deadline(&self, now: Moment) -> Option<Moment> {
        self.is_wanted_since.map(|_| now + QUIET)
    }

    /// Has the trace opened where there is none: at once if an earlier daemon has left one, with
    /// what it holds; else when nobody has anything to say.
    pub(super) fn check(
        &mut self,
        now: Moment,
        registry: &Registry,
        watchlist: &mut Watchlist,
        events: &mut VecDeque<Event>,
    ) -> Result<(), Lost> {
        if self.trace.is_some() || self.is_wanted_since.is_some() {
            return Ok(());
        }
        if self.tracefs.is_none() {
            match Tracefs::find().map_err(Unavailable::NoTracefs) {
                Ok(tracefs) => self.tracefs = Some(tracefs),
                Err(reason) => return self.lose(&reason),
            }
        }
        self.is_wanted_since = Some(now);
        if self.tracefs.as_ref().is_some_and(|it| it.has(&self.name)) {
            return self.open(now, registry, watchlist, events);
        }
        Ok(())
    }

    /// Opens it, if it is wanted and there is nothing else to do.
    pub(super) fn open_when_quiet(
        &mut self,
        now: Moment,
        is_quiet: bool,
        registry: &Registry,
        watchlist: &mut Watchlist,
        events: &mut VecDeque<Event>,
    ) -> Result<(), Lost> {
        let is_due = |since| is_quiet || now.since(since) >= LONGEST_WAIT;
        if self.is_wanted_since.is_some_and(is_due) {
            return self.open(now, registry, watchlist, events);
        }
        Ok(())
    }

    fn open(
        &mut self,
        now: Moment,
        registry: &Registry,
        watchlist: &mut Watchlist,
        events: &mut VecDeque<Event>,
    ) -> Result<(), Lost> {
        self.is_wanted_since = None;
        let Some(tracefs) = &self.tracefs else { return Ok(()) };
        let opened = Trace::open(tracefs, &self.name, &watchlist.pids()).and_then(|trace| {
            trace
                .sources()
                .try_for_each(|source| Wake::Trace.register(registry, &source))
                .map_err(|error| Unavailable::Failed("wait for its events", error))?;
            Ok(trace)
        });
        match opened {
            Ok(trace) => {
                self.trace = Some(trace);
                if self.floods.have_come() {
                    watchlist.request_update();
                }
                match tracefs.remove_abandoned() {
                    Ok(0) => {}
                    Ok(count) => info!(
                        "Removed {count} instance{} of the kernel's trace whose daemon and virtual machines are gone",
                        if count == 1 { "" } else { "s" }
                    ),
                    Err(error) => info!("Cannot list the instances of the kernel's trace: {error}"),
                }
                self.log_state(Level::Info, "The kernel's trace shows who sends signals");
                self.read(now, watchlist, events)
            }
            Err(reason) => self.lose(&reason),
        }
    }

    fn lose(&mut self, reason: &Unavailable) -> Result<(), Lost> {
        let is_news = self.log_state(
            Level::Warn,
            &format!(
                "The kernel's trace of signals is not available: {reason}. The sender of a signal is taken from QEMU's own log instead, and an OOM kill from the control group's counter"
            ),
        );
        (self.trace, self.has_more) = (None, false);
        if is_news { Err(Lost) } else { Ok(()) }
    }

    /// Logs it, if that is not what was logged last.
    fn log_state(&mut self, level: Level, state: &str) -> bool {
        let is_news = self.state != state;
        if is_news {
            state.clone_into(&mut self.state);
            log::log!(level, "{state}");
        }
        is_news
    }

    /// Has the kernel trace the signals to these processes, but for those that are sent too many.
    pub(super) fn watch(&mut self, pids: Vec<u32>) {
        let scope = self.floods.scope(pids);
        let Some(trace) = &self.trace else { return };
        match trace.watch(&scope) {
            Ok(left_out) => {
                let was_complete = std::mem::replace(&mut self.left_out, left_out) == 0;
                if left_out > 0 && was_complete {
                    warn!(
                        "The filter of the kernel's trace of signals has no room for {left_out} of {} processes: who sends signals to those will not be known",
                        scope.signalled.len()
                    );
                }
            }
            Err(error) => {
                error!("Cannot set the filter of the kernel's trace of signals: {error}");
            }
        }
    }

    /// The process is watched no more. Another one may get its pid.
    pub(super) fn unwatch(&mut self, pid: u32) {
        self.floods.forget(pid);
    }

    /// Takes in everything that has been traced so far, and no more than a share of what comes
    /// meanwhile: see [`TraceSource::has_more`].
    pub(super) fn read(
        &mut self,
        now: Moment,
        watchlist: &mut Watchlist,
        events: &mut VecDeque<Event>,
    ) -> Result<(), Lost> {
        let Some(trace) = &mut self.trace else { return Ok(()) };
        let reading = match trace.read() {
            Ok(reading) => reading,
            Err(error) => return self.lose(&Unavailable::Failed("read it", error)),
        };
        self.has_more = reading.has_more;
        let lost = if reading.has_lost { self.count_loss(now) } else { Ok(()) };
        for event in reading.events {
            self.take_in(event, watchlist, events);
        }
        lost
    }

    /// The kernel has overwritten what nobody had read yet.
    fn count_loss(&mut self, now: Moment) -> Result<(), Lost> {
        let was_complete = self.losses() == 0;
        if let Some(others) = self.losses.add(now) {
            info!("The kernel's trace lost some signals{others}");
        }
        if was_complete { Err(Lost) } else { Ok(()) }
    }

    fn take_in(
        &mut self,
        event: TraceEvent,
        watchlist: &mut Watchlist,
        events: &mut VecDeque<Event>,
    ) {
        let TraceEvent { at, by, pid, what } = event;
        let at = Moment(at);
        match what {
            _ if !watchlist.contains(pid) => self.floods.count_strangers(pid, at, watchlist),
            Traced::OomVictim => events.push_back(Event::OutOfMemory { pid, at }),
            Traced::Signal { signal, is_kernels } => {
                if self.floods.is_looked_into(pid, watchlist) {
                    let sender = if is_kernels { Sender::kernel() } else { Sender::unseen(by) };
                    let sent = Sent { at, signal, sender: Arc::new(sender) };
                    events.push_back(Event::Signalled { pid, sent });
                }
            }
        }
    }

    /// The name under which the kernel remembers a task that is gone.
    pub(super) fn remembered_name(&self, task: u32) -> Option<String> {
        let name = self.trace.as_ref()?.remembered_name(task)?;
        Some(Printable(&name).to_string())
    }

    /// Leaves the instance to the next daemon, with what is traced until then.
    pub(super) fn leave(&mut self) {
        if let Some(trace) = &mut self.trace {
            trace.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::floods::{MOST_LOOKED_INTO, MOST_TRACED};
    use super::*;
    use crate::wire::Signal;

    const WATCHED: u32 = 7;

    fn sent_to(pid: u32) -> TraceEvent {
        let what = Traced::Signal { signal: Signal::TERM, is_kernels: true };
        TraceEvent { at: Duration::ZERO, by: 0, pid, what }
    }

    #[test]
    fn a_flood_of_signals_is_looked_into_for_a_while_and_then_filtered_out() {
        let mut source = TraceSource::new("test".into());
        let mut watchlist = Watchlist::default();
        watchlist.add(WATCHED);
        watchlist.take_update();
        let mut events = VecDeque::new();
        source.take_in(sent_to(WATCHED + 1), &mut watchlist, &mut events);
        assert!(events.is_empty(), "it was sent to a stranger");
        for count in 1..=2 * MOST_TRACED {
            source.take_in(sent_to(WATCHED), &mut watchlist, &mut events);
            assert_eq!(watchlist.take_update().is_some(), count == MOST_TRACED, "{count}");
        }
        assert_eq!(events.len(), MOST_LOOKED_INTO as usize);
        // Another process with this pid begins anew.
        source.unwatch(WATCHED);
        source.take_in(sent_to(WATCHED), &mut watchlist, &mut events);
        assert_eq!(events.len(), MOST_LOOKED_INTO as usize + 1);
    }

    #[test]
    fn whom_the_oom_killer_chose_is_told_however_many_signals_came_before() {
        let mut source = TraceSource::new("test".into());
        let mut watchlist = Watchlist::default();
        watchlist.add(WATCHED);
        let mut events = VecDeque::new();
        for _ in 0..=MOST_LOOKED_INTO {
            source.take_in(sent_to(WATCHED), &mut watchlist, &mut events);
        }
        let chosen = TraceEvent { what: Traced::OomVictim, ..sent_to(WATCHED) };
        source.take_in(chosen, &mut watchlist, &mut events);
        let last = events.pop_back();
        assert!(matches!(last, Some(Event::OutOfMemory { pid: WATCHED, .. })), "{last:?}");
        // Nor does it leave the filter.
        for _ in 0..MOST_TRACED {
            source.take_in(sent_to(WATCHED), &mut watchlist, &mut events);
        }
        let scope = source.floods.scope(watchlist.pids());
        assert_eq!((scope.signalled, scope.victims), (vec![], vec![WATCHED]));
    }

    #[test]
    fn from_its_first_loss_on_others_count_oom_kills() {
        let mut source = TraceSource::new("test".into());
        assert!(!source.may_miss_oom_kills());
        assert!(source.count_loss(Moment::START).is_err());
        assert!(source.may_miss_oom_kills());
        assert!(source.count_loss(Moment::START).is_ok());
        assert_eq!(source.losses(), 2);
    }

    #[test]
    fn that_it_is_not_available_is_news_once() {
        let mut source = TraceSource::new("test".into());
        assert!(!source.may_miss_oom_kills());
        assert!(source.lose(&Unavailable::InUse).is_err());
        assert!(source.may_miss_oom_kills());
        assert!(source.lose(&Unavailable::InUse).is_ok());
        assert!(source.lose(&Unavailable::UnknownLayout).is_err());
    }
}
