//! The comparison behind `make compare`: real QEMU guests end in every way that there is, once
//! under the eyes of the original daemon and once under those of this one.
//!
//! The original knows Ganeti's own paths only, so this plays in a mount namespace of its own.

use std::process::ExitCode;

use testbed::ways::{Subject, WAYS, WatchedGuest, Way};
use testbed::{Node, in_private_mounts, original};

fn main() -> ExitCode {
    let Some(original) = original() else {
        eprintln!("The original is not installed. Type: apt-get install ganeti-haskell-3.0");
        return ExitCode::FAILURE;
    };
    if let Some(code) = in_private_mounts() {
        return code;
    }
    let programs = [(Subject::Theirs, original), (Subject::Ours, testbed::daemon_program())];
    println!("theirs: {}\nours:   {}\n", programs[0].1.display(), programs[1].1.display());

    let mut table = Table::default();
    for way in &WAYS {
        println!("{} ...", way.deed);
        let [theirs, ours] = programs.each_ref().map(|(subject, program)| {
            let node = Node::machine(program);
            play(node.with_control_dir(), *subject, way)
        });
        table.add(way, &theirs, &ours);
    }
    table.print()
}

/// What a program made of it.
struct Opinion {
    has_file: bool,
    /// Whose doing it was, as far as it says.
    initiator: String,
}

fn play(node: &Node, subject: Subject, way: &Way) -> Opinion {
    let daemon = WatchedGuest::boot(node, subject, "web1", way.arguments).end(way);
    let has_file = node.has_shutdown_file("web1");
    let initiator = match subject {
        Subject::Ours => daemon.await_death("web1").initiator,
        Subject::Theirs if has_file => "user".into(),
        // It tells the administrator's doing from the rest in its log only.
        Subject::Theirs => "not user".into(),
    };
    Opinion { has_file, initiator }
}

#[derive(Default)]
struct Table {
    rows: Vec<String>,
    theirs_right: usize,
    ours_wrong: usize,
    surprises: Vec<String>,
}

impl Table {
    fn add(&mut self, way: &Way, theirs: &Opinion, ours: &Opinion) {
        let theirs_is_right = theirs.has_file == way.is_users();
        let ours_is_right = ours.has_file == way.is_users() && ours.initiator == way.initiator;
        self.theirs_right += usize::from(theirs_is_right);
        self.ours_wrong += usize::from(!ours_is_right);
        if theirs.has_file != way.original_says_user {
            self.surprises.push(format!("{}: the original says {}", way.deed, theirs.initiator));
        }
        let mark = |is_right, initiator: &str| {
            if is_right { initiator.to_string() } else { format!("{initiator} (wrong)") }
        };
        self.rows.push(format!(
            "{:<40}  {:<16}  {:<16}  {:<9}  {}",
            way.deed,
            mark(theirs_is_right, &theirs.initiator),
            mark(ours_is_right, &ours.initiator),
            way.initiator,
            way.cause,
        ));
    }

    fn print(self) -> ExitCode {
        println!(
            "\n{:<40}  {:<16}  {:<16}  {:<9}  cause",
            "how it ended", "the original", "this program", "right"
        );
        for row in &self.rows {
            println!("{row}");
        }
        println!(
            "\nRight: the original in {} of {}, this program in {} of {}.",
            self.theirs_right,
            self.rows.len(),
            self.rows.len() - self.ours_wrong,
            self.rows.len(),
        );
        for surprise in &self.surprises {
            println!("Not as it used to be: {surprise}");
        }
        if self.ours_wrong == 0 && self.surprises.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
