//! `docs/platforms.md`: one table for each kind of platform, of what was played.

use std::fmt::Write as _;

use crate::column::{Column, FAILED, Kind, WRONG};
use crate::kernel;
use crate::qemu;
use crate::whole;

const INTRODUCTION: &str = "\
# Platforms

What was played on which QEMU and which kernel: `make platforms` writes this page, and every cell is a
run. Nothing else is claimed. What was done by hand is at the end.
";

const QEMU: &str = "
## QEMU

Each QEMU runs in the root of its own Debian, on the kernel of the machine that played it, and a guest
ends in each way under this project's daemon. A cell is the daemon's verdict (cause, whose doing, and
whether it made the file), and it is right unless it says otherwise.
";

const KERNELS: &str = "
## Kernels

Each is Debian's cloud kernel, in an emulated machine of two processors. The programs in it are those of
the Debian that the tests were built on; only the kernel differs. On arm64 they are Debian 13's, and the
tests were built for it with Debian's cross compiler. The ways to end are played with real QEMU,
emulated within the emulated machine; its guests are of x86. Of the tests in `tests/` those below were run; all others
were not, since emulated they take minutes each.
";

const WHOLE: &str = "
## Whole Debians

A fresh clone on a Debian of its own, made by debootstrap, with that Debian's Rust, QEMU, Ganeti and
systemd, on the kernel of the machine that played it: the commands of README.md, and how each of them
ended. Every test has to run.
";

/// What this program does not play.
const BY_HAND: &str = include_str!("by_hand.md");

const NOT_RUN: &str = "not run";
/// What a cell's name begins with that is a way to end, played on a kernel.
const WAY: &str = "way ";

pub(crate) fn of(columns: &[Column]) -> String {
    let mut page = String::from(INTRODUCTION);
    page.push_str(QEMU);
    let titles: Vec<&str> = qemu::PLATFORMS.iter().map(|it| it.title).collect();
    let qemus = Columns::new(columns, Kind::Qemu, &titles);
    let ways: Vec<String> = qemus.names(|what| Some(what.into()));
    qemus.print(&mut page, &ways, |column, way| column.result(way).map(String::from));

    page.push_str(KERNELS);
    let titles: Vec<&str> = kernel::PLATFORMS.iter().map(|it| it.title).collect();
    let kernels = Columns::new(columns, Kind::Kernel, &titles);
    let tests: Vec<String> = kernels.names(|what| what.strip_prefix("tests ").map(String::from));
    let mut rows: Vec<String> = vec![WITH_QEMU.into()];
    rows.extend(tests.iter().map(|test| format!("tests/{test}.rs")));
    kernels.print(&mut page, &rows, |column, row| match row {
        WITH_QEMU => ways_right(column),
        _ => counts(column, row),
    });
    for column in kernels.played() {
        describe(&mut page, column);
    }

    page.push_str(WHOLE);
    let titles: Vec<&str> = whole::PLATFORMS.iter().map(|it| it.title).collect();
    let whole = Columns::new(columns, Kind::Whole, &titles);
    let commands: Vec<String> = whole.names(|what| Some(what.into()));
    whole.print(&mut page, &commands, |column, command| column.result(command).map(String::from));
    page.push_str(BY_HAND);
    page
}

const WITH_QEMU: &str = "ways to end, with real QEMU";

/// The columns of one kind: each platform, and what was played on it.
struct Columns<'a>(Vec<(&'a str, Option<&'a Column>)>);

