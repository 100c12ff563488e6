//! Figures for Prometheus, in its text format, for `node_exporter`'s textfile collector.
//!
//! They count from the daemon's start, as Prometheus expects of counters. The set of labels is
//! bounded: a reason that QEMU made up is counted as `other`. The writer puts the text into place.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::verdict::Death;

/// The upper bounds of the histogram of delays, in seconds.
const BOUNDS: [f64; 7] = [0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.1, 1.0];

/// What is to be seen of the daemon at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// How many instances are being watched.
    pub(super) watched: usize,
    pub(super) connector_is_up: bool,
    pub(super) trace_is_up: bool,
    pub(super) losses: Losses,
}

/// How often each source has lost events since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    pub(super) inotify: u64,
    pub(super) proc_connector: u64,
    pub(super) trace: u64,
}

#[derive(Debug, Default)]
pub(super) struct Metrics {
    are_wanted: bool,
    /// They have changed since they were written.
    is_stale: bool,
    snapshot: Snapshot,
    exits: BTreeMap<(String, String), u64>,
    delays: [u64; BOUNDS.len()],
    delays_count: u64,
    delays_sum: f64,
}

impl Metrics {
    pub(super) fn new(are_wanted: bool) -> Self {
        Self { are_wanted, is_stale: true, ..Self::default() }
    }

    /// Whether anybody wants them.
    pub(super) fn are_wanted(&self) -> bool {
        self.are_wanted
    }

    pub(super) fn count_end(&mut self, death: &Death) {
        let cause = death.verdict.cause.kind().to_string();
        *self.exits.entry((cause, death.verdict.initiator.to_string())).or_default() += 1;
        self.is_stale = true;
    }

    /// A file was there this long after the event that called for it had been read.
    pub(super) fn count_file(&mut self, delay: Duration) {
        let seconds = delay.as_secs_f64();
        for (count, bound) in self.delays.iter_mut().zip(BOUNDS) {
            *count += u64::from(seconds <= bound);
        }
        self.delays_count += 1;
        self.delays_sum += seconds;
        self.is_stale = true;
    }

    /// Gives their text to `write`, if somebody wants them and they have changed. Where that says
    /// that it could not take it, they will be given the next time.
    pub(super) fn publish(
        &mut self,
        snapshot: Snapshot,
        write: impl FnOnce(&dyn Fn() -> String) -> bool,
    ) {
        if !self.are_wanted || (!self.is_stale && snapshot == self.snapshot) {
            return;
        }
        self.snapshot = snapshot;
        self.is_stale = !write(&|| self.to_text());
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
            "Instances that have ended, by cause and initiator.",
            &exits,
        );
        let one = |value: usize| [(String::new(), value.to_string())];
        family("instances", "gauge", "Instances that are watched.", &one(self.snapshot.watched));
        let source = |name: &str, value: u64| (format!("{{source=\"{name}\"}}"), value.to_string());
        family(
            "source_up",
            "gauge",
            "Whether a source of evidence is available.",
            &[
                source("proc-connector", u64::from(self.snapshot.connector_is_up)),
                source("trace", u64::from(self.snapshot.trace_is_up)),
            ],
        );
        family(
            "losses_total",
            "counter",
            "How often a source has lost events; everything was rescanned each time.",
            &[
                source("inotify", self.snapshot.losses.inotify),
                source("proc-connector", self.snapshot.losses.proc_connector),
                source("trace", self.snapshot.losses.trace),
            ],
        );
        let name = "ganeti_kvmd_file_delay_seconds";
        let _ = writeln!(text, "# HELP {name} Time from QEMU's event to the file NAME.shutdown.");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_written_when_they_have_changed_and_once_more_if_there_was_no_room() {
        let mut metrics = Metrics::new(true);
        let mut snapshot = Snapshot { watched: 3, connector_is_up: true, ..Snapshot::default() };
        let publish = |metrics: &mut Metrics, snapshot, has_room| {
            let mut written = None;
            metrics.publish(snapshot, |text| {
                written = Some(text());
                has_room
            });
            written
        };
        let written = publish(&mut metrics, snapshot, true).unwrap();
        assert!(written.contains("ganeti_kvmd_instances 3\n"), "{written}");
        assert!(written.contains("source_up{source=\"proc-connector\"} 1\n"), "{written}");
        assert!(written.contains("source_up{source=\"trace\"} 0\n"), "{written}");
        assert_eq!(publish(&mut metrics, snapshot, true), None, "nothing had changed");

        snapshot.losses.inotify += 1;
        for has_room in [false, true] {
            let written = publish(&mut metrics, snapshot, has_room).unwrap();
            assert!(written.contains("losses_total{source=\"inotify\"} 1\n"), "{written}");
        }
        assert_eq!(publish(&mut metrics, snapshot, true), None);
        assert_eq!(publish(&mut Metrics::new(false), snapshot, true), None, "nobody wants them");
    }

    #[test]
    fn a_delay_is_counted_in_every_bucket_that_it_fits_into() {
        let mut metrics = Metrics::new(true);
        metrics.count_file(Duration::from_millis(2));
        metrics.count_file(Duration::from_secs(2));
        let text = metrics.to_text();
        for line in ["le=\"0.001\"} 0", "le=\"0.003\"} 1", "le=\"+Inf\"} 2", "_count 2"] {
            assert!(text.contains(&format!("{line}\n")), "{line}: {text}");
        }
    }
}
