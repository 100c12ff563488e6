use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::id::Moment;
use crate::verdict::{Cause, Initiator, Verdict};
use crate::wire::qmp::{Event, Reason, RunState, Shutdown};
use crate::wire::{Signal, WaitStatus};

const BUDGET: Duration = Duration::from_secs(120);
const KILLED: WaitStatus = WaitStatus(9);
const EXITED: WaitStatus = WaitStatus(0);

fn at(seconds: f64) -> Moment {
    Moment(Duration::from_secs_f64(1000.0 + seconds))
}

/// A course with these `--signal` options, of a QEMU that has greeted.
fn course(options: &[&str]) -> Course {
    let mut course = Course::new(plans(options), BUDGET, false);
    assert_eq!(course.take(at(-1.0), &Input::Greeted), []);
    course
}

fn plans(options: &[&str]) -> Plans {
    let mut plans = Plans::default();
    for option in options {
        let (signal, plan) = Plan::parse(option).unwrap();
        plans.set(signal, plan);
    }
    plans
}

fn shutdown() -> Event {
    Event::Shutdown(Shutdown { guest: Some(true), reason: Some(Reason::GuestShutdown) })
}

/// Lets time pass up to that moment, and says what was done and when.
fn pass(course: &mut Course, until: f64) -> Vec<(f64, Deed)> {
    let mut done = Vec::new();
    while let Some(due) = course.due().filter(|&due| due <= at(until)) {
        let seconds = due.since(at(0.0)).as_secs_f64();
        let deeds = course.take(due, &Input::Tick);
        assert!(!deeds.is_empty(), "it was due at {seconds} s for nothing");
        done.extend(deeds.into_iter().map(|deed| (seconds, deed)));
    }
    done
}

fn why(course: &Course, cause: Cause, status: WaitStatus) -> Why {
    course.why(&Verdict { cause, initiator: Initiator::Admin }, Some(status))
}

#[test]
fn a_guest_that_obeys_is_asked_twice_at_most_and_left_to_flush() {
    let mut course = course(&[]);
    assert_eq!(course.take(at(0.0), &Input::Signal(Signal::TERM)), [Deed::AskState]);
    let deeds = course.take(at(0.0), &Input::State(RunState::Running));
    assert_eq!(deeds, [Deed::EndAtReboot, Deed::PressButton]);
    assert_eq!(course.phase(), Phase::Asked);
    assert_eq!(pass(&mut course, 9.0), [(0.5, Deed::PressButton)]);
    // A QEMU with -no-shutdown would stay.
    assert_eq!(course.take(at(9.0), &Input::Event(&shutdown())), [Deed::Quit]);
    assert_eq!(course.phase(), Phase::Flushing);
    assert_eq!(pass(&mut course, 119.0), []);
    assert_eq!(why(&course, Cause::Powerdown, EXITED), Why::Cause(Cause::Powerdown));
}

#[test]
fn a_guest_that_is_known_to_run_is_asked_first_and_looked_at_then() {
    for (before, is_known) in [(Event::Resume, true), (Event::Stop, false)] {
        let mut course = course(&[]);
        course.take(at(-0.9), &Input::State(RunState::Running));
        course.take(at(-0.8), &Input::Event(&before));
        let first = course.take(at(0.0), &Input::Signal(Signal::TERM));
        let then = course.take(at(0.0), &Input::State(RunState::Running));
        let press = [Deed::EndAtReboot, Deed::PressButton];
        if is_known {
            assert_eq!(first, [press.as_slice(), &[Deed::AskState]].concat());
            assert_eq!(then, []);
        } else {
            assert_eq!((first, then), (vec![Deed::AskState], press.to_vec()));
        }
        assert_eq!(pass(&mut course, 9.0), [(0.5, Deed::PressButton)]);
    }
    // It was paused in the meantime.
    let mut course = course(&[]);
    course.take(at(-0.9), &Input::State(RunState::Running));
    course.take(at(0.0), &Input::Signal(Signal::TERM));
    assert_eq!(course.take(at(0.0), &Input::State(RunState::Paused)), [Deed::Quit]);
    assert!(course.is_forced());
}

