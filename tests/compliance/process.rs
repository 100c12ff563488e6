//! The process: how it detaches itself, its pid file, its signals.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::fs::{FlockOperation, fcntl_lock};
use testbed::suite::Test;
use testbed::{Signal, await_that, send_signal};

use crate::stage::Stage;

const fn test(name: &'static str, says: &'static str, run: fn(&Stage)) -> Test<Stage> {
    Test { name, says, deviates: false, run }
}

const fn deviation(name: &'static str, says: &'static str, run: fn(&Stage)) -> Test<Stage> {
    Test { name, says, deviates: true, run }
}

pub(crate) const TESTS: &[Test<Stage>] = &[
    test(
        "it_detaches_itself",
        "contract: pipe, fork, chdir /, umask 077, setsid, stdin /dev/null, stdout+stderr to the log, fork",
        |stage| {
            let daemon = stage.detach(&[]);
            let proc = |file: &str| format!("/proc/{}/{file}", daemon.pid);
            let link = |file: &str| fs::read_link(proc(file)).unwrap();
            assert_eq!(link("cwd").to_str(), Some("/"));
            assert_eq!(link("fd/0").to_str(), Some("/dev/null"));
            assert_eq!(link("fd/1").to_str(), Some("/var/log/ganeti/kvm-daemon.log"));
            assert_eq!(link("fd/2").to_str(), Some("/var/log/ganeti/kvm-daemon.log"));
            let status = fs::read_to_string(proc("status")).unwrap();
            assert!(status.contains("\nUmask:\t0077\n"), "{status}");
            let stat = fs::read_to_string(proc("stat")).unwrap();
            let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
            let (group, session) = (fields[2], fields[3]);
            let own_session = fs::read_to_string("/proc/self/stat").unwrap();
            let own_session =
                own_session.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().to_string();
            assert_ne!(session, own_session, "a session of its own");
            assert_eq!(group, session);
            assert_ne!(session, daemon.pid.to_string(), "and not its leader");
        },
    ),
    test("its_name_is_ganeti_kvmd", "contract: /proc/PID/comm must be ganeti-kvmd", |stage| {
        let daemon = stage.detach(&[]);
        assert_eq!(
            fs::read_to_string(format!("/proc/{}/comm", daemon.pid)).unwrap(),
            "ganeti-kvmd\n"
        );
    }),
    test(
        "the_pid_file_is_locked",
        "contract: pidfile, 0600, non-blocking fcntl write lock, PID, removed at exit",
        |stage| {
            let daemon = stage.detach(&[]);
            let path = stage.node.pid_file();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", daemon.pid));
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
            let file = fs::File::options().write(true).open(&path).unwrap();
            let locked = fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive);
            assert_eq!(locked, Err(rustix::io::Errno::AGAIN));
            daemon.end(Signal::TERM);
            assert!(!path.exists());
        },
    ),
    test(
        "a_second_start_is_refused",
        "contract: ...: writing PID file; already locked?: resource exhausted (Resource temporarily unavailable), 1",
        |stage| {
            let _first = stage.detach(&[]);
            for arguments in [&["--no-user-checks"][..], &["--no-user-checks", "-f"]] {
                let run = stage.run(arguments);
                assert_eq!(run.code, Some(1));
                let expected = "Error when starting the daemon process: /var/run/ganeti/ganeti-kvmd.pid: writing PID file; already locked?: resource exhausted (Resource temporarily unavailable)\n";
                assert!(run.stderr.starts_with(expected), "{}", run.stderr);
            }
        },
    ),
    test("a_stale_pid_file_is_no_obstacle", "issue 1836: stale pidfiles", |stage| {
        fs::write(stage.node.pid_file(), "1\n").unwrap();
        let daemon = stage.detach(&[]);
        let text = fs::read_to_string(stage.node.pid_file()).unwrap();
        assert!(text.starts_with(&format!("{}\n", daemon.pid)), "{text:?}");
    }),
    deviation("the_pid_file_holds_the_pid_alone", "contract: content PID", |stage| {
        fs::write(stage.node.pid_file(), "999999999999\n999999999999\n").unwrap();
        let daemon = stage.detach(&[]);
        let text = fs::read_to_string(stage.node.pid_file()).unwrap();
        assert_eq!(text, format!("{}\n", daemon.pid));
    }),
    test(
        "in_the_foreground_it_has_a_pid_file_too",
        "contract: the pidfile, after which it is checked whether to run",
        |stage| {
            let daemon = stage.node.start();
            assert_eq!(
                fs::read_to_string(stage.node.pid_file()).unwrap(),
                format!("{}\n", daemon.pid())
            );
            assert_eq!(daemon.stop().code(), Some(0));
            assert!(!stage.node.pid_file().exists());
        },
    ),
    test(
        "start_up_errors_reach_the_terminal",
        "contract: bytes = Error when starting the daemon process: ..., exit 1",
        |stage| {
            fs::create_dir(stage.node.pid_file()).unwrap();
            for arguments in [&["--no-user-checks"][..], &["--no-user-checks", "-f"]] {
                let run = stage.run(arguments);
                assert_eq!(run.code, Some(1));
                let expected =
                    "Error when starting the daemon process: /var/run/ganeti/ganeti-kvmd.pid: ";
                assert!(run.stderr.starts_with(expected), "{}", run.stderr);
            }
        },
    ),
    test(
        "sigterm_ends_it_cleanly",
        "contract: TERM: clean exit 0, pidfile removed; last line ... NOTICE ganeti-kvmd daemon shutdown",
        |stage| {
            let daemon = stage.detach(&[]);
            daemon.await_line("Watch directory");
            daemon.end(Signal::TERM);
            assert!(!stage.node.pid_file().exists());
            assert!(
                stage.log().ends_with("NOTICE ganeti-kvmd daemon shutdown\n"),
                "{}",
                stage.log()
            );
        },
    ),
    test("sigint_ends_it_cleanly", "a daemon that is told to end does", |stage| {
        let daemon = stage.detach(&[]);
        daemon.await_line("Watch directory");
        daemon.end(Signal::INT);
        assert!(!stage.node.pid_file().exists());
        assert!(stage.log().ends_with("NOTICE ganeti-kvmd daemon shutdown\n"), "{}", stage.log());
    }),
    test("sigpipe_is_harmless", "contract: SIGPIPE harmless", |stage| {
        let daemon = stage.detach(&[]);
        daemon.await_line("Watch directory");
        send_signal(daemon.pid, Signal::PIPE);
        send_signal(daemon.pid, Signal::HUP);
        daemon.await_line("Reopening log files after receiving SIGHUP");
        assert!(daemon.is_alive());
    }),
    test(
        "sighup_reopens_the_log",
        "contract: HUP: reopen the logs, Reopening log files after receiving SIGHUP",
        |stage| {
            let daemon = stage.detach(&[]);
            daemon.await_line("Watch directory");
            let log = stage.node.log_file();
            fs::rename(&log, log.with_extension("1")).unwrap();
            send_signal(daemon.pid, Signal::HUP);
            let line = daemon.await_line("SIGHUP");
            assert!(line.ends_with(" INFO Reopening log files after receiving SIGHUP"), "{line}");
            let stdout = format!("/proc/{}/fd/1", daemon.pid);
            await_that("stdout follows", || fs::read_link(&stdout).unwrap() == log);
        },
    ),
    deviation(
        "in_the_foreground_sighup_reopens_the_log_and_stderr_goes_on",
        "contract: reopens the logs in both modes (and stderr keeps working)",
        |stage| {
            let daemon = stage.node.start();
            let log = stage.node.log_file();
            fs::rename(&log, log.with_extension("1")).unwrap();
            daemon.signal(Signal::HUP);
            daemon.await_line("Reopening log files after receiving SIGHUP");
            await_that("the file is there again", || log.exists());
            daemon.signal(Signal::TERM);
            daemon.await_line("ganeti-kvmd daemon shutdown");
            await_that("the file has the last line", || stage.log().contains("daemon shutdown"));
        },
    ),
    test("the_log_is_created_for_root_alone", "contract: log 0600 as a daemon", |stage| {
        let _daemon = stage.detach(&[]);
        let mode = fs::metadata(stage.node.log_file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }),
];
