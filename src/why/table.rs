//! A table of ends.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::reading::Found;
use super::telling::{Style, Uptime, time};
use crate::wire::Shown;
use crate::wire::record::{Outline, Text};

const HEADINGS: [&str; COLUMNS] =
    ["ENDED (UTC)", "NODE", "INSTANCE", "PID", "CAUSE", "BY", "UP", "SIGNAL OR STATUS"];
const COLUMNS: usize = 8;
const NODE: usize = 1;
const BY: usize = 5;

/// A row: its cells, fit to print, in one piece. There may be a million.
#[derive(Debug)]
pub(super) struct Row(Box<str>);

/// No cell has one in it.
const BETWEEN_CELLS: char = '\n';

impl Row {
    pub(super) fn new(found: &Found<'_>) -> Self {
        let outline = &found.outline;
        let shown = |text: &str| Shown(cut(text)).to_string();
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let ended = time(&outline.end);
        let cells: [String; COLUMNS] = [
            shown(ended.split('.').next().unwrap_or_default()),
            found.node.map(shown).unwrap_or_default(),
            shown(&outline.instance),
            or_dash(outline.pid.map(|pid| pid.to_string())),
            shown(&outline.cause),
            shown(&outline.initiator),
            or_dash(outline.uptime.map(|uptime| Uptime(uptime).to_string())),
            shown(&how(outline)),
        ];
        Self(cells.join(&BETWEEN_CELLS.to_string()).into())
    }

    fn cells(&self) -> impl Iterator<Item = &str> {
        self.0.split(BETWEEN_CELLS)
    }
}

/// The beginning of it: a name is shorter, and a row is a row.
fn cut(text: &str) -> &str {
    const MOST: usize = 255;
    text.char_indices().nth(MOST).map_or(text, |(at, _)| &text[..at])
}

fn how(outline: &Outline<'_>) -> String {
    let signal = match (&outline.signal, outline.exit_code) {
        (Some(Text(signal)), _) => signal,
        (None, Some(code)) => return format!("exit {code}"),
        (None, None) => return "-".into(),
    };
    let Some(sender) = &outline.sender else { return signal.to_string() };
    let name = sender.name.as_ref().map_or("?", |name| &name.0);
    let name = if sender.kernel { "the kernel" } else { name };
    let pid = sender.pid.map_or_else(String::new, |pid| format!("[{pid}]"));
    format!("{signal} from {name}{pid}")
}

/// Prints these rows under their headings. The nodes have a column if any is known.
pub(super) fn print(out: &mut impl Write, rows: &[Row], style: Style) -> io::Result<()> {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row.cells()) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let has_nodes = widths[NODE] > 0;
    for (width, heading) in widths.iter_mut().zip(HEADINGS) {
        *width = (*width).max(heading.len());
    }
    let mut line = String::new();
    let mut print = |cells: &mut dyn Iterator<Item = &str>, is_heading: bool| {
        line.clear();
        for (column, cell) in cells.enumerate().filter(|(column, _)| has_nodes || *column != NODE) {
            let padded = format!("{cell:0$}", widths[column]);
            let is_by = column == BY && !is_heading;
            let cell = if is_by { style.by(cell, &padded) } else { padded };
            let _ = write!(line, "{}{cell}", if column == 0 { "" } else { "  " });
        }
        writeln!(out, "{}", line.trim_end())
    };
    print(&mut HEADINGS.into_iter(), true)?;
    rows.iter().try_for_each(|row| print(&mut row.cells(), false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Sender;
    use crate::wire::record::Record;

    fn printed(record: &Record, node: Option<&str>, is_coloured: bool) -> String {
        let line = record.to_line();
        let outline = Outline::parse(&line).unwrap();
        let row = Row::new(&Found { ended: None, node, line: &line, outline });
        let mut out = Vec::new();
        print(&mut out, &[row], Style { is_coloured }).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn terminated() -> Record {
        Record {
            instance: "web1".into(),
            pid: Some(4242),
            end: "2026-11-21T02:14:07.667502Z".into(),
            uptime: Some(3.0 * 86_400.0 + 4.5 * 3600.0),
            cause: "host-signal".into(),
            initiator: "admin".into(),
            signal: Some("SIGTERM".into()),
            sender: Some(Sender {
                pid: Some(5831),
                name: Some("kill".into()),
                ..Sender::default()
            }),
            ..Record::default()
        }
    }

    #[test]
    fn the_table_is_aligned_and_coloured_on_demand() {
        assert_eq!(
            printed(&terminated(), None, false),
            "ENDED (UTC)          INSTANCE  PID   CAUSE        BY     UP       SIGNAL OR STATUS\n\
             2026-11-21 02:14:07  web1      4242  host-signal  admin  3 d 4 h  SIGTERM from kill[5831]\n"
        );
        assert!(printed(&terminated(), None, true).contains("\x1b[33madmin\x1b[0m"));
    }

    #[test]
    fn the_nodes_have_a_column_where_they_are_known() {
        assert_eq!(
            printed(&terminated(), Some("node1"), false),
            "ENDED (UTC)          NODE   INSTANCE  PID   CAUSE        BY     UP       SIGNAL OR STATUS\n\
             2026-11-21 02:14:07  node1  web1      4242  host-signal  admin  3 d 4 h  SIGTERM from kill[5831]\n"
        );
    }

    #[test]
    fn a_forged_record_makes_one_row_and_cannot_move_the_cursor() {
        let record = Record {
            instance: "web\x1b[2J\n1".into(),
            end: "\x1b]0;".into(),
            cause: "x".repeat(1000),
            signal: Some("\n\n".into()),
            ..Record::default()
        };
        let text = printed(&record, Some("a\nb"), false);
        assert_eq!(text.lines().count(), 2);
        assert!(text.bytes().all(|byte| byte == b'\n' || byte >= b' '), "{text}");
        assert!(text.len() < 1500, "{text}");
    }
}
