//! The QMP stream: whatever a QEMU says, in whatever pieces it arrives.
//!
//! The input is the stream itself, so that a capture is a seed as it is. Where it is cut follows
//! from its bytes: a cut by a length in front would have the fuzzer learn that format first.

use kvmd::wire::lines::{LONGEST_LINE, Line, Lines};
use kvmd::wire::qmp::{Event, LineError, Message};
use kvmd::wire::{Excerpt, Printable, Shown};

use crate::assert_fit_to_print;

/// A vector at most doubles when it grows.
const MOST_HELD: usize = 2 * LONGEST_LINE;

/// The most that an error of QEMU's keeps of itself, in characters.
const LONGEST_ERROR: usize = 128;

/// One line; nothing if it was too long.
type Given = Option<Vec<u8>>;

pub fn check(stream: &[u8]) {
    let whole = lines(stream, |_| usize::MAX);
    assert_eq!(whole, lines_by_the_book(stream));
    let seed = stream
        .iter()
        .fold(1, |seed: usize, &byte| seed.wrapping_mul(31).wrapping_add(usize::from(byte)));
    let ragged = |i: usize| 1 + (seed ^ i.wrapping_mul(0x9e37_79b9)) % 97;
    for cut in [&|_| 1, &|_| 4096, &ragged] as [&dyn Fn(usize) -> usize; 3] {
        assert_eq!(lines(stream, cut), whole);
    }
    for line in whole.iter().flatten() {
        check_line(line);
    }
}

/// The lines as the daemon cuts them out of pieces of these lengths.
fn lines(mut stream: &[u8], length: impl Fn(usize) -> usize) -> Vec<Given> {
    let (mut splitter, mut given) = (Lines::default(), Vec::new());
    let mut take = |line: Line<'_>| {
        given.push(match line {
            Line::Whole(text) => Some(text.to_vec()),
            Line::TooLong => None,
        });
    };
    let mut pieces = 0;
    while !stream.is_empty() {
        let (piece, rest) = stream.split_at(length(pieces).min(stream.len()));
        splitter.feed(piece, &mut take);
        assert!(splitter.held() <= MOST_HELD, "{} bytes", splitter.held());
        if piece.ends_with(b"\n") {
            assert_eq!(splitter.held(), 0, "no line is incomplete");
        }
        pieces += 1;
        stream = rest;
    }
    splitter.finish(&mut take);
    assert_eq!(splitter.held(), 0);
    given
}

/// What a line is, said the short way, with the whole stream at hand.
fn lines_by_the_book(stream: &[u8]) -> Vec<Given> {
    let lines = stream.split(|&byte| byte == b'\n');
    let given = lines.map(|line| {
        let is_too_long = line.len() > LONGEST_LINE;
        (!is_too_long).then(|| line.strip_suffix(b"\r").unwrap_or(line).to_vec())
    });
    given.filter(|line| line.as_ref().is_none_or(|text| !text.is_empty())).collect()
}

fn check_line(line: &[u8]) {
    assert!(!line.is_empty() && !line.contains(&b'\n') && line.len() <= LONGEST_LINE);
    let parsed = Message::parse(line);
    assert_fit_to_print(&Printable(line).to_string());
    assert_fit_to_print(&Excerpt(line).to_string());
    assert_fit_to_print(&Shown(&String::from_utf8_lossy(line)).to_string());
    match &parsed {
        Ok(Message::Event(event, _)) => check_event(event),
        Ok(Message::Error(text)) => assert!(text.chars().count() <= LONGEST_ERROR),
        Ok(Message::Greeting(version)) => {
            assert_fit_to_print(&version.map(|version| version.to_string()).unwrap_or_default());
        }
        Ok(Message::Return(_)) => {}
        // The log has it beside the line, and tells of nothing else what was in it.
        Err(LineError::TooLong) => panic!("it is not longer than {LONGEST_LINE} bytes"),
        Err(error) => assert_fit_to_print(&error.to_string()),
    }
}

/// An event is shown in the records, and the reason of a shutdown there and in the log.
fn check_event(event: &Event) {
    let shown = event.to_string();
    assert_fit_to_print(&shown);
    assert!(shown.chars().count() <= 80, "{shown}");
}
