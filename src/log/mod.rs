//! The log, in the line format of Ganeti's daemons: to a file, to stderr, to syslog.
//!
//! What each level means here:
//! - error: something is wrong that a person must put right; the line says how;
//! - warning: something is missing or reduced, and the daemon goes on without it;
//! - notice: the daemon starts and ends;
//! - info: what is watched, what was decided, why an instance ended;
//! - debug: every event of the directory and every QMP message; never to syslog.

mod outputs;

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use env_logger::{Builder, Target};
use jiff::Timestamp;
use log::{Level, LevelFilter, Record};

use crate::sys::append_file::AppendFile;
use outputs::{Outputs, SyslogOutput};

/// The target of a line of level NOTICE, which the `log` crate does not have:
/// `info!(target: NOTICE, ...)`.
pub const NOTICE: &str = "kvmd::notice";

/// Who writes the lines.
const PROGRAM: &str = "ganeti-kvmd";

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
        let pid = std::process::id();
        Builder::new()
            .filter_module("kvmd", if debug { LevelFilter::Debug } else { LevelFilter::Info })
            .target(Target::Pipe(Box::new(self.clone())))
            .format(move |line, record| write_line(line, Timestamp::now(), pid, record))
            .init();
    }

    /// Has lines go to the file at `path` as well. If it cannot be opened, that will be tried
    /// again by [`Log::reopen`].
    pub fn to_file(&self, path: &Path) -> io::Result<()> {
        // The umask of Ganeti's daemons leaves the owner alone.
        self.outputs().file.insert(AppendFile::new(path, 0o666)).open()
    }

    /// Has lines go to stderr as well.
    pub fn to_stderr(&self) {
        self.outputs().stderr = true;
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

    fn outputs(&self) -> MutexGuard<'_, Outputs> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

/// Each call gets one whole line. Errors are not returned: nobody could be told of them.
impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.outputs().write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(target: &str, level: Level) -> String {
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
            line("kvmd::daemon", Level::Warn),
            "2026-11-21 02:14:07,667502669000 UTC: ganeti-kvmd pid=7/ThreadId 1 WARNING text\n"
        );
        assert!(line(NOTICE, Level::Info).ends_with(" NOTICE text\n"));
        assert!(line("kvmd::daemon", Level::Info).ends_with(" INFO text\n"));
    }
}
