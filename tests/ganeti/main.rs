//! Ganeti's own Python code drives real QEMU, and what it reports is what counts.
//!
//! Debian's package `ganeti-3.0` runs here without a cluster (`client.py`), in a mount namespace
//! in which its directories are empty. The daemon is started by its `daemon-util`, as on a node.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use testbed::suite::{self, Test};
use testbed::{
    Console, InPlaceOf, Need, Node, Overlay, Signal, await_that, boot_sector, can_run,
    ganetis_groups, ganetis_users, in_private_mounts, linux_guest, send_signal,
};

fn main() -> ExitCode {
    if !can_run(&[Need::Root, Need::Qemu, Need::Ganeti]) {
        return ExitCode::SUCCESS;
    }
    if let Some(code) = in_private_mounts() {
        return code;
    }
    let play = |title, tests: &[Test<Ganeti>]| {
        suite::run(title, &tests.iter().collect::<Vec<_>>(), false, Ganeti::new)
    };
    let small = play("Ganeti's own code as the client", TESTS);
    let linux = if can_run(&[Need::LinuxGuest]) {
        play("The same with a Linux guest, which takes longer", LINUX_TESTS)
    } else {
        ExitCode::SUCCESS
    };
    if small == ExitCode::SUCCESS { linux } else { small }
}

/// A node on which Ganeti is installed, and the daemon in the place of Ganeti's own.
struct Ganeti {
    node: Node,
    images: tempfile::TempDir,
    _mounts: (Overlay, Overlay, [InPlaceOf; 3]),
}

impl Ganeti {
    fn new() -> Self {
        let node = Node::machine(env!("CARGO_BIN_EXE_ganeti-kvmd"));
        let (library, programs) = (Overlay::over("/usr/lib/ganeti"), Overlay::over("/usr/sbin"));
        // What Debian's package `ganeti` has beside `ganeti-3.0`.
        let version = fs::read_dir(library.path())
            .expect("list Ganeti's versions")
            .filter_map(Result::ok)
            .find(|version| version.path().join("usr/lib/ganeti/daemon-util").is_file())
            .expect("a version of Ganeti");
        let daemon_util = version.path().join("usr/lib/ganeti/daemon-util");
        let share = Path::new("/usr/share/ganeti").join(version.file_name());
        let link = |to: PathBuf, name: &Path| symlink(to, name).expect("create a link");
        link(daemon_util, &library.path().join("daemon-util"));
        link(share.join("ensure-dirs"), &library.path().join("ensure-dirs"));
        let installed = programs.path().join("ganeti-kvmd");
        let _ = fs::remove_file(&installed);
        link(node.program().to_path_buf(), &installed);

        let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("the host's name");
        let hosts =
            InPlaceOf::new("/etc/hosts", &format!("127.0.0.1 {} {host}", testbed::NODE_NAME));
        let files = [ganetis_users(), ganetis_groups(), hosts];
        let images = tempfile::tempdir().expect("create a directory");
        let ganeti = Self { node, images, _mounts: (library, programs, files) };
        ganeti.daemon_util("start");
        ganeti
    }

