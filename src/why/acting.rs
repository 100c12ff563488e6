//! Runs the administrator's command for each end, one after the other or a few side by side.
//!
//! How many run, how many wait, and how long one may take is bounded: ends come as fast as virtual
//! machines die, and a command may hang. What is not run is counted and said. A record is written by
//! others, so nothing of it gets into a command line: it is on the command's stdin, and in its
//! environment.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt::{self, Arguments};
use std::io;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crate::log::StderrOutput;
use crate::sys::child::memory_file;
use crate::sys::process_group::ProcessGroup;
use crate::sys::signal_descriptor::SignalMask;
use crate::wire::Signal;
use crate::wire::record::Record;

/// So many ends wait at most, and so many bytes of their records and environments.
const WAITING: usize = 1000;
const WAITING_BYTES: usize = 16 << 20;

/// How long a command has to end by itself once it has been asked to.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// What is run, and within which bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) words: OsString,
    /// So many run at once.
    pub(super) at_once: usize,
    /// How long one may take.
    pub(super) at_most: Duration,
}

/// Commands that run, and ends that wait for theirs.
pub(super) struct Acting {
    command: Command,
    mask: SignalMask,
    waiting: VecDeque<End>,
    waiting_bytes: usize,
    running: Vec<Running>,
    /// Ends that found no room.
    dropped: u64,
    stderr: StderrOutput,
}

/// An end for which the command is to be run.
struct End {
    line: Vec<u8>,
    environment: Vec<(&'static str, String)>,
}

struct Running {
    name: String,
    group: ProcessGroup,
    stage: Stage,
}

/// What is done to a command, and when the next thing is due.
#[derive(Clone, Copy)]
enum Stage {
    Free(Instant),
    /// Its time was over, or all is to end: it has been asked to.
    Asked(Why, Instant),
    Killed(Why, Instant),
    /// It has not even ended then: the kernel has it wait for a disk, say. It keeps its place, so that
    /// there are never more of them.
    Stuck(Why),
}

#[derive(Clone, Copy)]
enum Why {
    TooLong,
    AllEnds,
}

impl End {
    fn new(line: Vec<u8>, record: &Record) -> Self {
        Self { line, environment: record.environment() }
    }

    /// The instance, cut and fit to print.
    fn name(&self) -> &str {
        self.environment.iter().find(|(key, _)| *key == "KVMD_NAME").map_or("", |(_, name)| name)
    }

    fn bytes(&self) -> usize {
        self.line.len() + self.environment.iter().map(|(_, value)| value.len()).sum::<usize>()
    }
}

impl Acting {
    pub(super) fn new(command: Command, mask: SignalMask) -> Self {
        Self {
            command,
            mask,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            running: Vec::new(),
            dropped: 0,
            stderr: StderrOutput::default(),
        }
    }

    /// Has the command run for this end, as soon as it is its turn.
    pub(super) fn add(&mut self, line: Vec<u8>, record: &Record) {
        let end = End::new(line, record);
        if self.waiting.len() >= WAITING || self.waiting_bytes + end.bytes() > WAITING_BYTES {
            if self.dropped == 0 {
                let name = end.name();
                self.say(format_args!(
                    "{name}: too many ends wait for their command; from this one on it is not run until there is room"
                ));
            }
            self.dropped += 1;
            return;
        }
        self.say_dropped();
        self.waiting_bytes += end.bytes();
        self.waiting.push_back(end);
    }

    /// Does what is due: notes which commands have ended, ends those that take too long, starts others.
    pub(super) fn turn(&mut self, now: Instant) {
        self.look(now);
        while self.running.len() < self.command.at_once
            && let Some(end) = self.waiting.pop_front()
        {
            self.waiting_bytes -= end.bytes();
            self.start(end, now);
            self.say_dropped();
        }
    }

    /// When the next thing is due, if nothing happens before.
    pub(super) fn due(&self) -> Option<Instant> {
        self.running.iter().filter_map(|running| running.stage.due()).min()
    }

