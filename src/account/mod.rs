//! The account of an end: its record, with the clock on the wall and what the system says of cores,
//! and its entry in the journal.

pub(crate) mod journal;

use crate::id::Moment;
use crate::sys::{clock, core_pattern, process};
use crate::verdict::Death;
use crate::wire::WaitStatus;
use crate::wire::record::{self, Core, Evidence, Record};

/// The record of this end, as both programs write it.
pub(crate) fn record(death: &Death) -> Record {
    let wall = clock::wall_offset();
    // In the time of boot, which goes on while the machine is suspended.
    let started = death.process.and_then(process::started);
    let started = started.map(|began| Moment(began.saturating_sub(clock::boot_offset())));
    let seconds_from_end = |at: Moment| {
        let before = death.ended.since(at).as_secs_f64();
        if before > 0.0 { -before } else { at.since(death.ended).as_secs_f64() }
    };
    let status = death.status();
    let evidence = death.case.timeline().pieces().into_iter().map(|piece| Evidence {
        at: seconds_from_end(piece.at),
        source: piece.source.to_string(),
        what: piece.fact.to_string(),
    });
    Record {
        version: record::VERSION,
        instance: instance_name(death),
        pid: death.process.map(|process| process.pid),
        start: started.map(|start| record::rfc3339(start.0 + wall)),
        end: record::rfc3339(death.ended.0 + wall),
        uptime: started.map(|start| death.ended.since(start).as_secs_f64()),
        cause: death.verdict.cause.to_string(),
        initiator: death.verdict.initiator.to_string(),
        summary: death.in_words().into(),
        signal: death.verdict.cause.signal().map(|signal| signal.to_string()),
        exit_code: status.and_then(WaitStatus::code),
        died_by: status.and_then(WaitStatus::signal).map(|signal| signal.to_string()),
        core: core(death),
        sender: death.sent().map(|sent| (*sent.sender).clone()),
        qemu: death.case.qemu().map(|version| version.to_string()),
        marked: death.file,
        evidence: evidence.collect(),
        omitted: death.case.timeline().omitted,
        missing: death.missing.iter().map(ToString::to_string).collect(),
        run: None,
        node: None,
    }
}

/// The name as it is shown, without its quotes: so it can be compared with what a user types.
fn instance_name(death: &Death) -> String {
    let quoted = death.name.to_string();
    quoted[1..quoted.len() - 1].to_string()
}

fn core(death: &Death) -> Option<Core> {
    let dumped = death.status().is_some_and(WaitStatus::core_dumped);
    if !dumped && !death.case.dumps_core() {
        return None;
    }
    let pattern = core_pattern::read();
    let pid = death.process.map(|process| process.pid);
    let hint =
        pattern.as_deref().filter(|_| dumped).map(|pattern| core_pattern::hint(pattern, pid));
    Some(Core { dumped, pattern, hint })
}
