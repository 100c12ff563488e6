//! The log, in the line format of Ganeti's daemons, to a file and to stderr.
//!
//! What each level means here:
//! - error: something is wrong that a person must put right; the line says how;
//! - warning: something is missing or reduced, and the daemon goes on without it;
//! - notice: the daemon starts and ends;
//! - info: what is watched, what was decided, why an instance ended;
//! - debug: every event of the directory and every QMP message.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use env_logger::{Builder, Target};
use jiff::Timestamp;
use log::{Level, LevelFilter, Record};

/// The target of a line of level NOTICE, which the `log` crate does not have:
/// `info!(target: NOTICE, ...)`.
pub const NOTICE: &str = "kvmd::notice";

/// Who writes the lines.
const PROGRAM: &str = "ganeti-kvmd";

/// Where lines go.
#[derive(Debug, Default)]
struct Outputs {
    stderr: bool,
    path: PathBuf,
    file: Option<File>,
    /// The file ends in a part of a line: there was no room for the rest.
    file_is_torn: bool,
}

/// The running log.
#[derive(Clone, Debug)]
pub struct Log {
    outputs: Arc<Mutex<Outputs>>,
}

/// Starts the log, to the file at `path` and, if asked for, to stderr. Called once.
///
/// A file that cannot be opened is an error to be reported, and does not keep the log from
/// being started without it.
pub fn start(path: &Path, stderr: bool, debug: bool) -> (Log, io::Result<()>) {
    let outputs = Outputs { stderr, path: path.to_path_buf(), ..Outputs::default() };
    let log = Log { outputs: Arc::new(Mutex::new(outputs)) };
    let opened = log.reopen();
    Builder::new()
        .filter_module("kvmd", if debug { LevelFilter::Debug } else { LevelFilter::Info })
        .target(Target::Pipe(Box::new(log.clone())))
        .format(|line, record| write_line(line, Timestamp::now(), record))
        .init();
    (log, opened)
}

impl Log {
    /// Opens the file anew, as after its rotation. On an error the old one stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&outputs.path)?;
        outputs.file = Some(file);
        outputs.file_is_torn = false;
        Ok(())
    }
}

fn write_line(line: &mut impl Write, time: Timestamp, record: &Record<'_>) -> io::Result<()> {
    let level = match record.level() {
        Level::Error => "ERROR",
        Level::Warn => "WARNING",
        Level::Info if record.target() == NOTICE => "NOTICE",
        Level::Info => "INFO",
        Level::Debug | Level::Trace => "DEBUG",
    };
    let time = time.strftime("%Y-%m-%d %H:%M:%S,%9f000 UTC");
    let pid = std::process::id();
    writeln!(line, "{time}: {PROGRAM} pid={pid}/ThreadId 1 {level} {}", record.args())
}

/// Each call gets one whole line. Errors are not returned: nobody could be told of them.
impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        outputs.write_to_file(line);
        if outputs.stderr {
            let _ = io::stderr().write_all(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Outputs {
    /// Writes the line with one call, so that no other process's line can come between. Where
    /// a full disk took only a part of the line before, that part gets its line feed first.
    fn write_to_file(&mut self, line: &[u8]) {
        let Some(file) = &mut self.file else { return };
        if self.file_is_torn && file.write(b"\n").is_err() {
            return;
        }
        self.file_is_torn = matches!(file.write(line), Ok(written) if written < line.len());
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
        write_line(&mut line, time, &record).unwrap();
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_line_has_the_form_of_ganetis() {
        let pid = std::process::id();
        assert_eq!(
            line("kvmd::daemon", Level::Warn),
            format!(
                "2026-11-21 02:14:07,667502669000 UTC: ganeti-kvmd pid={pid}/ThreadId 1 WARNING text\n"
            )
        );
        assert!(line(NOTICE, Level::Info).ends_with(" NOTICE text\n"));
        assert!(line("kvmd::daemon", Level::Info).ends_with(" INFO text\n"));
    }
}
