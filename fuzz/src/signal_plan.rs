//! What an administrator has a signal do: the text of `--signal` and of `--exit-codes`, a line each.
//!
//! Nobody hostile writes it, but a mistake in it must be an error that can be read, and no plan may
//! lead to a stop that is never over.

use std::time::Duration;

use kvmd::id::Moment;
use kvmd::stop::{Action, Course, Deed, ExitCodes, Input, Phase, Plan, Plans};
use kvmd::wire::Signal;
use kvmd::wire::qmp::RunState;

use crate::assert_fit_to_print;

const BUDGET: Duration = Duration::from_secs(120);

pub fn check(input: &[u8]) {
    for line in String::from_utf8_lossy(input).lines() {
        match Plan::parse(line) {
            Ok((signal, plan)) => check_plan(signal, &plan),
            Err(error) => assert_fit_to_print(&error.to_string()),
        }
        if let Err(error) = ExitCodes::default().change(line) {
            assert_fit_to_print(&error.to_string());
        }
    }
}

fn check_plan(signal: Signal, plan: &Plan) {
    let actions = [Some(&plan.first), plan.then.as_ref(), plan.again.as_ref()];
    let is_users = |action: &&Action| matches!(action, Action::Monitor(_));
    // Of a command its name is shown.
    if !actions.into_iter().flatten().any(|action| is_users(&action)) {
        let again = Plan::parse(&format!("{signal}={plan}"));
        assert_eq!(again.as_ref(), Ok(&(signal, plan.clone())));
    }
    let mut plans = Plans::default();
    plans.set(signal, plan.clone());
    if plans.longer_than(BUDGET).is_some() {
        return;
    }
    let began = Moment(Duration::from_secs(1));
    let mut course = Course::new(plans, BUDGET, true);
    course.take(began, &Input::Greeted);
    course.take(began, &Input::Signal(signal));
    assert_eq!(course.over().is_some(), plan.is_stop());
    course.take(began, &Input::State(RunState::Running));
    let mut deeds = 0;
    while let Some(due) = course.due() {
        assert!(due <= began + BUDGET);
        let done = course.take(due, &Input::Tick);
        assert!(!done.is_empty());
        deeds += done.len();
        assert!(deeds < 50, "{plan}");
        if done.contains(&Deed::Kill) {
            assert_eq!(course.phase(), Phase::Killed);
        }
    }
}
