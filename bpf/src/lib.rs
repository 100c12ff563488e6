//! Turns the watched process ids into a classic BPF program for a proc connector socket.
//!
//! The kernel's proc connector tells its listeners of *every* process that comes or goes on
//! the machine. With [`Program`] attached to the listening socket, the kernel itself drops
//! all that does not concern a watched process, and the listener is not even woken.
//!
//! This crate computes; it makes no system call. `README.md` beside it has the layout of
//! the datagram, with its offsets, and a listing to read.

#![forbid(unsafe_code)]

mod program;
mod ranges;

pub use program::{ACCEPT, DROP, Instruction, LONGEST, Program, SHORTEST};
pub use ranges::cover;
