//! What is played, chapter by chapter.

pub(crate) mod daemon;
pub(crate) mod ends;
pub(crate) mod fleet;
pub(crate) mod memory_cgroup;
pub(crate) mod qa;
pub(crate) mod two_nodes;
pub(crate) mod verify;
