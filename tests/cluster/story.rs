//! A story: what happens to an instance, what `gnt-instance list` has to say of it afterwards, what
//! the watcher has to make of it, and what our daemon has to tell of each of its ends.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::cluster::{Cluster, Shape, Subject};
use crate::instance::{Instance, is_marked};
use crate::node::{Failed, Node, Result};
use crate::table::{Outcome, Row};
use crate::told::Told;

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
    /// Every end before the watcher comes, on the first node and then on the second, as our daemon has to
    /// tell of it: its cause, its initiator, and who sent the signal. With "or" between them, if chance
    /// decides.
    pub(crate) told: &'static [&'static str],
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

/// What is told where its user has powered it off.
pub(crate) const BY_USER: &[&str] = &["guest-shutdown user"];
/// The guest did as Ganeti had asked it to.
pub(crate) const OBEYED: &[&str] = &["powerdown admin"];
/// Ganeti has ended QEMU.
pub(crate) const FORCED: &[&str] = &["host-signal admin by ganeti-noded"];

/// Ganeti has asked for it and ended QEMU in the same moment; the guest may have been quicker.
pub(crate) const OBEYED_OR_FORCED: &[&str] =
    &["powerdown admin or host-signal admin by ganeti-noded"];

/// An instance without a disk, and with the parameters of the cluster.
pub(crate) const PLAIN: Shape = Shape { parameters: &[], on_file: false, memory: 0 };

/// One that is told of such an instance.
pub(crate) const fn story(
    name: &'static str,
    says: &'static str,
    expected: (State, State),
    told: &'static [&'static str],
    deed: fn(&Scene) -> Result<()>,
) -> Story {
    Story { name, says, shape: PLAIN, expected, told, deed }
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
    /// The rows that it owes the table.
    pub(crate) fn owed(&self) -> Vec<Row> {
        self.stories.iter().map(Story::owed).collect()
    }

    /// Plays its stories one after the other, and then has the watcher come to them all.
    pub(crate) fn play(&self, cluster: &mut Cluster) -> Vec<Row> {
        cluster.say(&format!("{}: {} stories", self.title, self.stories.len()));
        let rows = self.try_to_play(cluster).unwrap_or_else(|error| {
            cluster.say(&format!("{}: {error}", self.title));
            let failed = |row| Row { result: Outcome::Failed, ..row };
            self.owed().into_iter().map(failed).collect()
        });
        // Those that run would only be in the way of the next chapter.
        let names = self.stories.iter().map(|story| story.name);
        let words = ["gnt-instance", "shutdown", "--timeout=0", "--force", "--force-multiple"];
        let _ = cluster.run(&words.into_iter().chain(names).collect::<Vec<_>>());
        rows
    }

    fn try_to_play(&self, cluster: &mut Cluster) -> Result<Vec<Row>> {
        let instances: Vec<(&str, Shape)> =
            self.stories.iter().map(|story| (story.name, story.shape)).collect();
        guard(|| (self.before)(cluster).and_then(|()| cluster.add(&instances)))?;
        cluster.has_the_right_daemon()?;
        let deeds: Vec<Result<()>> = self.stories.iter().map(|story| act(cluster, story)).collect();
        let before = self.seen(cluster)?;
        let told = match cluster.subject {
            Subject::Ours => Some(self.told(cluster)?),
            Subject::Theirs => None,
        };
        cluster.watcher()?;
        let after = self.seen(cluster)?;
        let row = |(index, deed): (usize, Result<()>)| {
            let story = &self.stories[index];
            if deed.is_err() {
                return Row { result: Outcome::Failed, ..story.owed() };
            }
            let ends = told.as_ref().map(|told| told.ends_of(story.name));
            story.owed().seen(story.result(&before[index], &after[index], ends))
        };
        Ok(deeds.into_iter().enumerate().map(row).collect())
    }

    /// What there is to see of each instance now.
    fn seen<'a>(&self, cluster: &'a Cluster) -> Result<Vec<Seen<'a>>> {
        let list = cluster.list()?;
        let seen = |story: &Story| {
            let state = list.iter().find(|(name, _)| name == story.name);
            let state = state.map_or_else(|| "not listed".into(), |(_, state)| state.clone());
            let marked = cluster.nodes.iter().filter(|node| is_marked(node, story.name));
            Seen { state, marked_on: marked.map(Node::short_name).collect() }
        };
        Ok(self.stories.iter().map(seen).collect())
    }

    fn told(&self, cluster: &Cluster) -> Result<Told> {
        let owed = self.stories.iter().map(|story| (story.name, story.told.len()));
        Told::of(cluster, &owed.collect::<Vec<_>>())
    }
}

/// What there is to see of an instance at one time.
struct Seen<'a> {
    /// What `gnt-instance list` says.
    state: String,
    /// The nodes that have the file which says that its user has shut it down.
    marked_on: Vec<&'a str>,
}

impl Seen<'_> {
    /// As the table has it: the state, and the marks that do not go with it. It is marked where its user
    /// has shut it down, on one node, until the watcher has made a note of that. Any other mark is wrong,
    /// or too late, and keeps the instance down the next time it ends.
    fn text(&self) -> String {
        let state = short(&self.state);
        let owed = usize::from(self.state == USER_DOWN);
        match &self.marked_on[..] {
            nodes if nodes.len() == owed => state.into(),
            [] => format!("{state} without a mark"),
            nodes => format!("{state}, marked on {}", nodes.join(" and ")),
        }
    }
}

impl Story {
    /// The row that it owes the table.
    fn owed(&self) -> Row {
        Row::owed(self.says, format!("{} → {}", short(self.expected.0), short(self.expected.1)))
    }

    /// What came of it; with `ends`, what was told has to be right as well.
    fn result(&self, before: &Seen<'_>, after: &Seen<'_>, ends: Option<Vec<String>>) -> String {
        let result = format!("{} → {}", before.text(), after.text());
        match ends {
            Some(ends) if !self.is_told_by(&ends) => format!("{result}, told: {}", ends.join("; ")),
            _ => result,
        }
    }

    fn is_told_by(&self, ends: &[String]) -> bool {
        let is_one_of = |(end, told): (&String, &&str)| told.split(" or ").any(|it| it == end);
        ends.len() == self.told.len() && ends.iter().zip(self.told).all(is_one_of)
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
