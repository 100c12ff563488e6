//! `kvmd-why`: why did this virtual machine die?
//!
//! Tells from the exit records what the daemon made of it, whether or not the daemon runs, as
//! whoever may read the file. It decides nothing and changes nothing.

mod arguments;
mod files;
mod telling;

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use jiff::Timestamp;

use crate::config::Paths;
use crate::wire::record::Record;
use arguments::{Colour, Invocation, Question};

/// As many ends are told of where nothing else was asked for.
const LATEST: usize = 20;

/// Why there is no answer.
#[derive(Debug)]
enum Failure {
    Read(PathBuf, io::Error),
    UnknownInstance(String, Vec<String>),
    NoMatch,
    Watch(PathBuf, io::Error),
    Write(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => {
                write!(f, "Cannot read {}: {error}", path.display())?;
                match error.kind() {
                    io::ErrorKind::NotFound => f.write_str(
                        "\nNo instance has been recorded here yet. Is ganeti-kvmd running on this node? Is GANETI_ROOTDIR right?",
                    ),
                    io::ErrorKind::PermissionDenied => f.write_str("\nTry again as root."),
                    _ => Ok(()),
                }
            }
            Self::UnknownInstance(name, known) => {
                write!(f, "There is no record of an instance {name}.")?;
                if !known.is_empty() {
                    write!(f, "\nInstances on record: {}", known.join(", "))?;
                }
                Ok(())
            }
            Self::NoMatch => f.write_str("No record matches."),
            Self::Watch(path, error) => write!(f, "Cannot watch {}: {error}", path.display()),
            Self::Write(error) => write!(f, "Cannot write: {error}"),
        }
    }
}

/// The program `kvmd-why`.
#[must_use]
pub fn main() -> ExitCode {
    let question = match arguments::parse(std::env::args_os().skip(1), Timestamp::now()) {
        Ok(Invocation::Help) => {
            print!("{}", arguments::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Invocation::Version) => {
            println!("kvmd-why {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Ok(Invocation::Tell(question)) => question,
        Err(error) => {
            eprintln!("kvmd-why: {error}\nTry 'kvmd-why --help'.");
            return ExitCode::from(2);
        }
    };
    match answer(&question) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read has seen enough.
        Err(Failure::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("kvmd-why: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn answer(question: &Question) -> Result<(), Failure> {
    let path = question.file.clone().unwrap_or_else(|| Paths::from_environment().records_file());
    let mut records = Vec::new();
    let mut known = Vec::new();
    let is_chosen = question.file.is_some();
    let follower =
        if question.follow { Some(files::Follower::new(&path, is_chosen)?) } else { None };
    files::read_all(&path, is_chosen, |record| {
        if !known.contains(&record.instance) {
            known.push(record.instance.clone());
        }
        if question.asks_for(&record) {
            records.push(record);
        }
    })
    .or_else(|failure| match failure {
        // What is not there yet can be waited for.
        Failure::Read(_, error) if question.follow && error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        failure => Err(failure),
    })?;
    records.sort_by_key(Record::ended);

    if records.is_empty() && !question.follow {
        known.sort();
        return match &question.instance {
            Some(name) if !known.contains(name) => {
                Err(Failure::UnknownInstance(name.clone(), known))
            }
            None if known.is_empty() => {
                println!("No instance has ended here since the records began.");
                Ok(())
            }
            _ => Err(Failure::NoMatch),
        };
    }
    let is_coloured = match question.colour {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => {
            io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        }
    };
    let style = telling::Style { is_coloured };
    let mut out = io::stdout().lock();
    tell(&mut out, question, &records, style).map_err(Failure::Write)?;
    let Some(mut follower) = follower else { return Ok(()) };
    loop {
        out.flush().map_err(Failure::Write)?;
        let mut fresh = Vec::new();
        follower.next(|record| {
            if question.asks_for(&record) {
                fresh.push(record);
            }
        })?;
        tell_more(&mut out, question, &fresh, style).map_err(Failure::Write)?;
    }
}

fn tell(
    out: &mut impl Write,
    question: &Question,
    records: &[Record],
    style: telling::Style,
) -> io::Result<()> {
    let latest = |count: usize| &records[records.len().saturating_sub(count)..];
    if question.json {
        let shown = match (&question.instance, question.all) {
            (_, true) => records,
            (Some(_), false) => latest(1),
            (None, false) => latest(LATEST),
        };
        return shown.iter().try_for_each(|record| out.write_all(&record.to_line()));
    }
    match (&question.instance, question.all) {
        (Some(_), false) => latest(1).iter().try_for_each(|record| style.story(out, record)),
        (_, true) => style.table(out, records),
        (None, false) => {
            let shown = latest(LATEST);
            style.table(out, shown)?;
            if shown.len() < records.len() {
                writeln!(out, "({} earlier ones; --all shows them)", records.len() - shown.len())?;
            }
            Ok(())
        }
    }
}

/// What is told of ends that come while they are waited for.
fn tell_more(
    out: &mut impl Write,
    question: &Question,
    records: &[Record],
    style: telling::Style,
) -> io::Result<()> {
    records.iter().try_for_each(|record| match question {
        Question { json: true, .. } => out.write_all(&record.to_line()),
        Question { instance: Some(_), all: false, .. } => style.story(out, record),
        _ => writeln!(out, "{}", style.sentence(record)),
    })
}