#[test]
fn a_deaf_guest_is_forced_within_the_budget() {
    let mut course = course(&[]);
    course.take(at(0.0), &Input::Signal(Signal::TERM));
    course.take(at(0.0), &Input::State(RunState::Running));
    let done = pass(&mut course, 200.0);
    let presses: Vec<f64> = done
        .iter()
        .filter(|(_, deed)| *deed == Deed::PressButton)
        .map(|(seconds, _)| *seconds)
        .collect();
    assert_eq!(presses[..3], [0.5, 10.5, 20.5]);
    let rest: Vec<_> = done.into_iter().filter(|(_, deed)| *deed != Deed::PressButton).collect();
    assert_eq!(rest, [(105.0, Deed::Quit), (120.0, Deed::Kill)]);
    assert_eq!(course.phase(), Phase::Killed);
    assert_eq!(why(&course, Cause::Killed, KILLED), Why::Forced);
    assert_eq!(why(&course, Cause::Host(Some(Reason::HostQmpQuit)), EXITED), Why::Forced);
    // It obeyed at the last moment.
    assert_eq!(why(&course, Cause::Powerdown, EXITED), Why::Cause(Cause::Powerdown));
}

#[test]
fn a_flush_that_takes_too_long_is_cut_short_and_called_forced() {
    let mut course = course(&[]);
    course.take(at(0.0), &Input::Signal(Signal::TERM));
    course.take(at(0.0), &Input::State(RunState::Running));
    course.take(at(1.0), &Input::Event(&shutdown()));
    assert_eq!(pass(&mut course, 200.0), [(120.0, Deed::Kill)]);
    assert_eq!(why(&course, Cause::Powerdown, KILLED), Why::Forced);
}

#[test]
fn a_stop_that_is_asked_for_again_changes_nothing_but_for_int() {
    let mut course = course(&[]);
    course.take(at(0.0), &Input::Signal(Signal::TERM));
    course.take(at(0.0), &Input::State(RunState::Running));
    assert_eq!(course.take(at(0.1), &Input::Signal(Signal::TERM)), []);
    assert_eq!(course.take(at(0.2), &Input::Signal(Signal::INT)), []);
    assert_eq!(course.take(at(0.3), &Input::Signal(Signal::INT)), [Deed::Quit]);
    assert_eq!(course.take(at(0.4), &Input::Signal(Signal::INT)), []);
    assert_eq!(course.take(at(0.5), &Input::Signal(Signal::QUIT)), []);
    // Not a second more than the first signal gave it.
    assert_eq!(pass(&mut course, 200.0), [(120.0, Deed::Kill)]);
    assert_eq!(why(&course, Cause::Host(Some(Reason::HostQmpQuit)), EXITED), Why::Forced);
}

#[test]
fn quit_asks_nobody_and_is_what_was_requested() {
    let mut course = course(&[]);
    assert_eq!(course.take(at(0.0), &Input::Signal(Signal::QUIT)), [Deed::Quit]);
    assert_eq!(why(&course, Cause::Host(Some(Reason::HostQmpQuit)), EXITED), Why::Requested);
    assert_eq!(pass(&mut course, 200.0), [(120.0, Deed::Kill)]);
    assert_eq!(why(&course, Cause::Killed, KILLED), Why::Forced);
}

#[test]
fn each_state_has_its_way_to_the_end() {
    for (state, continues, deeds, is_forced) in [
        (RunState::Suspended, false, vec![Deed::EndAtReboot, Deed::Wake, Deed::PressButton], false),
        (RunState::Paused, true, vec![Deed::EndAtReboot, Deed::Continue, Deed::PressButton], false),
        (RunState::Paused, false, vec![Deed::Quit], true),
        (RunState::Broken, true, vec![Deed::Quit], true),
        (RunState::Other, true, vec![Deed::Quit], true),
        (RunState::NotStarted, true, vec![Deed::Quit], false),
        (RunState::Elsewhere, true, vec![Deed::Quit], false),
        (RunState::Shutdown, true, vec![Deed::Quit], false),
    ] {
        let mut course = Course::new(Plans::default(), BUDGET, continues);
        course.take(at(0.0), &Input::Greeted);
        course.take(at(0.0), &Input::Signal(Signal::TERM));
        assert_eq!(course.take(at(0.0), &Input::State(state)), deeds, "{state:?}");
        assert_eq!(course.is_forced(), is_forced, "{state:?}");
    }
}

