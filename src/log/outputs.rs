//! Where lines go. None of these may stop the daemon, and none may tear a line.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::net::UnixDatagram;

use super::PROGRAM;
use super::stderr::StderrOutput;
use crate::sys::append_file::AppendFile;
use crate::sys::daemonize;
use crate::wire::journal::{DAEMON, Level};

/// The syslog's socket.
const SYSLOG: &str = "/dev/log";

#[derive(Debug, Default)]
pub(super) struct Outputs {
    pub(super) stderr: Option<StderrOutput>,
    /// What is written there goes to the journal.
    pub(super) stderr_is_journal: bool,
    pub(super) file: Option<AppendFile>,
    pub(super) syslog: Option<SyslogOutput>,
    /// stdout and stderr lead to the file.
    pub(super) takes_output: bool,
}

impl Outputs {
    /// `is_in_journal`: the journal has the text of this line already.
    pub(super) fn write(&mut self, line: &[u8], is_in_journal: bool) {
        if let Some(file) = &mut self.file {
            let _ = file.write_line(line);
        }
        if let Some(stderr) = &mut self.stderr
            && !(is_in_journal && self.stderr_is_journal)
        {
            stderr.write(line);
        }
        if let Some(syslog) = &mut self.syslog {
            syslog.write(line);
        }
    }

    pub(super) fn redirect(&self) -> io::Result<()> {
        match self.file.as_ref().and_then(AppendFile::file) {
            _ if !self.takes_output => Ok(()),
            Some(file) => daemonize::redirect_output(file),
            None => daemonize::redirect_output(OpenOptions::new().write(true).open("/dev/null")?),
        }
    }
}

/// The syslog, in the form of Ganeti's daemons: `<29>ganeti-kvmd[17]: [/NOTICE] text`.
#[derive(Debug)]
pub(super) struct SyslogOutput {
    socket: UnixDatagram,
}

impl SyslogOutput {
    pub(super) fn connect() -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // A syslog that takes nothing in must not hold the daemon up.
        socket.set_nonblocking(true)?;
        socket.connect(SYSLOG)?;
        Ok(Self { socket })
    }

    fn write(&mut self, line: &[u8]) {
        let Some((level, text)) = level_and_text(line) else { return };
        let Some(priority) = priority(level) else { return };
        let pid = std::process::id();
        let mut message = format!("<{priority}>{PROGRAM}[{pid}]: [/{level}] ").into_bytes();
        message.extend_from_slice(text);
        message.push(0);
        let sent = self.socket.send(&message);
        // The syslog has been restarted: its new socket is another one.
        if sent.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
            && self.socket.connect(SYSLOG).is_ok()
        {
            let _ = self.socket.send(&message);
        }
    }
}

/// Takes a line of this log apart: what follows `ThreadId 1` is the level, then the text.
fn level_and_text(line: &[u8]) -> Option<(&str, &[u8])> {
    const BEFORE: &[u8] = b"/ThreadId 1 ";
    let start = line.windows(BEFORE.len()).position(|window| window == BEFORE)? + BEFORE.len();
    let rest = line[start..].strip_suffix(b"\n").unwrap_or(&line[start..]);
    let end = rest.iter().position(|&byte| byte == b' ')?;
    Some((std::str::from_utf8(&rest[..end]).ok()?, &rest[end + 1..]))
}

/// Facility and severity (`syslog(3)`); nothing for what does not go there.
fn priority(level: &str) -> Option<u8> {
    let level = match level {
        "ERROR" => Level::Error,
        "WARNING" => Level::Warning,
        "NOTICE" => Level::Notice,
        "INFO" => Level::Info,
        _ => return None,
    };
    Some(DAEMON << 3 | level as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart_for_the_syslog() {
        let line =
            b"2026-11-21 02:14:07,667502669000 UTC: ganeti-kvmd pid=6/ThreadId 1 NOTICE a b\n";
        assert_eq!(level_and_text(line), Some(("NOTICE", &b"a b"[..])));
        assert_eq!(priority("NOTICE"), Some(29));
        assert_eq!(priority("INFO"), Some(30));
        assert_eq!(priority("DEBUG"), None);
    }
}
