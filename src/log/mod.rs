//! The log, in the line format of Ganeti's daemons: to a file, to stderr, to syslog.
//!
//! What each level means here:
//! - error: something is wrong that a person must put right; the line says how;
//! - warning: something is missing or reduced, and the daemon goes on without it;
//! - notice: the daemon starts and ends;
//! - info: what is watched, what was decided, why an instance ended;
//! - debug: every event of the directory and every QMP message; never to syslog.
//!
//! A thread writes its lines itself and waits for the disk, unless it has them queued
//! ([`queue_lines`]): then it waits for nobody, and takes no lock. The `env_logger` crate cannot do
//! that: it takes one mutex of the whole process for each line, even for an empty one, so the event
//! loop at its real-time priority would wait for an ordinary thread that holds it.

mod outputs;
mod stderr;

use std::cell::RefCell;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use log::{Level, LevelFilter, Metadata, Record};

use crate::sys::append_file::AppendFile;
use crate::sys::journal;
use outputs::{Outputs, SyslogOutput};
pub(crate) use stderr::StderrOutput;

/// The target of a line of level NOTICE, which the `log` crate does not have:
/// `info!(target: NOTICE, ...)`.
pub const NOTICE: &str = "kvmd::notice";

/// Who writes the lines.
pub(crate) const PROGRAM: &str = "ganeti-kvmd";

/// The part of this program whose lines are logged: all of it. Libraries' lines are not.
const LOGGED: &str = "kvmd";

/// Longer than most lines.
const LINE: usize = 192;

/// What was said before a panic is waited for this long.
const AT_A_PANIC: Duration = Duration::from_secs(1);

/// Where the lines of a thread wait to be written by another.
pub trait Queue {
    /// Takes a line, or drops it where there is no room. Must not log.
    fn add_line(&self, is_debug: bool, line: Vec<u8>);

    /// Waits until everything that was taken is written, for `longest` at most.
    fn finish(&self, longest: Duration);
}

thread_local! {
    static QUEUE: RefCell<Option<Rc<dyn Queue>>> = const { RefCell::new(None) };
}

/// This process, as lines name it; known from the first of them, which comes after the last fork. To
/// ask for it takes a system call.
static PID: OnceLock<u32> = OnceLock::new();

/// Has all further lines of this thread go to this queue.
pub fn queue_lines(queue: Rc<dyn Queue>) {
    QUEUE.with(|it| *it.borrow_mut() = Some(queue));
}

/// Waits until the lines that this thread has queued are written, for `longest` at most. Those that
/// it logs from now on it writes itself.
pub fn finish(longest: Duration) {
    let queue = QUEUE.try_with(|it| it.try_borrow_mut().ok().and_then(|mut it| it.take()));
    if let Ok(Some(queue)) = queue {
        queue.finish(longest);
    }
}

/// A line of level INFO, for whoever writes it with [`Log::write`] later on.
#[must_use]
pub fn info_line(text: fmt::Arguments<'_>) -> Vec<u8> {
    line(&Record::builder().args(text).level(Level::Info).build())
}

/// The running log.
#[derive(Clone, Debug, Default)]
pub struct Log {
    outputs: Arc<Mutex<Outputs>>,
}

impl Log {
    /// A log that goes nowhere yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Has every line of the whole program go to this log from now on. Called once, after the last
    /// fork.
    pub fn start(&self, debug: bool) {
        log::set_max_level(if debug { LevelFilter::Debug } else { LevelFilter::Info });
        // It fails for the second one only.
        let _ = log::set_boxed_logger(Box::new(Logger(self.clone())));
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // Straight to stderr, which is the log's file in a daemon that has detached itself.
            print(panic);
            finish(AT_A_PANIC);
        }));
    }

    /// Has lines go to the file at `path` as well. If it cannot be opened, that will be tried
    /// again by [`Log::reopen`].
    pub fn to_file(&self, path: &Path) -> io::Result<()> {
        // The umask of Ganeti's daemons leaves the owner alone.
        self.outputs().file.insert(AppendFile::new(path, 0o666)).open()
    }

    /// Has lines go to stderr as well.
    pub fn to_stderr(&self) {
        let mut outputs = self.outputs();
        outputs.stderr = Some(StderrOutput::default());
        outputs.stderr_is_journal = journal::is_stderr();
    }

    /// Has lines go to the syslog as well.
    pub fn to_syslog(&self) -> io::Result<()> {
        self.outputs().syslog = Some(SyslogOutput::connect()?);
        Ok(())
    }

    /// Has stdout and stderr lead to the log's file, where nothing else is to be seen.
    pub fn take_output(&self) -> io::Result<()> {
        let mut outputs = self.outputs();
        outputs.takes_output = true;
        outputs.redirect()
    }

    /// Opens the file anew, as after its rotation. On an error the old one stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        let mut outputs = self.outputs();
        if let Some(file) = &mut outputs.file {
            file.open()?;
        }
        outputs.redirect()
    }

    /// Writes one whole line, for which it waits. Errors are not returned: nobody could be told.
    pub fn write(&self, line: &[u8]) {
        self.outputs().write(line, false);
    }

    /// The same for a line whose text the journal has got by itself: it is not to have it once more
    /// by way of stderr.
    pub fn write_beside_journal(&self, line: &[u8]) {
        self.outputs().write(line, true);
    }

    fn outputs(&self) -> MutexGuard<'_, Outputs> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the `log` crate's macros end in.
struct Logger(Log);

impl log::Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with(LOGGED)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = line(record);
        let queue = QUEUE.try_with(|it| it.try_borrow().ok().and_then(|it| it.clone()));
        match queue {
            Ok(Some(queue)) => queue.add_line(record.level() >= Level::Debug, line),
            _ => self.0.write(&line),
        }
    }

    fn flush(&self) {}
}

fn line(record: &Record<'_>) -> Vec<u8> {
    let mut line = Vec::with_capacity(LINE);
    // Into memory: it cannot fail.
    let _ = write_line(&mut line, Timestamp::now(), *PID.get_or_init(std::process::id), record);
    line
}

fn level_name(record: &Record<'_>) -> &'static str {
    match record.level() {
        Level::Error => "ERROR",
        Level::Warn => "WARNING",
        Level::Info if record.target() == NOTICE => "NOTICE",
        Level::Info => "INFO",
        Level::Debug | Level::Trace => "DEBUG",
    }
}

fn write_line(
    line: &mut impl Write,
    time: Timestamp,
    pid: u32,
    record: &Record<'_>,
) -> io::Result<()> {
    let time = time.strftime("%Y-%m-%d %H:%M:%S,%9f000 UTC");
    let level = level_name(record);
    writeln!(line, "{time}: {PROGRAM} pid={pid}/ThreadId 1 {level} {}", record.args())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of(target: &str, level: Level) -> String {
        let mut line = Vec::new();
        let time = Timestamp::new(1_795_227_247, 667_502_669).unwrap();
        let record =
            Record::builder().target(target).level(level).args(format_args!("text")).build();
        write_line(&mut line, time, 7, &record).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_line_has_the_form_of_ganetis() {
        assert_eq!(
            line_of("kvmd::daemon", Level::Warn),
            "2026-11-21 02:14:07,667502669000 UTC: ganeti-kvmd pid=7/ThreadId 1 WARNING text\n"
        );
        assert!(line_of(NOTICE, Level::Info).ends_with(" NOTICE text\n"));
        assert!(line_of("kvmd::daemon", Level::Info).ends_with(" INFO text\n"));
    }
}
