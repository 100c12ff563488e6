//! The verdict table, row by row.

use super::*;

/// A way to die, and what is to be made of it.
pub(super) struct Row {
    events: Vec<Qmp>,
    status: Option<WaitStatus>,
    cause: Cause,
    initiator: Initiator,
    file: bool,
}

pub(super) fn row(
    events: impl Into<Vec<Qmp>>,
    status: impl Into<Option<WaitStatus>>,
    cause: Cause,
    initiator: Initiator,
    file: bool,
) -> Row {
    Row { events: events.into(), status: status.into(), cause, initiator, file }
}

pub(super) fn check(settings: &Settings, rows: Vec<Row>) {
    for row in rows {
        let mut world = World::with_running_instance(settings.clone());
        for event in &row.events {
            world.said(heard(event.clone()));
        }
        world.said(Said::Closed);
        if let Some(status) = row.status {
            world.happens(Event::Exit { pid: PID, status });
        }
        world.said(Said::Died);
        world.passes(Duration::from_secs(3));
        let death = world.only_death();
        let verdict = Verdict { cause: row.cause, initiator: row.initiator };
        assert_eq!(death.verdict, verdict, "{:?} {:?}", row.events, row.status);
        assert_eq!(world.file, row.file, "{death}");
        assert_eq!(death.missing.contains(&Missing::ExitStatus), row.status.is_none(), "{death}");
    }
}

use Cause::{
    Crashed, Exited, Failed, GuestPanic, GuestShutdown, Host, HostError, HostSignal, Killed,
    OutOfMemory, Powerdown, Unknown, Watchdog,
};
use Initiator::{Admin, Crash, User};

#[test]
fn the_user_did_it() {
    check(
        &Settings::default(),
        vec![
            row([shutdown(Reason::GuestShutdown)], EXIT_0, GuestShutdown, User, true),
            row([shutdown(Reason::GuestReset)], EXIT_0, Cause::GuestReset, User, true),
            row(
                [Qmp::Stop, Qmp::Resume, shutdown(Reason::GuestShutdown)],
                EXIT_0,
                GuestShutdown,
                User,
                true,
            ),
            row(
                [Qmp::Powerdown, Qmp::Reset, shutdown(Reason::GuestShutdown)],
                EXIT_0,
                GuestShutdown,
                User,
                true,
            ),
            // An impatient operator while QEMU drains: the first SHUTDOWN stands.
            row([shutdown(Reason::GuestShutdown)], WaitStatus(9), GuestShutdown, User, true),
            row(
                [shutdown(Reason::GuestShutdown), shutdown(Reason::HostSignal)],
                EXIT_0,
                GuestShutdown,
                User,
                true,
            ),
            row([shutdown_without_data()], EXIT_0, GuestShutdown, User, true),
        ],
    );
}

#[test]
fn an_administrator_did_it() {
    check(
        &Settings::default(),
        vec![
            row([Qmp::Powerdown, shutdown(Reason::GuestShutdown)], EXIT_0, Powerdown, Admin, false),
            row([Qmp::Powerdown, shutdown(Reason::GuestReset)], EXIT_0, Powerdown, Admin, false),
            row([Qmp::Powerdown, shutdown_without_data()], EXIT_0, Powerdown, Admin, false),
            row([shutdown(Reason::HostSignal)], EXIT_0, HostSignal(None), Admin, false),
            row([Qmp::Stop, shutdown(Reason::HostSignal)], EXIT_0, HostSignal(None), Admin, false),
            row([], WaitStatus(15), HostSignal(Some(Signal::TERM)), Admin, false),
            row([], WaitStatus(2), HostSignal(Some(Signal::INT)), Admin, false),
            row([], WaitStatus(1), HostSignal(Some(Signal::HUP)), Admin, false),
            row([], WaitStatus(9), Killed, Admin, false),
            row([Qmp::Stop, shutdown_without_data()], EXIT_0, Host(None), Admin, false),
        ],
    );
    for reason in [
        Reason::HostQmpQuit,
        Reason::HostUi,
        Reason::HostQmpSystemReset,
        Reason::SnapshotLoad,
        Reason::SubsystemReset,
        Reason::None,
    ] {
        let cause = Host(Some(reason.clone()));
        check(&Settings::default(), vec![row([shutdown(reason)], EXIT_0, cause, Admin, false)]);
    }
}

