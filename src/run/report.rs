//! What is made of an end: a line, a record, a command of the administrator's, an exit code.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::arguments::Options;
use super::qemu::Qemu;
use super::session::Ended;
use super::voice::{Level, PROGRAM, Voice};
use crate::account;
use crate::stop::Why;
use crate::sys::append_file::AppendFile;
use crate::sys::child::spawn_shell;
use crate::sys::process;
use crate::sys::signal_descriptor::SignalMask;
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
) -> u8 {
    let death = death(ended, options, qemu);
    let why = ended.course.why(&death.verdict, Some(ended.status));
    let is_asked = ended.asked.is_some();
    let code = if ended.has_greeted || is_asked {
        options.exit_codes.of(&why, death.verdict.initiator)
    } else {
        NOT_STARTED
    };
    let (level, words) = if code == NOT_STARTED && !ended.has_greeted {
        let words = format!(
            "{}: QEMU ended before it had opened its monitor, {}; its own message should be above. Exiting with {code}",
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
        run_command(command, &record, mask, voice);
    }
    code
}

fn death(ended: &Ended, options: &Options, qemu: &Qemu) -> Death {
    let verdict = ended.case.judge(Some(ended.at), &Settings::default());
    let mut missing = Vec::new();
    if !ended.has_greeted {
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
fn run_command(command: &OsString, record: &Record, mask: SignalMask, voice: &Voice) {
    let or_nothing = |text: &Option<String>| text.clone().unwrap_or_default();
    let run = record.run.clone().unwrap_or_default();
    let environment = vec![
        ("KVMD_NAME", record.instance.clone()),
        ("KVMD_PID", record.pid.map_or_else(String::new, |pid| pid.to_string())),
        ("KVMD_CAUSE", record.cause.clone()),
        ("KVMD_INITIATOR", record.initiator.clone()),
        ("KVMD_SUMMARY", record.summary.clone()),
        ("KVMD_SIGNAL", or_nothing(&record.signal)),
        ("KVMD_WHY", run.why),
        ("KVMD_EXIT_CODE", run.exit_code.to_string()),
    ];
    let failed = |error: io::Error| {
        voice.say(Level::Error, format_args!("cannot run the command of --on-end: {error}"));
    };
    let mut child = match spawn_shell(command, environment, mask) {
        Ok(child) => child,
        Err(error) => return failed(error),
    };
    let ends = process::open_pidfd(child.id()).map(|pidfd| process::await_end(&pidfd, TO_RUN));
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
