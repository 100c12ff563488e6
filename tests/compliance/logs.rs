//! The log's lines, and where they go.

use std::fs;
use std::os::unix::net::UnixDatagram;

use testbed::suite::Test;
use testbed::{Overlay, Signal, await_that, patience};

use crate::stage::Stage;

const fn test(name: &'static str, says: &'static str, run: fn(&Stage)) -> Test<Stage> {
    Test { name, says, deviates: false, run }
}

const fn deviation(name: &'static str, says: &'static str, run: fn(&Stage)) -> Test<Stage> {
    Test { name, says, deviates: true, run }
}

pub(crate) const TESTS: &[Test<Stage>] = &[
    test(
        "a_line_has_time_pid_level_and_text",
        "contract: 2026-11-21 02:14:07,667502669000 UTC: ganeti-kvmd pid=6/ThreadId 1 NOTICE ...",
        |stage| {
            let daemon = stage.detach(&[]);
            daemon.await_line("Watch directory");
            let log = stage.log();
            let first = log.lines().next().unwrap();
            assert!(first.ends_with(" NOTICE ganeti-kvmd daemon startup"), "{first}");
            for line in log.lines() {
                let (time, rest) = line.split_once(" UTC: ").unwrap();
                let shape: String =
                    time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
                assert_eq!(shape, "0000-00-00 00:00:00,000000000000", "{line}");
                let expected = format!("ganeti-kvmd pid={}/ThreadId ", daemon.pid);
                let (_, rest) = rest.strip_prefix(&expected).unwrap().split_once(' ').unwrap();
                let (level, _) = rest.split_once(' ').unwrap();
                assert!(["NOTICE", "INFO"].contains(&level), "{line}");
            }
        },
    ),
    test(
        "in_the_foreground_lines_go_to_the_file_and_to_stderr",
        "contract: with -f to the file and to stderr",
        |stage| {
            let daemon = stage.node.start();
            daemon.signal(Signal::TERM);
            daemon.await_line("daemon shutdown");
            let lines = daemon.lines();
            await_that("the file has the last line", || stage.log().contains("daemon shutdown"));
            for text in ["daemon startup", "Watch directory", "daemon shutdown"] {
                let in_file = stage.log().lines().any(|line| line.contains(text));
                assert!(in_file && lines.iter().any(|line| line.contains(text)), "{text}");
            }
        },
    ),
    test(
        "debug_tells_of_every_message",
        "contract: -d lowers the log level to DEBUG (inotify events, every QMP message)",
        |stage| {
            let daemon = stage.node.with_control_dir().start_with(&["-d"]);
            let _stand_in = stage.stand_in("web1");
            daemon.await_line(" DEBUG Receive QMP message: {\"QMP\"");
            daemon.await_line(" DEBUG Handle event ");
        },
    ),
    test(
        "the_lines_that_scripts_look_for",
        "contract: Watch directory, Start monitor, Stop monitor, Detect user shutdown, creating file",
        |stage| {
            let daemon = stage.node.with_control_dir().start();
            let mut stand_in = stage.stand_in("web1");
            stand_in.tell("shutdown guest-shutdown");
            let ctrl = "/var/run/ganeti/kvm-hypervisor/ctrl/";
            for line in [
                format!(" INFO Watch directory \"{ctrl}\""),
                format!(" INFO Start monitor \"{ctrl}web1.kvmd\""),
                format!(" INFO Detect user shutdown, creating file \"{ctrl}web1.shutdown\""),
                format!(" INFO Stop monitor \"{ctrl}web1.kvmd\""),
            ] {
                daemon.await_line(&line);
            }
            let stand_in = stage.stand_in("web2");
            stand_in.signal(Signal::KILL);
            daemon.await_line(&format!(
                " INFO Detect admin shutdown, removing file \"{ctrl}web2.shutdown\""
            ));
        },
    ),
    test(
        "a_name_is_written_so_that_it_cannot_forge_a_line",
        "the original writes names as Haskell's show does",
        |stage| {
            let daemon = stage.node.with_control_dir().start();
            let _stand_in = stage.stand_in("we\"b\n1");
            daemon.await_line(
                "Start monitor \"/var/run/ganeti/kvm-hypervisor/ctrl/we\\\"b\\n1.kvmd\"",
            );
        },
    ),
    test(
        "syslog_as_well",
        "contract: syslog: facility DAEMON, INFO and up, <29>ganeti-kvmd[17]: [/NOTICE] msg",
        |stage| {
            let syslog = Syslog::new();
            let daemon = stage.detach(&["--syslog=yes", "-d"]);
            let first = syslog.receive();
            assert_eq!(
                first,
                format!("<29>ganeti-kvmd[{}]: [/NOTICE] ganeti-kvmd daemon startup", daemon.pid)
            );
            let second = syslog.receive();
            assert_eq!(
                second,
                format!(
                    "<30>ganeti-kvmd[{}]: [/INFO] Watch directory \"/var/run/ganeti\"",
                    daemon.pid
                )
            );
            daemon.await_line("Watch directory");
        },
    ),
    deviation("syslog_only", "manual of Ganeti's daemons: --syslog=only, no log file", |stage| {
        let syslog = Syslog::new();
        let daemon = stage.detach(&["--syslog=only"]);
        assert!(syslog.receive().ends_with("daemon startup"));
        assert!(syslog.receive().contains("Watch directory"));
        daemon.end(Signal::TERM);
        while !syslog.receive().ends_with("daemon shutdown") {}
        assert_eq!(stage.log(), "");
    }),
    test("without_a_syslog_it_does_not_start", "contract: no /dev/log is exit 1", |stage| {
        let _devices = without_syslog();
        for arguments in [
            &["--no-user-checks", "--syslog=yes"][..],
            &["--no-user-checks", "-f", "--syslog=only"],
        ] {
            let run = stage.run(arguments);
            assert_eq!(run.code, Some(1));
            assert!(
                run.stderr.starts_with("Error when starting the daemon process: "),
                "{}",
                run.stderr
            );
            assert!(
                run.stderr.contains("does not exist (No such file or directory)"),
                "{}",
                run.stderr
            );
        }
    }),
    deviation(
        "a_log_that_cannot_be_opened_does_not_keep_it_from_running",
        "a full disk must not leave the instances unwatched",
        |stage| {
            fs::create_dir(stage.node.log_file()).unwrap();
            let daemon = stage.node.start();
            daemon.await_line("cannot open the log file /var/log/ganeti/kvm-daemon.log");
            // When it can, after a rotation say, it is.
            fs::remove_dir(stage.node.log_file()).unwrap();
            daemon.signal(Signal::HUP);
            await_that("the file is there", || stage.log().contains("Reopening"));
        },
    ),
];

const SYSLOG: &str = "/dev/log";

/// The machine's devices, but for its syslog if it has one.
fn without_syslog() -> Overlay {
    let devices = Overlay::over("/dev");
    // A link to systemd's journal, mostly, that may lead nowhere.
    if fs::symlink_metadata(SYSLOG).is_ok() {
        fs::remove_file(SYSLOG).expect("hide the machine's syslog");
    }
    devices
}

/// A syslog of the test's own, in the place of the machine's.
struct Syslog {
    socket: UnixDatagram,
    _devices: Overlay,
}

impl Syslog {
    fn new() -> Self {
        let devices = without_syslog();
        let socket = UnixDatagram::bind(SYSLOG).expect("bind /dev/log");
        socket.set_read_timeout(Some(patience())).unwrap();
        Self { socket, _devices: devices }
    }

    fn receive(&self) -> String {
        let mut message = [0; 1000];
        let length = self.socket.recv(&mut message).expect("a message to the syslog");
        String::from_utf8_lossy(&message[..length]).trim_end_matches('\0').to_string()
    }
}
