//! The file: when it is there, for which life, and what becomes of one that cannot be written.

use super::*;
use crate::verdict::file::{Decision, File};

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
    assert_eq!(world.file_actions.iter().filter(|&&is_there| is_there).count(), 16);
    world.said(heard(shutdown(Reason::GuestShutdown)));
    dies(&mut world, EXIT_0);
    assert!(world.file, "the verdict comes late, but it comes");
    let pieces = world.only_death().case.timeline().pieces();
    assert_eq!(pieces.last().unwrap().fact, Fact::FileCreated, "the record waits for that");
}

#[test]
fn the_record_of_a_crash_tells_that_a_stale_file_could_not_be_removed() {
    let mut world = world();
    (world.file, world.file_errors) = (true, 1);
    dies(&mut world, WaitStatus(11));
    let pieces = world.only_death().case.timeline().pieces();
    assert_eq!(pieces.last().unwrap().fact, Fact::FileFailed);
    world.passes(Duration::from_secs(1));
    assert!(!world.file);
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

/// QEMU's monitor has a thread of its own, which greets for as long as the disks are flushed; the
/// main loop, which answers, has ended by then.
#[test]
fn a_file_found_beside_one_that_only_greets_and_ends_is_kept() {
    let mut world = World::new(Settings::default());
    world.file = true;
    world.binds(Inode(1));
    world.says(Message::Greeting(None));
    dies(&mut world, EXIT_0);
    assert!(world.file, "whoever wrote it had heard why");
    assert_eq!(world.only_death().missing, [Missing::Conversation]);
}

/// The daemon changes once more meanwhile, with the connection or without it.
#[test]
fn a_file_beside_one_that_only_greets_outlives_another_restart() {
    for is_held in [true, false] {
        let mut world = World::new(Settings::default());
        world.file = true;
        world.binds(Inode(1));
        world.says(Message::Greeting(None));
        restarted(&mut world, is_held);
        if !is_held {
            world.says(Message::Greeting(None));
        }
        dies(&mut world, EXIT_0);
        assert!(world.file, "held: {is_held}");
    }
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
    let tries = u32::MAX - world.file_errors;
    assert_eq!(tries, 15, "ever less often, up to twice a minute");
    world.file_errors = 0;
    world.passes(Duration::from_secs(600));
    assert!(!world.file, "Ganeti has long drawn its conclusion");
}

#[test]
fn what_fails_for_five_minutes_is_not_tried_again() {
    let begun = Moment(Duration::from_secs(1_000_000));
    let is_tried_again_after = |seconds| {
        let mut file = File::default();
        assert!(file.decide(Decision::Present));
        for at in [begun, begun + Duration::from_secs(seconds)] {
            assert_eq!(file.attempt(), Some(Decision::Present));
            assert!(file.answered(at, FileOutcome::Failed));
        }
        file.deadline().is_some()
    };
    assert!(is_tried_again_after(299));
    assert!(!is_tried_again_after(300));
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
fn a_file_found_beside_an_instance_that_is_started_is_stale_once_it_runs() {
    let mut world = World::new(Settings::default());
    world.file = true;
    world.binds(Inode(1));
    // Ganeti starts QEMU with its CPUs held.
    world.answers_whether_it_runs(false);
    assert!(world.file, "it may be going down");
    world.said(heard(Qmp::Resume));
    assert!(!world.file);
    world.file = true;
    world.said(heard(Qmp::Stop));
    world.said(heard(Qmp::Resume));
    assert!(world.file, "looked at once: nobody can keep the daemon busy with it");
}

/// Ganeti removes the file of an instance that it has stopped by force once, as soon as that is
/// dead: what comes later stays.
#[test]
fn a_signal_read_as_the_users_marks_in_time_or_not_at_all() {
    let decision = |cause| {
        let verdict = Verdict { cause, initiator: Initiator::User };
        verdict.file(&Case::default(), &Settings::default())
    };
    assert_eq!(decision(Cause::HostSignal(None)), Decision::PresentInTime);
    assert_eq!(decision(Cause::GuestShutdown), Decision::Present);
}

#[test]
fn a_guest_that_powers_off_while_the_daemon_connects_is_marked() {
    let mut world = World::new(Settings::default());
    world.binds(Inode(1));
    world.says(Message::Greeting(None));
    world.says(Message::Return(Answer::Done));
    world.said(heard(shutdown(Reason::GuestShutdown)));
    world.says(Message::Return(Answer::Status { running: true, panicked: false }));
    assert!(world.file);
    dies(&mut world, EXIT_0);
    assert_eq!(world.only_death().verdict.cause, Cause::GuestShutdown);
    assert!(world.file);
    assert_eq!(world.file_actions, [true]);
}

#[test]
fn a_guest_on_its_way_out_that_answers_running_has_no_file_removed() {
    let mut world = World::new(Settings::default());
    world.file = true;
    world.binds(Inode(1));
    world.says(Message::Greeting(None));
    world.says(Message::Return(Answer::Done));
    world.said(heard(shutdown_without_data()));
    world.says(Message::Return(Answer::Status { running: true, panicked: false }));
    assert!(world.file, "whoever wrote it may have heard why");
}

#[test]
fn a_stale_file_goes_when_the_guest_runs_and_not_before() {
    let mut world = World::new(Settings::default());
    world.file = true;
    world.binds(Inode(1));
    world.answers_whether_it_runs(false);
    world.said(heard(Qmp::Stop));
    world.said(heard(Qmp::Reset));
    assert!(world.file);
    world.said(heard(Qmp::Resume));
    assert!(!world.file);
}
