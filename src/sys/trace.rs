//! The kernel's trace of signals: who sent which to a watched process, and whom the OOM killer
//! chose.
//!
//! A private instance of the kernel's tracing, so that nobody else's is disturbed, with a filter
//! that holds the watched pids: it wakes the daemon for nothing else. See `trace/ftrace.rst` and
//! `trace/events.rst` of the kernel's documentation.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, fchmod, flock, mkdirat, openat, unlinkat,
};

use super::tracefs::{Tracefs, open, open_directory};
use crate::wire::Signal;
use crate::wire::trace::{LONGEST_PAGE, Layout, Scope, TraceEvent};

/// The signals that end a process, but for those that QEMU uses for itself.
const SIGNALS: [Signal; 12] = [
    Signal::HUP,
    Signal::INT,
    Signal(libc::SIGQUIT),
    Signal(libc::SIGILL),
    Signal(libc::SIGTRAP),
    Signal(libc::SIGABRT),
    Signal(libc::SIGBUS),
    Signal(libc::SIGFPE),
    Signal::KILL,
    Signal(libc::SIGSEGV),
    Signal::TERM,
    Signal(libc::SIGSYS),
];

pub(super) const SIGNAL_GENERATE: &str = "events/signal/signal_generate";
const MARK_VICTIM: &str = "events/oom/mark_victim";

/// Memory for each CPU, in KiB: a thousand signals to watched processes.
const BUFFER: &str = "64";

/// The longest list of names that the kernel remembers, in bytes: 32,768 lines of at most 24, where
/// it is told to. By itself it keeps 128, or in later versions some thousands.
const LONGEST_LIST: u64 = 32_768 * 24;

/// So many reads give all that one CPU's buffer held when the first began: each gives a page of it, or
/// what is written of the page that is being written. It has 17 pages, and one that is being read.
const FAIR_SHARE: usize = 18;

/// How much of it is read at a time, in bytes.
const LIST_AT_ONCE: usize = 64 << 10;

