//! What is asked before a verdict, and in which order: what costs most comes last, and where the
//! answer is known nobody is asked. And what comes of answers that are late or never come.

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
    // The counter would tell of another process in the same control group.
    assert_eq!(asked(&[KILLED, by(Signal::KILL)], Some(NOW)), [SIGNALS]);
    let by_the_kernel = Fact::Signalled(Signal::KILL, Arc::new(Sender::kernel()));
    assert_eq!(asked(&[KILLED, by_the_kernel], Some(NOW)), [SIGNALS, OUT_OF_MEMORY]);
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

/// A QEMU that was killed by a task of which only the number is known as yet.
fn killed_by_somebody(world: &mut World) -> Moment {
    let at = world.now;
    let sender = Arc::new(Sender::unseen(7));
    let sent = Sent { at, signal: Signal::KILL, sender };
    world.happens(Event::Signalled { pid: PID, sent });
    at
}

fn bash() -> Arc<Sender> {
    Arc::new(Sender { pid: Some(7), name: Some("bash".into()), uid: Some(0), ..Sender::default() })
}

#[test]
fn a_sender_is_looked_at_at_once_and_completes_what_was_said_of_it() {
    let mut world = world();
    world.looks_hang = true;
    let at = killed_by_somebody(&mut world);
    assert_eq!(world.looks, [(at, 7)]);
    let writings = world.writings;
    world.said(Said::LookedInto { at, task: 7, sender: Some(bash()) });
    assert_eq!(world.writings, writings + 1, "the next daemon knows it, too");
    dies(&mut world, WaitStatus(9));
    let death = world.only_death();
    assert_eq!(death.sent().map(|sent| &sent.sender), Some(&bash()));
    assert_eq!(death.missing, []);
    let told: Vec<String> =
        death.case.timeline().pieces().iter().map(|piece| piece.fact.to_string()).collect();
    assert_eq!(told.iter().filter(|what| what.contains("SIGKILL from")).count(), 1, "{told:?}");
    assert!(told.contains(&"SIGKILL from bash[7] (uid 0)".into()), "{told:?}");
}

#[test]
fn the_record_waits_for_a_look_at_the_sender_and_the_file_does_not() {
    for is_in_time in [true, false] {
        let mut world = world();
        world.looks_hang = true;
        world.file = true;
        let at = killed_by_somebody(&mut world);
        dies(&mut world, WaitStatus(9));
        assert_eq!((world.file, world.deaths.len()), (false, 0), "the verdict is final");
        assert!(world.watched.is_empty(), "the kernel has nothing to add");
        let connects = world.connects;
        world.binds(Inode(1));
        assert_eq!(world.connects, connects, "nor has its socket");
        world.passes(Duration::from_millis(299));
        assert!(world.deaths.is_empty());
        if is_in_time {
            world.said(Said::LookedInto { at, task: 7, sender: Some(bash()) });
            assert_eq!(world.only_death().missing, []);
        } else {
            world.passes(Duration::from_millis(1));
            let death = world.only_death();
            assert_eq!(death.missing, [Missing::MoreOfSender]);
            let line = death.to_string();
            let end = "from a process [7]; not known: more of who sent the signal than its pid";
            assert!(line.ends_with(end), "{line}");
        }
        world.said(Said::LookedInto { at, task: 7, sender: Some(bash()) });
        assert_eq!(world.deaths.len(), 1, "it ends once");
    }
}

/// Several kill it at once, and one of them once more.
#[test]
fn what_is_found_of_one_sender_is_said_of_no_other() {
    let mut case = Case::default();
    let later = NOW + Duration::from_secs(1);
    let settings = Settings::default();
    for (at, task) in [(NOW, 7), (NOW, 8), (later, 7)] {
        let fact = Fact::Signalled(Signal::KILL, Arc::new(Sender::unseen(task)));
        case.learn(at, Source::Trace, fact, &settings);
    }
    case.learn(NOW, Source::Process, Fact::SenderSeen(7, bash()), &settings);
    let unseen: Vec<_> =
        case.signals().unseen().map(|sent| (sent.at, sent.sender.pid.unwrap())).collect();
    assert_eq!(unseen, [(NOW, 8), (later, 7)]);
    let told: Vec<String> =
        case.timeline().pieces().iter().map(|piece| piece.fact.to_string()).collect();
    let [bash, other, again] = ["bash[7] (uid 0)", "a process [8]", "a process [7]"]
        .map(|who| format!("SIGKILL from {who}"));
    assert_eq!(told, [bash, other, again]);
}

