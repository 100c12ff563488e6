//! QEMU may be taken over by its guest, and a directory may hold anything: the daemon says so,
//! bounds it, and goes on serving the others.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use testbed::{
    Attacker, Daemon, NOBODY, Node, StandIn, await_that, figure, kernel_is_at_least, needs,
};

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

/// Another instance ends as its user wants, and is marked, whatever `web1` does meanwhile.
fn another_is_served(node: &Node, daemon: &Daemon, name: &str) {
    let mut other = node.stand_in(name).connected();
    other.tell("shutdown guest-shutdown");
    assert_eq!(daemon.await_death(name).initiator, "user");
    assert!(node.has_shutdown_file(name));
}

/// A misbehaving instance is still judged by how it ends.
fn it_is_still_judged(daemon: &Daemon, mut stand_in: StandIn) {
    let name = stand_in.name().to_string();
    stand_in.tell("shutdown guest-shutdown");
    assert_eq!(daemon.await_death(&name).initiator, "user");
}

#[test]
fn lines_that_are_not_qmp() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut stand_in = node.stand_in("web1").connected();
    for line in [
        "{",
        "[]",
        "{\"event\": 7}",
        "\u{1b}[2J\u{7} not JSON",
        "{\"event\": \"SHUTDOWN\", \"data\": 7}",
    ] {
        stand_in.tell(&format!("line {line}"));
    }
    daemon.await_lines("is not a QMP message", 5);
    assert!(daemon.lines().iter().all(|line| !line.contains('\u{1b}')), "escaped");
    for _ in 0..10_000 {
        stand_in.tell("line nonsense");
    }
    another_is_served(&node, &daemon, "web2");
    it_is_still_judged(&daemon, stand_in);
    assert_eq!(daemon.count("is not a QMP message"), 5, "a flood of complaints is withheld");
}

#[test]
fn a_hundred_megabytes_without_a_line_feed() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut stand_in = node.stand_in("web1").connected();
    another_is_served(&node, &daemon, "web2");
    let before = daemon.status("VmHWM");
    stand_in.tell("bytes 100000000");
    another_is_served(&node, &daemon, "web3");
    stand_in.tell("line ");
    it_is_still_judged(&daemon, stand_in);
    let grown = daemon.status("VmHWM") - before;
    assert!(grown < 1024, "{grown} kB more memory");
    assert_eq!(daemon.count("longer than 16384 bytes"), 1);
}

#[test]
fn data_nested_ten_thousand_deep() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut stand_in = node.stand_in("web1").connected();
    stand_in.tell("nest 7000");
    stand_in.tell("nest 10000");
    another_is_served(&node, &daemon, "web2");
    it_is_still_judged(&daemon, stand_in);
}

#[test]
fn a_flood_of_events() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut stand_in = node.stand_in("web1").connected();
    another_is_served(&node, &daemon, "web2");
    let before = daemon.status("VmHWM");
    stand_in.tell("flood 1000000");
    for i in 3..20 {
        another_is_served(&node, &daemon, &format!("web{i}"));
    }
    it_is_still_judged(&daemon, stand_in);
    let grown = daemon.status("VmHWM") - before;
    assert!(grown < 1024, "{grown} kB more memory");
}

/// A share for each: what twenty of them have to say does not hold up another's verdict until it
/// is all heard.
#[test]
fn twenty_floods_delay_another_for_a_moment_only() {
    const FLOODS: usize = 20;
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let time_of_one = |name: &str| {
        let mut other = node.stand_in(name).with("--drain=1000").connected();
        let begun = Instant::now();
        other.tell("shutdown guest-shutdown");
        while !node.has_shutdown_file(name) {
            thread::yield_now();
        }
        begun.elapsed()
    };
    let slowest = |kind: &str| (0..30).map(|i| time_of_one(&format!("{kind}{i}"))).max().unwrap();
    let alone = slowest("alone");
    let mut floods: Vec<StandIn> =
        (0..FLOODS).map(|i| node.stand_in(format!("flood{i}")).connected()).collect();
    for flood in &mut floods {
        flood.tell("flood 1000000000");
    }
    let before = daemon.cpu_ticks();
    let beside = slowest("beside");
    assert!(daemon.cpu_ticks() > before, "there was no flood");
    for flood in &mut floods {
        assert!(!flood.has_ended(), "the flood is over");
    }
    figure(
        &format!("the slowest of 30 files, beside {FLOODS} floods"),
        &format!("{beside:.1?} (alone {alone:.1?})"),
    );
}