/// Why the kernel will not tell who sends signals.
#[derive(Debug)]
pub enum Unavailable {
    /// There is no tracefs, and it cannot be mounted.
    NoTracefs(io::Error),
    /// Another daemon for this node has the instance.
    InUse,
    /// It is there and cannot be used: not root, or the kernel is locked down.
    Failed(&'static str, io::Error),
    /// The events have not the fields that are known.
    UnknownLayout,
}

/// What was read at once.
#[derive(Debug, Default)]
pub struct Reading {
    /// In the order in which they happened.
    pub events: Vec<TraceEvent>,
    /// Events were overwritten before they could be read, or are not of the form that is known.
    pub has_lost: bool,
    /// There may be more, and nothing will say so.
    pub has_more: bool,
}

/// The instance, removed when dropped unless it is left to another daemon.
#[derive(Debug)]
pub struct Trace {
    /// Closed before the instance can be removed, like the filters.
    pipes: Vec<File>,
    /// Held open: a new process must not stay untraced for want of descriptors.
    signal_filter: Option<File>,
    victim_filter: Option<File>,
    directory: OwnedFd,
    instances: OwnedFd,
    tracefs: OwnedFd,
    name: OsString,
    layout: Layout,
    page: Box<[u8]>,
    /// Another daemon goes on with the instance.
    is_left: bool,
}

impl Trace {
    /// Makes the instance `name`, or takes over the one that a killed daemon has left, with what
    /// it has traced since. All there is to be known of these processes is traced.
    pub fn open(tracefs: &Tracefs, name: &OsStr, pids: &[u32]) -> Result<Self, Unavailable> {
        let failed = |what| move |error: io::Error| Unavailable::Failed(what, error);
        let tracefs = tracefs
            .as_fd()
            .try_clone_to_owned()
            .map_err(failed("duplicate the descriptor of tracefs"))?;
        let instances =
            open_directory(&tracefs, "instances").map_err(failed("open its instances"))?;
        match mkdirat(&instances, name, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(Unavailable::Failed("create an instance", error.into())),
        }
        let directory = open_directory(&instances, name).map_err(failed("open the instance"))?;
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Unavailable::InUse),
            Err(error) => return Err(Unavailable::Failed("lock the instance", error.into())),
        }
        // It is not abandoned any more.
        let _ = fchmod(&directory, Mode::RWXU);
        // From here on it is removed again if something fails.
        let mut trace = Self {
            pipes: Vec::new(),
            signal_filter: None,
            victim_filter: None,
            directory,
            instances,
            tracefs,
            name: name.into(),
            layout: Layout::default(),
            page: vec![0; LONGEST_PAGE].into(),
            is_left: false,
        };
        trace.set_up(&Scope::all_of(pids))?;
        Ok(trace)
    }

    fn set_up(&mut self, scope: &Scope) -> Result<(), Unavailable> {
        let failed = |what| move |error: io::Error| Unavailable::Failed(what, error);
        let signal = self.read_file(&format!("{SIGNAL_GENERATE}/format"));
        let signal = signal.map_err(failed("read the format of signal:signal_generate"))?;
        let victim = self.read_file(&format!("{MARK_VICTIM}/format")).ok();
        self.layout =
            Layout::parse(&signal, victim.as_deref()).ok_or(Unavailable::UnknownLayout)?;

        // To set the clock or the size empties the buffer: not what a killed daemon left.
        if !self.read_file("trace_clock").is_ok_and(|clocks| clocks.contains("[mono]")) {
            self.write("buffer_size_kb", BUFFER).map_err(failed("set buffer_size_kb"))?;
            self.write("trace_clock", "mono").map_err(failed("set trace_clock"))?;
        }
        // Wakes at the first event, not when the buffer is half full. Before Linux 5.0 that is
        // the only way.
        let _ = self.write("buffer_percent", "0");
        let filter = |event| open(&self.directory, &format!("{event}/filter"), OFlags::WRONLY);
        self.signal_filter = Some(filter(SIGNAL_GENERATE).map_err(failed("open a filter"))?);
        self.victim_filter = victim.and_then(|_| filter(MARK_VICTIM).ok());
        self.watch(scope).map_err(failed("set a filter"))?;
        self.enable("1").map_err(failed("enable its events"))?;
        self.pipes = self.open_pipes().map_err(failed("open trace_pipe_raw"))?;
        Ok(())
    }

    fn open_pipes(&self) -> io::Result<Vec<File>> {
        let per_cpu = open_directory(&self.directory, "per_cpu")?;
        let mut pipes = Vec::new();
        for entry in Dir::read_from(&per_cpu)? {
            let entry = entry?;
            if entry.file_name().to_bytes().starts_with(b"cpu") {
                let cpu = open_directory(&per_cpu, entry.file_name())?;
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                pipes.push(openat(&cpu, "trace_pipe_raw", flags, Mode::empty())?.into());
            }
        }
        Ok(pipes)
    }

    /// Has the kernel trace this from now on, and nothing else. Returns how many processes are left
    /// out whose signals were to be traced.
    pub fn watch(&self, scope: &Scope) -> io::Result<usize> {
        let write = |file: &Option<File>, filter: &str| {
            file.as_ref().map_or(Ok(()), |file| file.write_all_at(filter.as_bytes(), 0))
        };
        let (signal_filter, left_out) = scope.signal_filter(&SIGNALS);
        write(&self.signal_filter, &signal_filter)?;
        write(&self.victim_filter, &scope.victim_filter())?;
        Ok(left_out)
    }

    fn enable(&self, value: &str) -> io::Result<()> {
        self.write(&format!("{SIGNAL_GENERATE}/enable"), value)?;
        if self.victim_filter.is_some() {
            self.write(&format!("{MARK_VICTIM}/enable"), value)?;
        }
        Ok(())
    }

    /// Leaves the instance to the next daemon: what is traced until then is kept.
    pub fn leave(&mut self) {
        self.is_left = true;
    }

    /// What becomes readable when something was traced: one for each CPU.
    pub fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pipes.iter().map(AsFd::as_fd)
    }

    /// Takes what has been traced until now. Of what is traced meanwhile it takes a share, even if that
    /// comes faster than it can be read.
    pub fn read(&mut self) -> io::Result<Reading> {
        let mut reading = Reading::default();
        for pipe in &mut self.pipes {
            read_share(pipe, &mut self.page, &self.layout, &mut reading)?;
        }
        reading.events.sort_by_key(|event| event.at);
        Ok(reading)
    }

    /// The name under which the kernel remembers a task that is gone; it remembers some.
    #[must_use]
    pub fn remembered_name(&self, pid: u32) -> Option<Vec<u8>> {
        let list = open(&self.tracefs, "saved_cmdlines", OFlags::RDONLY).ok()?;
        name_of(pid, BufReader::with_capacity(LIST_AT_ONCE, list))
    }

    fn read_file(&self, path: &str) -> io::Result<String> {
        let mut text = String::new();
        open(&self.directory, path, OFlags::RDONLY)?.read_to_string(&mut text)?;
        Ok(text)
    }

    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        open(&self.directory, path, OFlags::WRONLY | OFlags::TRUNC)?.write_all(text.as_bytes())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        let _ = self.enable("0");
        // It cannot be removed while it is in use.
        self.pipes.clear();
        (self.signal_filter, self.victim_filter) = (None, None);
        let _ = unlinkat(&self.instances, &self.name, AtFlags::REMOVEDIR);
    }
}

