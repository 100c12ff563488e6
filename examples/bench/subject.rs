//! A program that is measured: started and stopped, and what the kernel says of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use testbed::{Node, Signal, send_signal};

/// Which of the daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Ours,
    Theirs,
}

impl Subject {
    pub(crate) fn program(self) -> PathBuf {
        match self {
            Self::Ours => testbed::daemon_program(),
            Self::Theirs => testbed::original().expect("the original is installed"),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Theirs => "original",
        }
    }

    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Ours, Self::Theirs].into_iter().find(|subject| subject.name() == name)
    }

    /// How many commands it sends over a new connection.
    pub(crate) fn commands(self) -> u64 {
        match self {
            // It asks for the state, too.
            Self::Ours => 2,
            Self::Theirs => 1,
        }
    }

    /// An empty node for it. The original knows Ganeti's own paths only, so both are given those.
    pub(crate) fn node(self) -> Node {
        let node = Node::machine(self.program());
        node.with_control_dir();
        node
    }

    /// Starts it on this node as its init script does, but in the foreground; ours through the
    /// command `BENCH_PREFIX` if there is one, to try out what else would help (`nice -n -10`).
    pub(crate) fn start(self, node: &Node) -> Running {
        let log = fs::File::create(node.path("var/log/ganeti/bench.log")).expect("create a log");
        let prefix = std::env::var("BENCH_PREFIX").ok().filter(|_| self == Self::Ours);
        let mut words = prefix.iter().flat_map(|prefix| prefix.split_whitespace());
        let mut command = match words.next() {
            None => Command::new(node.program()),
            Some(word) => {
                let mut command = Command::new(word);
                command.args(words).arg(node.program());
                command
            }
        };
        command.args(["-f", "--no-user-checks"]).envs(node.environment()).stderr(log);
        Running::start(command)
    }
}

/// A running program; killed when dropped.
#[derive(Debug)]
pub(crate) struct Running(Child);

/// In KiB, from `/proc/PID/smaps_rollup`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) rss: u64,
    pub(crate) pss: u64,
    pub(crate) private: u64,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    fn proc(&self, file: &str) -> String {
        let path = Path::new("/proc").join(self.pid().to_string()).join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub(crate) fn memory(&self) -> Memory {
        let rollup = self.proc("smaps_rollup");
        let private = field(&rollup, "Private_Clean") + field(&rollup, "Private_Dirty");
        Memory { rss: field(&rollup, "Rss"), pss: field(&rollup, "Pss"), private }
    }

    /// In KiB; cheaper than [`Running::memory`].
    pub(crate) fn rss(&self) -> u64 {
        field(&self.proc("status"), "VmRSS")
    }

    /// Voluntary and involuntary, of all its threads.
    pub(crate) fn context_switches(&self) -> u64 {
        let of = |status: &str| {
            field(status, "voluntary_ctxt_switches") + field(status, "nonvoluntary_ctxt_switches")
        };
        self.threads("status").iter().map(|status| of(status)).sum()
    }

    /// The time on a CPU of all its threads, in nanoseconds.
    pub(crate) fn cpu(&self) -> u64 {
        let first = |text: &String| -> u64 {
            text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default()
        };
        self.threads("schedstat").iter().map(first).sum()
    }

    fn threads(&self, file: &str) -> Vec<String> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("list its threads");
        let texts = threads.flatten().map(|thread| fs::read_to_string(thread.path().join(file)));
        texts.flatten().collect()
    }

    /// Waits until it has nothing to do.
    pub(crate) fn await_idle(&self) {
        let mut before = self.cpu();
        loop {
            thread::sleep(Duration::from_millis(200));
            let now = self.cpu();
            // An idle Haskell program looks for garbage now and then.
            if now - before < 200_000 {
                return;
            }
            before = now;
        }
    }

    /// Has it end in good order.
    pub(crate) fn stop(mut self) {
        send_signal(self.pid(), Signal::TERM);
        self.0.wait().expect("wait for it");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A number of a file like `/proc/PID/status`.
pub(crate) fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = line.and_then(|line| line.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}"))
}

/// What the machine has left, in KiB.
pub(crate) fn available_memory() -> u64 {
    field(&fs::read_to_string("/proc/meminfo").expect("read /proc/meminfo"), "MemAvailable")
}
