//! Whoever floods the kernel's trace of signals holds up nobody, and hides nothing that matters.

use std::process::Command;

use testbed::{Node, Signal, needs};

fn node() -> Node {
    Node::new(env!("CARGO_BIN_EXE_ganeti-kvmd"))
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

#[test]
fn a_process_that_floods_itself_with_signals_is_let_go() {
    needs!(Root);
    let node = node();
    let daemon = node.start();
    // As a guest that has taken over its QEMU might do it.
    let flooding = node.stand_in("web1").with("--deaf-to-hup").connected();
    let quiet = node.stand_in("web2").connected();
    daemon.await_lines("is connected and running", 2);
    let trap =
        format!("i=0; while [ $i -lt 20000 ]; do kill -HUP {}; i=$((i+1)); done", flooding.pid());
    run(Command::new("sh").args(["-c", &trap]));
    daemon.await_line("receives too many signals");
    quiet.signal(Signal::KILL);
    assert!(daemon.await_death("web2").line.contains("SIGKILL from floods"));
    flooding.signal(Signal::KILL);
    assert_eq!(daemon.await_death("web1").cause, "killed");
}