    /// Asks all that run to end; nothing is started any more.
    pub(super) fn begin_to_end(&mut self, now: Instant) {
        if !self.waiting.is_empty() {
            let count = self.waiting.len();
            self.say(format_args!("ending; the command is not run for {count} more that wait"));
            self.waiting.clear();
            self.waiting_bytes = 0;
        }
        self.say_dropped();
        for running in &mut self.running {
            if let Stage::Free(_) = running.stage {
                running.ask(Why::AllEnds, now);
            }
        }
    }

    /// Whether nothing runs that is worth waiting for.
    pub(super) fn is_idle(&self) -> bool {
        self.running.iter().all(|running| matches!(running.stage, Stage::Stuck(_)))
    }

    pub(super) fn say(&mut self, text: Arguments<'_>) {
        self.stderr.write(format!("kvmd-why: {text}\n").as_bytes());
    }

    fn say_dropped(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            self.say(format_args!("the command was not run for {dropped} ends: too many waited"));
        }
    }

    fn start(&mut self, end: End, now: Instant) {
        let name = end.name().to_string();
        let start = || {
            let input = memory_file(&end.line)?;
            ProcessGroup::start(&self.command.words, end.environment, input, self.mask)
        };
        match start() {
            Ok(group) => {
                let stage = Stage::Free(now + self.command.at_most);
                self.running.push(Running { name, group, stage });
            }
            Err(error) => {
                self.say(format_args!("{name}: cannot start the command: {error}"));
            }
        }
    }

    fn look(&mut self, now: Instant) {
        let mut running = std::mem::take(&mut self.running);
        running.retain_mut(|it| match it.group.try_end() {
            Ok(None) => {
                it.do_what_is_due(now);
                true
            }
            Ok(Some(status)) => {
                if !status.success() || !matches!(it.stage, Stage::Free(_)) {
                    let ended = Ended { status, stage: it.stage, at_most: self.command.at_most };
                    self.say(format_args!("{}: the command {ended}", it.name));
                }
                false
            }
            Err(error) => {
                self.say(format_args!("{}: cannot wait for the command: {error}", it.name));
                false
            }
        });
        self.running = running;
    }
}

impl Stage {
    fn due(self) -> Option<Instant> {
        match self {
            Self::Free(due) | Self::Asked(_, due) | Self::Killed(_, due) => Some(due),
            Self::Stuck(_) => None,
        }
    }
}

impl Running {
    fn do_what_is_due(&mut self, now: Instant) {
        match self.stage {
            Stage::Free(due) if due <= now => self.ask(Why::TooLong, now),
            Stage::Asked(why, due) if due <= now => {
                self.send(Signal::KILL);
                self.stage = Stage::Killed(why, now + GRACE);
            }
            Stage::Killed(why, due) if due <= now => self.stage = Stage::Stuck(why),
            _ => {}
        }
    }

    fn ask(&mut self, why: Why, now: Instant) {
        self.send(Signal::TERM);
        self.stage = Stage::Asked(why, now + GRACE);
    }

    fn send(&self, signal: Signal) {
        // It can fail only where nobody is left: the next look finds its status.
        let _ = self.group.send(signal);
    }
}

/// How a command ended, to follow it.
struct Ended {
    status: ExitStatus,
    stage: Stage,
    at_most: Duration,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at_most.as_secs();
        match self.stage {
            Stage::Free(_) => write!(f, "failed: {}", self.status),
            Stage::Asked(Why::TooLong, _) => {
                write!(f, "took longer than {seconds} s, and was asked to end: {}", self.status)
            }
            Stage::Killed(Why::TooLong, _) | Stage::Stuck(Why::TooLong) => {
                write!(
                    f,
                    "took longer than {seconds} s, did not end when it was asked to, and was killed"
                )
            }
            Stage::Asked(Why::AllEnds, _) => {
                write!(f, "was asked to end, as this ends: {}", self.status)
            }
            Stage::Killed(Why::AllEnds, _) | Stage::Stuck(Why::AllEnds) => {
                f.write_str("was killed, as this ends")
            }
        }
    }
}

/// Text for whoever reads stdout; he is left behind if he does not.
pub(super) struct Unhurried(StderrOutput);

impl Unhurried {
    pub(super) fn new() -> Self {
        Self(StderrOutput::default())
    }
}

impl io::Write for Unhurried {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.write_to(rustix::stdio::stdout(), text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
