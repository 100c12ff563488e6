//! Telling of ends as they come, and having a command run for each.

use std::io::Write;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Failure;
use super::acting::{Acting, Unhurried};
use super::answer::{Untold, tell_at_once};
use super::arguments::Question;
use super::follower::Follower;
use super::reading::Reader;
use super::telling::Style;
use super::unread::Unread;
use crate::log::StderrOutput;
use crate::sys::signal_descriptor::SignalDescriptor;
use crate::wire::record::Record;
use crate::wire::{Printable, Signal};

/// So often it is said that lines cannot be read.
const COMPLAINTS: u32 = 10;

/// An end may be so much older than this program for the command to be run for it: the daemon records
/// an end when it knows enough of it, and the clock may have been set.
const OLDER: SignedDuration = SignedDuration::from_mins(5);

/// Tells of the ends that come, for ever.
pub(super) fn tell(
    mut follower: Follower,
    out: &mut impl Write,
    question: &Question,
    style: Style,
) -> Result<(), Failure> {
    let mut news = News::default();
    loop {
        let is_more = news.read(&mut follower, out, question, style, |_| {})?;
        let due = is_more.then(Instant::now);
        await_any(&mut [PollFd::new(&follower, PollFlags::IN)], due)?;
    }
}

/// Tells of them and has the command of `--exec` run for each, until a signal asks it to end.
pub(super) fn act(
    mut follower: Follower,
    mut acting: Acting,
    signals: &SignalDescriptor,
    question: &Question,
    style: Style,
) -> Result<(), Failure> {
    let mut news = News::default();
    let mut out = Unhurried::new();
    let mut is_ending = false;
    let oldest = follower.begun() - OLDER;
    let mut has_old = false;
    loop {
        let mut is_more = false;
        if !is_ending {
            is_more = news.read(&mut follower, &mut out, question, style, |new| {
                // Records that somebody has put back: what they were recorded for has been done.
                if new.is_nodes_own && new.ended.is_some_and(|ended| ended < oldest) {
                    if !std::mem::replace(&mut has_old, true) {
                        let name = Printable(new.record.instance.as_bytes());
                        acting.say(format_args!(
                            "{name}: its end is older than this program; for such ends the command is not run"
                        ));
                    }
                } else {
                    acting.add(new.line, new.record);
                }
            })?;
        }
        acting.turn(Instant::now());
        if is_ending && acting.is_idle() {
            return Ok(());
        }
        // The end of a command since that look has left its SIGCHLD.
        let mut sources =
            [PollFd::new(signals, PollFlags::IN), PollFd::new(&follower, PollFlags::IN)];
        let sources = if is_ending { &mut sources[..1] } else { &mut sources[..] };
        await_any(sources, if is_more { Some(Instant::now()) } else { acting.due() })?;
        while let Some((signal, _)) = signals.read().map_err(Failure::Signals)? {
            if signal != Signal::CHLD && !is_ending {
                is_ending = true;
                acting.begin_to_end(Instant::now());
            }
        }
    }
}

/// An end that has come.
struct New<'a> {
    line: Vec<u8>,
    record: &'a Record,
    ended: Option<Timestamp>,
    /// It is from where the daemon of this node writes, with this machine's clock.
    is_nodes_own: bool,
}

/// What is new, and what could not be read of it.
#[derive(Default)]
struct News {
    complaints: u32,
    stderr: StderrOutput,
}

impl News {
    /// Tells of the ends that have come, and hands each over. Says whether there are more already.
    fn read(
        &mut self,
        follower: &mut Follower,
        out: &mut impl Write,
        question: &Question,
        style: Style,
        mut each: impl FnMut(New<'_>),
    ) -> Result<bool, Failure> {
        let mut told = Ok(());
        let mut unread = Unread::default();
        let is_more = follower.read(|source, line| {
            let line = match line {
                Ok(line) => line,
                Err(error) => return unread.add_source(&source.to_string(), error),
            };
            let name = source.to_string();
            let mut malformed = None;
            let mut reader = Reader::new(source, &name, Timestamp::now());
            reader.take(&line, None, &mut unread, &mut |found| {
                if told.is_err() || !question.asks_for(found) {
                    return;
                }
                let line = found.to_line();
                match Record::parse(&line) {
                    Ok(record) => {
                        told = tell_at_once(out, &line, &record, question, style);
                        let is_nodes_own = !source.is_chosen();
                        each(New { line, record: &record, ended: found.ended, is_nodes_own });
                    }
                    Err(error) => malformed = Some(error),
                }
            });
            // What its outline has is well-formed, and the rest is not.
            if let Some(error) = malformed {
                unread.add_line(&name, None, &error, b"");
            }
        })?;
        told.map_err(Untold::Write)?;
        out.flush()?;
        if (unread.has_lines() || unread.is_incomplete()) && self.complaints < COMPLAINTS {
            self.complaints += 1;
            self.stderr.write(unread.to_string().as_bytes());
        }
        Ok(is_more)
    }
}

/// Waits for one of these, until it is due.
fn await_any(sources: &mut [PollFd<'_>], due: Option<Instant>) -> Result<(), Failure> {
    let left = due.map(|due| due.saturating_duration_since(Instant::now()));
    let left = left.map(|left| Timespec {
        tv_sec: left.as_secs().cast_signed(),
        tv_nsec: left.subsec_nanos().into(),
    });
    match poll(sources, left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(Failure::Wait(error.into())),
    }
}