/// `SCHED_OTHER` or `SCHED_FIFO`, by proc(5).
fn scheduling_policy(daemon: &Daemon) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    // The third field of the line is the first of these.
    fields.split_whitespace().nth(41 - 3).unwrap().parse().unwrap()
}

#[test]
fn nobody_can_make_the_daemon_keep_a_processor_for_itself() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    another_is_served(&node, &daemon, "web1");
    assert_eq!(scheduling_policy(&daemon), libc::SCHED_FIFO, "it is in front");
    let mut floods: Vec<StandIn> =
        (0..20).map(|i| node.stand_in(format!("flood{i}")).connected()).collect();
    for flood in &mut floods {
        flood.tell("flood 1000000000");
    }
    await_that("it makes way", || scheduling_policy(&daemon) == libc::SCHED_OTHER);
    another_is_served(&node, &daemon, "web2");
    drop(floods);
    await_that("it is in front again", || scheduling_policy(&daemon) == libc::SCHED_FIFO);
}

#[test]
fn one_byte_at_a_time() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut stand_in = node.stand_in("web1").connected();
    for i in 2..10 {
        stand_in.tell("trickle");
        another_is_served(&node, &daemon, &format!("web{i}"));
    }
    stand_in.tell("line ");
    daemon.await_line("is not a QMP message");
    it_is_still_judged(&daemon, stand_in);
}

#[test]
fn a_peer_that_claims_to_go_and_to_come_back_for_ever() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut stand_in = node.stand_in("web1").connected();
    for _ in 0..1000 {
        stand_in.tell(r#"event SHUTDOWN {"guest": true, "reason": "guest-shutdown"}"#);
        stand_in.tell("event RESUME");
    }
    another_is_served(&node, &daemon, "web2");
    it_is_still_judged(&daemon, stand_in);
    assert!(daemon.lines().len() < 100, "{} lines", daemon.lines().len());
}

#[test]
fn a_reason_that_forges_a_line() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut stand_in = node.stand_in("web1").connected();
    stand_in.tell(r#"event SHUTDOWN {"guest": true, "reason": "x\nInstance \"web2\": cause guest-shutdown, initiator user"}"#);
    stand_in.tell("exit 0");
    let death = daemon.await_death("web1");
    assert!(death.cause.starts_with("x?Instance"), "{}", death.line);
    assert_eq!(daemon.count("Instance \"web2\""), 0);
    assert!(!node.has_shutdown_file("web1"), "nobody knows what it means");
}

#[test]
fn sockets_that_are_none() {
    needs!(Root);
    let node = node();
    let outside = node.path("outside");
    let _listener = UnixListener::bind(&outside).unwrap();
    fs::create_dir(node.socket("directory")).unwrap();
    fs::write(node.socket("file"), "").unwrap();
    symlink(&outside, node.socket("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        node.socket("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let daemon = node.start();
    for (name, what) in [
        ("directory", "a directory"),
        ("file", "a plain file"),
        ("link", "a symbolic link"),
        ("fifo", "a FIFO"),
    ] {
        let line =
            daemon.await_line(&format!("Cannot connect to \"{}\"", node.socket(name).display()));
        assert!(line.ends_with(&format!("it is {what}, not a socket; remove it")), "{line}");
    }
    another_is_served(&node, &daemon, "web1");
}

#[test]
fn names_of_every_kind() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let names = [
        &b"with space"[..],
        b"with\nline feed",
        b"with \"quotes\" and \\",
        b"\xff\xfe",
        b"\xe2\x80\xaebidirectional",
        b"-rf",
        b".hidden",
        b"%s%n",
    ];
    for (i, name) in names.into_iter().map(OsStr::from_bytes).enumerate() {
        let mut stand_in = node.stand_in(name).connected();
        stand_in.tell("shutdown guest-shutdown");
        daemon.await_any_deaths(i + 1);
        assert!(node.has_shutdown_file(name), "{name:?}");
    }
    assert!(daemon.lines().iter().all(|line| line.starts_with("20")), "{:#?}", daemon.lines());
}

#[test]
fn a_name_as_long_as_a_file_name_may_be() {
    needs!(Root);
    let node = node();
    // 250 bytes and ".kvmd" are 255; ".shutdown" does not fit any more.
    let name = "n".repeat(250);
    let mut stand_in = node.stand_in("web1").start();
    fs::rename(node.socket("web1"), node.socket(&name)).unwrap();
    let daemon = node.start();
    stand_in.await_word("connected");
    stand_in.tell("shutdown guest-shutdown");
    let line = daemon.await_line("Cannot create");
    assert!(line.contains("File name too long"), "{line}");
    another_is_served(&node, &daemon, "web2");
}

#[test]
fn a_shutdown_file_that_is_a_directory() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut stand_in = node.stand_in("web1").connected();
    daemon.await_line("is connected and running");
    fs::create_dir(node.shutdown_file("web1")).unwrap();
    stand_in.tell("shutdown guest-shutdown");
    let line = daemon.await_line("Cannot create");
    assert!(line.contains("it is a directory, not a file; remove it"), "{line}");
    // Once it is out of the way, the verdict is written after all.
    fs::remove_dir(node.shutdown_file("web1")).unwrap();
    assert_eq!(daemon.await_death("web1").initiator, "user");
    daemon.await_lines("Detect user shutdown", 2);
    another_is_served(&node, &daemon, "web2");
    assert!(node.shutdown_file("web1").is_file());
}

