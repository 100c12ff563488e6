//! A process of an ordinary user that does the daemon harm: see `examples/attacker.rs`.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::getuid;

/// An ordinary user who owns nothing: `nobody`.
pub const NOBODY: u32 = 65_534;

/// A running attacker; killed when dropped.
#[derive(Debug)]
pub struct Attacker {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Attacker {
    /// Starts this attack, as [`NOBODY`]. Takes root, which is given up.
    #[must_use]
    pub fn start(attack: &[&str]) -> Self {
        assert!(getuid().is_root(), "only root can become somebody else");
        let mut child = Command::new(crate::example("attacker"))
            .arg(NOBODY.to_string())
            .args(attack)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the attacker");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Self { child, stdout }
    }

    /// Waits until it has done what it was to do; one that goes on for ever, until it has begun.
    pub fn await_done(&mut self) {
        let mut word = String::new();
        self.stdout.read_line(&mut word).expect("hear the attacker");
        assert_eq!(word, "done\n", "the attack has failed");
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
