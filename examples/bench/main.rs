//! The figures behind `make bench`: this daemon, the original and two that listen to the kernel
//! as it does, on the same work in the same run.
//!
//! Usage: `bench [--only PART... | --scale TABLE [MACHINES...]]`
//!
//! With `--only` it measures some parts of `PARTS`; without the original where `BENCH_ALONE` is
//! set. With `--scale` it writes how the figures grow with the number of virtual machines, for
//! `plot.py`. The original knows Ganeti's own paths only, so all is played in a mount namespace
//! of its own.

// Nanoseconds and bytes are far below what a float holds to the digit; every error ends the run.
#![allow(clippy::cast_precision_loss)]

mod filters;
mod fleet;
mod herd;
mod listeners;
mod measures;
mod observer;
mod scale;
mod stamps;
mod subject;
mod table;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use listeners::Listener;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use subject::{Memory, Subject};
use table::Target::{AtLeast, AtMost};
use table::Value::{Bytes, Count, KiB, Nanoseconds, Ratio};
use table::{Table, Target, Value, median, percentile};
use testbed::in_private_mounts;

/// Three for each machine, in the daemon.
const DESCRIPTORS: u64 = 1 << 18;

const EVENTS: u64 = 2000;
/// With as many as above the original takes 9 GB.
const EVENTS_FOR_THEIRS: u64 = 200;

const MS: f64 = 1e6;

