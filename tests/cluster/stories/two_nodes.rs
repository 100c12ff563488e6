//! Instances move from one node to the other.

use std::process::{Child, Stdio};

use testbed::{Signal, await_that, send_signal};

use crate::cluster::{Cluster, Shape};
use crate::instance::Instance;
use crate::node::{Failed, Result};
use crate::stories::daemon::let_it_be_started;
use crate::story::{
    AGAIN, BY_USER, Chapter, FORCED, OBEYED, PLAIN, RUNS, Scene, Story, USER, story,
};

/// QEMU on the first node, whose guest has left, is ended by Ganeti.
const LEFT: &[&str] = FORCED;
pub(crate) const LEFT_THEN_OFF: &[&str] = &[FORCED[0], BY_USER[0]];
const OBEYED_THEN_OFF: &[&str] = &[OBEYED[0], BY_USER[0]];
/// QEMU on the second node ends, and the guest stays where it was.
const TARGET_KILLED: &[&str] = &["killed admin by the test"];
const OFF_AND_TARGET_KILLED: &[&str] = &[BY_USER[0], TARGET_KILLED[0]];
const OFF_AND_TARGET_FAILED: &[&str] = &[BY_USER[0], "failed crash"];

pub(crate) const MOVES: Chapter = Chapter {
    title: "migration and failover, on two nodes",
    is_ours_alone: false,
    before: with_a_second_node,
    stories: &[
        story("live", "live migration", RUNS, LEFT, |scene| {
            scene.instance();
            scene.gnt_instance(&["migrate", "--force"])?;
            scene.instance_at_target();
            Ok(())
        }),
        story(
            "liveoff",
            "live migration, its user powers it off there",
            USER,
            LEFT_THEN_OFF,
            |scene| moved_and_powered_off(scene, "migrate"),
        ),
        story(
            "nonlive",
            "non-live migration, cont, its user powers it off there",
            USER,
            LEFT_THEN_OFF,
            |scene| {
                scene.instance();
                scene.gnt_instance(&["migrate", "--force", "--non-live"])?;
                // Ganeti 3.0 has the guest stop for it, and leaves it so.
                Instance::resume(&scene.cluster.nodes[1], scene.name);
                scene.instance_at_target().power_off();
                Ok(())
            },
        ),
        story("failover", "failover", RUNS, OBEYED, |scene| {
            scene.instance();
            scene.gnt_instance(&["failover", "--force"])?;
            scene.instance_at_target();
            Ok(())
        }),
        story(
            "failoff",
            "failover, its user powers it off there",
            USER,
            OBEYED_THEN_OFF,
            |scene| moved_and_powered_off(scene, "failover"),
        ),
    ],
};

/// With so much memory and so little bandwidth that a migration lasts.
pub(crate) const FAILURES: Chapter = Chapter {
    title: "migrations that fail, on two nodes",
    is_ours_alone: false,
    before: |cluster| {
        with_a_second_node(cluster)?;
        let bandwidth = "--hypervisor-parameters=kvm:migration_bandwidth=1";
        cluster.run(&["gnt-cluster", "modify", bandwidth]).map(drop)
    },
    stories: &[
        large(story(
            "stays",
            "migration fails after a stop, it runs on",
            RUNS,
            TARGET_KILLED,
            |scene| fails_to_migrate(scene).map(drop),
        )),
        large(story(
            "staysoff",
            "migration fails, then its user powers it off",
            USER,
            OFF_AND_TARGET_KILLED,
            |scene| {
                fails_to_migrate(scene)?.power_off();
                Ok(())
            },
        )),
        // Ganeti removes the mark itself when it clears up (CleanupInstance in hv_kvm), and the
        // watcher starts the instance again, whichever daemon there is. The record knows better.
        large(story(
            "during",
            "its user powers it off during a migration",
            AGAIN,
            OFF_AND_TARGET_FAILED,
            |scene| {
                let instance = scene.instance();
                let migration = Migration::start(scene, &[])?;
                instance.power_off();
                migration.fails()
            },
        )),
    ],
};

pub(crate) fn with_a_second_node(cluster: &mut Cluster) -> Result<()> {
    let_it_be_started(cluster)?;
    if cluster.nodes.len() == 1 { cluster.add_node() } else { Ok(()) }
}

/// Its user powers it off on the node that Ganeti has brought it to.
pub(crate) fn moved_and_powered_off(scene: &Scene, how: &str) -> Result<()> {
    scene.instance();
    scene.gnt_instance(&[how, "--force"])?;
    scene.instance_at_target().power_off();
    Ok(())
}

const fn large(story: Story) -> Story {
    Story { shape: Shape { memory: 2048, ..PLAIN }, ..story }
}

/// A migration under way.
struct Migration {
    command: Child,
    /// The pid of QEMU on the second node.
    target: u32,
}

impl Migration {
    /// Starts one, and waits until memory flows from one QEMU to the other.
    fn start(scene: &Scene, options: &[&str]) -> Result<Self> {
        let [source, target] = &scene.cluster.nodes[..] else {
            return Err(Failed("there is no second node".into()));
        };
        let words = [&["gnt-instance", "migrate", "--force"], options, &[scene.name]].concat();
        let mut command = source.command(&words);
        let command = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let command = command.map_err(|error| Failed(format!("nsenter: {error}")))?;
        await_that("the migration is under way", || {
            let port = ["ss", "-Htn", "state", "established", "sport", "=", ":8102"];
            target.run(&port).is_ok_and(|connections| !connections.is_empty())
        });
        let target = Instance::pid_on(target, scene.name);
        Ok(Self { command, target: target.ok_or_else(|| Failed("QEMU has no pid file".into()))? })
    }

    /// Waits until Ganeti says that it has failed.
    fn fails(mut self) -> Result<()> {
        let status = self.command.wait().map_err(|error| Failed(error.to_string()))?;
        if status.success() { Err(Failed("the migration did not fail".into())) } else { Ok(()) }
    }
}

/// QEMU on the second node is killed while the guest stands still for a migration without its
/// running: Ganeti has it go on where it was.
fn fails_to_migrate(scene: &Scene) -> Result<Instance> {
    scene.instance();
    let migration = Migration::start(scene, &["--non-live"])?;
    send_signal(migration.target, Signal::KILL);
    migration.fails()?;
    Ok(scene.instance())
}
