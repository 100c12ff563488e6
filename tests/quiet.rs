//! What does not concern the daemon does not wake it.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;

use testbed::{Attacker, Node, figure, kernel_is_at_least, needs};

/// How many processes this machine has ever started.
fn processes_so_far() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let line = stat.lines().find_map(|line| line.strip_prefix("processes ")).unwrap();
    line.parse().unwrap()
}

/// Has `count` processes come and go, each of which is sent a signal.
fn storm(count: usize) {
    let script = format!(
        "i=0; while [ $i -lt {} ]; do (:) & kill -TERM $!; wait $!; i=$((i+1)); done",
        count / 2
    );
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                // Which ends with the last process's status: that of its SIGTERM.
                let status = Command::new("sh")
                    .args(["-c", &script])
                    .stderr(Stdio::null())
                    .status()
                    .unwrap();
                assert!(status.code().is_some(), "{status:?}");
            });
        }
    });
}

/// Where forkstat is woken 10,000 times and extrace 80,000 times.
#[test]
fn fifty_thousand_processes_come_and_go_and_are_sent_signals() {
    needs!(Root);
    let node = Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"));
    let mut daemon = node.start();
    let stand_ins: Vec<_> = (0..20).map(|i| node.stand_in(format!("web{i}")).connected()).collect();
    daemon.await_lines("is connected and running", 20);
    daemon.await_line("trace shows who sends signals");
    let (switches, ticks, processes) =
        (daemon.context_switches(), daemon.cpu_ticks(), processes_so_far());
    storm(50_000);
    let storm = processes_so_far() - processes;
    let switches = daemon.context_switches() - switches;
    let ticks = daemon.cpu_ticks() - ticks;
    figure(
        &format!("{storm} other processes come, are sent signals, and go"),
        &format!("{switches} context switches, {ticks} clock ticks"),
    );
    assert!(storm >= 50_000);
    assert!(switches <= 5 && ticks <= 1, "{switches} context switches, {ticks} clock ticks");
    daemon.assert_alive();
    drop(stand_ins);
    daemon.await_any_deaths(20);
}

/// From Linux 6.6 on anybody may ask the proc connector to tell of processes, and its answer goes to
/// everybody who listens.
#[test]
fn nobody_who_asks_the_proc_connector_wakes_it() {
    const REQUESTS: u32 = 200_000;
    needs!(Root);
    if !kernel_is_at_least(6, 6) {
        eprintln!("Before Linux 6.6 nobody but root may ask the proc connector");
        return;
    }
    let node = Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"));
    let daemon = node.start();
    let stand_in = node.stand_in("web1").connected();
    daemon.await_line("is connected and running");
    let (switches, ticks) = (daemon.context_switches(), daemon.cpu_ticks());
    let count = REQUESTS.to_string();
    let mut flood: Vec<Attacker> = (0..3).map(|_| Attacker::start(&["listen", &count])).collect();
    flood.iter_mut().for_each(Attacker::await_done);
    let switches = daemon.context_switches() - switches;
    let ticks = daemon.cpu_ticks() - ticks;
    figure(
        &format!("3 processes of nobody's ask the proc connector {REQUESTS} times each"),
        &format!("{switches} context switches, {ticks} clock ticks"),
    );
    assert!(switches <= 5 && ticks <= 1, "{switches} context switches, {ticks} clock ticks");
    stand_in.signal(testbed::Signal::KILL);
    assert_eq!(daemon.await_death("web1").cause, "killed");
}

/// Between two looks at everything, every 30 seconds, it sleeps.
/// Two hundred stale sockets change nothing of that.
#[test]
fn an_idle_daemon_sleeps_between_its_checks() {
    needs!(Root, Strace);
    let node = Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"));
    for i in 0..200 {
        drop(std::os::unix::net::UnixListener::bind(node.socket(format!("stale{i}"))).unwrap());
    }
    let trace = node.path("trace");
    // strace makes each look at everything so long that it would use up the time at real-time
    // priority, and then wake up once more to regain it.
    let setpriv = ["setpriv", "--bounding-set=-sys_nice"];
    let output = trace.to_str().unwrap();
    let strace = ["strace", "-f", "-r", "-o", output, "--trace=epoll_pwait,?epoll_wait"];
    let daemon = node.start_wrapped(&[&setpriv[..], &strace].concat(), &[]);
    daemon.await_line("No real-time priority");
    let _stand_in = node.stand_in("web1").connected();
    daemon.await_lines("Stop monitor", 200);
    // From here on it is idle. The next thing that it does is the check; wait for two of them.
    let sleeps = || {
        let trace = fs::read_to_string(&trace).unwrap();
        trace.lines().map(String::from).collect::<Vec<_>>()
    };
    let before = sleeps().len();
    let started = std::time::Instant::now();
    while sleeps().len() < before + 2 {
        assert!(started.elapsed() < testbed::PATIENCE * 2, "it does not wake for its checks");
        thread::sleep(std::time::Duration::from_millis(500));
    }
    let elapsed = started.elapsed().as_secs();
    let woken = sleeps().len() - before;
    println!("woken {woken} times in {elapsed} s");
    assert!(elapsed >= 30, "woken {woken} times in {elapsed} s: {:?}", &sleeps()[before..]);
}
