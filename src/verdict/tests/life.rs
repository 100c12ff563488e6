//! One life from its beginning to its end, and from one life to the next.

use super::*;

fn world() -> World {
    World::with_running_instance(Settings::default())
}

/// The process ends and everything is told of it.
fn dies(world: &mut World, status: WaitStatus) {
    world.said(Said::Closed);
    world.happens(Event::Exit { pid: PID, status });
    world.said(Said::Died);
}

#[test]
fn a_power_off_is_marked_before_the_process_is_gone() {
    let mut world = world();
    world.said(heard(shutdown(Reason::GuestShutdown)));
    assert!(world.file);
    assert!(world.deaths.is_empty());
}

#[test]
fn what_ganeti_removed_in_between_stays_removed() {
    let mut world = world();
    world.said(heard(shutdown(Reason::GuestShutdown)));
    world.file = false;
    dies(&mut world, EXIT_0);
    world.passes(Duration::from_secs(100));
    assert!(!world.file);
}

#[test]
fn a_shutdown_without_data_is_decided_when_the_connection_ends() {
    let mut world = world();
    world.said(heard(shutdown_without_data()));
    assert_eq!(world.file_actions, [false], "only what the running guest's file was worth");
    world.said(Said::Closed);
    assert!(world.file, "the process may live on, as it does in Ganeti's own test");
}

#[test]
fn a_guest_that_comes_back_takes_the_verdict_back() {
    for back in [Qmp::Resume, Qmp::Reset] {
        let mut world = world();
        world.said(heard(shutdown(Reason::GuestShutdown)));
        world.said(heard(Qmp::Stop));
        world.said(heard(back));
        assert!(!world.file);
        dies(&mut world, WaitStatus(9));
        assert_eq!(world.only_death().verdict.cause, Cause::Killed);
    }
}

#[test]
fn a_guest_that_comes_and_goes_cannot_keep_the_daemon_busy() {
    let mut world = world();
    for _ in 0..1000 {
        world.said(heard(shutdown(Reason::GuestShutdown)));
        world.said(heard(Qmp::Resume));
    }
    assert!(world.file_actions.len() < 50);
    world.said(heard(shutdown(Reason::GuestShutdown)));
    dies(&mut world, EXIT_0);
    assert!(world.file, "the verdict comes late, but it comes");
}

#[test]
fn answers_that_nobody_asked_for_cause_nothing() {
    let mut world = world();
    let before = world.file_actions.len();
    for _ in 0..1000 {
        world.says(Message::Return(Answer::Done));
        world.says(Message::Return(Answer::Status { running: true }));
    }
    assert_eq!(world.file_actions.len(), before);
}

#[test]
fn a_file_found_beside_a_running_instance_is_stale() {
    let mut world = World::new(Settings::default());
    world.file = true;
    world.binds(Inode(1));
    assert!(world.file, "it may be going down");
    world.answers();
    assert!(!world.file);
}

#[test]
fn a_file_found_while_the_instance_goes_down_is_kept() {
    let mut world = World::new(Settings::default());
    world.file = true;
    world.binds(Inode(1));
    dies(&mut world, EXIT_0);
    assert!(world.file, "whoever wrote it had heard why");
    assert_eq!(world.only_death().missing, [Missing::Conversation]);
}

#[test]
fn a_file_found_beside_an_instance_that_crashes_is_removed() {
    let mut world = World::new(Settings::default());
    world.file = true;
    world.binds(Inode(1));
    dies(&mut world, WaitStatus(11));
    assert!(!world.file);
}

#[test]
fn the_moment_between_bind_and_listen_is_outwaited() {
    let mut world = World::new(Settings::default());
    world.connect_errors = vec![ConnectError::Refused; 5];
    world.binds(Inode(1));
    assert!(world.connected.is_none());
    world.passes(Duration::from_millis(40));
    assert!(world.connected.is_some());
}

#[test]
fn a_stale_socket_costs_one_attempt_at_each_rescan() {
    let mut world = World::new(Settings::default());
    world.connect_errors = vec![ConnectError::Refused; 1000];
    world.binds(Inode(1));
    world.passes(Duration::from_secs(120));
    assert_eq!(world.log, ["start \"web1\"", "stop \"web1\""]);
    let before = world.connects;
    world.passes(Duration::from_secs(300));
    assert_eq!(world.connects - before, 10);
    assert_eq!(world.log.len(), 2, "and no line in the log");
}

#[test]
fn what_a_crash_leaves_behind_is_stale_from_the_start() {
    let mut world = world();
    world.connect_errors = vec![ConnectError::Refused; 1000];
    dies(&mut world, WaitStatus(9));
    let before = world.connects;
    world.passes(Duration::from_secs(29));
    assert_eq!(world.connects, before);
}

