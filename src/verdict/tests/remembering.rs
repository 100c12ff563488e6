//! What is written down for the next daemon, and for how long.

use super::*;

#[test]
fn nobody_can_keep_the_daemon_busy_with_remembering() {
    use WatchdogAction::{Poweroff, Reset, Shutdown};
    let floods = [
        vec![Qmp::Powerdown, Qmp::Reset],
        vec![Qmp::Stop, Qmp::Resume],
        vec![shutdown(Reason::GuestShutdown), Qmp::Resume],
        vec![Qmp::GuestPanicked, Qmp::Reset],
        vec![Qmp::Watchdog(Shutdown), Qmp::Powerdown, Qmp::Powerdown],
        vec![Qmp::Watchdog(Reset), Qmp::Watchdog(Shutdown), Qmp::Watchdog(Poweroff)],
    ];
    for flood in floods {
        let mut world = world();
        for event in flood.iter().cycle().take(10_000) {
            world.said(heard(event.clone()));
        }
        assert!(world.writings < 700, "{flood:?}: {}", world.writings);
    }
}

/// Ganeti asks every five seconds, and there may have been any number of other events before.
fn chatters(world: &mut World) {
    for _ in 0..2000 {
        world.said(heard(Qmp::Stop));
        world.said(heard(Qmp::Resume));
    }
}

#[test]
fn what_decides_is_written_down_however_much_was_said_before() {
    for is_held in [true, false] {
        let mut world = world();
        chatters(&mut world);
        world.said(heard(Qmp::Powerdown));
        restarted(&mut world, is_held);
        world.answers();
        world.said(heard(shutdown(Reason::GuestShutdown)));
        dies(&mut world, EXIT_0);
        assert_eq!(world.only_death().verdict.cause, Cause::Powerdown, "{is_held}");
        assert!(!world.file);

        let mut world = super::world();
        chatters(&mut world);
        world.said(heard(shutdown(Reason::GuestShutdown)));
        assert!(world.file);
        restarted(&mut world, true);
        world.said(Said::Closed);
        dies(&mut world, EXIT_0);
        assert_eq!(world.only_death().verdict.cause, Cause::GuestShutdown);
        assert!(world.file, "a restart while it drains removes nothing");
    }
}

/// What takes something back has an allowance of its own, and that can be used up as well.
#[test]
fn what_decides_is_written_down_however_often_something_was_taken_back() {
    let mut world = world();
    for _ in 0..2000 {
        world.said(heard(Qmp::Powerdown));
        world.said(heard(Qmp::Reset));
    }
    world.said(heard(Qmp::GuestPanicked));
    restarted(&mut world, true);
    world.said(heard(shutdown(Reason::GuestShutdown)));
    dies(&mut world, EXIT_0);
    assert_eq!(world.only_death().verdict.cause, Cause::GuestPanic);
}

#[test]
fn a_reset_after_many_requests_is_written_down() {
    let mut world = world();
    for _ in 0..1100 {
        world.said(heard(Qmp::Powerdown));
    }
    world.said(heard(Qmp::Reset));
    restarted(&mut world, true);
    world.said(heard(shutdown(Reason::GuestShutdown)));
    dies(&mut world, EXIT_0);
    assert_eq!(world.only_death().verdict.initiator, Initiator::User);
    assert!(world.file);
}

#[test]
fn who_goes_on_knows_where_not_everything_was_written_down() {
    for catches_up in [false, true] {
        let mut world = world();
        chatters(&mut world);
        if catches_up {
            world.node.catch_up();
            world.writes_down();
        }
        restarted(&mut world, true);
        world.says(Message::Error("it has negotiated already".into()));
        world.says(Message::Return(Answer::Status { running: true, panicked: false }));
        world.said(heard(shutdown(Reason::GuestShutdown)));
        dies(&mut world, EXIT_0);
        let death = world.only_death();
        assert_eq!(death.missing.contains(&Missing::Past), !catches_up, "{death}");
    }
}

#[test]
fn chatter_is_written_down_again_after_a_while() {
    let mut world = world();
    chatters(&mut world);
    world.passes(Duration::from_secs(10));
    world.said(heard(Qmp::Stop));
    restarted(&mut world, true);
    world.said(heard(shutdown_without_data()));
    dies(&mut world, EXIT_0);
    let death = world.only_death();
    assert_eq!(death.verdict.cause, Cause::Host(None), "a guest that is stopped ends by no will");
    assert_eq!(death.missing, []);
}

fn recalled_from(entries: &[String]) -> serde_json::Result<Node> {
    let mut memory = Memory::default();
    for entry in entries {
        memory.read(serde_json::from_str(entry)?);
    }
    let mut node = Node::new(Settings::default(), Moment(Duration::ZERO));
    node.recall(Moment(Duration::ZERO), memory, |_| false, &mut Vec::new());
    Ok(node)
}

