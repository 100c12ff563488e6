//! The language of a stop: an [`Input`] goes in, [`Deed`]s come out.

use crate::wire::Signal;
use crate::wire::qmp::{Event, RunState, UserCommand};

/// What is to be done to QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Ask for its run state.
    AskState,
    /// Have it end where the guest answers with a reboot; a QEMU before 6.0 refuses.
    EndAtReboot,
    Wake,
    Continue,
    PressButton,
    Quit,
    /// SIGHUP, with which QEMU flushes and ends, where its monitor is not to be had.
    HangUp,
    Kill,
    Reset,
    Execute(UserCommand),
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    Signal(Signal),
    /// The process that started this one has ended, and nothing is to be left of it.
    ParentEnded,
    /// QEMU's monitor takes commands from now on.
    Greeted,
    MonitorClosed,
    State(RunState),
    Event(&'a Event),
    /// It refused to wake the guest.
    CannotWake,
    /// Time has passed.
    Tick,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is under way that could end it.
    Going,
    /// The guest has been asked, or is about to be.
    Asked,
    /// QEMU has been told to end.
    ToldToEnd,
    /// The guest is done; QEMU flushes its disks.
    Flushing,
    Killed,
}

/// What was done to QEMU, where a verdict would not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) has_quit: bool,
    pub(super) has_hung_up: bool,
    pub(super) has_killed: bool,
    pub(super) has_reset: bool,
    /// A stop to the end began before the guest was going down.
    pub(super) was_asked: bool,
    /// That stop began because nobody was there any more who could.
    pub(super) is_orphaned: bool,
    /// The guest was given no chance, or did not take it in time.
    pub(super) is_forced: bool,
}
