//! Telling of ends as they come.

use std::io::Write;

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, poll};

use super::Failure;
use super::answer::{Untold, tell_at_once};
use super::arguments::Question;
use super::follower::Follower;
use super::reading::Reader;
use super::telling::Style;
use super::unread::Unread;

/// So often it is said that lines cannot be read.
const COMPLAINTS: u32 = 10;

/// Tells of the ends that come, for ever.
pub(super) fn follow(
    out: &mut impl Write,
    mut follower: Follower,
    question: &Question,
    style: Style,
) -> Result<(), Failure> {
    let mut complaints = 0;
    loop {
        let mut untold = None;
        let mut unread = Unread::default();
        follower.read(|source, line| {
            Reader::new(source, Timestamp::now()).take(&line, None, &mut unread, &mut |found| {
                if question.asks_for(found)
                    && let Err(error) = tell_at_once(out, found, question, style)
                {
                    untold = Some(error);
                }
            });
        })?;
        out.flush()?;
        match untold {
            Some(Untold::Malformed(error)) => eprintln!("kvmd-why: {error}"),
            Some(error) => return Err(error.into()),
            None => {}
        }
        if unread.has_lines() && complaints < COMPLAINTS {
            complaints += 1;
            eprint!("{unread}");
        }
        match poll(&mut [PollFd::new(&follower, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::Watch(std::path::PathBuf::new(), error.into())),
        }
    }
}
