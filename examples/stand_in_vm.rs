//! A process that behaves like QEMU as far as the daemon can see: it serves QMP at a socket,
//! ends in good order on SIGTERM, and dies of everything else. The end-to-end tests start it
//! through `tests/testbed`.
//!
//! Usage: `stand_in_vm SOCKET [--no-greeting] [--drain=MS] [--ready | --listen-late] [--never-accept] [--deaf-to-hup] [--user=ID] [--first-thread-ends] [QEMU-OPTION...]`
//!
//! With `--ready` it listens already when its socket appears, with `--listen-late` only when it
//! is told to; else right after, as QEMU does. With `--user` it gives up root first, for this user
//! and the group of the same number. With `--first-thread-ends` it is dead as `/proc` has it once it
//! listens, and its other threads live on for as long as it is not killed. Of QEMU's options `-S` holds
//! its guest until RESUME; the others change nothing but its command line, as `/proc` shows it.
//!
//! It says `bound`, `listening` and `connected` on stdout when it is so, and obeys the lines
//! that it reads from stdin:
//!
//!   event NAME [DATA]   send an event             line TEXT    send a line as it is
//!   clock SECONDS       give this time with all further events, in seconds since 1970
//!   piece TEXT          send a piece of a line, which the next `line` ends
//!   bytes COUNT         send so many x            nest COUNT   send an event with deep data
//!   flood COUNT         send so many events       trickle      send a byte for each line read
//!   bursts MS MS COUNT  send events for so long and pause for so long, so many times
//!   flood-itself COUNT  send itself so many SIGHUPs on each processor, and ignore them
//!   grow                take memory, 64 MiB at a time, until it is killed
//!   shutdown REASON     as QEMU goes down: the event, the draining, the end
//!   listen              listen (after --listen-late)
//!   close               close the connection      hang-up      and the socket, and live on
//!   exit CODE           end with this code

use std::io::{self, BufRead, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::exit;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::{Gid, Signal, Uid};
use signal_hook_mio::v1_0::Signals;

/// One of those that mean nothing.
const EVENT: &str = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RTC_CHANGE", "data": {"offset": 0}}"#;

enum Happening {
    Connected(UnixStream),
    Heard(String),
    /// The connection with this number has ended. There may be a later one already.
    Closed(u32),
    Command(String),
    EndOfCommands,
    Terminate,
}

struct StandIn {
    socket: PathBuf,
    greets: bool,
    drain: Duration,
    /// The time since 1970 that events give; the wall clock's if absent.
    clock: Option<Duration>,
    client: Option<UnixStream>,
    /// How many have connected so far.
    clients: u32,
    /// Its guest's state: a `RunState` of QEMU's `qapi/run-state.json`.
    status: &'static str,
    /// What was heard since it has begun a line that it has not ended.
    unanswered: Option<Vec<String>>,
}

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let socket = PathBuf::from(arguments.next().expect("the path of the socket"));
    let options: Vec<String> = arguments.filter_map(|option| option.into_string().ok()).collect();
    let has = |option: &str| options.iter().any(|given| given == option);
    let drain = options.iter().find_map(|option| option.strip_prefix("--drain="));
    let drain = drain.map_or(0, |drain| drain.parse().expect("milliseconds"));

    if let Some(id) = options.iter().find_map(|option| option.strip_prefix("--user=")) {
        become_user(id.parse().expect("a user id"));
    }
    // Caught, and never looked at.
    let _hangups = has("--deaf-to-hup").then(|| Signals::new([libc::SIGHUP]).unwrap());
    let (sender, happenings) = mpsc::channel();
    // Caught before anybody can send it.
    let sigterm = Signals::new([libc::SIGTERM]).unwrap();
    thread::spawn({
        let sender = sender.clone();
        move || await_sigterm(sigterm, &sender)
    });
    let descriptor = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    if has("--ready") {
        let elsewhere = socket.with_extension("elsewhere");
        rustix::net::bind(&descriptor, &SocketAddrUnix::new(&elsewhere).unwrap()).unwrap();
        rustix::net::listen(&descriptor, 1).unwrap();
        std::fs::hard_link(&elsewhere, &socket).unwrap();
        std::fs::remove_file(&elsewhere).unwrap();
    } else {
        rustix::net::bind(&descriptor, &SocketAddrUnix::new(&socket).unwrap()).unwrap();
    }
    say("bound");
    let listener = UnixListener::from(descriptor);
    thread::spawn({
        let sender = sender.clone();
        move || read_commands(&sender)
    });
    let mut unheard = None;
    if has("--listen-late") {
        unheard = Some(listener);
    } else {
        listen(listener, has("--never-accept"), sender.clone());
    }
    if has("--first-thread-ends") {
        // SAFETY: this thread holds no lock, and nobody waits for it or uses what is on its stack.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }

    let mut stand_in = StandIn {
        socket,
        greets: !has("--no-greeting"),
        drain: Duration::from_millis(drain),
        clock: None,
        client: None,
        clients: 0,
        status: if has("-S") { "prelaunch" } else { "running" },
        unanswered: None,
    };
    for happening in happenings {
        if let Happening::Command(command) = &happening
            && command == "listen"
        {
            listen(unheard.take().expect("--listen-late"), false, sender.clone());
            continue;
        }
        stand_in.happens(happening, &sender);
    }
}

/// While there is one thread.
fn become_user(id: u32) {
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    rustix::thread::set_thread_groups(&[]).unwrap();
    rustix::thread::set_thread_res_gid(group, group, group).unwrap();
    rustix::thread::set_thread_res_uid(user, user, user).unwrap();
}

fn say(word: &str) {
    let mut stdout = io::stdout();
    let _ = writeln!(stdout, "{word}").and_then(|()| stdout.flush());
}

fn listen(listener: UnixListener, never_accept: bool, sender: Sender<Happening>) {
    rustix::net::listen(&listener, 1).unwrap();
    say("listening");
    thread::spawn(move || {
        if never_accept {
            loop {
                thread::park();
            }
        }
        while let Ok((client, _)) = listener.accept() {
            let _ = sender.send(Happening::Connected(client));
        }
    });
}

fn await_sigterm(mut signals: Signals, sender: &Sender<Happening>) {
    let mut poll = mio::Poll::new().unwrap();
    poll.registry().register(&mut signals, mio::Token(0), mio::Interest::READABLE).unwrap();
    let mut events = mio::Events::with_capacity(1);
    while poll.poll(&mut events, None).is_err() {}
    let _ = sender.send(Happening::Terminate);
}

fn read_commands(sender: &Sender<Happening>) {
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let _ = sender.send(Happening::Command(line));
    }
    let _ = sender.send(Happening::EndOfCommands);
}

