//! Says which came first: the file, or the end of the process.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::node::Node;
use crate::patience;

/// Watches one instance from before the test acts until its process is dead.
#[derive(Debug)]
pub struct Witness {
    directory: OwnedFd,
    process: OwnedFd,
    file: PathBuf,
}

/// What it saw.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The file was there at the moment when the process was dead.
    pub file_at_the_end: bool,
    /// For how long it had been there.
    pub lead: Option<Duration>,
}

impl Witness {
    #[must_use]
    pub fn new(node: &Node, name: &str, pid: u32) -> Self {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let directory = inotify::init(flags).expect("create an inotify instance");
        inotify::add_watch(&directory, node.control_dir(), inotify::WatchFlags::CREATE)
            .expect("watch the control directory");
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
        let process = pidfd_open(pid, PidfdFlags::empty()).expect("open a pidfd");
        Self { directory, process, file: node.shutdown_file(name) }
    }

    /// Waits for the end of the process.
    #[must_use]
    pub fn observe(self) -> Seen {
        let mut created = None;
        loop {
            let mut sources = [
                PollFd::new(&self.process, PollFlags::IN),
                PollFd::new(&self.directory, PollFlags::IN),
            ];
            let timeout = Timespec { tv_sec: patience().as_secs().cast_signed(), tv_nsec: 0 };
            let ready = poll(&mut sources, Some(&timeout)).expect("poll");
            assert_ne!(ready, 0, "the process does not end");
            let (is_dead, has_changed) =
                (!sources[0].revents().is_empty(), !sources[1].revents().is_empty());
            let now = Instant::now();
            if is_dead {
                let file_at_the_end = self.file.exists();
                let lead = created.map(|created| now - created);
                return Seen { file_at_the_end, lead };
            }
            if has_changed && self.was_created() {
                created = Some(now);
            }
        }
    }

    fn was_created(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(self.directory.as_fd(), &mut buffer);
        let mut created = false;
        while let Ok(event) = events.next() {
            let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
            created |= name.as_deref() == self.file.file_name().and_then(|name| name.to_str());
        }
        created
    }
}
