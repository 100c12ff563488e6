//! The sources are not synchronised: whatever they tell, every order in which it can arrive
//! must give the same verdict and the same file.

use super::*;
use proptest::prelude::*;

/// What one life leaves behind, each source in its own order.
#[derive(Clone, Debug)]
struct Evidence {
    qmp: Vec<Qmp>,
    status: Option<WaitStatus>,
    dumps_core: bool,
    /// Whether the proc connector tells the status, or it has to be asked for.
    connector_tells: bool,
    /// Signals by the kernel's trace. All were sent before the conversation ended: the trace
    /// has them, whether or not it has spoken yet.
    traced: Vec<Signal>,
    out_of_memory: Option<OomSource>,
    logged: Option<Signal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OomSource {
    Trace,
    ControlGroup,
}

/// What a source tells next.
#[derive(Clone, Debug)]
enum Step {
    Qmp(Qmp),
    Closed,
    Died,
    CoreDump,
    Exit(WaitStatus),
    /// The trace tells what it holds next, unless it has been asked before.
    Trace,
}

impl Evidence {
    fn sources(&self) -> Vec<Vec<Step>> {
        let mut qmp: Vec<Step> = self.qmp.iter().cloned().map(Step::Qmp).collect();
        qmp.push(Step::Closed);
        let mut kernel = Vec::new();
        if self.connector_tells {
            kernel.extend(self.dumps_core.then_some(Step::CoreDump));
            kernel.extend(self.status.map(Step::Exit));
        }
        let trace = if self.traced().is_empty() { vec![] } else { vec![Step::Trace] };
        vec![qmp, kernel, vec![Step::Died], trace]
    }

    /// What the trace holds.
    fn traced(&self) -> VecDeque<Event> {
        let mut traced: VecDeque<Event> = self.traced.iter().copied().map(signalled).collect();
        if self.out_of_memory == Some(OomSource::Trace) {
            traced.push_back(Event::OutOfMemory { pid: PID, at: sent(Signal::KILL).at });
        }
        traced
    }

    fn answers(&self) -> Answers {
        Answers {
            status: match self.status {
                Some(status) if !self.connector_tells => StatusAnswer::Known(status),
                _ => StatusAnswer::Never,
            },
            facts: self
                .logged
                .map(|signal| (Source::OwnLog, Fact::Signalled(signal, sent(signal).sender)))
                .into_iter()
                .chain(
                    (self.out_of_memory == Some(OomSource::ControlGroup))
                        .then_some((Source::ControlGroup, Fact::OutOfMemory)),
                )
                .collect(),
            lacks_own_log: false,
        }
    }
}

/// Every way to merge the sources that keeps the order within each.
fn interleavings(sources: &[Vec<Step>]) -> Vec<Vec<Step>> {
    if sources.iter().all(Vec::is_empty) {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        if let Some((first, rest)) = source.split_first() {
            let mut others = sources.to_vec();
            others[i] = rest.to_vec();
            for tail in interleavings(&others) {
                all.push(std::iter::once(first.clone()).chain(tail).collect());
            }
        }
    }
    all
}

fn outcome(evidence: &Evidence, steps: &[Step], settings: &Settings) -> (String, bool) {
    let mut world = World::with_running_instance(settings.clone());
    world.happens(Event::Exits { are_told: evidence.connector_tells });
    world.traced = evidence.traced();
    world.answers = evidence.answers();
    for step in steps {
        // A life that is over hears nothing more; nothing that still comes may change it.
        match step.clone() {
            Step::Qmp(event) => world.said(heard(event)),
            Step::Closed => world.said(Said::Closed),
            Step::Died => world.said(Said::Died),
            Step::CoreDump => world.happens(Event::CoreDump { pid: PID }),
            Step::Exit(status) => world.happens(Event::Exit { pid: PID, status }),
            Step::Trace => {
                while let Some(event) = world.traced.pop_front() {
                    world.happens(event);
                }
            }
        }
        world.passes(Duration::from_micros(300));
    }
    world.passes(Duration::from_secs(3));
    assert!(world.watched.is_empty(), "{steps:?}");
    (world.only_death().to_string(), world.file)
}

fn assert_same_in_every_order(evidence: &Evidence, settings: &Settings) {
    let mut orders = interleavings(&evidence.sources()).into_iter();
    let first = orders.next().expect("there is at least one order");
    let expected = outcome(evidence, &first, settings);
    for order in orders {
        assert_eq!(outcome(evidence, &order, settings), expected, "{order:?}");
    }
}

fn any_event() -> impl Strategy<Value = Qmp> {
    let any_shutdown = (
        prop::option::of(any::<bool>()),
        prop::option::of(prop::sample::select(vec![
            Reason::GuestShutdown,
            Reason::GuestReset,
            Reason::GuestPanic,
            Reason::HostSignal,
            Reason::HostQmpQuit,
            Reason::Unknown("new".into()),
        ])),
    )
        .prop_map(|(guest, reason)| Qmp::Shutdown(Shutdown { guest, reason }));
    let action = prop::sample::select(vec![
        WatchdogAction::Reset,
        WatchdogAction::Shutdown,
        WatchdogAction::Poweroff,
        WatchdogAction::Other,
    ]);
    prop_oneof![
        3 => any_shutdown,
        2 => Just(Qmp::Powerdown),
        1 => Just(Qmp::Reset),
        1 => Just(Qmp::Stop),
        1 => Just(Qmp::Resume),
        1 => Just(Qmp::GuestPanicked),
        1 => action.prop_map(Qmp::Watchdog),
    ]
}

fn any_evidence() -> impl Strategy<Value = Evidence> {
    let status = prop::option::of(prop::sample::select(vec![0, 0x100, 1, 2, 6, 9, 11, 0x8b, 15]));
    let signals =
        || prop::sample::select(vec![Signal::TERM, Signal::HUP, Signal::KILL, Signal(11)]);
    let oom =
        prop::option::of(prop::sample::select(vec![OomSource::Trace, OomSource::ControlGroup]));
    (
        prop::collection::vec(any_event(), 0..5),
        status,
        any::<(bool, bool)>(),
        prop::collection::vec(signals(), 0..3),
        oom,
        prop::option::of(signals()),
    )
        .prop_map(
            |(qmp, status, (dumps_core, connector_tells), traced, out_of_memory, logged)| {
                let status = status.map(WaitStatus);
                Evidence { qmp, status, dumps_core, connector_tells, traced, out_of_memory, logged }
            },
        )
}

fn any_settings() -> impl Strategy<Value = Settings> {
    (any::<bool>(), any::<bool>()).prop_map(|(restart, user)| Settings {
        guest_reset: if restart { GuestReset::Restart } else { GuestReset::User },
        signal_shutdown: if user { SignalShutdown::User } else { SignalShutdown::Admin },
        ..Settings::default()
    })
}

proptest! {
    #[test]
    fn every_interleaving_gives_the_same_verdict_and_file(
        evidence in any_evidence(),
        settings in any_settings(),
    ) {
        assert_same_in_every_order(&evidence, &settings);
    }
}

#[test]
fn two_sources_of_two_have_six_interleavings() {
    let source = || vec![Step::Died, Step::Closed];
    assert_eq!(interleavings(&[source(), source()]).len(), 6);
}
