//! Lines to stderr, where a pipe may be that nobody reads: it is waited for once, and then it gets
//! lines only while it takes them. What else a line goes to must not be held up by it.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::io::{Errno, write};

use crate::sys::writable::{PATIENCE, takes_more};

/// A pipe that can be written to takes at least so much without blocking (`PIPE_BUF`).
const AT_ONCE: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct StderrOutput {
    /// Nobody has read for too long; not waited for again until somebody does.
    is_stuck: bool,
    /// The last line is there in part.
    is_torn: bool,
    lost: u64,
}

impl StderrOutput {
    pub(crate) fn write(&mut self, line: &[u8]) {
        self.write_to(rustix::stdio::stderr(), line);
    }

    /// The same to another pipe; always to that one.
    pub(crate) fn write_to(&mut self, output: BorrowedFd<'_>, line: &[u8]) {
        if self.is_stuck && !takes_more(output, Duration::ZERO) {
            self.lost += 1;
            return;
        }
        self.is_stuck = false;
        if self.lost > 0 {
            let torn = if std::mem::take(&mut self.is_torn) { "\n" } else { "" };
            let lost = std::mem::take(&mut self.lost);
            let notice =
                format!("{torn}({lost} lines are missing here: nobody read them in time)\n");
            self.write_pieces(output, notice.as_bytes());
        }
        self.write_pieces(output, line);
    }

    fn write_pieces(&mut self, output: BorrowedFd<'_>, mut rest: &[u8]) {
        let whole = rest.len();
        while !rest.is_empty() {
            if !takes_more(output, if self.is_stuck { Duration::ZERO } else { PATIENCE }) {
                self.is_stuck = true;
                self.is_torn |= rest.len() < whole;
                self.lost += 1;
                return;
            }
            match write(output, &rest[..rest.len().min(AT_ONCE)]) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                // EPIPE: nobody will read it. Others find the line in the file.
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    #[test]
    fn a_pipe_that_nobody_reads_is_left_behind_and_gets_lines_again_when_it_is_read() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&writer, 2 * AT_ONCE).unwrap();
        let mut output = StderrOutput::default();
        for _ in 0..1000 {
            output.write_to(writer.as_fd(), b"a line of the log that fills the pipe\n");
        }
        assert!(output.is_stuck && output.lost > 800, "{output:?}");
        let lost = output.lost;
        let mut reader = File::from(reader);
        let mut filled = [0; 2 * AT_ONCE];
        reader.read_exact(&mut filled[..38 * (1000 - lost as usize)]).unwrap();
        output.write_to(writer.as_fd(), b"again\n");
        drop(writer);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let notice = format!("({lost} lines are missing here: nobody read them in time)\nagain\n");
        assert_eq!(rest, notice);
    }
}
