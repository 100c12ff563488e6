//! One daemon ends and another goes on: what is remembered, and what nobody heard.

use super::*;

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
    for is_held in [true, false] {
        let mut world = world();
        restarted(&mut world, is_held);
        world.answers();
        world.said(heard(shutdown(Reason::GuestShutdown)));
        dies(&mut world, EXIT_0);
        let death = world.only_death();
        assert_eq!(death.verdict.initiator, Initiator::User, "{death}");
        assert_eq!(death.missing.contains(&Missing::Past), !is_held, "{death}");
        assert!(world.file, "Ganeti removes it, should it have been Ganeti");
    }
}

/// How an administrator may want what nobody heard to be read.
fn strict() -> Settings {
    Settings { doubt_window: Duration::from_secs(120), ..Settings::default() }
}

#[test]
fn a_doubt_window_keeps_it_from_believing_for_a_while() {
    for (waited, is_believed) in [(119, false), (121, true)] {
        let mut world = World::new(strict());
        world.peer = Peer { age: Some(Duration::from_secs(3600)), ..PEER };
        world.binds(Inode(1));
        world.answers();
        world.passes(Duration::from_secs(waited));
        world.said(heard(shutdown(Reason::GuestShutdown)));
        dies(&mut world, EXIT_0);
        let death = world.only_death();
        let initiator = if is_believed { Initiator::User } else { Initiator::Unknown };
        assert_eq!(death.verdict.initiator, initiator, "{death}");
        assert!(death.missing.contains(&Missing::Past), "{death}");
        assert_eq!(world.file, is_believed, "{death}");
    }
}

#[test]
fn what_nobody_heard_matters_for_as_long_as_a_request_would() {
    let window = Settings::default().powerdown_window.unwrap();
    for (waited, matters) in [(window.mul_f64(0.99), true), (window, false)] {
        let mut world = world();
        restarted(&mut world, false);
        world.answers();
        world.passes(waited);
        world.said(heard(shutdown(Reason::GuestShutdown)));
        dies(&mut world, EXIT_0);
        assert_eq!(world.only_death().missing.contains(&Missing::Past), matters, "{waited:?}");
    }
}

#[test]
fn a_guest_that_was_reset_since_was_asked_nothing_before() {
    let mut world = world();
    restarted(&mut world, false);
    world.answers();
    world.said(heard(Qmp::Reset));
    world.said(heard(shutdown(Reason::GuestShutdown)));
    dies(&mut world, EXIT_0);
    assert_eq!(world.only_death().missing, []);
}

#[test]
fn who_waits_behind_another_client_hears_nothing_until_the_first_word() {
    let mut world = World::new(strict());
    // A young QEMU; but the slot is another's for a while.
    world.binds(Inode(1));
    world.passes(Duration::from_secs(60));
    world.answers();
    world.passes(Duration::from_secs(100));
    world.said(heard(shutdown(Reason::GuestShutdown)));
    dies(&mut world, EXIT_0);
    let death = world.only_death();
    assert_eq!(death.verdict.initiator, Initiator::Unknown, "{death}");
    assert!(!world.file, "{death}");
}

#[test]
fn who_is_connected_to_late_may_have_been_asked_before() {
    let mut world = World::new(Settings::default());
    world.peer = Peer { age: Some(Duration::from_secs(3600)), ..PEER };
    world.binds(Inode(1));
    world.answers();
    world.said(heard(shutdown(Reason::GuestShutdown)));
    dies(&mut world, EXIT_0);
    assert_eq!(world.only_death().verdict.initiator, Initiator::User);
    assert_eq!(world.only_death().missing, [Missing::Past]);
}

#[test]
fn who_spoke_since_the_gap_is_judged_as_if_there_had_been_none() {
    let mut world = world();
    restarted(&mut world, false);
    world.answers();
    world.said(heard(shutdown_without_data()));
    world.said(Said::Closed);
    assert!(world.file);
    dies(&mut world, EXIT_0);
    assert_eq!(world.only_death().verdict.cause, Cause::GuestShutdown);
}

