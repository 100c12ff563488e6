//! `gnt-cluster verify`, while one instance runs and the user of another has shut it down.

use crate::cluster::Cluster;
use crate::instance::Instance;
use crate::node::{Failed, Result};
use crate::stories::daemon::let_it_be_started;
use crate::story::{PLAIN, RUNNING, USER_DOWN};
use crate::table::{Outcome, Row};

pub(crate) const TITLE: &str = "gnt-cluster verify";
const SAYS: &str = "gnt-cluster verify: complaints";
const EXPECTED: &str = "as with the original";

const RUNS: &str = "verifyruns";
const OFF: &str = "verifyoff";

/// The heading of its last section, without which it has not run to its end.
const LAST_SECTION: &str = "* Hooks Results";

/// How often the original may overlook that a user powers an instance off.
const ATTEMPTS: usize = 20;

pub(crate) fn owed() -> Row {
    Row::owed(SAYS, EXPECTED.into())
}

/// What it complains of; [`compare`] compares that with the original's.
pub(crate) fn play(cluster: &Cluster) -> Result<Row> {
    cluster.say(TITLE);
    let_it_be_started(cluster)?;
    cluster.run(&["gnt-cluster", "modify", "--user-shutdown=yes"])?;
    cluster.add(&[(RUNS, PLAIN), (OFF, PLAIN)])?;
    Instance::on(cluster.master(), RUNS);
    power_off(cluster)?;
    cluster.has_the_right_daemon()?;
    Ok(owed().seen(complaints(cluster)?.join("; ")))
}

/// The watcher has not come to it when verify does.
fn power_off(cluster: &Cluster) -> Result<()> {
    let is = |name, state| {
        let list = cluster.list()?;
        Ok(list.iter().any(|it| it.0 == name && it.1 == state))
    };
    for _ in 0..ATTEMPTS {
        Instance::on(cluster.master(), OFF).power_off();
        if is(OFF, USER_DOWN)? {
            let runs = is(RUNS, RUNNING)?;
            return if runs { Ok(()) } else { Err(Failed(format!("{RUNS} does not run"))) };
        }
        cluster.run(&["gnt-instance", "start", OFF])?;
    }
    Err(Failed(format!("{OFF} was powered off {ATTEMPTS} times, and is never USER_down")))
}

/// What it complains of, without times and with the same names of nodes whichever daemon they have.
fn complaints(cluster: &Cluster) -> Result<Vec<String>> {
    // It fails where it complains.
    let text = cluster.run(&["gnt-cluster", "verify"]).unwrap_or_else(|Failed(text)| text);
    if !text.contains(LAST_SECTION) {
        return Err(Failed(format!("gnt-cluster verify has not run to its end: {text}")));
    }
    let complaint = |line: &str| {
        let (_, text) = line.split_once("- ERROR: ").or_else(|| line.split_once("- WARNING: "))?;
        Some(text.replace(&format!("{}-", cluster.subject.word()), ""))
    };
    let mut complaints: Vec<String> = text.lines().filter_map(complaint).collect();
    complaints.sort();
    Ok(complaints)
}

/// What the cluster of the original is blamed for (this machine's `/proc`, say), ours may be, too.
pub(crate) fn compare(ours: &mut [Row], theirs: &mut [Row]) {
    let find = |rows: &mut [Row]| rows.iter().position(|row| row.says == SAYS);
    let (Some(our), Some(their)) = (find(ours), find(theirs)) else { return };
    let (our, their) = (&mut ours[our], &mut theirs[their]);
    if matches!(their.result, Outcome::Seen(_)) {
        if our.result == their.result {
            our.result = Outcome::Seen(EXPECTED.into());
        }
        their.result = Outcome::Seen(EXPECTED.into());
    }
}
