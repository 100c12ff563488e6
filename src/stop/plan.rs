//! What each signal is to do, and how that is spelt on the command line:
//! `NAME=ACTION[,timeout=SECONDS][,then=ACTION][,again=ACTION]`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::wire::qmp::UserCommand;
use crate::wire::{Excerpt, Signal};

/// A guest is left alone so long before its time is over, at most: QEMU has to flush its disks.
const FOR_QUIT: Duration = Duration::from_secs(15);

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Nothing,
    /// The guest's power button, again and again.
    Powerdown,
    /// QEMU flushes and ends; the guest is not asked.
    Quit,
    /// SIGKILL.
    Kill,
    /// The guest's reset button.
    Reset,
    /// A command of the user's own.
    Monitor(UserCommand),
}

impl Action {
    /// What follows where it did not help and nothing else was said.
    fn default_then(&self) -> Option<Self> {
        match self {
            Self::Powerdown => Some(Self::Quit),
            Self::Quit => Some(Self::Kill),
            _ => None,
        }
    }

    /// How rough it is: a stop only ever gets rougher. 0 for what ends nothing.
    pub(super) fn roughness(&self) -> u8 {
        match self {
            Self::Nothing | Self::Reset | Self::Monitor(_) => 0,
            Self::Powerdown => 1,
            Self::Quit => 2,
            Self::Kill => 3,
        }
    }

    /// Reads one from the beginning of `text`, and gives the rest.
    fn parse(text: &str) -> Result<(Self, &str), PlanError> {
        if let Some(command) = text.strip_prefix("monitor:") {
            let (command, rest) = UserCommand::parse(command)
                .map_err(|error| PlanError::Command(error.to_string()))?;
            return Ok((Self::Monitor(command), rest));
        }
        let end = text.find(',').unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        let action = match word {
            "nothing" => Self::Nothing,
            "powerdown" => Self::Powerdown,
            "quit" => Self::Quit,
            "kill" => Self::Kill,
            "reset" => Self::Reset,
            _ => return Err(PlanError::Action(shown(word))),
        };
        Ok((action, rest))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Powerdown => f.write_str("powerdown"),
            Self::Quit => f.write_str("quit"),
            Self::Kill => f.write_str("kill"),
            Self::Reset => f.write_str("reset"),
            Self::Monitor(command) => write!(f, "monitor:{}", command.name()),
        }
    }
}

/// What a signal is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub first: Action,
    /// How long the first action has before the next.
    pub timeout: Option<Duration>,
    /// The next action, if it is not the default one.
    pub then: Option<Action>,
    /// What the same signal does when it comes again in the same stop.
    pub again: Option<Action>,
}

impl Plan {
    const fn new(first: Action) -> Self {
        Self { first, timeout: None, then: None, again: None }
    }

    /// Whether the virtual machine is to end of it.
    #[must_use]
    pub fn is_stop(&self) -> bool {
        self.actions().iter().any(|action| action.roughness() > 0)
    }

    /// The actions in their order.
    fn actions(&self) -> Vec<Action> {
        let mut next = self.then.clone().or_else(|| self.first.default_then());
        let mut actions = vec![self.first.clone()];
        while let Some(action) = next.filter(|action| *action != Action::Nothing) {
            next = action.default_then();
            actions.push(action);
        }
        actions
    }

    /// The same with how long after the beginning each is given up, if all of it may take `budget`.
    /// The last is never given up.
    pub(super) fn steps(&self, budget: Duration) -> Vec<(Action, Option<Duration>)> {
        let actions = self.actions();
        let mut begins = Duration::ZERO;
        let last = actions.len() - 1;
        let steps = actions.into_iter().enumerate().map(|(i, action)| {
            let left = budget.saturating_sub(begins);
            let ends = match (&action, self.timeout) {
                (_, Some(timeout)) if i == 0 => timeout,
                (Action::Quit, _) => budget,
                _ => begins + left.saturating_sub(FOR_QUIT).max(left / 2),
            };
            begins = ends;
            (action, (i < last).then_some(ends))
        });
        steps.collect()
    }

    /// Reads `NAME=ACTION[,timeout=SECONDS][,then=ACTION][,again=ACTION]`.
    pub fn parse(text: &str) -> Result<(Signal, Self), PlanError> {
        let (name, rest) = text.split_once('=').ok_or_else(|| PlanError::Form(shown(text)))?;
        let signal: Signal = name.parse().map_err(|_| PlanError::Signal(shown(name)))?;
        if !can_be_planned(signal) {
            return Err(PlanError::Uncatchable(signal));
        }
        let (first, mut rest) = Action::parse(rest)?;
        let mut plan = Self::new(first);
        while let Some(more) = rest.strip_prefix(',') {
            let (key, value) = more.split_once('=').ok_or_else(|| PlanError::Key(shown(more)))?;
            match key {
                "timeout" if plan.timeout.is_none() => {
                    let end = value.find(',').unwrap_or(value.len());
                    plan.timeout = Some(seconds(&value[..end])?);
                    rest = &value[end..];
                }
                "then" if plan.then.is_none() => (plan.then, rest) = one_more(value)?,
                "again" if plan.again.is_none() => (plan.again, rest) = one_more(value)?,
                _ => return Err(PlanError::Key(shown(key))),
            }
        }
        if !rest.is_empty() {
            return Err(PlanError::Key(shown(rest)));
        }
        if plan.timeout.is_some() && plan.actions().len() == 1 {
            return Err(PlanError::NothingThen(plan.first));
        }
        Ok((signal, plan))
    }
}