#[test]
fn a_shutdown_file_that_is_a_symbolic_link() {
    needs!(Root);
    let node = node();
    let outside = node.path("outside");
    let daemon = node.start();
    for (name, dangling) in [("web1", true), ("web2", false)] {
        if !dangling {
            fs::write(&outside, "precious").unwrap();
        }
        let mut stand_in = node.stand_in(name).connected();
        daemon.await_line(&format!("\"{name}\" (pid {}) is connected and running", stand_in.pid()));
        symlink(&outside, node.shutdown_file(name)).unwrap();
        stand_in.tell("shutdown guest-shutdown");
        let line =
            daemon.await_line(&format!("Cannot create \"{}", node.shutdown_file(name).display()));
        assert!(line.contains("it is a symbolic link, not a file; remove it"), "{line}");
        assert_eq!(outside.exists(), !dangling, "it was not followed");
    }
    // A verdict against the user removes the link and not what it leads to.
    let stand_in = node.stand_in("web3").connected();
    daemon.await_line(&format!("\"web3\" (pid {}) is connected and running", stand_in.pid()));
    let link = node.shutdown_file("web3");
    symlink(&outside, &link).unwrap();
    stand_in.signal(testbed::Signal::TERM);
    assert_eq!(daemon.await_death("web3").cause, "host-signal");
    assert!(!Path::new(&link).is_symlink());
    assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
}

/// How long it takes until another instance that its user has shut down is marked.
fn time_until_marked(node: &Node, other: &mut StandIn) -> Duration {
    let begun = Instant::now();
    other.tell("shutdown guest-shutdown");
    await_that("it is marked", || node.has_shutdown_file(other.name()));
    begun.elapsed()
}

/// A process may show any command line that it can map: `prctl(2)`, `PR_SET_MM_MAP`.
#[test]
fn a_sender_whose_command_line_is_two_gibibytes_long() {
    const LENGTH: u64 = 2 << 30;
    needs!(Root);
    let node = node();
    fs::set_permissions(node.control_dir(), fs::Permissions::from_mode(0o777)).unwrap();
    let daemon = node.start();
    let taken_over = node.stand_in("web1");
    let taken_over = taken_over.with("--deaf-to-hup").with(&format!("--user={NOBODY}")).connected();
    let mut other = node.stand_in("web2").with("--drain=60000").connected();
    daemon.await_lines("is connected and running", 2);
    let before = daemon.status("VmHWM");
    let pid = taken_over.pid().to_string();
    let mut attacker = Attacker::start(&["arguments", &LENGTH.to_string(), &pid, "3"]);
    attacker.await_done();
    let delay = time_until_marked(&node, &mut other);
    // What was sent is in the record, with the sender.
    let sender = attacker.pid();
    testbed::send_signal(taken_over.pid(), testbed::Signal::KILL);
    daemon.await_death("web1");
    let record = await_record(&node, "web1");
    assert!(record.contains(&format!("SIGHUP from attacker[{sender}]")), "{record}");
    let grown = daemon.status("VmHWM") - before;
    figure(
        "senders whose command lines are 2 GiB long",
        &format!("{grown} kB more memory, another's file after {delay:.1?}"),
    );
    assert!(grown < 1024, "{grown} kB more memory");
}