#[test]
fn something_broke() {
    check(
        &Settings::default(),
        vec![
            row(
                [Qmp::GuestPanicked, shutdown(Reason::GuestPanic)],
                EXIT_0,
                GuestPanic,
                Crash,
                false,
            ),
            row(
                [Qmp::GuestPanicked, shutdown(Reason::GuestPanic)],
                WaitStatus(0x100),
                GuestPanic,
                Crash,
                false,
            ),
            row([Qmp::GuestPanicked], EXIT_0, GuestPanic, Crash, false),
            // A panicked guest that reboots or powers off does not do it of its own will.
            row(
                [Qmp::GuestPanicked, shutdown(Reason::GuestReset)],
                EXIT_0,
                GuestPanic,
                Crash,
                false,
            ),
            row(
                [Qmp::GuestPanicked, shutdown(Reason::GuestShutdown)],
                EXIT_0,
                GuestPanic,
                Crash,
                false,
            ),
            row([shutdown(Reason::HostError)], EXIT_0, HostError, Crash, false),
            row([], WaitStatus(0x8b), Crashed(Signal(11)), Crash, false),
            row([], WaitStatus(6), Crashed(Signal(6)), Crash, false),
            row([], WaitStatus(7), Crashed(Signal(7)), Crash, false),
            row([], WaitStatus(0x700), Failed(7), Crash, false),
        ],
    );
}

#[test]
fn the_watchdog_did_it() {
    use WatchdogAction::{InjectNmi, Other, Poweroff, Reset, Shutdown};
    check(
        &Settings::default(),
        vec![
            row([Qmp::Watchdog(Poweroff)], EXIT_0, Watchdog, Crash, false),
            row(
                [Qmp::Watchdog(Shutdown), Qmp::Powerdown, shutdown(Reason::GuestShutdown)],
                EXIT_0,
                Watchdog,
                Crash,
                false,
            ),
            row(
                [Qmp::Watchdog(Reset), shutdown(Reason::GuestReset)],
                EXIT_0,
                Watchdog,
                Crash,
                false,
            ),
            // It panics of it, and resets itself.
            row(
                [Qmp::Watchdog(InjectNmi), shutdown(Reason::GuestReset)],
                EXIT_0,
                Watchdog,
                Crash,
                false,
            ),
            // It was reset in between.
            row(
                [Qmp::Watchdog(InjectNmi), Qmp::Reset, shutdown(Reason::GuestReset)],
                EXIT_0,
                Cause::GuestReset,
                User,
                true,
            ),
            // Or it was healed by it.
            row(
                [Qmp::Watchdog(InjectNmi), shutdown(Reason::GuestShutdown)],
                EXIT_0,
                GuestShutdown,
                User,
                true,
            ),
            // Later somebody asked for a powerdown as well.
            row(
                [
                    Qmp::Watchdog(Shutdown),
                    Qmp::Powerdown,
                    Qmp::Powerdown,
                    shutdown(Reason::GuestShutdown),
                ],
                EXIT_0,
                Powerdown,
                Admin,
                false,
            ),
            // The guest recovered, and powered itself off afterwards.
            row(
                [Qmp::Watchdog(Reset), Qmp::Reset, shutdown(Reason::GuestShutdown)],
                EXIT_0,
                GuestShutdown,
                User,
                true,
            ),
            row(
                [Qmp::Watchdog(Other), shutdown(Reason::GuestShutdown)],
                EXIT_0,
                GuestShutdown,
                User,
                true,
            ),
        ],
    );
}

#[test]
fn nobody_knows() {
    check(
        &Settings::default(),
        vec![
            row([], EXIT_0, Exited, Initiator::Unknown, false),
            row([], None, Unknown, Initiator::Unknown, false),
        ],
    );
    let later = Reason::Unknown("guest-bored".into());
    let cause = Host(Some(later.clone()));
    check(
        &Settings::default(),
        vec![row([shutdown(later)], EXIT_0, cause, Initiator::Unknown, false)],
    );
    let later = Reason::Unknown("host-bored".into());
    let cause = Host(Some(later.clone()));
    check(&Settings::default(), vec![row([shutdown(later)], EXIT_0, cause, Admin, false)]);
}

#[test]
fn qemu_that_says_only_whether_it_was_the_guest() {
    let only = |guest| Qmp::Shutdown(Shutdown { guest: Some(guest), reason: None });
    check(
        &Settings::default(),
        vec![
            row([only(true)], EXIT_0, GuestShutdown, User, true),
            row([Qmp::Powerdown, only(true)], EXIT_0, Powerdown, Admin, false),
            row([Qmp::GuestPanicked, only(true)], EXIT_0, GuestPanic, Crash, false),
            row([only(false)], EXIT_0, Host(None), Admin, false),
        ],
    );
}

