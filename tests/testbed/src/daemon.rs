//! The daemon under test: a process, and what it says.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::process::{Pid, kill_process_group};

use crate::node::Node;
use crate::{Signal, original, patience, send_signal};

/// What to start a daemon with so that it gets neither the trace nor the proc connector: it is in
/// a user namespace of its own. To the root of that belongs a tracefs that the machine has mounted, so
/// it does not see that.
pub const WITHOUT_TRACE: [&str; 6] = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    "for tracefs in /sys/kernel/tracing /sys/kernel/debug; do mount -t tmpfs none $tracefs; done \
     2>/dev/null; exec unshare --user --map-root-user \"$@\"",
    "sh",
];

/// What it says when it is up.
const WATCHES: &str = "Watch directory";

/// What the daemon has written to stderr so far.
#[derive(Debug, Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    grew: Condvar,
}

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
}

/// What the daemon's log says of an instance's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    pub name: String,
    pub cause: String,
    pub initiator: String,
    /// The whole line, after its time and level.
    pub line: String,
}

impl Daemon {
    pub(crate) fn start(node: &Node, wrapper: &[&str], arguments: &[&str]) -> Self {
        let daemon = Self::spawn(node, wrapper, arguments);
        daemon.await_line(WATCHES);
        // It has it, or has said why not, when it has found nothing else to do. The original has
        // none.
        if original().is_none_or(|original| original != node.program()) {
            daemon.await_line("The kernel's trace");
        }
        daemon
    }

    /// Waits until it watches, or has said why it cannot.
    pub(crate) fn try_start(node: &Node, wrapper: &[&str], arguments: &[&str]) -> Option<Self> {
        let ends = ["Error when starting the daemon process: ", "daemon shutdown"];
        let daemon = Self::spawn(node, wrapper, arguments);
        // The first one may be the line that could not be written.
        let lives = [WATCHES, "proc connector"];
        let line = daemon.await_any_line(&[lives[0], lives[1], ends[0], ends[1]]);
        if lives.iter().any(|sign| line.contains(sign)) {
            return Some(daemon);
        }
        daemon.ended();
        None
    }

