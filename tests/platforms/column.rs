//! What was played on one platform.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// Which of the tables a column is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Qemu,
    Kernel,
    Whole,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Column {
    pub(crate) kind: Kind,
    pub(crate) title: String,
    /// What is played, as it names itself.
    pub(crate) version: String,
    /// The day on which it was played.
    pub(crate) date: String,
    pub(crate) seconds: u64,
    pub(crate) cells: Vec<Cell>,
}

/// What came of one thing, in words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// A cell of a table, or one of a list: then several have the same name.
    pub(crate) what: String,
    pub(crate) result: String,
}

/// How the result of a cell begins that is not as it should be.
pub(crate) const WRONG: &str = "WRONG";
/// The name of the list of tests that failed.
pub(crate) const FAILED: &str = "failed";

impl Column {
    pub(crate) fn result(&self, what: &str) -> Option<&str> {
        self.all(what).next()
    }

    /// Every result of this name.
    pub(crate) fn all<'a>(&'a self, what: &str) -> impl Iterator<Item = &'a str> {
        self.cells.iter().filter(move |it| it.what == what).map(|it| &*it.result)
    }

    pub(crate) fn is_right(&self) -> bool {
        self.cells.iter().all(|it| it.what != FAILED && !it.result.starts_with(WRONG))
    }

    /// Keeps it in place of an earlier one of the same title.
    pub(crate) fn keep(&self, directory: &Path) -> io::Result<()> {
        let name = self.title.replace([' ', '(', ')', ','], "-");
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(directory.join(format!("{name}.json")), text)
    }

    /// All that are kept, in the order of their titles.
    pub(crate) fn all_kept(directory: &Path) -> Vec<Self> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut columns: Vec<Self> = entries
            .filter_map(|entry| serde_json::from_slice(&fs::read(entry.path()).ok()?).ok())
            .collect();
        columns.sort_by(|a, b| a.title.cmp(&b.title));
        columns
    }
}

/// Today's date, in UTC.
pub(crate) fn today() -> String {
    let output = Command::new("date").args(["-u", "+%F"]).output().expect("run date");
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}