#[test]
fn a_reset_can_be_read_as_a_wish_to_restart() {
    let settings = Settings { guest_reset: GuestReset::Restart, ..Settings::default() };
    check(
        &settings,
        vec![
            row([shutdown(Reason::GuestReset)], EXIT_0, Cause::GuestReset, User, false),
            row([shutdown(Reason::GuestShutdown)], EXIT_0, GuestShutdown, User, true),
        ],
    );
}

#[test]
fn a_signal_can_be_read_as_the_users() {
    let settings = Settings { signal_shutdown: SignalShutdown::User, ..Settings::default() };
    let signal = || shutdown(Reason::HostSignal);
    check(
        &settings,
        vec![
            row([signal()], EXIT_0, HostSignal(None), User, true),
            row([Qmp::Powerdown, signal()], EXIT_0, HostSignal(None), Admin, false),
            row([Qmp::Stop, signal()], EXIT_0, HostSignal(None), Admin, false),
            row([], WaitStatus(9), Killed, Admin, false),
        ],
    );
}

#[test]
fn a_powerdown_request_explains_a_shutdown_for_an_hour() {
    let power_off_after = |wait: Duration, settings: Settings| {
        let mut world = World::with_running_instance(settings);
        world.said(heard(Qmp::Powerdown));
        world.passes(wait);
        world.said(heard(shutdown(Reason::GuestShutdown)));
        world.file
    };
    let hour = Duration::from_secs(3600);
    let second = Duration::from_secs(1);
    assert!(!power_off_after(Duration::from_secs(3599), Settings::default()));
    assert!(power_off_after(hour, Settings::default()));
    let for_ever = Settings { powerdown_window: None, ..Settings::default() };
    assert!(!power_off_after(hour * 1000, for_ever));
    let briefly = Settings { powerdown_window: Some(second), ..Settings::default() };
    assert!(power_off_after(second, briefly));
}

#[test]
fn a_death_reads_like_a_sentence() {
    let told = |events: &[Qmp], status: Option<WaitStatus>| {
        let mut world = World::with_running_instance(Settings::default());
        for event in events {
            world.said(heard(event.clone()));
        }
        world.said(Said::Closed);
        if let Some(status) = status {
            if status.signal() == Some(Signal(11)) {
                world.happens(Event::CoreDump { pid: PID });
            }
            world.happens(Event::Exit { pid: PID, status });
        }
        world.said(Said::Died);
        world.passes(Duration::from_secs(3));
        world.only_death().to_string()
    };
    assert_eq!(
        told(&[shutdown(Reason::GuestShutdown)], Some(EXIT_0)),
        "Instance \"web1\" (pid 4242) was powered off from inside: cause guest-shutdown, initiator user, exit status 0"
    );
    assert_eq!(
        told(&[], Some(WaitStatus(0x8b))),
        "Instance \"web1\" (pid 4242) crashed: cause crashed, initiator crash, SIGSEGV (core dumped)"
    );
    assert_eq!(
        told(&[], Some(WaitStatus(0x0b))),
        "Instance \"web1\" (pid 4242) crashed: cause crashed, initiator crash, SIGSEGV, no core written"
    );
    assert_eq!(
        told(&[], None),
        "Instance \"web1\" (pid 4242) ended for an unknown reason: cause unknown, initiator unknown; not known: the exit status"
    );
}

/// Plays an end in which signals are traced, and returns what is made of it.
fn end_with_signals(
    settings: &Settings,
    events: &[Qmp],
    signals: &[Signal],
    status: impl Into<Option<WaitStatus>>,
) -> (World, String) {
    let mut world = World::with_running_instance(settings.clone());
    world.traced = signals.iter().copied().map(signalled).collect();
    for event in events {
        world.said(heard(event.clone()));
    }
    world.said(Said::Closed);
    if let Some(status) = status.into() {
        world.happens(Event::Exit { pid: PID, status });
    }
    world.said(Said::Died);
    world.passes(Duration::from_secs(3));
    let line = world.only_death().to_string();
    (world, line)
}

