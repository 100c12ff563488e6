//! What this project does with the QEMU and on the kernel of each Debian, played for real.
//!
//! `make platforms` runs it. A column of the table is a platform: `qemu.rs` ends real guests of the
//! QEMU of a Debian, `kernel.rs` boots the kernel of a Debian and runs this project's tests there,
//! `whole.rs` types what a newcomer would on a whole Debian. Each column is kept in `columns/` when it
//! has been played, with its date and its commit, and `page.rs` makes `docs/platforms.md` of those: what
//! was not played is not in it.
//!
//! With arguments it plays those columns alone whose titles contain one of them; with `--page` it plays
//! none, and makes the page of those that are kept.

mod build;
mod column;
mod debian;
mod expected;
mod kernel;
mod page;
mod qemu;
mod supervised;
mod whole;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use column::{Column, Commit};
use testbed::{Need, can_run, in_private_mounts};

/// Where the Debians are.
fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/platforms")
}

/// Where the columns are that were played, here or on somebody else's machine.
fn columns() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/platforms/columns")
}

/// What is put before a command that is not to outlive this program, whether that is interrupted or
/// killed.
const DIES_WITH_ITS_PARENT: [&str; 3] = ["setpriv", "--pdeathsig", "KILL"];

/// The titles of all columns.
fn titles() -> impl Iterator<Item = &'static str> {
    let qemus = qemu::PLATFORMS.iter().map(|it| it.title);
    let kernels = kernel::PLATFORMS.iter().map(|it| it.title);
    qemus.chain(kernels).chain(whole::PLATFORMS.iter().map(|it| it.title))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // This very program, in a machine that `kernel.rs` has booted.
    if arguments.iter().any(|it| it.starts_with("--test-threads")) {
        return qemu::play_inside();
    }
    if arguments == ["--page"] {
        write_page();
        return ExitCode::SUCCESS;
    }
    if let Some(word) = arguments.iter().find(|&word| !titles().any(|it| it.contains(word))) {
        eprintln!("no platform's title contains {word:?}; there are:");
        titles().for_each(|title| eprintln!("  {title}"));
        return ExitCode::FAILURE;
    }
    if !can_run(&[Need::Root, Need::Qemu]) {
        return ExitCode::FAILURE;
    }
    if let Some(code) = in_private_mounts() {
        return code;
    }
    let commit = Commit::of_this_tree().expect("a clone, which git can read");
    let is_right = play(&commit, |title| {
        arguments.is_empty() || arguments.iter().any(|it| title.contains(it))
    });
    write_page();
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plays the chosen columns and keeps them. Returns whether everything was played, and was right.
fn play(commit: &Commit, is_chosen: impl Fn(&str) -> bool) -> bool {
    let mut is_right = true;
    let mut keep = |column: &Column| {
        is_right &= column.is_right();
        column.keep(&columns()).expect("keep what was played");
    };
    let mut is_played = true;
    let mut played = |title: &str, result: Result<(), String>| {
        if let Err(error) = result {
            println!("{title}: {error}");
            is_played = false;
        }
    };
    for platform in qemu::PLATFORMS.iter().filter(|it| is_chosen(it.title)) {
        println!("\n{}", platform.title);
        played(platform.title, qemu::play(platform, commit).map(|column| keep(&column)));
    }
    for platform in kernel::PLATFORMS.iter().filter(|it| is_chosen(it.title)) {
        println!("\n{}", platform.title);
        played(platform.title, kernel::play(platform, commit).map(|column| keep(&column)));
    }
    for platform in whole::PLATFORMS.iter().filter(|it| is_chosen(it.title)) {
        println!("\n{}", platform.title);
        played(platform.title, whole::play(platform, commit, &mut keep));
    }
    is_right && is_played
}

fn write_page() {
    let page = page::of(&Column::all_kept(&columns()).expect("read the columns that are kept"));
    println!("\n{page}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/platforms.md");
    std::fs::write(path, page).expect("write docs/platforms.md");
}
