//! The one way in which the core is driven: handle an event, perform what is asked for, feed back
//! what came of it, until nothing is left.
//!
//! What an action brings about is handled after every event that was there before, never in the
//! middle of the remaining actions. The daemon, the tests and the fuzzers all go through here, so
//! that none of them plays an order that the others never see.

use std::collections::VecDeque;

use super::{Action, Event, Memory, Node};
use crate::id::{Incarnation, Moment};

/// Has `node` handle all of `events`. `perform` does what an action asks for, and appends what
/// came of it to the events.
pub fn settle(
    node: &mut Node,
    now: Moment,
    events: &mut VecDeque<Event>,
    mut perform: impl FnMut(Action, &mut VecDeque<Event>),
) {
    // Most events call for nothing, and then this takes no memory.
    let mut actions = Vec::new();
    while let Some(event) = events.pop_front() {
        node.handle(now, event, &mut actions);
        actions.drain(..).for_each(|action| perform(action, events));
    }
}

/// Has a new `node` go on with what an earlier daemon remembered (see [`Node::recall`]), and then
/// handle `events` as [`settle`] does.
pub fn resume(
    node: &mut Node,
    now: Moment,
    memory: Memory,
    is_kept: impl Fn(Incarnation) -> bool,
    events: &mut VecDeque<Event>,
    mut perform: impl FnMut(Action, &mut VecDeque<Event>),
) {
    let mut actions = Vec::new();
    node.recall(now, memory, is_kept, &mut actions);
    actions.drain(..).for_each(|action| perform(action, events));
    settle(node, now, events, perform);
}
