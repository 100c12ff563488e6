//! The process of an instance: which one it is, how its end is found out, and when it died.

use std::time::Duration;

use super::{Peer, Source};
use crate::id::{Moment, Process};

/// Without a pidfd: the waits between two looks at a process that is about to end, each twice
/// as long as the one before, and after how many it is only looked at at each rescan.
const FIRST_PROBE_WAIT: Duration = Duration::from_millis(1);
const LONGEST_PROBE_WAIT: Duration = Duration::from_secs(1);
const MOST_PROBES: u32 = 15;

#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Watched {
    process: Option<Process>,
    has_pidfd: bool,
    /// Without a pidfd: looks taken at a process that is about to end, and the next one.
    probes: u32,
    probe_at: Option<Moment>,
    died: Option<Moment>,
}

impl Watched {
    /// A process that an earlier daemon has identified.
    pub(super) fn recalled(process: Option<Process>, has_pidfd: bool) -> Self {
        Self { process, has_pidfd, ..Self::default() }
    }

    /// Takes what is known of the peer of a connection. Who it was at the first one stands.
    pub(super) fn identify(&mut self, peer: Peer) {
        self.process = self.process.or(peer.process);
        if peer.process.is_some() && self.process == peer.process {
            self.has_pidfd = peer.has_pidfd;
        }
    }

    pub(super) fn process(&self) -> Option<Process> {
        self.process
    }

    /// When it was found dead.
    pub(super) fn died(&self) -> Option<Moment> {
        self.died
    }

    /// Where its end, and what the kernel keeps of it, is learnt from.
    pub(super) fn source(&self) -> Source {
        if self.has_pidfd { Source::Pidfd } else { Source::Process }
    }

    /// Notes that it is dead, and says whether that is news.
    pub(super) fn die(&mut self, now: Moment) -> bool {
        self.probe_at = None;
        let is_news = self.died.is_none();
        self.died.get_or_insert(now);
        is_news
    }

    /// The process that has to be looked at, because nothing will report its end.
    pub(super) fn to_probe(&self) -> Option<Process> {
        self.process.filter(|_| !self.has_pidfd && self.died.is_none())
    }

    /// It was looked at and lives. If it `is_ending`, the next look is soon.
    pub(super) fn found_alive(&mut self, is_ending: bool, now: Moment) {
        if is_ending && self.probes < MOST_PROBES {
            let wait = FIRST_PROBE_WAIT * (1 << self.probes);
            self.probe_at = Some(now + wait.min(LONGEST_PROBE_WAIT));
            self.probes += 1;
        }
    }

    /// Takes the next look, if it is due.
    pub(super) fn take_probe(&mut self, now: Moment) -> bool {
        self.probe_at.take_if(|at| *at <= now).is_some()
    }

    /// When the next look is due.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.probe_at
    }
}
