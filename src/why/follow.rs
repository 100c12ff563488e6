//! Telling of ends as they come, and having a command run for each.

use std::io::Write;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Failure;
use super::acting::{Acting, Unhurried};
use super::answer::{Untold, tell_at_once};
use super::arguments::Question;
use super::follower::{Follower, LOOK};
use super::telling::Style;
use super::unread::Unread;
use crate::log::StderrOutput;
use crate::sys::signal_descriptor::SignalDescriptor;
use crate::wire::record::Record;
use crate::wire::{Printable, Signal};

/// So often at most it is said what cannot be read: all that has come up since the last time.
const COMPLAINT: Duration = Duration::from_secs(60);

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
        let due = if is_more { Instant::now() } else { Instant::now() + LOOK };
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
    let mut has_old = false;
    loop {
        let mut is_more = false;
        if !is_ending {
            let oldest = follower.begun() - OLDER;
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
            news.complain_of_all();
            return Ok(());
        }
        // The end of a command since that look has left its SIGCHLD.
        let mut sources =
            [PollFd::new(signals, PollFlags::IN), PollFd::new(&follower, PollFlags::IN)];
        let sources = if is_ending { &mut sources[..1] } else { &mut sources[..] };
        let now = Instant::now();
        let look = if is_more { now } else { now + LOOK };
        await_any(sources, acting.due().map_or(look, |due| due.min(look)))?;
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
    unread: Unread,
    complained: Option<Instant>,
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
        let unread = &mut self.unread;
        let now = Timestamp::now();
        let is_more = follower.read(|reader, line| {
            let line = match line {
                Ok(line) => line,
                Err(error) => return unread.add_source(reader.name(), error),
            };
            let is_nodes_own = !reader.source().is_chosen();
            reader.take(&line, None, now, unread, &mut |found| {
                if told.is_err() || !question.asks_for(found) {
                    return Ok(());
                }
                let line = found.to_line();
                let record = Record::parse(&line)?;
                told = tell_at_once(out, &line, &record, question, style);
                each(New { line, record: &record, ended: found.ended, is_nodes_own });
                Ok(())
            });
        })?;
        told.map_err(Untold::Write)?;
        out.flush()?;
        if self.complained.is_none_or(|then| then.elapsed() >= COMPLAINT) {
            self.complain_of_all();
        }
        Ok(is_more)
    }

    /// Says what could not be read since the last time.
    fn complain_of_all(&mut self) {
        if self.unread.has_lines() || self.unread.is_incomplete() {
            self.complained = Some(Instant::now());
            self.stderr.write(std::mem::take(&mut self.unread).to_string().as_bytes());
        }
    }
}

/// Waits for one of these, until it is due.
fn await_any(sources: &mut [PollFd<'_>], due: Instant) -> Result<(), Failure> {
    let left = due.saturating_duration_since(Instant::now());
    let left =
        Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
    match poll(sources, Some(&left)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(Failure::Wait(error.into())),
    }
}
