//! The kernel's trace: a page of its ring buffer, read by the layout that its format files tell.
//!
//! The input is a page, as a read of `trace_pipe_raw` gives it; or two format files and a page,
//! each file ended by a NUL, which neither holds.

use std::sync::LazyLock;

use kvmd::wire::trace::{LONGEST_FILTER, LONGEST_PAGE, Layout, MOST_RANGES, TraceEvent, filter};

/// Those of a Linux 6.18, captured.
const SIGNAL_GENERATE: &str = include_str!("../formats/signal_generate");
const MARK_VICTIM: &str = include_str!("../formats/mark_victim");

static REAL: LazyLock<Layout> = LazyLock::new(|| {
    Layout::parse(SIGNAL_GENERATE, Some(MARK_VICTIM)).expect("these are a kernel's own")
});

pub fn check(input: &[u8]) {
    let mut parts = input.splitn(3, |&byte| byte == 0);
    if let (Some(signal), Some(victim), Some(page)) = (parts.next(), parts.next(), parts.next()) {
        let (signal, victim) = (String::from_utf8_lossy(signal), String::from_utf8_lossy(victim));
        for victim in [None, Some(&*victim)] {
            if let Some(layout) = Layout::parse(&signal, victim) {
                check_page(&layout, page);
            }
        }
    }
    check_page(&REAL, input);
    check_filter(input);
}

fn check_page(layout: &Layout, page: &[u8]) {
    let page = &page[..page.len().min(LONGEST_PAGE)];
    let (events, is_malformed) = read(layout, page);
    // Each takes a header of four bytes and four of its own at least.
    assert!(events.len() <= page.len() / 8);
    if page.len() < 16 {
        assert!(is_malformed && events.is_empty());
    }
    // Cut anywhere, it tells nothing else: only less.
    for length in [page.len() / 2, page.len().saturating_sub(4), page.len().saturating_sub(1)] {
        let (fewer, _) = read(layout, &page[..length]);
        assert!(events.starts_with(&fewer), "{length} bytes: {fewer:?} of {events:?}");
    }
}

fn read(layout: &Layout, page: &[u8]) -> (Vec<TraceEvent>, bool) {
    let mut events = Vec::new();
    let read = layout.read_page(page, |event| events.push(event));
    (events, read.is_malformed)
}

/// The kernel takes the filter, whatever is watched.
fn check_filter(input: &[u8]) {
    let pid = |bytes: &[u8]| bytes.iter().fold(0, |pid: u32, &byte| pid << 8 | u32::from(byte));
    let ranges: Vec<(u32, u32)> = input
        .chunks_exact(6)
        .map(|chunk| (pid(&chunk[..3]) % 4_194_305, pid(&chunk[3..]) % 4_194_305))
        .take(MOST_RANGES)
        .collect();
    let text = filter(&[], &ranges);
    assert!(text.len() <= LONGEST_FILTER, "{}", text.len());
    assert_eq!(text.matches('(').count(), text.matches(')').count());
}
