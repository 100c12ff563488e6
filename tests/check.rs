//! What `--check` says of a node.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use testbed::{Node, needs};

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

/// The exit code and what was printed.
fn check(node: &Node) -> (i32, String) {
    let output = node.run(&["--check"]);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_node_on_which_all_is_well() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let mut stand_in = node.stand_in("web1").connected();
    daemon.await_line("is connected and running");
    let (code, text) = check(&node);
    assert_eq!(code, 0, "{text}");
    for line in [
        "ganeti-kvmd is running: process ",
        "the cluster has KVM and user_shutdown enabled",
        "proc connector reports how processes end",
        "trace shows who sends signals",
        "a real-time priority is allowed",
        "1 instances are watched",
        "Everything is as it should be.",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    // It was only looked at.
    stand_in.tell("shutdown guest-shutdown");
    assert_eq!(daemon.await_death("web1").initiator, "user");
}

#[test]
fn a_daemon_that_does_not_run_and_a_cluster_that_does_not_want_it() {
    let node = node();
    node.set_ssconf("enabled_user_shutdown", "False\n");
    let (code, text) = check(&node);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("WRONG    ganeti-kvmd is not running"), "{text}");
    assert!(text.contains("gnt-cluster modify --user-shutdown=yes"), "{text}");
}

#[test]
fn another_client_has_the_connection() {
    needs!(Root);
    let node = node();
    let mut stand_in = node.stand_in("web1").start();
    stand_in.await_word("listening");
    let mut client = UnixStream::connect(node.socket("web1")).unwrap();
    // When it greets, it has accepted.
    client.read_exact(&mut [0]).unwrap();
    let (code, text) = check(&node);
    assert_eq!(code, 1, "{text}");
    let this = format!("pid={},", std::process::id());
    assert!(text.contains("another client holds its connection") && text.contains(&this), "{text}");
}

/// A machine without the kernel's module `unix_diag`, on which `ss` has nothing but
/// `/proc/net/unix`.
#[test]
fn where_ss_does_not_show_the_client_nobody_is_blamed() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    let _stand_in = node.stand_in("web1").connected();
    daemon.await_line("is connected and running");
    let output = Command::new(node.program())
        .arg("--check")
        .envs(node.environment())
        .env("PROC_NET_UNIX", "/proc/net/unix")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("limited  who holds the connection of 1 instances"), "{text}");
    assert!(text.contains("modprobe unix_diag"), "{text}");
}

/// A process named as Ganeti names its QEMU, with what Ganeti keeps of one that it has started. It
/// ends with its input.
fn instance(node: &Node, name: &str, parameters: Option<&str>) -> Child {
    let instance = Command::new("sh")
        .args(["-c", "read line", "-name", name])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    fs::write(node.pid_dir().join(name), format!("{}\n", instance.id())).unwrap();
    if let Some(parameters) = parameters {
        let directory = node.path("var/run/ganeti/kvm-hypervisor/conf");
        fs::create_dir_all(&directory).unwrap();
        let runtime = format!(r#"[["kvm", "-name", "{name}"], [], {parameters}, []]"#);
        fs::write(directory.join(format!("{name}.runtime")), runtime).unwrap();
    }
    instance
}

fn end(instances: impl IntoIterator<Item = Child>) {
    for mut instance in instances {
        drop(instance.stdin.take());
        instance.wait().unwrap();
    }
}

#[test]
fn instances_whose_users_may_not_shut_them_down() {
    let node = node();
    let on = r#"{"user_shutdown": true}"#;
    let off = r#"{"acpi": true, "user_shutdown": false}"#;
    let first = instance(&node, "web1", Some(on));
    let (_, text) = check(&node);
    let good =
        "good     the parameter user_shutdown was on when the instances here were started (1)";
    assert!(text.contains(good), "{text}");
    let names = ["web2", "web3", "web4", "web5", "web6", "web7"];
    let others = names.map(|name| instance(&node, name, Some(off)));
    let (_, text) = check(&node);
    let limited = "limited  the parameter user_shutdown was off when these were started, 6 of 7: \"web2\", \"web3\", \"web4\", \"web5\", \"web6\" and 1 more";
    assert!(text.contains(limited), "{text}");
    assert!(text.contains("gnt-instance modify -H user_shutdown=True"), "{text}");
    end(others.into_iter().chain([first]));
}

/// Ganeti gives each instance a socket, whatever its parameters.
#[test]
fn an_instance_that_has_lost_its_socket() {
    let node = node();
    let instance = instance(&node, "web1", None);
    let (code, text) = check(&node);
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("WRONG    instance \"web1\"") && text.contains("has no socket"),
        "{text}"
    );
    assert!(text.contains("gnt-instance reboot --type=full \"web1\""), "{text}");
    end([instance]);
}

#[test]
fn before_there_are_instances_the_clusters_default_is_told() {
    let node = node();
    let (_, text) = check(&node);
    assert!(!text.contains("parameter user_shutdown"), "{text}");
    node.set_ssconf("hvparams_kvm", "acpi=True\nuser_shutdown=False\n");
    let (_, text) = check(&node);
    let limited = "limited  the parameter user_shutdown is off by default";
    assert!(text.contains(limited), "{text}");
    assert!(text.contains("gnt-cluster modify -H kvm:user_shutdown=True"), "{text}");
    node.set_ssconf("hvparams_kvm", "acpi=True\nuser_shutdown=True\n");
    let (_, text) = check(&node);
    assert!(!text.contains("parameter user_shutdown"), "{text}");
}

#[test]
fn what_an_earlier_life_has_left() {
    let node = node();
    let stand_in = node.stand_in("web1").start();
    stand_in.signal(testbed::Signal::KILL);
    drop(stand_in);
    let (_, text) = check(&node);
    assert!(text.contains("\"web1\" is not running; its socket is left over"), "{text}");
}
