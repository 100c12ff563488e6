//! Every way in which an instance on one node ends.

use testbed::Signal;

use crate::cluster::Shape;
use crate::node::{Failed, Result};
use crate::stories::memory_cgroup::MemoryCgroup;
use crate::story::{
    ADMIN, AGAIN, BY_USER, Chapter, FORCED, OBEYED, OBEYED_OR_FORCED, PLAIN, RUNNING, RUNS, Scene,
    State, Story, USER, story,
};

pub(crate) const CHAPTER: Chapter = Chapter {
    title: "every way to end, on one node",
    is_ours_alone: false,
    before: |cluster| cluster.run(&["gnt-cluster", "modify", "--add-uids=41000-41002"]).map(drop),
    stories: STORIES,
};

const OUT_OF_MEMORY: &[&str] = &["out-of-memory crash by the kernel"];
const REBOOTED_THEN_OFF: &[&str] = &[OBEYED[0], BY_USER[0]];
/// It is marked all the same: Ganeti does not look at that where the instance's own switch is off.
const UNHEEDED: (State, State) = ("ERROR_down, marked on node1", RUNNING);

const fn with(story: Story, parameters: &'static [(&'static str, &'static str)]) -> Story {
    Story { shape: Shape { parameters, on_file: false, memory: 0 }, ..story }
}

#[allow(clippy::unnecessary_wraps)] // a deed may fail
fn user_powers_off(scene: &Scene) -> Result<()> {
    scene.instance().power_off();
    Ok(())
}

fn killed_by(scene: &Scene, signal: Signal) {
    let instance = scene.instance();
    instance.signal(signal);
    instance.await_end();
}

fn rebooted(scene: &Scene, how: &str) -> Result<()> {
    let before = scene.instance().pid;
    match scene.gnt_instance(&["reboot", how]) {
        // Seen once in some hundred: Ganeti looks at the command line of a QEMU that has just ended.
        Err(Failed(text)) if text.contains("Can't open cmdline file") => {
            scene.gnt_instance(&["reboot", how])?;
        }
        rebooted => rebooted?,
    }
    assert_ne!(before, scene.instance().pid, "QEMU is another process after a reboot");
    Ok(())
}

const STORIES: &[Story] = &[
    story("poweroff", "its user powers it off", USER, BY_USER, user_powers_off),
    story("sigterm", "SIGTERM to QEMU", AGAIN, &["host-signal admin by the test"], |scene| {
        killed_by(scene, Signal::TERM);
        Ok(())
    }),
    story("sigkill", "SIGKILL to QEMU", AGAIN, &["killed admin by the test"], |scene| {
        killed_by(scene, Signal::KILL);
        Ok(())
    }),
    story("sigsegv", "QEMU crashes", AGAIN, &["crashed crash by the test"], |scene| {
        killed_by(scene, Signal::SEGV);
        Ok(())
    }),
    story("oom", "the OOM killer ends QEMU", AGAIN, OUT_OF_MEMORY, |scene| {
        let instance = scene.instance();
        let group = MemoryCgroup::around(instance.pid, 200 << 20)?;
        // It takes its memory when it is told to, and not before it is in the group.
        instance.execute(
            r#"{"execute": "object-add", "arguments": {"qom-type": "memory-backend-ram",
            "id": "more", "size": 1073741824, "prealloc": true}}"#,
        );
        instance.await_end();
        drop(group);
        Ok(())
    }),
    with(
        story("panic", "the guest panics", AGAIN, &["guest-panic crash"], |scene| {
            let mut instance = scene.instance();
            instance.tell(b'c');
            instance.await_end();
            Ok(())
        }),
        &[("kvm_extra", "-device pvpanic")],
    ),
    story("shutdown", "gnt-instance shutdown, the guest obeys", ADMIN, OBEYED, |scene| {
        scene.instance();
        scene.gnt_instance(&["shutdown"])
    }),
    story("deaf", "gnt-instance shutdown, the guest is deaf", ADMIN, FORCED, |scene| {
        scene.instance().deafen();
        scene.gnt_instance(&["shutdown", "--timeout=3"])
    }),
    story("atonce", "gnt-instance shutdown --timeout=0", ADMIN, OBEYED_OR_FORCED, |scene| {
        scene.instance();
        scene.gnt_instance(&["shutdown", "--timeout=0"])
    }),
    // Ganeti does not take note of these, and the watcher starts them again: a mark that is left, or
    // comes late, would keep them down.
    story("forgotten", "shutdown --no-remember, the guest obeys", AGAIN, OBEYED, |scene| {
        scene.instance();
        scene.gnt_instance(&["shutdown", "--no-remember"])
    }),
    story("forgotdeaf", "shutdown --no-remember, the guest is deaf", AGAIN, FORCED, |scene| {
        scene.instance().deafen();
        scene.gnt_instance(&["shutdown", "--no-remember", "--timeout=3"])
    }),
    story("forgotnow", "shutdown --no-remember --timeout=0", AGAIN, OBEYED_OR_FORCED, |scene| {
        scene.instance();
        scene.gnt_instance(&["shutdown", "--no-remember", "--timeout=0"])
    }),
    story("force", "gnt-instance shutdown --force", ADMIN, OBEYED, |scene| {
        scene.instance();
        scene.gnt_instance(&["shutdown", "--force"])
    }),
    story("both", "its user powers it off, then gnt-instance shutdown", ADMIN, BY_USER, |scene| {
        scene.instance().power_off();
        scene.gnt_instance(&["shutdown"])
    }),
    story("soft", "gnt-instance reboot --type=soft", RUNS, FORCED, |scene| {
        rebooted(scene, "--type=soft")
    }),
    story("hard", "gnt-instance reboot --type=hard", RUNS, OBEYED, |scene| {
        rebooted(scene, "--type=hard")
    }),
    story("full", "gnt-instance reboot --type=full", RUNS, OBEYED, |scene| {
        rebooted(scene, "--type=full")
    }),
    story("rebooted", "rebooted, then its user powers it off", USER, REBOOTED_THEN_OFF, |scene| {
        rebooted(scene, "--type=hard")?;
        user_powers_off(scene)
    }),
    with(
        story(
            "mute",
            "user_shutdown=false, its user powers it off",
            UNHEEDED,
            BY_USER,
            user_powers_off,
        ),
        &[("user_shutdown", "false")],
    ),
    with(
        story(
            "asuser",
            "security_model=user, its user powers it off",
            USER,
            BY_USER,
            user_powers_off,
        ),
        &[("security_model", "user"), ("security_domain", "qemu0")],
    ),
    with(
        story(
            "aspool",
            "security_model=pool, its user powers it off",
            USER,
            BY_USER,
            user_powers_off,
        ),
        &[("security_model", "pool")],
    ),
    with(
        story("chroot", "use_chroot=true, its user powers it off", USER, BY_USER, user_powers_off),
        &[("use_chroot", "true")],
    ),
    Story {
        shape: Shape { on_file: true, ..PLAIN },
        ..story(
            "file",
            "its disk is a file, its user powers it off",
            USER,
            BY_USER,
            user_powers_off,
        )
    },
];
