//! One end, told in two orders, and with a restart in between: the verdict is the same.
//!
//! The sources are not synchronised. Each keeps its own order; how they are merged, and when the
//! daemon is started again, is the input's. What is not compared is told here, and why.

use std::collections::VecDeque;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};

use kvmd::id::{Incarnation, Inode, Moment, Name, Process};
use kvmd::verdict::{
    Action, Answers, ConnectError, Event, Fact, FileOutcome, Node, Peer, Said, Settings, Source,
    resume, settle,
};
use kvmd::wire::StatusAnswer;
use kvmd::wire::qmp::{Answer, Message};

use crate::peers::{Ending, Options, Sort, Word, shell};
use crate::state_file::{assert_round_trip, written};

const PROCESS: Process = Process { pid: 4242, started: 1000 };
const MOST: usize = 12;

#[derive(Arbitrary, Debug)]
struct Play {
    options: Options,
    evidence: Evidence,
    /// Which source speaks next, in each of two orders.
    orders: [Vec<u8>; 2],
    restart: Restart,
}

#[derive(Arbitrary, Clone, Debug)]
struct Evidence {
    qmp: Vec<Word>,
    ending: Option<Ending>,
    dumps_core: bool,
    connector_tells: bool,
    traced: Vec<Sort>,
    oom_is_traced: bool,
    oom_is_counted: bool,
    logged: Option<Sort>,
    /// So many of the first attempts to change the file fail.
    file_errors: u8,
}

/// After so many steps the daemon is killed and started again.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Restart {
    after: u8,
    /// A service manager keeps what is open.
    is_held: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Word(Word),
    Closed,
    Died,
    CoreDump,
    Exit,
    Trace,
}

/// What is left when it is over.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// What the log says of it. Absent if it said nothing.
    told: Vec<String>,
    file: bool,
    /// What the first daemon created, and would have removed had it lived, is not the second's.
    is_created_by_second: bool,
}

pub fn check(bytes: &[u8]) {
    let Ok(mut play) = Play::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    let settings = play.options.settings();
    let evidence = &mut play.evidence;
    evidence.qmp.truncate(MOST);
    // A QEMU says how it is when it is asked. What it says unasked is another target's.
    evidence.qmp.retain(|word| {
        !matches!(word, Word::Greeting(_) | Word::Done | Word::Status { .. } | Word::Refused)
    });
    evidence.traced.truncate(MOST);
    evidence.file_errors %= 3;

    let orders = play.orders.each_ref().map(|choices| merged(evidence, choices));
    let [first, second] = orders.each_ref().map(|order| outcome(evidence, order, &settings, None));
    assert_eq!(first, second, "{orders:?}");

    let restarted = outcome(evidence, &orders[0], &settings, Some(play.restart));
    if restarted.is_created_by_second {
        assert!(first.file, "a restart makes no user's shutdown: {restarted:?}, else {first:?}");
    }
    if play.restart.is_held {
        let told = |outcome: &Outcome| (outcome.told.clone(), outcome.file);
        assert_eq!(told(&restarted), told(&first), "nothing was missed");
    }
}

/// The sources merged as the input has it, each in its own order.
fn merged(evidence: &Evidence, choices: &[u8]) -> Vec<Step> {
    let mut qmp: VecDeque<Step> = evidence.qmp.iter().copied().map(Step::Word).collect();
    qmp.push_back(Step::Closed);
    let mut kernel = VecDeque::new();
    if evidence.connector_tells {
        kernel.extend(evidence.dumps_core.then_some(Step::CoreDump));
        kernel.extend(evidence.ending.map(|_| Step::Exit));
    }
    let mut sources = [qmp, kernel, [Step::Died].into(), [Step::Trace].into()];
    let mut choices = choices.iter();
    let mut order = Vec::new();
    loop {
        sources.rotate_left(usize::from(choices.next().copied().unwrap_or(0)) % 4);
        let Some(source) = sources.iter_mut().find(|source| !source.is_empty()) else { break };
        order.extend(source.pop_front());
    }
    order
}

