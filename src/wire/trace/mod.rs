//! The kernel's trace of signals and of the OOM killer's choices: pages of a ring buffer to
//! events.
//!
//! The binary form (`per_cpu/cpuN/trace_pipe_raw`) is read, not the text: a task's name, which
//! a process may set to anything with a line feed in it, is no part of it. The layout is that of
//! `linux/ring_buffer.h` and `events/header_page`; where an event has its fields is read from
//! its `format` file.

mod filter;
mod scope;

use std::time::Duration;

use super::Signal;
pub use filter::{LONGEST_FILTER, MOST_RANGES, filter, watched_by};
pub use scope::{Scope, Strangers};

/// As much as one read of the kernel's trace gives at most, in bytes: a page of the buffer. One
/// of another size is cut at an event.
pub const LONGEST_PAGE: usize = 64 * 1024;

/// A signal on its way, or the OOM killer's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceEvent {
    /// When, by the trace's clock; it is set to `CLOCK_MONOTONIC`.
    pub at: Duration,
    /// The task that was running: who sent the signal, or who asked for the memory.
    pub by: u32,
    /// The task that is meant.
    pub pid: u32,
    pub what: Traced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traced {
    Signal {
        signal: Signal,
        /// The kernel's doing (a fault, the OOM killer), not that of a process (`si_code`, see
        /// `sigaction(2)`).
        is_kernels: bool,
    },
    OomVictim,
}

/// What one page held beside its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Events before this page were overwritten before they could be read.
    pub lost_some: bool,
    /// The page, or an event in it, is not of the form that is known.
    pub is_malformed: bool,
}

/// An event ends before its last field.
struct TooShort;

/// Where an event has a field, in bytes from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Field {
    offset: usize,
    size: usize,
}

