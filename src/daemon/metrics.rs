//! Figures for Prometheus, in its text format, for `node_exporter`'s textfile collector.
//!
//! They count from the daemon's start, as Prometheus expects of counters, and every series is there
//! from then on: of one that appears with its first event, Prometheus sees no increase. The set of
//! labels is bounded: a reason that QEMU made up is counted as `other`, and no instance is named. The
//! writer puts the text into place. The alerts in `packaging/prometheus` are about these figures.

use std::collections::BTreeMap;
use std::time::Duration;

use super::exposition::Exposition;
use super::exposition::Kind::{Counter, Gauge, Histogram};
use super::recurrence::Recurrence;
use crate::id::Moment;
use crate::sys::clock;
use crate::verdict::{Death, Initiator, Verdict};

/// The upper bounds of the histogram of delays, in seconds.
const BOUNDS: [f64; 7] = [0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.1, 1.0];

/// After so long they are written even if nothing has changed, as a sign of life, when the loop
/// wakes. It does so every 30 seconds to look at everything; that makes one a minute at least.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// What is to be seen of the daemon at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// How many instances are being watched.
    pub(super) watched: usize,
    pub(super) connector_is_up: bool,
    pub(super) trace_is_up: bool,
    pub(super) losses: Losses,
    /// How many ends could not be recorded since the start.
    pub(super) lost_records: u64,
}

/// How often each source has lost events since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Losses {
    pub(super) inotify: u64,
    pub(super) proc_connector: u64,
    pub(super) trace: u64,
}

#[derive(Debug)]
pub(super) struct Metrics {
    /// Since when they count, if anybody wants them.
    since: Option<Moment>,
    /// They have changed since they were written.
    is_stale: bool,
    written: Option<Moment>,
    snapshot: Snapshot,
    exits: BTreeMap<(String, String), u64>,
    recurrence: Recurrence,
    /// Crashes of instances that had crashed before, by cause.
    recurrent: BTreeMap<String, u64>,
    silent: u64,
    delays: [u64; BOUNDS.len()],
    delays_count: u64,
    delays_sum: f64,
}

impl Metrics {
    pub(super) fn new(since: Option<Moment>) -> Self {
        let every = Verdict::every();
        let crashes = every.iter().filter(|verdict| verdict.initiator == Initiator::Crash);
        Self {
            since,
            is_stale: true,
            written: None,
            snapshot: Snapshot::default(),
            recurrence: Recurrence::default(),
            recurrent: crashes.map(|verdict| (verdict.cause.kind().to_string(), 0)).collect(),
            exits: every.iter().map(|verdict| (labels(verdict), 0)).collect(),
            silent: 0,
            delays: [0; BOUNDS.len()],
            delays_count: 0,
            delays_sum: 0.0,
        }
    }

    /// Whether anybody wants them.
    pub(super) fn are_wanted(&self) -> bool {
        self.since.is_some()
    }

    pub(super) fn count_end(&mut self, death: &Death) {
        let verdict = &death.verdict;
        *self.exits.entry(labels(verdict)).or_default() += 1;
        if verdict.initiator == Initiator::Crash && self.recurrence.note(&death.name, death.ended) {
            *self.recurrent.entry(verdict.cause.kind().to_string()).or_default() += 1;
        }
        self.is_stale = true;
    }

