//! What is known of one life, without a node: as a program uses it that watches one QEMU.

use super::*;

const NOW: Moment = Moment(Duration::from_secs(1_000_000));

fn learn(case: &mut Case, at: Moment, fact: Fact) -> Turn {
    case.learn(at, Source::Qmp, fact, &Settings::default())
}

/// How often the next daemon is to be told something new.
fn turns_by(facts: impl IntoIterator<Item = (Moment, Fact)>) -> u32 {
    let mut case = Case::default();
    for (at, fact) in facts {
        learn(&mut case, at, fact);
    }
    case.turns()
}

fn said(event: Qmp) -> Fact {
    Fact::Said(event, None)
}

#[test]
fn a_program_of_its_own_can_weigh_with_it() {
    let mut case = Case::default();
    let turn = learn(&mut case, NOW, said(shutdown(Reason::GuestShutdown)));
    assert_eq!(turn, Turn::GoingDown);
    let settings = Settings::default();
    assert_eq!(case.judge_early(&settings).map(|it| it.initiator), Some(Initiator::User));
    case.learn(NOW, Source::Process, Fact::Exited(EXIT_0), &settings);
    let verdict = case.judge(Some(NOW), &settings);
    assert_eq!(verdict, Verdict { cause: Cause::GuestShutdown, initiator: Initiator::User });
    assert_eq!(case.timeline().pieces().len(), 2);
}

#[test]
fn what_says_nothing_new_is_not_worth_writing_down() {
    let again = |fact: Fact| turns_by(vec![(NOW, fact); 50]);
    assert_eq!(again(said(Qmp::Stop)), 1);
    assert_eq!(again(said(Qmp::Resume)), 1, "it runs, as far as was known");
    assert_eq!(again(said(Qmp::Noted(Note::Suspend))), 0);
    let version = Version { major: 7, minor: 2, micro: 22 };
    assert_eq!(again(Fact::Greeted(Some(version))), 1);
    assert_eq!(again(Fact::Greeted(None)), 0);
    assert_eq!(again(Fact::DumpsCore), 1);
    assert_eq!(again(Fact::OutOfMemory), 1);
    assert_eq!(again(Fact::Closed), 0);
}

#[test]
fn whom_the_oom_killer_chose_is_said_once() {
    let mut case = Case::default();
    for source in [Source::Trace, Source::ControlGroup] {
        case.learn(NOW, source, Fact::OutOfMemory, &Settings::default());
    }
    let pieces = case.timeline().pieces();
    assert_eq!(pieces.len(), 1);
    assert_eq!(pieces[0].source, Source::Trace);
}

#[test]
fn chatter_may_go_on_once_a_second() {
    // Twice a second, for so long that the first allowance is used up.
    let events = [Qmp::Stop, Qmp::Resume].into_iter().cycle().take(2000);
    let half_seconds = (0..).map(|n| NOW + Duration::from_millis(500) * n);
    let turns = turns_by(half_seconds.zip(events.map(said)));
    assert!((1050..=1200).contains(&turns), "{turns}");
}

#[test]
fn a_leader_that_ended_a_second_ahead_of_its_process_has_only_left_its_threads() {
    let second = Duration::from_secs(1);
    for (ahead, status, counts) in [
        (Duration::from_nanos(999_999_999), EXIT_0, true),
        (second, EXIT_0, false),
        // Whatever killed the leader killed them all.
        (second, WaitStatus(9), true),
        (second, WaitStatus(0x100), true),
    ] {
        let mut case = Case::default();
        learn(&mut case, NOW, Fact::Exited(status));
        let known = case.status(Some(NOW + ahead));
        assert_eq!(known, counts.then_some(status), "{ahead:?}, {status}");
    }
}

#[test]
fn the_sender_of_the_signal_that_a_verdict_is_about_is_named() {
    let mut case = Case::default();
    for signal in [Signal(11), Signal::TERM, Signal::KILL] {
        let sender = Sender { pid: Some(signal.0.unsigned_abs()), ..Sender::default() };
        learn(&mut case, NOW, Fact::Signalled(signal, Arc::new(sender)));
    }
    for (cause, signal) in [
        (Cause::HostSignal(None), Some(Signal::TERM)),
        (Cause::Killed, Some(Signal::KILL)),
        (Cause::OutOfMemory, Some(Signal::KILL)),
        (Cause::Crashed(Signal(11)), Some(Signal(11))),
        (Cause::Crashed(Signal(6)), None),
        (Cause::GuestShutdown, None),
    ] {
        let verdict = Verdict { cause, initiator: Initiator::Unknown };
        assert_eq!(case.sent(&verdict).map(|sent| sent.signal), signal, "{}", verdict.cause);
    }
}