/// A QEMU whose guest does not run may have said SHUTDOWN before anybody listened (`-no-shutdown`).
#[test]
fn what_nobody_heard_may_explain_an_end_that_nothing_else_explains() {
    let missing = |running, was_reset, status| {
        let mut world = World::new(Settings::default());
        world.peer = Peer { age: Some(Duration::from_secs(3600)), ..PEER };
        world.binds(Inode(1));
        world.says(Message::Greeting(None));
        world.says(Message::Return(Answer::Done));
        world.says(Message::Return(Answer::Status { running, panicked: false }));
        if was_reset {
            world.said(heard(Qmp::Reset));
        }
        dies(&mut world, status);
        let death = world.only_death();
        death.missing.contains(&Missing::Past)
    };
    let killed = WaitStatus(9);
    assert!(missing(true, false, EXIT_0), "why it exited");
    assert!(!missing(true, true, EXIT_0), "a guest that was reset since was asked nothing before");
    assert!(!missing(true, false, killed), "SIGKILL is explanation enough for a guest that runs");
    assert!(missing(false, false, killed), "whether its user had shut it down by then");
    assert!(!missing(false, true, killed));
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
fn a_file_that_could_not_be_written_is_still_owed_after_a_restart() {
    let mut world = world();
    world.file_errors = 1;
    world.said(heard(shutdown(Reason::GuestShutdown)));
    assert!(!world.file);
    restarted(&mut world, true);
    assert!(world.file, "at once: it was owed all along");
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

/// Its QEMU has not had time to listen to the next daemon when that hears from the kernel that it
/// will be told of exits.
#[test]
fn a_life_that_is_still_being_looked_for_has_not_ended() {
    let mut world = World::with_unknown_process();
    world.connect_errors = vec![ConnectError::Refused; 3];
    let memory = world.journal.clone();
    world.resumes(memory, false);
    world.happens(Event::Exits { are_told: true });
    world.passes(Duration::from_secs(1));
    assert!(world.deaths.is_empty(), "{:?}", world.deaths);
    world.answers();
    world.said(heard(shutdown(Reason::GuestShutdown)));
    world.said(Said::Closed);
    assert_eq!(world.only_death().verdict.initiator, Initiator::User);
}

/// QEMU was killed while no daemon ran, and its socket is still there, or something else.
#[test]
fn a_life_at_whose_socket_nobody_listens_any_more_has_ended() {
    for errors in [vec![ConnectError::Refused; 100], vec![ConnectError::Unfit]] {
        let mut world = World::with_unknown_process();
        world.connect_errors = errors;
        let memory = world.journal.clone();
        world.resumes(memory, false);
        world.passes(Duration::from_secs(60));
        let death = world.only_death();
        assert_eq!(death.verdict.initiator, Initiator::Unknown, "{death}");
        assert!(death.missing.contains(&Missing::Conversation), "{death}");
    }
}

/// Another client held the connection, so that QEMU said nothing to the next daemon.
#[test]
fn a_life_that_was_found_again_ends_with_its_connection() {
    let mut world = World::with_unknown_process();
    let memory = world.journal.clone();
    world.resumes(memory, false);
    world.socket = None;
    world.said(Said::Closed);
    assert_eq!(world.only_death().verdict.initiator, Initiator::Unknown);
}

#[test]
fn who_had_answered_the_daemon_before_is_no_stranger_to_the_next() {
    let mut world = world();
    restarted(&mut world, true);
    dies(&mut world, EXIT_0);
    let death = world.only_death();
    assert_eq!(death.missing, [], "it was heard all along");
    assert_eq!(death.file, Some(false));
}

/// Only of an instance that ended before this daemon came, and that had nothing more to say to it,
/// will nothing more be heard.
#[test]
fn who_dies_under_a_daemon_that_has_come_late_is_waited_for() {
    // It is connected to again.
    let mut world = world();
    restarted(&mut world, false);
    world.answers();
    world.connect_errors = vec![ConnectError::Refused; 9];
    world.said(Said::Closed);
    world.said(Said::Died);
    assert!(world.deaths.is_empty(), "the kernel is about to say how it ended");
    world.happens(Event::Exit { pid: PID, status: WaitStatus(9) });
    assert_eq!(world.only_death().verdict.cause, Cause::Killed);

    // Its connection was kept, with the rest of what it has said.
    let mut world = super::world();
    restarted(&mut world, true);
    world.said(Said::Died);
    world.said(heard(shutdown(Reason::GuestShutdown)));
    world.said(Said::Closed);
    world.happens(Event::Exit { pid: PID, status: EXIT_0 });
    assert_eq!(world.only_death().verdict.initiator, Initiator::User);

    // It dies while it is being connected to again.
    let mut world = super::world();
    restarted(&mut world, false);
    world.said(Said::Died);
    assert!(world.deaths.is_empty(), "there is a connection, which may have more to say");
    world.said(Said::Closed);
    world.happens(Event::Exit { pid: PID, status: WaitStatus(9) });
    assert_eq!(world.only_death().verdict.cause, Cause::Killed);
}
