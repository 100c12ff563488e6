//! The course of one virtual machine's life as far as its supervisor is concerned: from a signal to
//! its end, within one budget of time.
//!
//! A stop gets rougher step by step: the power button, `quit`, SIGKILL. It never takes a step back.

use std::collections::VecDeque;
use std::time::Duration;

use super::exit_code::Why;
use super::plan::{Action, Plan, Plans};
use super::protocol::{Deed, Done, Input, Phase};
use super::stage::{Stage, Stop};
use crate::id::Moment;
use crate::verdict::Verdict;
use crate::wire::qmp::{Event, RunState};
use crate::wire::{Signal, WaitStatus};

/// The button is pressed again so soon after the first time: Windows needs it.
const SOON: Duration = Duration::from_millis(500);
/// And then so often: a guest that boots is deaf to it until it has enabled it.
const OFTEN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Monitor {
    NotYet,
    Open,
    Gone,
}

/// The state machine.
#[derive(Clone, Debug)]
pub struct Course {
    plans: Plans,
    budget: Duration,
    /// A guest that the host has paused is to go on, so that it can obey.
    continues: bool,
    monitor: Monitor,
    /// The last that was heard of it is that the guest runs. It may have suspended itself since: then
    /// a press does nothing, and is repeated when it wakes.
    is_running: bool,
    /// SHUTDOWN was heard, and not taken back.
    is_going_down: bool,
    stop: Option<Stop>,
    done: Done,
    deeds: Vec<Deed>,
}

impl Course {
    /// `budget` is how long a stop may take, and `continues` whether a paused guest is to go on for
    /// it.
    #[must_use]
    pub fn new(plans: Plans, budget: Duration, continues: bool) -> Self {
        Self {
            plans,
            budget,
            continues,
            monitor: Monitor::NotYet,
            is_running: false,
            is_going_down: false,
            stop: None,
            done: Done::default(),
            deeds: Vec::new(),
        }
    }

    /// Takes what has happened, and says what is to be done, in this order.
    pub fn take(&mut self, now: Moment, input: &Input<'_>) -> Vec<Deed> {
        match input {
            Input::Signal(signal) => self.take_signal(now, *signal),
            Input::ParentEnded => {
                self.done.is_orphaned |= self.to_the_end().is_none() && !self.is_going_down;
                self.take_signal(now, Signal::TERM);
            }
            Input::Greeted => {
                self.monitor = Monitor::Open;
                if self.stage() == Some(Stage::HungUpEarly) {
                    self.begin_step(now);
                }
            }
            Input::MonitorClosed => {
                self.monitor = Monitor::Gone;
                if self.stage().is_some_and(Stage::asks_guest) {
                    if self.done.has_hung_up {
                        // It ends of that: it was only heard before it did.
                        self.set_stage(Stage::Waiting);
                    } else {
                        self.done.is_forced = true;
                        self.hang_up(Stage::Waiting);
                    }
                }
            }
            Input::State(state) => {
                self.is_running = *state == RunState::Running;
                self.take_state(now, *state);
            }
            Input::Event(event) => self.take_event(now, event),
            Input::CannotWake if matches!(self.stage(), Some(Stage::Pressing { .. })) => {
                self.skip_to_quit(now, true);
            }
            Input::CannotWake | Input::Tick => {}
        }
        self.catch_up(now);
        std::mem::take(&mut self.deeds)
    }

    /// When [`Input::Tick`] is due, if it is.
    #[must_use]
    pub fn due(&self) -> Option<Moment> {
        let stop = self.stop.as_ref()?;
        let step_ends = stop.steps.front().and_then(|(_, ends)| *ends);
        match stop.stage {
            Stage::Killed => None,
            Stage::Flushing => stop.may_kill().then_some(stop.ends),
            Stage::Pressing { next }
            | Stage::Leaving { next }
            | Stage::Asking { next: Some(next) } => {
                Some(step_ends.map_or(next, |ends| ends.min(next)))
            }
            Stage::Asking { next: None } | Stage::Waiting | Stage::HungUpEarly => step_ends,
        }
    }

