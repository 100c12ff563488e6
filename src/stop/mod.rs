//! Decides how a guest is brought to its end, and what the end is worth to a supervisor.
//!
//! A supervisor's signal goes in, and what is said over QEMU's monitor; out come [`Deed`]s, to be
//! done to QEMU. It does no I/O and reads no clock: `crate::run` does the deeds, and reports what
//! came of them. Why the virtual machine ended is not decided here: that is `crate::verdict`'s.

#![forbid(unsafe_code)]

mod course;
mod exit_code;
mod plan;
mod protocol;
mod stage;

pub use course::Course;
pub use exit_code::{CodesError, ExitCodes, Why};
pub use plan::{Action, Plan, PlanError, Plans};
pub use protocol::{Deed, Input, Phase};

#[cfg(test)]
mod tests;