#[test]
fn a_full_backlog_is_tried_again_for_as_long_as_it_takes() {
    let mut world = World::new(Settings::default());
    world.connect_errors = vec![ConnectError::Busy; 100];
    world.binds(Inode(1));
    world.passes(Duration::from_secs(600));
    assert!(world.connected.is_some());
}

#[test]
fn a_lost_connection_is_made_again_while_the_process_lives() {
    let mut world = world();
    world.said(Said::Closed);
    world.passes(Duration::from_secs(1));
    world.answers();
    // A request may have been made in between; by then it would have shown its effect.
    world.passes(Settings::default().doubt_window);
    world.said(heard(shutdown(Reason::GuestShutdown)));
    assert!(world.file);
    dies(&mut world, EXIT_0);
    assert_eq!(world.log, ["start \"web1\"", "stop \"web1\""]);
    assert_eq!(world.only_death().verdict.initiator, Initiator::User);
}

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
    assert!(pieces.len() < 50);
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
fn a_verdict_never_touches_the_file_of_the_next_life() {
    let mut world = world();
    world.said(Said::Closed);
    world.said(Said::Died);
    // The old life still waits for its status when the next one's user powers off.
    world.binds(Inode(2));
    world.answers();
    world.said(heard(shutdown(Reason::GuestShutdown)));
    assert!(world.file);
    world.happens(Event::Exit { pid: PID, status: WaitStatus(9) });
    world.passes(Duration::from_secs(3));
    assert!(world.file);
    assert_eq!(world.deaths[0].verdict.cause, Cause::Killed);
}

#[test]
fn a_file_that_cannot_be_written_is_tried_again() {
    let mut world = world();
    world.file_errors = 3;
    world.said(heard(shutdown(Reason::GuestShutdown)));
    assert!(!world.file);
    dies(&mut world, EXIT_0);
    world.passes(Duration::from_secs(10));
    assert!(world.file);
}

#[test]
fn a_file_that_cannot_be_written_is_given_up_in_the_end() {
    let mut world = world();
    world.file_errors = u32::MAX;
    world.said(heard(shutdown(Reason::GuestShutdown)));
    dies(&mut world, EXIT_0);
    world.passes(Duration::from_secs(600));
    world.file_errors = 0;
    world.passes(Duration::from_secs(600));
    assert!(!world.file, "Ganeti has long drawn its conclusion");
}

#[test]
fn a_file_that_cannot_be_written_is_not_written_for_the_next_life() {
    let mut world = world();
    world.file_errors = 1;
    world.said(heard(shutdown(Reason::GuestShutdown)));
    dies(&mut world, EXIT_0);
    world.binds(Inode(2));
    world.passes(Duration::from_secs(60));
    assert!(!world.file);
}

#[test]
fn silence_is_warned_of_once() {
    let mut world = World::new(Settings::default());
    world.binds(Inode(1));
    world.passes(Duration::from_secs(3600));
    assert_eq!(world.log, ["start \"web1\"", "silent \"web1\""]);
}

#[test]
fn a_socket_that_vanishes_before_anybody_answered_leaves_nothing() {
    let mut world = World::new(Settings::default());
    world.connect_errors = vec![ConnectError::Refused];
    world.binds(Inode(1));
    world.socket = None;
    world.passes(Duration::from_secs(60));
    assert!(world.deaths.is_empty());
    assert_eq!(world.log, ["start \"web1\"", "stop \"web1\""]);
    assert!(world.node.holds_nothing());
}

#[test]
fn what_is_no_socket_is_looked_at_once() {
    let mut world = World::new(Settings::default());
    world.connect_errors = vec![ConnectError::Unfit];
    world.binds(Inode(1));
    world.passes(Duration::from_secs(3600));
    assert_eq!(world.connects, 1);
}

#[test]
fn after_an_end_nothing_is_left_but_the_socket_that_may_be_stale() {
    let mut world = world();
    world.socket = None;
    dies(&mut world, EXIT_0);
    world.passes(Duration::from_secs(31));
    assert!(world.node.holds_nothing());
}