#[test]
fn the_button_is_pressed_again_as_soon_as_the_guest_can_hear_it() {
    let mut course = course(&[]);
    course.take(at(0.0), &Input::Signal(Signal::TERM));
    course.take(at(0.0), &Input::State(RunState::Suspended));
    assert_eq!(course.take(at(0.2), &Input::Event(&Event::Wakeup)), [Deed::PressButton]);
    assert_eq!(pass(&mut course, 1.0), [(0.7, Deed::PressButton)]);
    // It reboots all the same: an older QEMU.
    assert_eq!(course.take(at(2.0), &Input::Event(&Event::Reset)), []);
    assert_eq!(pass(&mut course, 3.0), [(2.5, Deed::PressButton)]);
}

#[test]
fn a_guest_that_cannot_be_woken_is_not_waited_for() {
    let mut course = course(&[]);
    course.take(at(0.0), &Input::Signal(Signal::TERM));
    course.take(at(0.0), &Input::State(RunState::Suspended));
    assert_eq!(course.take(at(0.0), &Input::CannotWake), [Deed::Quit]);
    assert!(course.is_forced());
}

#[test]
fn a_guest_that_has_left_for_another_host_is_not_waited_for_here() {
    // It is asked, and migrated before it obeys.
    let mut course = course(&[]);
    course.take(at(0.0), &Input::Signal(Signal::TERM));
    course.take(at(0.0), &Input::State(RunState::Running));
    assert_eq!(course.take(at(0.1), &Input::Event(&Event::Stop)), [Deed::AskState]);
    assert_eq!(course.take(at(0.1), &Input::State(RunState::Leaving)), []);
    assert_eq!(course.phase(), Phase::Asked);
    assert_eq!(pass(&mut course, 1.0), [(0.6, Deed::AskState)]);
    assert_eq!(course.take(at(1.0), &Input::State(RunState::Elsewhere)), [Deed::Quit]);
    assert_eq!(why(&course, Cause::Host(Some(Reason::HostQmpQuit)), EXITED), Why::Requested);
}

#[test]
fn a_guest_that_is_about_to_leave_is_not_cut_off() {
    let mut course = course(&[]);
    course.take(at(0.0), &Input::Signal(Signal::TERM));
    assert_eq!(course.take(at(0.0), &Input::State(RunState::Leaving)), []);
    assert_eq!(pass(&mut course, 0.6), [(0.5, Deed::AskState)]);
    course.take(at(0.6), &Input::State(RunState::Leaving));
    // It stays after all.
    assert_eq!(course.take(at(0.7), &Input::Event(&Event::Resume)), [Deed::PressButton]);
    // Somebody pauses it: it has been asked, and may yet go on.
    assert_eq!(course.take(at(0.8), &Input::Event(&Event::Stop)), [Deed::AskState]);
    assert_eq!(course.take(at(0.8), &Input::State(RunState::Paused)), []);
    assert_eq!(pass(&mut course, 2.0), [(1.2, Deed::PressButton)]);
}

#[test]
fn before_its_greeting_qemu_is_hung_up_on() {
    let mut course = Course::new(Plans::default(), BUDGET, false);
    assert_eq!(course.take(at(0.0), &Input::Signal(Signal::TERM)), [Deed::HangUp]);
    assert_eq!(why(&course, Cause::HostSignal(Some(Signal::HUP)), WaitStatus(1)), Why::Requested);
    // It was deaf to it.
    let mut deaf = course.clone();
    assert_eq!(deaf.take(at(0.1), &Input::Greeted), [Deed::AskState]);
    assert_eq!(deaf.take(at(0.2), &Input::State(RunState::Running)).len(), 2);
    // Or it was not, and only had the time to greet.
    assert_eq!(course.take(at(0.1), &Input::Greeted), [Deed::AskState]);
    assert_eq!(course.take(at(0.2), &Input::MonitorClosed), []);
    assert!(!course.is_forced());
}

