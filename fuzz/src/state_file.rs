//! The state file: what the daemon reads back when it is started again.
//!
//! The input is the file. It is root's own and on no disk, but it may be of another version, or
//! cut, or somebody's idea of a repair: whatever it holds, the daemon starts.

use std::time::Duration;

use kvmd::daemon::state_file::{recall, write_whole};
use kvmd::id::{Incarnation, Moment};
use kvmd::verdict::{Event, Memory, Node, Settings};
use serde_json::Value;

use crate::assert_fit_to_print;

/// The boot that the captures name, and a moment shortly after they began. See `disguise.py`.
const BOOT: &str = "00000000-0000-0000-0000-000000000000";
const NOW: Moment = Moment(Duration::from_secs(1_000_000));

pub fn check(file: &[u8]) {
    let memory = match recall(file, BOOT) {
        Ok(Some(memory)) => memory,
        Ok(None) => return,
        Err(error) => return assert_fit_to_print(&error.to_string()),
    };
    for life in memory.lives() {
        let name = life.name.as_bytes();
        assert!(!name.is_empty() && !name.contains(&b'/') && !name.contains(&0), "{name:?}");
        assert_fit_to_print(&life.name.to_string());
    }
    for is_held in [true, false] {
        let mut node = recalled(&memory, is_held);
        let again = node.to_memory();
        assert_eq!(to_json(&recalled(&again, is_held).to_memory()), to_json(&again));
        outlive(&mut node);
    }
    assert_round_trip(&recalled(&memory, true));
}

/// What a node remembers is what the next one remembers.
pub(crate) fn assert_round_trip(node: &Node) {
    let before = node.to_memory();
    assert_eq!(to_json(&recalled(&before, true).to_memory()), to_json(&before));
}

/// A memory that has been a file in between.
pub(crate) fn written(memory: &Memory) -> Memory {
    let mut text = Vec::new();
    write_whole(memory.clone(), BOOT, &mut text);
    recall(&text, BOOT).expect("what is written can be read").expect("it is of this boot")
}

/// A node that goes on from it.
fn recalled(memory: &Memory, is_held: bool) -> Node {
    let mut node = Node::new(Settings::default(), NOW);
    node.recall(NOW, written(memory), |_| is_held, &mut Vec::new());
    node
}

fn to_json(memory: &Memory) -> Value {
    let entries: Vec<_> = memory.clone().entries().collect();
    serde_json::to_value(entries).expect("it has no maps")
}

/// Whatever it remembers, time passes, a new instance comes, and everything has an end.
fn outlive(node: &mut Node) {
    use kvmd::id::{Inode, Name};
    use kvmd::verdict::Said;

    let mut now = NOW;
    let mut actions = Vec::new();
    node.handle(now, Event::Exits { are_told: true }, &mut actions);
    let lives: Vec<Incarnation> = node.to_memory().lives().map(|life| life.incarnation).collect();
    node.handle(now, Event::Created { name: Name::new(b"new"), inode: Inode(7) }, &mut actions);
    for life in lives {
        node.handle(now, Event::Of(life, Said::Closed), &mut actions);
        node.handle(now, Event::Of(life, Said::Died), &mut actions);
    }
    for _ in 0..100 {
        now = now.max(node.deadline());
        node.handle(now, Event::Tick, &mut actions);
        assert!(node.deadline() > now, "a tick does what is due");
    }
    for action in &actions {
        if let kvmd::verdict::Action::Record { death, .. } = action {
            assert_fit_to_print(&death.to_string());
        }
    }
}
