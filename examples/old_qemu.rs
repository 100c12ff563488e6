//! A real QEMU, heard as if it were an older one: what it says of a shutdown lacks the `reason`
//! (before 4.0) or the whole `data` (before 2.10). The end-to-end tests start it through
//! `tests/testbed`.
//!
//! Usage: `old_qemu SOCKET REAL-SOCKET reason|data PROGRAM [ARGUMENT...]`
//!
//! This process listens at SOCKET and becomes PROGRAM, so that the kernel names it as the
//! listener. A child of its own passes on what QEMU says at REAL-SOCKET.

use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::Value;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [real, unsaid] => pass_on(real, unsaid),
        [socket, real, unsaid, program, rest @ ..] => {
            let listener = UnixListener::bind(socket).unwrap();
            // It ends with the connection, long after this process has become another: nobody is
            // left to wait for it.
            let passing_on = Command::new(std::env::current_exe().unwrap())
                .args([real, unsaid])
                .stdin(Stdio::from(OwnedFd::from(listener)))
                .spawn();
            std::mem::forget(passing_on.unwrap());
            panic!("{program}: {}", Command::new(program).args(rest).exec());
        }
        _ => panic!("usage: old_qemu SOCKET REAL-SOCKET reason|data PROGRAM [ARGUMENT...]"),
    }
}

fn pass_on(real: &str, unsaid: &str) {
    let listener = UnixListener::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
    let (client, _) = listener.accept().unwrap();
    // QEMU may not listen yet.
    let qemu = loop {
        match UnixStream::connect(real) {
            Ok(qemu) => break qemu,
            Err(_) => thread::yield_now(),
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &client, &mut &qemu);
            let _ = qemu.shutdown(Shutdown::Write);
        });
        for line in BufReader::new(&qemu).lines().map_while(Result::ok) {
            let mut message: Value = serde_json::from_str(&line).unwrap();
            if message["event"] == "SHUTDOWN" {
                match unsaid {
                    "data" => message.as_object_mut().unwrap().remove("data"),
                    _ => message["data"].as_object_mut().unwrap().remove(unsaid),
                };
            }
            writeln!(&client, "{message}\r").unwrap();
        }
        let _ = client.shutdown(Shutdown::Both);
    });
}
