//! The whole core: several instances live, die and are replaced, their sources speak in any
//! order and say anything, what is done fails, and the daemon is started again.
//!
//! `play` is the input, `world` is what a kernel and a QEMU can do, `oracle` says what must hold.
//! This drives the node through them, and must not judge by itself what a life deserves.

mod oracle;
mod play;
mod world;

use std::collections::VecDeque;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use kvmd::id::{Incarnation, Moment};
use kvmd::verdict::{Entry, Event, Memory, Node, Said, Settings, resume, settle};
use kvmd::wire::qmp::Message;

use self::play::{Play, Step};
use self::world::{Life, World};
use crate::peers::Word;
use crate::state_file::{assert_round_trip, written};

const MOST_STEPS: usize = 400;
/// As many events of one kind may be waiting to be read at once.
const MOST_AT_ONCE: usize = 8;
/// More than any one step may bring about.
const MOST_EVENTS: usize = 10_000;
/// After so many events the node may stop writing down what it remembers of a life, so that nobody
/// can keep the daemon busy with writing.
const SURELY_REMEMBERED: usize = 300;

pub fn check(bytes: &[u8]) {
    let Ok(mut play) = Play::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    play.steps.truncate(MOST_STEPS);
    let mut run = Run::new(play.options.settings());
    for step in play.steps {
        run.takes(step);
        run.passes(Duration::ZERO);
        oracle::assert_bounded(&run.node, run.world.lives().len());
    }
    run.winds_up();
}

struct Run {
    settings: Settings,
    node: Node,
    events: VecDeque<Event>,
    world: World,
    /// What the next daemon will read. The first that this one writes down is the whole.
    journal: Memory,
    has_written: bool,
    /// How many events this daemon has been given.
    handled: usize,
}

impl Run {
    fn new(settings: Settings) -> Self {
        let now = Moment(Duration::from_secs(1_000_000));
        let mut run = Self {
            node: Node::new(settings.clone(), now),
            events: VecDeque::new(),
            world: World::new(settings.clone(), now),
            settings,
            journal: Memory::default(),
            has_written: false,
            handled: 0,
        };
        run.happens(Event::Exits { are_told: true });
        run.passes(Duration::ZERO);
        run
    }

    fn takes(&mut self, step: Step) {
        let world = &mut self.world;
        match step {
            Step::Bind { name, pid, is_told } => {
                let created = world.binds(name, pid);
                if is_told {
                    self.happens(created);
                }
            }
            Step::ToldAgain { name } => {
                if let Some(created) = world.reports_again(name) {
                    self.happens(created);
                }
            }
            Step::Unbind { name } => world.unbinds(name),
            Step::Connecting(how) => world.will_accept(how),
            Step::Changing(how) => world.will_change(how),
            Step::Answering(answering) => world.will_answer(answering),
            Step::Say { life, word } => {
                if let Some(incarnation) = world.some_life(life, Life::is_connected) {
                    self.says(incarnation, word.message());
                }
            }
            Step::Answer { life } => {
                if let Some(incarnation) = world.some_life(life, Life::is_connected) {
                    let answer = world.answer(incarnation);
                    self.says(incarnation, answer);
                }
            }
            Step::Close { life } => {
                if let Some(incarnation) = world.some_life(life, Life::is_connected) {
                    self.closes(incarnation);
                }
            }
            Step::Die { life } => {
                if let Some(incarnation) = world.some_life(life, Life::has_process) {
                    self.dies(incarnation);
                }
            }
            Step::DiedAgain { life } => {
                if let Some(incarnation) = world.some_life(life, Life::has_reported_death) {
                    self.happens(Event::Of(incarnation, Said::Died));
                }
            }
            Step::Kernel(events) => {
                let events = events.into_iter().take(MOST_AT_ONCE);
                self.events.extend(events.map(|event| world.reports(event)));
                self.settles();
            }
            Step::Withhold(event) => world.withholds(event),
            Step::Exits(are_told) => self.happens(Event::Exits { are_told }),
            Step::Rescan => self.happens(Event::Rescan),
            Step::Pass(exponent) => self.passes(Duration::from_millis(1 << (exponent % 18))),
            Step::Stray { life, word } => self.strays(life, word),
            Step::Restart { is_held } => self.restarts(is_held),
        }
    }