/// What a daemon has done before that does not count against how long it may be in front.
const A_SECOND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        eprintln!("The bench needs root: for the proc connector, and for Ganeti's paths.");
        return ExitCode::FAILURE;
    }
    if let Some(code) = in_private_mounts() {
        return code;
    }
    // Without CAP_SYS_RESOURCE, as much as there may be.
    let bound = getrlimit(Resource::Nofile).maximum;
    let most = |descriptors| Rlimit { current: Some(descriptors), maximum: Some(descriptors) };
    let _ = setrlimit(Resource::Nofile, most(DESCRIPTORS))
        .or_else(|_| setrlimit(Resource::Nofile, most(bound.unwrap_or(DESCRIPTORS))));
    let mut bench = Bench { table: Table::default(), theirs: None };
    if std::env::var_os("BENCH_ALONE").is_some() {
        bench.table.note("Without the original, as BENCH_ALONE says.");
    } else if testbed::original().is_some() {
        bench.theirs = Some(Subject::Theirs);
    } else {
        bench.table.note(
            "Without the original: it is not installed. Type: apt-get install ganeti-haskell-3.0",
        );
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    if load > 0.5 {
        bench.table.note(format!(
            "This machine is busy (load {load}): times and rates are those of the scheduler."
        ));
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments.as_slice() {
        [] => bench.run(&[]),
        ["--only", ref parts @ ..] => bench.run(parts),
        ["--scale", path, ref machines @ ..] => {
            let machines = machines.iter().map(|number| number.parse().expect("a number"));
            let machines: Vec<usize> = machines.collect();
            scale::measure(Path::new(path), &bench.subjects(), &machines);
        }
        // See `scale`.
        ["--row", subject, machines] => {
            let subject = Subject::named(subject).expect("ours or original");
            print!("{}", scale::row(subject, machines.parse().expect("a number")));
        }
        _ => {
            eprintln!("Usage: bench [--only PART... | --scale TABLE [MACHINES...]]");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

struct Bench {
    table: Table,
    /// The original, if it is there.
    theirs: Option<Subject>,
}

type Part = (&'static str, fn(&mut Bench));

const PARTS: [Part; 10] = [
    ("memory", Bench::memory),
    ("flood", Bench::flood),
    ("listeners", Bench::listeners),
    ("attach", Bench::attach),
    ("storm", Bench::storm),
    ("latency", Bench::latency),
    ("filters", Bench::filters),
    ("calls", Bench::system_calls),
    ("many", Bench::many),
    ("fleet", Bench::fleet),
];

impl Bench {
    fn subjects(&self) -> Vec<Subject> {
        [Subject::Ours].into_iter().chain(self.theirs).collect()
    }

    /// Measures these parts, or all, and prints what came of it.
    fn run(mut self, names: &[&str]) {
        for (name, part) in PARTS {
            if names.is_empty() || names.contains(&name) {
                println!("{name} ...");
                part(&mut self);
            }
        }
        self.table.print();
    }

    /// The same of both.
    fn both<T>(&self, measure: impl Fn(Subject) -> T) -> (T, Option<T>) {
        (measure(Subject::Ours), self.theirs.map(measure))
    }

    /// A row with the original in it.
    fn beside<T>(
        &mut self,
        what: &str,
        (ours, theirs): &(T, Option<T>),
        target: Target,
        value: impl Fn(&T) -> Value,
    ) {
        let theirs = theirs.as_ref().map(&value);
        self.table.add(what, value(ours), &[("original", theirs)], target);
    }

    fn memory(&mut self) {
        let one = self.both(|subject| measures::attach(subject, 1, 1).memory);
        self.memory_rows("1 VM", &one, AtMost(KiB(3.0 * 1024.0)));
        let many = self.both(|subject| measures::attach(subject, 1000, 1).memory);
        self.memory_rows("1000 VMs", &many, AtMost(KiB(6.0 * 1024.0)));
        let growth = |one: Memory, many: Memory| (many.rss as f64 - one.rss as f64) / 999.0;
        let growth =
            (growth(one.0, many.0), one.1.zip(many.1).map(|(one, many)| growth(one, many)));
        let target = AtMost(Bytes(3.0 * 1024.0));
        self.beside("... RSS for each VM after the first", &growth, target, |kib| {
            Bytes(kib * 1024.0)
        });
    }

    fn memory_rows(&mut self, vms: &str, memory: &(Memory, Option<Memory>), target: Target) {
        self.beside(&format!("RSS, {vms}"), memory, target, |memory| KiB(memory.rss as f64));
        self.beside("... PSS", memory, Target::None, |memory| KiB(memory.pss as f64));
        self.beside("... private", memory, Target::None, |memory| KiB(memory.private as f64));
    }

    fn flood(&mut self) {
        let ours = measures::flood(Subject::Ours, 1000, EVENTS);
        let theirs = self.theirs.map(|theirs| measures::flood(theirs, 1000, EVENTS_FOR_THEIRS));
        if let Some(theirs) = &theirs {
            let stopped = if theirs.was_stopped {
                ", and was stopped before the end for want of memory"
            } else {
                ""
            };
            self.table.note(format!(
                "The original was sent {EVENTS_FOR_THEIRS} events by each VM, not {EVENTS}{stopped}: it would take 9 GB."
            ));
        }
        let before = ours.before.rss as f64;
        let flood = (ours, theirs);
        let what = format!("RSS before {EVENTS} events from each of 1000 VMs");
        self.beside(&what, &flood, Target::None, |flood| KiB(flood.before.rss as f64));
        // A page table or a stack may have grown.
        let target = AtMost(KiB(before + 256.0));
        self.beside("... and after", &flood, target, |flood| KiB(flood.after.rss as f64));
        let target = AtMost(Nanoseconds(1500.0));
        self.beside("... CPU for each event", &flood, target, |flood| {
            Nanoseconds(flood.cpu_per_event)
        });
    }

    fn listeners(&mut self) {
        let others = [Listener::forkstat(), Listener::extrace()].map(|listener| {
            let Listener::Other { program, .. } = &listener else { unreachable!() };
            let program = *program;
            if is_installed(program) {
                return (program, Some(listener));
            }
            self.table.note(format!(
                "Without {program}: it is not installed. Type: apt-get install {program}"
            ));
            (program, None)
        });
        let measure = |listener: &Option<Listener>, measure: fn(&Listener) -> f64| {
            listener.as_ref().map(measure)
        };
        let switches = |listener: &Listener| listener.context_switches(50_000);
        let ours = Listener::ours();
        let ours_switches = switches(&ours);
        let others_switches = others
            .each_ref()
            .map(|(program, listener)| (*program, measure(listener, switches).map(Count)));
        self.table.add(
            "context switches while 50,000 others come and go",
            Count(ours_switches),
            &others_switches,
            AtMost(Count(5.0)),
        );
        let ours_rate = ours.slowdown(Duration::from_secs(40));
        drop(ours);
        let others_rate = others.each_ref().map(|(program, listener)| {
            (
                *program,
                measure(listener, |listener| listener.slowdown(Duration::from_secs(15))).map(Ratio),
            )
        });
        self.table.add(
            "fork+exit of the host, with : without",
            Ratio(ours_rate),
            &others_rate,
            AtLeast(Ratio(0.98)),
        );
    }

    fn attach(&mut self) {
        let attached = self.both(|subject| measures::attach(subject, 1000, 5));
        let target = AtMost(Nanoseconds(100.0 * MS));
        self.beside("attach to 1000 VMs, from start to last answer", &attached, target, |it| {
            Nanoseconds(it.took)
        });
    }

    fn storm(&mut self) {
        for (machines, most, longest) in [(200, 0.0, None), (1000, 50.0, Some(20.0))] {
            let storm = self.both(|subject| measures::storm(subject, machines, 5, A_SECOND));
            let what = format!("{machines} power off at once: gone with no file yet");
            self.beside(&what, &storm, AtMost(Count(most)), |storm| Count(storm.gone_unmarked));
            let never = |storm: &measures::Storm| Count(storm.never as f64);
            self.beside(
                "... files that never came, in all 5 rounds",
                &storm,
                AtMost(Count(0.0)),
                never,
            );
            let target = longest.map_or(Target::None, |longest| AtMost(Nanoseconds(longest * MS)));
            self.beside("... last file after the last VM is gone", &storm, target, |storm| {
                Nanoseconds(storm.lag)
            });
            self.beside("... event to file, median", &storm, Target::None, |storm| {
                Nanoseconds(storm.delay)
            });
            self.beside("... event to file, p99", &storm, Target::None, |storm| {
                Nanoseconds(storm.longest_delays)
            });
        }
        let at_once = measures::storm(Subject::Ours, 1000, 5, Duration::ZERO);
        self.table.add(
            "... half a second after 1000 were started: gone with no file yet",
            Count(at_once.gone_unmarked),
            &[],
            Target::None,
        );
    }

    fn latency(&mut self) {
        let delays = self.both(|subject| measures::one_by_one(subject, 300));
        let at = |percent| {
            move |delays: &Vec<f64>| Nanoseconds(percentile(&mut delays.clone(), percent))
        };
        let target = AtMost(Nanoseconds(0.1 * MS));
        self.beside("event to file as an observer sees it, 1 VM, median", &delays, target, at(50));
        self.beside("... p99", &delays, Target::None, at(99));
        let mut looked = measures::one_by_one_until_marked(Subject::Ours, 300);
        self.table.add(
            "... as the VM sees it, which lives on until then, median",
            Nanoseconds(median(&mut looked)),
            &[],
            target,
        );
        self.table.add("... p99", Nanoseconds(percentile(&mut looked, 99)), &[], Target::None);
        self.table.add(
            "... of a program that does nothing but recv and mknod (floor), median",
            Nanoseconds(median(&mut measures::floor(300))),
            &[],
            Target::None,
        );
        self.table.note("The original makes its file when the VM is gone: a VM that waits for it would wait for ever.");
    }

    fn filters(&mut self) {
        let (connector, trace) = filters::update(1000);
        if let Some(connector) = connector {
            let total = connector + trace.unwrap_or_default();
            let target = AtMost(Nanoseconds(MS));
            self.table.add(
                "one VM more or less among 1000: both filters",
                Nanoseconds(total),
                &[],
                target,
            );
            self.table.add("... the proc connector's", Nanoseconds(connector), &[], Target::None);
        }
        if let Some(trace) = trace {
            self.table.add("... the trace's", Nanoseconds(trace), &[], Target::None);
        }
    }

    fn system_calls(&mut self) {
        for machines in [1, 200] {
            let calls = self.both(|subject| measures::system_calls(subject, machines));
            let (Some((ours, which)), theirs) = calls else {
                self.table
                    .note("Without strace: it is not installed. Type: apt-get install strace");
                return;
            };
            let theirs = theirs.flatten().map(|(theirs, _)| Count(theirs));
            let what = format!("system calls for each verdict, {machines} at once (floor)");
            self.table.add(&what, Count(ours), &[("original", theirs)], Target::None);
            self.table.note(format!("Calls of ours for each of {machines} at once: {which}."));
        }
    }

    /// As many as the machine holds.
    fn many(&mut self) {
        const WANTED: u64 = 10_000;
        const KIB_EACH: u64 = 600;
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / 3 - 20;
        let memory = subject::available_memory() / 2 / KIB_EACH;
        let machines = WANTED.min(descriptors).min(memory) as usize;
        if descriptors < WANTED.min(memory) {
            self.table.note(format!(
                "Descriptors for {machines} VMs only, not {WANTED}: RLIMIT_NOFILE cannot be raised without CAP_SYS_RESOURCE."
            ));
        }
        let attached = measures::attach(Subject::Ours, machines, 1);
        let before = measures::attach(Subject::Ours, 1000, 1);
        let growth = (attached.memory.rss as f64 - before.memory.rss as f64) * 1024.0
            / (machines as f64 - 1000.0);
        let what = format!("RSS, {machines} VMs");
        self.table.add(&what, KiB(attached.memory.rss as f64), &[], Target::None);
        let target = AtMost(Bytes(3.0 * 1024.0));
        self.table.add("... for each VM after the first 1000", Bytes(growth), &[], target);
        self.table.add("... attach to them all", Nanoseconds(attached.took), &[], Target::None);
    }
}

fn is_installed(program: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("command -v {program}")]);
    command.stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}
