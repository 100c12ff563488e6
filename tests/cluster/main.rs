//! Real clusters of Ganeti on this machine: what `gnt-instance list` says of an instance that ended,
//! and what `ganeti-watcher` does about it, with this project's daemon and with the original.
//!
//! `make cluster` runs it. Each cluster's nodes have namespaces of their own (`node.rs`), and nothing
//! is left of them (`containment.rs`). What is played is in `stories/`.

mod cluster;
mod containment;
mod instance;
mod node;
mod stories;
mod story;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::{self, ScopedJoinHandle};

use cluster::{Cluster, Packages, Subject};
use story::Chapter;
use table::Row;
use testbed::{Need, can_run};

/// A row of the table that takes both clusters.
const VERIFY: &str = "gnt-cluster verify: complaints";

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

fn main() -> ExitCode {
    let Some(top) = containment::top() else {
        if !can_run(&[Need::Root, Need::Qemu, Need::Ganeti, Need::Original]) {
            return ExitCode::SUCCESS;
        }
        return containment::run_contained();
    };
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let package = |name: &str| {
        let path = std::env::var_os(name);
        PathBuf::from(path.unwrap_or_else(|| panic!("{name} is not set: `make cluster` sets it")))
    };
    let packages =
        Packages { daemon: package("CLUSTER_PACKAGE"), why: package("CLUSTER_KVMD_WHY") };
    println!("Unpacking Ganeti for the nodes ...");
    node::make_base(&top, &target.join("cluster/packages"));
    // What fails is printed with its story.
    std::panic::set_hook(Box::new(|_| {}));
    // Side by side: most of the time each of them waits.
    let (mut ours, mut theirs) = thread::scope(|scope| {
        let play = |subject, play: Play| {
            let (top, packages) = (&top, &packages);
            scope.spawn(move || play(top, subject, packages))
        };
        let [ours, theirs] = [Subject::Ours, Subject::Theirs].map(|subject| {
            [play_stories as Play, play_qa, play_rounds].map(|it| play(subject, it))
        });
        let join = |parts: [ScopedJoinHandle<Vec<Row>>; 3]| {
            parts.into_iter().flat_map(|it| it.join().expect("it does not panic")).collect()
        };
        let (ours, theirs): (Vec<Row>, Vec<Row>) = (join(ours), join(theirs));
        (ours, theirs)
    });
    compare_complaints(&mut ours, &mut theirs);
    if table::print(&ours, &theirs) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is played on a cluster of its own.
type Play = fn(&Path, Subject, &Packages) -> Vec<Row>;

/// Whether the title contains one of the program's arguments; without any, all do.
fn is_chosen(title: &str) -> bool {
    let mut chosen = std::env::args().skip(1).filter(|it| !it.starts_with('-')).peekable();
    chosen.peek().is_none() || chosen.any(|it| title.contains(&it))
}

fn play_stories(top: &Path, subject: Subject, packages: &Packages) -> Vec<Row> {
    let chosen: Vec<_> = CHAPTERS.iter().filter(|chapter| is_chosen(chapter.title)).collect();
    let of_both = chosen.iter().filter(|chapter| !chapter.is_ours_alone).count();
    let is_ours = subject == Subject::Ours;
    let chapters = chosen.into_iter().filter(|chapter| is_ours || !chapter.is_ours_alone);
    let chapters: Vec<_> = chapters.collect();
    let Some(mut cluster) = make(top, subject, "stories", packages, !chapters.is_empty()) else {
        return Vec::new();
    };
    let mut rows: Vec<Row> =
        chapters.into_iter().flat_map(|chapter| chapter.play(&mut cluster)).collect();
    // It is compared with the original's.
    if of_both > 0 {
        let result = cluster.complaints().join(";");
        rows.push(Row { says: VERIFY.into(), expected: String::new(), result });
    }
    rows
}

/// What the cluster of the original is blamed for (this machine's `/proc`, say), ours may be, too.
fn compare_complaints(ours: &mut [Row], theirs: &mut [Row]) {
    let find = |row: &&mut Row| row.says == VERIFY;
    let Some(theirs) = theirs.iter_mut().find(find) else { return };
    if let Some(ours) = ours.iter_mut().find(find) {
        ours.expected = "as with the original".into();
        if ours.result == theirs.result {
            ours.result.clone_from(&ours.expected);
        }
    }
    theirs.expected = "as with the original".into();
    theirs.result.clone_from(&theirs.expected);
}

fn play_qa(top: &Path, subject: Subject, packages: &Packages) -> Vec<Row> {
    let tests: Vec<_> =
        stories::qa::TESTS.into_iter().filter(|(title, _)| is_chosen(title)).collect();
    let cluster = make(top, subject, "qa", packages, !tests.is_empty());
    cluster.map(|cluster| stories::qa::play(&cluster, &tests)).unwrap_or_default()
}

fn play_rounds(top: &Path, subject: Subject, packages: &Packages) -> Vec<Row> {
    let cluster = make(top, subject, "rounds", packages, is_chosen("rounds"));
    cluster.map(|cluster| vec![stories::qa::play_rounds(&cluster)]).unwrap_or_default()
}

/// A cluster of one node, if it is wanted and can be made.
fn make(
    top: &Path,
    subject: Subject,
    purpose: &str,
    packages: &Packages,
    is_wanted: bool,
) -> Option<Cluster> {
    if !is_wanted {
        return None;
    }
    cluster::say(subject, &format!("making a cluster of one node ({purpose})"));
    Cluster::new(top, subject, purpose, packages)
        .inspect_err(|error| cluster::say(subject, &error.to_string()))
        .ok()
}
