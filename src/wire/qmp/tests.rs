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
