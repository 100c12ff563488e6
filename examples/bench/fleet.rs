//! `kvmd-why` over the records of a whole fleet: a million of them, 100 of each of 10,000 nodes, as
//! `gnt-cluster command -M` would hand them over in one pipe.
//!
//! The records are made up as they are needed, the same in every run: the fields are those that the daemon
//! writes, the ends those of a bad week.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kvmd::wire::record::{Evidence, Record};
use kvmd::wire::{Ancestor, Sender};

use super::Bench;
use super::subject::field;
use super::table::Target::{self, AtMost};
use super::table::Value::{Count, KiB, Nanoseconds};
use super::table::median;

const NODES: u64 = 10_000;
const ENDS_OF_EACH: u64 = 100;
/// So many instances does each node have.
const INSTANCES_OF_EACH: u64 = 20;

const A_WEEK: u64 = 7 * 86_400;
const ITS_FIRST_DAY: u64 = 14;

const ROUNDS: usize = 3;

impl Bench {
    pub(crate) fn fleet(&mut self) {
        let bytes = write_to(&mut io::sink()).expect("write to nowhere");
        let second = Nanoseconds(3e9);
        let memory = KiB(64.0 * 1024.0);
        self.rows(
            "--summary of a million ends on 10,000 nodes",
            &["--summary"],
            AtMost(second),
            AtMost(memory),
        );
        self.rows("... the table of the latest 20", &[], AtMost(second), AtMost(memory));
        let since = ["--since=2026-11-20T23:00:00Z", "--all"];
        self.rows("... all of the last hour", &since, Target::None, Target::None);
        self.table.add(
            "... bytes of each record",
            Count((bytes / (NODES * ENDS_OF_EACH)) as f64),
            &[],
            Target::None,
        );
    }

    fn rows(&mut self, what: &str, options: &[&str], time: Target, memory: Target) {
        let runs: Vec<Run> = (0..ROUNDS).map(|_| run(options)).collect();
        let median_of = |of: fn(&Run) -> u64| {
            median(&mut runs.iter().map(|run| of(run) as f64).collect::<Vec<_>>())
        };
        self.table.add(what, Nanoseconds(median_of(|run| run.took)), &[], time);
        self.table.add("... ... CPU", Nanoseconds(median_of(|run| run.cpu)), &[], Target::None);
        let most = runs.iter().map(|run| run.most).max().unwrap_or_default();
        self.table.add("... ... RSS, at most", KiB(most as f64), &[], memory);
    }
}

struct Run {
    /// From its start to its end, in nanoseconds; and its time on a CPU.
    took: u64,
    cpu: u64,
    /// Its memory, in KiB.
    most: u64,
}

/// Has `kvmd-why` read them all.
fn run(options: &[&str]) -> Run {
    let began = Instant::now();
    let mut child = Command::new(testbed::daemon_program().with_file_name("kvmd-why"))
        .arg("--file=-")
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("start kvmd-why: type cargo build --release --bins");
    let mut input = child.stdin.take().expect("stdin is piped");
    write_to(&mut input).expect("write to kvmd-why");
    drop(input);
    let (most, cpu) = until_end(&mut child);
    Run { took: began.elapsed().as_nanos() as u64, cpu, most }
}