#[test]
fn without_a_monitor_there_is_one_way_left() {
    let mut course = course(&[]);
    assert_eq!(course.take(at(0.0), &Input::MonitorClosed), []);
    assert_eq!(course.take(at(1.0), &Input::Signal(Signal::TERM)), [Deed::HangUp]);
    assert_eq!(pass(&mut course, 200.0), [(106.0, Deed::HangUp), (121.0, Deed::Kill)]);
    assert!(course.is_forced());
}

#[test]
fn a_guest_that_went_down_before_is_only_waited_for() {
    let mut course = course(&[]);
    assert_eq!(course.take(at(0.0), &Input::Event(&shutdown())), []);
    assert_eq!(course.phase(), Phase::Flushing);
    assert_eq!(course.take(at(1.0), &Input::Signal(Signal::TERM)), [Deed::Quit]);
    assert_eq!(why(&course, Cause::GuestShutdown, EXITED), Why::Cause(Cause::GuestShutdown));
    // Somebody else's quit, not ours, which came after it.
    let quit = Cause::Host(Some(Reason::HostQmpQuit));
    assert_eq!(why(&course, quit.clone(), EXITED), Why::Cause(quit));
}

#[test]
fn what_does_not_answer_is_forced_too() {
    let mut course = course(&[]);
    assert_eq!(course.take(at(0.0), &Input::Signal(Signal::TERM)), [Deed::AskState]);
    assert_eq!(pass(&mut course, 200.0), [(105.0, Deed::Quit), (120.0, Deed::Kill)]);
}

#[test]
fn a_plan_of_the_users_own() {
    let options = [
        "USR1=powerdown,timeout=20,then=kill",
        "USR2=powerdown,then=nothing",
        "TERM=monitor:guest-ping,timeout=30,then=powerdown,again=kill",
        "WINCH=monitor:stop",
        "ALRM=reset",
    ];
    let mut usr1 = course(&options);
    usr1.take(at(0.0), &Input::Signal(Signal::USR1));
    assert_eq!(pass(&mut usr1, 200.0), [(20.0, Deed::Kill)]);
    assert_eq!(why(&usr1, Cause::Killed, KILLED), Why::Forced);

    let mut usr2 = course(&options);
    usr2.take(at(0.0), &Input::Signal(Signal::USR2));
    assert_eq!(usr2.take(at(0.0), &Input::State(RunState::Paused)), []);
    assert_eq!(pass(&mut usr2, 200.0), []);

    let mut term = course(&options);
    let deeds = term.take(at(0.0), &Input::Signal(Signal::TERM));
    assert!(matches!(&*deeds, [Deed::Execute(command)] if command.name() == "guest-ping"));
    assert_eq!(pass(&mut term, 31.0), [(30.0, Deed::AskState)]);
    let done = pass(&mut term, 200.0);
    assert_eq!(done, [(105.0, Deed::Quit), (120.0, Deed::Kill)]);

    let mut again = course(&options);
    again.take(at(0.0), &Input::Signal(Signal::TERM));
    assert_eq!(again.take(at(1.0), &Input::Signal(Signal::TERM)), [Deed::Kill]);

    // These end nothing, in a stop or out of it.
    for mut course in [course(&options), usr1] {
        let phase = course.phase();
        let expected = usize::from(phase != Phase::Killed);
        for signal in ["WINCH", "ALRM"] {
            let deeds = course.take(at(300.0), &Input::Signal(signal.parse().unwrap()));
            assert_eq!(deeds.len(), expected);
        }
        assert_eq!(course.phase(), phase);
    }
}

