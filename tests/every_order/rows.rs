//! The rows of the table of causes: what each source leaves behind of one end, and what is to be
//! made of it. Written down by hand: nothing here may ask the core.

use kvmd::verdict::{Cause, GuestReset, Initiator, Settings, SignalShutdown};
use kvmd::wire::qmp::{Event, Reason, Shutdown, WatchdogAction};
use kvmd::wire::{Signal, WaitStatus};

/// When the file appears, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum File {
    Never,
    /// While QEMU drains: nobody sees it gone unmarked.
    AtTheEvent,
    /// QEMU did not say why. Once it has closed its connection everything is known of signals.
    AtTheClose,
}

/// Where it is reported that the OOM killer chose the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum OutOfMemory {
    No,
    Traced,
    Counted,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) said: Vec<Event>,
    pub(crate) status: WaitStatus,
    pub(crate) dumps_core: bool,
    /// In the trace. Sent before QEMU said anything of its end; SIGKILL after its last word.
    pub(crate) traced: Option<Signal>,
    /// It was sent after QEMU had closed its socket.
    pub(crate) sent_late: bool,
    pub(crate) logged: Option<Signal>,
    pub(crate) out_of_memory: OutOfMemory,
    /// What is known of `-no-reboot`.
    pub(crate) no_reboot: Option<bool>,
    pub(crate) settings: Settings,
    pub(crate) cause: Cause,
    pub(crate) initiator: Initiator,
    pub(crate) file: File,
    /// What is true as well, and is said where QEMU's own word was not heard.
    pub(crate) unheard: Option<Cause>,
    /// The cause where the kernel never says how the process ended.
    pub(crate) without_status: Cause,
}

impl Row {
    fn new(name: &'static str, said: impl Into<Vec<Event>>, status: i32) -> Self {
        Self {
            name,
            said: said.into(),
            status: WaitStatus(status),
            dumps_core: false,
            traced: None,
            sent_late: false,
            logged: None,
            out_of_memory: OutOfMemory::No,
            no_reboot: None,
            settings: Settings::default(),
            cause: Cause::Unknown,
            initiator: Initiator::Unknown,
            file: File::Never,
            unheard: None,
            without_status: Cause::Unknown,
        }
    }

    fn or_unheard(self, cause: Cause) -> Self {
        Self { unheard: Some(cause), ..self }
    }

    fn traced(self, signal: Signal) -> Self {
        Self { traced: Some(signal), ..self }
    }

    fn logged(self, signal: Signal) -> Self {
        Self { logged: Some(signal), ..self }
    }

    fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut row = self;
        change(&mut row.settings);
        row
    }

    /// What it is, with or without the status.
    fn is(self, cause: Cause, initiator: Initiator, file: File) -> Self {
        Self { without_status: cause.clone(), cause, initiator, file, ..self }
    }

    /// What it is only if the status is known.
    fn by_status(self, cause: Cause, initiator: Initiator) -> Self {
        Self { cause, initiator, ..self }
    }
}

