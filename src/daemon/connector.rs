//! The proc connector: whether the kernel tells how processes end, and what it tells.
//!
//! What it says of a watched process is not taken from it until it is written down: if this daemon
//! ends before that, another goes on with the socket, and reads it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

use log::{Level, debug, error, info, warn};
use mio::Registry;

use super::complaints::LossCount;
use super::keep::Keep;
use super::wake::{self, Wake};
use super::watchlist::Watchlist;
use crate::id::Moment;
use crate::sys::connector::{Connector, Precision, Received, Unavailable};
use crate::sys::process;
use crate::verdict::Event;
use crate::wire::proc_event::ProcMessage;

/// The connector, whether there is one or not.
pub(super) struct ConnectorSource {
    connector: Option<Connector>,
    /// What the log said last of it, so that it says it once.
    state: String,
    /// The kernel has answered once.
    has_listened: bool,
    /// How precise the filter is that was set last.
    precision: Precision,
    /// How often the kernel had more to report than the socket could hold.
    losses: LossCount,
    /// How a watched process ended was read, and is yet to be taken from the socket.
    has_peeked: bool,
    /// There may be something to be read, though nothing will wake the loop for that.
    has_more: bool,
}

impl ConnectorSource {
    /// One that is not opened before [`ConnectorSource::check`].
    pub(super) fn new() -> Self {
        Self {
            connector: None,
            state: String::new(),
            has_listened: false,
            precision: Precision::Exact,
            losses: LossCount::default(),
            has_peeked: false,
            has_more: false,
        }
    }

    /// Goes on with a socket that an earlier daemon has opened.
    pub(super) fn adopt(
        &mut self,
        connector: Connector,
        registry: &Registry,
        events: &mut VecDeque<Event>,
    ) {
        if Wake::Connector.register(registry, &connector).is_ok() {
            self.connector = Some(connector);
            self.announce(events);
        }
    }

    pub(super) fn is_listening(&self) -> bool {
        self.connector.as_ref().is_some_and(Connector::is_listening)
    }

    /// How often the kernel had more to report than the socket could hold.
    pub(super) fn losses(&self) -> u64 {
        self.losses.total()
    }

    /// When silence becomes a refusal: see [`ConnectorSource::give_up_waiting`]. It is none while
    /// there is something to be read.
    pub(super) fn deadline(&self) -> Option<Moment> {
        let connector = self.connector.as_ref().filter(|_| !self.has_more);
        connector.and_then(Connector::deadline)
    }

    /// Opens one where there is none, and asks the one that there is whether it still listens. The
    /// answer is to be read.
    pub(super) fn check(
        &mut self,
        now: Moment,
        registry: &Registry,
        keep: &Keep,
        watchlist: &mut Watchlist,
        events: &mut VecDeque<Event>,
    ) {
        let Some(connector) = &mut self.connector else {
            return self.open(now, registry, keep, watchlist, events);
        };
        connector.forget_shortage();
        let asked = connector.ask_again(&watchlist.pids(), now);
        if self.precision != Precision::Exact {
            watchlist.request_update();
        }
        match asked {
            // The answer is there, behind what came before it.
            Ok(()) => self.has_more = true,
            Err(reason) => self.lose(&reason, registry, events),
        }
    }

    fn open(
        &mut self,
        now: Moment,
        registry: &Registry,
        keep: &Keep,
        watchlist: &Watchlist,
        events: &mut VecDeque<Event>,
    ) {
        let opened = Connector::open(&watchlist.pids(), now).and_then(|connector| {
            Wake::Connector.register(registry, &connector).map_err(Unavailable::Socket)?;
            Ok(connector)
        });
        match opened {
            Ok(connector) => {
                self.connector = Some(connector);
                self.have_kept(keep);
                self.has_more = true;
            }
            Err(reason) => self.lose(&reason, registry, events),
        }
    }

    /// Has the service manager keep the socket.
    pub(super) fn have_kept(&mut self, keep: &Keep) {
        if let Some(connector) = &mut self.connector
            && keep.keep_connector(connector.as_fd())
        {
            connector.leave_open();
        }
    }

