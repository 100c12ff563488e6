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
    let mut world = World::with_unknown_process();
    world.said(heard(shutdown_without_data()));
    world.socket = None;
    world.said(Said::Closed);
    assert!(world.file);
    assert_eq!(world.only_death().missing, [Missing::Process]);
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
