//! The systemd unit and what it runs as root before the daemon: neither reads or writes anything
//! where Ganeti's other daemons may have planted it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use testbed::{NOBODY, needs};

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging")
}

/// The values of a setting of the unit, words of a line each for itself.
fn setting(name: &str) -> Vec<String> {
    let unit = fs::read_to_string(packaging().join("ganeti-kvmd.service")).unwrap();
    let lines = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    lines.flat_map(str::split_whitespace).map(String::from).collect()
}

#[test]
fn what_systemd_reads_and_runs_is_where_only_root_can_write() {
    let places = ["/etc/", "/usr/", "/bin/", "/run/ganeti-kvmd/"];
    let is_roots = |path: &str| places.iter().any(|place| path.starts_with(place));
    let files = setting("EnvironmentFile");
    assert!(!files.is_empty());
    for path in files.iter().map(|path| path.trim_start_matches('-')) {
        assert!(is_roots(path), "EnvironmentFile={path}");
    }
    for name in ["ExecStartPre", "ExecStart", "ExecReload", "ExecStop"] {
        let program = setting(name).swap_remove(0);
        assert!(is_roots(program.trim_start_matches(['+', '-'])), "{name}={program}");
    }
    assert_eq!(setting("RuntimeDirectory"), ["ganeti-kvmd"]);
    assert_eq!(setting("RuntimeDirectoryMode"), ["0700"]);
}