    fn says(&mut self, incarnation: Incarnation, message: Message) {
        let goes_down = self.world.says(incarnation, &message);
        self.happens(Event::Of(incarnation, Said::Heard(message)));
        if let Some(life) = self.world.lives().get(&incarnation).filter(|_| goes_down) {
            life.account().assert_decided_at_once();
        }
    }

    fn closes(&mut self, incarnation: Incarnation) {
        let closed = self.world.closes(incarnation);
        self.happens(closed);
    }

    fn dies(&mut self, incarnation: Incarnation) {
        if let Some(died) = self.world.dies(incarnation) {
            self.happens(died);
        }
    }

    /// Nobody is meant: nothing comes of it.
    fn strays(&mut self, number: u8, word: Option<Word>) {
        let stray = self.world.some_over(number).unwrap_or(Incarnation(u64::MAX));
        let said = word.map_or(Said::Died, |word| Said::Heard(word.message()));
        let mut actions = Vec::new();
        self.node.handle(self.world.now, Event::Of(stray, said), &mut actions);
        assert!(actions.is_empty(), "{actions:?}");
    }

    /// The daemon is killed and started again.
    fn restarts(&mut self, is_held: bool) {
        // What is lost then, nobody has promised to keep.
        if self.has_written && !self.is_written_down() {
            return;
        }
        assert_round_trip(&self.node);
        let memory = written(&self.journal);
        let readable = self.world.is_taken_over(&memory, is_held);
        if let Some(Entry::Last(last)) = memory.clone().entries().next() {
            self.world.counts_from(last);
        }
        (self.has_written, self.handled) = (false, 0);

        let held = self.world.held();
        let Self { settings, node, events, world, .. } = self;
        let now = world.now;
        *node = Node::new(settings.clone(), now);
        let perform = |action, events: &mut _| world.perform(action, events);
        resume(node, now, memory, |life| held.contains(&life), events, perform);
        self.comes_to_rest();
        self.happens(Event::Exits { are_told: true });
        self.passes(Duration::ZERO);
        for (incarnation, said) in readable {
            if self.world.reads_again(incarnation, &said) {
                self.happens(Event::Of(incarnation, said));
            }
        }
    }

    fn happens(&mut self, event: Event) {
        self.events.push_back(event);
        self.settles();
    }

    fn settles(&mut self) {
        let Self { node, events, world, handled, .. } = self;
        let most = *handled + MOST_EVENTS;
        *handled += events.len();
        settle(node, world.now, events, |action, events| {
            let before = events.len();
            world.perform(action, events);
            *handled += events.len() - before;
            assert!(*handled < most, "it does not come to an end");
        });
        self.comes_to_rest();
    }

    /// Nothing is left to be done: it is written down, and what was to be said goes out.
    fn comes_to_rest(&mut self) {
        self.world.take_recorded().into_iter().for_each(|life| self.node.forget(life));
        if self.node.has_changes() {
            if std::mem::replace(&mut self.has_written, true) {
                self.node.changes().for_each(|entry| self.journal.read(entry));
            } else {
                self.journal = self.node.to_memory();
            }
            self.node.mark_saved();
        }
        if self.has_written && self.handled <= SURELY_REMEMBERED {
            assert!(self.is_written_down());
        }
        self.world.sends();
    }

    /// Whether the journal tells what the node remembers.
    fn is_written_down(&self) -> bool {
        // The first entry is how many there were, of which some may never have been connected to.
        let lives = |memory: Memory| memory.entries().skip(1).collect::<Vec<_>>();
        lives(self.journal.clone()) == lives(self.node.to_memory())
    }

    fn passes(&mut self, duration: Duration) {
        let end = self.world.now + duration;
        while self.node.deadline() <= end {
            self.world.now = self.node.deadline().max(self.world.now);
            self.happens(Event::Tick);
            assert!(self.node.deadline() > self.world.now, "a tick does what is due");
        }
        self.world.now = end;
    }

    /// Everything ends, and nothing is left.
    fn winds_up(&mut self) {
        self.world.ends();
        let lives: Vec<Incarnation> = self.world.lives().keys().copied().collect();
        for incarnation in lives {
            if self.world.lives().get(&incarnation).is_some_and(Life::is_connected) {
                self.closes(incarnation);
            }
            if self.world.lives().contains_key(&incarnation) {
                self.dies(incarnation);
            }
        }
        self.passes(Duration::from_secs(400));
        self.world.assert_nothing_is_left();
        oracle::assert_nothing_is_left(&self.node);
    }
}
