//! Bytes from outside, turned into types: QMP lines, proc connector datagrams, wait
//! statuses, and text fit to print.
//!
//! Everything here takes a slice and gives a value or an error. It must not make a system
//! call, must not panic on any input and must not allocate more than the input's size.

pub mod command_line;
pub mod fleet;
pub mod journal;
pub mod lines;
pub mod proc_event;
pub mod qmp;
pub mod record;
mod sender;
mod text;
pub mod trace;
mod wait_status;

pub use sender::{Ancestor, Sender};
pub use text::{Excerpt, Printable, Quoted, Shown};
pub use wait_status::{NoSuchSignal, Signal, StatusAnswer, WaitStatus};
