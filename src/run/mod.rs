//! `kvmd-run`: one QEMU under any supervisor.
//!
//! Joins the rooms for a single virtual machine, without a node, a directory or a configuration: it
//! starts QEMU with a monitor of its own, has `crate::stop` decide what a signal is to do, and
//! `crate::verdict` why the machine ended. It decides neither itself.

mod arguments;
mod monitor;
mod qemu;
mod report;
mod session;
mod supervisor;
mod voice;

use std::io;
use std::process::ExitCode;

use crate::sys::clock;
use crate::sys::inherited;
use crate::sys::process::Parent;
use crate::sys::service_manager::ServiceManager;
use crate::sys::signal_descriptor::SignalDescriptor;
use crate::sys::terminal::Terminal;
use crate::wire::Signal;
use arguments::{Invocation, Options};
use qemu::Qemu;
use report::NOT_STARTED;
use session::Session;
use supervisor::Supervisor;
use voice::{Level, Voice};

/// sysexits.h's `EX_USAGE`: it will be as wrong the next time.
const WRONG_USAGE: u8 = 64;

/// The program `kvmd-run`.
#[must_use]
pub fn main() -> ExitCode {
    let voice = Voice::new();
    match arguments::parse(std::env::args_os().skip(1)) {
        Ok(Invocation::Help) => print!("{}", arguments::HELP),
        Ok(Invocation::Version) => println!("kvmd-run {}", env!("CARGO_PKG_VERSION")),
        Ok(Invocation::Run(options)) => return ExitCode::from(run(&options, &voice)),
        Err(error) => {
            voice.say(Level::Error, format_args!("{error}\nTry 'kvmd-run --help'."));
            return ExitCode::from(WRONG_USAGE);
        }
    }
    ExitCode::SUCCESS
}

/// Runs QEMU until it has ended. The code to exit with.
fn run(options: &Options, voice: &Voice) -> u8 {
    // Before any other descriptor is opened.
    let descriptor = match options.notify_fd.map(inherited::take).transpose() {
        Ok(descriptor) => descriptor,
        Err(error) => {
            let number = options.notify_fd.unwrap_or_default();
            voice.say(
                Level::Error,
                format_args!("--notify-fd: descriptor {number} cannot be used: {error}"),
            );
            return WRONG_USAGE;
        }
    };
    let terminal = Terminal::now();
    let signals = match SignalDescriptor::open(options.plans.signals()) {
        Ok(signals) => signals,
        Err(error) => return give_up(voice, &error),
    };
    let parent = options.ends_with_parent.then(|| Parent::ends_with(Signal::TERM)).transpose();
    let parent = match parent {
        Ok(Some(parent)) if parent.has_ended() => {
            voice.say(
                Level::Error,
                format_args!("what started this has ended; so QEMU is not started"),
            );
            return NOT_STARTED;
        }
        Ok(parent) => parent,
        Err(error) => return give_up(voice, &error),
    };
    let (mut qemu, monitor) = match Qemu::start(options, signals.mask_before()) {
        Ok(started) => started,
        Err(error) => {
            voice.say(Level::Error, format_args!("{error}"));
            return if error.is_lasting() { WRONG_USAGE } else { NOT_STARTED };
        }
    };
    let manager = ServiceManager::of_this_process();
    let mut supervisor = Supervisor::new(clock::now(), manager, descriptor);
    let session =
        Session::new(options, voice, &signals, &mut qemu, monitor, parent, &mut supervisor);
    let ended = match session.and_then(Session::run) {
        Ok(ended) => ended,
        // QEMU ends with this process.
        Err(error) => return give_up(voice, &error),
    };
    if ended.status.signal().is_some() {
        terminal.restore();
    }
    report::conclude(&ended, options, &qemu, signals.mask_before(), voice, &mut supervisor)
}

fn give_up(voice: &Voice, error: &io::Error) -> u8 {
    voice.say(Level::Error, format_args!("cannot watch QEMU, which ends now: {error}"));
    NOT_STARTED
}