    /// A QEMU does not answer.
    pub(super) fn count_silent(&mut self) {
        self.silent += 1;
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

    /// Gives their text to `write`, if somebody wants them, and they have changed or a sign of life
    /// is due. Where that says that it could not take it, they will be given the next time.
    pub(super) fn publish(
        &mut self,
        now: Moment,
        snapshot: Snapshot,
        write: impl FnOnce(&dyn Fn() -> String) -> bool,
    ) {
        let Some(since) = self.since else { return };
        let is_due = self.written.is_none_or(|written| now.since(written) >= HEARTBEAT);
        if !self.is_stale && !is_due && snapshot == self.snapshot {
            return;
        }
        self.snapshot = snapshot;
        self.is_stale = !write(&|| self.to_text(since, now));
        if !self.is_stale {
            self.written = Some(now);
        }
    }

    fn to_text(&self, since: Moment, now: Moment) -> String {
        let mut text = Exposition::default();
        // In seconds since 1970, as both clocks are now.
        let wall = clock::wall_offset();
        text.family(Gauge, "start_time_seconds", "When the daemon began to count.")
            .is((since.0 + wall).as_secs());
        text.family(
            Gauge,
            "heartbeat_timestamp_seconds",
            "When this was written, which is once a minute at least.",
        )
        .is((now.0 + wall).as_secs());
        self.tell_ends(&mut text);
        self.tell_sources(&mut text);
        self.tell_delays(&mut text);
        text.into_text()
    }

    fn tell_ends(&self, text: &mut Exposition) {
        let mut ends = text.family(
            Counter,
            "exits_total",
            "Instances that have ended, by cause and initiator.",
        );
        for ((cause, initiator), count) in &self.exits {
            ends.add("", &[("cause", cause), ("initiator", initiator)], count);
        }
        let mut recurrent = text.family(
            Counter,
            "recurrent_crashes_total",
            "Crashes of an instance within an hour of its last one, by cause.",
        );
        for (cause, count) in &self.recurrent {
            recurrent.add("", &[("cause", cause)], count);
        }
        text.family(Counter, "lost_records_total", "Ends that could not be recorded.")
            .is(self.snapshot.lost_records);
    }

    fn tell_sources(&self, text: &mut Exposition) {
        let Snapshot { watched, connector_is_up, trace_is_up, losses, .. } = self.snapshot;
        text.family(Gauge, "instances", "Instances that are watched.").is(watched);
        let mut up = text.family(Gauge, "source_up", "Whether a source of evidence is available.");
        for (source, is_up) in [("proc-connector", connector_is_up), ("trace", trace_is_up)] {
            up.add("", &[("source", source)], u8::from(is_up));
        }
        text.family(
            Counter,
            "silent_total",
            "How often a QEMU did not answer: it hangs, or another client holds its socket.",
        )
        .is(self.silent);
        let mut lost = text.family(
            Counter,
            "losses_total",
            "How often a source has lost events; everything was rescanned each time.",
        );
        for (source, count) in [
            ("inotify", losses.inotify),
            ("proc-connector", losses.proc_connector),
            ("trace", losses.trace),
        ] {
            lost.add("", &[("source", source)], count);
        }
    }

    fn tell_delays(&self, text: &mut Exposition) {
        let mut delays = text.family(
            Histogram,
            "file_delay_seconds",
            "Time from QEMU's event to the file NAME.shutdown.",
        );
        for (bound, count) in BOUNDS.iter().zip(self.delays) {
            delays.add("_bucket", &[("le", &bound.to_string())], count);
        }
        delays.add("_bucket", &[("le", "+Inf")], self.delays_count);
        delays.add("_sum", &[], self.delays_sum);
        delays.add("_count", &[], self.delays_count);
    }
}

fn labels(verdict: &Verdict) -> (String, String) {
    (verdict.cause.kind().to_string(), verdict.initiator.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Name;
    use crate::verdict::{Case, Cause};

    const NOW: Moment = Moment(Duration::from_secs(1_000_000));

    fn publish(
        metrics: &mut Metrics,
        now: Moment,
        snapshot: Snapshot,
        has_room: bool,
    ) -> Option<String> {
        let mut written = None;
        metrics.publish(now, snapshot, |text| {
            written = Some(text());
            has_room
        });
        written
    }

    #[test]
    fn they_are_written_when_they_have_changed_and_once_more_if_there_was_no_room() {
        let mut metrics = Metrics::new(Some(NOW));
        let mut snapshot = Snapshot { watched: 3, connector_is_up: true, ..Snapshot::default() };
        let written = publish(&mut metrics, NOW, snapshot, true).unwrap();
        assert!(written.contains("ganeti_kvmd_instances 3\n"), "{written}");
        assert!(written.contains("source_up{source=\"proc-connector\"} 1\n"), "{written}");
        assert!(written.contains("source_up{source=\"trace\"} 0\n"), "{written}");
        assert_eq!(publish(&mut metrics, NOW, snapshot, true), None, "nothing had changed");

        snapshot.losses.inotify += 1;
        snapshot.lost_records += 2;
        for has_room in [false, true] {
            let written = publish(&mut metrics, NOW, snapshot, has_room).unwrap();
            assert!(written.contains("losses_total{source=\"inotify\"} 1\n"), "{written}");
            assert!(written.contains("lost_records_total 2\n"), "{written}");
        }
        assert_eq!(publish(&mut metrics, NOW, snapshot, true), None);
        metrics.count_silent();
        let written = publish(&mut metrics, NOW, snapshot, true).unwrap();
        assert!(written.contains("silent_total 1\n"), "{written}");
        assert_eq!(
            publish(&mut Metrics::new(None), NOW, snapshot, true),
            None,
            "nobody wants them"
        );
    }

    /// Else a daemon that hangs looks like one that has nothing to tell.
    #[test]
    fn they_are_written_from_time_to_time_though_nothing_has_changed() {
        let mut metrics = Metrics::new(Some(NOW));
        let snapshot = Snapshot::default();
        let seconds = |written: Option<String>, name: &str| -> Option<u64> {
            let line = format!("ganeti_kvmd_{name}_seconds ");
            written?.lines().find_map(|text| text.strip_prefix(&line))?.parse().ok()
        };
        let first = publish(&mut metrics, NOW, snapshot, true);
        let (start, beat) =
            (seconds(first.clone(), "start_time"), seconds(first, "heartbeat_timestamp"));
        assert!(start.is_some() && start == beat, "{start:?} {beat:?}");
        let soon = NOW + HEARTBEAT / 2;
        assert_eq!(publish(&mut metrics, soon, snapshot, true), None);
        let late = NOW + HEARTBEAT;
        let second = publish(&mut metrics, late, snapshot, true);
        assert!(seconds(second, "heartbeat_timestamp") > beat);
        assert_eq!(publish(&mut metrics, late, snapshot, true), None, "it was written just now");
    }

    /// Of a series that appears with its first event, Prometheus sees no increase.
    #[test]
    fn every_series_is_there_from_the_start() {
        let series = |metrics: &Metrics| -> Vec<String> {
            let text = metrics.to_text(NOW, NOW);
            let samples = text.lines().filter(|line| !line.starts_with('#'));
            samples.map(|line| line.rsplit_once(' ').unwrap().0.to_string()).collect()
        };
        let mut metrics = Metrics::new(Some(NOW));
        let at_first = series(&metrics);
        assert!(metrics.to_text(NOW, NOW).contains("{cause=\"crashed\",initiator=\"crash\"} 0\n"));
        for _ in 0..2 {
            for verdict in Verdict::every() {
                metrics.count_end(&death(b"web1", NOW, verdict));
            }
        }
        metrics.count_file(Duration::from_millis(2));
        assert_eq!(series(&metrics), at_first);
        assert!(
            !metrics
                .to_text(NOW, NOW)
                .contains("exits_total{cause=\"crashed\",initiator=\"crash\"} 0")
        );
    }

    #[test]
    fn an_instance_that_crashes_again_is_counted_and_not_named() {
        let mut metrics = Metrics::new(Some(NOW));
        let crash = |name, minute: u32, initiator| {
            let verdict = Verdict { cause: Cause::Failed(1), initiator };
            death(name, NOW + Duration::from_secs(60) * minute, verdict)
        };
        for (name, minute, initiator, recurrent) in [
            (b"web1", 0, Initiator::Crash, 0),
            (b"web2", 1, Initiator::Crash, 0),
            (b"web1", 2, Initiator::Admin, 0),
            (b"web1", 5, Initiator::Crash, 1),
            (b"web1", 10, Initiator::Crash, 2),
        ] {
            metrics.count_end(&crash(name, minute, initiator));
            let text = metrics.to_text(NOW, NOW);
            let line = format!("recurrent_crashes_total{{cause=\"failed\"}} {recurrent}\n");
            assert!(text.contains(&line), "{minute}: {text}");
            assert!(!text.contains("web1"), "{text}");
        }
    }

    fn death(name: &[u8], ended: Moment, verdict: Verdict) -> Death {
        Death {
            name: Name::new(name),
            process: None,
            verdict,
            case: Case::default(),
            died: None,
            ended,
            file: None,
            missing: Vec::new(),
        }
    }

    #[test]
    fn a_delay_is_counted_in_every_bucket_that_it_fits_into() {
        let mut metrics = Metrics::new(Some(NOW));
        metrics.count_file(Duration::from_millis(2));
        metrics.count_file(Duration::from_secs(2));
        let text = metrics.to_text(NOW, NOW);
        for line in ["le=\"0.001\"} 0", "le=\"0.003\"} 1", "le=\"+Inf\"} 2", "_count 2"] {
            assert!(text.contains(&format!("{line}\n")), "{line}: {text}");
        }
    }
}
