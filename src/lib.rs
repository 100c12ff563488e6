//! Why did this virtual machine die, and was it its user's doing?
//!
//! [`verdict`] weighs the evidence and decides, [`wire`] turns bytes into types, [`sys`]
//! touches the system, and [`daemon`] joins them in one loop. README.md has the map.

#![deny(unsafe_code)]

mod account;
mod check;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod id;
pub mod log;
pub mod run;
mod startup;
pub mod stop;
pub mod sys;
pub mod verdict;
pub mod why;
pub mod wire;

use std::process::ExitCode;

use cli::Invocation;

/// The program `ganeti-kvmd`.
#[must_use]
pub fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1)) {
        Ok(Invocation::Help) => print!("{}", cli::help()),
        Ok(Invocation::Version) => print!("{}", cli::version()),
        Ok(Invocation::Completion) => print!("{}", cli::completion()),
        Ok(Invocation::Check) => return check::run(),
        Ok(Invocation::Run(options)) => return startup::run(options),
        Err(error) => {
            eprint!("{error}");
            return ExitCode::from(error.exit_code());
        }
    }
    ExitCode::SUCCESS
}