#[test]
fn a_missed_creation_is_found_by_the_rescan() {
    let mut world = World::new(Settings::default());
    world.passes(Duration::from_secs(1));
    world.socket = Some(Inode(1));
    world.passes(Duration::from_secs(31));
    assert!(world.connected.is_some());
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

/// Kills the daemon and starts another one; `is_held` if a service manager keeps the connection.
fn restarted(world: &mut World, is_held: bool) {
    let mut memory = Memory::default();
    for entry in world.journal.clone().entries() {
        let text = serde_json::to_vec(&entry).unwrap();
        memory.read(serde_json::from_slice(&text).unwrap());
    }
    world.resumes(memory, is_held);
    world.happens(Event::Exits { are_told: true });
    world.passes(Duration::ZERO);
}

#[test]
fn a_request_is_remembered_beyond_a_restart() {
    for is_held in [true, false] {
        let mut world = world();
        world.said(heard(Qmp::Powerdown));
        restarted(&mut world, is_held);
        world.answers();
        world.said(heard(shutdown(Reason::GuestShutdown)));
        dies(&mut world, EXIT_0);
        assert_eq!(world.only_death().verdict.cause, Cause::Powerdown, "{is_held}");
    }
}

#[test]
fn a_connection_that_is_kept_leaves_no_doubt() {
    for (is_held, initiator) in [(true, Initiator::User), (false, Initiator::Unknown)] {
        let mut world = world();
        restarted(&mut world, is_held);
        world.answers();
        world.said(heard(shutdown(Reason::GuestShutdown)));
        dies(&mut world, EXIT_0);
        let death = world.only_death();
        assert_eq!(death.verdict.initiator, initiator, "{death}");
        assert_eq!(death.missing.contains(&Missing::Past), !is_held, "{death}");
        assert_eq!(world.file, is_held);
    }
}

#[test]
fn who_is_connected_to_late_may_have_been_asked_before() {
    let mut world = World::new(Settings::default());
    world.peer = Peer { age: Some(Duration::from_secs(3600)), ..PEER };
    world.binds(Inode(1));
    world.answers();
    world.said(heard(shutdown(Reason::GuestShutdown)));
    dies(&mut world, EXIT_0);
    assert_eq!(world.only_death().verdict.initiator, Initiator::Unknown);
    assert!(!world.file);
}

#[test]
fn what_was_decided_stays_decided_beyond_a_restart() {
    let mut world = world();
    world.said(heard(shutdown(Reason::GuestShutdown)));
    assert!(world.file);
    // Ganeti stops it by force and removes the file.
    world.file = false;
    restarted(&mut world, true);
    world.said(Said::Closed);
    dies(&mut world, EXIT_0);
    assert_eq!(world.only_death().verdict.cause, Cause::GuestShutdown);
    assert!(!world.file);
}

#[test]
fn who_died_in_between_is_told_at_once_and_not_guessed() {
    let mut world = world();
    world.file = true;
    world.process_lives = false;
    world.socket = None;
    restarted(&mut world, false);
    let death = world.only_death();
    assert_eq!(death.verdict.cause, Cause::Unknown);
    assert!(death.missing.contains(&Missing::Past));
    // Whoever wrote it knew more.
    assert!(world.file);
    assert!(world.node.holds_nothing());
}

#[test]
fn nobody_can_keep_the_daemon_busy_with_remembering() {
    let mut world = world();
    for _ in 0..5000 {
        world.said(heard(Qmp::Powerdown));
        world.said(heard(Qmp::Reset));
    }
    assert!(world.writings < 1100, "{}", world.writings);
}

/// How often the node asks for a connection, if nothing that it asks for is answered meanwhile.
fn connects_before_an_answer(events: [Event; 2]) -> usize {
    let now = Moment(Duration::from_secs(1));
    let mut node = Node::new(Settings::default(), now);
    let mut actions = Vec::new();
    for event in events {
        node.handle(now, event, &mut actions);
    }
    actions.iter().filter(|action| matches!(action, Action::Connect { .. })).count()
}

#[test]
fn a_socket_that_is_seen_again_at_once_is_connected_to_once() {
    let name = || Name::new(b"web1");
    let created = || Event::Created { name: name(), inode: Inode(1) };
    let listed = || Event::Listed { name: name(), inode: Inode(1) };
    assert_eq!(connects_before_an_answer([created(), created()]), 1);
    assert_eq!(connects_before_an_answer([listed(), created()]), 1);
    assert_eq!(connects_before_an_answer([created(), listed()]), 1);
    assert_eq!(connects_before_an_answer([created(), Event::Rescan]), 1);
}

#[test]
fn an_instance_whose_name_is_taken_while_it_is_connected_to_is_judged() {
    let mut world = World::new(Settings::default());
    let created = |inode| Event::Created { name: World::name(), inode: Inode(inode) };
    let mut actions = Vec::new();
    world.node.handle(world.now, created(1), &mut actions);
    world.node.handle(world.now, created(2), &mut actions);
    let released = actions.iter().any(|action| matches!(action, Action::Release { .. }));
    assert!(!released, "what comes of the attempt is not known");
}

#[test]
fn a_life_that_is_recorded_is_not_connected_to_again() {
    let mut world = World::new(Settings::default());
    world.peer = Peer { process: None, has_pidfd: false, age: None };
    world.binds(Inode(1));
    world.answers();
    world.file_errors = 3;
    world.said(heard(shutdown(Reason::GuestShutdown)));
    let before = world.connects;
    world.said(Said::Closed);
    assert_eq!(world.deaths.len(), 1);
    world.passes(Duration::from_millis(900));
    assert_eq!(world.connects, before, "its file is still to be written");
    assert_eq!(world.log, ["start \"web1\"", "stop \"web1\""]);
}

#[test]
fn a_file_that_could_not_be_written_is_still_owed_after_a_restart() {
    let mut world = world();
    world.file_errors = 1;
    world.said(heard(shutdown(Reason::GuestShutdown)));
    assert!(!world.file);
    restarted(&mut world, true);
    world.said(Said::Closed);
    dies(&mut world, EXIT_0);
    world.passes(Duration::from_secs(10));
    assert!(world.file, "its user did it");
}

#[test]
fn what_may_have_been_taken_back_unheard_marks_nothing() {
    for shutdown in [shutdown(Reason::GuestShutdown), shutdown_without_data()] {
        for status in [EXIT_0, WaitStatus(9)] {
            let mut world = world();
            world.file_errors = 1;
            world.said(heard(shutdown.clone()));
            world.happens(Event::Exit { pid: PID, status });
            world.process_lives = false;
            world.socket = None;
            restarted(&mut world, false);
            assert_eq!(world.deaths.len(), 1);
            world.passes(Duration::from_secs(60));
            assert!(!world.file, "{shutdown:?}, {status}");
        }
    }
}

#[test]
fn who_asked_an_old_qemu_to_end_is_remembered_beyond_a_restart() {
    for is_held in [true, false] {
        let mut world = world();
        world.happens(signalled(Signal::TERM));
        restarted(&mut world, is_held);
        world.says(Message::Error(String::new()));
        world.passes(Settings::default().doubt_window);
        world.said(heard(shutdown_without_data()));
        dies(&mut world, EXIT_0);
        assert_eq!(world.only_death().verdict.cause, Cause::HostSignal(Some(Signal::TERM)));
        assert!(!world.file, "{is_held}");
    }
}

/// What a journal may hold that no daemon has written.
fn recalled_from(entries: &[String]) -> serde_json::Result<Node> {
    let mut memory = Memory::default();
    for entry in entries {
        memory.read(serde_json::from_str(entry)?);
    }
    let mut node = Node::new(Settings::default(), Moment(Duration::ZERO));
    node.recall(Moment(Duration::ZERO), memory, |_| false, &mut Vec::new());
    Ok(node)
}

/// A life as the journal has it.
fn remembered(incarnation: u64, name: &str) -> String {
    format!(
        r#"{{"Lives": {{"incarnation": {incarnation}, "name": {name}, "inode": 7,
            "process": {{"pid": 5, "started": 9}}, "voice": "Answered", "decision": null,
            "case": {{"said": {{"shutdown": null, "powerdown": null, "watchdog": null,
                "panicked": false, "stopped": false, "doubtful_until": null}},
                "status": null, "signals": {{"sent": []}}, "dumps_core": false,
                "out_of_memory": false, "qemu": null}}}}}}"#
    )
}