#[expect(clippy::too_many_lines, reason = "it is a table")]
pub(crate) fn all() -> Vec<Row> {
    use Cause::{
        Crashed, Exited, Failed, GuestPanic, GuestShutdown, Host, HostError, HostSignal, Killed,
        Powerdown, Watchdog,
    };
    use Event::{
        GuestCrashloaded, GuestPanicked, Powerdown as Asked, Reset, Resume, Stop,
        Watchdog as Barked,
    };
    use File::{AtTheClose, AtTheEvent, Never};
    use Initiator::{Admin, Crash, Unknown, User};

    let term = HostSignal(Some(Signal::TERM));
    vec![
        Row::new("power-off", [by(Reason::GuestShutdown)], 0).is(GuestShutdown, User, AtTheEvent),
        Row::new("powerdown, obeyed", [Asked, by(Reason::GuestShutdown)], 0)
            .is(Powerdown, Admin, Never),
        Row::new("powerdown, not obeyed, then SIGTERM", [Asked, by(Reason::HostSignal)], 0)
            .traced(Signal::TERM)
            .is(term.clone(), Admin, Never),
        Row::new("SIGTERM", [by(Reason::HostSignal)], 0).traced(Signal::TERM).is(
            term.clone(),
            Admin,
            Never,
        ),
        Row::new("SIGTERM while paused, by QEMU's own log", [Stop, by(Reason::HostSignal)], 0)
            .logged(Signal::TERM)
            .is(term.clone(), Admin, Never),
        Row::new("SIGTERM that nobody traced", [by(Reason::HostSignal)], 0).is(
            HostSignal(None),
            Admin,
            Never,
        ),
        Row::new("SIGTERM, read as the user's", [by(Reason::HostSignal)], 0)
            .traced(Signal::TERM)
            .with(|settings| settings.signal_shutdown = SignalShutdown::User)
            .is(term.clone(), User, AtTheEvent),
        Row::new("quit", [by(Reason::HostQmpQuit)], 0).is(
            Host(Some(Reason::HostQmpQuit)),
            Admin,
            Never,
        ),
        Row::new("closed window", [by(Reason::HostUi)], 0).is(
            Host(Some(Reason::HostUi)),
            Admin,
            Never,
        ),
        Row::new("system_reset with -no-reboot", [by(Reason::HostQmpSystemReset)], 0).is(
            Host(Some(Reason::HostQmpSystemReset)),
            Admin,
            Never,
        ),
        Row::new("reset from inside", [by(Reason::GuestReset)], 0).is(
            Cause::GuestReset,
            User,
            AtTheEvent,
        ),
        Row::new("reset from inside, read as a wish", [by(Reason::GuestReset)], 0)
            .with(|settings| settings.guest_reset = GuestReset::Restart)
            .is(Cause::GuestReset, User, Never),
        Row { no_reboot: Some(true), ..Row::new("reset, -no-reboot", [by(Reason::GuestReset)], 0) }
            .is(Cause::GuestReset, User, AtTheEvent),
        Row {
            no_reboot: Some(false),
            ..Row::new("reset of a guest that cannot be reset", [by(Reason::GuestReset)], 0)
        }
        .is(Cause::GuestReset, User, Never),
        Row::new("powerdown that a reset made void", [Asked, Reset, by(Reason::GuestShutdown)], 0)
            .is(GuestShutdown, User, AtTheEvent),
        Row::new("paused and resumed", [Stop, Resume, by(Reason::GuestShutdown)], 0).is(
            GuestShutdown,
            User,
            AtTheEvent,
        ),
        Row::new("panic", [GuestPanicked, by(Reason::GuestPanic)], 0).is(GuestPanic, Crash, Never),
        Row::new("panic, paused, then killed", [GuestPanicked, Stop], 9)
            .traced(Signal::KILL)
            .is(GuestPanic, Crash, Never)
            .or_unheard(Killed),
        Row::new(
            "panic, resumed, then reset",
            [GuestPanicked, Stop, Resume, by(Reason::GuestReset)],
            0,
        )
        .is(GuestPanic, Crash, Never),
        Row::new("panic with a crash kernel", [GuestCrashloaded, by(Reason::GuestReset)], 0)
            .is(GuestPanic, Crash, Never),
        Row::new("panic, reset, power-off", [GuestPanicked, Reset, by(Reason::GuestShutdown)], 0)
            .is(GuestShutdown, User, AtTheEvent),
        Row::new("watchdog, reset", [Barked(WatchdogAction::Reset), by(Reason::GuestReset)], 0)
            .is(Watchdog, Crash, Never),
        Row::new("watchdog, reset, before 4.0", [Barked(WatchdogAction::Reset), guest(true)], 0)
            .is(Watchdog, Crash, Never),
        Row::new("watchdog, poweroff", [Barked(WatchdogAction::Poweroff)], 0)
            .is(Watchdog, Crash, Never),
        Row::new("host-error", [by(Reason::HostError)], 0).is(HostError, Crash, Never),
        Row::new("SIGKILL", [], 9).traced(Signal::KILL).is(Killed, Admin, Never),
        Row::new("SIGKILL that nobody traced", [], 9).by_status(Killed, Admin),
        Row {
            out_of_memory: OutOfMemory::Traced,
            ..Row::new("OOM, by the trace", [], 9).traced(Signal::KILL)
        }
        .is(Cause::OutOfMemory, Crash, Never),
        Row { out_of_memory: OutOfMemory::Counted, ..Row::new("OOM, by the cgroup", [], 9) }.is(
            Cause::OutOfMemory,
            Crash,
            Never,
        ),
        Row { dumps_core: true, ..Row::new("SIGSEGV", [], 0x8b) }
            .by_status(Crashed(Signal(11)), Crash),
        Row::new("exit code", [], 0x700).by_status(Failed(7), Crash),
        Row::new("exit without a word", [], 0).by_status(Exited, Unknown),
        Row::new("2.10, power-off", [guest(true)], 0).is(GuestShutdown, User, AtTheEvent),
        Row::new("2.10, SIGTERM", [guest(false)], 0).traced(Signal::TERM).is(
            term.clone(),
            Admin,
            Never,
        ),
        Row::new("2.10, quit", [guest(false)], 0).is(Host(None), Admin, Never),
        Row::new("before 2.10, power-off", [silent()], 0).is(GuestShutdown, User, AtTheClose),
        Row::new("before 2.10, powerdown", [Asked, silent()], 0).is(Powerdown, Admin, Never),
        Row::new("before 2.10, SIGTERM", [silent()], 0).traced(Signal::TERM).is(
            term.clone(),
            Admin,
            Never,
        ),
        Row::new("before 2.10, SIGTERM by its own log", [silent()], 0)
            .logged(Signal::TERM)
            .is(term, Admin, Never),
        // As in Ganeti's own test, where the process lives on without its socket.
        Row { sent_late: true, ..Row::new("before 2.10, power-off, later SIGTERM", [silent()], 0) }
            .traced(Signal::TERM)
            .is(GuestShutdown, User, AtTheClose),
        Row::new("before 2.10, -no-shutdown: power-off, reset, killed", [silent(), Stop, Reset], 9)
            .traced(Signal::KILL)
            .is(Killed, Admin, Never),
        Row::new("before 2.10, paused", [Stop, silent()], 0).is(Host(None), Admin, Never),
        Row::new("power-off, killed while it drains", [by(Reason::GuestShutdown)], 9)
            .traced(Signal::KILL)
            .is(GuestShutdown, User, AtTheEvent),
        Row::new(
            "-no-shutdown: power-off, then SIGTERM",
            [by(Reason::GuestShutdown), Stop, by(Reason::HostSignal)],
            0,
        )
        .is(GuestShutdown, User, AtTheEvent),
        Row::new(
            "-no-shutdown: power-off, resumed, killed",
            [by(Reason::GuestShutdown), Stop, Resume],
            9,
        )
        .traced(Signal::KILL)
        .is(Killed, Admin, Never),
        Row::new(
            "-no-shutdown: power-off, reset, power-off",
            [by(Reason::GuestShutdown), Stop, Reset, by(Reason::GuestShutdown)],
            0,
        )
        .is(GuestShutdown, User, AtTheEvent),
    ]
}

/// SHUTDOWN as QEMU says it from 4.0 on.
fn by(reason: Reason) -> Event {
    let guest = Some(reason.name().starts_with("guest-"));
    Event::Shutdown(Shutdown { guest, reason: Some(reason) })
}

/// As from 2.10 to 3.1.
fn guest(is_guests: bool) -> Event {
    Event::Shutdown(Shutdown { guest: Some(is_guests), reason: None })
}

/// As before 2.10.
fn silent() -> Event {
    Event::Shutdown(Shutdown::default())
}
