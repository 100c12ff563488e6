//! How a life ends: the connection, the process, what the kernel reports, in any order.

use super::*;

#[test]
fn the_end_of_the_connection_is_not_death() {
    let mut world = world();
    world.socket = None;
    world.said(Said::Closed);
    world.passes(Duration::from_secs(3600));
    assert!(world.deaths.is_empty());
    world.happens(Event::Exit { pid: PID, status: WaitStatus(9) });
    world.said(Said::Died);
    assert_eq!(world.only_death().verdict.cause, Cause::Killed);
}

#[test]
fn the_exit_of_the_leader_is_not_death() {
    let mut world = world();
    world.happens(Event::Exit { pid: PID, status: EXIT_0 });
    world.passes(Duration::from_secs(60));
    assert!(world.deaths.is_empty());
    // It had only left its other threads behind: its status says nothing of theirs.
    world.said(Said::Closed);
    world.said(Said::Died);
    world.passes(Duration::from_secs(3));
    assert_eq!(world.only_death().missing, [Missing::ExitStatus]);
}

#[test]
fn a_status_that_lags_behind_is_waited_for() {
    let mut world = world();
    world.said(Said::Closed);
    world.said(Said::Died);
    world.passes(Duration::from_millis(1900));
    assert!(world.deaths.is_empty());
    world.happens(Event::Exit { pid: PID, status: WaitStatus(9) });
    assert_eq!(world.only_death().verdict.cause, Cause::Killed);
}

#[test]
fn without_the_proc_connector_nothing_is_waited_for() {
    let mut world = world();
    world.happens(Event::Exits { are_told: false });
    world.said(Said::Closed);
    world.said(Said::Died);
    assert_eq!(world.only_death().missing, [Missing::ExitStatus]);
}

#[test]
fn without_the_proc_connector_the_status_is_asked_for() {
    let mut world = world();
    world.happens(Event::Exits { are_told: false });
    world.answers.status = StatusAnswer::Known(WaitStatus(11));
    world.said(Said::Closed);
    world.said(Said::Died);
    let death = world.only_death();
    assert_eq!(death.verdict.cause, Cause::Crashed(Signal(11)));
    assert_eq!(death.missing, []);
}

#[test]
fn a_status_that_comes_with_the_reaping_is_waited_for() {
    let mut world = world();
    world.happens(Event::Exits { are_told: false });
    world.answers.status = StatusAnswer::NotYet;
    world.said(Said::Closed);
    world.said(Said::Died);
    assert!(world.deaths.is_empty());
    world.answers.status = StatusAnswer::Known(WaitStatus(0x100));
    world.said(Said::Died);
    assert_eq!(world.only_death().verdict.cause, Cause::Failed(1));
}

#[test]
fn a_process_that_nobody_reaps_is_given_two_seconds() {
    let mut world = world();
    world.happens(Event::Exits { are_told: false });
    world.answers.status = StatusAnswer::NotYet;
    world.said(Said::Closed);
    world.said(Said::Died);
    world.passes(Duration::from_millis(1999));
    assert!(world.deaths.is_empty());
    world.passes(Duration::from_millis(1));
    assert_eq!(world.only_death().missing, [Missing::ExitStatus]);
}

#[test]
fn a_status_that_the_connector_never_told_is_asked_for_in_the_end() {
    let mut world = world();
    world.answers.status = StatusAnswer::Known(WaitStatus(9));
    world.said(Said::Closed);
    world.said(Said::Died);
    assert!(world.deaths.is_empty());
    world.passes(Duration::from_secs(2));
    assert_eq!(world.only_death().verdict.cause, Cause::Killed);
}

#[test]
fn the_evidence_is_kept_in_order_and_bounded() {
    let mut world = world();
    for _ in 0..1000 {
        world.said(heard(Qmp::Stop));
    }
    world.said(heard(shutdown(Reason::GuestShutdown)));
    world.said(Said::Closed);
    world.happens(Event::Exit { pid: PID, status: EXIT_0 });
    world.said(Said::Died);
    let timeline = world.only_death().case.timeline();
    let pieces = timeline.pieces();
    assert_eq!(pieces[0].fact, Fact::Connected);
    assert_eq!(pieces.last().unwrap().fact, Fact::Died);
    assert!(pieces.iter().any(|piece| piece.fact == Fact::FileCreated));
    assert_eq!(pieces.len() as u64 + timeline.omitted, 1000 + 7);
    assert_eq!(pieces.len(), 8 + 40, "how it began, and how it ended");
}

#[test]
fn of_a_flood_of_signals_the_first_are_kept() {
    let mut signals = evidence::Signals::default();
    let kept = (0..100).take_while(|_| signals.add(sent(Signal::KILL))).count();
    assert_eq!(kept, 16);
}

/// Another QEMU has the name by now, and nobody has seen this one end.
#[test]
fn a_guest_that_went_down_is_recorded_when_its_name_is_taken() {
    let mut world = world();
    world.said(heard(shutdown(Reason::GuestShutdown)));
    world.said(Said::Closed);
    assert!(world.deaths.is_empty());
    world.binds(Inode(2));
    let death = world.only_death();
    assert_eq!(death.verdict.cause, Cause::GuestShutdown);
    assert_eq!(death.missing, [Missing::EndOfProcess]);
}