fn remembered(incarnation: u64, name: &str) -> String {
    format!(
        r#"{{"Lives": {{"incarnation": {incarnation}, "name": {name}, "inode": 7,
            "process": {{"pid": 5, "started": 9}}, "voice": "Answered", "decision": null,
            "at_close": null,
            "proposed": null, "lacks_own_log": false,
            "case": {{"said": {{"shutdown": null, "powerdown": null, "watchdog": null, "reset": null,
                "panic": "None", "stopped": false, "unheard_before": null,
                "ran_since": false}},
                "status": null, "signals": {{"sent": []}}, "dumps_core": false,
                "out_of_memory": false, "qemu": null, "no_reboot": null,
                "is_behind": false}}}}}}"#
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

#[test]
fn an_end_is_remembered_until_it_is_told() {
    let mut world = world();
    world.holds_records = true;
    world.socket = None;
    world.said(heard(shutdown(Reason::GuestShutdown)));
    dies(&mut world, EXIT_0);
    assert_eq!(world.deaths.len(), 1);
    world.passes(Duration::from_secs(60));
    assert_eq!(world.journal.lives().count(), 1, "a daemon that is killed now has not recorded it");
    world.holds_records = false;
    world.happens(Event::Rescan);
    assert_eq!(world.journal.lives().count(), 0);
}

/// A daemon that was stopped for a moment, or has much to do, learns all of an end at once. What it
/// took from the kernel, nobody else can learn there.
#[test]
fn how_a_life_ended_is_remembered_until_it_is_told_even_if_that_was_learnt_at_once() {
    let mut world = world();
    world.holds_records = true;
    (world.socket, world.process_lives) = (None, false);
    let incarnation = world.connected.unwrap();
    world.events.push_back(Event::Exit { pid: PID, status: WaitStatus(9) });
    world.events.push_back(Event::Of(incarnation, Said::Closed));
    world.happens(Event::Of(incarnation, Said::Died));
    assert_eq!(world.deaths.len(), 1);
    restarted(&mut world, false);
    world.passes(Duration::from_secs(60));
    assert_eq!(world.deaths[1].verdict.cause, Cause::Killed, "{}", world.deaths[1]);
}

/// What it hears last is the first thing that it hears, and completes the life.
#[test]
fn a_life_that_ends_with_the_first_word_to_the_next_daemon_is_remembered_as_it_ended() {
    let mut world = world();
    world.said(heard(shutdown(Reason::GuestShutdown)));
    world.socket = None;
    restarted(&mut world, true);
    world.holds_records = true;
    world.said(Said::Closed);
    world.said(Said::Died);
    assert!(world.deaths.is_empty());
    world.happens(Event::Exit { pid: PID, status: EXIT_0 });
    assert_eq!(world.deaths.len(), 1);
    assert!(world.journal.lives().all(|life| life.case.status(None) == Some(EXIT_0)));
}

#[test]
fn an_end_that_is_told_is_remembered_no_more_though_its_file_is_still_to_be_written() {
    let mut world = world();
    world.file_errors = 3;
    world.said(heard(shutdown(Reason::GuestShutdown)));
    dies(&mut world, EXIT_0);
    assert_eq!((world.deaths.len(), world.file), (1, false));
    assert_eq!(world.node.to_memory().lives().count(), 0);
    world.passes(Duration::from_secs(10));
    assert!(world.file);
}

#[test]
fn a_life_of_which_a_later_daemon_finds_nothing_is_forgotten() {
    let mut world = World::with_unknown_process();
    assert_eq!(world.journal.lives().count(), 1);
    world.socket = None;
    restarted(&mut world, false);
    assert_eq!(world.journal.lives().count(), 0);
    assert!(world.node.holds_nothing());
}

/// Nobody knows its process, so nothing can tell how it ended.
#[test]
fn a_life_that_a_later_daemon_cannot_find_again_is_forgotten() {
    for successor in [None, Some(Inode(2))] {
        let mut world = World::with_unknown_process();
        world.connect_errors = vec![ConnectError::Refused; 9];
        let memory = world.journal.clone();
        world.resumes(memory, false);
        assert!(world.journal.lives.contains_key(&Incarnation(1)), "it may be there still");
        world.socket = None;
        if let Some(inode) = successor {
            world.binds(inode);
        }
        world.passes(Duration::from_secs(1));
        assert!(!world.journal.lives.contains_key(&Incarnation(1)), "{successor:?}");
        assert!(world.deaths.is_empty());
    }
}

/// Nobody can write down what has changed, for as long as it takes.
#[test]
fn what_is_to_be_written_down_does_not_grow() {
    let (name, inode) = (World::name(), Inode(1));
    let mut node = Node::new(Settings::default(), Moment::START);
    let mut actions = Vec::new();
    node.handle(Moment::START, Event::Created { name, inode }, &mut actions);
    let life = Incarnation(1);
    node.handle(Moment::START, Event::Of(life, Said::Connected(PEER)), &mut actions);
    for _ in 0..10_000 {
        for event in [Qmp::Stop, Qmp::Resume] {
            node.handle(Moment::START, Event::Of(life, heard(event)), &mut actions);
        }
    }
    assert!(node.turned() < 100, "{}", node.turned());
}