#[test]
fn the_sender_of_the_signal_is_named() {
    let settings = Settings::default();
    let by_signal = [shutdown(Reason::HostSignal)];
    let (_, line) = end_with_signals(&settings, &by_signal, &[Signal::TERM], EXIT_0);
    assert!(line.ends_with("exit status 0, SIGTERM from bash[5790]"), "{line}");
    // An impatient operator: it was the first that did it.
    let (world, line) =
        end_with_signals(&settings, &[], &[Signal::TERM, Signal::KILL], WaitStatus(9));
    assert!(line.ends_with("cause killed, initiator admin, SIGKILL from bash[5790]"), "{line}");
    assert!(world.only_death().missing.is_empty());
}

#[test]
fn a_qemu_that_does_not_say_why_is_judged_by_the_signals_it_was_sent() {
    let cause = |events: &[Qmp], signals: &[Signal]| {
        let (world, _) = end_with_signals(&Settings::default(), events, signals, EXIT_0);
        (world.only_death().verdict.clone(), world.file)
    };
    let verdict = |cause, initiator| Verdict { cause, initiator };
    let term = HostSignal(Some(Signal::TERM));
    let no_data = [shutdown_without_data()];
    let not_the_guest = [Qmp::Shutdown(Shutdown { guest: Some(false), reason: None })];
    let the_guest = [Qmp::Shutdown(Shutdown { guest: Some(true), reason: None })];
    assert_eq!(cause(&no_data, &[Signal::TERM]), (verdict(term.clone(), Admin), false));
    assert_eq!(cause(&no_data, &[]), (verdict(GuestShutdown, User), true));
    // SIGSEGV does not make QEMU say that it shuts down.
    assert_eq!(cause(&no_data, &[Signal(11)]), (verdict(GuestShutdown, User), true));
    assert_eq!(cause(&not_the_guest, &[Signal::TERM]), (verdict(term.clone(), Admin), false));
    assert_eq!(cause(&not_the_guest, &[]), (verdict(Host(None), Admin), false));
    assert_eq!(cause(&the_guest, &[Signal::TERM]), (verdict(GuestShutdown, User), true));
    // Another client had the connection: QEMU was not heard at all.
    assert_eq!(cause(&[], &[Signal::TERM]), (verdict(term, Admin), false));
    assert_eq!(cause(&[], &[]), (verdict(Exited, Initiator::Unknown), false));
}

#[test]
fn without_a_trace_qemus_own_log_names_the_signal() {
    let mut world = World::with_running_instance(Settings::default());
    let fact = Fact::Signalled(Signal::TERM, sent(Signal::TERM).sender);
    world.answers.facts.push((Source::OwnLog, fact));
    world.said(heard(shutdown_without_data()));
    world.said(Said::Closed);
    assert!(!world.file);
    world.happens(Event::Exit { pid: PID, status: EXIT_0 });
    world.said(Said::Died);
    assert_eq!(world.only_death().verdict.cause, HostSignal(Some(Signal::TERM)));
    assert!(world.only_death().to_string().ends_with("SIGTERM from bash[5790]"));
}

#[test]
fn the_oom_killer_is_told_from_an_operator() {
    let by_trace = |world: &mut World| {
        let at = world.now;
        world.traced.push_back(Event::OutOfMemory { pid: PID, at });
        let kernels = Sent { at, signal: Signal::KILL, sender: Arc::new(Sender::kernel()) };
        world.traced.push_back(Event::Signalled { pid: PID, sent: kernels });
    };
    let by_counter = |world: &mut World| {
        world.answers.facts.push((Source::ControlGroup, Fact::OutOfMemory));
    };
    for tell in [by_trace as fn(&mut World), by_counter] {
        for status in [Some(WaitStatus(9)), None] {
            let mut world = World::with_running_instance(Settings::default());
            tell(&mut world);
            world.said(Said::Closed);
            world.said(Said::Died);
            if let Some(status) = status {
                world.happens(Event::Exit { pid: PID, status });
            }
            world.passes(Duration::from_secs(3));
            let verdict = Verdict { cause: OutOfMemory, initiator: Crash };
            assert_eq!(world.only_death().verdict, verdict, "{status:?}");
        }
    }
    // Chosen, and yet it ended in another way.
    let mut world = World::with_running_instance(Settings::default());
    by_trace(&mut world);
    world.said(Said::Closed);
    world.happens(Event::Exit { pid: PID, status: WaitStatus(11) });
    world.said(Said::Died);
    assert_eq!(world.only_death().verdict.cause, Crashed(Signal(11)));
}

#[test]
fn a_users_clean_shutdown_leaves_nothing_to_ask() {
    let (world, _) =
        end_with_signals(&Settings::default(), &[shutdown(Reason::GuestShutdown)], &[], EXIT_0);
    assert_eq!(world.asked, []);
}
