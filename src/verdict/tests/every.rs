//! The list of all verdicts is complete, and has none that nobody gives.

use super::*;
use std::collections::BTreeMap;

const NOW: Moment = Moment(Duration::from_secs(1_000_000));

/// Whatever QEMU may say of its end, nothing included.
fn last_words() -> Vec<Option<Qmp>> {
    let later = Reason::Unknown("later".into());
    let reasons = [
        Reason::HostError,
        Reason::HostQmpQuit,
        Reason::HostQmpSystemReset,
        Reason::HostSignal,
        Reason::HostUi,
        Reason::GuestShutdown,
        Reason::GuestReset,
        Reason::GuestPanic,
        Reason::SubsystemReset,
        Reason::SnapshotLoad,
        later,
    ];
    let reasons = reasons.into_iter().map(Some).chain([None]);
    let shutdowns = reasons.flat_map(|reason| {
        [None, Some(false), Some(true)]
            .map(|guest| Some(Qmp::Shutdown(Shutdown { guest, reason: reason.clone() })))
    });
    shutdowns.chain([None]).collect()
}

/// What may have happened before.
fn circumstances() -> Vec<Vec<Fact>> {
    let said = |event| Fact::Said(event, None);
    let barked = |action| said(Qmp::Watchdog(action));
    vec![
        vec![],
        vec![Fact::Unheard],
        vec![said(Qmp::Powerdown)],
        vec![said(Qmp::Stop)],
        vec![said(Qmp::GuestPanicked)],
        vec![barked(WatchdogAction::Reset), said(Qmp::Reset)],
        vec![barked(WatchdogAction::Shutdown)],
        vec![barked(WatchdogAction::Poweroff)],
        vec![barked(WatchdogAction::InjectNmi)],
        vec![Fact::OutOfMemory],
        vec![Fact::Signalled(Signal::TERM, Arc::default())],
        vec![Fact::Signalled(Signal::KILL, Arc::default())],
    ]
}

/// How the process ended: SIGKILL, SIGTERM, SIGSEGV, with 0 or 1, or it is not known.
fn statuses() -> Vec<Option<Fact>> {
    let known = [9, 15, 11, 0, 0x100].map(|status| Some(Fact::Exited(WaitStatus(status))));
    known.into_iter().chain([None]).collect()
}

fn settings() -> Vec<Settings> {
    let doubting = Settings { doubt_window: Duration::from_secs(120), ..Settings::default() };
    let users = Settings { signal_shutdown: SignalShutdown::User, ..Settings::default() };
    vec![Settings::default(), doubting, users]
}

fn verdict(facts: impl IntoIterator<Item = Fact>, settings: &Settings) -> Verdict {
    let mut case = Case::default();
    for fact in facts {
        case.learn(NOW, Source::Qmp, fact, settings);
    }
    case.judge(Some(NOW), settings)
}

#[test]
fn every_verdict_is_in_the_list_and_each_of_the_list_is_given() {
    let mut given = BTreeMap::new();
    for settings in settings() {
        for before in circumstances() {
            for words in last_words() {
                for status in statuses() {
                    let words = words.clone().map(|event| Fact::Said(event, None));
                    let facts = before.iter().cloned().chain(words).chain(status);
                    let facts: Vec<Fact> = facts.collect();
                    let Verdict { cause, initiator } = verdict(facts.clone(), &settings);
                    given.insert((cause.to_string(), initiator.to_string()), facts);
                }
            }
        }
    }
    let every = Verdict::every();
    let listed: BTreeSet<_> =
        every.iter().map(|it| (it.cause.to_string(), it.initiator.to_string())).collect();
    assert_eq!(listed.len(), every.len(), "each is listed once");
    for (verdict, facts) in &given {
        assert!(listed.contains(verdict), "{verdict:?} is not listed: {facts:?}");
    }
    for verdict in &listed {
        assert!(given.contains_key(verdict), "{verdict:?} is never given");
    }
}
