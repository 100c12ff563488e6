//! What is told of an end: records, and the administrator's own command.

use std::fs;
use std::process::Command;

use testbed::{Signal, await_that, needs, send_signal};

use crate::{kvmd_run, record};

#[test]
fn the_record_says_who_asked_and_kvmd_why_tells_it() {
    needs!(Qemu);
    let builder = kvmd_run();
    let records = builder.path("records");
    let runner = builder.boot();
    let qemu = runner.qemu();
    runner.signal(Signal::TERM);
    let why = |arguments: &[&str]| {
        let file = format!("--file={}", records.display());
        let output = Command::new(env!("CARGO_BIN_EXE_kvmd-why"))
            .arg(file)
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    await_that("there is a record", || records.exists());
    await_that("it is written", || why(&["web1"]).contains("kvmd-run exited with 0."));
    let told = why(&["web1"]);
    let this = std::process::id();
    assert!(
        told.starts_with(&format!(
            "web1 (pid {qemu}) obeyed a powerdown request after SIGTERM from "
        )),
        "{told}"
    );
    assert!(told.contains(&format!("[{this}] (uid ")), "{told}");
    assert!(told.contains("QEMU said: guest-shutdown."), "{told}");
    let (_, evidence) = told.split_once("The evidence").unwrap();
    let pieces = ["SIGTERM from", "pressed the guest's power button", "POWERDOWN", "SHUTDOWN"];
    let places: Vec<usize> = pieces.iter().map(|piece| evidence.find(piece).unwrap()).collect();
    assert!(places.is_sorted(), "{told}");
    assert!(!told.contains("mark"), "{told}");
    let record = record(&runner.end());
    assert_eq!((record.signal.as_deref(), record.exit_code), (Some("SIGTERM"), Some(0)));
    assert!(record.qemu.is_some() && record.uptime.is_some() && record.missing.is_empty());
}

#[test]
fn a_command_learns_the_verdict() {
    needs!(Qemu);
    let builder = kvmd_run().options(&["--name=db1", "--on-end=env >environment; exit 3"]);
    let environment = builder.path("environment");
    let runner = builder.boot();
    send_signal(runner.qemu(), Signal::KILL);
    await_that("the command has run", || {
        fs::read_to_string(&environment).is_ok_and(|text| text.contains("KVMD_WHY"))
    });
    let text = fs::read_to_string(&environment).unwrap();
    for line in ["KVMD_NAME=db1", "KVMD_CAUSE=killed", "KVMD_INITIATOR=admin", "KVMD_EXIT_CODE=33"]
    {
        assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
    }
    let outcome = runner.end();
    assert_eq!(outcome.code(), 33);
    assert!(outcome.lines.iter().any(|line| line.contains("--on-end failed")), "{outcome:?}");
}
