//! Why did this virtual machine die, and was it its user's doing?
//!
//! [`verdict`] weighs the evidence and decides, [`wire`] turns bytes into types, [`sys`]
//! touches the system, and [`daemon`] joins them in one loop. README.md has the map.

pub mod cli;
pub mod config;
pub mod daemon;
pub mod log;
pub mod sys;
pub mod verdict;
pub mod wire;

use std::process::ExitCode;

use ::log::{error, info, warn};

use cli::{Command, Options};
use config::Paths;
use daemon::Daemon;

/// The program `ganeti-kvmd`.
#[must_use]
pub fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help) => print!("{}", cli::HELP),
        Ok(Command::Version) => println!("ganeti-kvmd {}", env!("CARGO_PKG_VERSION")),
        Ok(Command::Run(options)) => return run(options),
        Err(error) => {
            eprintln!("Command line error: {error}\n\n{}", cli::HELP);
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn run(options: Options) -> ExitCode {
    if !options.foreground {
        eprintln!("Error: this version runs in the foreground only; start it with -f");
        return ExitCode::FAILURE;
    }
    let paths = Paths::from_environment();
    let (log, opened) = log::start(&paths.log_file(), true, options.debug);
    info!(target: log::NOTICE, "ganeti-kvmd daemon startup");
    if let Err(error) = opened {
        let path = paths.log_file();
        warn!("Cannot open the log file {}, so it goes to stderr alone: {error}", path.display());
    }
    let result = Daemon::new(paths, options.settings, log).and_then(|mut daemon| daemon.run());
    if let Err(error) = &result {
        error!("{error}");
    }
    info!(target: log::NOTICE, "ganeti-kvmd daemon shutdown");
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
