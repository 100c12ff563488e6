//! What was played on one platform.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

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
    /// What was played: a commit, with [`CHANGES`] behind it if that was not all. Columns from before
    /// this was kept have none.
    #[serde(default)]
    pub(crate) commit: String,
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
/// The name of the list of what failed.
pub(crate) const FAILED: &str = "failed";
/// How the result of a cell begins that could not be played, as was to be expected on this platform; and
/// the name of the list of tests that could not.
pub(crate) const NOT_RUN: &str = "not run";
/// What follows the commit where the tree had more than that.
const CHANGES: &str = "+changes";

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

    /// All that are kept, in the order of their titles. One that cannot be read is an error: on the page
    /// it would look like one that was never played.
    pub(crate) fn all_kept(directory: &Path) -> io::Result<Vec<Self>> {
        let mut columns = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let column: Self = serde_json::from_slice(&fs::read(&path)?)
                .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
            columns.push(column);
        }
        columns.sort_by(|a, b| a.title.cmp(&b.title));
        Ok(columns)
    }
}

/// What is played. It is looked up once: somebody may commit something in the meantime, which is not in
/// the programs that run.
pub(crate) struct Commit {
    pub(crate) id: String,
    has_changes: bool,
}

impl Commit {
    pub(crate) fn of_this_tree() -> Result<Self, String> {
        // What playing changes itself is not played.
        let kept = [":!docs/platforms.md", ":!tests/platforms/columns"];
        let changes = git(&["status", "--porcelain", "--", ".", kept[0], kept[1]])?;
        Ok(Self { id: git(&["rev-parse", "--short", "HEAD"])?, has_changes: !changes.is_empty() })
    }
}

/// When a column began to be played, and of which sources.
pub(crate) struct Beginning<'a> {
    at: Instant,
    commit: &'a Commit,
}

impl<'a> Beginning<'a> {
    pub(crate) fn now(commit: &'a Commit) -> Self {
        Self { at: Instant::now(), commit }
    }

    /// The column, as far as it has been played.
    pub(crate) fn column(
        &self,
        kind: Kind,
        title: &str,
        version: String,
        cells: Vec<Cell>,
    ) -> Column {
        Column {
            kind,
            title: title.into(),
            version,
            date: output_of(Command::new("date").args(["-u", "+%F"])).expect("today's date"),
            commit: format!(
                "{}{}",
                self.commit.id,
                if self.commit.has_changes { CHANGES } else { "" }
            ),
            seconds: self.at.elapsed().as_secs(),
            cells,
        }
    }
}

fn git(arguments: &[&str]) -> Result<String, String> {
    output_of(Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments))
}

fn output_of(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}