#[test]
fn a_reset_of_ours_that_ended_qemu_wants_it_started_again() {
    let mut course = course(&[]);
    let reset = "RTMIN+15".parse().unwrap();
    assert_eq!(course.take(at(0.0), &Input::Signal(reset)), [Deed::Reset]);
    let cause = Cause::Host(Some(Reason::HostQmpSystemReset));
    let why = why(&course, cause, EXITED);
    assert_eq!(ExitCodes::default().of(&why, Initiator::Admin), 133);
}

/// A plan that ends with the button is a request: a stop that comes later has all of its steps and time.
#[test]
fn a_request_that_nothing_follows_stands_in_no_stops_way() {
    let options = ["USR2=powerdown,then=nothing,again=quit"];
    let ask = || {
        let mut course = course(&options);
        course.take(at(0.0), &Input::Signal(Signal::USR2));
        // A guest that reboots one day is not meant to end then.
        assert_eq!(course.take(at(0.0), &Input::State(RunState::Running)), [Deed::PressButton]);
        assert_eq!(course.ends(), None);
        course
    };
    // Long after all of its time, in which it is asked, and then no more.
    let mut stopped = ask();
    assert_eq!(pass(&mut stopped, 1000.0).last(), Some(&(110.5, Deed::PressButton)));
    stopped.take(at(1000.0), &Input::Signal(Signal::TERM));
    assert_eq!(stopped.ends(), Some(at(1120.0)));
    let done: Vec<_> =
        pass(&mut stopped, 2000.0).into_iter().skip_while(|it| it.0 < 1101.0).collect();
    assert_eq!(done, [(1105.0, Deed::Quit), (1120.0, Deed::Kill)]);

    // A flush has its time, too, whether it is another signal or the same once more.
    for signal in [Signal::QUIT, Signal::USR2] {
        let mut told = ask();
        assert_eq!(told.take(at(1000.0), &Input::Signal(signal)), [Deed::Quit]);
        assert_eq!(why(&told, Cause::Host(Some(Reason::HostQmpQuit)), EXITED), Why::Requested);
    }

    // It reboots one day: nobody wants it down then.
    let reset = Event::Shutdown(Shutdown { guest: Some(true), reason: Some(Reason::GuestReset) });
    let mut rebooted = ask();
    rebooted.take(at(1000.0), &Input::Event(&reset));
    assert_eq!(why(&rebooted, Cause::GuestReset, EXITED), Why::Cause(Cause::GuestReset));
}

/// One that stays where it is when its guest panics (`-no-shutdown`), or whose KVM has failed.
#[test]
fn a_guest_that_breaks_while_it_is_asked_is_not_waited_for() {
    let mut course = course(&[]);
    course.take(at(0.0), &Input::Signal(Signal::TERM));
    course.take(at(0.0), &Input::State(RunState::Running));
    assert_eq!(course.take(at(0.2), &Input::Event(&Event::Stop)), [Deed::AskState]);
    assert_eq!(course.take(at(0.2), &Input::State(RunState::Broken)), [Deed::Quit]);
}

/// On a busy host the answer may take its time, and a guest that boots may not have heard the first press.
#[test]
fn the_button_is_pressed_again_while_an_answer_is_waited_for() {
    let mut course = course(&[]);
    course.take(at(-0.9), &Input::State(RunState::Running));
    course.take(at(0.0), &Input::Signal(Signal::TERM));
    let presses = [0.5, 10.5, 20.5].map(|when| (when, Deed::PressButton));
    assert_eq!(pass(&mut course, 21.0), presses);
    assert_eq!(course.take(at(21.0), &Input::State(RunState::Running)), []);
    assert_eq!(pass(&mut course, 31.0), [(30.5, Deed::PressButton)]);
}

/// Somebody wants it down, and QEMU had been told to end at a reset.
#[test]
fn a_reset_of_ours_in_a_stop_is_not_started_again() {
    let mut course = course(&[]);
    course.take(at(0.0), &Input::Signal(Signal::TERM));
    course.take(at(0.0), &Input::Signal("RTMIN+15".parse().unwrap()));
    let cause = Cause::Host(Some(Reason::HostQmpSystemReset));
    assert_eq!(why(&course, cause, EXITED), Why::Requested);
}