/// The layout of the two events on this kernel. The default knows none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    signal: SignalLayout,
    /// Absent where the kernel has no such event (before 4.14).
    victim: Option<VictimLayout>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct SignalLayout {
    id: u16,
    by: Field,
    signal: Field,
    code: Field,
    pid: Field,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct VictimLayout {
    id: u16,
    by: Field,
    pid: Field,
}

impl Layout {
    /// Reads the `format` files of `signal:signal_generate` and, if there is one, of
    /// `oom:mark_victim`. Nothing if a field is missing.
    #[must_use]
    pub fn parse(signal_generate: &str, mark_victim: Option<&str>) -> Option<Self> {
        let number = |format: &str, name| field(format, name).filter(|field| field.size == 4);
        let signal = SignalLayout {
            id: id(signal_generate)?,
            by: number(signal_generate, "common_pid")?,
            signal: number(signal_generate, "sig")?,
            code: number(signal_generate, "code")?,
            pid: number(signal_generate, "pid")?,
        };
        let victim = mark_victim.and_then(|format| {
            Some(VictimLayout {
                id: id(format)?,
                by: number(format, "common_pid")?,
                pid: number(format, "pid")?,
            })
        });
        Some(Self { signal, victim })
    }

    /// Hands each event of a page to `each`, in the order in which they happened.
    pub fn read_page(&self, page: &[u8], mut each: impl FnMut(TraceEvent)) -> Page {
        self.walk(page, &mut each).unwrap_or(Page { lost_some: false, is_malformed: true })
    }

    fn walk(&self, page: &[u8], each: &mut impl FnMut(TraceEvent)) -> Option<Page> {
        /// `RB_MISSED_EVENTS`: in the word that tells how much of the page is used.
        const MISSED_EVENTS: usize = 1 << 31;
        /// The bits of a time for which an event has no room.
        const TOP_BITS: u64 = 0xf800_0000_0000_0000;
        /// The number in that word, below its flags.
        const USED: usize = 0x3fff_ffff;

        let (&time, rest) = page.split_first_chunk()?;
        let mut nanoseconds = u64::from_ne_bytes(time);
        // A `local_t` is as wide as a pointer.
        let (&commit, rest) = rest.split_first_chunk()?;
        let commit = usize::from_ne_bytes(commit);
        let mut rest = &rest[..rest.len().min(commit & USED)];
        let mut read = Page { lost_some: commit & MISSED_EVENTS != 0, is_malformed: false };

        while let Some((&header, body)) = rest.split_first_chunk() {
            let (kind, delta) = header_of(u32::from_ne_bytes(header), cfg!(target_endian = "big"));
            let first = body.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes));
            let (skipped, length) = match kind {
                // Padding; with no delta it fills the page.
                29 if delta == 0 => break,
                29 => (0, first? as usize),
                30 => {
                    nanoseconds = nanoseconds.wrapping_add(delta + (u64::from(first?) << 27));
                    rest = body.get(4..)?;
                    continue;
                }
                // The time itself, without its five highest bits, which are those of the page.
                31 => {
                    let low = delta + (u64::from(first?) << 27);
                    nanoseconds = (nanoseconds & TOP_BITS) + low;
                    rest = body.get(4..)?;
                    continue;
                }
                0 => (4, (first? as usize).checked_sub(4)?),
                kind => (0, kind as usize * 4),
            };
            nanoseconds = nanoseconds.wrapping_add(delta);
            let event = body.get(skipped..)?.get(..length)?;
            rest = &body[skipped + length..];
            if kind == 29 {
                continue;
            }
            match self.event(Duration::from_nanos(nanoseconds), event) {
                Ok(Some(event)) => each(event),
                Ok(None) => {}
                Err(TooShort) => read.is_malformed = true,
            }
        }
        Some(read)
    }

    /// An event, or nothing if it is one of another kind.
    fn event(&self, at: Duration, event: &[u8]) -> Result<Option<TraceEvent>, TooShort> {
        let id = u16::from_ne_bytes(*event.first_chunk().ok_or(TooShort)?);
        if id == self.signal.id {
            let code = number(event, self.signal.code)?;
            let what = Traced::Signal {
                signal: Signal(number(event, self.signal.signal)?),
                is_kernels: code > 0,
            };
            let (by, pid) = (number(event, self.signal.by)?, number(event, self.signal.pid)?);
            return Ok(trace_event(at, by, pid, what));
        }
        match &self.victim {
            Some(victim) if victim.id == id => {
                let (by, pid) = (number(event, victim.by)?, number(event, victim.pid)?);
                Ok(trace_event(at, by, pid, Traced::OomVictim))
            }
            _ => Ok(None),
        }
    }
}

/// An event's kind and the nanoseconds since the one before it: bit fields, which begin at the other
/// end on a big-endian machine.
fn header_of(header: u32, is_big_endian: bool) -> (u32, u64) {
    if is_big_endian {
        (header >> 27, u64::from(header & 0x07ff_ffff))
    } else {
        (header & 0x1f, u64::from(header >> 5))
    }
}

fn trace_event(at: Duration, by: i32, pid: i32, what: Traced) -> Option<TraceEvent> {
    let (by, pid) = (u32::try_from(by).ok()?, u32::try_from(pid).ok()?);
    Some(TraceEvent { at, by, pid, what })
}

fn number(event: &[u8], field: Field) -> Result<i32, TooShort> {
    let bytes = event.get(field.offset..).and_then(<[u8]>::first_chunk);
    bytes.map(|bytes| i32::from_ne_bytes(*bytes)).ok_or(TooShort)
}

/// The event's number, by which it is told apart in the buffer: `ID: 261`.
fn id(format: &str) -> Option<u16> {
    format.lines().find_map(|line| line.strip_prefix("ID: "))?.trim().parse().ok()
}