#[test]
fn a_journal_that_nobody_has_written_does_no_harm() {
    // After the last number comes none.
    assert!(recalled_from(&[format!(r#"{{"Last": {}}}"#, u64::MAX)]).is_err());
    assert!(recalled_from(&[format!(r#"{{"Over": {}}}"#, u64::MAX)]).is_err());
    assert!(recalled_from(&[remembered(u64::MAX, "[119]")]).is_err());
    // No directory has such a name.
    for name in ["[]", "[47]", "[46, 46, 47, 119]", "[119, 0]"] {
        assert!(recalled_from(&[remembered(1, name)]).is_err(), "{name}");
    }
    assert_eq!(recalled_from(&[remembered(1, "[119]")]).unwrap().watched(), 1);
}

#[test]
fn of_two_entries_about_one_life_the_later_holds() {
    let one = remembered(1, "[119]");
    let other = one.replace(r#""pid": 5"#, r#""pid": 6"#);
    let node = recalled_from(&[one.clone(), other]).unwrap();
    assert_eq!(node.watched(), 1);
    let node = recalled_from(&[one, r#"{"Over": 1}"#.into()]).unwrap();
    assert!(node.holds_nothing());
}

#[test]
fn by_what_the_file_was_decided_is_remembered_beyond_a_restart() {
    let mut world = world();
    world.said(heard(shutdown_without_data()));
    world.said(Said::Closed);
    assert!(world.file);
    restarted(&mut world, true);
    world.happens(signalled(Signal::TERM));
    dies(&mut world, EXIT_0);
    assert_eq!(world.only_death().verdict.cause, Cause::GuestShutdown);
    assert!(world.file);
}