    /// No daemon is going to follow this one: whoever keeps the socket is to close it, and the kernel
    /// is to be told that nobody listens any more. (Before Linux 6.6 it does not notice by itself,
    /// and goes on making events.)
    pub(super) fn end_for_good(&mut self, keep: &Keep) {
        if let Some(connector) = &mut self.connector {
            keep.forget_connector();
            connector.close_with_this();
        }
    }

    /// Reads what the kernel has reported, as far as the next thing that it says of a watched
    /// process. That stays in the socket until [`ConnectorSource::take_peeked`].
    pub(super) fn read(
        &mut self,
        now: Moment,
        registry: &Registry,
        watchlist: &Watchlist,
        events: &mut VecDeque<Event>,
    ) {
        self.has_more = false;
        let mut lost = false;
        while let Some(connector) = self.connector.as_mut().filter(|_| !self.has_peeked) {
            let received = match connector.peek() {
                Ok(Some(received)) => received,
                Ok(None) => break,
                Err(reason) => {
                    self.lose(&reason, registry, events);
                    break;
                }
            };
            let event = match received {
                Received::Message(message) => event(message),
                _ => None,
            };
            lost |= received == Received::Lost;
            // A socket that has been full takes nothing in before it is empty.
            let is_watched = |(pid, _): &(u32, Event)| watchlist.contains(*pid);
            self.has_peeked = !lost && event.as_ref().is_some_and(is_watched);
            if !self.has_peeked && received != Received::Lost {
                connector.take();
            }
            events.extend(event.map(|(_, event)| event));
            match received {
                Received::Listening => self.announce(events),
                Received::Foreign => debug!("Foreign message at the proc connector"),
                Received::Message(_) | Received::Lost => {}
            }
        }
        if lost {
            if let Some(others) = self.losses.add(now) {
                warn!("The proc connector lost events; rescanning{others}");
            }
            events.push_back(Event::Rescan);
        }
    }

    /// Takes from the socket what was read, and says whether anything was.
    pub(super) fn take_peeked(&mut self) -> bool {
        let has_peeked = std::mem::take(&mut self.has_peeked);
        if has_peeked && let Some(connector) = &mut self.connector {
            connector.take();
            self.has_more = true;
        }
        has_peeked
    }

    /// Whether there may be something to be read, though nothing will wake the loop for that.
    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    /// A listener that gets no answer has been refused, or switched off: Linux 6.6.13 to 6.6.17
    /// forget their listeners. A new socket is counted anew.
    pub(super) fn give_up_waiting(
        &mut self,
        now: Moment,
        registry: &Registry,
        keep: &Keep,
        watchlist: &Watchlist,
        events: &mut VecDeque<Event>,
    ) {
        let was_listening = self.is_listening();
        let reason = match self.has_listened {
            false => Unavailable::Silent,
            true if was_listening => Unavailable::FellSilent,
            true => Unavailable::SwitchedOff,
        };
        self.lose(&reason, registry, events);
        if was_listening {
            self.open(now, registry, keep, watchlist, events);
        }
    }

    fn announce(&mut self, events: &mut VecDeque<Event>) {
        self.has_listened = true;
        self.log_state("The kernel's proc connector reports how processes end");
        events.push_back(Event::Exits { are_told: true });
    }

    fn lose(&mut self, reason: &Unavailable, registry: &Registry, events: &mut VecDeque<Event>) {
        if let Some(connector) = self.connector.take() {
            wake::deregister(registry, &connector);
        }
        (self.has_peeked, self.has_more) = (false, false);
        self.log_state(&format!(
            "The kernel's proc connector is not available: {reason}. {}; users' shutdowns are still detected",
            where_statuses_come_from(self.has_listened, process::has_statuses_of_the_dead())
        ));
        events.push_back(Event::Exits { are_told: false });
    }

    /// Logs it, if that is not what was logged last.
    fn log_state(&mut self, state: &str) {
        if self.state != state {
            state.clone_into(&mut self.state);
            let is_there = self.connector.is_some();
            log::log!(if is_there { Level::Info } else { Level::Warn }, "{state}");
        }
    }

