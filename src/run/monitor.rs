//! The monitor that `kvmd-run` gives QEMU beside the user's own, and what is said over it.
//!
//! It is one end of a pair of sockets, and QEMU is told of the other by a configuration file: on the
//! command line a `-mon` would keep QEMU from making its default monitor, which the user may want.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;

use crate::wire::lines::{Line, Lines};
use crate::wire::qmp::{
    Answer, Command, Event, Message, RunState, Timestamp, UserCommand, Version,
};

/// For `-readconfig`. An id of the user's own that is the same is QEMU's error.
pub(super) fn configuration(descriptor: RawFd) -> String {
    format!(
        "[chardev \"kvmd-run\"]\n  backend = \"socket\"\n  fd = \"{descriptor}\"\n\n\
         [mon \"kvmd-run\"]\n  mode = \"control\"\n  chardev = \"kvmd-run\"\n"
    )
}

/// What was asked of QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Ours(Command),
    Users(UserCommand),
}

/// What QEMU has said.
#[derive(Debug)]
pub(super) enum Heard {
    Greeting(Option<Version>),
    Answered {
        request: Request,
        answer: Answer,
        state: Option<RunState>,
    },
    Refused {
        request: Request,
        error: String,
    },
    Event(Event, Option<Timestamp>),
    /// It was not understood: a part of it.
    Nonsense(Vec<u8>),
}

/// Our end of the connection.
#[derive(Debug)]
pub(super) struct Monitor {
    stream: UnixStream,
    lines: Lines,
    /// QEMU answers in this order.
    requests: VecDeque<Request>,
    has_ended: bool,
    has_more: bool,
}

/// So much is read before signals and time have their turn, in bytes: QEMU may be in its guest's hands,
/// and say whatever it likes without a pause.
const AT_ONCE: usize = 1 << 16;

impl Monitor {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (lines, requests) = (Lines::default(), VecDeque::new());
        Ok(Self { stream, lines, requests, has_ended: false, has_more: false })
    }

    /// Nobody is at the other end any more.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Sends a command. An error, if QEMU is gone, or has not read for so long that there is no room.
    pub(super) fn send(&mut self, request: Request) -> io::Result<()> {
        let line = match &request {
            Request::Ours(command) => command.line(),
            Request::Users(command) => command.line(),
        };
        // A line is shorter than what a socket takes at once: it is there as a whole, or not at all.
        (&self.stream).write_all(line)?;
        self.requests.push_back(request);
        Ok(())
    }

    /// There may be more, of which nobody will be told.
    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    /// Reads what is there, up to a bound.
    pub(super) fn read(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        let mut read = 0;
        self.has_more = false;
        while !self.has_ended {
            if read >= AT_ONCE {
                self.has_more = true;
                break;
            }
            let length = match (&self.stream).read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // ECONNRESET: it has ended without reading all that it was told.
                Err(_) => 0,
            };
            read += length;
            self.has_ended = length == 0;
            let requests = &mut self.requests;
            self.lines.feed(&buffer[..length], |line| heard.extend(understand(&line, requests)));
        }
        heard
    }
}

/// Nothing for an event that says nothing of the guest's end.
fn understand(line: &Line<'_>, requests: &mut VecDeque<Request>) -> Option<Heard> {
    let Line::Whole(line) = line else { return Some(Heard::Nonsense(Vec::new())) };
    Some(match Message::parse(line) {
        Ok(Message::Greeting(version)) => Heard::Greeting(version),
        Ok(Message::Event(Event::Other, _)) => return None,
        Ok(Message::Event(event, stamp)) => Heard::Event(event, stamp),
        Ok(Message::Return(answer)) => match requests.pop_front() {
            Some(request) => Heard::Answered { request, answer, state: RunState::of_answer(line) },
            None => Heard::Nonsense(line.to_vec()),
        },
        Ok(Message::Error(error)) => match requests.pop_front() {
            Some(request) => Heard::Refused { request, error },
            None => Heard::Nonsense(line.to_vec()),
        },
        Err(_) => Heard::Nonsense(line.to_vec()),
    })
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that says whatever it likes keeps nobody from anything else.
    #[test]
    fn a_monitor_that_never_pauses_is_read_a_part_at_a_time() {
        let (ours, qemus) = UnixStream::pair().unwrap();
        let mut monitor = Monitor::new(ours).unwrap();
        let said = std::thread::spawn(move || (&qemus).write_all(&vec![b'\n'; 10 * AT_ONCE]));
        let mut turns = 0;
        while !monitor.has_ended() {
            assert!(monitor.read().len() <= AT_ONCE);
            turns += u32::from(monitor.has_more());
        }
        said.join().unwrap().unwrap();
        assert!(turns >= 1, "{turns}");
    }

    #[test]
    fn answers_belong_to_what_was_asked_first() {
        let (ours, qemus) = UnixStream::pair().unwrap();
        let mut monitor = Monitor::new(ours).unwrap();
        for command in [Command::QueryStatus, Command::EndAtReboot, Command::Quit] {
            monitor.send(Request::Ours(command)).unwrap();
        }
        (&qemus)
            .write_all(
                b"{\"return\": {\"status\": \"suspended\", \"running\": false}}\r\n\
                  {\"event\": \"RTC_CHANGE\", \"data\": {}}\r\n\
                  {\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"x\"}}\r\n\
                  {\"return\": {}}\r\n{\"return\": {}}\r\n",
            )
            .unwrap();
        drop(qemus);
        let heard = monitor.read();
        assert!(monitor.has_ended());
        let [
            Heard::Answered { request: Request::Ours(Command::QueryStatus), state, .. },
            Heard::Refused { request: Request::Ours(Command::EndAtReboot), .. },
            Heard::Answered { request: Request::Ours(Command::Quit), .. },
            Heard::Nonsense(_),
        ] = &*heard
        else {
            panic!("{heard:?}");
        };
        assert_eq!(*state, Some(RunState::Suspended));
    }
}
