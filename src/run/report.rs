//! What is made of an end: a line, a record, a command of the administrator's, an exit code.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::arguments::Options;
use super::qemu::Qemu;
use super::session::Ended;
use super::supervisor::Supervisor;
use super::voice::{Level, PROGRAM, Voice};
use crate::account;
use crate::stop::Why;
use crate::sys::append_file::AppendFile;
use crate::sys::child::shell;
use crate::sys::signal_descriptor::SignalMask;
use crate::sys::{clock, process};
use crate::verdict::{Cause, Death, Missing, Settings};
use crate::wire::record::{Record, Run};

/// Readable for the group, not for everybody: command lines may hold secrets.
const MODE: u32 = 0o640;

/// As long as a command of the administrator's is waited for.
const TO_RUN: Duration = Duration::from_secs(10);

/// sysexits.h's `EX_OSERR`: there was no virtual machine.
pub(super) const NOT_STARTED: u8 = 71;

/// Says, records and hands on how it ended, and gives the code to exit with.
pub(super) fn conclude(
    ended: &Ended,
    options: &Options,
    qemu: &Qemu,
    mask: SignalMask,
    voice: &Voice,
    supervisor: &mut Supervisor,
) -> u8 {
    let death = death(ended, options, qemu);
    let why = ended.course.why(&death.verdict, Some(ended.status));
    let is_asked = ended.asked.is_some();
    let code = if ended.has_answered || is_asked {
        options.exit_codes.of(&why, death.verdict.initiator)
    } else {
        NOT_STARTED
    };
    let (level, words) = if code == NOT_STARTED && !ended.has_answered {
        let words = format!(
            "{}: QEMU ended before it was up, {}; its own message should be above. Exiting with {code}",
            death.name, ended.status
        );
        (Level::Error, words)
    } else {
        let forced = if why == Why::Forced { "; it had to be forced" } else { "" };
        let level = account::journal::level(death.verdict.initiator);
        (level, format!("{death}{forced}. Exiting with {code}"))
    };
    let record = record(&death, ended, &why, code);
    let entry = account::journal::entry(PROGRAM, level, &words, &death, &record);
    voice.say_end(level, &words, &entry);
    if let Some(path) = &options.records
        && let Err(error) = append(path, &record)
    {
        voice.say(
            Level::Error,
            format_args!("{}: cannot write to {}: {error}", death.name, path.display()),
        );
    }
    if let Some(command) = &options.on_end {
        run_command(command, &record, mask, voice, supervisor);
    }
    code
}

fn death(ended: &Ended, options: &Options, qemu: &Qemu) -> Death {
    let verdict = ended.case.judge(Some(ended.at), &Settings::default());
    let mut missing = Vec::new();
    if !ended.has_answered {
        missing.push(Missing::Conversation);
    }
    let is_by_signal = matches!(verdict.cause, Cause::HostSignal(_) | Cause::Killed);
    if is_by_signal && ended.case.sent(&verdict).is_none() {
        missing.push(Missing::Sender);
    }
    Death {
        name: options.guest_name(),
        process: Some(qemu.process),
        verdict,
        case: ended.case.clone(),
        died: Some(ended.at),
        ended: ended.at,
        file: None,
        missing,
    }
}

/// The daemon's record, with the signal that asked for the end where no other ended it.
fn record(death: &Death, ended: &Ended, why: &Why, code: u8) -> Record {
    let mut record = account::record(death);
    if let (None, Some((signal, sender))) = (&record.signal, &ended.asked) {
        record.signal = Some(signal.to_string());
        record.sender = Some(Arc::unwrap_or_clone(Arc::clone(sender)));
    }
    record.run = Some(Run { exit_code: code, why: why.to_string() });
    record
}

fn append(path: &Path, record: &Record) -> io::Result<()> {
    let mut file = AppendFile::new(path, MODE);
    file.open()?;
    file.write_line(&record.to_line())
}

/// Runs the administrator's command with the verdict in its environment.
fn run_command(
    command: &OsString,
    record: &Record,
    mask: SignalMask,
    voice: &Voice,
    supervisor: &mut Supervisor,
) {
    let run = record.run.clone().unwrap_or_default();
    let mut environment = record.environment();
    environment.push(("KVMD_WHY", run.why));
    environment.push(("KVMD_EXIT_CODE", run.exit_code.to_string()));
    let failed = |error: io::Error| {
        voice.say(Level::Error, format_args!("cannot run the command of --on-end: {error}"));
    };
    let mut child = match shell(command, environment, mask).spawn() {
        Ok(child) => child,
        Err(error) => return failed(error),
    };
    let ends = process::open_pidfd(child.id()).map(|pidfd| await_command(&pidfd, supervisor));
    match ends {
        Ok(true) => match child.wait() {
            Ok(status) if status.success() => {}
            Ok(status) => {
                voice.say(Level::Warning, format_args!("the command of --on-end failed: {status}"));
            }
            Err(error) => failed(error),
        },
        Ok(false) => voice.say(
            Level::Warning,
            format_args!(
                "the command of --on-end, pid {}, still runs after {} s and is left behind",
                child.id(),
                TO_RUN.as_secs()
            ),
        ),
        Err(error) => failed(error),
    }
}

/// Waits for the administrator's command, and has the supervisor know meanwhile that this program is
/// not stuck. Whether it has ended in its time.
fn await_command(pidfd: &OwnedFd, supervisor: &mut Supervisor) -> bool {
    let over = clock::now() + TO_RUN;
    supervisor.ask_for_time(clock::now(), over);
    loop {
        let now = clock::now();
        supervisor.tick(now);
        let until = supervisor.due().map_or(over, |due| due.min(over));
        if process::await_end(pidfd, until.since(now)) {
            return true;
        }
        if over <= clock::now() {
            return false;
        }
    }
}