    /// Has the kernel report on these processes, and on as few others as it can.
    pub(super) fn watch(&mut self, pids: &[u32]) {
        let Some(connector) = &mut self.connector else { return };
        match connector.watch(pids) {
            Ok(precision) if precision == self.precision => {}
            Ok(precision) => {
                self.precision = precision;
                match precision {
                    Precision::Exact => info!("The proc connector's filter is exact again"),
                    Precision::Ranges => info!(
                        "The proc connector's filter has no room for {} separate processes (see net.core.optmem_max); it lets a few others pass",
                        pids.len()
                    ),
                    Precision::Unfiltered => warn!(
                        "The kernel accepts no filter for the proc connector (see net.core.optmem_max): every process on this machine wakes the daemon"
                    ),
                }
            }
            Err(error) => error!("Cannot set the proc connector's filter: {error}"),
        }
    }

    /// What a successor is to have.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.connector.as_ref().map(AsFd::as_fd)
    }

    /// A successor has the socket: the kernel is to go on reporting to it.
    pub(super) fn leave_open(&mut self) {
        if let Some(connector) = &mut self.connector {
            connector.leave_open();
        }
    }
}

/// Where exit statuses come from without the connector.
///
/// A daemon that had it when it started needs nothing of `/proc`, and is confined: Landlock hides
/// them there.
fn where_statuses_come_from(has_listened: bool, pidfd_has_them: bool) -> &'static str {
    match (has_listened, pidfd_has_them) {
        (false, _) => {
            "Exit statuses are taken from /proc instead, as root, or from the pidfd, from Linux 6.15 on"
        }
        (true, true) => "Exit statuses are taken from the pidfd instead",
        (true, false) => {
            "Exit statuses in /proc are hidden from this daemon if Landlock confines it: the kernel's trace of signals still shows which signal ended an instance. A daemon that is stopped and started again reads them from /proc, as root"
        }
    }
}

/// What a message says of the end of a process, and of which; nothing if it says nothing of that. A
/// range of the filter may let strangers pass: the node does not know them.
fn event(message: ProcMessage) -> Option<(u32, Event)> {
    match message {
        ProcMessage::Exit { pid, tgid, status } if pid == tgid => {
            Some((pid, Event::Exit { pid, status }))
        }
        ProcMessage::CoreDump { tgid } => Some((tgid, Event::CoreDump { pid: tgid })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::WaitStatus;

    #[test]
    fn the_end_of_a_thread_is_not_that_of_its_process() {
        let end = |pid, tgid| event(ProcMessage::Exit { pid, tgid, status: WaitStatus(9) });
        assert!(matches!(end(7, 7), Some((7, Event::Exit { pid: 7, status: WaitStatus(9) }))));
        assert!(end(8, 7).is_none());
        let dumps = event(ProcMessage::CoreDump { tgid: 7 });
        assert!(matches!(dumps, Some((7, Event::CoreDump { pid: 7 }))));
        assert!(event(ProcMessage::Other).is_none());
    }

    #[test]
    fn what_is_left_without_it_is_told_as_it_is() {
        let confined = where_statuses_come_from(true, false);
        assert!(confined.contains("are hidden") && confined.contains("trace of signals"));
        assert!(!where_statuses_come_from(true, true).contains("/proc"));
        for pidfd_has_them in [false, true] {
            let from_the_start = where_statuses_come_from(false, pidfd_has_them);
            assert!(from_the_start.starts_with("Exit statuses are taken from /proc instead"));
        }
    }

    #[test]
    fn one_that_is_lost_reports_no_exits() {
        let poll = mio::Poll::new().unwrap();
        let mut events = VecDeque::new();
        let mut source = ConnectorSource::new();
        source.lose(&Unavailable::Silent, poll.registry(), &mut events);
        assert!(!source.is_listening() && source.descriptor().is_none());
        assert!(matches!(events.make_contiguous(), [Event::Exits { are_told: false }]));
    }
}
