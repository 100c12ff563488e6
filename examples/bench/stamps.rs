//! What a virtual machine of the bench has seen and when, in a file that it shares with its herd.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};

/// Times are in nanoseconds of `CLOCK_MONOTONIC`; 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stamps {
    /// How many commands have come over this connection, and when the last one did.
    pub(crate) commands: u64,
    pub(crate) last_command: u64,
    /// When the last event of the flood was sent.
    pub(crate) flooded: u64,
    /// When SHUTDOWN was about to be sent.
    pub(crate) shutdown: u64,
    /// When the file was there.
    pub(crate) marked: u64,
}

const LENGTH: usize = 40;

/// The place of one virtual machine in the file.
#[derive(Debug)]
pub(crate) struct Place {
    file: File,
    offset: u64,
}

impl Place {
    pub(crate) fn open(herd: &Path, index: usize) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(herd.join("stamps"));
        Self { file: file.expect("open the stamps"), offset: (index * LENGTH) as u64 }
    }

    #[allow(dead_code, reason = "the bench itself only reads")]
    pub(crate) fn write(&self, stamps: &Stamps) {
        let Stamps { commands, last_command, flooded, shutdown, marked } = *stamps;
        let mut bytes = [0; LENGTH];
        let fields = [commands, last_command, flooded, shutdown, marked];
        for (place, field) in bytes.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_ne_bytes());
        }
        self.file.write_all_at(&bytes, self.offset).expect("write the stamps");
    }

    /// Those of `count` machines from this one on.
    #[allow(dead_code, reason = "a virtual machine only writes")]
    pub(crate) fn read(&self, count: usize) -> Vec<Stamps> {
        let mut bytes = vec![0; count * LENGTH];
        self.file.read_exact_at(&mut bytes, self.offset).expect("read the stamps");
        let field = |record: &[u8], number: usize| {
            u64::from_ne_bytes(record[number * 8..][..8].try_into().expect("eight bytes"))
        };
        let stamps = bytes.chunks_exact(LENGTH).map(|record| Stamps {
            commands: field(record, 0),
            last_command: field(record, 1),
            flooded: field(record, 2),
            shutdown: field(record, 3),
            marked: field(record, 4),
        });
        stamps.collect()
    }
}

/// The time now, in nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
