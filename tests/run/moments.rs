//! A stop, and the end of `kvmd-run` itself, at any moment.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use testbed::{Signal, figure, needs};

use crate::{AWAY, MACHINES, SLOWLY, kvmd_run, record};

/// Numbers that look random, the same in every run: xorshift.
pub(crate) struct Dice(pub(crate) u64);

/// Up to the time that a boot takes, and a bit.
pub(crate) fn moment(dice: &mut Dice) -> Duration {
    Duration::from_micros(dice.roll(150_000))
}

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[test]
fn a_stop_at_any_moment_ends_well() {
    needs!(Qemu);
    let mut dice = Dice(0x5eed);
    let mut causes = BTreeMap::<String, u32>::new();
    for number in 0..204 {
        let when = number % 6;
        let options: &[&str] = if when == 2 { &["--continue-to-stop"] } else { &[] };
        let machine = MACHINES[number / 12 % 2];
        let mut runner = kvmd_run().options(options).with(machine).launch();
        let pause = moment(&mut dice);
        let qemu = format!("/proc/{}", runner.qemu());
        if when > 0 {
            runner.await_ready();
        }
        match when {
            // While QEMU starts and its guest boots, and while that runs.
            0 | 1 => thread::sleep(pause),
            2 => drop(runner.execute(&["stop"])),
            3 => {
                runner.tell(b'r');
                thread::sleep(pause);
            }
            // On the way, or gone.
            4 => {
                let mut listener = runner.listen();
                if number % 4 == 0 {
                    listener.execute(SLOWLY);
                }
                listener.execute(AWAY);
                thread::sleep(pause / 2);
            }
            _ => {
                runner.tell(b'p');
                thread::sleep(pause / 10);
            }
        }
        runner.signal(Signal::TERM);
        if number % 3 == 0 {
            runner.signal(Signal::TERM);
        }
        let outcome = runner.end();
        let said = outcome.lines.join("\n");
        assert_eq!(outcome.code(), 0, "number {number}:\n{said}");
        assert!(!fs::exists(&qemu).unwrap(), "number {number}: QEMU is left behind");
        *causes.entry(record(&outcome).cause).or_default() += 1;
    }
    figure(
        "SIGTERM to kvmd-run at 204 random moments: boot, running, pause, reset, migration, power-off",
        &format!("204 ended with 0: {causes:?}"),
    );
}

#[test]
fn qemu_does_not_outlive_it() {
    needs!(Qemu);
    let mut delays = Vec::new();
    for number in 0..100 {
        let mut runner = kvmd_run().launch();
        // Half of them while they boot.
        if number % 2 == 0 {
            runner.await_ready();
        }
        delays.push(runner.kill());
    }
    delays.sort();
    figure(
        "kvmd-run killed with SIGKILL, 100 times: QEMU gone",
        &format!(
            "100 times, within {:.1} ms (median {:.1} ms)",
            delays[99].as_secs_f64() * 1000.0,
            delays[50].as_secs_f64() * 1000.0
        ),
    );
}