struct World<'a> {
    settings: &'a Settings,
    node: Node,
    events: VecDeque<Event>,
    around: Around<'a>,
}

/// What is around the node.
struct Around<'a> {
    evidence: &'a Evidence,
    now: Moment,
    life: Incarnation,
    file: bool,
    file_errors: u8,
    traced: VecDeque<Event>,
    told: Vec<String>,
    /// The connection, once it is made: a restarted daemon may have to make it again.
    is_connected: bool,
    is_second: bool,
    is_created_by_second: bool,
    is_closed: bool,
    is_dead: bool,
}

fn outcome(
    evidence: &Evidence,
    order: &[Step],
    settings: &Settings,
    restart: Option<Restart>,
) -> Outcome {
    let now = Moment(Duration::from_secs(1_000_000));
    let mut traced: VecDeque<Event> = evidence
        .traced
        .iter()
        .map(|sort| Event::Signalled { pid: PROCESS.pid, sent: sort.sent(now) })
        .collect();
    if evidence.oom_is_traced {
        traced.push_back(Event::OutOfMemory { pid: PROCESS.pid, at: now });
    }
    let around = Around {
        evidence,
        now,
        life: Incarnation(0),
        file: false,
        file_errors: 0,
        traced,
        told: Vec::new(),
        is_connected: false,
        is_second: false,
        is_created_by_second: false,
        is_closed: false,
        is_dead: false,
    };
    let node = Node::new(settings.clone(), now);
    let mut world = World { settings, node, events: VecDeque::new(), around };
    world.happens(Event::Exits { are_told: evidence.connector_tells });
    world.passes(Duration::ZERO);
    world.happens(Event::Created { name: Name::new(b"web1"), inode: Inode(1) });
    world.answers();
    world.around.file_errors = evidence.file_errors;
    for (i, step) in order.iter().enumerate() {
        if let Some(restart) = restart
            && usize::from(restart.after) % order.len() == i
        {
            world.restarts(restart.is_held);
        }
        world.takes(step);
        world.passes(Duration::from_micros(300));
    }
    world.passes(Duration::from_secs(10));
    let Around { told, file, is_created_by_second, .. } = world.around;
    Outcome { told, file, is_created_by_second }
}

impl World<'_> {
    fn takes(&mut self, step: &Step) {
        match *step {
            Step::Word(word) => {
                if self.around.is_connected {
                    self.said(Said::Heard(word.message()));
                }
            }
            Step::Closed => {
                self.around.is_closed = true;
                if self.around.is_connected {
                    self.said(Said::Closed);
                }
            }
            Step::Died => {
                self.around.is_dead = true;
                // Else it is looked at.
                if self.around.is_connected {
                    self.said(Said::Died);
                }
            }
            Step::CoreDump => self.happens(Event::CoreDump { pid: PROCESS.pid }),
            Step::Exit => {
                if let Some(ending) = self.around.evidence.ending {
                    let status = ending.status();
                    self.happens(Event::Exit { pid: PROCESS.pid, status });
                }
            }
            Step::Trace => self.tell_trace(),
        }
    }

    fn tell_trace(&mut self) {
        self.events.extend(self.around.traced.drain(..));
        self.settles();
    }

    fn answers(&mut self) {
        self.said(Said::Heard(Message::Greeting(None)));
        self.said(Said::Heard(Message::Return(Answer::Done)));
        self.said(Said::Heard(Message::Return(Answer::Status { running: true, panicked: false })));
    }

    fn restarts(&mut self, is_held: bool) {
        // Who is told of is not remembered. A file that still could not be written is lost then.
        if !self.around.told.is_empty() {
            return;
        }
        assert_round_trip(&self.node);
        let memory = written(&self.node.to_memory());
        (self.around.is_connected, self.around.is_second) = (is_held, true);
        let Self { settings, node, events, around } = self;
        let now = around.now;
        *node = Node::new(settings.clone(), now);
        let perform = |action, events: &mut _| around.perform(action, events);
        resume(node, now, memory, |_| is_held, events, perform);
        self.happens(Event::Exits { are_told: self.around.evidence.connector_tells });
        self.passes(Duration::ZERO);
        if self.around.is_connected {
            // It has negotiated already, and does not take it twice.
            self.said(Said::Heard(Message::Error("no".into())));
        }
        if is_held && self.around.is_closed {
            self.said(Said::Closed);
        }
        if is_held && self.around.is_dead {
            self.said(Said::Died);
        }
    }

    fn said(&mut self, said: Said) {
        self.happens(Event::Of(self.around.life, said));
    }

    fn happens(&mut self, event: Event) {
        self.events.push_back(event);
        self.settles();
    }

    fn settles(&mut self) {
        let Self { node, events, around, .. } = self;
        let now = around.now;
        settle(node, now, events, |action, events| around.perform(action, events));
    }

    fn passes(&mut self, duration: Duration) {
        let end = self.around.now + duration;
        while self.node.deadline() <= end {
            self.around.now = self.node.deadline().max(self.around.now);
            self.happens(Event::Tick);
        }
        self.around.now = end;
    }
}

