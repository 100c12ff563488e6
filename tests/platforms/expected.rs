//! What has to be in the column of a kernel. The machine prints cells, and may end in the middle of them:
//! what is missing has to be found out by somebody who knows what there is.

use crate::column::{Cell, FAILED, NOT_RUN};
use crate::kernel::TESTS;
use crate::page::WAY;
use crate::qemu;

/// From this version on the kernel lets an ordinary user listen to its proc connector.
const FOR_EVERYONE: (u32, u32) = (6, 6);

const EXIT_CODE: &str = "(exit code 0)";

/// A cell for whatever is not as it should be, and is not called so already. A test may need what this
/// platform is known to lack, and nothing else.
pub(crate) fn failures(cells: &[Cell], lacks: &[&str]) -> Vec<Cell> {
    let mut failures = Vec::new();
    let is_there = |what: &str| cells.iter().any(|cell| cell.what == what);
    if !is_there("end") {
        failures.push("the machine ended before everything was played".to_string());
    }
    let tests = TESTS.iter().filter(|(test, _)| !is_there(&format!("tests {test}")));
    failures.extend(tests.map(|(_, row)| format!("{row}: not played")));
    let ways = qemu::deeds().filter(|deed| !is_there(&format!("{WAY}{deed}")));
    failures.extend(ways.map(|deed| format!("{deed}: not played")));
    let kernel = cells.iter().find(|cell| cell.what == "kernel");
    let version = kernel.and_then(|it| version(&it.result)).unwrap_or_default();
    let lacking = cells.iter().filter(|it| it.what == NOT_RUN);
    let is_known = |it: &&Cell| {
        it.result.rsplit_once(": needs ").is_some_and(|(_, needs)| lacks.contains(&needs))
    };
    let lacking = lacking.filter(|it| !is_known(it));
    failures.extend(lacking.map(|it| format!("{}, which was to be there", it.result)));
    for (what, line) in said(version) {
        if !cells.iter().any(|cell| cell.what == what && cell.result.contains(line)) {
            failures.push(format!("{what}: does not say {line:?}"));
        }
    }
    failures.into_iter().map(|result| Cell { what: FAILED.into(), result }).collect()
}

/// What the daemon, and what `--check`, have to say on a kernel of this version: to root, and to an
/// ordinary user, who has no trace, and is told how processes end by later kernels only.
fn said(version: (u32, u32)) -> [(&'static str, &'static str); 8] {
    let connector = if version >= FOR_EVERYONE {
        "The kernel's proc connector reports how processes end"
    } else {
        "The kernel's proc connector is not available"
    };
    [
        ("log as root", "The kernel's proc connector reports how processes end"),
        ("log as root", "The kernel's trace shows who sends signals"),
        ("check as root", "Everything is as it should be."),
        ("check as root", EXIT_CODE),
        ("log as an ordinary user", connector),
        ("log as an ordinary user", "The kernel's trace of signals is not available"),
        ("check as an ordinary user", "It works, with the limits listed above."),
        ("check as an ordinary user", EXIT_CODE),
    ]
}

/// The first two numbers of `6.12.117+deb13-cloud-arm64`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}
