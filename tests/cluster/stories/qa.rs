//! Ganeti's own QA, as it is; and thirty rounds of "start, the user powers off".

use std::fs;

use testbed::await_that;

use crate::cluster::{Cluster, KVMD, Subject};
use crate::instance::Instance;
use crate::node::{Failed, Result};
use crate::stories::daemon::{let_it_be_started, running};
use crate::story::{PLAIN, USER_DOWN, guard};
use crate::table::Row;

/// A test of Ganeti's QA.
pub(crate) struct Test {
    pub(crate) title: &'static str,
    /// MODULE.FUNCTION.
    function: &'static str,
    /// It has to be played without an instance.
    is_for_nobody: bool,
    /// Its user is a signal.
    plays_user_by_signal: bool,
    /// It leaves user shutdown as it is, so one and the same daemon has to run all through it.
    leaves_daemon_alone: bool,
}

const REBOOT: Test = Test {
    title: "QA: reboot",
    function: "qa_instance.TestInstanceReboot",
    is_for_nobody: false,
    plays_user_by_signal: false,
    leaves_daemon_alone: true,
};

/// The one for nobody comes first.
pub(crate) const TESTS: [Test; 5] = [
    Test {
        title: "QA: modify-user-shutdown",
        function: "qa_cluster.TestClusterModifyUserShutdown",
        is_for_nobody: true,
        leaves_daemon_alone: false,
        ..REBOOT
    },
    Test {
        title: "QA: user-down (--signal-shutdown=user)",
        function: "qa_instance.TestInstanceUserDown",
        plays_user_by_signal: true,
        leaves_daemon_alone: false,
        ..REBOOT
    },
    Test {
        title: "QA: automatic-restart",
        function: "qa_daemon.TestInstanceAutomaticRestart",
        ..REBOOT
    },
    Test {
        title: "QA: consecutive-failures",
        function: "qa_daemon.TestInstanceConsecutiveFailures",
        ..REBOOT
    },
    REBOOT,
];

pub(crate) const ROUNDS_TITLE: &str = "rounds of start, its user powers it off";
const ROUNDS: usize = 30;

/// What the instance is called.
const NAME: &str = "qa1";

pub(crate) fn owed(test: &Test) -> Row {
    Row::owed(test.title, "passes".into())
}

/// Plays these on a cluster of their own.
pub(crate) fn play<'a>(
    cluster: &Cluster,
    tests: impl Iterator<Item = &'a Test>,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/qa.py");
    fs::copy(script, cluster.master().path("root/qa.py"))
        .map_err(|error| Failed(format!("copying {script}: {error}")))?;
    let mut has_instance = false;
    for test in tests {
        if !test.is_for_nobody && !has_instance {
            cluster.add(&[(NAME, PLAIN)])?;
            has_instance = true;
        }
        let result = guard(|| {
            let before = prepare(cluster, test)?;
            cluster.qa(NAME, test.function)?;
            if test.leaves_daemon_alone && running(cluster)? != before {
                return Err(Failed(format!("{KVMD} is another process after {}", test.title)));
            }
            Ok(())
        });
        cluster.say(&match &result {
            Ok(()) => test.title.into(),
            Err(error) => format!("{}: {}", test.title, last_lines(&error.to_string())),
        });
        cluster.has_the_right_daemon()?;
        rows.push(owed(test).seen(if result.is_ok() { "passes" } else { "fails" }.into()));
        let _ = cluster.run(&["gnt-cluster", "watcher", "continue"]);
    }
    Ok(())
}

/// Has user shutdown switched on everywhere, whatever the test before has left, and a daemon that has
/// just been started; its pid.
fn prepare(cluster: &Cluster, test: &Test) -> Result<u32> {
    let node = cluster.master();
    if cluster.subject == Subject::Ours {
        let options = if test.plays_user_by_signal { "-d --signal-shutdown=user" } else { "-d" };
        let file = node.path("etc/default/ganeti");
        fs::write(&file, format!("KVMD_ARGS=\"{options}\"\n"))
            .map_err(|error| Failed(format!("writing {}: {error}", file.display())))?;
    }
    let_it_be_started(cluster)?;
    cluster.run(&["gnt-cluster", "modify", "--user-shutdown=yes"])?;
    await_that("the daemon comes", || node.daemon(KVMD).is_some());
    node.daemon_util("stop", KVMD)?;
    node.daemon_util("start", KVMD)?;
    if !test.is_for_nobody {
        cluster.run(&["gnt-instance", "modify", "-H", "user_shutdown=true", NAME])?;
        // QA may have left it as it likes.
        cluster.run(&["gnt-instance", "shutdown", "--timeout=0", NAME])?;
        cluster.run(&["gnt-instance", "start", NAME])?;
        // QA does not wait for the guest, and one that still boots obeys nobody.
        Instance::on(node, NAME);
    }
    running(cluster)
}

pub(crate) fn rounds_owed() -> Row {
    Row::owed(&format!("{ROUNDS} {ROUNDS_TITLE}"), format!("{ROUNDS} USER_down"))
}

/// In each round an instance is started, and its user powers it off as soon as the guest is up.
pub(crate) fn play_rounds(cluster: &Cluster, rows: &mut Vec<Row>) -> Result<()> {
    let name = "rounds";
    cluster.add(&[(name, PLAIN)])?;
    cluster.has_the_right_daemon()?;
    let mut right = 0;
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
    cluster.has_the_right_daemon()?;
    rows.push(rounds_owed().seen(format!("{right} USER_down")));
    Ok(())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
