//! What the records have to say to the question: as many ends are held as are shown of them.

use std::io::{self, Write};
use std::path::PathBuf;

use super::arguments::Question;
use super::latest::Latest;
use super::page;
use super::reading::Found;
use super::summary::Summary;
use super::summary_telling;
use super::table::{self, Row};
use super::telling::Style;
use super::unread::Unread;
use crate::wire::record::{NotARecord, Record};

/// As many ends are told of where nothing else was asked for.
const LATEST: usize = 20;

/// What will be told.
pub(super) enum Answer {
    Table(Latest<Row>),
    /// The last end of one instance.
    Story(Latest<Record>),
    Records(Latest<Vec<u8>>),
    Summary(Box<Summary>),
    /// For a browser, in this file.
    Page(Latest<page::End>, PathBuf),
}

/// Why an answer that is there is not told.
#[derive(Debug)]
pub(super) enum Untold {
    Write(io::Error),
    Page(PathBuf, io::Error),
}

impl From<io::Error> for Untold {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl Answer {
    pub(super) fn to(question: &Question) -> Self {
        let most = match (&question.instance, question.all) {
            (_, true) => usize::MAX,
            (Some(_), false) => 1,
            (None, false) => LATEST,
        };
        match question {
            Question { html: Some(file), .. } => {
                Self::Page(Latest::within(page::MOST_ENDS, page::MOST_BYTES), file.clone())
            }
            Question { summary: true, .. } => Self::Summary(Box::default()),
            Question { json: true, .. } => Self::Records(Latest::new(most)),
            Question { instance: Some(_), all: false, .. } => Self::Story(Latest::new(most)),
            _ => Self::Table(Latest::new(most)),
        }
    }

    /// Takes an end that was asked for. What its outline has is well-formed; the rest of it need not be,
    /// and does not hide another that is.
    pub(super) fn add(&mut self, found: &Found<'_>) -> Result<(), NotARecord> {
        let Found { ended, line, .. } = *found;
        let record = || Record::parse(&found.to_line());
        match self {
            Self::Table(rows) => rows.offer(ended, 0, || Ok(Row::new(found))),
            Self::Story(records) => records.offer(ended, line.len(), record),
            Self::Records(lines) => lines.offer(ended, line.len(), || Ok(found.to_line())),
            Self::Page(ends, _) => {
                ends.offer(ended, line.len(), || record().map(|it| page::End::new(&it)))
            }
            Self::Summary(summary) => {
                summary.add(found);
                Ok(())
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Table(rows) => rows.offered() == 0,
            Self::Story(records) => records.offered() == 0,
            Self::Records(lines) => lines.offered() == 0,
            Self::Page(ends, _) => ends.offered() == 0,
            Self::Summary(summary) => summary.ends == 0,
        }
    }

    /// `unread`: for whoever sees the page alone.
    pub(super) fn tell(
        self,
        out: &mut impl Write,
        style: Style,
        unread: &Unread,
    ) -> Result<(), Untold> {
        match self {
            Self::Table(rows) => {
                let offered = rows.offered();
                let rows = rows.into_vec();
                table::print(out, &rows, style)?;
                let earlier = offered - rows.len() as u64;
                if earlier > 0 {
                    writeln!(out, "({earlier} earlier ones; --all shows them)")?;
                }
            }
            Self::Story(records) => {
                records.into_vec().iter().try_for_each(|record| style.story(out, record))?;
            }
            Self::Records(lines) => {
                lines.into_vec().iter().try_for_each(|line| out.write_all(line))?;
            }
            Self::Summary(summary) => summary_telling::tell(out, &summary, style)?,
            Self::Page(ends, file) => page::make(out, ends, unread, &file)?,
        }
        Ok(())
    }
}

/// What is told of an end that comes while it is waited for, in one piece: a reader who stalls misses
/// whole ends.
pub(super) fn tell_at_once(
    out: &mut impl Write,
    line: &[u8],
    record: &Record,
    question: &Question,
    style: Style,
) -> io::Result<()> {
    match question {
        Question { json: true, .. } => out.write_all(line),
        Question { instance: Some(_), all: false, .. } => {
            let mut story = Vec::new();
            style.story(&mut story, record)?;
            out.write_all(&story)
        }
        _ => out.write_all(format!("{}\n", style.sentence(record)).as_bytes()),
    }
}
