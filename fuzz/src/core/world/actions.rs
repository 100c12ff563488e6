//! What the node asks for is done, and what comes of it is queued.

use std::collections::VecDeque;
use std::time::Duration;

use kvmd::id::{Incarnation, Inode, Name, Process};
use kvmd::verdict::{
    Action, Answers, ConnectError, Event, Fact, FileOutcome, Peer, Questions, RemoveReason, Said,
    Source,
};
use kvmd::wire::StatusAnswer;

use super::super::oracle::{Wanted, asks_to_end};
use super::super::play::{self, Accepting, Answering, Changing};
use super::{Life, World};
use crate::peers::shell;

impl World {
    /// Does what the node asks for.
    pub(in super::super) fn perform(&mut self, action: Action, events: &mut VecDeque<Event>) {
        match action {
            Action::LookAgain => {
                let there = self.machine.directory.iter();
                events.extend(
                    there.map(|(name, &inode)| Event::Listed { name: name.clone(), inode }),
                );
            }
            Action::Start { name } => *self.announced.entry(name).or_default() += 1,
            Action::Stop { name } => {
                let count = self.announced.entry(name).or_default();
                *count -= 1;
                assert!(*count >= 0, "what ends has begun");
            }
            Action::Connect { incarnation, name, inode } => {
                let said = self.connect(incarnation, &name, inode);
                events.extend(said.into_iter().map(|said| Event::Of(incarnation, said)));
            }
            Action::Send { incarnation, command } => {
                let life = self.life(incarnation);
                assert!(!life.account.is_recorded, "{life:?}");
                self.outbox.push((incarnation, command));
            }
            Action::Probe { incarnation, process } => {
                let is_dead = self.machine.dead.contains(&process.started);
                let life = self.life(incarnation);
                assert_eq!(life.process, Some(process));
                life.is_dead |= is_dead;
                let said = if is_dead { Said::Died } else { Said::Lives };
                events.push_back(Event::Of(incarnation, said));
            }
            Action::Consult { incarnation, questions } => {
                let withheld = questions.signals.then(|| std::mem::take(&mut self.coming.withheld));
                let withheld = withheld.into_iter().flatten();
                events.extend(withheld.map(|event| self.reports(event)));
                let answers = self.consult(incarnation, questions);
                events.push_back(Event::Of(incarnation, Said::Consulted(answers)));
            }
            Action::ReadCommandLine { incarnation, process } => {
                assert_eq!(self.life(incarnation).process, Some(process));
                events.push_back(Event::Of(incarnation, Said::CommandLine(None)));
            }
            Action::LookInto { incarnation, at, sender } => {
                assert!(!self.life(incarnation).account.is_recorded, "nobody wants to know");
                let task = sender.pid.expect("who has a pid");
                let said = Said::LookedInto { at, task, sender: None };
                events.push_back(Event::Of(incarnation, said));
            }
            Action::Watch { pid } => assert!(self.watched.insert(pid), "{pid} twice"),
            Action::Unwatch { pid } => assert!(self.watched.remove(&pid), "{pid} twice"),
            Action::Create { incarnation, name, inode, only_in_time } => {
                let wanted = if only_in_time { Wanted::PresentInTime } else { Wanted::Present };
                let outcome = self.change_file(incarnation, &name, inode, Some(wanted));
                events.push_back(Event::Of(incarnation, Said::File(outcome)));
            }
            Action::Remove { incarnation, name, inode, why } => {
                let wanted = (why == RemoveReason::NotTheUser).then_some(Wanted::Absent);
                let outcome = self.change_file(incarnation, &name, inode, wanted);
                events.push_back(Event::Of(incarnation, Said::File(outcome)));
            }
            Action::Release { incarnation } => {
                // A socket that may be stale, and was not even tried, has not been heard of.
                self.lives.remove(&incarnation);
                self.current.retain(|_, current| *current != incarnation);
                assert!(self.over.insert(incarnation), "{incarnation:?} twice");
            }
            Action::Answered { name, .. } | Action::WarnSilent { name, .. } => {
                assert!(self.lives.values().any(|life| life.name == name));
            }
            Action::Record { incarnation, death } => {
                let settings = self.settings.clone();
                let life = self.life(incarnation);
                assert_eq!((&life.name, life.process), (&death.name, death.process));
                let has_ended = life.is_dead || life.process.is_none();
                life.account.assert_may_be_recorded(&death, has_ended, &settings);
                self.recorded.push(incarnation);
            }
        }
    }