impl StandIn {
    fn happens(&mut self, happening: Happening, sender: &Sender<Happening>) {
        match happening {
            Happening::Connected(client) => {
                let reader = client.try_clone().unwrap();
                self.client = Some(client);
                self.clients += 1;
                if self.greets {
                    self.send(r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 9}, "package": ""}, "capabilities": []}}"#);
                }
                let (sender, number) = (sender.clone(), self.clients);
                thread::spawn(move || hear(reader, number, &sender));
            }
            Happening::Heard(line) => self.answer(&line),
            Happening::Closed(number) if number == self.clients => self.client = None,
            Happening::Closed(_) => {}
            Happening::Command(command) => self.obey(&command),
            // Whoever started this process has gone.
            Happening::EndOfCommands => exit(0),
            Happening::Terminate => self.go_down("host-signal"),
        }
    }

    fn answer(&mut self, line: &str) {
        if let Some(unanswered) = &mut self.unanswered {
            unanswered.push(line.into());
        } else if line.contains("qmp_capabilities") {
            if self.greets {
                self.send(r#"{"return": {}}"#);
            }
            say("connected");
        } else if line.contains("query-status") {
            let (status, runs) = (self.status, self.status == "running");
            self.send(&format!(
                r#"{{"return": {{"status": "{status}", "singlestep": false, "running": {runs}}}}}"#
            ));
        }
    }

    fn obey(&mut self, command: &str) {
        let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
        match word {
            "event" => self.event(rest),
            "clock" => self.clock = Some(Duration::from_secs_f64(rest.parse().unwrap())),
            "line" => {
                self.send(rest);
                for line in self.unanswered.take().unwrap_or_default() {
                    self.answer(&line);
                }
            }
            "piece" => {
                if rest.contains("SHUTDOWN") {
                    self.status = "shutdown";
                }
                self.write(rest.as_bytes());
                self.unanswered.get_or_insert_default();
            }
            "bytes" => {
                let mut left: usize = rest.parse().unwrap();
                let piece = vec![b'x'; 1 << 16];
                while left > 0 && self.write(&piece[..left.min(piece.len())]) {
                    left = left.saturating_sub(piece.len());
                }
            }
            "nest" => {
                let depth = rest.parse().unwrap();
                let data = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
                self.send(&format!(r#"{{"event": "DEEP", "data": {data}}}"#));
            }
            "flood" => {
                for _ in 0..rest.parse().unwrap() {
                    self.send(EVENT);
                }
            }
            "bursts" => self.send_bursts(rest),
            "flood-itself" => flood_itself(rest.parse().unwrap()),
            "grow" => grow(),
            "trickle" => {
                self.write(b"x");
            }
            "shutdown" => self.go_down(rest),
            "close" => self.close(),
            "hang-up" => {
                let _ = std::fs::remove_file(&self.socket);
                self.close();
            }
            "exit" => exit(rest.parse().unwrap()),
            _ => panic!("unknown command {command:?}"),
        }
    }

    /// So little is on its way at any time that whoever reads it has read all soon after each burst.
    fn send_bursts(&mut self, rest: &str) {
        const ON_ITS_WAY: usize = 16 * 1024;
        let numbers: Vec<u64> = rest.split(' ').map(|number| number.parse().unwrap()).collect();
        let [burst, pause, count] = numbers[..] else { panic!("bursts MS MS COUNT, not {rest:?}") };
        if let Some(client) = &self.client {
            rustix::net::sockopt::set_socket_send_buffer_size(client, ON_ITS_WAY).unwrap();
        }
        let events = format!("{EVENT}\r\n").repeat(32);
        for _ in 0..count {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(burst) {
                if !self.write(events.as_bytes()) {
                    return;
                }
            }
            thread::sleep(Duration::from_millis(pause));
        }
    }

    fn event(&mut self, rest: &str) {
        let (name, data) = rest.split_once(' ').unwrap_or((rest, "{}"));
        self.status = match name {
            "SHUTDOWN" => "shutdown",
            "STOP" if self.status == "running" => "paused",
            "RESUME" => "running",
            _ => self.status,
        };
        let time = self.clock.unwrap_or_else(|| UNIX_EPOCH.elapsed().unwrap());
        let (seconds, microseconds) = (time.as_secs(), time.subsec_micros());
        self.send(&format!(
            r#"{{"timestamp": {{"seconds": {seconds}, "microseconds": {microseconds}}}, "event": "{name}", "data": {data}}}"#
        ));
    }

    /// As QEMU does it: the event at once, then the draining, the sockets, the end.
    fn go_down(&mut self, reason: &str) {
        let guest = reason.starts_with("guest-");
        self.event(&format!(r#"SHUTDOWN {{"guest": {guest}, "reason": "{reason}"}}"#));
        thread::sleep(self.drain);
        let _ = std::fs::remove_file(&self.socket);
        exit(0);
    }

    fn close(&mut self) {
        if let Some(client) = self.client.take() {
            let _ = client.shutdown(std::net::Shutdown::Both);
        }
    }

    fn send(&mut self, line: &str) {
        self.write(format!("{line}\r\n").as_bytes());
    }

    fn write(&mut self, bytes: &[u8]) -> bool {
        self.client.as_mut().is_some_and(|client| client.write_all(bytes).is_ok())
    }
}

/// As a guest that has taken over its QEMU might do it: on every processor, and a signal that is ignored
/// costs next to nothing.
fn flood_itself(count: u64) {
    // SAFETY: no handler is installed, and nobody asks for the one that was.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    let this = rustix::process::getpid();
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..count {
                    rustix::process::kill_process(this, Signal::HUP).unwrap();
                }
            });
        }
    });
    say("flooded");
}

fn grow() -> ! {
    let mut taken = Vec::new();
    loop {
        taken.push(vec![1_u8; 64 << 20]);
        std::hint::black_box(&taken);
    }
}

fn hear(client: UnixStream, number: u32, sender: &Sender<Happening>) {
    let mut lines = io::BufReader::new(client);
    let mut line = Vec::new();
    while lines.by_ref().take(1 << 16).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let _ = sender.send(Happening::Heard(String::from_utf8_lossy(&line).into_owned()));
        line.clear();
    }
    let _ = sender.send(Happening::Closed(number));
}
