//! `docs/platforms.md`: one table for each kind of platform, of what was played.

use std::fmt::Write as _;

use crate::column::{Column, FAILED, Kind, NOT_RUN, WRONG};
use crate::kernel::{self, BOOT, PROPTEST_CASES, TESTS};
use crate::qemu;
use crate::supervised;
use crate::whole;

const INTRODUCTION: &str = "\
# Platforms

What was played on which QEMU and which kernel: `make platforms` writes this page, and every cell is a
run. Nothing else is claimed. What was done by hand is at the end. (`PLATFORMS=--page make platforms`
plays nothing, and writes the page of the columns that are kept.)
";

const QEMU: &str = "
## QEMU

Each QEMU runs in the root of its own Debian, on the kernel of the machine that played it, and a guest
ends in each way under this project's daemon. A cell is the daemon's verdict (cause, whose doing, and
whether it made the file), and it is right unless it says otherwise. The last rows are tests of `kvmd-run`
with that QEMU (`tests/platforms/supervised.rs`).
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

/// What a cell's name begins with that is a way to end, played on a kernel.
pub(crate) const WAY: &str = "way ";

pub(crate) fn of(columns: &[Column]) -> String {
    let mut page = String::from(INTRODUCTION);
    page.push_str(QEMU);
    let titles: Vec<&str> = qemu::PLATFORMS.iter().map(|it| it.title).collect();
    let qemus = Columns::new(columns, Kind::Qemu, &titles);
    let ways: Vec<String> = qemu::deeds().map(String::from).chain(supervised::rows()).collect();
    qemus.print(&mut page, &ways, |column, way| column.result(way).map(String::from));

    page.push_str(KERNELS);
    let _ = writeln!(
        page,
        "A property test tries {PROPTEST_CASES} cases there, and not 256 as elsewhere."
    );
    let titles: Vec<&str> = kernel::PLATFORMS.iter().map(|it| it.title).collect();
    let kernels = Columns::new(columns, Kind::Kernel, &titles);
    let rows = [WITH_QEMU].into_iter().chain(TESTS.iter().map(|(_, row)| *row));
    let rows: Vec<String> = rows.map(String::from).collect();
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
    let commands: Vec<String> = whole::rows().collect();
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
        line("played on", &|_, it| of_played(&|it| Some(played_on(it)), it));
        for row in rows {
            line(row, &|_, it| of_played(&|it| cell(it, row), it));
        }
    }
}

fn played_on(column: &Column) -> String {
    match &*column.commit {
        "" => column.date.clone(),
        commit => format!("{}, commit {commit}", column.date),
    }
}

/// How many of the ways to end were right, of all that there are.
fn ways_right(column: &Column) -> Option<String> {
    let (mut all, mut right) = (0, 0);
    for deed in qemu::deeds() {
        all += 1;
        let result = column.result(&format!("{WAY}{deed}")).unwrap_or(NOT_RUN);
        right += usize::from(!result.starts_with(WRONG) && !result.starts_with(NOT_RUN));
    }
    Some(format!("{right} of {all} right ({})", column.result("qemu")?))
}

/// What is kept of a test program: how many tests passed, failed, and could not run.
fn counts(column: &Column, row: &str) -> Option<String> {
    let (test, _) = TESTS.iter().find(|(_, it)| *it == row)?;
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
    if let Some(boot) = column.result(BOOT) {
        let _ = write!(page, "\nBoot: {boot}.\n");
    }
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