    fn run(command: &mut Command) -> (bool, String) {
        let output = command.output().expect("start a command");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).trim().to_string())
    }

    fn daemon_util(&self, verb: &str) {
        let (done, text) = Self::run(&mut self.daemon_util_command(verb));
        assert!(done, "daemon-util {verb}: {text}");
    }

    fn daemon_util_command(&self, verb: &str) -> Command {
        let mut command = Command::new("/usr/lib/ganeti/daemon-util");
        command.args([verb, "ganeti-kvmd"]).current_dir(self.node.root());
        command
    }

    /// Has Ganeti's code do this; returns what it prints.
    fn client(&self, command: &str, name: &str, settings: &[&str]) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ganeti/client.py");
        let (done, text) = Self::run(
            Command::new("/usr/bin/python3")
                .args([script, command, name])
                .args(settings)
                .current_dir(self.node.root())
                .env("PYTHONDONTWRITEBYTECODE", "1"),
        );
        assert!(done, "{command} {name}: {text}");
        text
    }

    /// What Ganeti reports of an instance.
    fn info(&self, name: &str) -> String {
        self.client("info", name, &[])
    }

    /// Has Ganeti start an instance, and waits until its guest is ready and the daemon watches.
    fn start(&self, name: &str, settings: &[&str]) -> Console {
        let image = self.images.path().join(name);
        let mut disk = fs::read(boot_sector()).expect("read the boot sector");
        disk.resize(1 << 20, 0);
        fs::write(&image, disk).expect("write a disk");
        self.start_from(name, &[&format!("image={}", image.display())], settings)
    }

    /// The same with Linux in the guest.
    fn start_linux(&self, name: &str, settings: &[&str]) -> Console {
        let kernel = format!("kernel={}", linux_guest("vmlinuz").display());
        let initrd = format!("initrd={}", linux_guest("initramfs.cpio.gz").display());
        // Nothing but init's answers is to appear on the console.
        let append = "append=quiet loglevel=0";
        self.start_from(name, &[&kernel, &initrd, append, "memory=192"], settings)
    }

    fn start_from(&self, name: &str, system: &[&str], settings: &[&str]) -> Console {
        self.client("start", name, &[system, settings].concat());
        assert_eq!(self.info(name), "RUNNING");
        connect(&self.node, name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.node.log_file()).unwrap_or_default()
    }

    /// Waits until the daemon has told of so many ends.
    fn await_ends(&self, count: usize) {
        await_that("the daemon tells of the end", || {
            self.log().lines().filter(|line| line.contains(", initiator ")).count() >= count
        });
    }

    /// The one end that the daemon has told of: cause and initiator.
    fn only_end(&self) -> (String, String) {
        self.await_ends(1);
        let log = self.log();
        let (_, rest) = log.split_once(": cause ").expect("an end");
        let (cause, rest) = rest.split_once(", initiator ").expect("an initiator");
        let initiator = rest.split([',', ';', '\n']).next().unwrap_or_default();
        (cause.into(), initiator.into())
    }
}

impl Drop for Ganeti {
    fn drop(&mut self) {
        if let Ok(pids) = fs::read_dir(self.node.pid_dir()) {
            for entry in pids.flatten() {
                let pid =
                    fs::read_to_string(entry.path()).ok().and_then(|pid| pid.trim().parse().ok());
                if pid.is_some_and(|pid: u32| Path::new(&format!("/proc/{pid}")).exists()) {
                    send_signal(pid.unwrap_or_default(), Signal::KILL);
                }
            }
        }
        let _ = Self::run(&mut self.daemon_util_command("stop"));
    }
}

/// The console of a running instance of Ganeti's, once the daemon watches it.
fn connect(node: &Node, name: &str) -> Console {
    let pid = fs::read_to_string(node.pid_dir().join(name)).expect("read QEMU's pid file");
    let pid = pid.trim().parse().expect("a pid");
    let socket = node.control_dir().join(format!("{name}.serial"));
    let console = Console::connect(&socket, name, pid);
    let watched = format!("\"{name}\" (pid {pid}) is connected");
    await_that("the daemon watches it", || {
        fs::read_to_string(node.log_file()).unwrap_or_default().contains(&watched)
    });
    console
}

const fn test(name: &'static str, says: &'static str, run: fn(&Ganeti)) -> Test<Ganeti> {
    Test { name, says, deviates: false, run }
}

fn end(cause: &str, initiator: &str) -> (String, String) {
    (cause.into(), initiator.into())
}

