//! Sees from outside when each machine was gone and when each file was there.
//!
//! One `epoll` over an inotify instance and a pidfd for each machine. It looks at the files first
//! whenever it sees an end, so that a file that was there in time counts as such.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open, setpriority_process};
use testbed::Node;

use crate::herd::Herd;
use crate::stamps::now;

/// A file that has not come so long after everything else does not come.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(crate) struct Observer {
    poll: Poll,
    directory: OwnedFd,
    pidfds: Vec<OwnedFd>,
    seen: Vec<Seen>,
}

/// One machine's end. In nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) sent: u64,
    pub(crate) gone: Option<u64>,
    pub(crate) marked: Option<u64>,
    pub(crate) was_marked_in_time: bool,
}

impl Observer {
    pub(crate) fn new(node: &Node, herd: &Herd) -> Self {
        let poll = Poll::new().expect("create an epoll instance");
        let directory = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .expect("create an inotify instance");
        inotify::add_watch(&directory, node.control_dir(), WatchFlags::CREATE)
            .expect("watch the control directory");
        let pidfds: Vec<OwnedFd> = herd
            .pids()
            .map(|pid| {
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
                pidfd_open(pid, PidfdFlags::empty()).expect("open a pidfd")
            })
            .collect();
        for (number, source) in pidfds.iter().chain([&directory]).enumerate() {
            poll.registry()
                .register(&mut SourceFd(&source.as_raw_fd()), Token(number), Interest::READABLE)
                .expect("watch a process");
        }
        Self { poll, directory, seen: vec![Seen::default(); pidfds.len()], pidfds }
    }

    /// Has all power off, and sees what comes of it.
    pub(crate) fn power_off(mut self, herd: &mut Herd) -> Vec<Seen> {
        let mut events = Events::with_capacity(256);
        let is_settled = |seen: &Seen| seen.gone.is_some() && seen.marked.is_some();
        // What it sees late it would date late. Not root: then it does.
        let _ = setpriority_process(None, -20);
        herd.power_off();
        while !self.seen.iter().all(is_settled) {
            self.poll.poll(&mut events, Some(PATIENCE)).expect("wait for events");
            if events.is_empty() {
                break;
            }
            self.read_directory();
            for event in &events {
                let Some(seen) = self.seen.get_mut(event.token().0) else { continue };
                seen.gone = Some(now());
                seen.was_marked_in_time = seen.marked.is_some();
            }
        }
        let _ = setpriority_process(None, 0);
        drop(self.pidfds);
        for (seen, stamps) in self.seen.iter_mut().zip(herd.stamps()) {
            seen.sent = stamps.shutdown;
        }
        herd.reap();
        self.seen
    }

    fn read_directory(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut events = inotify::Reader::new(self.directory.as_fd(), &mut buffer);
        while let Ok(event) = events.next() {
            let name = event.file_name().and_then(|name| name.to_str().ok());
            let index = name.and_then(|name| name.strip_prefix("vm")?.strip_suffix(".shutdown"));
            if let Some(index) = index.and_then(|index| index.parse::<usize>().ok()) {
                self.seen[index].marked.get_or_insert_with(now);
            }
        }
    }
}
