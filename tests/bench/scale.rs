//! How the figures grow with the number of virtual machines: a table for `plot.py`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::measures::{attach, storm};
use crate::subject::Subject;

const MACHINES: [usize; 7] = [1, 10, 100, 500, 1000, 2000, 5000];

/// The original takes minutes and gigabytes with more.
const MOST_FOR_THEIRS: usize = 2000;

/// Writes the table to `path`, after each of its rows: a machine may not hold the last ones.
pub(crate) fn measure(path: &Path, subjects: &[Subject], machines: &[usize]) {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).expect("create a directory for the table");
    }
    let mut table = String::from(
        "program,vms,rss_kib,private_kib,attach_ms,gone_unmarked,never_marked,last_file_ms,event_to_file_median_ms,event_to_file_p99_ms\n",
    );
    for &machines in if machines.is_empty() { &MACHINES } else { machines } {
        for &subject in subjects {
            if subject == Subject::Theirs && machines > MOST_FOR_THEIRS {
                println!("the original: not played with {machines}");
                continue;
            }
            let program = if subject == Subject::Ours { "ours" } else { "original" };
            let attached = attach(subject, machines, 3);
            let storm = storm(subject, machines, 3);
            let row = format!(
                "{program},{machines},{},{},{:.3},{},{},{:.3},{:.3},{:.3}",
                attached.memory.rss,
                attached.memory.private,
                attached.took / 1e6,
                storm.gone_unmarked,
                storm.never,
                storm.lag / 1e6,
                storm.delay / 1e6,
                storm.longest_delays / 1e6,
            );
            println!("{row}");
            let _ = writeln!(table, "{row}");
            fs::write(path, &table).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
    println!("written to {}", path.display());
}
