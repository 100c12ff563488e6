//! However a stop goes, what the guest has written is on its disk.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use tempfile::TempDir;
use testbed::{PATIENCE, Runner, Signal, figure, needs, send_signal};

use crate::moments::{Dice, moment};
use crate::{judged, kvmd_run};

const SECTOR: u64 = 512;
const ROUNDS: u32 = 20;

/// A disk of which QEMU keeps in its own memory where the guest's sectors are, until it flushes: a QEMU
/// that is killed loses them.
struct Disk {
    directory: TempDir,
}

impl Disk {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("disk").tempdir().unwrap();
        let disk = Self { directory };
        // A sector is as small as a cluster can be.
        qemu_img("create -q -f qcow2 -o cluster_size=512", &[&disk.path(), Path::new("64M")]);
        disk
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    fn argument(&self) -> String {
        let path = self.path();
        format!("-drive file={},format=qcow2,if=ide,index=1,cache=writeback", path.display())
    }

    /// How many of the first sectors hold their own number, which the guest has written.
    fn count(&self) -> u64 {
        let raw = self.directory.path().join("raw");
        qemu_img("convert -f qcow2 -O raw", &[&self.path(), &raw]);
        let mut raw = File::open(raw).unwrap();
        let mut holds = |number: u64| {
            let mut written = [0; 8];
            raw.seek(SeekFrom::Start(number * SECTOR)).unwrap();
            raw.read_exact(&mut written).is_ok() && u64::from_le_bytes(written) == number
        };
        let mut count = 0;
        while holds(count + 1) {
            count += 1;
        }
        count
    }

    fn is_sound(&self) -> bool {
        let check = Command::new("qemu-img").args(["check", "-q"]).arg(self.path()).output();
        check.unwrap().status.success()
    }
}

fn qemu_img(words: &str, paths: &[&Path]) {
    let status = Command::new("qemu-img").args(words.split(' ')).args(paths).status();
    assert!(status.unwrap().success(), "qemu-img {words}");
}

/// Has a guest count for a while and ends it. How far it has said that it had come, and how far its disk
/// has it.
fn play(dice: &mut Dice, end: fn(Runner)) -> (u64, u64, bool) {
    let disk = Disk::new();
    let mut runner = kvmd_run().with(&disk.argument()).boot();
    let mut serial = runner.take_serial_line();
    serial.set_read_timeout(Some(PATIENCE)).unwrap();
    serial.write_all(b"n").unwrap();
    // From its first sector on.
    serial.read_exact(&mut [0]).unwrap();
    // Read all the time: the line has room for a few hundred bytes, and a guest that waits for more looks
    // at no button.
    let listener = thread::spawn(move || {
        let mut said = Vec::new();
        serial.read_to_end(&mut said).map(|_| said)
    });
    thread::sleep(moment(dice));
    end(runner);
    let said = listener.join().unwrap().unwrap();
    (said.len() as u64 + 1, disk.count(), disk.is_sound())
}

/// A way to end, in words and in deed.
type End = (&'static str, fn(Runner));

#[test]
fn what_a_guest_has_written_is_there_after_every_stop() {
    needs!(Qemu, QemuImg);
    let ends: [End; 5] = [
        ("it obeys", |it| {
            it.signal(Signal::TERM);
            assert_eq!(judged(it).0, 0);
        }),
        ("it is paused, and told to end", |it| {
            it.execute(&["stop"]);
            it.signal(Signal::TERM);
            assert_eq!(judged(it).0, 41);
        }),
        ("it has no time to obey", |it| {
            it.signal(Signal::INT);
            it.signal(Signal::INT);
            drop(it.end());
        }),
        ("it is not asked", |it| {
            it.signal(Signal::QUIT);
            assert_eq!(judged(it).0, 0);
        }),
        ("kvmd-run is killed", |it| {
            it.kill();
        }),
    ];
    let mut dice = Dice(0xd15c);
    let mut written = 0;
    for (what, end) in ends {
        for round in 0..ROUNDS {
            let (said, holds, is_sound) = play(&mut dice, end);
            assert!(holds >= said, "{what}, round {round}: {holds} of {said}");
            assert!(is_sound, "{what}, round {round}");
            written += said;
        }
    }
    // What this would look like otherwise.
    let mut lost = 0;
    for _ in 0..ROUNDS {
        let (said, holds, _) = play(&mut dice, |it| {
            send_signal(it.qemu(), Signal::KILL);
            assert_eq!(judged(it).0, 33);
        });
        lost += u32::from(holds < said);
    }
    assert!(lost > 0, "a killed QEMU loses nothing here: this test shows nothing");
    figure(
        "kvmd-run stops a guest that writes, or is killed: sectors written, and there",
        &format!(
            "{written} of {written} in 100 ends ({lost} of {ROUNDS} lose some if QEMU is killed)"
        ),
    );
}
