//! Looking into what is not ours: who sent a signal, what QEMU was started with, and what its own log
//! says.
//!
//! To read what a process shows of itself can take as long as that process likes: `/proc/PID/cmdline`
//! waits for its memory, and a process can see to it that this never ends. To read a log takes as long
//! as the disk. So threads of their own do it (see [`worker_threads`]). One that hangs is given up after
//! a second; its question is answered with "not known". When all hang, nobody is looked into until one
//! of them goes on.
//!
//! Which program a process runs is a link, to be read by a thread of its own: it takes a privilege,
//! and what has that is to do nothing else (see [`Role::Links`]).
//!
//! [`worker_threads`]: crate::sys::worker_threads

mod questions;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use log::{debug, error, info, warn};
use mio::Registry;

use super::complaints::{Complaints, withheld};
use super::wake::Wake;
use crate::config::Paths;
use crate::id::{Incarnation, Moment, Name, Process};
use crate::sys::own_log::Termination;
use crate::sys::sandbox::Role;
use crate::sys::worker_threads::WorkerThreads;
use crate::verdict::{Answers, CommandLine, Event, Fact, Said, Source};
use crate::wire::Sender;
use questions::{About, Answer, Found, Question, answer, start_threads};

/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// A daemon that is this late to give a look up has not been running: it was stopped, or frozen. Nor have
/// its threads, then.
const LATE: Duration = Duration::from_millis(500);

/// As many questions are with the threads, which is less than the socket has room for, ...
const MOST_ASKED: usize = 64;
/// ... and as many wait for that. An instance has one when it is connected to and one in the end, and
/// no more than sixteen signals of its are looked into.
const MOST_WAITING: usize = 4096;

/// Longer than any answer: it has ten pieces of text, each cut by [`crate::wire::Printable`].
const LONGEST_ANSWER: usize = 16 << 10;

/// Who wants to know: which life, and of a sender when its signal was sent and what is known of it.
#[derive(Debug)]
enum For {
    Sender(Incarnation, Moment, Arc<Sender>),
    CommandLine(Incarnation),
    OwnLog(Incarnation),
}

/// A question that is not answered yet.
#[derive(Debug)]
struct Look {
    number: u64,
    about: About,
    whom: Vec<For>,
    /// When it was asked, or when a thread could begin with it.
    since: Moment,
    /// It is given up: nobody waits for it any more.
    is_overdue: bool,
}

pub(super) struct Lookup {
    /// Where QEMU's logs are.
    paths: Paths,
    /// Absent before the start, and if none could be started.
    threads: Option<WorkerThreads>,
    has_begun: bool,
    /// In their order. The first of them are with the threads, ...
    looks: VecDeque<Look>,
    /// ... so many.
    asked: usize,
    last: u64,
    /// Every thread hangs.
    is_stuck: bool,
    complaints: Complaints,
    buffer: Box<[u8]>,
}

impl Lookup {
    pub(super) fn new(paths: Paths) -> Self {
        Self {
            paths,
            threads: None,
            has_begun: false,
            looks: VecDeque::new(),
            asked: 0,
            last: 0,
            is_stuck: false,
            complaints: Complaints::default(),
            buffer: vec![0; LONGEST_ANSWER].into(),
        }
    }

    /// Starts the threads, each of which begins with `begin`. What is to be looked into before that
    /// waits.
    pub(super) fn start(
        &mut self,
        now: Moment,
        registry: &Registry,
        begin: impl Fn(Role) + Clone + Send + 'static,
        events: &mut VecDeque<Event>,
    ) {
        let paths = self.paths.clone();
        let threads = start_threads(begin, move |question| answer(question, &paths))
            .and_then(|threads| Wake::Lookup.register(registry, &threads).map(|()| threads));
        if let Err(error) = &threads {
            error!(
                "Cannot start a thread to look into processes and logs: {error}; records name the senders of signals by their pids only, and QEMU's own logs are not read"
            );
        }
        self.begin(now, threads.ok(), events);
    }

    fn begin(&mut self, now: Moment, threads: Option<WorkerThreads>, events: &mut VecDeque<Event>) {
        (self.threads, self.has_begun) = (threads, true);
        if self.threads.is_none() {
            for look in self.looks.drain(..) {
                tell_all(look.whom, &Found::Nothing, events);
            }
        }
        self.pass_on(now);
    }

