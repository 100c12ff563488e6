//! Watchdogs and panics: what came before what, and what a guest is not healed by.

use std::time::Duration;

use super::table::{check, row};
use super::*;
use Cause::{GuestPanic, GuestShutdown, Powerdown, Watchdog};
use Initiator::{Crash, User};

const AT_ONCE: Duration = Duration::ZERO;
const LATER: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);
const JUST_BEFORE: Duration = Duration::from_nanos(999_999_999);

/// Each event is heard so long after the one before, and stamped by QEMU so long after the one
/// before.
fn ends_after(events: &[(Qmp, Duration, Option<Duration>)]) -> (Verdict, bool) {
    let mut world = world();
    let mut stamped = Duration::from_secs(1_700_000_000);
    for (event, heard_after, stamped_after) in events {
        world.passes(*heard_after);
        let stamp = stamped_after.map(|after| {
            stamped += after;
            Timestamp(stamped)
        });
        world.said(Said::Heard(Message::Event(event.clone(), stamp)));
    }
    dies(&mut world, EXIT_0);
    (world.only_death().verdict.clone(), world.file)
}

#[test]
fn a_watchdogs_reset_is_its_own_whenever_it_is_heard() {
    let end = |guest, reason| Qmp::Shutdown(Shutdown { guest, reason });
    let forms = [
        end(Some(true), Some(Reason::GuestReset)),
        // 2.10 to 3.1, and before.
        end(Some(true), None),
        end(None, None),
    ];
    for form in forms {
        for heard_after in [AT_ONCE, LATER] {
            let barks = (Qmp::Watchdog(WatchdogAction::Reset), AT_ONCE, None);
            let (verdict, file) = ends_after(&[barks, (form.clone(), heard_after, None)]);
            assert_eq!(verdict, Verdict { cause: Watchdog, initiator: Crash }, "{form:?}");
            assert!(!file);
        }
    }
}

#[test]
fn whose_a_request_after_the_watchdog_is_qemus_own_times_tell() {
    for (heard_after, stamped, stamped_after, is_watchdogs) in [
        // A stalled host, which is when watchdogs fire.
        (LATER, Some(AT_ONCE), Some(AT_ONCE), true),
        // Somebody asked later, and both are heard in one go.
        (AT_ONCE, Some(AT_ONCE), Some(LATER), false),
        // Without times ours have to do.
        (AT_ONCE, None, None, true),
        (LATER, None, None, false),
        (AT_ONCE, Some(AT_ONCE), None, true),
        (LATER, None, Some(AT_ONCE), false),
        (AT_ONCE, Some(AT_ONCE), Some(JUST_BEFORE), true),
        (AT_ONCE, Some(AT_ONCE), Some(SECOND), false),
    ] {
        let barks = (Qmp::Watchdog(WatchdogAction::Shutdown), AT_ONCE, stamped);
        let asks = (Qmp::Powerdown, heard_after, stamped_after);
        let ends = (shutdown(Reason::GuestShutdown), AT_ONCE, None);
        let (verdict, file) = ends_after(&[barks, asks, ends]);
        let cause = if is_watchdogs { Watchdog } else { Powerdown };
        assert_eq!(verdict.cause, cause, "{heard_after:?} {stamped:?} {stamped_after:?}");
        assert!(!file);
    }
}

/// QEMU reports a watchdog once a second at most, and holds the next one back until then.
#[test]
fn a_watchdog_that_is_heard_after_its_effect_had_that_effect() {
    let says = |millis: u64, event| {
        let stamp = Timestamp(Duration::from_millis(1_700_000_000_000 + millis));
        Said::Heard(Message::Event(event, Some(stamp)))
    };
    for (barked_at, cause, file) in [(100, GuestShutdown, true), (300, Watchdog, false)] {
        let mut world = world();
        world.said(says(200, Qmp::Reset));
        world.said(says(barked_at, Qmp::Watchdog(WatchdogAction::Reset)));
        world.said(heard(Qmp::Shutdown(Shutdown { guest: Some(true), reason: None })));
        dies(&mut world, EXIT_0);
        assert_eq!(world.only_death().verdict.cause, cause);
        assert_eq!(world.file, file);
    }
    for (barked_at, cause) in [(199, Watchdog), (201, Powerdown)] {
        let mut world = world();
        world.said(says(200, Qmp::Powerdown));
        world.said(says(barked_at, Qmp::Watchdog(WatchdogAction::Shutdown)));
        world.said(heard(shutdown(Reason::GuestShutdown)));
        dies(&mut world, EXIT_0);
        assert_eq!(world.only_death().verdict.cause, cause);
    }
}

#[test]
fn times_that_run_backwards_are_none() {
    let mut world = world();
    let says = |seconds, event| {
        Said::Heard(Message::Event(event, Some(Timestamp(Duration::from_secs(seconds)))))
    };
    world.said(says(1000, Qmp::Watchdog(WatchdogAction::Shutdown)));
    world.passes(LATER);
    world.said(says(500, Qmp::Powerdown));
    world.said(heard(shutdown(Reason::GuestShutdown)));
    dies(&mut world, EXIT_0);
    assert_eq!(world.only_death().verdict.cause, Powerdown);
}

