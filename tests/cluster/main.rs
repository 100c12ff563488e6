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
use std::thread;

use cluster::{Cluster, Subject};
use story::Chapter;
use table::Row;
use testbed::{Need, can_run};

/// In this order: the second node comes last.
const CHAPTERS: [&Chapter; 6] = [
    &stories::ends::CHAPTER,
    &stories::daemon::RESTARTS,
    &stories::daemon::SWITCHED_OFF,
    &stories::daemon::SWITCHED_ON,
    &stories::two_nodes::MOVES,
    &stories::two_nodes::FAILURES,
];

fn main() -> ExitCode {
    let Some(top) = containment::top() else {
        if !can_run(&[Need::Root, Need::Qemu, Need::Ganeti, Need::Original]) {
            return ExitCode::SUCCESS;
        }
        return containment::run_contained();
    };
    // What fails is printed with its story.
    std::panic::set_hook(Box::new(|_| {}));
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let package = PathBuf::from(std::env::var_os("CLUSTER_PACKAGE").expect("CLUSTER_PACKAGE"));
    println!("Unpacking Ganeti for the nodes ...");
    node::make_base(&top, &target.join("cluster/packages"));
    let play = |subject| play_all(&top, subject, &package);
    let (ours, theirs) = thread::scope(|scope| {
        let theirs = scope.spawn(|| play(Subject::Theirs));
        let ours = play(Subject::Ours);
        (ours, theirs.join().expect("the thread does not panic"))
    });
    if table::print(&ours, &theirs) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plays those chapters whose titles contain one of the program's arguments, or all of them.
fn play_all(top: &Path, subject: Subject, package: &Path) -> Vec<Row> {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let is_chosen = |title: &str| chosen.is_empty() || chosen.iter().any(|c| title.contains(c));
    cluster::say(subject, "making a cluster of one node");
    let mut cluster = match Cluster::new(top, subject, "stories", package) {
        Ok(cluster) => cluster,
        Err(error) => {
            cluster::say(subject, &error.to_string());
            return Vec::new();
        }
    };
    let chapters = CHAPTERS.iter().filter(|chapter| is_chosen(chapter.title));
    chapters.flat_map(|chapter| chapter.play(&mut cluster)).collect()
}
