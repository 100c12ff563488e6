//! What is asked before a verdict, and in which order: what costs most comes last, and where the
//! answer is known nobody is asked.

use super::*;
use crate::verdict::inquiry::Inquiry;

const NOW: Moment = Moment(Duration::from_secs(1_000_000));
const KILLED: Fact = Fact::Exited(WaitStatus(9));
const EXITED: Fact = Fact::Exited(EXIT_0);

const NOTHING: Questions =
    Questions { signals: false, status: false, own_log: false, out_of_memory: false };
const SIGNALS: Questions = Questions { signals: true, ..NOTHING };
const STATUS: Questions = Questions { status: true, ..NOTHING };
const OWN_LOG: Questions = Questions { own_log: true, ..NOTHING };
const OUT_OF_MEMORY: Questions = Questions { out_of_memory: true, ..NOTHING };

/// What is asked, one after the other, where nobody knows anything.
fn asked(facts: &[Fact], died: Option<Moment>) -> Vec<Questions> {
    let mut case = Case::default();
    for fact in facts {
        case.learn(NOW, Source::Qmp, fact.clone(), &Settings::default());
    }
    let mut inquiry = Inquiry::default();
    let mut asked = Vec::new();
    while let Some(questions) = inquiry.ask(&case, died, NOW) {
        assert!(inquiry.is_open() && inquiry.deadline().is_some());
        assert_eq!(inquiry.ask(&case, died, NOW), None, "an answer is to come");
        asked.push(questions);
        inquiry.close(&Answers::default());
        assert!(!inquiry.is_open());
    }
    asked
}

fn says(reason: Reason) -> Fact {
    Fact::Said(shutdown(reason), None)
}

fn by(signal: Signal) -> Fact {
    Fact::Signalled(signal, sent(signal).sender)
}

#[test]
fn a_silent_end_is_asked_after_by_what_its_status_leaves_open() {
    assert_eq!(asked(&[KILLED], Some(NOW)), [SIGNALS, OUT_OF_MEMORY]);
    assert_eq!(asked(&[KILLED, Fact::OutOfMemory], Some(NOW)), [SIGNALS]);
    assert_eq!(asked(&[EXITED], Some(NOW)), [SIGNALS, OWN_LOG]);
    assert_eq!(asked(&[EXITED, by(Signal::TERM)], Some(NOW)), [SIGNALS]);
    assert_eq!(asked(&[Fact::Exited(WaitStatus(11))], Some(NOW)), [SIGNALS]);
    // Its connection has ended, and nobody knows a process.
    assert_eq!(asked(&[], None), [SIGNALS, OUT_OF_MEMORY, OWN_LOG]);
    assert_eq!(asked(&[], Some(NOW)), [SIGNALS.and(STATUS), OUT_OF_MEMORY, OWN_LOG]);
}

#[test]
fn a_qemu_that_says_why_leaves_little_to_ask() {
    let users = || says(Reason::GuestShutdown);
    assert_eq!(asked(&[users(), EXITED], Some(NOW)), []);
    assert_eq!(asked(&[users()], Some(NOW)), [STATUS]);
    assert_eq!(asked(&[users(), Fact::Exited(WaitStatus(11))], Some(NOW)), [SIGNALS]);
    let by_signal = || says(Reason::HostSignal);
    assert_eq!(asked(&[by_signal(), EXITED], Some(NOW)), [SIGNALS, OWN_LOG]);
    assert_eq!(asked(&[by_signal(), EXITED, by(Signal::TERM)], Some(NOW)), [SIGNALS]);
    // Killed while it closed its disks.
    assert_eq!(asked(&[by_signal(), KILLED], Some(NOW)), [SIGNALS, OWN_LOG]);
    let unsaid = || Fact::Said(shutdown_without_data(), None);
    assert_eq!(asked(&[unsaid()], None), [SIGNALS, OWN_LOG]);
}

#[test]
fn a_status_that_comes_with_the_reaping_is_asked_for_again_then() {
    let status = |status| Answers { status, ..Answers::default() };
    let mut inquiry = Inquiry::default();
    let case = Case::default();
    assert!(inquiry.ask(&case, Some(NOW), NOW).is_some_and(|it| it.status));
    inquiry.close(&status(StatusAnswer::NotYet));
    assert!(inquiry.status_will_come());
    inquiry.ask_status_again();
    assert!(inquiry.ask(&case, Some(NOW), NOW).is_some_and(|it| it.status));
    inquiry.close(&status(StatusAnswer::Known(EXIT_0)));
    assert!(!inquiry.status_will_come());
}
