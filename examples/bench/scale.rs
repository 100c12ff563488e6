//! How the figures grow with the number of virtual machines: a table for `plot.py`.
//!
//! Each row is measured by a process of its own: a program that cannot do with so many leaves its
//! row out, and nothing behind.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::A_SECOND;
use crate::measures::{attach, storm};
use crate::subject::Subject;

const MACHINES: [usize; 7] = [1, 10, 100, 500, 1000, 2000, 5000];

/// With more of them it ends itself: "file descriptor 1024 out of range for select (0--1024)".
const MOST_FOR_THEIRS: usize = 1000;

const ROUNDS: usize = 3;

const HEAD: &str = "program,vms,rss_kib,private_kib,attach_ms,gone_unmarked,never_marked,last_file_ms,event_to_file_median_ms,event_to_file_p99_ms";

/// Writes the table to `path`, after each of its rows: a machine may not hold the last ones.
pub(crate) fn measure(path: &Path, subjects: &[Subject], machines: &[usize]) {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).expect("create a directory for the table");
    }
    let this = std::env::current_exe().expect("this program's path");
    let mut table = format!("{HEAD}\n");
    for &machines in if machines.is_empty() { &MACHINES } else { machines } {
        for &subject in subjects {
            if subject == Subject::Theirs && machines > MOST_FOR_THEIRS {
                println!(
                    "{}: not played with {machines}, it has one descriptor for each and holds 1024",
                    subject.name()
                );
                continue;
            }
            let mut row = Command::new(&this);
            row.args(["--row", subject.name(), &machines.to_string()]).stderr(Stdio::inherit());
            let output = row.output().expect("run this program once more");
            if !output.status.success() {
                println!("{}: cannot be measured with {machines}, as was said", subject.name());
                continue;
            }
            let row = String::from_utf8_lossy(&output.stdout);
            print!("{row}");
            table.push_str(&row);
            fs::write(path, &table).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
    println!("written to {}", path.display());
}

/// Measures one row.
pub(crate) fn row(subject: Subject, machines: usize) -> String {
    let attached = attach(subject, machines, ROUNDS);
    let storm = storm(subject, machines, ROUNDS, A_SECOND);
    let mut row = String::new();
    let _ = writeln!(
        row,
        "{},{machines},{},{},{:.3},{},{},{:.3},{:.3},{:.3}",
        subject.name(),
        attached.memory.rss,
        attached.memory.private,
        attached.took / 1e6,
        storm.gone_unmarked,
        storm.never,
        storm.lag / 1e6,
        storm.delay / 1e6,
        storm.longest_delays / 1e6,
    );
    row
}
