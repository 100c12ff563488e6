//! Figures for Prometheus, in its text format, for `node_exporter`'s textfile collector.
//!
//! They count from the daemon's start, as Prometheus expects of counters. The set of labels is
//! bounded: a reason that QEMU made up is counted as `other`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use log::error;

use super::Daemon;
use crate::sys::connector::Connector;
use crate::sys::replaced_file::replace;
use crate::verdict::{Cause, Death};
use crate::wire::qmp::Reason;

/// The upper bounds of the histogram of delays, in seconds.
const BOUNDS: [f64; 7] = [0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.1, 1.0];

/// What can lose events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lossy {
    Inotify,
    ProcConnector,
    Trace,
}

#[derive(Debug, Default)]
pub(super) struct Metrics {
    /// Where they are to be put, if anybody wants them.
    path: Option<PathBuf>,
    /// They have changed since they were written.
    is_stale: bool,
    /// The last attempt to write them failed; said once.
    has_failed: bool,
    watched: usize,
    exits: BTreeMap<(String, String), u64>,
    connector_is_up: bool,
    trace_is_up: bool,
    lost: [u64; 3],
    delays: [u64; BOUNDS.len()],
    delays_count: u64,
    delays_sum: f64,
}

impl Metrics {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self { path, is_stale: true, ..Self::default() }
    }

    pub(super) fn ended(&mut self, death: &Death) {
        let cause = match &death.verdict.cause {
            Cause::Host(Some(Reason::Unknown(_))) => "other".into(),
            cause => cause.to_string(),
        };
        *self.exits.entry((cause, death.verdict.initiator.to_string())).or_default() += 1;
        self.is_stale = true;
    }

    pub(super) fn lost(&mut self, source: Lossy) {
        self.lost[source as usize] += 1;
        self.is_stale = true;
    }

    /// A file was there this long after the event that called for it had been read.
    pub(super) fn file_created_after(&mut self, delay: Duration) {
        let seconds = delay.as_secs_f64();
        for (count, bound) in self.delays.iter_mut().zip(BOUNDS) {
            *count += u64::from(seconds <= bound);
        }
        self.delays_count += 1;
        self.delays_sum += seconds;
        self.is_stale = true;
    }

    fn update(&mut self, watched: usize, connector_is_up: bool, trace_is_up: bool) {
        let now = (watched, connector_is_up, trace_is_up);
        if now != (self.watched, self.connector_is_up, self.trace_is_up) {
            (self.watched, self.connector_is_up, self.trace_is_up) = now;
            self.is_stale = true;
        }
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, String)]| {
            let _ = writeln!(text, "# HELP ganeti_kvmd_{name} {help}");
            let _ = writeln!(text, "# TYPE ganeti_kvmd_{name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "ganeti_kvmd_{name}{labels} {value}");
            }
        };
        let exits: Vec<_> = self
            .exits
            .iter()
            .map(|((cause, initiator), count)| {
                let labels = format!("{{cause=\"{cause}\",initiator=\"{initiator}\"}}");
                (labels, count.to_string())
            })
            .collect();
        family(
            "exits_total",
            "counter",
            "Instances that have ended, by cause and by whose doing it was.",
            &exits,
        );
        let one = |value: usize| [(String::new(), value.to_string())];
        family("instances", "gauge", "Instances that are being watched.", &one(self.watched));
        let source = |name: &str, value: u64| (format!("{{source=\"{name}\"}}"), value.to_string());
        family(
            "source_up",
            "gauge",
            "Whether a source of evidence is to be had; if not, verdicts know less.",
            &[
                source("proc-connector", u64::from(self.connector_is_up)),
                source("trace", u64::from(self.trace_is_up)),
            ],
        );
        family(
            "losses_total",
            "counter",
            "How often a source has lost events, after each of which everything was looked at again.",
            &[
                source("inotify", self.lost[Lossy::Inotify as usize]),
                source("proc-connector", self.lost[Lossy::ProcConnector as usize]),
                source("trace", self.lost[Lossy::Trace as usize]),
            ],
        );
        let name = "ganeti_kvmd_file_delay_seconds";
        let _ = writeln!(text, "# HELP {name} From QEMU's event to the file NAME.shutdown.");
        let _ = writeln!(text, "# TYPE {name} histogram");
        for (bound, count) in BOUNDS.iter().zip(self.delays) {
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {}", self.delays_count);
        let _ = writeln!(text, "{name}_sum {}", self.delays_sum);
        let _ = writeln!(text, "{name}_count {}", self.delays_count);
        text
    }
}

impl Daemon {
    /// Writes the metrics, if somebody wants them and they have changed.
    pub(super) fn publish_metrics(&mut self) {
        let metrics = &mut self.metrics;
        let Some(path) = metrics.path.clone() else { return };
        metrics.update(
            self.node.watched(),
            self.connector.as_ref().is_some_and(Connector::is_listening),
            self.trace.is_some(),
        );
        if !std::mem::take(&mut metrics.is_stale) {
            return;
        }
        match replace(&path, metrics.to_text().as_bytes(), 0o644) {
            Ok(_) => metrics.has_failed = false,
            Err(error) => {
                if !std::mem::replace(&mut metrics.has_failed, true) {
                    error!("Cannot write the metrics to {}: {error}", path.display());
                }
            }
        }
    }

    /// Who reads them shall see that nobody counts any more.
    pub(super) fn withdraw_metrics(&self) {
        if let Some(path) = &self.metrics.path {
            let _ = std::fs::remove_file(path);
        }
    }
}
