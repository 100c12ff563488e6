//! What `kvmd-run` costs: its memory, and the time that it adds to a start and to a stop. Bare QEMU and
//! `kvmd-run` take turns, so that both have the machine at the same pace.

use std::fs;
use std::time::{Duration, Instant};

use testbed::{Runner, RunnerBuilder, Signal};

use crate::supervised;

const ROUNDS: usize = 101;

/// How long something takes with bare QEMU and with `kvmd-run`, each in order.
type Pair = [Vec<Duration>; 2];

pub(crate) fn print() {
    let (start, stop, memory) = measure();
    println!("\nMedians of {ROUNDS} rounds, in which the two take turns:\n");
    println!("{:<48}  {:>10}  {:>10}  {:>10}", "", "bare QEMU", "kvmd-run", "difference");
    print_row("from the start to QEMU's serial line", &start);
    print_row("from the request to QEMU's POWERDOWN", &stop);
    let [resident, private] = memory;
    println!(
        "\nkvmd-run's memory while its guest runs: {resident} kB, {private} kB of them private."
    );
}

fn print_row(what: &str, pair: &Pair) {
    let [bare, ours] = pair.each_ref().map(|delays| median(delays));
    println!("{what:<48}  {:>7.2} ms  {:>7.2} ms  {:>7.2} ms", bare, ours, ours - bare);
}

fn median(delays: &[Duration]) -> f64 {
    let mut delays = delays.to_vec();
    delays.sort();
    delays[delays.len() / 2].as_secs_f64() * 1000.0
}

fn measure() -> (Pair, Pair, [u64; 2]) {
    let (mut start, mut stop) = (Pair::default(), Pair::default());
    let mut memory = [0, 0];
    for _ in 0..ROUNDS {
        for (number, builder) in [RunnerBuilder::bare(), supervised()].into_iter().enumerate() {
            let is_bare = number == 0;
            let began = Instant::now();
            let mut runner = builder.launch();
            runner.await_serial_line();
            start[number].push(began.elapsed());
            runner.await_ready();
            if !is_bare {
                runner.await_line("the guest runs");
                memory = ["Rss:", "Private_Dirty:"].map(|field| kilobytes(&runner, field));
            }
            stop[number].push(time_to_powerdown(runner, is_bare));
        }
    }
    (start, stop, memory)
}

/// From `system_powerdown` at the monitor of a bare QEMU, or SIGTERM to `kvmd-run`, until QEMU says that it
/// presses the button. What the guest takes from there is its own affair: this one looks 18 times a second.
fn time_to_powerdown(runner: Runner, is_bare: bool) -> Duration {
    let mut listener = runner.listen();
    let began = Instant::now();
    if is_bare {
        listener.request("system_powerdown");
    } else {
        runner.signal(Signal::TERM);
    }
    listener.await_event("\"POWERDOWN\"").expect("QEMU presses the button");
    let taken = began.elapsed();
    drop(listener);
    runner.end();
    taken
}

/// A field of the sum of all that it has mapped, in kB.
fn kilobytes(runner: &Runner, field: &str) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", runner.pid());
    let text = fs::read_to_string(&path).expect("read smaps_rollup");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("a field");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number of kB")
}
