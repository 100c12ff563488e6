//! The console of a guest that somebody else has started: Ganeti, with a socket for its serial line.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::{await_that, has_ended};

/// The console of an instance in which the guest of `tests/guest` runs, and its QEMU.
#[derive(Debug)]
pub struct Console {
    serial: UnixStream,
    name: String,
    /// QEMU's.
    pub pid: u32,
}

impl Console {
    /// Connects to the socket at `path` when it is there, and waits until the guest is ready.
    #[must_use]
    pub fn connect(path: &Path, name: &str, pid: u32) -> Self {
        /// A guest that stands still says nothing, and soon no more can be written to it.
        const LONGEST: Duration = Duration::from_millis(200);
        let mut serial = None;
        await_that(&format!("the console of {name} is there"), || {
            serial = UnixStream::connect(path).ok();
            serial.is_some()
        });
        let serial = serial.expect("it is connected");
        serial.set_read_timeout(Some(LONGEST)).expect("set a timeout");
        serial.set_write_timeout(Some(LONGEST)).expect("set a timeout");
        let mut console = Self { serial, name: name.into(), pid };
        console.await_ready();
        console
    }

    /// Gives the guest one of the commands of `tests/guest/guest.S`.
    pub fn tell(&mut self, letter: u8) {
        self.serial.write_all(&[letter]).expect("write to the console");
    }

    /// Whether it answers within a fifth of a second.
    pub fn answers(&mut self) -> bool {
        let mut letter = [0];
        while self.serial.read_exact(&mut letter).is_ok() {
            if letter == *b"!" {
                return true;
            }
        }
        false
    }

    /// Makes the guest deaf to the power button.
    pub fn deafen(&mut self) {
        self.tell(b'd');
        await_that(&format!("the guest of {} answers", self.name), || self.answers());
    }

    /// Asks until the guest answers: what is written while it boots is lost.
    pub fn await_ready(&mut self) {
        await_that(&format!("the guest of {} answers", self.name), || {
            self.serial.write_all(b"?").is_ok() && self.answers()
        });
    }

    /// Whether QEMU has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        has_ended(self.pid)
    }

    /// Waits until QEMU has ended.
    pub fn await_end(&self) {
        await_that(&format!("QEMU of {} ends", self.name), || self.is_gone());
    }
}