/// QEMU says in its log which task sent it SIGTERM, and nothing more of it.
#[test]
fn whom_the_own_log_names_is_looked_at() {
    let mut world = world();
    world.looked_at = Some(bash());
    let fact = Fact::Signalled(Signal::TERM, Arc::new(Sender::unseen(7)));
    world.answers.facts = vec![(Source::OwnLog, fact)];
    world.said(heard(shutdown(Reason::HostSignal)));
    dies(&mut world, EXIT_0);
    assert_eq!(world.looks, [(world.now, 7)]);
    assert_eq!(world.only_death().sent().map(|sent| &sent.sender), Some(&bash()));
}

#[test]
fn a_sender_that_cannot_be_looked_at_is_not_waited_for() {
    let mut world = world();
    killed_by_somebody(&mut world);
    dies(&mut world, WaitStatus(9));
    assert_eq!(world.only_death().missing, [Missing::MoreOfSender]);
    assert_eq!(world.looks.len(), 1, "it is asked for once");
}

#[test]
fn a_daemon_that_comes_later_looks_at_those_whom_nobody_has_looked_at() {
    let mut world = world();
    world.looks_hang = true;
    let at = killed_by_somebody(&mut world);
    dies(&mut world, WaitStatus(9));
    // It ends while it waits: the end is not told, and so not forgotten.
    let memory = world.node.to_memory();
    (world.looks_hang, world.looked_at) = (false, Some(bash()));
    world.process_lives = false;
    world.looks.clear();
    world.connect_errors.push(ConnectError::Refused);
    world.resumes(memory, false);
    assert_eq!(world.looks, [(at, 7)]);
    world.passes(Duration::from_secs(3));
    assert_eq!(world.only_death().sent().map(|sent| &sent.sender), Some(&bash()));
}

#[test]
fn a_source_that_does_not_answer_is_given_up() {
    let mut world = world();
    world.is_mute = true;
    dies(&mut world, WaitStatus(9));
    assert!(world.deaths.is_empty(), "who sent the signal is being asked");
    world.passes(Duration::from_secs(5));
    assert_eq!(world.only_death().verdict.cause, Cause::Killed);
    assert_eq!(world.only_death().missing, [Missing::Sender]);
    assert!(world.watched.is_empty());
}

#[test]
fn an_own_log_that_is_not_read_in_time_is_named_and_not_waited_for() {
    for is_given_up in [true, false] {
        let mut world = world();
        (world.own_log_hangs, world.answers.lacks_own_log) = (!is_given_up, is_given_up);
        world.said(heard(shutdown(Reason::HostSignal)));
        dies(&mut world, EXIT_0);
        if !is_given_up {
            world.passes(Duration::from_millis(1999));
            assert!(world.deaths.is_empty(), "it is being read");
            world.passes(Duration::from_millis(1));
        }
        let death = world.only_death();
        assert_eq!(death.verdict.cause, Cause::HostSignal(None));
        assert_eq!(death.missing, [Missing::Sender, Missing::OwnLog]);
    }
}

#[test]
fn what_was_given_up_comes_too_late() {
    let mut world = world();
    world.own_log_hangs = true;
    world.connect_errors = vec![ConnectError::Refused; 9];
    world.said(heard(shutdown_without_data()));
    world.said(Said::Closed);
    world.passes(Duration::from_secs(2));
    assert!(world.file, "no signal is known of");
    let fact = Fact::Signalled(Signal::TERM, bash());
    world.said(Said::Consulted(Answers {
        facts: vec![(Source::OwnLog, fact)],
        ..Answers::default()
    }));
    world.happens(Event::Exit { pid: PID, status: EXIT_0 });
    world.said(Said::Died);
    let death = world.only_death();
    assert_eq!(death.verdict.cause, Cause::GuestShutdown);
    assert_eq!(death.missing, [Missing::OwnLog]);
}

