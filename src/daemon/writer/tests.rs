use super::*;
use crate::daemon::journal::Journal;
use crate::daemon::records::Records;
use crate::log::Log;
use std::fs;
use std::path::Path;

fn writer(directory: &Path) -> (Rc<Writer>, mio::Poll) {
    let poll = mio::Poll::new().unwrap();
    let log = Log::new();
    let log_file = directory.join("log");
    log.to_file(&log_file).unwrap();
    let outputs = Outputs {
        log,
        log_file,
        records: Records::open(&directory.join("records")),
        journal: Journal::open(&directory.join("journal")),
        metrics_file: Some(directory.join("kvmd.prom")),
    };
    let waker = Waker::new(poll.registry(), mio::Token(0)).unwrap();
    (Writer::start(outputs, waker, None).unwrap(), poll)
}

#[test]
fn lines_are_written_in_their_order_however_many_there_are_at_once() {
    const LINES: usize = 100_000;
    let directory = tempfile::tempdir().unwrap();
    let (writer, mut poll) = writer(directory.path());
    let mut events = mio::Events::with_capacity(1);
    for number in 0..LINES {
        writer.add_line(false, format!("{number}\n").into());
        // As many as fit, and then the writer says when there is room again.
        while writer.inner.borrow_mut().need_room(JOBS / 2, BYTES) == Err(NoRoom) {
            poll.poll(&mut events, Some(Duration::from_secs(60))).unwrap();
            assert!(!events.is_empty(), "not woken");
            assert!(writer.take_recorded().is_empty());
        }
    }
    writer.finish(Duration::from_secs(60));
    let log = fs::read_to_string(directory.path().join("log")).unwrap();
    let expected: Vec<String> = (0..LINES).map(|number| number.to_string()).collect();
    assert!(log.lines().eq(&expected), "{} lines", log.lines().count());
}

#[test]
fn metrics_replace_each_other_and_are_gone_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kvmd.prom");
    let (writer, _poll) = writer(directory.path());
    for text in ["one", "two"] {
        writer.add_metrics(|| text.into()).unwrap();
        writer.finish(Duration::from_secs(60));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    writer.withdraw_metrics();
    writer.finish(Duration::from_secs(60));
    assert!(!path.exists());
}
