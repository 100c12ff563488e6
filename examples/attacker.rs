//! A process of an ordinary user that does the daemon harm, as far as the kernel lets it: for
//! `tests/hostile.rs`, `tests/quiet.rs` and others. Started by root, it gives up everything first.
//!
//! Usage: `attacker USER ATTACK [ARGUMENT...]`, where USER is a user id. It says `done` on stdout
//! after the attack, and lives until its stdin ends.
//!
//!   arguments BYTES PID COUNT   shows so long a command line, and sends SIGHUP to PID so often
//!   link PATH TARGET            puts a symbolic link there, in the place of what is there
//!   fifo PATH                   a FIFO, in the same way
//!   file PATH TEXT              a file, in the same way
//!   hang FILE PID SIGNAL        has everybody hang who looks at it, where FILE is one that cannot be
//!                               read, and sends SIGNAL to PID
//!   listen COUNT                asks the proc connector so often to tell it of processes
//!   refused FROM UP-TO          asks it for what there is not, with these even request numbers,
//!                               again and again

use std::ffi::{CStr, c_void};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use kvmd::wire::proc_event::Request;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_CONNECTOR;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::process::{
    DumpableBehavior, Gid, Pid, PrctlMmMap, Signal, Uid, configure_virtual_memory_map,
    kill_process, set_dumpable_behavior,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ([user, attack], rest) = words.split_first_chunk().expect("USER ATTACK [ARGUMENT...]");
    become_user(number(user));
    match (*attack, rest) {
        ("arguments", [length, pid, count]) => {
            // Nothing of it is there before somebody reads it.
            let text = vec![0_u8; number(length) as usize];
            show_arguments(&text);
            let pid = Pid::from_raw(number(pid).cast_signed()).expect("a process");
            (0..number(count)).for_each(|_| kill_process(pid, Signal::HUP).expect("send SIGHUP"));
            done();
        }
        ("link", [path, target]) => {
            make_way(path);
            symlink(target, path).expect("plant a link");
            done();
        }
        ("fifo", [path]) => {
            make_way(path);
            mknodat(CWD, *path, FileType::Fifo, Mode::from_raw_mode(0o666), 0)
                .expect("plant a FIFO");
            done();
        }
        ("file", [path, text]) => {
            make_way(path);
            fs::write(path, text).expect("plant a file");
            done();
        }
        ("hang", [file, pid, signal]) => {
            let pid = Pid::from_raw(number(pid).cast_signed()).expect("a process");
            let signal = Signal::from_named_raw(number(signal).cast_signed()).expect("a signal");
            // All that comes afterwards is done once before: a page of code that is not there yet would
            // be waited for as well.
            signal_and_say(rustix::process::getpid(), Signal::CONT, b"");
            hang(file);
            signal_and_say(pid, signal, b"done\n");
            let _ = rustix::io::read(rustix::stdio::stdin(), &mut [0; 1]);
        }
        ("listen", [count]) => {
            let socket = connector();
            let listen = Request::Listen.to_datagram(0);
            (0..number(count)).for_each(|_| send(&socket, &listen));
            done();
        }
        ("refused", [from, up_to]) => refused(number(from), number(up_to)),
        _ => panic!("unknown attack {words:?}"),
    }
}

/// By its name: whose it is does not matter in a directory where one may write.
fn make_way(path: &str) {
    match fs::rename(path, format!("{path}.elsewhere")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{path}: {error}"),
        _ => {}
    }
}

