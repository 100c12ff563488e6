//! The comparison behind `make compare-run`: what a supervisor sees of real guests that end, once of
//! QEMU by itself and once of `kvmd-run`, and what systemd's `Restart=on-failure` makes of it.

mod pace;

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};

use testbed::{Runner, RunnerBuilder, Signal, daemon_program, execute_qmp, send_signal};

/// `RestartPreventExitStatus=` of packaging/supervisors/systemd. Bare QEMU has no code of its own for
/// anything.
const STAYS_DOWN: [i32; 3] = [40, 41, 64];

/// What ought to come of an end.
#[derive(Clone, Copy)]
enum Right {
    /// The guest shuts down by itself.
    ShutDown,
    /// It is over, however.
    Over,
    LeftDown,
    StartedAgain,
}

struct Way {
    deed: &'static str,
    arguments: &'static str,
    /// The guest of tests/guest, or another.
    boot: fn(RunnerBuilder) -> Runner,
    /// What is done to the guest, and to QEMU, whose pid this is, and its monitor.
    end: fn(&mut Runner, u32, &Path),
    right: Right,
}

const fn way(
    deed: &'static str,
    arguments: &'static str,
    right: Right,
    end: fn(&mut Runner, u32, &Path),
) -> Way {
    Way { deed, arguments, boot: RunnerBuilder::boot, end, right }
}

const WAYS: [Way; 11] = [
    Way {
        boot: |builder| {
            let mut runner = builder.launch_linux("pc");
            runner.await_ready();
            runner
        },
        ..way("the supervisor stops a Linux guest", "", Right::ShutDown, |it, _, _| {
            it.signal(Signal::TERM);
        })
    },
    way("the supervisor stops it", "", Right::ShutDown, |it, _, _| it.signal(Signal::TERM)),
    way("... and signals all processes, as systemd does", "", Right::ShutDown, |it, qemu, _| {
        send_signal(qemu, Signal::TERM);
        it.signal(Signal::TERM);
    }),
    way("the supervisor stops one that is deaf", "", Right::Over, |it, _, _| {
        it.deafen();
        it.signal(Signal::TERM);
    }),
    way("its user powers it off", "", Right::LeftDown, |it, _, _| it.tell(b'p')),
    way("an administrator ends it at its monitor", "", Right::LeftDown, |_, _, monitor| {
        execute_qmp(monitor, &["quit"]);
    }),
    way("QEMU crashes", "", Right::StartedAgain, |_, qemu, _| send_signal(qemu, Signal::SEGV)),
    way("QEMU is killed", "", Right::StartedAgain, |_, qemu, _| send_signal(qemu, Signal::KILL)),
    way("the guest panics", "-device pvpanic", Right::StartedAgain, |it, _, _| it.tell(b'c')),
    way(
        "its watchdog fires",
        "-device ib700 -watchdog-action poweroff",
        Right::StartedAgain,
        |it, _, _| it.tell(b'w'),
    ),
    way("the guest reboots (-no-reboot)", "-no-reboot", Right::StartedAgain, |it, _, _| {
        it.tell(b'r');
    }),
];

impl Way {
    /// A guest that is deaf is not waited for as long as others would be.
    fn options(&self) -> &'static [&'static str] {
        if matches!(self.right, Right::Over) { &["--stop-timeout=2"] } else { &[] }
    }
}

fn main() -> ExitCode {
    println!("A guest ends in each way, under a supervisor with Restart=on-failure.\n");
    let [mut bare_right, mut ours_right] = [0; 2];
    println!("{:<48}  {:<42}  kvmd-run", "what happens", "bare QEMU");
    for way in &WAYS {
        let bare = play(RunnerBuilder::bare(), way, true);
        let ours = play(supervised().options(way.options()), way, false);
        bare_right += usize::from(bare.is_right(way.right));
        ours_right += usize::from(ours.is_right(way.right));
        let shown = |seen: &Seen| {
            let mark = if seen.is_right(way.right) { "" } else { " (wrong)" };
            format!("{seen}{mark}")
        };
        println!("{:<48}  {:<42}  {}", way.deed, shown(&bare), shown(&ours));
    }
    println!(
        "\nRight: bare QEMU in {bare_right} of {total}, kvmd-run in {ours_right} of {total}.",
        total = WAYS.len()
    );
    pace::print();
    if ours_right == WAYS.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The `kvmd-run` of this build.
fn supervised() -> RunnerBuilder {
    RunnerBuilder::new(daemon_program().with_file_name("kvmd-run"))
}

/// What a supervisor can see, and what the guest had of it.
struct Seen {
    status: ExitStatus,
    /// The guest itself was the one that shut down.
    is_guests: bool,
    is_stop: bool,
}

impl Seen {
    fn is_started_again(&self) -> bool {
        !self.is_stop
            && self.status.code().is_none_or(|code| code != 0 && !STAYS_DOWN.contains(&code))
    }

    fn is_right(&self, right: Right) -> bool {
        match right {
            Right::ShutDown => self.is_guests,
            Right::Over => true,
            Right::LeftDown => !self.is_started_again(),
            Right::StartedAgain => self.is_started_again(),
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => write!(f, "exit {code}, ")?,
            (None, signal) => write!(f, "signal {}, ", signal.unwrap_or_default())?,
        }
        f.write_str(match (self.is_stop, self.is_guests, self.is_started_again()) {
            (true, true, _) => "the guest shut down",
            (true, false, _) => "the plug was pulled",
            (false, _, true) => "started again",
            (false, _, false) => "left down",
        })
    }
}

fn play(builder: RunnerBuilder, way: &Way, is_bare: bool) -> Seen {
    let monitor = builder.path("qmp");
    let mut runner = (way.boot)(builder.with(way.arguments));
    let qemu = if is_bare { runner.pid() } else { runner.qemu() };
    // One client at a time: where the deed needs the monitor, nobody listens.
    let is_stop = matches!(way.right, Right::ShutDown | Right::Over);
    let listener = is_stop.then(|| runner.listen());
    (way.end)(&mut runner, qemu, &monitor);
    let status = runner.end().status;
    let shutdown = listener.and_then(|mut it| it.await_event("\"SHUTDOWN\""));
    let is_guests = shutdown.is_some_and(|event| event.contains("\"guest\": true"));
    Seen { status, is_guests, is_stop }
}
