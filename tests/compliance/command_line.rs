//! The command line that scripts know.

use std::os::unix::process::CommandExt;

use testbed::suite::Test;
use testbed::{ganetis_groups, ganetis_users};

use crate::stage::{Stage, run_command};

const fn test(name: &'static str, says: &'static str, run: fn(&Stage)) -> Test<Stage> {
    Test { name, says, deviates: false, run }
}

pub(crate) const TESTS: &[Test<Stage>] = &[
    test("help_has_every_option", "contract: --help, to stdout, exit 0", |stage| {
        for arguments in [&["-h"][..], &["--help"], &["-Vh", "x"], &["--help-completion", "-h"]] {
            let run = stage.run(arguments);
            assert_eq!((run.code, &*run.stderr), (Some(0), ""), "{arguments:?}");
            for line in [
                "Usage: ganeti-kvmd [OPTION...]",
                "  -f  --foreground       Don't detach from the current terminal",
                "      --no-user-checks   Ignore user checks",
                "  -d  --debug            Enable debug messages",
                "      --syslog=SYSLOG    Enable logging to syslog (except debug messages); one of 'no', 'yes' or 'only' [no]",
                "  -h  --help             show help",
                "  -V  --version          show the version of the program",
                "      --help-completion  show completion info",
            ] {
                assert!(
                    run.stdout.lines().any(|other| other == line),
                    "{line:?} in {}",
                    run.stdout
                );
            }
        }
    }),
    test(
        "version_goes_before_arguments",
        "contract: help > version > completion; each wins over positional arguments",
        |stage| {
            for arguments in [&["-V"][..], &["--version", "x"], &["--help-completion", "-V"]] {
                let run = stage.run(arguments);
                assert_eq!((run.code, &*run.stderr), (Some(0), ""), "{arguments:?}");
                assert!(run.stdout.starts_with("ganeti-kvmd "), "{run:?}");
                assert!(run.stdout.contains("\nrunning on linux x86_64"), "{run:?}");
            }
        },
    ),
    test(
        "completion_has_a_line_an_option",
        "contract: --help-completion: a line an option",
        |stage| {
            let run = stage.run(&["--help-completion", "x"]);
            assert_eq!((run.code, &*run.stderr), (Some(0), ""));
            let expected = "-f,--foreground none\n--no-user-checks none\n-d,--debug none\n--syslog choices=yes,no,only\n-h,--help none\n-V,--version none\n--help-completion none\n";
            assert!(run.stdout.starts_with(expected), "{}", run.stdout);
        },
    ),
    test(
        "long_options_can_be_abbreviated",
        "contract: getopt rules: unambiguous long prefixes",
        |stage| {
            let run = stage.run(&["--fore", "--no", "--deb", "--sys=yes", "--vers"]);
            assert_eq!(run.code, Some(0), "{run:?}");
            let run = stage.run(&["--hel"]);
            assert_eq!(run.code, Some(2));
            let expected =
                "Command line error: option `--hel' is ambiguous; could be one of:\n  -h  --help";
            assert!(run.stderr.starts_with(expected), "{}", run.stderr);
        },
    ),
    test("short_options_can_be_bundled", "contract: bundling (-fd), --syslog yes", |stage| {
        assert_eq!(stage.run(&["-fdh"]).code, Some(0));
        assert_eq!(stage.run(&["--syslog", "yes", "-V"]).code, Some(0));
    }),
    test(
        "every_mistake_is_told",
        "contract: parse error: Command line error: unrecognized option ... + help, 2",
        |stage| {
            for (arguments, complaint) in [
                (
                    &["-x", "--bogus", "-h"][..],
                    "unrecognized option `-x'\nunrecognized option `--bogus'\n",
                ),
                (&["--bogus=3"], "unrecognized option `--bogus=3'\n"),
                (&["-fy"], "unrecognized option `-y'\n"),
                (&["--fore=1"], "option `--fore' doesn't allow an argument\n"),
                (&["--syslog"], "option `--syslog' requires an argument SYSLOG\n"),
            ] {
                let run = stage.run(arguments);
                assert_eq!((run.code, &*run.stdout), (Some(2), ""), "{arguments:?}");
                let expected = format!("Command line error: {complaint}\n");
                assert!(run.stderr.starts_with(&expected), "{}", run.stderr);
                assert!(run.stderr.contains("Usage: ganeti-kvmd [OPTION...]"), "{}", run.stderr);
            }
        },
    ),
    test("a_bad_syslog_value_is_refused", "contract: bad syslog value 1", |stage| {
        for arguments in [&["--syslog=maybe"][..], &["--syslog", "-h"], &["--syslog=maybe", "-h"]] {
            let run = stage.run(arguments);
            assert_eq!((run.code, &*run.stdout), (Some(1), ""), "{arguments:?}");
            let expected = "Error while parsing command line arguments:\nInvalid ";
            assert!(run.stderr.starts_with(expected), "{}", run.stderr);
        }
    }),
    test(
        "arguments_are_refused",
        "contract: Error: This program doesn't take any arguments, 1",
        |stage| {
            for arguments in [&["x"][..], &["-f", "x"], &["--", "-h"], &["-"]] {
                let run = stage.run(arguments);
                assert_eq!((run.code, &*run.stdout), (Some(1), ""), "{arguments:?}");
                assert_eq!(run.stderr, "Error: This program doesn't take any arguments\n");
            }
        },
    ),
    test("ganetis_users_must_exist", "contract: missing daemon users 1", |stage| {
        for _passwd in [None, Some(ganetis_users())] {
            // With the users alone, the groups are missing.
            let run = stage.run(&["-f"]);
            assert_eq!(run.code, Some(1), "{run:?}");
            let expected = "Error: Can't find required user/groups: ";
            assert!(run.stderr.starts_with(expected), "{}", run.stderr);
        }
    }),
    test(
        "it_must_be_roots",
        "contract: wrong uid: ganeti-kvmd started using wrong user ID (65534), expected 0",
        |stage| {
            let (_passwd, _group) = (ganetis_users(), ganetis_groups());
            // The program is in a directory that others may not enter: a copy is.
            let directory = tempfile::Builder::new().tempdir().unwrap();
            let copy = directory.path().join("ganeti-kvmd");
            std::fs::copy(stage.node.program(), &copy).unwrap();
            let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(directory.path(), everybody).unwrap();
            let mut command = std::process::Command::new(copy);
            // The original looks it up first, and not every machine knows its own.
            command.arg("-f").uid(65534).env("GANETI_HOSTNAME", "localhost");
            let run = run_command(&mut command);
            assert_eq!(run.code, Some(1));
            assert_eq!(run.stderr, "ganeti-kvmd started using wrong user ID (65534), expected 0\n");
        },
    ),
    test(
        "with_ganetis_users_it_runs",
        "contract: user checks (unless --no-user-checks)",
        |stage| {
            let (_passwd, _group) = (ganetis_users(), ganetis_groups());
            stage.node.set_ssconf("hypervisor_list", "fake\n");
            let run = stage.run(&["-f"]);
            assert_eq!(run.code, Some(0), "{run:?}");
            assert!(run.stderr.contains("KVM not enabled, exiting"), "{}", run.stderr);
        },
    ),
];
