//! A service manager that keeps descriptors, as systemd does: `sd_notify(3)` with `FDSTORE=1`,
//! `sd_listen_fds(3)`. For `tests/restarts.rs`.
//!
//! Usage: `service_manager PROGRAM [ARGUMENT...]`
//!
//! It runs the program until it is told to end with SIGTERM. SIGUSR1 has it kill the program with
//! SIGKILL and start it again, SIGUSR2 with SIGTERM. Like systemd it keeps a descriptor that has
//! hung up only if it was told so (`FDPOLL=0`). It says so on stderr when it hears that the program
//! goes on, for which it asks with `WATCHDOG_USEC` in its own environment.

use std::fmt::Write as _;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook_mio::v1_0::Signals;

/// Above what a shell uses for itself.
const FIRST_PASSED: i32 = 1000;

struct Manager {
    notify: UnixDatagram,
    path: std::path::PathBuf,
    stored: Vec<(String, OwnedFd)>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_nonblocking(true).unwrap();
    let mut manager = Manager { notify, path, stored: Vec::new() };
    let mut poll = Poll::new().unwrap();
    let mut signals = Signals::new([libc::SIGUSR1, libc::SIGUSR2, libc::SIGTERM]).unwrap();
    poll.registry().register(&mut signals, Token(0), Interest::READABLE).unwrap();
    let descriptor = manager.notify.as_raw_fd();
    poll.registry().register(&mut SourceFd(&descriptor), Token(1), Interest::READABLE).unwrap();
    let mut child = manager.start(&arguments);
    let mut events = Events::with_capacity(8);
    loop {
        if poll.poll(&mut events, None).is_err() {
            continue;
        }
        manager.take_messages();
        for signal in signals.pending() {
            let end = if signal == libc::SIGUSR1 { Signal::KILL } else { Signal::TERM };
            kill_process(Pid::from_child(&child), end).unwrap();
            child.wait().unwrap();
            // What it sent last.
            manager.take_messages();
            if signal == libc::SIGTERM {
                return;
            }
            child = manager.start(&arguments);
        }
    }
}

impl Manager {
    /// Starts the program with what is stored, from descriptor 3 on.
    fn start(&self, arguments: &[String]) -> Child {
        let mut script = String::new();
        let mut passed = Vec::new();
        for (i, (_, descriptor)) in self.stored.iter().enumerate() {
            let copy = fcntl_dupfd_cloexec(descriptor, FIRST_PASSED).unwrap();
            fcntl_setfd(&copy, FdFlags::empty()).unwrap();
            let _ = write!(script, "exec {}<&{} {1}<&-; ", i + 3, copy.as_raw_fd());
            passed.push(copy);
        }
        script.push_str("export LISTEN_PID=$$; exec \"$@\"");
        let names: Vec<&str> = self.stored.iter().map(|(name, _)| name.as_str()).collect();
        Command::new("bash")
            .args(["-c", &script, "bash"])
            .args(arguments)
            .env("NOTIFY_SOCKET", &self.path)
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .spawn()
            .unwrap()
    }

    fn take_messages(&mut self) {
        let mut text = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        loop {
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC;
            let pieces = &mut [IoSliceMut::new(&mut text)];
            let Ok(received) = recvmsg(self.notify.as_fd(), pieces, &mut ancillary, flags) else {
                return;
            };
            let descriptors: Vec<OwnedFd> = ancillary
                .drain()
                .filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                    _ => None,
                })
                .flatten()
                .collect();
            let message = String::from_utf8_lossy(&text[..received.bytes]).into_owned();
            self.obey(&message, descriptors);
        }
    }

    fn obey(&mut self, message: &str, descriptors: Vec<OwnedFd>) {
        let has = |line: &str| message.lines().any(|other| other == line);
        let name =
            message.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored");
        if has("WATCHDOG=1") {
            eprintln!("The manager hears that it goes on");
        } else if has("FDSTOREREMOVE=1") {
            self.stored.retain(|(other, _)| other != name);
        } else if has("FDSTORE=1") {
            assert!(has("FDPOLL=0"), "systemd would drop it when it hangs up: {message}");
            assert!(Path::new(&self.path).exists());
            self.stored.extend(descriptors.into_iter().map(|one| (name.to_string(), one)));
        }
    }
}
