//! The proc connector: whether the kernel tells how processes end, and what it tells.

use std::os::fd::{AsFd, AsRawFd};

use log::{Level, debug, error, info, warn};
use mio::Interest;
use mio::unix::SourceFd;

use super::metrics::Lossy;
use super::{CONNECTOR, Daemon};
use crate::id::Moment;
use crate::sys::connector::{Connector, Heard, Precision, Unavailable};
use crate::verdict::Event;
use crate::wire::proc_event::ProcMessage;

impl Daemon {
    /// Has a connector opened where there is none, and asks the one that there is whether it
    /// still listens.
    pub(super) fn check_connector(&mut self, now: Moment) {
        let Some(connector) = &mut self.connector else { return self.open_connector(now) };
        connector.forget_shortage();
        let asked = connector.ask_again(now);
        if self.precision != Precision::Exact {
            self.filter_lacks_one = true;
        }
        match asked {
            Ok(()) => self.read_connector(),
            Err(reason) => self.lose_connector(&reason),
        }
    }

    fn open_connector(&mut self, now: Moment) {
        let pids: Vec<u32> = self.watched_pids.iter().copied().collect();
        let opened = Connector::open(&pids, now).and_then(|connector| {
            let descriptor = connector.as_fd().as_raw_fd();
            self.poll
                .registry()
                .register(&mut SourceFd(&descriptor), CONNECTOR, Interest::READABLE)
                .map_err(Unavailable::Socket)?;
            Ok(connector)
        });
        match opened {
            Ok(connector) => {
                self.connector = Some(connector);
                self.keep_connector();
                self.read_connector();
            }
            Err(reason) => self.lose_connector(&reason),
        }
    }

    /// Goes on with a socket that an earlier daemon has opened.
    pub(super) fn adopt_connector(&mut self, connector: Connector, now: Moment) {
        let descriptor = connector.as_fd().as_raw_fd();
        let registered = self.poll.registry().register(
            &mut SourceFd(&descriptor),
            CONNECTOR,
            Interest::READABLE,
        );
        if registered.is_ok() {
            self.connector = Some(connector);
            self.say_connector("The kernel's proc connector tells how processes end");
            self.handle(now, Event::Exits { are_told: true });
        }
    }

    pub(super) fn read_connector(&mut self) {
        let mut lost = false;
        while let Some(connector) = &mut self.connector {
            match connector.receive() {
                Ok(None) => break,
                Ok(Some(Heard::Listening)) => {
                    self.say_connector("The kernel's proc connector tells how processes end");
                    self.events.push_back(Event::Exits { are_told: true });
                }
                Ok(Some(Heard::Message(message))) => self.proc_event(message),
                Ok(Some(Heard::Lost)) => lost = true,
                Ok(Some(Heard::Foreign)) => debug!("Foreign message at the proc connector"),
                Err(reason) => self.lose_connector(&reason),
            }
        }
        if lost {
            self.metrics.lost(Lossy::ProcConnector);
            warn!("The proc connector lost events; looking at everything again");
            self.events.push_back(Event::Rescan);
        }
    }

    fn proc_event(&mut self, message: ProcMessage) {
        match message {
            // A range of the filter may let strangers pass; the node knows them not.
            ProcMessage::Exit { pid, tgid, status } if pid == tgid => {
                self.events.push_back(Event::Exit { pid, status });
            }
            ProcMessage::CoreDump { tgid } => self.events.push_back(Event::CoreDump { pid: tgid }),
            _ => {}
        }
    }

    /// A listener that gets no answer has been refused, or switched off: Linux 6.6.13 to 6.6.17
    /// forget their listeners. A new socket is counted anew.
    pub(super) fn connector_is_mute(&mut self, now: Moment) {
        let was_listening = self.connector.as_ref().is_some_and(Connector::is_listening);
        self.lose_connector(&Unavailable::Silent);
        if was_listening {
            self.open_connector(now);
        }
    }

    fn lose_connector(&mut self, reason: &Unavailable) {
        if let Some(connector) = self.connector.take() {
            // Somebody else may keep it open.
            let descriptor = connector.as_fd().as_raw_fd();
            let _ = self.poll.registry().deregister(&mut SourceFd(&descriptor));
        }
        self.say_connector(&format!(
            "The kernel's proc connector is not available: {reason}. How an instance ended is asked of /proc and of its pidfd instead, which can tell root, and everybody from Linux 6.15 on; a user's shutdown is detected as ever"
        ));
        self.events.push_back(Event::Exits { are_told: false });
    }

    fn say_connector(&mut self, state: &str) {
        if self.connector_state != state {
            state.clone_into(&mut self.connector_state);
            let is_there = self.connector.is_some();
            log::log!(if is_there { Level::Info } else { Level::Warn }, "{state}");
        }
    }

    /// Has the kernel tell of those processes that are watched now.
    pub(super) fn update_filters(&mut self) {
        self.filter_lacks_one = false;
        let pids: Vec<u32> = self.watched_pids.iter().copied().collect();
        self.update_trace_filter(&pids);
        let Some(connector) = &mut self.connector else { return };
        match connector.watch(&pids) {
            Ok(precision) if precision == self.precision => {}
            Ok(precision) => {
                self.precision = precision;
                match precision {
                    Precision::Exact => info!("The proc connector's filter names every process"),
                    Precision::Ranges => info!(
                        "The proc connector's filter has no room for {} single processes (see net.core.optmem_max): it lets a few others pass",
                        pids.len()
                    ),
                    Precision::Unfiltered => warn!(
                        "The kernel takes no filter for the proc connector (see net.core.optmem_max): every process of this machine wakes the daemon"
                    ),
                }
            }
            Err(error) => error!("Cannot set the proc connector's filter: {error}"),
        }
    }
}