    /// When what was asked for has had its time, whatever comes then.
    #[must_use]
    pub fn over(&self) -> Option<Moment> {
        self.stop.as_ref().map(|stop| stop.ends)
    }

    /// When QEMU will have ended. Nothing where that was not planned, but a request that may be in vain.
    #[must_use]
    pub fn ends(&self) -> Option<Moment> {
        self.to_the_end().map(|stop| stop.ends)
    }

    /// The stop that is under way, if QEMU is to be gone after it.
    fn to_the_end(&self) -> Option<&Stop> {
        self.stop.as_ref().filter(|stop| stop.may_kill())
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.stop.as_ref().map(|stop| stop.stage) {
            _ if self.done.has_killed => Phase::Killed,
            None if self.is_going_down => Phase::Flushing,
            Some(Stage::Flushing) => Phase::Flushing,
            Some(stage) if stage.asks_guest() => Phase::Asked,
            Some(_) if self.done.has_quit || self.done.has_hung_up => Phase::ToldToEnd,
            // Nobody has asked; or what was asked for is over, and nothing is to follow; or it is no more
            // than a command of the user's own.
            _ => Phase::Going,
        }
    }

    /// QEMU has said that it is to end, or its guest.
    #[must_use]
    pub fn is_going_down(&self) -> bool {
        self.is_going_down
    }