const TESTS: &[Test<Ganeti>] = &[
    test(
        "its_user_powers_it_off",
        "gnt-cluster(8): \"Ganeti will report the instance status as 'USER_down'\"",
        |ganeti| {
            let mut instance = ganeti.start("web1", &[]);
            instance.tell(b'p');
            instance.await_end();
            assert_eq!(ganeti.info("web1"), "SHUTDOWN");
            assert_eq!(ganeti.only_end(), end("guest-shutdown", "user"));
            // Started again, it runs, and nothing of it is left.
            let _again = ganeti.start("web1", &[]);
            assert!(!ganeti.node.has_shutdown_file("web1"));
        },
    ),
    test("it_resets_itself_and_is_not_to_reboot", "gnt-instance(8), reboot_behavior", |ganeti| {
        let mut instance = ganeti.start("web1", &["reboot_behavior=exit"]);
        instance.tell(b'r');
        instance.await_end();
        assert_eq!(ganeti.info("web1"), "SHUTDOWN");
        assert_eq!(ganeti.only_end(), end("guest-reset", "user"));
    }),
    test(
        "it_is_shut_down_by_ganeti",
        "contract: gnt-instance shutdown: the file must never appear",
        |ganeti| {
            let instance = ganeti.start("web1", &[]);
            ganeti.client("shutdown", "web1", &["timeout=60"]);
            assert!(instance.is_gone());
            assert_eq!(ganeti.info("web1"), "GONE");
            assert_eq!(ganeti.only_end(), end("powerdown", "admin"));
        },
    ),
    test("it_is_shut_down_without_acpi", "contract: acpi off: SIGTERM", |ganeti| {
        let instance = ganeti.start("web1", &["acpi=no"]);
        ganeti.client("shutdown", "web1", &["timeout=60", "acpi=no"]);
        assert!(instance.is_gone());
        assert_eq!(ganeti.info("web1"), "GONE");
        assert_eq!(ganeti.only_end(), end("host-signal", "admin"));
    }),
    test(
        "it_is_shut_down_at_once",
        "contract: --timeout=0: never appear, also not late",
        |ganeti| {
            let mut instance = ganeti.start("web1", &[]);
            instance.deafen();
            ganeti.client("shutdown", "web1", &["timeout=0"]);
            assert!(instance.is_gone());
            assert_eq!(ganeti.info("web1"), "GONE");
            assert_eq!(ganeti.only_end(), end("host-signal", "admin"));
            assert!(ganeti.log().contains("SIGTERM from python3["), "{}", ganeti.log());
        },
    ),
    test(
        "it_is_deaf_and_shut_down_by_force",
        "contract: timeout reached: POWERDOWN, then SIGTERM",
        |ganeti| {
            let mut instance = ganeti.start("web1", &[]);
            instance.deafen();
            ganeti.client("shutdown", "web1", &["timeout=3"]);
            assert!(instance.is_gone());
            assert_eq!(ganeti.info("web1"), "GONE");
            assert_eq!(ganeti.only_end(), end("host-signal", "admin"));
        },
    ),
    test("it_is_rebooted_by_ganeti", "contract: reboot: the file must never appear", |ganeti| {
        let first = ganeti.start("web1", &[]);
        ganeti.client("reboot", "web1", &[]);
        assert!(first.is_gone());
        assert_eq!(ganeti.info("web1"), "RUNNING");
        let second = connect(&ganeti.node, "web1");
        assert_ne!(first.pid, second.pid);
        ganeti.await_ends(1);
        assert!(!ganeti.node.has_shutdown_file("web1"));
    }),
    test(
        "it_has_moved_to_another_node",
        "contract: migration: STOP + SIGTERM: never appear",
        |ganeti| {
            let instance = ganeti.start("web1", &[]);
            qmp(&ganeti.node, "web1", "stop");
            ganeti.client("migrated", "web1", &["success=yes"]);
            instance.await_end();
            assert_eq!(ganeti.only_end(), end("host-signal", "admin"));
            assert_eq!(ganeti.info("web1"), "GONE");
        },
    ),
    test(
        "it_could_not_move_and_its_user_powers_it_off",
        "contract: failed migration, user powers off later: be there",
        |ganeti| {
            let mut instance = ganeti.start("web1", &[]);
            qmp(&ganeti.node, "web1", "stop");
            ganeti.client("migrated", "web1", &["success=no"]);
            instance.tell(b'p');
            instance.await_end();
            assert_eq!(ganeti.info("web1"), "SHUTDOWN");
            assert_eq!(ganeti.only_end(), end("guest-shutdown", "user"));
        },
    ),
    test(
        "it_crashes_or_is_killed",
        "contract: crash, SIGKILL, OOM, panic: never appear; an old one is removed",
        |ganeti| {
            for (i, signal) in [Signal::SEGV, Signal::KILL].into_iter().enumerate() {
                let instance = ganeti.start("web1", &[]);
                fs::write(ganeti.node.shutdown_file("web1"), "").unwrap();
                send_signal(instance.pid, signal);
                instance.await_end();
                ganeti.await_ends(i + 1);
                assert_eq!(ganeti.info("web1"), "GONE");
            }
        },
    ),
    test(
        "daemon_util_and_ganetis_code_work_on_the_daemon",
        "daemon-util start|check|stop|rotate-logs, utils.IsDaemonAlive, backend.EnsureDaemon",
        |ganeti| {
            let is_alive = || ganeti.client("alive", "-", &[]);
            ganeti.daemon_util("check");
            assert_eq!(is_alive(), "yes");
            fs::rename(ganeti.node.log_file(), ganeti.node.path("var/log/ganeti/kvm-daemon.log.1"))
                .unwrap();
            ganeti.daemon_util("rotate-logs");
            await_that("the log is opened again", || ganeti.log().contains("SIGHUP"));
            ganeti.daemon_util("stop");
            assert_eq!(is_alive(), "no");
            let (checked, _) = Ganeti::run(&mut ganeti.daemon_util_command("check"));
            assert!(!checked);
            ganeti.client("ensure", "-", &["run=yes"]);
            assert_eq!(is_alive(), "yes");
            ganeti.client("ensure", "-", &["run=no"]);
            assert_eq!(is_alive(), "no");
        },
    ),
    test(
        "daemon_util_starts_the_daemon_again_after_it_was_killed",
        "start-stop-daemon: \"matching only on non-root pidfile ... is insecure\"",
        |ganeti| {
            let pid_file = ganeti.node.pid_file();
            let pid = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
            send_signal(pid, Signal::KILL);
            await_that("it has ended", || ganeti.client("alive", "-", &[]) == "no");
            assert!(pid_file.exists(), "a killed daemon leaves its pid file");
            ganeti.daemon_util("start");
            ganeti.daemon_util("check");
        },
    ),
    test(
        "ganeti_starts_the_daemon_with_the_first_instance",
        "design-kvmd: \"the KVM daemon is started from within Ganeti when a KVM instance is started\"",
        |ganeti| {
            ganeti.daemon_util("stop");
            let mut instance = ganeti.start("web1", &[]);
            instance.tell(b'p');
            instance.await_end();
            assert_eq!(ganeti.info("web1"), "SHUTDOWN");
        },
    ),
];