/// The line of the records that tells of this instance's end.
fn await_record(node: &Node, name: &str) -> String {
    let path = node.path("var/log/ganeti/kvm-exits.jsonl");
    let start = format!("\"instance\":\"{name}\"");
    let find = || {
        let records = fs::read_to_string(&path).unwrap_or_default();
        records.lines().find(|line| line.contains(&start)).map(String::from)
    };
    await_that("it is in the records", || find().is_some());
    find().unwrap()
}

/// QEMU holds it open for writing, whatever it has given up since.
#[test]
fn a_pid_file_of_three_gibibytes() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut other = node.stand_in("web2").with("--drain=60000").connected();
    let before = daemon.status("VmHWM");
    File::create(node.pid_dir().join("web1")).unwrap().set_len(3 << 30).unwrap();
    let mut first = node.stand_in("web1").with("--ready").start();
    let delay = time_until_marked(&node, &mut other);
    first.await_word("connected");
    daemon.await_line("cannot read the pid file");
    let grown = daemon.status("VmHWM") - before;
    figure(
        "a pid file of 3 GiB",
        &format!("{grown} kB more memory, another's file after {delay:.1?}"),
    );
    assert!(grown < 1024, "{grown} kB more memory");
    it_is_still_judged(&daemon, first);
}

fn make_fifo(path: impl AsRef<Path>) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, path.as_ref(), fifo, mode, 0).unwrap();
}

/// To open one for reading waits for somebody who writes.
#[test]
fn fifos_in_the_place_of_what_qemu_writes() {
    needs!(Root);
    let node = node();
    fs::create_dir_all(node.path("var/log/ganeti/kvm")).unwrap();
    make_fifo(node.path("var/log/ganeti/kvm/web1.log"));
    make_fifo(node.pid_dir().join("web1"));
    let daemon = node.start();
    let first = node.stand_in("web1").connected();
    let line = daemon.await_line("cannot read the pid file");
    assert!(line.contains("it is a FIFO, not a plain file; remove it"), "{line}");
    another_is_served(&node, &daemon, "web2");
    // Its own log is asked who has ended it.
    first.signal(testbed::Signal::TERM);
    assert_eq!(daemon.await_death("web1").cause, "host-signal");
}

/// Ganeti's directory for them belongs to its master daemon.
#[test]
fn a_fifo_in_the_place_of_an_ssconf_file() {
    let node = node();
    fs::remove_file(node.ssconf("hypervisor_list")).unwrap();
    make_fifo(node.ssconf("hypervisor_list"));
    assert!(node.try_start_wrapped(&[], &[]).is_none(), "there is nothing to do");
    let said = fs::read_to_string(node.log_file()).unwrap();
    assert!(said.contains("it is a FIFO, not a plain file; remove it"), "{said}");
}

/// From Linux 6.6 on anybody may ask the proc connector for what there is not; the refusal goes to
/// everybody who listens, with the number that the request had.
#[test]
fn refusals_that_are_not_for_the_daemon() {
    const CHECKS: usize = 20;
    needs!(Root);
    if !kernel_is_at_least(6, 6) {
        eprintln!("Before Linux 6.6 nobody but root may ask the proc connector");
        return;
    }
    let node = node();
    let daemon = node.start();
    // Numbers that the daemon could count from.
    let pid = daemon.pid();
    let mut floods: Vec<Attacker> = [0, pid << 8]
        .map(|from| {
            let up_to = from + 2 * CHECKS as u32 + 10;
            Attacker::start(&["refused", &from.to_string(), &up_to.to_string()])
        })
        .into();
    floods.iter_mut().for_each(Attacker::await_done);
    // Whatever moves the directory has it look at everything, and ask the kernel again.
    let aside = node.path("aside");
    for check in 0..CHECKS {
        fs::rename(node.control_dir(), &aside).unwrap();
        daemon.await_lines("Watch directory", 2 * check + 2);
        fs::rename(&aside, node.control_dir()).unwrap();
        daemon.await_lines("Watch directory", 2 * check + 3);
    }
    let stand_in = node.stand_in("web1").connected();
    daemon.await_line("is connected and running");
    stand_in.signal(testbed::Signal::KILL);
    daemon.await_death("web1");
    assert_eq!(daemon.count("is not available"), 0, "{:#?}", daemon.lines());
}
