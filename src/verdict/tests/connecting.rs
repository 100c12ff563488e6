//! Finding an instance and speaking to it: sockets that come, go, and lead nowhere.

use super::super::link::Link;
use super::*;

#[test]
fn answers_that_nobody_asked_for_cause_nothing() {
    let mut world = world();
    let before = world.file_actions.len();
    for _ in 0..1000 {
        world.says(Message::Return(Answer::Done));
        world.says(Message::Return(Answer::Status { running: true, panicked: false }));
    }
    assert_eq!(world.file_actions.len(), before);
}

#[test]
fn an_instance_that_is_not_running_is_not_by_an_answer_that_nobody_asked_for() {
    let mut world = World::new(Settings::default());
    world.file = true;
    world.binds(Inode(1));
    world.answers_whether_it_runs(false);
    world.says(Message::Return(Answer::Status { running: true, panicked: false }));
    assert!(world.file, "what an earlier life left is there as long as nothing runs");
}

#[test]
fn an_instance_answers_for_the_first_time_once() {
    let mut world = world();
    assert_eq!(world.answered, ["\"web1\" running"]);
    world.said(Said::Closed);
    world.passes(Duration::from_secs(1));
    assert_eq!(world.connects, 2);
    world.answers();
    assert_eq!(world.answered.len(), 1);
}

/// An earlier daemon has negotiated on the connection that this one goes on with: QEMU takes that
/// for an unknown command.
#[test]
fn an_error_is_the_end_of_negotiating_and_of_nothing_else() {
    let mut world = World::new(Settings::default());
    world.binds(Inode(1));
    assert_eq!(world.sent, [Command::Negotiate]);
    world.says(Message::Error("CommandNotFound".into()));
    assert_eq!(world.sent, [Command::Negotiate, Command::QueryStatus]);
    world.says(Message::Error("CommandNotFound".into()));
    assert_eq!(world.sent.len(), 2, "it is not asked for ever");
}

#[test]
fn a_rescan_hurries_nobody_who_waits() {
    let mut world = World::new(Settings::default());
    world.connect_errors = vec![ConnectError::Refused; 100];
    world.binds(Inode(1));
    world.passes(Duration::from_millis(100));
    let before = world.connects;
    world.happens(Event::Rescan);
    assert_eq!(world.connects, before);
}

#[test]
fn what_is_no_socket_begins_nothing_when_it_is_seen_again() {
    let mut world = World::new(Settings::default());
    world.connect_errors = vec![ConnectError::Unfit];
    world.binds(Inode(1));
    world.binds(Inode(1));
    assert_eq!((world.connects, world.log.len()), (1, 2), "{:?}", world.log);
}

/// QEMU dies while it is being connected to.
#[test]
fn nobody_is_left_to_be_tried_for_when_the_process_is_dead() {
    let now = Moment(Duration::from_secs(1));
    for error in [ConnectError::Refused, ConnectError::Busy] {
        let mut link = Link::new(now);
        assert!(link.begin_attempt());
        assert!(link.failed(error, true, now));
        assert_eq!(link.deadline(), None);
        // Once more at the next rescan, and then no more.
        assert!(link.begin_attempt());
        assert!(link.failed(ConnectError::Refused, false, now));
        assert_eq!(link.deadline(), None, "{error:?}");
    }
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
    world.said(heard(shutdown(Reason::GuestShutdown)));
    assert!(world.file);
    dies(&mut world, EXIT_0);
    assert_eq!(world.log, ["start \"web1\"", "stop \"web1\""]);
    assert_eq!(world.only_death().verdict.initiator, Initiator::User);
    assert_eq!(world.only_death().missing, [Missing::Past], "a request was perhaps made between");
}

#[test]
fn silence_is_warned_of_once() {
    let mut world = World::new(Settings::default());
    world.binds(Inode(1));
    world.passes(Duration::from_secs(3600));
    assert_eq!(world.log, ["start \"web1\"", "silent \"web1\""]);
}

/// A greeting comes from a thread that lives on where the rest of QEMU hangs.
#[test]
fn one_that_greets_and_does_not_answer_is_silent() {
    let mut world = World::new(Settings::default());
    world.binds(Inode(1));
    world.says(Message::Greeting(None));
    world.passes(Duration::from_secs(3600));
    assert_eq!(world.log, ["start \"web1\"", "silent \"web1\""]);
}