/// Ganeti's own, say, which ends what is left of an instance.
#[test]
fn a_signal_that_is_sent_while_the_own_log_is_being_read_is_too_late() {
    for (logged, cause) in
        [(None, Cause::GuestShutdown), (Some(Signal::TERM), Cause::HostSignal(Some(Signal::TERM)))]
    {
        for is_restarted in [false, true] {
            let mut world = world();
            world.own_log_hangs = true;
            world.connect_errors = vec![ConnectError::Refused; 9];
            world.said(heard(shutdown_without_data()));
            world.said(Said::Closed);
            assert!(!world.file, "the log may name a signal");
            let fact = logged.map(|signal| (Source::OwnLog, Fact::Signalled(signal, bash())));
            let answers = Answers { facts: fact.into_iter().collect(), ..Answers::default() };
            if is_restarted {
                let memory = world.node.to_memory();
                (world.own_log_hangs, world.answers) = (false, answers);
                world.resumes(memory, true);
                world.said(Said::Closed);
            } else {
                world.happens(signalled(Signal::TERM));
                world.said(Said::Consulted(answers));
            }
            assert_eq!(world.file, logged.is_none(), "{logged:?}, {is_restarted}");
            world.happens(Event::Exit { pid: PID, status: EXIT_0 });
            world.said(Said::Died);
            assert_eq!(world.only_death().verdict.cause, cause, "{is_restarted}");
        }
    }
}

/// The log is read by one daemon, and again by the next: what was to be if it names no signal is
/// remembered.
#[test]
fn what_was_to_be_without_the_own_log_outlives_the_daemon() {
    let mut world = world();
    world.own_log_hangs = true;
    world.connect_errors = vec![ConnectError::Refused; 9];
    world.said(heard(shutdown_without_data()));
    world.said(Said::Closed);
    // Too late to be the reason.
    world.happens(signalled(Signal::TERM));
    let memory = world.journal.clone();
    world.own_log_hangs = false;
    world.resumes(memory, true);
    world.said(Said::Closed);
    assert!(world.file);
    world.happens(Event::Exit { pid: PID, status: EXIT_0 });
    world.said(Said::Died);
    assert_eq!(world.only_death().verdict.cause, Cause::GuestShutdown);
}

#[test]
fn a_daemon_that_comes_later_knows_what_was_decided_without_the_own_log() {
    let mut world = world();
    world.answers.lacks_own_log = true;
    world.connect_errors = vec![ConnectError::Refused; 9];
    world.said(heard(shutdown_without_data()));
    world.said(Said::Closed);
    assert!(world.file, "no signal is known of");
    let memory = world.node.to_memory();
    world.answers.lacks_own_log = false;
    world.resumes(memory, true);
    world.said(Said::Closed);
    world.happens(Event::Exit { pid: PID, status: EXIT_0 });
    world.said(Said::Died);
    assert_eq!(world.only_death().missing, [Missing::OwnLog]);
}

/// What a guest said to an earlier daemon it may have taken back when nobody listened, so its file
/// is left as it is.
#[test]
fn a_command_line_that_is_read_late_decides_about_no_file_that_was_left_alone() {
    let mut world = world();
    world.file_errors = 1;
    world.said(heard(shutdown(Reason::GuestShutdown)));
    world.looks_hang = true;
    let memory = world.node.to_memory();
    world.resumes(memory, false);
    killed_by_somebody(&mut world);
    dies(&mut world, WaitStatus(9));
    assert!(world.deaths.is_empty(), "the sender is being looked at");
    world.said(Said::CommandLine(Some(CommandLine { no_reboot: true })));
    assert!(!world.file);
    world.passes(Duration::from_secs(1));
    assert_eq!(world.only_death().file, None);
}
