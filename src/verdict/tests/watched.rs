//! Which process is watched, and who reports its end.

use super::super::watched::Watched;
use super::*;

const NOW: Moment = Moment(Duration::from_secs(1));
const ANOTHER: Process = Process { pid: PID, started: 2000 };

fn peer(process: Option<Process>, has_pidfd: bool) -> Peer {
    Peer { process, has_pidfd, age: None }
}

fn identified(peer: Peer) -> Watched {
    let mut watched = Watched::default();
    watched.identify(peer);
    watched
}

#[test]
fn only_a_process_whose_end_nobody_reports_is_looked_at_while_it_lives() {
    assert_eq!(identified(peer(Some(PROCESS), true)).to_probe(), None);
    assert_eq!(identified(peer(None, false)).to_probe(), None);
    let mut watched = identified(peer(Some(PROCESS), false));
    assert_eq!(watched.to_probe(), Some(PROCESS));
    watched.die(NOW);
    assert_eq!(watched.to_probe(), None);
}

#[test]
fn who_it_was_at_the_first_connection_stands() {
    // A second connection to the same socket says nothing of the process.
    let mut watched = identified(peer(Some(PROCESS), true));
    watched.identify(peer(None, false));
    assert_eq!((watched.process(), watched.source()), (Some(PROCESS), Source::Pidfd));
    // What is known of another process is not known of this one.
    watched.identify(peer(Some(ANOTHER), false));
    assert_eq!((watched.process(), watched.source()), (Some(PROCESS), Source::Pidfd));
    // Of the same, it is: another daemon had no pidfd.
    let mut watched = Watched::recalled(Some(PROCESS), false);
    assert_eq!(watched.source(), Source::Process);
    watched.identify(peer(Some(PROCESS), true));
    assert_eq!(watched.source(), Source::Pidfd);
}

#[test]
fn who_was_watched_with_a_pidfd_is_so_under_the_next_daemon() {
    assert_eq!(Watched::recalled(Some(PROCESS), true).source(), Source::Pidfd);
    assert_eq!(Watched::recalled(Some(PROCESS), true).to_probe(), None);
}

#[test]
fn one_that_does_not_end_is_looked_at_fifteen_times_in_a_row() {
    let mut watched = identified(peer(Some(PROCESS), false));
    let mut now = NOW;
    let mut waits = Vec::new();
    loop {
        watched.found_alive(true, now);
        let Some(at) = watched.deadline() else { break };
        waits.push(at.since(now).as_millis());
        now = at;
        assert!(watched.take_probe(now));
    }
    let doubled = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000, 1000, 1000, 1000];
    assert_eq!(waits, doubled);
}
