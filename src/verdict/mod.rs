//! Weighs the evidence: why did each virtual machine die, and was it its user's doing?
//!
//! [`Node`] takes an [`Event`] and gives [`Action`]s. It does no I/O, it reads no clock, and
//! it must not know what a file descriptor is: the daemon performs the actions and reports
//! what came of them as further events. Whatever order the sources speak in, the verdict is
//! the same.

#![forbid(unsafe_code)]

mod case;
mod cause;
mod conversation;
mod death;
mod ending;
mod evidence;
mod file;
mod inquiry;
mod life;
mod link;
mod memory;
mod node;
mod protocol;
mod settings;
mod settle;
mod stage;
mod watched;

pub use case::Case;
pub use cause::{Cause, Initiator, Verdict};
pub use conversation::Turn;
pub use death::{Death, Missing};
pub use evidence::{Fact, Piece, Sent, Source, Timeline};
pub use memory::{Entry, Memory, Remembered};
pub use node::Node;
pub use protocol::{
    Action, Answers, CommandLine, ConnectError, Event, FileOutcome, Peer, Questions, RemoveReason,
    Said,
};
pub use settings::{GuestReset, Settings, SignalShutdown};
pub use settle::{resume, settle};

#[cfg(test)]
mod tests;