/// `field:pid_t pid; offset:36; size:4; signed:1;`, with tabs between them.
fn field(format: &str, name: &str) -> Option<Field> {
    format.lines().find_map(|line| {
        let mut parts = line.trim().strip_prefix("field:")?.split(';').map(str::trim);
        let declared = parts.next()?.rsplit_once(' ')?.1;
        if declared != name {
            return None;
        }
        let mut value = |key| parts.next()?.strip_prefix(key)?.parse().ok();
        Some(Field { offset: value("offset:")?, size: value("size:")? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNAL_GENERATE: &str = "name: signal_generate\nID: 261\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:int sig;\toffset:8;\tsize:4;\tsigned:1;\n\
        \tfield:int errno;\toffset:12;\tsize:4;\tsigned:1;\n\
        \tfield:int code;\toffset:16;\tsize:4;\tsigned:1;\n\
        \tfield:char comm[16];\toffset:20;\tsize:16;\tsigned:0;\n\
        \tfield:pid_t pid;\toffset:36;\tsize:4;\tsigned:1;\n";
    const MARK_VICTIM: &str = "name: mark_victim\nID: 609\nformat:\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\
        \tfield:int pid;\toffset:8;\tsize:4;\tsigned:1;\n";

    fn layout() -> Layout {
        Layout::parse(SIGNAL_GENERATE, Some(MARK_VICTIM)).unwrap()
    }

    fn signal(by: i32, signal: i32, code: i32, pid: i32) -> Vec<u8> {
        let mut event = 261u16.to_ne_bytes().to_vec();
        event.extend([0, 0]);
        for number in [by, signal, 0, code] {
            event.extend(number.to_ne_bytes());
        }
        event.extend(b"qemu\nforged pid=");
        for number in [pid, 1, 0] {
            event.extend(number.to_ne_bytes());
        }
        event
    }

    fn victim(pid: i32) -> Vec<u8> {
        let mut event = 609u16.to_ne_bytes().to_vec();
        event.extend([0, 0]);
        event.extend(7i32.to_ne_bytes());
        event.extend(pid.to_ne_bytes());
        event
    }

    /// A header, as a little-endian kernel writes it.
    fn header(kind: u32, delta: u32) -> [u8; 4] {
        (kind | delta << 5).to_ne_bytes()
    }

    fn page(flags: u64, content: &[u8]) -> Vec<u8> {
        page_begun_at(1_000, flags, content)
    }

    fn page_begun_at(nanoseconds: u64, flags: u64, content: &[u8]) -> Vec<u8> {
        let mut page = nanoseconds.to_ne_bytes().to_vec();
        page.extend((content.len() as u64 | flags).to_ne_bytes());
        page.extend(content);
        page
    }

    fn with_header(delta: u32, event: &[u8]) -> Vec<u8> {
        [&header(event.len() as u32 / 4, delta)[..], event].concat()
    }

    fn read(page: &[u8]) -> (Vec<TraceEvent>, Page) {
        let mut events = Vec::new();
        let read = layout().read_page(page, |event| events.push(event));
        (events, read)
    }

    #[test]
    #[cfg(all(target_endian = "little", target_pointer_width = "64"))]
    fn a_page_holds_events_times_and_padding() {
        let (first, second) = (signal(5818, 15, 0, 4242), victim(4242));
        let mut content = Vec::new();
        content.extend(header(first.len() as u32 / 4, 50));
        content.extend(&first);
        // Two seconds later, which no header has room for.
        content.extend(header(30, 2_000_000_000 % (1 << 27)));
        content.extend((2_000_000_000u32 >> 27).to_ne_bytes());
        // One whose length stands beside it, and one that was discarded.
        content.extend(header(0, 1));
        content.extend((second.len() as u32 + 4).to_ne_bytes());
        content.extend(&second);
        content.extend(header(29, 7));
        content.extend(12u32.to_ne_bytes());
        content.extend([0xff; 8]);
        let third = signal(3, 11, 1, 4242);
        content.extend(header(third.len() as u32 / 4, 2));
        content.extend(&third);
        content.extend(header(29, 0));
        content.extend([0xff; 64]);

        let (events, rest) = read(&page(1 << 31, &content));
        assert_eq!(rest, Page { lost_some: true, is_malformed: false });
        let term = Traced::Signal { signal: Signal::TERM, is_kernels: false };
        let fault = Traced::Signal { signal: Signal(11), is_kernels: true };
        let at = Duration::from_nanos;
        assert_eq!(
            events,
            [
                TraceEvent { at: at(1_050), by: 5818, pid: 4242, what: term },
                TraceEvent { at: at(2_000_001_051), by: 7, pid: 4242, what: Traced::OomVictim },
                TraceEvent { at: at(2_000_001_060), by: 3, pid: 4242, what: fault },
            ]
        );
    }

    /// `ring_buffer_event_time_stamp`: written where the times before an event are not known.
    #[test]
    #[cfg(all(target_endian = "little", target_pointer_width = "64"))]
    fn a_time_that_is_written_out_needs_the_highest_bits_of_the_page() {
        // A machine that has been up for twenty years.
        let (begun, now) = (630_720_000_000_000_000, 630_720_003_000_000_000_u64);
        assert_eq!(begun >> 59, 1);
        let low = now & ((1 << 59) - 1);
        let mut content = with_header(50, &signal(5818, 15, 0, 4242));
        content.extend(header(31, (low % (1 << 27)) as u32));
        content.extend(((low >> 27) as u32).to_ne_bytes());
        content.extend(with_header(7, &victim(4242)));
        let (events, rest) = read(&page_begun_at(begun, 0, &content));
        assert_eq!(rest, Page::default());
        let times: Vec<Duration> = events.iter().map(|event| event.at).collect();
        assert_eq!(times, [Duration::from_nanos(begun + 50), Duration::from_nanos(now + 7)]);
    }

    #[test]
    fn a_header_begins_at_the_end_that_the_machine_begins_at() {
        let (kind, delta) = (10, 5_000_000);
        assert_eq!(header_of(kind | delta << 5, false), (kind, delta.into()));
        assert_eq!(header_of(kind << 27 | delta, true), (kind, delta.into()));
    }

    #[test]
    #[cfg(all(target_endian = "little", target_pointer_width = "64"))]
    fn what_another_tracer_has_in_the_buffer_is_passed_over() {
        let mut other = victim(4242);
        other[..2].copy_from_slice(&610u16.to_ne_bytes());
        let content = [with_header(1, &other), with_header(1, &victim(4243))].concat();
        let (events, rest) = read(&page(0, &content));
        assert_eq!((events.len(), events[0].pid), (1, 4243));
        assert_eq!(rest, Page::default());
        // One that is too short for what it says it is.
        let content = [with_header(1, &victim(4242)[..8]), with_header(1, &victim(4243))].concat();
        let (events, rest) = read(&page(0, &content));
        assert_eq!((events.len(), events[0].pid), (1, 4243));
        assert!(rest.is_malformed);
    }

    #[test]
    #[cfg(all(target_endian = "little", target_pointer_width = "64"))]
    fn the_number_of_lost_events_is_no_event() {
        let mut page = page(3 << 30, &with_header(1, &victim(4242)));
        // `RB_MISSED_STORED`: it follows, where there is room for it.
        page.extend(7u64.to_ne_bytes());
        let (events, rest) = read(&page);
        assert_eq!((events.len(), events[0].pid), (1, 4242));
        assert_eq!(rest, Page { lost_some: true, is_malformed: false });
    }

    #[test]
    fn a_page_of_every_architecture_that_runs_kvm_fits() {
        for page in [4096, 16_384, 65_536] {
            assert!(page <= LONGEST_PAGE, "{page}");
        }
    }

    #[test]
    fn without_its_fields_there_is_no_layout() {
        assert_eq!(Layout::parse("ID: 1\n", None), None);
        assert!(Layout::parse(SIGNAL_GENERATE, None).is_some_and(|layout| layout.victim.is_none()));
        let renamed = SIGNAL_GENERATE.replace("int code;", "int origin;");
        assert_eq!(Layout::parse(&renamed, Some(MARK_VICTIM)), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_page_or_an_error(page in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            read(&page);
        }

        #[test]
        fn any_content_is_read_to_its_end(content in proptest::collection::vec(0u8..64, 0..400)) {
            read(&page(0, &content));
        }
    }
}