/// It was about to reboot, and QEMU had been told to end then, but had not yet said POWERDOWN.
#[test]
fn a_reboot_during_a_stop_is_not_started_again() {
    let reset = Event::Shutdown(Shutdown { guest: Some(true), reason: Some(Reason::GuestReset) });
    let mut stopped = course(&[]);
    stopped.take(at(0.0), &Input::Signal(Signal::TERM));
    stopped.take(at(0.0), &Input::State(RunState::Running));
    stopped.take(at(0.0), &Input::Event(&reset));
    assert_eq!(why(&stopped, Cause::GuestReset, EXITED), Why::Requested);
    // Its reboot came first.
    let mut rebooted = course(&[]);
    rebooted.take(at(0.0), &Input::Event(&reset));
    rebooted.take(at(0.0), &Input::Signal(Signal::TERM));
    assert_eq!(why(&rebooted, Cause::GuestReset, EXITED), Why::Cause(Cause::GuestReset));
}

#[test]
fn a_guest_whose_supervisor_is_gone_wants_to_be_started_again() {
    let mut orphan = course(&[]);
    assert_eq!(orphan.take(at(0.0), &Input::ParentEnded), [Deed::AskState]);
    assert_eq!(why(&orphan, Cause::Powerdown, EXITED), Why::Orphaned);
    assert_eq!(why(&orphan, Cause::GuestShutdown, EXITED), Why::Cause(Cause::GuestShutdown));
    assert_eq!(ExitCodes::default().of(&Why::Orphaned, Initiator::Admin), 42);
    // Somebody wanted it down before.
    let mut stopped = course(&[]);
    stopped.take(at(0.0), &Input::Signal(Signal::TERM));
    assert_eq!(stopped.take(at(1.0), &Input::ParentEnded), []);
    assert_eq!(why(&stopped, Cause::Powerdown, EXITED), Why::Cause(Cause::Powerdown));
}

#[test]
fn plans_are_read_as_they_are_spelt() {
    for option in [
        "SIGTERM=powerdown",
        "SIGINT=powerdown,timeout=5,then=kill,again=quit",
        "SIGRTMIN+5=nothing",
        "SIGUSR1=monitor:stop",
    ] {
        let (signal, plan) = Plan::parse(option).unwrap();
        assert_eq!(format!("{signal}={plan}"), option);
    }
    for (option, said) in [
        ("TERM", "not of the form"),
        ("TERM=", "no action \"\""),
        ("FOO=quit", "no signal \"FOO\""),
        ("KILL=quit", "SIGKILL cannot"),
        ("SEGV=quit", "SIGSEGV cannot"),
        ("TERM=stop", "no action \"stop\""),
        ("TERM=quit,timeout=0", "1 or more"),
        ("TERM=quit,timeout=x", "1 or more"),
        ("TERM=quit,timeout=5,timeout=6", "once each"),
        ("TERM=quit,when=now", "\"when\" is not one of"),
        ("TERM=quit,", "is not one of"),
        ("TERM=monitor:", "monitor: needs"),
        ("TERM=monitor:a b", "is not one of"),
        ("TERM=kill,timeout=5", "nothing follows kill"),
        ("TERM=quit,then=nothing,timeout=5", "nothing follows quit"),
    ] {
        let error = Plan::parse(option).unwrap_err().to_string();
        assert!(error.contains(said), "{option}: {error}");
    }
}

#[test]
fn a_first_action_has_to_leave_time_for_the_next() {
    let plans = plans(&["USR1=powerdown,timeout=30"]);
    assert_eq!(plans.longer_than(Duration::from_secs(31)), None);
    let found = plans.longer_than(Duration::from_secs(30));
    assert_eq!(found, Some((Signal::USR1, Duration::from_secs(30))));
}