impl<'a> Columns<'a> {
    fn new(columns: &'a [Column], kind: Kind, titles: &[&'a str]) -> Self {
        let find = |title: &str| columns.iter().find(|it| it.kind == kind && it.title == title);
        Self(titles.iter().map(|&title| (title, find(title))).collect())
    }

    fn played(&self) -> impl Iterator<Item = &'a Column> {
        self.0.iter().filter_map(|(_, column)| *column)
    }

    /// What the cells of all columns are, in the order in which they were played.
    fn names(&self, name: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for what in self.played().flat_map(|column| &column.cells).filter_map(|it| name(&it.what)) {
            if !names.contains(&what) {
                names.push(what);
            }
        }
        names
    }

    fn print(
        &self,
        page: &mut String,
        rows: &[String],
        cell: impl Fn(&Column, &str) -> Option<String>,
    ) {
        page.push('\n');
        let mut line = |first: &str, of_one: &dyn Fn(&str, Option<&Column>) -> String| {
            let cells = self.0.iter().map(|(title, column)| of_one(title, *column));
            let cells: Vec<String> = cells.map(|it| it.replace('|', "\\|")).collect();
            let _ = writeln!(page, "| {first} | {} |", cells.join(" | "));
        };
        let of_played = |of: &dyn Fn(&Column) -> Option<String>, column: Option<&Column>| {
            column.and_then(of).unwrap_or_else(|| NOT_RUN.into())
        };
        line("", &|title, _| title.to_string());
        line("---", &|_, _| "---".into());
        line("version", &|_, it| of_played(&|it| Some(it.version.clone()), it));
        line("played on", &|_, it| of_played(&|it| Some(it.date.clone()), it));
        for row in rows {
            line(row, &|_, it| of_played(&|it| cell(it, row), it));
        }
    }
}

/// How many of the ways to end were right.
fn ways_right(column: &Column) -> Option<String> {
    let ways: Vec<&str> =
        column.cells.iter().filter(|it| it.what.starts_with(WAY)).map(|it| &*it.result).collect();
    let played = ways.iter().filter(|it| !it.starts_with(NOT_RUN)).count();
    let right = played - ways.iter().filter(|it| it.starts_with(WRONG)).count();
    let qemu = column.result("qemu")?;
    let not_run = ways.len() - played;
    let rest = if not_run > 0 { format!(", {not_run} not run") } else { String::new() };
    Some(format!("{right} of {played} right{rest} ({qemu})"))
}

/// What is kept of a test program: how many tests passed, failed, and could not run.
fn counts(column: &Column, row: &str) -> Option<String> {
    let test = row.strip_prefix("tests/")?.strip_suffix(".rs")?;
    let counts = column.result(&format!("tests {test}"))?;
    let counts: Vec<usize> = counts.split(' ').filter_map(|it| it.parse().ok()).collect();
    let [passed, failed, lacking] = counts[..] else { return None };
    let mut text = format!("{passed} of {} pass", passed + failed);
    if lacking > 0 {
        let _ = write!(text, ", {lacking} not run");
    }
    Some(text)
}

/// What the daemon says of itself on this kernel, and which tests did not pass.
fn describe(page: &mut String, column: &Column) {
    let _ = write!(page, "\n### {}: {}\n", column.title, column.version);
    for who in ["as root", "as an ordinary user"] {
        let _ = write!(page, "\n`ganeti-kvmd` and `ganeti-kvmd --check` {who}:\n\n");
        let (log, check) = (format!("log {who}"), format!("check {who}"));
        for line in column.all(&log).chain([""]).chain(column.all(&check)) {
            let _ = writeln!(page, "{}", format!("    {line}").trim_end());
        }
    }
    let ways = column.cells.iter().filter_map(|it| Some((it.what.strip_prefix(WAY)?, &it.result)));
    let ways = ways.filter(|(_, it)| it.starts_with(WRONG) || it.starts_with(NOT_RUN));
    let ways = ways.map(|(way, result)| format!("{way}: {result}"));
    let failed: Vec<String> = column.all(FAILED).map(|it| format!("failed: {it}")).collect();
    let lacking = column.all(NOT_RUN).map(|it| format!("not run: {it}"));
    let mut heading = Some("\nNot as it should be, or not run:\n\n");
    for line in ways.chain(failed).chain(lacking) {
        page.push_str(heading.take().unwrap_or_default());
        let _ = writeln!(page, "- {line}");
    }
}