/// Runs a script as root of a machine called `node1`, whose /run and /var/lib are empty but for
/// Ganeti's directories, as Ganeti makes them. `$before_start` is the program of the package.
fn on_a_node(script: &str) -> Output {
    let prologue = format!(
        "set -eu
        mount -t tmpfs tmpfs /run
        mount -t tmpfs tmpfs /var/lib
        mount -t tmpfs tmpfs /mnt
        hostname node1
        printf '127.0.0.1 localhost\\n192.0.2.1 node1.example.com node1\\n' >/mnt/hosts
        printf 'hosts: files\\n' >/mnt/nsswitch.conf
        mount --bind /mnt/hosts /etc/hosts
        mount --bind /mnt/nsswitch.conf /etc/nsswitch.conf
        mkdir -m 755 /var/lib/ganeti
        mkdir -m 775 /run/ganeti
        mkdir -m 700 /run/ganeti-kvmd
        chown {NOBODY}:{NOBODY} /var/lib/ganeti
        chgrp {NOBODY} /run/ganeti
        chmod 775 /run/ganeti
        as_nobody() {{ setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups \"$@\"; }}
        "
    );
    let output = Command::new("unshare")
        .args(["--mount", "--uts", "--propagation", "private", "sh", "-c"])
        .arg(prologue + script)
        .env("before_start", packaging().join("before-start"))
        .output()
        .expect("run unshare (package util-linux)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_daemon_is_told_this_nodes_name() {
    needs!(Root);
    let output = on_a_node("sh \"$before_start\"; cat /run/ganeti-kvmd/environment");
    assert_eq!(said(&output), "GANETI_HOSTNAME=node1.example.com\n");
}

/// A file that is there for one start only, from `daemon-util start ganeti-kvmd OPTION...`.
#[test]
fn it_is_given_the_options_for_this_start() {
    needs!(Root);
    let file = "/var/lib/ganeti/ganeti-kvmd.onetime.conf";
    let output = on_a_node(&format!(
        "echo 'ONETIME_ARGS=-d --syslog=yes' >{file}
        sh \"$before_start\"; cat /run/ganeti-kvmd/environment
        rm {file}
        sh \"$before_start\"; cat /run/ganeti-kvmd/environment"
    ));
    let name = "GANETI_HOSTNAME=node1.example.com\n";
    assert_eq!(said(&output), format!("{name}ONETIME_ARGS=-d --syslog=yes\n{name}"));
}

/// What it says goes into the environment of a process of root's.
#[test]
fn of_that_file_nothing_else_is_taken_and_nobody_elses_is_read() {
    needs!(Root);
    let output = on_a_node(
        "cd /var/lib/ganeti
        file=ganeti-kvmd.onetime.conf
        try() { sh \"$before_start\"; grep -v GANETI_HOSTNAME /run/ganeti-kvmd/environment || true; rm -f $file; }
        echo 'LD_PRELOAD=/tmp/x' >$file; try
        printf 'ONETIME_ARGS=-d\\\\\\nLD_PRELOAD=/tmp/x\\n' >$file; try
        echo 'ONETIME_ARGS=\"-d' >$file; try
        as_nobody sh -c \"echo ONETIME_ARGS=-d >$file\"; try
        echo ONETIME_ARGS=-d >/run/other; as_nobody ln -s /run/other $file; try
        as_nobody mkfifo $file; try",
    );
    assert_eq!(said(&output), "");
}

#[test]
fn a_name_service_that_does_not_answer_leaves_the_name_as_it_was() {
    needs!(Root);
    let output = on_a_node(
        "sh \"$before_start\"
        echo 127.0.0.1 localhost >/etc/hosts
        sh \"$before_start\"; cat /run/ganeti-kvmd/environment
        printf '192.0.2.1 bad\"name node1\\n' >/etc/hosts
        sh \"$before_start\"; cat /run/ganeti-kvmd/environment",
    );
    assert_eq!(said(&output), "GANETI_HOSTNAME=node1.example.com\n".repeat(2));
}

/// Tries to have root write through a link, again and again while root prepares the start.
#[test]
fn nothing_that_root_writes_goes_where_a_daemon_of_ganetis_wants_it() {
    const TRIES: usize = 20;
    needs!(Root);
    let output = on_a_node(&format!(
        "setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups sh -c '
            while :; do
                for name in env environment state pid tmp; do
                    ln -s /run/precious /run/ganeti/ganeti-kvmd.$name 2>/dev/null || true
                done
            done' >/dev/null 2>&1 &
        attacker=$!
        trap 'kill $attacker' EXIT
        written=0
        i=0
        while [ $i -lt {TRIES} ]; do
            i=$((i + 1))
            echo precious >/run/precious
            sh \"$before_start\" >/dev/null 2>&1 || true
            [ \"$(cat /run/precious)\" = precious ] || written=$((written + 1))
        done
        echo $written"
    ));
    assert_eq!(
        said(&output),
        "0\n",
        "root has written through a link, in so many of {TRIES} tries"
    );
}

/// A FIFO that nobody writes to, where root looks for the pid of another daemon.
#[test]
fn fifos_do_not_hold_up_the_start() {
    needs!(Root);
    let output = on_a_node(
        "as_nobody mkfifo /run/ganeti/ganeti-kvmd.pid /var/lib/ganeti/ssconf_primary_ip_family
        timeout 20 sh \"$before_start\"; cat /run/ganeti-kvmd/environment",
    );
    assert_eq!(said(&output), "GANETI_HOSTNAME=node1.example.com\n");
}

/// Plays `before-stop` where systemd has these jobs, and says what the daemon was sent.
fn sent_at_a_stop(jobs: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    // The shell writes the program: if this process did, a child that another test starts at the same
    // time would have it open for writing for a moment, and then nobody can run it (ETXTBSY).
    let script = "
        printf '#!/bin/sh\\nprintf \"%s\"\\n' \"$jobs\" >\"$directory/systemctl\"
        chmod +x \"$directory/systemctl\"
        trap 'echo INT' INT
        MAINPID=$$ PATH=$directory:$PATH sh \"$before_stop\"
        # Without a daemon there is nobody to be told.
        MAINPID= PATH=$directory:$PATH sh \"$before_stop\"
        echo end";
    // A shell cannot trap what whoever started it ignores, as a shell has its background jobs do.
    let output = Command::new("env")
        .args(["--default-signal=INT", "sh", "-c", script])
        .env("directory", directory.path())
        .env("jobs", jobs)
        .env("before_stop", packaging().join("before-stop"))
        .output()
        .unwrap();
    said(&output)
}

#[test]
fn the_daemon_is_told_if_it_is_stopped_for_good() {
    let other = "7 ganeti-noded.service stop running\\n";
    let job = |kind| format!("{other}12 ganeti-kvmd.service {kind} running\\n");
    assert_eq!(sent_at_a_stop(&job("stop")), "INT\nend\n");
    assert_eq!(sent_at_a_stop(&job("restart")), "end\n");
    assert_eq!(sent_at_a_stop(other), "end\n", "it has failed, or ended by itself");
}
