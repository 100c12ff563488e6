//! Processes that behave like QEMU as far as the daemon can see, for tests that need hundreds
//! of them, or one that misbehaves. See `examples/stand_in_vm.rs`.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use crate::node::Node;
use crate::{Signal, patience, send_signal};

/// A stand-in that is yet to be started.
#[derive(Debug)]
pub struct StandInBuilder<'a> {
    node: &'a Node,
    name: OsString,
    options: Vec<String>,
}

/// A running stand-in; killed when dropped.
#[derive(Debug)]
pub struct StandIn {
    name: String,
    child: Child,
    stdin: ChildStdin,
    words: Receiver<String>,
}

impl<'a> StandInBuilder<'a> {
    pub(crate) fn new(node: &'a Node, name: &OsStr) -> Self {
        Self { node, name: name.into(), options: Vec::new() }
    }

    /// Adds an option of `examples/stand_in_vm.rs`.
    #[must_use]
    pub fn with(mut self, option: &str) -> Self {
        self.options.push(option.into());
        self
    }

    /// Starts it and waits until its socket is bound.
    #[must_use]
    pub fn start(self) -> StandIn {
        let mut child = Command::new(crate::example("stand_in_vm"))
            .arg(self.node.socket(&self.name))
            .args(&self.options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the stand-in");
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, words) = mpsc::channel();
        thread::spawn(move || {
            for word in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(word);
            }
        });
        let mut stand_in =
            StandIn { name: self.name.to_string_lossy().into_owned(), child, stdin, words };
        stand_in.await_word("bound");
        stand_in
    }

    /// Starts it and waits until the daemon has connected to it.
    #[must_use]
    pub fn connected(self) -> StandIn {
        let mut stand_in = self.start();
        stand_in.await_word("connected");
        stand_in
    }
}

impl StandIn {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says this word.
    pub fn await_word(&mut self, word: &str) {
        while let Ok(said) = self.words.recv_timeout(patience()) {
            if said == word {
                return;
            }
        }
        panic!("{} does not say {word:?}", self.name);
    }

    /// Gives it a command.
    pub fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").expect("tell the stand-in");
    }

    pub fn signal(&self, signal: Signal) {
        send_signal(self.pid(), signal);
    }

    /// Whether it has ended; it is reaped then.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("look at the stand-in").is_some()
    }

    /// Waits until it has ended, and reaps it.
    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().expect("wait for the stand-in")
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