    /// Has the sender of a signal looked at, of which this is known so far.
    pub(super) fn look_into(
        &mut self,
        now: Moment,
        incarnation: Incarnation,
        at: Moment,
        known: Arc<Sender>,
        events: &mut VecDeque<Event>,
    ) {
        let about = About::Sender(known.pid.unwrap_or_default(), at);
        self.ask(now, about, For::Sender(incarnation, at, known), events);
    }

    /// Has it found out what QEMU was started with.
    pub(super) fn read_command_line(
        &mut self,
        now: Moment,
        incarnation: Incarnation,
        process: Process,
        events: &mut VecDeque<Event>,
    ) {
        self.ask(now, About::CommandLine(process), For::CommandLine(incarnation), events);
    }

    /// Has QEMU's own log read. The answer is that to a consultation.
    pub(super) fn read_own_log(
        &mut self,
        now: Moment,
        incarnation: Incarnation,
        name: &Name,
        events: &mut VecDeque<Event>,
    ) {
        self.ask(now, About::OwnLog(name.clone()), For::OwnLog(incarnation), events);
    }

    fn ask(&mut self, now: Moment, about: About, whom: For, events: &mut VecDeque<Event>) {
        let is_down = self.has_begun && self.threads.is_none();
        let is_closed = self.is_stuck || is_down || self.is_full();
        match self.looks.iter_mut().find(|look| look.about.answers(&about)) {
            // To ask once more is to have one more thread hang.
            Some(look) if look.is_overdue => whom.tell(&Found::Nothing, events),
            Some(look) => look.whom.push(whom),
            None if is_closed => whom.tell(&Found::Nothing, events),
            None => {
                self.last += 1;
                let (number, whom) = (self.last, vec![whom]);
                self.looks.push_back(Look { number, about, whom, since: now, is_overdue: false });
                self.pass_on(now);
            }
        }
    }

    fn is_full(&self) -> bool {
        self.looks.len() - self.asked >= MOST_WAITING
    }

    /// Passes on to the threads what waits for that, as much as there is room for.
    fn pass_on(&mut self, now: Moment) {
        let Some(threads) = &self.threads else { return };
        while let Some(look) = self.looks.get_mut(self.asked).filter(|_| self.asked < MOST_ASKED) {
            let about = look.about.clone();
            let question = Question { number: look.number, about, executable: None };
            let question = serde_json::to_vec(&question).unwrap_or_default();
            // Where there is no room there will be, with the next answer.
            if threads.ask(&question).is_err() {
                return;
            }
            look.since = now;
            self.asked += 1;
        }
    }

    /// Takes in what the threads have found. `remembered` is the name under which the kernel
    /// remembers a task that is gone.
    pub(super) fn read(
        &mut self,
        now: Moment,
        remembered: impl Fn(u32) -> Option<String>,
        events: &mut VecDeque<Event>,
    ) {
        while let Some(answer) = self.take_answer() {
            let Some(place) = self.looks.iter().position(|look| look.number == answer.number)
            else {
                continue;
            };
            self.asked -= usize::from(place < self.asked);
            let Some(look) = self.looks.remove(place) else { continue };
            self.begin_next(now, place);
            if look.is_overdue && std::mem::take(&mut self.is_stuck) {
                info!("Processes and logs are looked into again");
            }
            let what = || look.about.what(&self.paths);
            match &answer.found {
                Found::NoReboot(true) => debug!("By {} QEMU ends when its guest resets", what()),
                Found::NoReboot(false) => debug!("By {} QEMU resets its guest", what()),
                Found::Termination(Err(error)) => debug!("Cannot read {}: {error}", what()),
                _ => {}
            }
            let found = match answer.found {
                Found::Sender(sender) if sender.gone => {
                    let name = sender.pid.and_then(&remembered);
                    Found::Sender(Sender { name, ..sender })
                }
                found => found,
            };
            tell_all(look.whom, &found, events);
        }
        self.pass_on(now);
    }

