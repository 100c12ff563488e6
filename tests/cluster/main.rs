//! Real clusters of Ganeti on this machine: what `gnt-instance list` says of an instance that ended,
//! and what `ganeti-watcher` does about it, with this project's daemon and with the original.
//!
//! `make cluster` runs it. Each cluster's nodes have namespaces of their own (`node.rs`), and nothing
//! is left of them (`containment.rs`). What is played is in `stories/`.

mod cluster;
mod containment;
mod instance;
mod node;
mod part;
mod processes;
mod stories;
mod story;
mod table;
mod told;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::{self, ScopedJoinHandle};

use cluster::{Packages, Subject};
use part::{PARTS, Part};
use table::Row;
use testbed::{Need, can_run};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with('-')).collect();
    if let Some(word) = part::unmatched(&words) {
        eprintln!("No chapter's title contains \"{word}\". These are the titles:");
        part::titles().for_each(|title| eprintln!("  {title}"));
        return ExitCode::FAILURE;
    }
    let Some(top) = containment::top() else {
        if !can_run(&[Need::Root, Need::Qemu, Need::Ganeti, Need::Original]) {
            return ExitCode::FAILURE;
        }
        return containment::run_contained();
    };
    let packages = unpack(&top);
    // What fails is printed with its story.
    std::panic::set_hook(Box::new(|_| {}));
    // Side by side: most of the time each of them waits.
    let (mut ours, mut theirs) = thread::scope(|scope| {
        let (top, packages, words) = (&top, &packages, &words);
        let play = |subject, part: &'static Part| {
            scope.spawn(move || part.play(top, subject, packages, words))
        };
        let [ours, theirs] = [Subject::Ours, Subject::Theirs]
            .map(|subject| PARTS.iter().map(|part| play(subject, part)).collect::<Vec<_>>());
        let join = |parts: Vec<ScopedJoinHandle<Vec<Row>>>| {
            parts.into_iter().flat_map(|it| it.join().expect("each part catches it")).collect()
        };
        let (ours, theirs): (Vec<Row>, Vec<Row>) = (join(ours), join(theirs));
        (ours, theirs)
    });
    stories::verify::compare(&mut ours, &mut theirs);
    if table::print(&ours, &theirs) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Unpacks what all nodes have, and what is installed on those with our daemon.
fn unpack(top: &Path) -> Packages {
    let package = |name: &str| {
        let path = std::env::var_os(name);
        PathBuf::from(path.unwrap_or_else(|| panic!("{name} is not set: `make cluster` sets it")))
    };
    let (daemon, why) = (package("CLUSTER_PACKAGE"), package("CLUSTER_KVMD_WHY"));
    println!("Unpacking Ganeti for the nodes ...");
    let ganeti = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cluster/packages");
    node::make_base(top, &ganeti, &daemon);
    Packages { daemon, why }
}
