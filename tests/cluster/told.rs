//! What our daemon has told of the ends of instances, as `kvmd-why --json --all` has it on each node.

use std::time::{Duration, Instant};

use kvmd::wire::record::Record;

use crate::cluster::Cluster;
use crate::node::{Failed, Node, Result};

/// How long records may take that are written right after an end.
const LONGEST: Duration = Duration::from_secs(20);

/// The ends of instances, node by node, each in the order of time.
#[derive(Debug)]
pub(crate) struct Told(Vec<Record>);

impl Told {
    /// Waits until so many ends are told of each of these instances.
    pub(crate) fn of(cluster: &Cluster, owed: &[(&str, usize)]) -> Result<Self> {
        let deadline = Instant::now() + LONGEST;
        loop {
            let told = Self::now(cluster)?;
            let is_complete = owed.iter().all(|&(name, count)| told.ends_of(name).len() >= count);
            if is_complete || Instant::now() > deadline {
                return Ok(told);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn now(cluster: &Cluster) -> Result<Self> {
        let records: Result<Vec<_>> = cluster.nodes.iter().map(records_on).collect();
        Ok(Self(records?.concat()))
    }

    /// Each end of this instance: its cause, its initiator, and who sent the signal, if one was sent.
    pub(crate) fn ends_of(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|record| record.instance == name).map(in_short).collect()
    }
}

fn records_on(node: &Node) -> Result<Vec<Record>> {
    let said = node.run(&["kvmd-why", "--json", "--all"])?;
    let records = said.lines().filter(|line| line.starts_with('{'));
    let parse = |line: &str| {
        Record::parse(line.as_bytes()).map_err(|error| Failed(format!("{error}: {line}")))
    };
    records.map(parse).collect()
}

fn in_short(record: &Record) -> String {
    let Record { cause, initiator, .. } = record;
    let sender = match &record.sender {
        None => return format!("{cause} {initiator}"),
        Some(sender) if sender.kernel => "the kernel",
        Some(sender) if sender.pid == Some(std::process::id()) => "the test",
        Some(sender) => sender.name.as_deref().unwrap_or("nobody known"),
    };
    format!("{cause} {initiator} by {sender}")
}
