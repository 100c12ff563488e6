//! The parts of the test, each played on a cluster of its own, side by side; and which rows of the
//! table each of them owes. A row that was to be played is in the table, whatever became of its cluster.

use std::path::Path;

use crate::cluster::{self, Cluster, Packages, Subject};
use crate::node::Result;
use crate::stories::{self, qa, verify};
use crate::story::{Chapter, guard};
use crate::table::Row;

/// In this order: the second node comes last.
const CHAPTERS: [&Chapter; 8] = [
    &stories::ends::CHAPTER,
    &stories::daemon::RESTARTS,
    &stories::daemon::KILLED,
    &stories::daemon::SWITCHED_OFF,
    &stories::daemon::SWITCHED_ON,
    &stories::two_nodes::MOVES,
    &stories::fleet::CHAPTER,
    &stories::two_nodes::FAILURES,
];

/// What is played on a cluster of its own.
pub(crate) struct Part {
    /// A word for the names of its nodes.
    purpose: &'static str,
    /// The rows that it owes the table.
    owes: fn(Subject, &Chosen) -> Vec<Row>,
    /// Adds those that it has played, one at a time: what it has played counts even if it fails then.
    play: fn(&mut Cluster, &Chosen, &mut Vec<Row>) -> Result<()>,
}

pub(crate) const PARTS: [Part; 3] = [
    Part { purpose: "stories", owes: stories_owed, play: play_stories },
    Part {
        purpose: "qa",
        owes: |_, chosen| {
            qa::TESTS.iter().filter(|it| chosen.has(it.title)).map(qa::owed).collect()
        },
        play: |cluster, chosen, rows| {
            qa::play(cluster, qa::TESTS.iter().filter(|it| chosen.has(it.title)), rows)
        },
    },
    Part {
        purpose: "rounds",
        owes: |_, chosen| chosen.has(qa::ROUNDS_TITLE).then(qa::rounds_owed).into_iter().collect(),
        play: |cluster, _, rows| qa::play_rounds(cluster, rows),
    },
];

/// The words that chapters are chosen by; without any, all are.
pub(crate) struct Chosen<'a>(&'a [String]);

impl Chosen<'_> {
    fn has(&self, title: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|word| title.contains(word))
    }

    fn chapters(&self, subject: Subject) -> impl Iterator<Item = &'static Chapter> {
        let is_played = move |it: &&Chapter| {
            self.has(it.title) && (subject == Subject::Ours || !it.is_ours_alone)
        };
        CHAPTERS.into_iter().filter(is_played)
    }
}

/// Every title that a word may choose.
pub(crate) fn titles() -> impl Iterator<Item = &'static str> {
    let chapters = CHAPTERS.iter().map(|chapter| chapter.title);
    let others = [verify::TITLE].into_iter().chain(qa::TESTS.iter().map(|test| test.title));
    chapters.chain(others).chain([qa::ROUNDS_TITLE])
}

/// The first of the words that chooses nothing.
pub(crate) fn unmatched(words: &[String]) -> Option<&String> {
    words.iter().find(|word| !titles().any(|title| title.contains(*word)))
}

impl Part {
    /// Makes a cluster of one node and plays on it; the rows that it owes, played or not.
    pub(crate) fn play(
        &self,
        top: &Path,
        subject: Subject,
        packages: &Packages,
        words: &[String],
    ) -> Vec<Row> {
        let chosen = Chosen(words);
        let owed = (self.owes)(subject, &chosen);
        if owed.is_empty() {
            return owed;
        }
        let mut played = Vec::new();
        let result = guard(|| {
            cluster::say(subject, &format!("making a cluster of one node ({})", self.purpose));
            let mut cluster = Cluster::new(top, subject, self.purpose, packages)?;
            (self.play)(&mut cluster, &chosen, &mut played)
        });
        let reason = result.err().map_or_else(String::new, |error| error.to_string());
        if !reason.is_empty() {
            cluster::say(subject, &format!("the cluster for {} is lost: {reason}", self.purpose));
        }
        let row = |owed: Row| {
            let of_it = played.iter().find(|row| row.says == owed.says).cloned();
            of_it.unwrap_or_else(|| owed.not_played(&reason))
        };
        owed.into_iter().map(row).collect()
    }
}

fn stories_owed(subject: Subject, chosen: &Chosen) -> Vec<Row> {
    let rows = chosen.chapters(subject).flat_map(Chapter::owed);
    rows.chain(chosen.has(verify::TITLE).then(verify::owed)).collect()
}

fn play_stories(cluster: &mut Cluster, chosen: &Chosen, rows: &mut Vec<Row>) -> Result<()> {
    for chapter in chosen.chapters(cluster.subject) {
        let played = chapter.play(cluster);
        // Whose daemon is not the one that is meant proves nothing.
        cluster.has_the_right_daemon()?;
        rows.extend(played);
    }
    if chosen.has(verify::TITLE) {
        rows.push(verify::play(cluster)?);
    }
    Ok(())
}