#[test]
fn one_that_is_silent_again_and_again_is_warned_of_once_a_minute() {
    let mut world = World::new(Settings::default());
    world.binds(Inode(1));
    for _ in 0..20 {
        world.passes(Duration::from_secs(6));
        world.said(Said::Closed);
    }
    let warnings = world.log.iter().filter(|line| line.starts_with("silent")).count();
    assert_eq!(warnings, 2, "in two minutes: {:?}", world.log);
}

#[test]
fn what_was_no_socket_is_forgotten_when_it_is_gone() {
    let mut world = World::new(Settings::default());
    world.connect_errors = vec![ConnectError::Unfit];
    world.binds(Inode(1));
    world.socket = None;
    world.passes(Duration::from_secs(61));
    assert!(world.node.holds_nothing());
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
    let mut world = World::with_unknown_process();
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
fn an_orphan_that_holds_the_socket_of_the_dead_is_no_new_life() {
    let mut world = world();
    world.said(heard(shutdown(Reason::GuestShutdown)));
    dies(&mut world, EXIT_0);
    world.connect_errors = vec![ConnectError::Orphaned; 100];
    world.passes(Duration::from_secs(300));
    assert_eq!(world.deaths.len(), 1);
    assert!(world.file, "its user did it");
    assert_eq!(world.log, ["start \"web1\"", "stop \"web1\""]);
}

#[test]
fn a_stale_socket_that_is_bound_anew_is_tried_at_once() {
    let mut world = World::new(Settings::default());
    world.connect_errors = vec![ConnectError::Refused; 16];
    world.binds(Inode(1));
    world.passes(Duration::from_secs(3600));
    assert!(world.connected.is_some(), "at a rescan");

    let mut world = World::new(Settings::default());
    world.connect_errors = vec![ConnectError::Refused; 16];
    world.binds(Inode(1));
    // All but the last attempt, after which it is only tried at each rescan.
    world.passes(Duration::from_secs(40));
    assert!(world.connected.is_none());
    world.connect_errors.clear();
    world.binds(Inode(1));
    assert!(world.connected.is_some());
}

#[test]
fn the_socket_of_the_dead_is_not_tried_while_their_end_is_settled() {
    let mut world = world();
    world.said(Said::Closed);
    world.said(Said::Died);
    let before = world.connects;
    // Its status is still to come.
    world.binds(Inode(1));
    assert_eq!(world.connects, before);
}

#[test]
fn the_node_counts_its_lives_and_the_processes_that_it_watches() {
    let counts = |world: &World| (world.node.lives(), world.node.watched());
    let mut world = World::new(Settings::default());
    assert_eq!(counts(&world), (0, 0));
    world.binds(Inode(1));
    assert_eq!(counts(&world), (1, 1));
    assert!(world.watched.contains(&PID), "the kernel is to report of it");
    // Another QEMU takes the name, of which nobody can say which process it is.
    world.peer = Peer { process: None, has_pidfd: false, age: None };
    world.binds(Inode(2));
    assert_eq!(counts(&world), (2, 1));
}

/// How long after this failure of a look the next one comes; both that it fails.
fn next_look(world: &mut World) -> Duration {
    // Several things may have been out of sight at once.
    world.happens(Event::LookFailed);
    world.happens(Event::LookFailed);
    let wait = world.node.deadline().since(world.now);
    world.passes(wait);
    wait
}

#[test]
fn a_look_that_fails_is_repeated_soon_and_then_less_often() {
    const RESCAN: Duration = Duration::from_secs(30);
    let mut world = World::new(Settings::default());
    let waits: Vec<u128> = (0..20).map(|_| next_look(&mut world).as_millis()).collect();
    let doubled = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600];
    assert_eq!(waits[..9], doubled);
    assert!(waits[9..].iter().all(|&wait| wait == RESCAN.as_millis()), "{waits:?}");
    // Two that did not fail: it begins anew.
    world.passes(RESCAN);
    world.passes(RESCAN);
    assert_eq!(next_look(&mut world).as_millis(), 100);
}
