//! How far a life has come, and what QEMU has said in it: in order, so that one comparison answers
//! what would else take several flags.

use serde::{Deserialize, Serialize};

/// What QEMU has said to this daemon, or on a connection that outlived an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
pub(super) enum Voice {
    Silent,
    /// It has greeted. Its monitor has a thread of its own for that, which lives on where the main loop
    /// hangs, or has ended and the disks are being flushed.
    Greeted,
    /// More than that: it was not yet going down when it was connected to.
    Spoke,
    /// It has said whether the guest runs.
    Answered,
}

/// How far a life has come. It only advances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Stage {
    Open,
    /// Nothing more is waited for.
    OutOfTime,
    /// The verdict is final: what is said from now on changes nothing.
    Finished,
    Recorded,
    /// The socket vanished before anybody answered at it.
    Gone,
}
