//! The daemon comes and goes under instances that run.

use testbed::{Signal, await_that, send_signal};

use crate::cluster::{Cluster, KVMD, Subject};
use crate::node::{Failed, Result};
use crate::story::{AGAIN, BY_USER, Chapter, USER, story};

pub(crate) const RESTARTS: Chapter = Chapter {
    title: "the daemon is upgraded or restarted",
    is_ours_alone: false,
    before: |_| Ok(()),
    stories: &[
        story("upgraded", "the daemon's package is upgraded", USER, BY_USER, |scene| {
            let instance = scene.instance();
            let node = scene.cluster.master();
            let before = running(scene.cluster)?;
            match scene.cluster.subject {
                Subject::Ours => node.install(&[&scene.cluster.later_package()?])?,
                // What an upgrade of Debian's package does.
                Subject::Theirs => {
                    node.daemon_util("stop", KVMD)?;
                    node.daemon_util("start", KVMD)?;
                }
            }
            assert_ne!(before, running(scene.cluster)?, "it is another process");
            instance.power_off();
            Ok(())
        }),
        story("node", "its node's daemons are stopped and started", USER, BY_USER, |scene| {
            let instance = scene.instance();
            let node = scene.cluster.master();
            for (verb, daemons) in
                [("stop", [KVMD, "ganeti-noded"]), ("start", ["ganeti-noded", KVMD])]
            {
                for daemon in daemons {
                    node.daemon_util(verb, daemon)?;
                }
            }
            running(scene.cluster)?;
            instance.power_off();
            Ok(())
        }),
    ],
};

/// By itself, as the watcher comes within the story.
pub(crate) const KILLED: Chapter = Chapter {
    title: "the daemon is killed",
    is_ours_alone: false,
    before: |_| Ok(()),
    stories: &[story(
        "killed",
        "the daemon is killed, the watcher starts it",
        USER,
        BY_USER,
        |scene| {
            let instance = scene.instance();
            let node = scene.cluster.master();
            send_signal(running(scene.cluster)?, Signal::KILL);
            await_that("the daemon has ended", || node.daemon(KVMD).is_none());
            // Debian's start-stop-daemon refuses the pid file that the original leaves.
            scene.cluster.watcher()?;
            instance.power_off();
            Ok(())
        },
    )],
};

pub(crate) const SWITCHED_OFF: Chapter = Chapter {
    title: "enabled_user_shutdown is switched off",
    is_ours_alone: false,
    before: |cluster| {
        let node = cluster.master();
        let_it_be_started(cluster)?;
        switch(cluster, "--user-shutdown=no")?;
        await_that("the daemon leaves", || node.daemon(KVMD).is_none());
        Ok(())
    },
    stories: &[story("off", "--user-shutdown=no, its user powers it off", AGAIN, &[], |scene| {
        scene.instance().power_off();
        Ok(())
    })],
};

pub(crate) const SWITCHED_ON: Chapter = Chapter {
    title: "enabled_user_shutdown is switched on",
    is_ours_alone: false,
    before: |cluster| {
        switch(cluster, "--user-shutdown=yes")?;
        let node = cluster.master();
        await_that("the daemon comes", || node.daemon(KVMD).is_some());
        Ok(())
    },
    stories: &[story(
        "on",
        "--user-shutdown=yes, its user powers it off",
        USER,
        BY_USER,
        |scene| {
            scene.instance().power_off();
            Ok(())
        },
    )],
};

/// The pid of the daemon on the first node, which has to run, and to be the one that is meant.
pub(crate) fn running(cluster: &Cluster) -> Result<u32> {
    cluster.has_the_right_daemon()?;
    let node = cluster.master();
    node.daemon(KVMD).ok_or_else(|| Failed(format!("{KVMD} does not run on {}", node.name)))
}

/// Killed, the original cannot be started again before an administrator has removed its pid file.
pub(crate) fn let_it_be_started(cluster: &Cluster) -> Result<()> {
    let node = cluster.master();
    if cluster.subject == Subject::Theirs && node.daemon(KVMD).is_none() {
        node.run(&["rm", "-f", "/run/ganeti/ganeti-kvmd.pid"])?;
    }
    Ok(())
}

fn switch(cluster: &Cluster, option: &str) -> Result<()> {
    cluster.run(&["gnt-cluster", "modify", option]).map(drop)
}