fn one_more(text: &str) -> Result<(Option<Action>, &str), PlanError> {
    Action::parse(text).map(|(action, rest)| (Some(action), rest))
}

fn seconds(text: &str) -> Result<Duration, PlanError> {
    match text.parse() {
        Ok(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
        _ => Err(PlanError::Timeout(shown(text))),
    }
}

fn shown(text: &str) -> String {
    Excerpt(text.as_bytes()).to_string()
}

/// Not those that no process can catch (SIGKILL, SIGSTOP), nor those that the kernel sends for a
/// fault or for a child.
fn can_be_planned(signal: Signal) -> bool {
    const KERNELS: [i32; 12] = [4, 5, 6, 7, 8, 9, 11, 13, 17, 19, 31, 16];
    !KERNELS.contains(&signal.0)
}

impl fmt::Display for Plan {
    /// As it is spelt on the command line, after `NAME=`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        if let Some(timeout) = self.timeout {
            write!(f, ",timeout={}", timeout.as_secs())?;
        }
        if let Some(then) = &self.then {
            write!(f, ",then={then}")?;
        }
        if let Some(again) = &self.again {
            write!(f, ",again={again}")?;
        }
        Ok(())
    }
}

/// Why a plan cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    Form(String),
    Signal(String),
    Uncatchable(Signal),
    Action(String),
    Command(String),
    Key(String),
    Timeout(String),
    /// A timeout, after which nothing would be done.
    NothingThen(Action),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(text) => {
                write!(f, "{text} is not of the form NAME=ACTION, such as TERM=powerdown")
            }
            Self::Signal(name) => {
                write!(f, "there is no signal {name}; pass a name (TERM, RTMIN+3) or a number (15)")
            }
            Self::Uncatchable(signal) => write!(
                f,
                "{signal} cannot be given an action: no process can catch it, or the kernel itself uses it"
            ),
            Self::Action(word) => write!(
                f,
                "there is no action {word}; pass powerdown, quit, kill, reset, nothing or monitor:COMMAND"
            ),
            Self::Command(error) => error.fmt(f),
            Self::Key(text) => {
                write!(
                    f,
                    "{text} is not one of timeout=SECONDS, then=ACTION, again=ACTION, once each"
                )
            }
            Self::Timeout(text) => {
                write!(f, "timeout={text} is not a whole number of seconds, 1 or more")
            }
            Self::NothingThen(action) => {
                write!(f, "a timeout needs a then=ACTION here: nothing follows {action} by itself")
            }
        }
    }
}

impl std::error::Error for PlanError {}

/// The plans for all signals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plans(BTreeMap<i32, Plan>);

impl Default for Plans {
    /// systemd's own signals among them (`systemd(1)`): RTMIN+3 halts, RTMIN+4 powers off, RTMIN+14
    /// does so at once, RTMIN+15 reboots at once.
    fn default() -> Self {
        let real_time = |number| Signal::REAL_TIME.0 + number;
        Self(BTreeMap::from([
            (Signal::TERM.0, Plan::new(Action::Powerdown)),
            (real_time(3), Plan::new(Action::Powerdown)),
            (real_time(4), Plan::new(Action::Powerdown)),
            (Signal::INT.0, Plan { again: Some(Action::Quit), ..Plan::new(Action::Powerdown) }),
            (Signal::QUIT.0, Plan::new(Action::Quit)),
            (real_time(14), Plan::new(Action::Quit)),
            (real_time(15), Plan::new(Action::Reset)),
            (Signal::HUP.0, Plan::new(Action::Nothing)),
            (Signal::USR1.0, Plan::new(Action::Nothing)),
            (Signal::USR2.0, Plan::new(Action::Nothing)),
        ]))
    }
}

impl Plans {
    /// Gives this signal another plan.
    pub fn set(&mut self, signal: Signal, plan: Plan) {
        self.0.insert(signal.0, plan);
    }

    #[must_use]
    pub fn of(&self, signal: Signal) -> Option<&Plan> {
        self.0.get(&signal.0)
    }

    /// All signals that have one.
    pub fn signals(&self) -> impl Iterator<Item = Signal> {
        self.0.keys().map(|&number| Signal(number))
    }

    /// The first signal whose first action is to have at least as long as all of it may take.
    #[must_use]
    pub fn longer_than(&self, budget: Duration) -> Option<(Signal, Duration)> {
        self.0.iter().find_map(|(&number, plan)| {
            let timeout = plan.timeout.filter(|&timeout| timeout >= budget)?;
            Some((Signal(number), timeout))
        })
    }
}