impl Around<'_> {
    fn perform(&mut self, action: Action, events: &mut VecDeque<Event>) {
        match action {
            Action::Connect { incarnation, .. } => {
                let said = if self.is_closed || self.is_dead {
                    Said::NotConnected(ConnectError::Refused)
                } else {
                    (self.life, self.is_connected) = (incarnation, true);
                    let age = Some(Duration::from_secs(1));
                    Said::Connected(Peer { process: Some(PROCESS), has_pidfd: true, age })
                };
                events.push_back(Event::Of(incarnation, said));
            }
            Action::Probe { incarnation, .. } => {
                let said = if self.is_dead { Said::Died } else { Said::Lives };
                events.push_back(Event::Of(incarnation, said));
            }
            Action::Consult { incarnation, questions } => {
                if questions.signals {
                    events.extend(self.traced.drain(..));
                }
                let Evidence { ending, connector_tells, logged, oom_is_counted, .. } =
                    *self.evidence;
                let status = ending.filter(|_| questions.status && !connector_tells);
                let answers = Answers {
                    status: status
                        .map_or(StatusAnswer::Never, |ending| StatusAnswer::Known(ending.status())),
                    facts: logged
                        .filter(|_| questions.own_log)
                        .map(|sort| (Source::OwnLog, Fact::Signalled(sort.signal(), shell())))
                        .into_iter()
                        .chain(
                            (questions.out_of_memory && oom_is_counted)
                                .then_some((Source::ControlGroup, Fact::OutOfMemory)),
                        )
                        .collect(),
                    lacks_own_log: false,
                };
                events.push_back(Event::Of(incarnation, Said::Consulted(answers)));
            }
            Action::Create { incarnation, .. } => {
                events.push_back(Event::Of(incarnation, self.change_file(true)));
            }
            Action::Remove { incarnation, .. } => {
                events.push_back(Event::Of(incarnation, self.change_file(false)));
            }
            Action::ReadCommandLine { incarnation, .. } => {
                events.push_back(Event::Of(incarnation, Said::CommandLine(None)));
            }
            Action::LookInto { incarnation, at, sender } => {
                let task = sender.pid.expect("who has a number");
                let said = Said::LookedInto { at, task, sender: None };
                events.push_back(Event::Of(incarnation, said));
            }
            Action::Record { death, .. } => self.told.push(death.to_string()),
            _ => {}
        }
    }

    fn change_file(&mut self, present: bool) -> Said {
        if self.file_errors > 0 {
            self.file_errors -= 1;
            return Said::File(FileOutcome::Failed);
        }
        self.file = present;
        self.is_created_by_second = present && self.is_second;
        Said::File(FileOutcome::Done)
    }
}