#[test]
fn all_that_it_knows_outlives_the_daemon_but_what_is_for_people_only() {
    let version = Version { major: 7, minor: 2, micro: 22 };
    let mut case = Case::default();
    for fact in [
        Fact::Greeted(Some(version)),
        Fact::Started(CommandLine { no_reboot: true }),
        Fact::Unheard,
        said(Qmp::Powerdown),
        said(shutdown(Reason::GuestShutdown)),
        Fact::Signalled(Signal::TERM, Arc::default()),
        Fact::OutOfMemory,
        Fact::DumpsCore,
        Fact::Exited(EXIT_0),
    ] {
        learn(&mut case, NOW, fact);
    }
    assert_eq!(
        (case.qemu(), case.no_reboot(), case.status(None), case.out_of_memory(), case.dumps_core()),
        (Some(version), Some(true), Some(EXIT_0), true, true)
    );
    let written = |case: &Case| serde_json::to_value(case).unwrap();
    assert_eq!(written(&case.to_remember()), written(&case));
}

/// A SHUTDOWN that says why, or that it was the guest, needs no other witness.
#[test]
fn a_shutdown_that_says_why_is_judged_before_the_end() {
    let says = |guest, reason| {
        let mut case = Case::default();
        learn(&mut case, NOW, said(Qmp::Shutdown(Shutdown { guest, reason })));
        case.judge_early(&Settings::default()).map(|verdict| verdict.initiator)
    };
    assert_eq!(says(Some(false), Some(Reason::HostQmpQuit)), Some(Initiator::Admin));
    assert_eq!(says(Some(true), Some(Reason::GuestShutdown)), Some(Initiator::User));
    assert_eq!(says(Some(true), None), Some(Initiator::User));
    assert_eq!(says(Some(false), None), None);
    assert_eq!(says(None, None), None);
}

#[test]
fn a_cause_names_the_signal_where_one_ended_it() {
    for (cause, signal) in [
        (Cause::HostSignal(Some(Signal::TERM)), Some(Signal::TERM)),
        (Cause::HostSignal(None), None),
        (Cause::Killed, Some(Signal::KILL)),
        (Cause::OutOfMemory, Some(Signal::KILL)),
        (Cause::Crashed(Signal(11)), Some(Signal(11))),
        (Cause::GuestShutdown, None),
    ] {
        assert_eq!(cause.signal(), signal, "{cause}");
    }
}

#[test]
fn what_qemu_answers_about_its_guest_counts_like_an_event() {
    let cause_after = |fact, ends| {
        let mut case = Case::default();
        learn(&mut case, NOW, fact);
        learn(&mut case, NOW, said(ends));
        case.judge(None, &Settings::default()).cause
    };
    let answered = |running| Fact::Answered { running };
    assert_eq!(cause_after(answered(true), shutdown_without_data()), Cause::GuestShutdown);
    assert_eq!(cause_after(answered(false), shutdown_without_data()), Cause::Host(None));
    assert_eq!(cause_after(Fact::IsPanicked, shutdown_without_data()), Cause::Host(None));
    assert_eq!(cause_after(Fact::IsPanicked, shutdown(Reason::GuestReset)), Cause::GuestPanic);
}

/// A QEMU that is about to end still answers that its guest runs. Only what came after a gap in the
/// conversation can tell of a guest that came back.
#[test]
fn a_qemu_on_its_way_out_that_answers_running_takes_nothing_back() {
    let running = Fact::Answered { running: true };
    let mut case = Case::default();
    assert_eq!(learn(&mut case, NOW, said(shutdown(Reason::GuestShutdown))), Turn::GoingDown);
    assert_eq!(learn(&mut case, NOW, running.clone()), Turn::Unchanged);
    learn(&mut case, NOW, Fact::Unheard);
    assert_eq!(learn(&mut case, NOW, running.clone()), Turn::TakenBack);
    learn(&mut case, NOW, said(shutdown(Reason::GuestShutdown)));
    assert_eq!(learn(&mut case, NOW, running), Turn::Unchanged, "this one came after the gap");
}