    fn spawn(node: &Node, wrapper: &[&str], arguments: &[&str]) -> Self {
        let program = node.program().to_str().expect("a program's path in UTF-8");
        let words: Vec<&str> = wrapper.iter().chain(&[program]).copied().collect();
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .args(["-f", "--no-user-checks"])
            .args(arguments)
            .envs(node.environment())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // With a wrapper that stays, both are killed together.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {words:?}: {error}"));
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().expect("stderr is piped");
        let reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || log.collect(stderr)
        });
        Self { child, log, reader: Some(reader) }
    }

    /// The pid of the process that was started; a wrapper's where there is one that stays.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything said so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.log.lines.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// How many lines so far contain `text`.
    #[must_use]
    pub fn count(&self, text: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(text)).count()
    }

    /// Waits for a line that contains `text` and returns the first.
    pub fn await_line(&self, text: &str) -> String {
        self.await_lines(text, 1).swap_remove(0)
    }

    /// Waits for a line that contains one of these and returns the first.
    pub fn await_any_line(&self, texts: &[&str]) -> String {
        self.await_matching(&format!("a line with one of {texts:?}"), |lines| {
            lines.iter().find(|line| texts.iter().any(|text| line.contains(text))).cloned()
        })
    }

    /// Waits until `count` lines contain `text` and returns them all.
    pub fn await_lines(&self, text: &str, count: usize) -> Vec<String> {
        self.await_matching(&format!("{count} lines with {text:?}"), |lines| {
            let found: Vec<String> =
                lines.iter().filter(|line| line.contains(text)).cloned().collect();
            (found.len() >= count).then_some(found)
        })
    }

    /// Waits for the end of this instance, the first one told of.
    pub fn await_death(&self, name: &str) -> Death {
        self.await_deaths(name, 1).swap_remove(0)
    }

    /// Waits until `count` ends of this instance have been told of.
    pub fn await_deaths(&self, name: &str, count: usize) -> Vec<Death> {
        self.await_matching(&format!("{count} ends of {name}"), |lines| {
            let deaths = lines.iter().filter_map(|line| Death::parse(line));
            let deaths: Vec<Death> = deaths.filter(|death| death.name == name).collect();
            (deaths.len() >= count).then_some(deaths)
        })
    }

    /// Waits until as many ends have been told of, of whatever instances.
    pub fn await_any_deaths(&self, count: usize) -> Vec<Death> {
        self.await_matching(&format!("{count} ends"), |lines| {
            let deaths: Vec<Death> = lines.iter().filter_map(|line| Death::parse(line)).collect();
            (deaths.len() >= count).then_some(deaths)
        })
    }

    fn await_matching<T>(&self, what: &str, find: impl Fn(&[String]) -> Option<T>) -> T {
        let deadline = Instant::now() + patience();
        let mut lines = self.log.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = find(&lines.0) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.1 || left.is_zero() {
                let ended = if lines.1 { "the daemon has ended" } else { "it did not come" };
                let mut text = format!("waiting for {what}: {ended}. The log:\n");
                for line in &lines.0 {
                    let _ = writeln!(text, "  {line}");
                }
                drop(lines);
                panic!("{text}");
            }
            lines =
                self.log.grew.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A number from `/proc/PID/status`, such as `VmRSS` (kB) or `voluntary_ctxt_switches`.
    #[must_use]
    pub fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("read the daemon's status");
        let fields: HashMap<&str, &str> =
            status.lines().filter_map(|line| line.split_once(':')).collect();
        let value = fields.get(field).and_then(|value| value.split_whitespace().next());
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {field}"))
    }

    /// Whether it has an inotify watch on this directory, as the kernel shows it.
    #[must_use]
    pub fn watches(&self, directory: &Path) -> bool {
        let inode = fs::metadata(directory).expect("look at the directory").ino();
        let shown = format!(" ino:{inode:x} ");
        let descriptors = fs::read_dir(format!("/proc/{}/fdinfo", self.pid()));
        descriptors.into_iter().flatten().flatten().any(|descriptor| {
            let info = fs::read_to_string(descriptor.path()).unwrap_or_default();
            info.lines().any(|line| line.starts_with("inotify ") && line.contains(&shown))
        })
    }

    /// How often the daemon has been woken, or has made way for others.
    #[must_use]
    pub fn context_switches(&self) -> u64 {
        self.status("voluntary_ctxt_switches") + self.status("nonvoluntary_ctxt_switches")
    }

    /// The CPU time that it has used, in clock ticks.
    #[must_use]
    pub fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("read stat");
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        let fields: Vec<&str> = fields.split_whitespace().collect();
        [11, 12].iter().map(|&field| fields[field].parse::<u64>().expect("a number")).sum()
    }

    pub fn signal(&self, signal: Signal) {
        send_signal(self.pid(), signal);
    }

    /// Asks it to end with SIGTERM and waits until it has.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.child.wait().expect("wait for the daemon")
    }

    /// Kills it with SIGKILL, waits until it is gone, and returns everything that it said.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("kill the daemon");
        self.ended().0
    }

    /// Waits until it has ended by itself, and returns everything that it said, and how it ended.
    pub fn ended(mut self) -> (Vec<String>, ExitStatus) {
        let status = self.child.wait().expect("wait for the daemon");
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        (self.lines(), status)
    }

    /// Fails if it has ended.
    pub fn assert_alive(&mut self) {
        let ended = self.child.try_wait().expect("look at the daemon");
        assert_eq!(ended, None, "the daemon has ended");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let group = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Log {
    fn collect(&self, stderr: ChildStderr) {
        for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            self.lines.lock().unwrap_or_else(PoisonError::into_inner).0.push(line);
            self.grew.notify_all();
        }
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.grew.notify_all();
    }
}

impl Death {
    /// Reads a line of the daemon's log; nothing if it tells of no end.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (_, line) = line.split_once(" INFO Instance \"")?;
        let (verdict, cause) = line.split_once(": cause ")?;
        let (name, _) = verdict.split_once('"')?;
        let (cause, rest) = cause.split_once(", initiator ")?;
        let initiator = rest.split([',', ';']).next()?;
        Some(Self {
            name: name.into(),
            cause: cause.into(),
            initiator: initiator.into(),
            line: format!("Instance \"{line}"),
        })
    }
}