    /// The guest did not do what it was asked, or could not be asked.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.done.is_forced
    }

    /// The signal that the stop under way was first asked for with.
    #[must_use]
    pub fn asked_with(&self) -> Option<Signal> {
        self.stop.as_ref().and_then(|stop| stop.seen.first()).copied()
    }

    /// Why it ended, as far as a supervisor is concerned.
    #[must_use]
    pub fn why(&self, verdict: &Verdict, status: Option<WaitStatus>) -> Why {
        Why::new(verdict, status, self.done)
    }

    fn stage(&self) -> Option<Stage> {
        self.stop.as_ref().map(|stop| stop.stage)
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(stop) = &mut self.stop {
            stop.stage = stage;
        }
    }

    fn take_signal(&mut self, now: Moment, signal: Signal) {
        let Some(mut plan) = self.plans.of(signal).cloned() else { return };
        let is_again = self.stop.as_ref().is_some_and(|stop| stop.seen.contains(&signal));
        if is_again && let Some(first) = plan.again {
            plan = Plan { first, timeout: None, then: None, again: None };
        } else if is_again && self.to_the_end().is_some() {
            return;
        }
        if self.stage() == Some(Stage::Killed) {
            return;
        }
        if !plan.is_stop() {
            self.act(&plan.first);
        } else if self.to_the_end().is_some() {
            self.escalate(now, &plan);
        } else {
            self.begin(now, signal, &plan);
        }
        if let Some(stop) = &mut self.stop
            && !stop.seen.contains(&signal)
        {
            stop.seen.push(signal);
        }
    }

    /// A stop begins.
    fn begin(&mut self, now: Moment, signal: Signal, plan: &Plan) {
        let steps = plan.steps(self.budget);
        let steps = steps.into_iter().map(|(action, ends)| (action, ends.map(|ends| now + ends)));
        self.stop = Some(Stop {
            ends: now + self.budget,
            seen: vec![signal],
            steps: steps.collect(),
            stage: Stage::Waiting,
        });
        // What became of a request before is its own affair.
        self.done.is_forced = false;
        self.done.was_asked |= !self.is_going_down && self.to_the_end().is_some();
        if self.is_going_down && plan.first != Action::Kill {
            self.flush();
        } else {
            self.begin_step(now);
        }
    }

    /// Another signal came in the course of a stop: it can only make it rougher, and buys no time.
    fn escalate(&mut self, now: Moment, plan: &Plan) {
        let Some(stop) = &mut self.stop else { return };
        let current = match stop.stage {
            Stage::Flushing => Action::Quit.roughness(),
            _ => stop.steps.front().map_or(0, |(action, _)| action.roughness()),
        };
        if plan.first.roughness() <= current {
            return;
        }
        let (left, over) = (stop.ends.since(now), stop.ends);
        let steps = plan.steps(left).into_iter();
        stop.steps =
            steps.map(|(action, ends)| (action, ends.map(|ends| (now + ends).min(over)))).collect();
        self.done.is_forced |= current > 0;
        self.begin_step(now);
    }

    /// What ends nothing.
    fn act(&mut self, action: &Action) {
        if self.monitor != Monitor::Open {
            return;
        }
        match action {
            Action::Reset => {
                self.done.has_reset = true;
                self.deeds.push(Deed::Reset);
            }
            Action::Monitor(command) => {
                self.done.has_quit |= command.name() == "quit" && !self.is_going_down;
                self.done.has_reset |= command.name() == "system_reset";
                self.deeds.push(Deed::Execute(command.clone()));
            }
            Action::Nothing | Action::Powerdown | Action::Quit | Action::Kill => {}
        }
    }

    fn begin_step(&mut self, now: Moment) {
        let Some(action) = self.stop.as_ref().and_then(|stop| stop.steps.front()) else { return };
        match action.0.clone() {
            Action::Kill => self.kill(),
            // Before QEMU's greeting no guest has run, and nothing is lost. Where the monitor is
            // gone it is all that is left.
            action if self.monitor != Monitor::Open => {
                let is_early = self.monitor == Monitor::NotYet;
                self.done.is_forced |= !is_early && action != Action::Quit;
                self.hang_up(if is_early { Stage::HungUpEarly } else { Stage::Waiting });
            }
            Action::Powerdown => {
                if self.is_running {
                    self.end_at_reboot();
                    self.deeds.push(Deed::PressButton);
                }
                self.deeds.push(Deed::AskState);
                self.set_stage(Stage::Asking { next: self.is_running.then_some(now + SOON) });
            }
            Action::Quit => {
                self.done.has_quit |= !self.is_going_down;
                self.deeds.push(Deed::Quit);
                self.set_stage(Stage::Waiting);
            }
            action @ (Action::Nothing | Action::Reset | Action::Monitor(_)) => {
                self.act(&action);
                self.set_stage(Stage::Waiting);
            }
        }
    }

    /// One that answers the button with a reboot has ended, too; but of a mere request it may know nothing
    /// any more when it reboots one day.
    fn end_at_reboot(&mut self) {
        if self.to_the_end().is_some() {
            self.deeds.push(Deed::EndAtReboot);
        }
    }

    fn hang_up(&mut self, stage: Stage) {
        self.done.has_hung_up |= !self.is_going_down;
        self.deeds.push(Deed::HangUp);
        self.set_stage(stage);
    }

    fn kill(&mut self) {
        self.done.has_killed = true;
        self.deeds.push(Deed::Kill);
        self.set_stage(Stage::Killed);
    }

    /// The guest is done. A QEMU with `-no-shutdown` stays where it is not told to end.
    fn flush(&mut self) {
        if self.monitor == Monitor::Open && !self.done.has_quit {
            self.deeds.push(Deed::Quit);
        }
        self.set_stage(Stage::Flushing);
    }

    fn take_state(&mut self, now: Moment, state: RunState) {
        let is_news = match self.stage() {
            Some(Stage::Asking { .. }) => true,
            // The guest has been asked; but it may no longer be here to obey.
            Some(Stage::Pressing { .. }) => {
                matches!(state, RunState::Leaving | RunState::Elsewhere | RunState::Broken)
            }
            _ => false,
        };
        if !is_news {
            return;
        }
        let pressing = Stage::Pressing { next: now + SOON };
        let start = match state {
            RunState::Running => match self.stage() {
                Some(Stage::Asking { next: Some(next) }) => {
                    return self.set_stage(Stage::Pressing { next });
                }
                _ => None,
            },
            RunState::Leaving => return self.set_stage(Stage::Leaving { next: now + SOON }),
            RunState::Suspended => Some(Deed::Wake),
            RunState::Paused if self.continues => Some(Deed::Continue),
            // There is no guest here that could obey, or lose anything.
            RunState::NotStarted | RunState::Elsewhere | RunState::Shutdown => {
                self.skip_to_quit(now, false);
                return;
            }
            RunState::Paused | RunState::Broken | RunState::Other => {
                self.skip_to_quit(now, true);
                return;
            }
        };
        self.end_at_reboot();
        self.deeds.extend(start);
        self.deeds.push(Deed::PressButton);
        self.set_stage(pressing);
    }

    /// The guest cannot be asked. What comes after that is done at once; where nothing was to come,
    /// QEMU ends only if no guest is there.
    fn skip_to_quit(&mut self, now: Moment, is_forced: bool) {
        let Some(stop) = &mut self.stop else { return };
        if stop.steps.len() > 1 {
            stop.steps.pop_front();
        } else if is_forced {
            stop.stage = Stage::Waiting;
            return;
        } else {
            stop.steps = VecDeque::from([(Action::Quit, None)]);
        }
        self.done.is_forced |= is_forced;
        self.begin_step(now);
    }

    fn take_event(&mut self, now: Moment, event: &Event) {
        match event {
            Event::Wakeup | Event::Resume => self.is_running = true,
            Event::Stop => self.is_running = false,
            _ => {}
        }
        match event {
            Event::Shutdown(_) => {
                let is_first = !std::mem::replace(&mut self.is_going_down, true);
                if is_first && self.stop.is_some() && self.stage() != Some(Stage::Killed) {
                    self.flush();
                }
            }
            // It can hear the button again.
            Event::Wakeup | Event::Resume => {
                self.is_going_down = false;
                if matches!(self.stage(), Some(Stage::Pressing { .. } | Stage::Leaving { .. })) {
                    self.deeds.push(Deed::PressButton);
                    self.set_stage(Stage::Pressing { next: now + SOON });
                }
            }
            // Somebody has paused it; or it is being migrated, and will not obey here.
            Event::Stop => {
                if matches!(self.stage(), Some(Stage::Pressing { .. })) {
                    self.deeds.push(Deed::AskState);
                }
            }
            // It boots, and is deaf for a while.
            Event::Reset => {
                self.is_going_down = false;
                if matches!(self.stage(), Some(Stage::Pressing { .. })) {
                    self.set_stage(Stage::Pressing { next: now + SOON });
                }
            }
            _ => {}
        }
    }

    /// Does what is due by now.
    fn catch_up(&mut self, now: Moment) {
        while self.due().is_some_and(|due| due <= now) {
            let Some(stop) = &mut self.stop else { return };
            let is_over = |&(_, ends): &(_, Option<Moment>)| ends.is_some_and(|ends| ends <= now);
            if stop.stage == Stage::Flushing {
                self.done.is_forced = true;
                self.kill();
            } else if stop.steps.front().is_some_and(is_over) {
                stop.steps.pop_front();
                self.done.is_forced = true;
                self.begin_step(now);
            } else if matches!(stop.stage, Stage::Leaving { .. }) {
                self.deeds.push(Deed::AskState);
                self.set_stage(Stage::Asking { next: None });
            } else {
                self.deeds.push(Deed::PressButton);
                let next = now + OFTEN;
                let is_asking = matches!(stop.stage, Stage::Asking { .. });
                stop.stage = if !stop.may_kill() && stop.ends < next {
                    // It has had its time.
                    Stage::Waiting
                } else if is_asking {
                    Stage::Asking { next: Some(next) }
                } else {
                    Stage::Pressing { next }
                };
            }
        }
    }
}