#[test]
fn a_connection_that_outlives_its_process_is_given_two_seconds() {
    let mut world = world();
    world.happens(Event::Exit { pid: PID, status: WaitStatus(9) });
    world.said(Said::Died);
    assert!(world.deaths.is_empty());
    world.passes(Duration::from_secs(2));
    assert_eq!(world.only_death().missing, [Missing::EndOfConversation, Missing::Sender]);
}

#[test]
fn without_a_pidfd_the_exit_of_the_leader_leads_to_a_look_at_the_process() {
    let mut world = World::new(Settings::default());
    world.peer.has_pidfd = false;
    world.binds(Inode(1));
    world.answers();
    world.said(Said::Closed);
    world.happens(Event::Exit { pid: PID, status: WaitStatus(9) });
    world.passes(Duration::from_millis(5));
    assert!(world.deaths.is_empty(), "it is still to be seen");
    world.process_lives = false;
    world.passes(Duration::from_millis(100));
    assert_eq!(world.only_death().verdict.cause, Cause::Killed);
}

#[test]
fn without_pidfd_and_proc_connector_the_end_of_the_connection_leads_to_a_look() {
    let mut world = World::new(Settings::default());
    world.happens(Event::Exits { are_told: false });
    world.peer.has_pidfd = false;
    world.binds(Inode(1));
    world.answers();
    world.process_lives = false;
    world.said(Said::Closed);
    assert_eq!(world.only_death().missing, [Missing::ExitStatus]);
}

#[test]
fn without_a_pidfd_a_process_that_lives_on_is_looked_at_ever_less_often() {
    let mut world = World::new(Settings::default());
    world.peer.has_pidfd = false;
    world.binds(Inode(1));
    world.answers();
    world.socket = None;
    world.said(Said::Closed);
    world.passes(Duration::from_secs(3600));
    assert!(world.probes < 150, "{} in an hour", world.probes);
    world.process_lives = false;
    world.passes(Duration::from_secs(33));
    assert_eq!(world.deaths.len(), 1);
}

#[test]
fn a_peer_that_nobody_knows_ends_with_its_connection() {
    let mut world = World::new(Settings::default());
    world.peer = Peer { process: None, has_pidfd: false, age: None };
    world.binds(Inode(1));
    world.answers();
    world.said(heard(shutdown_without_data()));
    world.socket = None;
    world.said(Said::Closed);
    assert!(world.file);
    assert_eq!(world.only_death().missing, [Missing::Process]);
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
fn without_a_pidfd_the_exit_of_the_leader_alone_has_the_process_looked_at_soon() {
    let mut world = World::new(Settings::default());
    world.peer.has_pidfd = false;
    world.binds(Inode(1));
    world.answers();
    world.passes(Duration::from_secs(31));
    let before = world.probes;
    world.passes(Duration::from_secs(25));
    assert!(world.probes - before <= 1, "nothing ends: it is looked at with everything else");
    // The connection is still there: somebody else holds it.
    world.happens(Event::Exit { pid: PID, status: WaitStatus(9) });
    world.passes(Duration::from_millis(5));
    world.process_lives = false;
    world.passes(Duration::from_secs(3));
    assert_eq!(world.only_death().missing, [Missing::EndOfConversation, Missing::Sender]);
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
fn what_is_heard_after_the_verdict_changes_nothing() {
    let mut world = world();
    world.looks_hang = true;
    world.happens(signalled(Signal::KILL));
    dies(&mut world, WaitStatus(9));
    assert!(world.deaths.is_empty(), "the sender is being looked at");
    world.said(heard(Qmp::GuestPanicked));
    world.passes(Duration::from_secs(5));
    let death = world.only_death();
    assert_eq!(death.verdict.cause, Cause::Killed);
    assert!(!format!("{death:?}").contains("GuestPanicked"), "{death:?}");
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

/// Scripts search for the sources' names, people read the facts.
#[test]
fn the_evidence_is_told_in_words() {
    let sources = [
        (Source::Qmp, "qmp"),
        (Source::Pidfd, "pidfd"),
        (Source::Process, "proc"),
        (Source::ProcConnector, "proc-connector"),
        (Source::Trace, "trace"),
        (Source::OwnLog, "qemu-log"),
        (Source::ControlGroup, "cgroup"),
        (Source::Daemon, "daemon"),
    ];
    for (source, word) in sources {
        assert_eq!(source.to_string(), word);
    }
    let facts = [
        (Fact::Connected, "connected"),
        (Fact::Answered { running: true }, "answered: running"),
        (Fact::Answered { running: false }, "answered: not running"),
        (Fact::Exited(WaitStatus(9)), "SIGKILL"),
        (Fact::Signalled(Signal::TERM, sent(Signal::TERM).sender), "SIGTERM from bash[5790]"),
        (Fact::Said(Qmp::Powerdown, None), "POWERDOWN"),
    ];
    for (fact, words) in facts {
        assert_eq!(fact.to_string(), words);
    }
}
