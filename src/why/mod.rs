//! `kvmd-why`: why did this virtual machine die?
//!
//! Tells from the exit records what the daemon made of it, whether or not the daemon runs, as
//! whoever may read the file. It decides nothing, and changes nothing but by the command that `--exec`
//! names, and the file that `--html` does.

mod acting;
mod answer;
mod arguments;
mod files;
mod follow;
mod follower;
mod frequent;
mod help;
mod latest;
mod lines;
mod page;
mod reading;
mod source;
mod summary;
mod summary_telling;
mod table;
mod telling;
mod unread;

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use jiff::Timestamp;
use rustix::io::Errno;

use crate::log::StderrOutput;
use crate::sys::signal_descriptor::{SignalDescriptor, restore_default};
use crate::wire::{Shown, Signal};
use acting::Acting;
use answer::{Answer, Untold};
use arguments::{Colour, Invocation, Question};
use follower::Follower;
use reading::{INCOMPLETE, KNOWN_INSTANCES, NO_ANSWER, NO_MATCH, NONE_YET, UNKNOWN_INSTANCE};
use telling::Style;
use unread::Unread;

/// Why there is no answer.
#[derive(Debug)]
enum Failure {
    Read(String, io::Error),
    UnknownInstance(String, Known),
    NoMatch,
    Watch(PathBuf, io::Error),
    Inotify(io::Error),
    Wait(io::Error),
    Signals(io::Error),
    Untold(Untold),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => {
                write!(f, "Cannot read {path}: {error}")?;
                match error.kind() {
                    io::ErrorKind::NotFound => f.write_str(
                        "\nNo instance has been recorded here yet. Is ganeti-kvmd running on this node? Is GANETI_ROOTDIR right?",
                    ),
                    io::ErrorKind::PermissionDenied => f.write_str("\nTry again as root."),
                    _ => Ok(()),
                }
            }
            Self::UnknownInstance(name, known) => {
                write!(f, "{UNKNOWN_INSTANCE}{}.{known}", Shown(name))
            }
            Self::NoMatch => f.write_str(NO_MATCH),
            Self::Watch(path, error) => write!(f, "Cannot watch {}: {error}", path.display()),
            Self::Inotify(error) => {
                write!(f, "Cannot watch files: {error}")?;
                // So it says that the user has too many instances.
                if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) {
                    f.write_str("\nIs fs.inotify.max_user_instances high enough?")?;
                }
                Ok(())
            }
            Self::Wait(error) => write!(f, "Cannot wait for records: {error}"),
            Self::Signals(error) => write!(f, "Cannot wait for signals: {error}"),
            Self::Untold(Untold::Write(error)) => write!(f, "Cannot write: {error}"),
            Self::Untold(Untold::Page(path, error)) => {
                write!(f, "Cannot write {}: {error}", path.display())
            }
        }
    }
}

impl From<Untold> for Failure {
    fn from(untold: Untold) -> Self {
        Self::Untold(untold)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Untold(Untold::Write(error))
    }
}

/// The program `kvmd-why`.
#[must_use]
pub fn main() -> ExitCode {
    let question = match arguments::parse(std::env::args_os().skip(1), Timestamp::now()) {
        Ok(Invocation::Help) => {
            let _ = write!(io::stdout(), "{}", help::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Invocation::Version) => {
            let _ = writeln!(io::stdout(), "kvmd-why {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Ok(Invocation::Tell(question)) => question,
        Err(error) => {
            complain(format_args!("kvmd-why: {error}\nTry 'kvmd-why --help'.\n"));
            return ExitCode::from(2);
        }
    };
    let mut unread = Unread::default();
    let answered = answer(&question, &mut unread);
    complain(format_args!("{unread}"));
    match answered {
        Ok(()) if unread.is_incomplete() => ExitCode::from(INCOMPLETE),
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read has seen enough.
        Err(Failure::Untold(Untold::Write(error))) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            complain(format_args!("kvmd-why: {failure}\n"));
            ExitCode::from(NO_ANSWER)
        }
    }
}

/// Says it on stderr. Nobody need be there to read it.
fn complain(text: fmt::Arguments<'_>) {
    let _ = io::stderr().write_all(text.to_string().as_bytes());
}

fn answer(question: &Question, unread: &mut Unread) -> Result<(), Failure> {
    let sources = question.sources();
    let follower = if question.follow { Some(Follower::new(&sources)?) } else { None };
    let mut answer = Answer::to(question);
    let mut known = Known::default();
    reading::read_all(&sources, follower.as_ref(), Timestamp::now(), unread, &mut |found| {
        known.add(&found.outline.instance, question);
        if question.asks_for(found) { answer.add(found) } else { Ok(()) }
    });
    if question.follow {
        // What is not there yet can be waited for.
        unread.forgive_absence();
    } else if answer.is_empty() {
        return no_end(question, known, unread);
    }
    let style = style(question);
    let mut out = BufWriter::new(io::stdout().lock());
    answer.tell(&mut out, style, unread)?;
    out.flush()?;
    let Some(follower) = follower else { return Ok(()) };
    // Of what was there before. What comes is waited for all the same, by whoever runs this unseen.
    StderrOutput::default().write(std::mem::take(unread).to_string().as_bytes());
    match &question.exec {
        None => follow::tell(follower, &mut out, question, style),
        Some(command) => {
            // Whoever ignored it would never hear of the end of a command.
            restore_default(Signal::CHLD).map_err(Failure::Signals)?;
            let signals = [Signal::TERM, Signal::INT, Signal::HUP, Signal::CHLD];
            let signals = SignalDescriptor::open(signals).map_err(Failure::Signals)?;
            let acting = Acting::new(command.clone(), signals.mask_before());
            follow::act(follower, acting, &signals, question, style)
        }
    }
}

/// Nothing that was asked for has been found.
fn no_end(question: &Question, known: Known, unread: &mut Unread) -> Result<(), Failure> {
    if let Some((source, error)) = unread.take_source() {
        return Err(Failure::Read(source, error));
    }
    match &question.instance {
        Some(name) if !known.has_the_asked => Err(Failure::UnknownInstance(name.clone(), known)),
        None if known.is_empty() && question.files.is_empty() && !unread.has_lines() => {
            if question.json {
                complain(format_args!("kvmd-why: {NONE_YET}\n"));
            } else {
                writeln!(io::stdout(), "{NONE_YET}")?;
            }
            Ok(())
        }
        _ => Err(Failure::NoMatch),
    }
}

fn style(question: &Question) -> Style {
    let is_coloured = match question.colour {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => {
            io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        }
    };
    Style { is_coloured }
}

/// The instances on record, for whoever has mistyped one.
#[derive(Debug, Default)]
struct Known {
    count: u64,
    has_the_asked: bool,
    /// Some of their names.
    names: BTreeSet<String>,
}

impl Known {
    /// So many are named.
    const NAMED: usize = 40;

    fn add(&mut self, name: &str, question: &Question) {
        self.count += 1;
        let Some(asked) = &question.instance else { return };
        self.has_the_asked |= name == asked;
        if self.names.len() <= Self::NAMED && !self.names.contains(name) {
            self.names.insert(name.into());
        }
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.names.iter().take(Self::NAMED).enumerate() {
            let before = if i == 0 { format!("\n{KNOWN_INSTANCES}") } else { ", ".into() };
            write!(f, "{before}{}", Shown(name))?;
        }
        if self.names.len() > Self::NAMED { f.write_str(", ...") } else { Ok(()) }
    }
}
