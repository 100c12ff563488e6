//! Whether to run on this node: a "no" is told, and the exit code is 0.

use std::fs;

use testbed::suite::Test;
use testbed::{InPlaceOf, NODE_NAME};

use crate::stage::{Stage, await_line, run_command};

const fn test(name: &'static str, says: &'static str, run: fn(&Stage)) -> Test<Stage> {
    Test { name, says, deviates: false, run }
}

const fn deviation(name: &'static str, says: &'static str, run: fn(&Stage)) -> Test<Stage> {
    Test { name, says, deviates: true, run }
}

/// In both modes it ends at once with 0, and the log has this line.
fn says_no(stage: &Stage, line: &str) {
    for arguments in [&["--no-user-checks", "-f"][..], &["--no-user-checks"]] {
        let _ = fs::remove_file(stage.node.log_file());
        let run = stage.run(arguments);
        assert_eq!(run.code, Some(0), "{run:?}");
        await_line(&stage.node.log_file(), "daemon shutdown");
        let expected = format!(" INFO {line}");
        assert!(stage.log().lines().any(|line| line.ends_with(&expected)), "{}", stage.log());
        assert!(!stage.node.pid_file().exists());
    }
}

pub(crate) const TESTS: &[Test<Stage>] = &[
    test(
        "without_kvm_it_leaves_at_once",
        "design-kvmd: it \"should not be run on installations containing only Xen\"",
        |stage| {
            stage.node.set_ssconf("hypervisor_list", "xen-pvm\nxen-hvm\n");
            says_no(stage, "KVM not enabled, exiting");
        },
    ),
    test(
        "an_unknown_hypervisor_fails_the_file",
        "contract: one a line; an unknown name fails the file",
        |stage| {
            stage.node.set_ssconf("hypervisor_list", "kvm\nbogus\n");
            says_no(stage, "Invalid string value for type Hypervisor: \"bogus\"");
        },
    ),
    test(
        "without_user_shutdown_it_leaves_at_once",
        "gnt-cluster(8): \"This option is disabled by default\"",
        |stage| {
            stage.node.set_ssconf("enabled_user_shutdown", "False\n");
            says_no(stage, "User shutdown not enabled, exiting");
        },
    ),
    test("only_pythons_true_is_true", "contract: True / False", |stage| {
        stage.node.set_ssconf("enabled_user_shutdown", "yes\n");
        says_no(stage, "Parsing enabled_user_shutdown: cannot parse string 'yes'");
    }),
    test(
        "on_a_node_without_instances_it_leaves_at_once",
        "contract: name=True lines, first match wins",
        |stage| {
            let line = format!("Node \"{NODE_NAME}\" is not VM capable, exiting");
            stage
                .node
                .set_ssconf("node_vm_capable", &format!("{NODE_NAME}=False\n{NODE_NAME}=True\n"));
            says_no(stage, &line);
            stage.node.set_ssconf("node_vm_capable", "node2.example.com=True\n");
            says_no(stage, &line);
        },
    ),
    test("a_malformed_line_fails_the_file", "contract: name=True lines", |stage| {
        stage.node.set_ssconf("node_vm_capable", &format!("{NODE_NAME}=True\n\n"));
        says_no(stage, "Failed to parse key-value pair for Parsing node_vm_capable");
        stage.node.set_ssconf("node_vm_capable", &format!("{NODE_NAME}=maybe\n"));
        says_no(stage, "Parsing value of node_vm_capable: cannot parse string 'maybe'");
    }),
    test(
        "a_missing_file_is_named",
        "contract: ...: openFile: does not exist (No such file or directory)",
        |stage| {
            for key in ["node_vm_capable", "enabled_user_shutdown", "hypervisor_list"] {
                fs::remove_file(stage.node.ssconf(key)).unwrap();
                let file = format!("/var/lib/ganeti/ssconf_{key}");
                says_no(
                    stage,
                    &format!("{file}: openFile: does not exist (No such file or directory)"),
                );
            }
        },
    ),
    test(
        "the_name_service_names_the_node",
        "contract: $GANETI_HOSTNAME, else gethostname, getaddrinfo, then the reverse name",
        |stage| {
            let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
            let host = host.trim();
            let _hosts = InPlaceOf::new(
                "/etc/hosts",
                &format!("192.0.2.7 real.example.com {host}\n2001:db8::7 six.example.com {host}\n"),
            );
            for (family, name) in [(None, "real"), (Some("2\n"), "real"), (Some("10\n"), "six")] {
                if let Some(family) = family {
                    stage.node.set_ssconf("primary_ip_family", family);
                }
                let run = run_command(
                    stage.command(&["-f", "--no-user-checks"]).env_remove("GANETI_HOSTNAME"),
                );
                assert_eq!(run.code, Some(0));
                let line = format!("Node \"{name}.example.com\" is not VM capable, exiting\n");
                assert!(run.stderr.contains(&line), "{family:?}: {}", run.stderr);
            }
        },
    ),
    test(
        "every_file_of_its_own_is_below_the_root_directory",
        "contract: GANETI_ROOTDIR prefixes every path",
        |stage| {
            let root = tempfile::tempdir().unwrap();
            for directory in ["var/lib/ganeti", "var/log/ganeti", "var/run/ganeti"] {
                fs::create_dir_all(root.path().join(directory)).unwrap();
            }
            let run = run_command(
                stage.command(&["-f", "--no-user-checks"]).env("GANETI_ROOTDIR", root.path()),
            );
            assert_eq!(run.code, Some(0));
            let missing = root.path().join("var/lib/ganeti/ssconf_hypervisor_list");
            assert!(
                run.stderr.contains(&format!("{}: openFile: does not exist", missing.display())),
                "{}",
                run.stderr
            );
            assert!(root.path().join("var/log/ganeti/kvm-daemon.log").exists());
            assert_eq!(stage.log(), "");
        },
    ),
    deviation(
        "the_control_directory_is_below_the_root_directory_too",
        "contract: GANETI_ROOTDIR prefixes every path (the original forgets the control directory)",
        |stage| {
            let node = testbed::Node::new(stage.node.program());
            let daemon = node.start();
            let ctrl = node.control_dir();
            daemon.await_line(&format!("Watch directory \"{}/\"", ctrl.display()));
        },
    ),
];
