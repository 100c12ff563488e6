//! What code that has got into the daemon could do: it enters the sandbox of one of the daemon's
//! threads, and then tries what it is told to. For `tests/confinement.rs`.
//!
//! Usage: `confined ROLE CHANGING WRITTEN ATTEMPT...`: `loop`, `writer`, `lookup`, `links`, or
//! `lookup-without-landlock`, as on a kernel that has none; two directories of `kvmd::sys::confinement::Reach` (of `lookup`, WRITTEN is only read), and attempts
//! such as `read:/etc/shadow`. It says `ATTEMPT: done` or `ATTEMPT: ERROR` for each:
//!
//!   read:PATH     open a file and read from it     write:PATH   open one for writing
//!   create:PATH   make a new one                   empty:PATH   make one with mknod
//!   remove:PATH   remove one                       rename:PATH  give it another name beside
//!   list:PATH     list a directory                 mkdir:PATH   make one
//!   link:PATH     read where a link leads          tcp:PORT     connect to this machine

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::net::TcpStream;
use std::path::PathBuf;

use kvmd::sys::confinement::Reach;
use kvmd::sys::sandbox::{self, Role};
use rustix::fs::{CWD, FileType, Mode, mknodat};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (role, has_landlock) = match arguments.next().as_deref() {
        Some("loop") => (Role::Loop, true),
        Some("writer") => (Role::Writer, true),
        Some("lookup") => (Role::Lookup, true),
        Some("lookup-without-landlock") => (Role::Lookup, false),
        Some("links") => (Role::Links, true),
        other => panic!("not a thread's role: {other:?}"),
    };
    let mut path = || PathBuf::from(arguments.next().expect("a directory"));
    let (changing, written) = (vec![path()], vec![path()]);
    // As the daemon does it (`Paths::reach_of_loop` and so on).
    let reach = match role {
        Role::Loop => Reach { changing, written, ..Reach::default() },
        Role::Writer => Reach { written, ..Reach::default() },
        Role::Lookup | Role::Links => Reach { read: written, ..Reach::default() },
    };
    let confined = sandbox::enter(role, has_landlock.then_some(&reach)).expect("enter the sandbox");
    println!("enforced: {}", confined.is_enforced);
    for attempt in arguments {
        let (what, object) = attempt.split_once(':').expect("WHAT:OBJECT");
        match attempted(what, object) {
            Ok(()) => println!("{attempt}: done"),
            Err(error) => println!("{attempt}: {:?}", error.kind()),
        }
    }
}

fn attempted(what: &str, object: &str) -> io::Result<()> {
    match what {
        "read" => File::open(object)?.read(&mut [0; 16]).map(|_| ()),
        "write" => OpenOptions::new().write(true).open(object).map(|_| ()),
        "create" => OpenOptions::new().write(true).create_new(true).open(object).map(|_| ()),
        "empty" => {
            let mode = Mode::RUSR | Mode::WUSR;
            Ok(mknodat(CWD, object, FileType::RegularFile, mode, 0)?)
        }
        "remove" => fs::remove_file(object),
        "rename" => fs::rename(object, format!("{object}.renamed")),
        "list" => fs::read_dir(object)?.try_for_each(|entry| entry.map(|_| ())),
        "mkdir" => fs::create_dir(object),
        "link" => fs::read_link(object).map(|_| ()),
        "tcp" => TcpStream::connect(("127.0.0.1", object.parse().expect("a port"))).map(|_| ()),
        _ => panic!("unknown attempt {what:?}"),
    }
}
