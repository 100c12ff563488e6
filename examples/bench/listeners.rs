//! What it costs a machine that somebody listens to how its processes end.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use testbed::Node;

use crate::herd::{Habits, Herd};
use crate::subject::{Running, Subject};
use crate::table::median;

/// Machines that ours watches meanwhile.
const MACHINES: usize = 20;

/// For how long a program is given to set up or to tidy up.
const SETTLE: Duration = Duration::from_millis(150);

/// Who listens to the kernel's proc connector.
#[derive(Debug)]
pub(crate) enum Listener {
    Ours { node: Node, herd: Herd },
    Other { program: &'static str, arguments: &'static [&'static str] },
}

impl Listener {
    pub(crate) fn ours() -> Self {
        let node = Subject::Ours.node();
        let herd = Herd::start(&node, MACHINES, Habits::default());
        Self::Ours { node, herd }
    }

    pub(crate) fn forkstat() -> Self {
        Self::Other { program: "forkstat", arguments: &["-e", "exit"] }
    }

    pub(crate) fn extrace() -> Self {
        Self::Other { program: "extrace", arguments: &["-t", "-o", "/dev/null"] }
    }

    fn start(&self) -> Running {
        match self {
            Self::Ours { node, herd } => {
                let daemon = Subject::Ours.start(node);
                herd.await_commands(Subject::Ours.commands());
                thread::sleep(SETTLE);
                daemon
            }
            Self::Other { program, arguments } => {
                let mut command = Command::new(program);
                command.args(*arguments).stderr(Stdio::null());
                let listener = Running::start(command);
                thread::sleep(SETTLE);
                listener
            }
        }
    }

    fn stop(&self, listener: Running) {
        listener.stop();
        if let Self::Ours { herd, .. } = self {
            herd.await_silence();
        }
        thread::sleep(SETTLE);
    }

    /// How often it is on a CPU while so many processes come and go.
    pub(crate) fn context_switches(&self, processes: usize) -> f64 {
        let listener = self.start();
        let before = listener.context_switches();
        storm(processes);
        let after = listener.context_switches();
        self.stop(listener);
        (after - before) as f64
    }

    /// How many processes come and go with it for one without it: the median of as many rounds as
    /// there is time for. The two take turns in being first.
    pub(crate) fn slowdown(&self, time: Duration) -> f64 {
        /// So many take a quarter of a second: more than a scheduler's whim.
        const PROCESSES: usize = 5000;
        const FEWEST_ROUNDS: usize = 6;
        const MOST_ROUNDS: usize = 200;
        let with = || {
            let listener = self.start();
            let took = storm(PROCESSES);
            self.stop(listener);
            took
        };
        let round = |number: usize| {
            if number.is_multiple_of(2) {
                let without = storm(PROCESSES);
                without / with()
            } else {
                let with = with();
                storm(PROCESSES) / with
            }
        };
        let begun = Instant::now();
        let in_time = |number: &usize| *number < FEWEST_ROUNDS || begun.elapsed() < time;
        median(&mut (0..MOST_ROUNDS).take_while(in_time).map(round).collect::<Vec<f64>>())
    }
}

/// Has so many processes come and go; how long it took, in nanoseconds.
fn storm(processes: usize) -> f64 {
    let output = Command::new(testbed::example("fork_storm")).arg(processes.to_string()).output();
    let output = output.expect("run fork_storm");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("fork_storm: {output:?}"))
}
