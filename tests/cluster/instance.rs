//! A running instance: its process, and its guest at the console.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use testbed::{Console, Signal, await_that, has_ended, send_signal};

use crate::node::Node;

/// Where Ganeti keeps QEMU's sockets, and its pid files.
const CONTROL: &str = "run/ganeti/kvm-hypervisor/ctrl";
const PIDS: &str = "run/ganeti/kvm-hypervisor/pid";

/// An instance that runs, with the guest of `tests/guest`.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) pid: u32,
    control: PathBuf,
    name: String,
    console: Console,
}

impl Instance {
    /// The pid of an instance on this node, if QEMU has been started there.
    pub(crate) fn pid_on(node: &Node, name: &str) -> Option<u32> {
        fs::read_to_string(node.path(PIDS).join(name)).ok()?.trim().parse().ok()
    }

    /// Connects to its console on this node, and waits until the guest is ready.
    pub(crate) fn on(node: &Node, name: &str) -> Self {
        let control = node.path(CONTROL);
        await_that(&format!("QEMU has started {name}"), || Self::pid_on(node, name).is_some());
        let pid = Self::pid_on(node, name).expect("QEMU's pid file is there");
        let console = Console::connect(&control.join(format!("{name}.serial")), name, pid);
        Self { pid, control, name: name.into(), console }
    }

    /// Gives the guest one of the commands of `tests/guest/guest.S`.
    pub(crate) fn tell(&mut self, letter: u8) {
        self.console.tell(letter);
    }

    /// Makes the guest deaf to the power button.
    pub(crate) fn deafen(&mut self) {
        self.console.deafen();
    }

    /// Its user powers it off.
    pub(crate) fn power_off(mut self) {
        self.tell(b'p');
        self.await_end();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send_signal(self.pid, signal);
    }

    /// Has a guest that stands still on this node go on.
    pub(crate) fn resume(node: &Node, name: &str) {
        testbed::execute_qmp(&node.path(CONTROL).join(format!("{name}.qmp")), &["cont"]);
    }

    /// Has QEMU execute something that may be the end of it.
    pub(crate) fn execute(&self, request: &str) {
        let socket = self.control.join(format!("{}.qmp", self.name));
        let mut monitor = UnixStream::connect(socket).expect("connect to the monitor");
        let requests = format!("{{\"execute\": \"qmp_capabilities\"}}\n{request}\n");
        monitor.write_all(requests.as_bytes()).expect("write to the monitor");
        // Until it is gone: where it is not, whoever waits for its end complains.
        monitor.set_read_timeout(Some(testbed::PATIENCE)).expect("set a timeout");
        let _ = monitor.read_to_end(&mut Vec::new());
    }

    pub(crate) fn await_end(&self) {
        await_end(self.pid, &self.name);
    }
}

/// Whether this node has the file that says that an instance's user has shut it down.
pub(crate) fn is_marked(node: &Node, name: &str) -> bool {
    node.path(CONTROL).join(format!("{name}.shutdown")).exists()
}

/// Waits until QEMU's process has ended.
pub(crate) fn await_end(pid: u32, name: &str) {
    await_that(&format!("QEMU of {name} ends"), || has_ended(pid));
}