#[test]
fn exit_codes_can_be_changed() {
    let mut codes = ExitCodes::default();
    let of = |codes: &ExitCodes, cause: Cause| codes.of(&Why::Cause(cause), Initiator::Admin);
    assert_eq!(of(&codes, Cause::GuestReset), 133);
    codes.change("guest-reset=7,forced=0").unwrap();
    assert_eq!(of(&codes, Cause::GuestReset), 7);
    assert_eq!(codes.of(&Why::Forced, Initiator::Admin), 0);
    let later = || Cause::Host(Some(Reason::Unknown("later".into())));
    assert_eq!(of(&codes, later()), 40);
    assert_eq!(codes.of(&Why::Cause(later()), Initiator::Unknown), 50);
    for (bad, said) in [
        ("", "not of the form"),
        ("crashed", "not of the form"),
        ("crash=1", "no cause \"crash\"; pass one of guest-shutdown, powerdown"),
        ("crashed=256", "\"256\" is not an exit code"),
        ("crashed=-1", "not an exit code"),
    ] {
        let error = codes.change(bad).unwrap_err().to_string();
        assert!(error.contains(said), "{bad}: {error}");
    }
}

fn any_input() -> impl Strategy<Value = (u8, u8)> {
    (0..12_u8, any::<u8>())
}

proptest! {
    #[test]
    fn no_option_makes_the_parser_panic(option in "(TERM|INT|RTMIN\\+3)=[a-z:{}\",=0-9]{0,40}") {
        if let Ok((signal, plan)) = Plan::parse(&option) {
            let again = Plan::parse(&format!("{signal}={plan}"));
            // A command is shown by its name only.
            if !option.contains("monitor:") {
                prop_assert_eq!(again, Ok((signal, plan)));
            }
        }
    }

    #[test]
    fn no_exit_codes_make_the_parser_panic(text in "[a-z,=0-9-]{0,40}") {
        let _ = ExitCodes::default().change(&text);
    }

    /// Whatever happens in whatever order: a stop is over within its budget, it never takes a step
    /// back, and nobody who was not asked ends anything.
    #[test]
    fn a_stop_is_over_in_time(inputs in prop::collection::vec(any_input(), 0..30), timeout in 1..119_u32) {
        let option = format!("USR1=powerdown,timeout={timeout}");
        let mut course = Course::new(plans(&[&option]), BUDGET, true);
        let signals = [Signal::TERM, Signal::INT, Signal::QUIT, Signal::USR1, Signal::HUP];
        let states = [
            RunState::Running,
            RunState::Suspended,
            RunState::Paused,
            RunState::Broken,
            RunState::Leaving,
            RunState::Elsewhere,
        ];
        let events = [Event::Resume, Event::Reset, Event::Stop];
        let shutdown = shutdown();
        let (mut now, mut roughest, mut began) = (at(0.0), 0, None);
        for (what, number) in inputs {
            now = now + Duration::from_millis(u64::from(number) * 100);
            let input = match what {
                0..=4 => Input::Signal(signals[usize::from(what)]),
                5 => Input::Greeted,
                6 => Input::MonitorClosed,
                7 => Input::State(states[usize::from(number) % states.len()]),
                8 => Input::Event(&shutdown),
                9 => Input::Event(&events[usize::from(number) % events.len()]),
                10 => Input::CannotWake,
                _ => Input::Tick,
            };
            let deeds = course.take(now, &input);
            if began.is_none() && course.ends().is_some() {
                began = Some(now);
            }
            prop_assert!(began.is_some() || deeds.is_empty(), "{deeds:?}");
            for deed in &deeds {
                let roughness = match deed {
                    Deed::PressButton => 1,
                    Deed::Quit | Deed::HangUp => 2,
                    Deed::Kill => 3,
                    _ => continue,
                };
                // QEMU may have been deaf to SIGHUP.
                prop_assert!(roughness >= roughest || roughest == 2, "{deed:?} after {roughest}");
                roughest = roughest.max(roughness);
            }
            prop_assert!(course.due().is_none_or(|due| due > now));
        }
        let Some(began) = began else { return Ok(()) };
        while let Some(due) = course.due() {
            prop_assert!(due <= began + BUDGET);
            course.take(due, &Input::Tick);
        }
        prop_assert_eq!(course.phase(), Phase::Killed);
    }
}