const LINUX_TESTS: &[Test<Ganeti>] = &[
    test("its_user_types_poweroff", "\"by a user, through poweroff from inside\"", |ganeti| {
        let mut instance = ganeti.start_linux("web1", &[]);
        instance.tell(b'p');
        instance.await_end();
        assert_eq!(ganeti.info("web1"), "SHUTDOWN");
        assert_eq!(ganeti.only_end(), end("guest-shutdown", "user"));
    }),
    test("ganeti_presses_its_power_button", "contract: gnt-instance shutdown", |ganeti| {
        let instance = ganeti.start_linux("web1", &[]);
        ganeti.client("shutdown", "web1", &["timeout=60"]);
        assert!(instance.is_gone());
        assert_eq!(ganeti.info("web1"), "GONE");
        assert_eq!(ganeti.only_end(), end("powerdown", "admin"));
    }),
    test("its_user_types_reboot", "gnt-instance(8), reboot_behavior=reboot", |ganeti| {
        let mut instance = ganeti.start_linux("web1", &[]);
        instance.tell(b'r');
        await_that("the guest goes down", || {
            instance.tell(b'?');
            !instance.answers()
        });
        instance.await_ready();
        assert_eq!(ganeti.info("web1"), "RUNNING");
        assert!(!ganeti.node.has_shutdown_file("web1"));
    }),
    test(
        "its_user_types_reboot_and_it_is_not_to_reboot",
        "gnt-instance(8), reboot_behavior=exit: \"treat a reboot as a shutdown\"",
        |ganeti| {
            let mut instance = ganeti.start_linux("web1", &["reboot_behavior=exit"]);
            instance.tell(b'r');
            instance.await_end();
            assert_eq!(ganeti.info("web1"), "SHUTDOWN");
            assert_eq!(ganeti.only_end(), end("guest-reset", "user"));
        },
    ),
    test("its_kernel_panics", "contract: panic: the file must never appear", |ganeti| {
        let mut instance = ganeti.start_linux("web1", &["extra=-device pvpanic"]);
        instance.tell(b'c');
        instance.await_end();
        assert_eq!(ganeti.info("web1"), "GONE");
        assert_eq!(ganeti.only_end(), end("guest-panic", "crash"));
    }),
];

/// Has QEMU execute a command over Ganeti's own monitor.
fn qmp(node: &Node, name: &str, command: &str) {
    let path = node.control_dir().join(format!("{name}.qmp"));
    testbed::execute_qmp(&path, &[command]);
}