    fn take_answer(&mut self) -> Option<Answer> {
        let threads = self.threads.as_ref()?;
        loop {
            match threads.take_answer(&mut self.buffer) {
                // What cannot be understood is an answer to nothing, and its question is overdue.
                Ok(length) => match serde_json::from_slice(&self.buffer[..length]) {
                    Ok(answer) => return Some(answer),
                    Err(error) if length > 0 => error!("A look into a process or a log: {error}"),
                    Err(_) => return None,
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    /// When [`Lookup::give_up`] has something to do.
    pub(super) fn deadline(&self) -> Option<Moment> {
        let first = self.in_hand().filter(|look| !look.is_overdue).map(|look| look.since).min();
        first.map(|since| since + PATIENCE)
    }

    /// Those that a thread is at: they are taken in their order.
    fn in_hand(&self) -> impl Iterator<Item = &Look> {
        let threads = self.threads.as_ref().map_or(0, WorkerThreads::count);
        self.looks.iter().take(self.asked.min(threads))
    }

    /// The look at this place has been answered: its thread begins with the first of those that waited.
    fn begin_next(&mut self, now: Moment, place: usize) {
        let threads = self.threads.as_ref().map_or(0, WorkerThreads::count);
        if place < threads && threads <= self.asked {
            self.looks[threads - 1].since = now;
        }
    }

    /// Gives up those looks that take too long.
    pub(super) fn give_up(&mut self, now: Moment, events: &mut VecDeque<Event>) {
        let Some(deadline) = self.deadline().filter(|&at| at <= now) else { return };
        let in_hand = self.in_hand().count();
        if now.since(deadline) >= LATE {
            for look in self.looks.iter_mut().take(in_hand).filter(|look| !look.is_overdue) {
                look.since = now;
            }
            return;
        }
        for look in self.looks.iter_mut().take(in_hand) {
            if look.is_overdue || now.since(look.since) < PATIENCE {
                continue;
            }
            look.is_overdue = true;
            if let Some(count) = self.complaints.make(now) {
                warn!(
                    "Reading {} takes longer than a second; going on without it{}",
                    look.about.what(&self.paths),
                    withheld(count)
                );
            }
            tell_all(std::mem::take(&mut look.whom), &Found::Nothing, events);
        }
        let threads = self.threads.as_ref().map_or(0, WorkerThreads::count);
        let overdue = self.looks.iter().filter(|look| look.is_overdue).count();
        if overdue >= threads && !std::mem::replace(&mut self.is_stuck, true) {
            warn!(
                "All {threads} threads that look into processes and logs hang; until one goes on, records name the senders of signals by their pids only, and QEMU's own logs are not read"
            );
        }
        if self.is_stuck {
            self.asked = overdue;
            for look in self.looks.split_off(overdue) {
                tell_all(look.whom, &Found::Nothing, events);
            }
        }
    }
}

impl For {
    fn tell(self, found: &Found, events: &mut VecDeque<Event>) {
        tell_all(vec![self], found, events);
    }
}

fn tell_all(whom: Vec<For>, found: &Found, events: &mut VecDeque<Event>) {
    events.extend(whom.into_iter().filter_map(|whom| match (whom, found) {
        (For::Sender(incarnation, at, known), found) => {
            let task = known.pid?;
            let sender = match found {
                Found::Sender(seen) => Some(Arc::new(completed(&known, seen))),
                _ => None,
            };
            Some(Event::Of(incarnation, Said::LookedInto { at, task, sender }))
        }
        (For::CommandLine(incarnation), found) => {
            let line = match *found {
                Found::NoReboot(no_reboot) => Some(CommandLine { no_reboot }),
                _ => None,
            };
            Some(Event::Of(incarnation, Said::CommandLine(line)))
        }
        (For::OwnLog(incarnation), found) => {
            let mut answers = Answers::default();
            match found {
                Found::Termination(Ok(Some(Termination { signal, sender }))) => {
                    let fact = Fact::Signalled(*signal, Arc::new(sender.clone()));
                    answers.facts.push((Source::OwnLog, fact));
                }
                // One that is not there, say: so it has nothing to say.
                Found::Termination(_) => {}
                _ => answers.lacks_own_log = true,
            }
            Some(Event::Of(incarnation, Said::Consulted(answers)))
        }
    }));
}

/// What is known of a sender, now that its process has been looked at. Where QEMU says what it was
/// called and the process is called otherwise, it is gone, and another one has its pid by now.
fn completed(known: &Sender, seen: &Sender) -> Sender {
    let is_called = seen.command.as_deref().and_then(|command| command.split(' ').next());
    match known.command.as_deref() {
        Some(called) if is_called != Some(called) => Sender { gone: true, ..known.clone() },
        _ => seen.clone(),
    }
}

#[cfg(test)]
mod tests;
