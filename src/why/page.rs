//! The ends as a page for a browser: one file, which loads nothing else.
//!
//! What the records say is others' text, and none of it becomes markup. It is in the page as data, in
//! which nothing can end the element around it; the page's script puts it in as text; and the browser
//! runs no script but those that bear a number which nobody could know when the records were written.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::answer::Untold;
use super::latest::Latest;
use super::telling::{Style, from_end};
use super::unread::Unread;
use crate::sys::random::random;
use crate::sys::replaced_file::replace;
use crate::wire::Shown;
use crate::wire::record::{Evidence, Record};

/// With more than this many ends a page takes long to open. The latest are in it.
pub(super) const MOST_ENDS: usize = 20_000;

/// Records of so many bytes are in it at most: far more than so many ends have, where nobody has made up
/// lines of a megabyte.
pub(super) const MOST_BYTES: usize = 64 << 20;

/// Of one end so many pieces of evidence, more than the daemon records: a line of a megabyte has room for
/// far more empty ones, each of which takes memory.
const MOST_PIECES: usize = 64;

/// For its owner and his group, as the records are: command lines may hold secrets.
const MODE: u32 = 0o640;

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// What the script is told.
#[derive(Serialize)]
struct Ends<'a> {
    /// A sentence on the page as a whole.
    about: &'a str,
    ends: &'a [End],
}

/// What the page tells of an end.
#[derive(Serialize)]
pub(super) struct End {
    node: Option<String>,
    instance: String,
    /// Milliseconds since 1970, if the record says so in a way that is understood.
    time: Option<i64>,
    /// What it says of that.
    said: String,
    cause: String,
    initiator: String,
    story: String,
    evidence: Vec<Piece>,
    omitted: u64,
    /// The sender's command line.
    command: Option<String>,
}

#[derive(Serialize)]
struct Piece {
    at: String,
    source: String,
    what: String,
}

impl End {
    pub(super) fn new(record: &Record) -> Self {
        let shown = |text: &str| Shown(text).to_string();
        let piece = |piece: &Evidence| Piece {
            at: from_end(piece.at),
            source: shown(&piece.source),
            what: shown(&piece.what),
        };
        let command = record.sender.as_ref().and_then(|sender| sender.command.as_deref());
        Self {
            node: record.node.as_deref().map(shown),
            instance: shown(&record.instance),
            time: record.end.parse().ok().map(Timestamp::as_millisecond),
            said: shown(&record.end),
            cause: shown(&record.cause),
            initiator: shown(&record.initiator),
            story: Style { is_coloured: false }.what_happened(record),
            evidence: record.evidence.iter().take(MOST_PIECES).map(piece).collect(),
            omitted: record
                .omitted
                .saturating_add(record.evidence.len().saturating_sub(MOST_PIECES) as u64),
            command: command.map(shown),
        }
    }
}

/// Makes the page of these ends, and says so on `out`. What is unread is said on the page, too.
pub(super) fn make(
    out: &mut impl Write,
    ends: Latest<End>,
    unread: &Unread,
    file: &Path,
) -> Result<(), Untold> {
    let offered = ends.offered();
    let ends = ends.into_vec();
    let now = Timestamp::now().strftime("%F %T");
    let mut about = format!("Made by kvmd-why {} at {now} UTC.", env!("CARGO_PKG_VERSION"));
    let earlier = offered - ends.len() as u64;
    if earlier > 0 {
        let _ = write!(about, " Not in it: {earlier} earlier ones.");
    }
    let missing = unread.summary();
    if !missing.is_empty() {
        let _ = write!(about, " Not complete: {missing}.");
    }
    let failed = |error| Untold::Page(file.to_path_buf(), error);
    let nonce =
        (0..4).map(|_| random().map(|it| format!("{it:08x}"))).collect::<io::Result<String>>();
    let nonce = nonce.map_err(failed)?;
    if file == Path::new("-") {
        return Ok(write(out, &ends, &about, &nonce)?);
    }
    let mut page = Vec::new();
    write(&mut page, &ends, &about, &nonce)?;
    match fs::symlink_metadata(file) {
        // It would be replaced: a device, a pipe, a link to one.
        Ok(metadata) if !metadata.is_file() => {
            let text = "it is not a plain file; pass --html=- and redirect standard output";
            return Err(failed(io::Error::other(text)));
        }
        _ => replace(file, &page, MODE).map_err(failed)?,
    };
    writeln!(out, "Wrote {} ends to {}.", ends.len(), file.display())?;
    Ok(())
}

/// Writes the page of these ends. `nonce`: a number that is not used twice, in letters and digits.
fn write(out: &mut impl Write, ends: &[End], about: &str, nonce: &str) -> io::Result<()> {
    let ends = Ends { about, ends };
    for part in TEMPLATE.split("{{") {
        // The first has no field before it.
        let (field, text) = part.split_once("}}").unwrap_or(("", part));
        match field {
            "nonce" => out.write_all(nonce.as_bytes())?,
            "style" => out.write_all(STYLE.as_bytes())?,
            "script" => out.write_all(SCRIPT.as_bytes())?,
            "ends" => serde_json::to_writer(Enclosed(&mut *out), &ends)?,
            _ => {}
        }
        out.write_all(text.as_bytes())?;
    }
    Ok(())
}

/// JSON in an element: without a `<` nothing in it ends the element, or changes how its end is looked
/// for. In JSON there can be one in a string only, where it may be written as a number.
struct Enclosed<W>(W);

impl<W: Write> Write for Enclosed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|&byte| byte == b'<') {
            match part.strip_suffix(b"<") {
                Some(before) => {
                    self.0.write_all(before)?;
                    self.0.write_all(b"\\u003c")?;
                }
                None => self.0.write_all(part)?,
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(records: &[Record]) -> String {
        let mut page = Vec::new();
        let ends: Vec<End> = records.iter().map(End::new).collect();
        write(&mut page, &ends, "All of it.", "4e0ce").unwrap();
        String::from_utf8(page).unwrap()
    }

    #[test]
    fn nothing_is_loaded_and_nothing_is_left_out() {
        let page = page(&[]);
        assert!(!page.contains("{{") && !page.contains("}}"));
        assert!(page.contains("default-src 'none'; script-src 'nonce-4e0ce'"));
        assert_eq!(page.matches("<script nonce=\"4e0ce\">").count(), 1);
        for address in ["http:", "https:", "url(", "@import", " src="] {
            assert!(!page.contains(address), "{address}");
        }
    }

    /// A name that a user has chosen, a command line, the words of a QEMU that its guest owns.
    #[test]
    fn what_others_wrote_cannot_end_the_element_that_it_is_in() {
        let trick = "</script><script>alert(1)</script><!--<script>";
        let record = Record {
            instance: trick.into(),
            node: Some(trick.into()),
            end: trick.into(),
            cause: trick.into(),
            initiator: trick.into(),
            summary: trick.into(),
            evidence: vec![Evidence { at: 0.0, source: trick.into(), what: trick.into() }],
            ..Record::default()
        };
        let page = page(&[record]);
        let empty = self::page(&[]);
        assert_eq!(page.matches("</script").count(), empty.matches("</script").count());
        assert_eq!(page.matches("<!--").count(), 0);
        let data = page.split_once("id=\"ends\">").unwrap().1.split_once("</script>").unwrap().0;
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["ends"][0]["instance"], trick);
    }
}