/// Takes a share of what one CPU has traced.
fn read_share(
    pipe: &mut impl Read,
    page: &mut [u8],
    layout: &Layout,
    reading: &mut Reading,
) -> io::Result<()> {
    for _ in 0..FAIR_SHARE {
        match pipe.read(page) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                let read = layout.read_page(&page[..length], |event| reading.events.push(event));
                reading.has_lost |= read.lost_some || read.is_malformed;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    reading.has_more = true;
    Ok(())
}

/// The name of this task in a list of what the kernel remembers: a line for each, with its pid and its
/// name. A name may have a line feed in it, and go on with another's pid: where two lines claim one,
/// neither is believed.
fn name_of(pid: u32, list: impl BufRead) -> Option<Vec<u8>> {
    let prefix = format!("{pid} ");
    let lines = list.take(LONGEST_LIST).split(b'\n').map_while(Result::ok);
    let mut names = lines.filter_map(|line| Some(line.strip_prefix(prefix.as_bytes())?.to_vec()));
    let name = names.next()?;
    (name != b"<...>" && names.next().is_none()).then_some(name)
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTracefs(error) => {
                write!(
                    f,
                    "there is no tracefs ({error}); to mount it: mount -t tracefs tracefs /sys/kernel/tracing"
                )
            }
            Self::InUse => f.write_str("another ganeti-kvmd for this node uses it"),
            Self::Failed(what, error) => {
                write!(
                    f,
                    "cannot {what}: {error} (needs root, and a kernel that is not locked down)"
                )
            }
            Self::UnknownLayout => f.write_str("this kernel's events have unknown fields"),
        }
    }
}

impl std::error::Error for Unavailable {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_task_is_found_wherever_it_stands_in_the_list() {
        let line = |pid| format!("{} name of {pid}\n", 1_000_000 + pid);
        let list = (0..32_768).map(line).collect::<Vec<_>>().concat();
        let name = |pid| name_of(pid, list.as_bytes());
        for pid in [0, 6551, 32_767] {
            assert_eq!(name(1_000_000 + pid), Some(format!("name of {pid}").into_bytes()));
        }
        assert_eq!((name(100_000), name(0)), (None, None));
        assert_eq!(name_of(7, &b"17 bash\n7 <...>\n"[..]), None);
    }

    /// Each read gives a page, for ever; or `left` of them.
    struct Flood {
        left: usize,
    }

    impl Read for Flood {
        fn read(&mut self, page: &mut [u8]) -> io::Result<usize> {
            self.left = self.left.checked_sub(1).ok_or(io::ErrorKind::WouldBlock)?;
            page[..16].fill(0);
            Ok(16)
        }
    }

    #[test]
    fn what_comes_faster_than_it_is_read_is_read_in_shares() {
        let mut page = [0; 4096];
        let mut read = |flood: &mut Flood| {
            let mut reading = Reading::default();
            read_share(flood, &mut page, &Layout::default(), &mut reading).unwrap();
            reading.has_more
        };
        let mut flood = Flood { left: usize::MAX };
        assert!(read(&mut flood));
        assert_eq!(flood.left, usize::MAX - FAIR_SHARE);
        // All that a buffer holds is one share.
        let mut full = Flood { left: FAIR_SHARE + 1 };
        assert!(read(&mut full));
        assert!(!read(&mut full));
    }

    #[test]
    fn a_name_that_two_lines_claim_is_nobodys() {
        let list = b"77 a\n5831 kill\n77 cron\n";
        assert_eq!(name_of(77, &list[..]), None);
        assert_eq!(name_of(5831, &list[..]), Some(b"kill".to_vec()));
    }
}
