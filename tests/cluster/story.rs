//! A story: what happens to an instance, what `gnt-instance list` has to say of it afterwards, and
//! what the watcher has to make of it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::cluster::{Cluster, Shape};
use crate::instance::Instance;
use crate::node::{Failed, Result};
use crate::table::Row;

/// Status, admin state, and whose the latter is, as `gnt-instance list` prints them.
pub(crate) type State = &'static str;

pub(crate) const RUNNING: State = "running up admin";
/// Its user has shut it down, and the watcher has not come yet.
pub(crate) const USER_DOWN: State = "USER_down up admin";
/// The watcher has made a note of that.
pub(crate) const USER_DOWN_FOR_GOOD: State = "USER_down down user";
/// It is gone, and the watcher will start it again.
pub(crate) const ERROR_DOWN: State = "ERROR_down up admin";
pub(crate) const ADMIN_DOWN: State = "ADMIN_down down admin";

/// One of them.
#[derive(Clone, Copy)]
pub(crate) struct Story {
    /// Of the instance, too.
    pub(crate) name: &'static str,
    pub(crate) says: &'static str,
    pub(crate) shape: Shape,
    /// What is expected before the watcher comes, and after.
    pub(crate) expected: (State, State),
    pub(crate) deed: fn(&Scene) -> Result<()>,
}

/// The instance is shut down by its user, and stays so.
pub(crate) const USER: (State, State) = (USER_DOWN, USER_DOWN_FOR_GOOD);
/// It is gone by somebody else's doing, and started again.
pub(crate) const AGAIN: (State, State) = (ERROR_DOWN, RUNNING);
/// The administrator has shut it down.
pub(crate) const ADMIN: (State, State) = (ADMIN_DOWN, ADMIN_DOWN);
/// It runs.
pub(crate) const RUNS: (State, State) = (RUNNING, RUNNING);

/// An instance without a disk, and with the parameters of the cluster.
pub(crate) const PLAIN: Shape = Shape { parameters: &[], on_file: false, memory: 0 };

/// One that is told of such an instance.
pub(crate) const fn story(
    name: &'static str,
    says: &'static str,
    expected: (State, State),
    deed: fn(&Scene) -> Result<()>,
) -> Story {
    Story { name, says, shape: PLAIN, expected, deed }
}

/// Stories that are played one after the other; the watcher comes to all of them at the end.
pub(crate) struct Chapter {
    pub(crate) title: &'static str,
    /// It is about what the original does not do.
    pub(crate) is_ours_alone: bool,
    /// What is done to the cluster before its instances are started.
    pub(crate) before: fn(&mut Cluster) -> Result<()>,
    pub(crate) stories: &'static [Story],
}

/// What a story is played on.
pub(crate) struct Scene<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) name: &'a str,
}

impl Scene<'_> {
    /// The instance on the first node, with its guest ready.
    pub(crate) fn instance(&self) -> Instance {
        Instance::on(self.cluster.master(), self.name)
    }

    /// The instance on the second node.
    pub(crate) fn instance_at_target(&self) -> Instance {
        Instance::on(&self.cluster.nodes[1], self.name)
    }

    /// Has Ganeti do this to the instance.
    pub(crate) fn gnt_instance(&self, words: &[&str]) -> Result<()> {
        self.cluster.run(&[&["gnt-instance"], words, &[self.name]].concat()).map(drop)
    }
}

impl Chapter {
    /// Plays its stories one after the other, and then has the watcher come to them all.
    pub(crate) fn play(&self, cluster: &mut Cluster) -> Vec<Row> {
        cluster.say(&format!("{}: {} stories", self.title, self.stories.len()));
        let instances: Vec<(&str, Shape)> =
            self.stories.iter().map(|story| (story.name, story.shape)).collect();
        if let Err(error) = guard(|| (self.before)(cluster).and_then(|()| cluster.add(&instances)))
        {
            cluster.say(&format!("{}: {error}", self.title));
            return self.stories.iter().map(|story| row(story, None)).collect();
        }
        let deeds: Vec<Result<()>> = self.stories.iter().map(|story| act(cluster, story)).collect();
        let before = cluster.list();
        let after = cluster.watcher().and_then(|()| cluster.list());
        // Those that run would only be in the way of the next chapter.
        let names = self.stories.iter().map(|story| story.name);
        let words = ["gnt-instance", "shutdown", "--timeout=0", "--force", "--force-multiple"];
        let _ = cluster.run(&words.into_iter().chain(names).collect::<Vec<_>>());
        let rows = self.stories.iter().zip(deeds).map(|(story, deed)| {
            let state = |list: &Result<Vec<(String, String)>>| {
                let list = list.as_ref().ok()?;
                list.iter().find(|(name, _)| name == story.name).map(|(_, state)| state.clone())
            };
            let played = deed.ok().and_then(|()| Some((state(&before)?, state(&after)?)));
            row(story, played)
        });
        rows.collect()
    }
}

/// Does what the story says, and says so.
fn act(cluster: &Cluster, story: &Story) -> Result<()> {
    let scene = Scene { cluster, name: story.name };
    let result = guard(|| (story.deed)(&scene));
    match &result {
        Ok(()) => cluster.say(story.says),
        Err(error) => cluster.say(&format!("{}: {error}", story.says)),
    }
    result
}

/// Makes an error of an expectation that is not met.
pub(crate) fn guard<T>(deed: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(deed)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(Failed(text.unwrap_or_default()))
    })
}

/// `played` is what was listed before the watcher came, and after; nothing if it could not be played.
fn row(story: &Story, played: Option<(String, String)>) -> Row {
    let text = |before: &str, after: &str| format!("{} → {}", short(before), short(after));
    let result = played.map(|(before, after)| text(&before, &after));
    Row {
        says: story.says.into(),
        expected: text(story.expected.0, story.expected.1),
        result: result.unwrap_or_else(|| "could not be played".into()),
    }
}

/// The status alone where the rest is as ever.
fn short(state: &str) -> &str {
    match state {
        RUNNING | USER_DOWN | ERROR_DOWN | ADMIN_DOWN => {
            state.split(' ').next().unwrap_or_default()
        }
        USER_DOWN_FOR_GOOD => "USER_down for good",
        _ => state,
    }
}
