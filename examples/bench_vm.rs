//! One virtual machine of the bench, as the daemon sees it: a process that serves QMP at a socket
//! and dies for real. One thread and no more memory than it must, so that a machine holds
//! thousands.
//!
//! Usage: `bench_vm HERD INDEX SOCKET [--flood=EVENTS] [--until-marked=FILE]`
//!
//! HERD is the directory of `examples/bench/herd.rs`, whose gates it obeys: a gate is a FIFO, and
//! it opens for all at once when its last writer goes. At `flood` it sends that many events, at
//! `power` it goes down as QEMU does when its guest powers off: the event, the end. Before the
//! end it looks for FILE, if it is given one, until that is there.
//!
//! What it has seen it writes into its place of the herd's file `stamps`, which wakes nobody.

#[path = "bench/stamps.rs"]
mod stamps;

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use stamps::{Place, Stamps, now};

const GREETING: &[u8] = b"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 2, \"major\": 7}, \"package\": \"\"}, \"capabilities\": []}}\r\n";
const DONE: &[u8] = b"{\"return\": {}}\r\n";
const RUNNING: &[u8] =
    b"{\"return\": {\"status\": \"running\", \"singlestep\": false, \"running\": true}}\r\n";
const NOISE: &[u8] = b"{\"timestamp\": {\"seconds\": 1700000000, \"microseconds\": 123456}, \"event\": \"RTC_CHANGE\", \"data\": {\"offset\": 0}}\r\n";
const SHUTDOWN: &[u8] = b"{\"timestamp\": {\"seconds\": 1700000000, \"microseconds\": 123456}, \"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-shutdown\"}}\r\n";

/// For how long it looks for its file, in nanoseconds.
const PATIENCE: u64 = 1_000_000_000;

struct Vm {
    client: Option<UnixStream>,
    stamps: Stamps,
    place: Place,
    flood: u64,
    mark: Option<PathBuf>,
    socket: PathBuf,
}

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let mut next = || PathBuf::from(arguments.next().expect("HERD INDEX SOCKET"));
    let (herd, index, socket) = (next(), next(), next());
    let mut vm = Vm {
        client: None,
        stamps: Stamps::default(),
        place: Place::open(&herd, index.to_str().and_then(|i| i.parse().ok()).expect("a number")),
        flood: 0,
        mark: None,
        socket,
    };
    for option in arguments {
        let option = option.to_str().expect("an option in UTF-8");
        match option.split_once('=') {
            Some(("--flood", count)) => vm.flood = count.parse().expect("a number"),
            Some(("--until-marked", path)) => vm.mark = Some(path.into()),
            _ => panic!("unknown option {option}"),
        }
    }
    let (power, flood) = (gate(&herd, "power"), gate(&herd, "flood"));
    let listener = listen(&vm.socket);
    vm.live(&listener, &power, &flood);
}

/// It is listened at when it appears: the original loses an instance whose socket it finds a
/// moment too early, for ever.
fn listen(socket: &Path) -> UnixListener {
    let elsewhere = socket.with_extension("elsewhere");
    let listener = UnixListener::bind(&elsewhere).expect("bind the socket");
    std::fs::hard_link(&elsewhere, socket).expect("give the socket its name");
    std::fs::remove_file(&elsewhere).expect("remove its other name");
    listener
}

/// Opened while the herd holds it open for writing.
fn gate(herd: &Path, name: &str) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(CWD, herd.join(name), flags, Mode::empty()).expect("open a gate")
}

impl Vm {
    fn live(&mut self, listener: &UnixListener, power: &OwnedFd, flood: &OwnedFd) {
        let mut has_flooded = false;
        loop {
            let client = self.client.as_ref().map_or(listener.as_fd(), AsFd::as_fd);
            // An open gate stays open.
            let flood = if has_flooded { power } else { flood };
            let mut sources = [
                PollFd::new(power, PollFlags::empty()),
                PollFd::new(flood, PollFlags::empty()),
                PollFd::from_borrowed_fd(client, PollFlags::IN),
            ];
            poll(&mut sources, None).expect("poll");
            let [power, flood, client] = sources.map(|source| !source.revents().is_empty());
            if power {
                return self.power_off();
            }
            if flood {
                has_flooded = true;
                self.flood();
            }
            match (client, &self.client) {
                (false, _) => {}
                (true, Some(_)) => self.hear(),
                (true, None) => self.accept(listener),
            }
        }
    }

    fn accept(&mut self, listener: &UnixListener) {
        let (client, _) = listener.accept().expect("accept");
        self.client = Some(client);
        self.send(GREETING);
    }

    fn hear(&mut self) {
        let mut buffer = [0; 512];
        let read = self.client.as_mut().map_or(0, |client| client.read(&mut buffer).unwrap_or(0));
        if read == 0 {
            self.client = None;
            self.stamps = Stamps::default();
        }
        for line in buffer[..read].split_inclusive(|&byte| byte == b'\n') {
            self.stamps.commands += 1;
            self.stamps.last_command = now();
            let is_query = line.windows(12).any(|word| word == b"query-status");
            self.send(if is_query { RUNNING } else { DONE });
        }
        self.place.write(&self.stamps);
    }

    fn flood(&mut self) {
        for _ in 0..self.flood {
            self.send(NOISE);
        }
        self.stamps.flooded = now();
        self.place.write(&self.stamps);
    }

    fn power_off(&mut self) {
        self.stamps.shutdown = now();
        self.send(SHUTDOWN);
        if let Some(mark) = &self.mark {
            while now() - self.stamps.shutdown < PATIENCE {
                if rustix::fs::access(mark, rustix::fs::Access::EXISTS).is_ok() {
                    self.stamps.marked = now();
                    break;
                }
                // The daemon may have been woken on this very CPU.
                std::thread::yield_now();
            }
        }
        self.place.write(&self.stamps);
        let _ = std::fs::remove_file(&self.socket);
    }

    fn send(&mut self, line: &[u8]) {
        if self.client.as_mut().is_some_and(|client| client.write_all(line).is_err()) {
            self.client = None;
        }
    }
}