/// The most memory that it had, and its time on a CPU, by the last look before its end.
fn until_end(child: &mut Child) -> (u64, u64) {
    let (mut most, mut cpu) = (0, 0);
    loop {
        let proc = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", child.id()));
        let status = proc("status").unwrap_or_default();
        // It has none when it is a zombie.
        if status.contains("VmHWM") {
            most = field(&status, "VmHWM");
        }
        let schedule = proc("schedstat").unwrap_or_default();
        let on_cpu = schedule.split(' ').next().and_then(|word| word.parse().ok());
        cpu = cpu.max(on_cpu.unwrap_or_default());
        if let Some(status) = child.try_wait().expect("wait for kvmd-why") {
            assert!(status.success(), "kvmd-why: {status}");
            return (most, cpu);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Writes the output of the whole fleet; how many bytes.
fn write_to(output: &mut impl Write) -> io::Result<u64> {
    let ends =
        [guest_shutdown(), terminated(), crashed(), out_of_memory()].map(|end| Pattern::new(&end));
    let mut output = BufWriter::with_capacity(1 << 16, output);
    let mut random = Random(1);
    let mut written = 0;
    for node in 0..NODES {
        output.write_all(b"------------------------------------------------\n")?;
        for _ in 0..ENDS_OF_EACH {
            let end = match random.below(100) {
                0..60 => &ends[0],
                60..96 => &ends[1],
                96..98 => &ends[2],
                _ => &ends[3],
            };
            let instance = node * INSTANCES_OF_EACH + random.below(INSTANCES_OF_EACH);
            let time = time(random.below(A_WEEK), random.below(1_000_000));
            let prefix = format!("node{node}.example.com: ");
            output.write_all(prefix.as_bytes())?;
            let length = end.write(&mut output, &format!("web{instance}.example.com"), &time)?;
            written += prefix.len() as u64 + length;
        }
        output.write_all(b"return code = 0\n")?;
    }
    output.flush()?;
    Ok(written)
}

/// A time in that week of November 2026, as a record has it. To ask a library takes longer than
/// `kvmd-why` does.
fn time(second: u64, micros: u64) -> String {
    let (day, hour) = (ITS_FIRST_DAY + second / 86_400, second / 3600 % 24);
    let (minute, second) = (second / 60 % 60, second % 60);
    format!("2026-11-{day}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Marsaglia's xorshift: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The line of a record, where the instance and the time are yet to be put.
struct Pattern([Vec<u8>; 3]);

const INSTANCE: &str = "@instance";
const TIME: &str = "@time";

impl Pattern {
    fn new(record: &Record) -> Self {
        let record = Record { instance: INSTANCE.into(), end: TIME.into(), ..record.clone() };
        let line = String::from_utf8(record.to_line()).expect("JSON is UTF-8");
        let (before, rest) = line.split_once(INSTANCE).expect("the instance");
        let (between, after) = rest.split_once(TIME).expect("the time");
        Self([before, between, after].map(|part| part.as_bytes().to_vec()))
    }

    fn write(&self, output: &mut impl Write, instance: &str, time: &str) -> io::Result<u64> {
        let [before, between, after] = &self.0;
        let parts = [before, instance.as_bytes(), between, time.as_bytes(), after];
        parts.iter().try_for_each(|part| output.write_all(part))?;
        Ok(parts.iter().map(|part| part.len() as u64).sum())
    }
}

fn end(cause: &str, initiator: &str, summary: &str, evidence: &[(&str, &str)]) -> Record {
    let around = [("qmp", "connected"), ("qmp", "answered: running")].iter().chain(evidence);
    let closing = [
        ("qmp", "the connection was closed"),
        ("proc-connector", "exit status 0"),
        ("pidfd", "the process was found dead"),
    ];
    let evidence = around.chain(&closing).map(|(source, what)| Evidence {
        at: -0.034_222_037,
        source: (*source).into(),
        what: (*what).into(),
    });
    Record {
        version: 1,
        pid: Some(1_548_431),
        start: Some("2026-11-13T10:00:00.123456Z".into()),
        uptime: Some(86_400.123_456),
        cause: cause.into(),
        initiator: initiator.into(),
        summary: summary.into(),
        exit_code: Some(0),
        qemu: Some("7.2.22".into()),
        marked: Some(initiator == "user"),
        evidence: evidence.collect(),
        ..Record::default()
    }
}

fn guest_shutdown() -> Record {
    let evidence =
        [("qmp", "SHUTDOWN guest-shutdown"), ("file", "marked as shut down by its user")];
    end("guest-shutdown", "user", "was shut down by its user", &evidence)
}

fn terminated() -> Record {
    let ancestors = [
        (5790, "bash", "-bash"),
        (5788, "sshd", "sshd: alice@pts/0"),
        (5700, "sshd", "sshd: alice [priv]"),
        (700, "sshd", "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups"),
        (1, "systemd", "/sbin/init"),
    ];
    let ancestors = ancestors.map(|(pid, name, command)| Ancestor {
        pid,
        name: name.into(),
        command: command.into(),
    });
    let sender = Sender {
        pid: Some(5831),
        name: Some("kill".into()),
        uid: Some(0),
        login: Some(1000),
        executable: Some("/usr/bin/kill".into()),
        command: Some("kill -TERM 1548431".into()),
        ancestors: ancestors.into(),
        ..Sender::default()
    };
    let signal = format!("SIGTERM from {sender}");
    let evidence = [("trace", &*signal), ("qmp", "SHUTDOWN host-signal")];
    Record {
        signal: Some("SIGTERM".into()),
        sender: Some(sender),
        ..end("host-signal", "admin", "was ended by a signal", &evidence)
    }
}

fn died(cause: &str, signal: &str) -> Record {
    let what = format!("{signal} from the kernel");
    Record {
        signal: Some(signal.into()),
        died_by: Some(signal.into()),
        exit_code: None,
        sender: Some(Sender::kernel()),
        ..end(cause, "crash", "died", &[("trace", &what)])
    }
}

fn crashed() -> Record {
    died("crashed", "SIGSEGV")
}

fn out_of_memory() -> Record {
    died("out-of-memory", "SIGKILL")
}