#[test]
fn a_panicked_guest_is_healed_by_a_reset_only() {
    use Qmp::{GuestCrashloaded, GuestPanicked, Reset, Resume, Stop};
    let resets = || shutdown(Reason::GuestReset);
    let powers_off = || shutdown(Reason::GuestShutdown);
    check(
        &Settings::default(),
        vec![
            row([GuestPanicked, Stop, Resume, resets()], EXIT_0, GuestPanic, Crash, false),
            row([GuestPanicked, Resume, powers_off()], EXIT_0, GuestPanic, Crash, false),
            // It boots another kernel to write a dump, and that one ends the machine.
            row([GuestCrashloaded, resets()], EXIT_0, GuestPanic, Crash, false),
            row([GuestCrashloaded, powers_off()], EXIT_0, GuestPanic, Crash, false),
            row([GuestPanicked, Reset, powers_off()], EXIT_0, GuestShutdown, User, true),
            row([GuestCrashloaded, Reset, powers_off()], EXIT_0, GuestShutdown, User, true),
            row([GuestPanicked, Stop, Resume], WaitStatus(9), GuestPanic, Crash, false),
        ],
    );
}

#[test]
fn a_panicked_guest_that_was_asked_how_it_is_stays_panicked() {
    let mut world = World::new(Settings::default());
    world.binds(Inode(1));
    world.said(heard(Qmp::GuestPanicked));
    world.answers();
    world.said(heard(shutdown(Reason::GuestReset)));
    dies(&mut world, EXIT_0);
    assert_eq!(world.only_death().verdict.cause, GuestPanic);
}

#[test]
fn a_panicked_guest_that_went_on_may_have_been_another_since() {
    let went_on = vec![Qmp::GuestPanicked, Qmp::Stop, Qmp::Resume];
    for (events, may_be_another) in [(vec![Qmp::GuestPanicked], false), (went_on, true)] {
        let mut world = world();
        for event in events {
            world.said(heard(event));
        }
        world.said(heard(shutdown(Reason::GuestShutdown)));
        dies(&mut world, EXIT_0);
        let death = world.only_death();
        assert_eq!(death.missing.contains(&Missing::Snapshot), may_be_another, "{death}");
    }
}

#[test]
fn a_guest_that_was_woken_up_may_shut_itself_down() {
    let mut world = World::new(Settings::default());
    world.binds(Inode(1));
    world.says(Message::Greeting(None));
    world.says(Message::Return(Answer::Done));
    // Suspended to memory.
    world.says(Message::Return(Answer::Status { running: false, panicked: false }));
    world.said(heard(Qmp::Wakeup));
    world.said(heard(shutdown_without_data()));
    dies(&mut world, EXIT_0);
    assert_eq!(world.only_death().verdict.initiator, User);
    assert!(world.file);
}

#[test]
fn a_reset_where_no_end_was_asked_for_is_a_wish_to_be_started_again() {
    for (line, file) in [(None, true), (Some(true), true), (Some(false), false)] {
        let mut world = world();
        if let Some(no_reboot) = line {
            world.said(Said::CommandLine(Some(CommandLine { no_reboot })));
        }
        world.said(heard(shutdown(Reason::GuestReset)));
        dies(&mut world, EXIT_0);
        assert_eq!(world.only_death().verdict.cause, Cause::GuestReset);
        assert_eq!(world.file, file, "{line:?}");
        let is_missing = world.only_death().missing == [Missing::CommandLine];
        assert_eq!(is_missing, line.is_none(), "{line:?}");
    }
}

#[test]
fn what_a_guest_does_long_after_the_watchdogs_nmi_is_its_own_will() {
    for (minutes, cause) in [(59, Watchdog), (60, Cause::GuestReset)] {
        let mut world = world();
        world.said(heard(Qmp::Watchdog(WatchdogAction::InjectNmi)));
        world.passes(Duration::from_secs(60 * minutes));
        restarted(&mut world, true);
        world.said(heard(shutdown(Reason::GuestReset)));
        dies(&mut world, EXIT_0);
        assert_eq!(world.only_death().verdict.cause, cause, "after {minutes} minutes");
    }
    // One that does not say that it was reset was perhaps shut down.
    let mut world = world();
    world.said(heard(Qmp::Watchdog(WatchdogAction::InjectNmi)));
    world.said(heard(Qmp::Shutdown(Shutdown { guest: Some(true), reason: None })));
    dies(&mut world, EXIT_0);
    assert_eq!(world.only_death().verdict.cause, GuestShutdown);
}

#[test]
fn a_command_line_that_could_not_be_read_is_asked_for_again() {
    let mut world = world();
    let before = world.command_lines;
    world.passes(Duration::from_secs(31));
    assert_eq!(world.command_lines, before + 1, "at the rescan");
    world.looks_hang = true;
    world.said(heard(shutdown(Reason::GuestReset)));
    assert_eq!(world.command_lines, before + 2, "and when it counts");
    assert!(!world.file, "nothing is decided yet");
    world.said(Said::CommandLine(Some(CommandLine { no_reboot: false })));
    dies(&mut world, EXIT_0);
    assert!(!world.file);
    assert_eq!(world.command_lines, before + 2);
}

#[test]
fn a_reset_that_comes_before_the_command_line_is_decided_by_that() {
    for (line, file) in [(None, true), (Some(true), true), (Some(false), false)] {
        let mut world = World::new(Settings::default());
        world.looks_hang = true;
        world.binds(Inode(1));
        world.answers();
        world.said(heard(shutdown(Reason::GuestReset)));
        assert!(world.file_actions.iter().all(|present| !present), "nothing is decided yet");
        world.said(Said::CommandLine(line.map(|no_reboot| CommandLine { no_reboot })));
        assert_eq!(world.file, file, "{line:?}, before it ends");
        dies(&mut world, EXIT_0);
        assert_eq!(world.file, file, "{line:?}");
    }
    // Nothing else waits for it.
    let mut world = World::new(Settings::default());
    world.looks_hang = true;
    world.binds(Inode(1));
    world.answers();
    world.said(heard(shutdown(Reason::GuestShutdown)));
    assert!(world.file);
}
