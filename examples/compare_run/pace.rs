//! What `kvmd-run` costs: its memory, and the time that it adds to a start and to a stop. Bare QEMU and
//! `kvmd-run` take turns, so that both have the machine at the same pace.

use std::fs;
use std::time::{Duration, Instant};

use testbed::{Runner, RunnerBuilder, Signal};

use crate::supervised;

const ROUNDS: usize = 101;

/// How long something takes in each round, with bare QEMU and with `kvmd-run`.
type Pair = [Vec<Duration>; 2];

pub(crate) fn print() {
    let (start, stop, memory) = measure();
    println!(
        "\nMedians of {ROUNDS} rounds, in which the two take turns, and of their differences:\n"
    );
    println!(
        "{:<40}  {:>10}  {:>10}  {:>10}  {:>16}",
        "", "bare QEMU", "kvmd-run", "difference", "95 % certain"
    );
    print_row("from the start to QEMU's serial line", &start);
    print_row("from the request to QEMU's POWERDOWN", &stop);
    let [resident, private] = memory;
    println!(
        "\nkvmd-run's memory while its guest runs: {resident} kB, {private} kB of them private."
    );
}

fn print_row(what: &str, pair: &Pair) {
    let [bare, ours] = pair.each_ref().map(|delays| milliseconds(delays));
    // Of the rounds' own differences: a busy moment lasts for longer than one.
    let differences = sorted(bare.iter().zip(&ours).map(|(bare, ours)| ours - bare).collect());
    let (least, most) = bounds_of_median(&differences);
    let [bare, ours, difference] = [sorted(bare), sorted(ours), differences].map(|it| median(&it));
    println!(
        "{what:<40}  {bare:>7.2} ms  {ours:>7.2} ms  {difference:>7.2} ms  {:>16}",
        format!("{least:.2} to {most:.2}")
    );
}

fn milliseconds(delays: &[Duration]) -> Vec<f64> {
    delays.iter().map(|delay| delay.as_secs_f64() * 1000.0).collect()
}

fn sorted(mut numbers: Vec<f64>) -> Vec<f64> {
    numbers.sort_by(f64::total_cmp);
    numbers
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

/// Where the median of many more rounds would be, 95 times of a hundred. A round is above it as often as
/// below, whatever the distribution, like a coin: of so many, two standard deviations are a square root.
fn bounds_of_median(sorted: &[f64]) -> (f64, f64) {
    let (middle, reach) = (sorted.len() / 2, sorted.len().isqrt());
    (sorted[middle - reach], sorted[middle + reach])
}

fn measure() -> (Pair, Pair, [u64; 2]) {
    let (mut start, mut stop) = (Pair::default(), Pair::default());
    let mut memory = [0, 0];
    for round in 0..ROUNDS {
        // Each is the first as often as the other.
        for number in [round % 2, 1 - round % 2] {
            let is_bare = number == 0;
            let builder = if is_bare { RunnerBuilder::bare() } else { supervised() };
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