    /// The life that is to be connected to, which may be the first that is heard of it.
    fn begun(&mut self, incarnation: Incarnation, name: &Name, inode: Inode) -> &mut Life {
        assert!(!self.over.contains(&incarnation), "{incarnation:?} is over");
        if !self.lives.contains_key(&incarnation) {
            let before = self.current.insert(name.clone(), incarnation);
            if let Some(life) = before.and_then(|before| self.lives.get_mut(&before)) {
                assert!(life.inode != inode, "one socket has two lives: {life:?}");
                life.account.is_superseded = true;
            }
        }
        let life = self.lives.entry(incarnation).or_insert_with(|| Life::new(name.clone(), inode));
        assert_eq!((&life.name, life.inode), (name, inode), "a life has one socket");
        life
    }

    fn connect(&mut self, incarnation: Incarnation, name: &Name, inode: Inode) -> Vec<Said> {
        let is_there = self.machine.directory.get(name) == Some(&inode);
        let bound = self.machine.bound[&inode.0];
        let lives = !self.machine.dead.contains(&bound.started);
        let how = self.coming.accepting.pop_front();
        self.machine.last_start += 1;
        let another = self.machine.last_start;
        let now = self.now;
        let life = self.begun(incarnation, name, inode);
        assert!(!life.account.is_recorded && !life.is_connected, "{life:?}");
        let how = match how {
            _ if !is_there && !life.is_held => Accepting::Gone,
            // What is held open is there.
            Some(Accepting::Gone | Accepting::Unfit) if life.is_held => Accepting::Refused,
            Some(how) => how,
            None if lives => Accepting::Well { has_pidfd: true, age: Some(1) },
            None => Accepting::Refused,
        };
        let refused = |error| vec![Said::NotConnected(error)];
        let (process, has_pidfd, age) = match how {
            Accepting::Well { has_pidfd, age } => (Some(bound), has_pidfd, age),
            Accepting::ByAnother { pid } => {
                (Some(Process { pid: play::pid(pid), started: another }), true, None)
            }
            Accepting::Unknown => (None, false, None),
            Accepting::Refused => return refused(ConnectError::Refused),
            Accepting::Busy => return refused(ConnectError::Busy),
            Accepting::Gone => return refused(ConnectError::Gone),
            Accepting::Unfit => {
                life.is_unfit = true;
                return refused(ConnectError::Unfit);
            }
        };
        life.is_connected = true;
        if life.is_held {
            // Its process is known from the first time.
            life.account.connects(None, now);
            return vec![Said::Connected(Peer { process: None, has_pidfd: false, age: None })];
        }
        life.is_held = true;
        if life.process.is_none() {
            life.process = process;
        }
        life.has_pidfd = has_pidfd && life.process == process;
        let age = age.map(|seconds| Duration::from_secs(seconds.into()));
        life.account.connects(age, now);
        let mut said = vec![Said::Connected(Peer { process, has_pidfd, age })];
        let is_dead = |process: Process| self.machine.dead.contains(&process.started);
        if has_pidfd && process.is_some_and(is_dead) {
            // The pidfd reports it at once, after the connection.
            self.life(incarnation).is_dead = true;
            said.push(Said::Died);
        }
        said
    }

    fn consult(&mut self, incarnation: Incarnation, questions: Questions) -> Answers {
        assert_ne!(questions, Questions::default(), "nothing is asked");
        let Answering { status, logged, out_of_memory } = self.coming.answering;
        let life = self.life(incarnation);
        assert!(!life.account.is_recorded, "{life:?}");
        let logged = logged.filter(|_| questions.own_log);
        if logged.is_some_and(|sort| asks_to_end(sort.signal())) {
            life.account.is_signalled();
        }
        Answers {
            status: match status.filter(|_| questions.status) {
                Some(Some(ending)) => StatusAnswer::Known(ending.status()),
                Some(None) => StatusAnswer::NotYet,
                None => StatusAnswer::Never,
            },
            facts: logged
                .map(|sort| (Source::OwnLog, Fact::Signalled(sort.signal(), shell())))
                .into_iter()
                .chain(
                    (out_of_memory && questions.out_of_memory)
                        .then_some((Source::ControlGroup, Fact::OutOfMemory)),
                )
                .collect(),
            lacks_own_log: false,
        }
    }

    fn change_file(
        &mut self,
        incarnation: Incarnation,
        name: &Name,
        inode: Inode,
        wanted: Option<Wanted>,
    ) -> FileOutcome {
        let outcome = match self.coming.changing.pop_front() {
            None => FileOutcome::Done,
            Some(Changing::LeftAlone) => FileOutcome::LeftAlone,
            Some(Changing::Failed) => FileOutcome::Failed,
        };
        let settings = self.settings.clone();
        let life = self.life(incarnation);
        assert_eq!((&life.name, life.inode), (name, inode), "a life has one socket");
        let fails = outcome == FileOutcome::Failed;
        life.account.assert_may_change(wanted, fails, &settings);
        outcome
    }
}
