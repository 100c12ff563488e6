//! Ganeti's own QA, as it is; and thirty rounds of "start, the user powers off".

use std::fs;

use crate::cluster::{Cluster, Subject};
use crate::instance::Instance;
use crate::node::{Failed, Result};
use crate::story::{PLAIN, USER_DOWN, guard};
use crate::table::Row;

/// Title, and MODULE.FUNCTION. The first has to be played without an instance.
pub(crate) const TESTS: [(&str, &str); 5] = [
    ("QA: modify-user-shutdown", "qa_cluster.TestClusterModifyUserShutdown"),
    ("QA: user-down (--signal-shutdown=user)", "qa_instance.TestInstanceUserDown"),
    ("QA: automatic-restart", "qa_daemon.TestInstanceAutomaticRestart"),
    ("QA: consecutive-failures", "qa_daemon.TestInstanceConsecutiveFailures"),
    ("QA: reboot", "qa_instance.TestInstanceReboot"),
];

const ROUNDS: usize = 30;

/// What the instance is called.
const NAME: &str = "qa1";

/// Plays these on a cluster of their own.
pub(crate) fn play(cluster: &Cluster, tests: &[(&str, &str)]) -> Vec<Row> {
    let mut rows = Vec::new();
    let set_up = || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/qa.py");
        fs::copy(script, cluster.master().path("root/qa.py"))
            .map_err(|error| Failed(format!("copying {script}: {error}")))?;
        if cluster.subject == Subject::Ours {
            // QA's user is a signal.
            let file = cluster.master().path("etc/default/ganeti");
            fs::write(&file, "KVMD_ARGS=\"-d --signal-shutdown=user\"\n")
                .map_err(|error| Failed(format!("writing {}: {error}", file.display())))?;
            restart(cluster)?;
        }
        Ok(())
    };
    if let Err(error) = guard(set_up) {
        cluster.say(&error.to_string());
    }
    let mut has_instance = false;
    for &(title, test) in tests {
        if title != TESTS[0].0 && !has_instance {
            if let Err(error) = guard(|| cluster.add(&[(NAME, PLAIN)])) {
                cluster.say(&error.to_string());
            }
            has_instance = true;
        }
        let result = cluster.qa(NAME, test);
        cluster.say(&match &result {
            Ok(()) => title.into(),
            Err(error) => format!("{title}: {}", last_lines(&error.to_string())),
        });
        let word = if result.is_ok() { "passes" } else { "fails" };
        rows.push(Row { says: title.into(), expected: "passes".into(), result: word.into() });
        let _ = cluster.run(&["gnt-cluster", "watcher", "continue"]);
        if has_instance {
            let _ = cluster.run(&["gnt-instance", "start", "--force", NAME]);
            // QA does not wait for the guest, and one that still boots obeys nobody.
            let _ = guard(|| Ok(Instance::on(cluster.master(), NAME)));
        }
    }
    rows
}

/// In each round an instance is started, and its user powers it off as soon as the guest is up.
pub(crate) fn play_rounds(cluster: &Cluster) -> Row {
    let name = "rounds";
    let mut right = 0;
    let result = guard(|| {
        cluster.add(&[(name, PLAIN)])?;
        for round in 1..=ROUNDS {
            if round > 1 {
                cluster.run(&["gnt-instance", "start", name])?;
            }
            Instance::on(cluster.master(), name).power_off();
            let list = cluster.list()?;
            right += usize::from(list.iter().any(|it| it.0 == name && it.1 == USER_DOWN));
            if round % 10 == 0 {
                cluster.say(&format!("round {round} of {ROUNDS}: {right} USER_down"));
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        cluster.say(&error.to_string());
    }
    Row {
        says: format!("{ROUNDS} rounds of start, its user powers it off"),
        expected: format!("{ROUNDS} USER_down"),
        result: format!("{right} USER_down"),
    }
}

fn restart(cluster: &Cluster) -> Result<()> {
    cluster.master().daemon_util("stop", "ganeti-kvmd")?;
    cluster.master().daemon_util("start", "ganeti-kvmd")
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
