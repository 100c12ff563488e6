use super::*;
use proptest::prelude::*;

fn parse(line: &str) -> Message {
    Message::parse(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn shutdown(guest: Option<bool>, reason: Option<Reason>) -> Message {
    Message::Event(Event::Shutdown(Shutdown { guest, reason }), None)
}

#[test]
fn the_greeting_of_a_real_qemu() {
    let line = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2"}, "capabilities": ["oob"]}}"#;
    let version = Version { major: 7, minor: 2, micro: 22 };
    assert_eq!(parse(line), Message::Greeting(Some(version)));
    assert_eq!(parse(r#"{"QMP": {"version": "none"}}"#), Message::Greeting(None));
}

#[test]
fn shutdown_in_every_form_that_qemu_ever_sent() {
    let today = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#;
    let stamp = Some(Timestamp(Duration::new(1, 2000)));
    let stamped =
        |guest, reason| Message::Event(Event::Shutdown(Shutdown { guest, reason }), stamp);
    assert_eq!(parse(today), stamped(Some(true), Some(Reason::GuestShutdown)));
    let since_2_10 = r#"{"event": "SHUTDOWN", "data": {"guest": false}}"#;
    assert_eq!(parse(since_2_10), shutdown(Some(false), None));
    let before = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN"}"#;
    assert_eq!(parse(before), stamped(None, None));
    assert_eq!(parse(r#""SHUTDOWN""#), shutdown(None, None));
}

#[test]
fn every_reason_keeps_its_name() {
    for (name, reason) in Reason::NAMES {
        let line =
            format!(r#"{{"event": "SHUTDOWN", "data": {{"guest": false, "reason": "{name}"}}}}"#);
        assert_eq!(parse(&line), shutdown(Some(false), Some(reason.clone())));
        assert_eq!(reason.name(), name);
    }
}

#[test]
fn a_reason_of_a_later_qemu_is_kept_and_bounded() {
    let line = format!(
        r#"{{"event": "SHUTDOWN", "data": {{"guest": true, "reason": "guest-{}"}}}}"#,
        "é".repeat(500)
    );
    let Message::Event(Event::Shutdown(Shutdown { reason: Some(reason), .. }), None) = parse(&line)
    else {
        panic!("not a shutdown");
    };
    assert_eq!(reason.name(), format!("guest-{}", "?".repeat(LONGEST_REASON - 6)));
}

#[test]
fn the_answer_to_query_status_tells_whether_the_guest_runs() {
    let line = r#"{"return": {"status": "running", "singlestep": false, "running": true}}"#;
    assert_eq!(parse(line), Message::Return(Answer::Status { running: true, panicked: false }));
    let line = r#"{"return": {"status": "guest-panicked", "running": false}}"#;
    assert_eq!(parse(line), Message::Return(Answer::Status { running: false, panicked: true }));
    assert_eq!(parse(r#"{"return": {}}"#), Message::Return(Answer::Done));
    assert_eq!(parse(r#"{"return": [1, 2]}"#), Message::Return(Answer::Done));
}

#[test]
fn other_events_are_recognised_as_such() {
    assert_eq!(
        parse(r#"{"event": "RTC_CHANGE", "data": {"offset": 0}}"#),
        Message::Event(Event::Other, None)
    );
    assert_eq!(
        parse(r#"{"event": "WATCHDOG", "data": {"action": "poweroff"}}"#),
        Message::Event(Event::Watchdog(WatchdogAction::Poweroff), None)
    );
    assert_eq!(
        parse(r#"{"event": "WATCHDOG", "data": {"action": "inject-nmi"}}"#),
        Message::Event(Event::Watchdog(WatchdogAction::InjectNmi), None)
    );
    assert_eq!(
        parse(r#"{"event": "WATCHDOG", "data": {"action": "pause"}}"#),
        Message::Event(Event::Watchdog(WatchdogAction::Other), None)
    );
}

#[test]
fn an_event_named_inside_other_data_is_not_that_event() {
    let line = r#"{"event": "DEVICE_DELETED", "data": {"path": "\"SHUTDOWN\""}}"#;
    assert_eq!(parse(line), Message::Event(Event::Other, None));
}

#[test]
fn what_is_not_a_message_is_an_error() {
    for line in [
        "{",
        "5",
        "[]",
        "{}",
        "{\"event\": 5}",
        "{\"event\": \"SHUTDOWN\", \"data\": 5}",
        "\u{0}",
        "\"SHUTDOWN",
    ] {
        assert!(Message::parse(line.as_bytes()).is_err(), "{line:?}");
    }
    assert!(Message::parse(b"{\"event\": \"\xff\"}").is_err());
}

#[test]
fn nesting_does_not_exhaust_the_stack() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!(
            "{{\"event\": \"STOP\", \"data\": {}1{}}}",
            open.repeat(10_000),
            close.repeat(10_000)
        );
        // Whether it is taken or refused is the JSON library's affair; that it ends is ours.
        let _ = Message::parse(deep.as_bytes());
        let _ = Message::parse(open.repeat(100_000).as_bytes());
    }
}

proptest! {
    #[test]
    fn no_line_makes_the_parser_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::parse(&line);
    }

    #[test]
    fn no_json_makes_the_parser_panic(event in "SHUTDOWN|WATCHDOG|STOP", data in "[\\[\\]{}\",:a-z0-9]{0,40}") {
        let _ = Message::parse(format!(r#"{{"event": "{event}", "data": {data}}}"#).as_bytes());
    }
}

#[test]
fn a_reason_from_the_state_file_is_as_plain_as_one_from_qemu() {
    let reason: Reason = serde_json::from_str(r#"{"Unknown": "new\u001b[2J"}"#).unwrap();
    assert_eq!(reason.name(), "new??2J");
}

#[test]
fn a_time_that_is_none_is_no_reason_to_miss_the_event() {
    for time in [
        r#"{"seconds": -1, "microseconds": -1}"#,
        r#"{"seconds": 1, "microseconds": 1000000}"#,
        r#"{"seconds": 1}"#,
        r#""yesterday""#,
    ] {
        let line = format!(r#"{{"timestamp": {time}, "event": "POWERDOWN"}}"#);
        assert_eq!(parse(&line), Message::Event(Event::Powerdown, None), "{line}");
    }
}

/// Whatever QEMU says of an end is told in its own words.
#[test]
fn every_event_that_matters_is_known_and_told_as_qemu_spells_it() {
    use WatchdogAction::{Poweroff, Reset, Shutdown as ShutDown};
    let by = |guest| Event::Shutdown(Shutdown { guest, reason: None });
    let because = Shutdown { guest: Some(false), reason: Some(Reason::HostSignal) };
    let io_error = |no_space| Event::Noted(Note::BlockIoError { no_space });
    for (name, data, event, told) in [
        ("SHUTDOWN", "{}", by(None), "SHUTDOWN"),
        ("SHUTDOWN", r#"{"guest": true}"#, by(Some(true)), "SHUTDOWN by the guest"),
        ("SHUTDOWN", r#"{"guest": false}"#, by(Some(false)), "SHUTDOWN by the host"),
        (
            "SHUTDOWN",
            r#"{"guest": false, "reason": "host-signal"}"#,
            Event::Shutdown(because),
            "SHUTDOWN host-signal",
        ),
        ("POWERDOWN", "{}", Event::Powerdown, "POWERDOWN"),
        ("RESET", r#"{"guest": true, "reason": "guest-reset"}"#, Event::Reset, "RESET"),
        ("STOP", "{}", Event::Stop, "STOP"),
        ("RESUME", "{}", Event::Resume, "RESUME"),
        ("GUEST_PANICKED", r#"{"action": "pause"}"#, Event::GuestPanicked, "GUEST_PANICKED"),
        ("GUEST_CRASHLOADED", r#"{"action": "run"}"#, Event::GuestCrashloaded, "GUEST_CRASHLOADED"),
        ("WAKEUP", "{}", Event::Wakeup, "WAKEUP"),
        ("WATCHDOG", r#"{"action": "reset"}"#, Event::Watchdog(Reset), "WATCHDOG reset"),
        ("WATCHDOG", r#"{"action": "shutdown"}"#, Event::Watchdog(ShutDown), "WATCHDOG shutdown"),
        ("WATCHDOG", r#"{"action": "poweroff"}"#, Event::Watchdog(Poweroff), "WATCHDOG poweroff"),
        ("WATCHDOG", r#"{"action": "pause"}"#, Event::Watchdog(WatchdogAction::Other), "WATCHDOG"),
        ("BLOCK_IO_ERROR", r#"{"nospace": true}"#, io_error(true), "BLOCK_IO_ERROR (no space)"),
        ("BLOCK_IO_ERROR", r#"{"device": "disk0"}"#, io_error(false), "BLOCK_IO_ERROR"),
        ("BLOCK_IO_ERROR", "5", io_error(false), "BLOCK_IO_ERROR"),
        ("MEMORY_FAILURE", "{}", Event::Noted(Note::MemoryFailure), "MEMORY_FAILURE"),
        ("GUEST_PVSHUTDOWN", "{}", Event::Noted(Note::GuestPvshutdown), "GUEST_PVSHUTDOWN"),
        ("SUSPEND", "{}", Event::Noted(Note::Suspend), "SUSPEND"),
        ("SUSPEND_DISK", "{}", Event::Noted(Note::SuspendDisk), "SUSPEND_DISK"),
        ("RTC_CHANGE", r#"{"offset": 0}"#, Event::Other, "another event"),
    ] {
        let line = format!(r#"{{"event": "{name}", "data": {data}}}"#);
        assert_eq!(event.to_string(), told);
        assert_eq!(parse(&line), Message::Event(event, None), "{line}");
    }
}

#[test]
fn what_qemu_refuses_is_kept_as_far_as_a_line_of_the_log_takes_it() {
    let refusal = r#"{"class": "CommandNotFound", "desc": "The command is not found"}"#;
    let line = format!(r#"{{"error": {refusal}}}"#);
    assert_eq!(parse(&line), Message::Error(refusal.into()));
    let line = format!(r#"{{"error": "{}"}}"#, "x".repeat(1000));
    assert_eq!(parse(&line), Message::Error(format!("\"{}", "x".repeat(127))));
}

#[test]
fn an_administrator_reads_what_is_wrong_with_a_line() {
    let error = |line: &str| Message::parse(line.as_bytes()).unwrap_err().to_string();
    assert_eq!(error("{}"), "neither greeting, answer, error nor event");
    assert!(error("SSH-2.0-OpenSSH").starts_with("expected value at line 1"));
    assert_eq!(LineError::TooLong.to_string(), "longer than 16384 bytes, skipped");
}

#[test]
fn a_command_is_one_line_that_names_it() {
    for (command, name) in [
        (Command::Negotiate, "qmp_capabilities"),
        (Command::QueryStatus, "query-status"),
        (Command::SystemPowerdown, "system_powerdown"),
        (Command::SystemReset, "system_reset"),
        (Command::SystemWakeup, "system_wakeup"),
        (Command::Cont, "cont"),
        (Command::Quit, "quit"),
        (Command::EndAtReboot, "set-action"),
    ] {
        let json = command.line().strip_suffix(b"\n").unwrap();
        let json: serde_json::Value = serde_json::from_slice(json).unwrap();
        assert_eq!(json["execute"], name);
    }
}

#[test]
fn a_version_is_told_as_qemu_does() {
    assert_eq!(Version { major: 7, minor: 2, micro: 22 }.to_string(), "7.2.22");
}
