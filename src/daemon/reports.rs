//! What the daemon reports of its own accord: each end, in the log and as a record, and figures.

use std::collections::VecDeque;
use std::path::PathBuf;

use log::{error, info};

use super::metrics::Metrics;
use super::records::Records;
use crate::config::Paths;
use crate::id::Incarnation;
use crate::log::Log;
use crate::verdict::{Death, Node};

pub(super) struct Reports {
    log: Log,
    log_file: PathBuf,
    records: Records,
    pub(super) metrics: Metrics,
    /// Ends that are yet to be reported.
    ends: VecDeque<(Incarnation, Death)>,
}

impl Reports {
    pub(super) fn open(log: Log, paths: &Paths, metrics_file: Option<PathBuf>) -> Self {
        Self {
            log,
            log_file: paths.log_file(),
            records: Records::open(&paths.records_file()),
            metrics: Metrics::new(metrics_file),
            ends: VecDeque::new(),
        }
    }

    /// Has an end reported when its turn has come.
    pub(super) fn add_end(&mut self, incarnation: Incarnation, death: Death) {
        self.ends.push_back((incarnation, death));
    }

    /// Whether there are ends that are yet to be reported.
    pub(super) fn are_behind(&self) -> bool {
        !self.ends.is_empty()
    }

    /// Reports so many ends, the first ones first, and has the node forget them.
    pub(super) fn report_ends(&mut self, most: usize, node: &mut Node) {
        for _ in 0..most {
            let Some((incarnation, death)) = self.ends.pop_front() else { break };
            self.metrics.count_end(&death);
            // Whoever sees the line finds the record.
            self.records.write(&death);
            info!("{death}");
            node.forget(incarnation);
        }
    }

    /// Opens the files anew, as after their rotation.
    pub(super) fn reopen_files(&mut self) {
        if let Err(error) = self.log.reopen() {
            error!("Cannot reopen the log file {}: {error}", self.log_file.display());
        }
        self.records.reopen();
        info!("Reopening log files after receiving SIGHUP");
    }
}