fn number(text: &str) -> u32 {
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// Says so, and stays as long as it is wanted.
fn done() {
    println!("done");
    let _ = io::stdout().flush();
    let _ = io::stdin().read_to_end(&mut Vec::new());
}

/// While there is one thread.
fn become_user(id: u32) {
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    rustix::thread::set_thread_groups(&[]).expect("leave root's groups");
    rustix::thread::set_thread_res_gid(group, group, group).expect("become another group");
    rustix::thread::set_thread_res_uid(user, user, user).expect("become another user");
}

/// Has `/proc/self/cmdline` be `text`: prctl(2), `PR_SET_MM_MAP`, which takes no privilege.
fn show_arguments(text: &[u8]) {
    let stat = fs::read_to_string("/proc/self/stat").expect("read /proc/self/stat");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let fields: Vec<u64> =
        fields.split_whitespace().map(|field| field.parse().unwrap_or_default()).collect();
    // By proc(5); the third field of the line is the first of these.
    let field = |number: usize| fields[number - 3];
    let begin = text.as_ptr() as u64;
    let end = begin + text.len() as u64;
    let map = PrctlMmMap {
        start_code: field(26),
        end_code: field(27),
        start_data: field(45),
        end_data: field(46),
        start_brk: field(47),
        // Nobody here asks for more of it.
        brk: field(47),
        start_stack: field(28),
        arg_start: begin,
        arg_end: end,
        env_start: end,
        env_end: end,
        auxv: std::ptr::null_mut(),
        auxv_size: 0,
        exe_fd: -1,
    };
    // SAFETY: what it changes is where others find this process's arguments, at which this one does
    // not look again, and the end of the heap, where no more than this process's own memory is.
    unsafe { configure_virtual_memory_map(&map) }.expect("show other arguments");
}

/// Who says something in the usual way takes memory first.
fn signal_and_say(pid: Pid, signal: Signal, text: &[u8]) {
    kill_process(pid, signal).expect("send it");
    rustix::io::write(rustix::stdio::stdout(), text).expect("say so");
}

/// Has everybody wait who wants the lock of this process's memory map, as `/proc/PID/cmdline` does.
///
/// One thread reads a mapping of `file` by way of `/proc/self/mem`: the kernel has the lock for
/// reading while it waits for the page. Another one maps something: it waits for the lock to write
/// behind that, and every reader from now on waits behind it.
fn hang(file: &str) {
    static READER: AtomicI32 = AtomicI32::new(0);
    static PARKED: AtomicI32 = AtomicI32::new(0);
    static MAPPER: AtomicI32 = AtomicI32::new(0);
    let announce = |as_what: &AtomicI32| {
        as_what.store(rustix::thread::gettid().as_raw_pid(), Ordering::SeqCst);
    };
    // As is every program that was started by its own user.
    set_dumpable_behavior(DumpableBehavior::Dumpable).expect("be readable by itself");
    let file = fs::File::open(file).expect("open the file");
    let memory = fs::File::open("/proc/self/mem").expect("open /proc/self/mem");
    let place = map(&file) as u64;
    let mapper = thread::spawn(move || {
        announce(&PARKED);
        thread::park();
        announce(&MAPPER);
        map(&file) as usize
    });
    // To start a thread takes memory, so it has to be there before the other one reads.
    await_blocked(&PARKED);
    thread::spawn(move || {
        announce(&READER);
        let _ = memory.read_at(&mut [0], place);
    });
    await_blocked(&READER);
    mapper.thread().unpark();
    await_blocked(&MAPPER);
    // To let go of it may take memory.
    std::mem::forget(mapper);
}

/// A page of the file.
fn map(file: &fs::File) -> *mut c_void {
    let (read, shared) = (ProtFlags::READ, MapFlags::SHARED);
    // SAFETY: the kernel puts it where nothing else is, and nobody here looks at it.
    unsafe { mmap(std::ptr::null_mut(), 4096, read, shared, file, 0) }.expect("map the file")
}

/// Waits until this thread, once it has announced itself, waits in the kernel. Takes no memory: that
/// may not be had any more.
fn await_blocked(thread: &AtomicI32) {
    while thread.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    let path = format!("/proc/self/task/{}/stat\0", thread.load(Ordering::SeqCst));
    let path = CStr::from_bytes_with_nul(path.as_bytes()).expect("one NUL");
    loop {
        let mut stat = [0; 64];
        let file = open(path, OFlags::RDONLY, Mode::empty()).expect("open stat");
        let length = rustix::io::read(&file, &mut stat).expect("read stat");
        let end = stat[..length].iter().rposition(|&byte| byte == b')').expect("a name");
        if matches!(stat[end + 2], b'S' | b'D') {
            return;
        }
        thread::yield_now();
    }
}

fn connector() -> Socket {
    Socket::new(NETLINK_CONNECTOR).expect("a socket to the connector")
}

fn send(socket: &Socket, datagram: &[u8]) {
    socket.send(datagram, 0).expect("ask the connector (for anybody since Linux 6.6)");
}

/// The kernel refuses each request, and tells every listener: until this process is killed.
fn refused(from: u32, up_to: u32) {
    const UNKNOWN: u32 = 99;
    let socket = connector();
    let requests: Vec<Vec<u8>> = (from..=up_to)
        .step_by(2)
        .map(|number| {
            let mut request = Request::Listen.to_datagram(number);
            let operation = request.len() - size_of::<u32>();
            request[operation..].copy_from_slice(&UNKNOWN.to_ne_bytes());
            request
        })
        .collect();
    println!("done");
    let _ = io::stdout().flush();
    loop {
        for request in &requests {
            send(&socket, request);
        }
    }
}
