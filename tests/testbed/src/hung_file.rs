//! A file that is never there: to read from it waits until this is dropped.
//!
//! A FUSE file system (`linux/fuse.h`) with one file in it, which answers whatever it is asked but for
//! READ. Any user can have one by way of fusermount(1); here root makes it for the attacker.
//! By hand and not with a library, since the whole point is a server that does not serve.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// How many bytes the file is said to have.
const LENGTH: u64 = 4096;

/// The inodes of the directory and of the file.
const ROOT: u64 = 1;
const FILE: u64 = 2;

/// The mounted file system. When it is dropped, every reader gets an error.
#[derive(Debug)]
pub struct HungFile {
    directory: PathBuf,
    /// Closed when the server is to end.
    is_wanted: Option<std::io::PipeWriter>,
    server: Option<JoinHandle<()>>,
    readers: Arc<AtomicUsize>,
}

impl HungFile {
    /// Mounts it at this directory, which is made.
    #[must_use]
    pub fn mount(directory: &Path) -> Self {
        fs::create_dir(directory).expect("make a directory to mount at");
        let kernel = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        let kernel = kernel.expect("open /dev/fuse");
        let options =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other\0", kernel.as_raw_fd());
        let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).expect("one NUL");
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("hung", directory, "fuse", flags, options).expect("mount a FUSE file system");
        let (end, is_wanted) = std::io::pipe().expect("make a pipe");
        let readers = Arc::new(AtomicUsize::new(0));
        let waiting = Arc::clone(&readers);
        let server = thread::spawn(move || {
            loop {
                let mut awaited =
                    [PollFd::new(&kernel, PollFlags::IN), PollFd::new(&end, PollFlags::IN)];
                poll(&mut awaited, None).expect("wait for the kernel");
                if !awaited[1].revents().is_empty() {
                    // The last descriptor is closed, and the kernel gives up.
                    return;
                }
                serve(&kernel, &waiting);
            }
        });
        let (is_wanted, server) = (Some(is_wanted), Some(server));
        Self { directory: directory.into(), is_wanted, server, readers }
    }

    /// How many wait for it.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join("file")
    }
}

impl Drop for HungFile {
    fn drop(&mut self) {
        self.is_wanted.take();
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
        let _ = unmount(&self.directory, UnmountFlags::DETACH);
    }
}

/// Answers one request of the kernel's.
fn serve(mut kernel: &File, readers: &AtomicUsize) {
    const LOOKUP: u32 = 1;
    const FORGET: u32 = 2;
    const GETATTR: u32 = 3;
    const OPEN: u32 = 14;
    const READ: u32 = 15;
    const INIT: u32 = 26;
    const INTERRUPT: u32 = 36;
    const KEEP_CACHE: u32 = 1 << 1;
    const NOT_IMPLEMENTED: i32 = -38;

    let mut request = vec![0; 1 << 17];
    // A request may have been interrupted meanwhile.
    let Ok(length) = kernel.read(&mut request) else { return };
    let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().expect("a word"));
    let long = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().expect("a long"));
    assert!(length >= 40, "a request has a header");
    let (operation, unique, inode) = (word(4), long(8), long(16));
    let mut error = 0;
    let answer = match operation {
        READ => {
            readers.fetch_add(1, Ordering::Relaxed);
            return;
        }
        FORGET | INTERRUPT => return,
        // Protocol 7.31: read-ahead, flags, background, congestion, largest write, and the rest.
        INIT => {
            let words = [7_u32, 31, 65_536, 0, 0x0008_000c, 65_536];
            let mut answer: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            answer.resize(64, 0);
            answer
        }
        LOOKUP => [longs(&[FILE, 0, 100, 100, 0]), attributes(FILE)].concat(),
        GETATTR => [longs(&[100, 0]), attributes(inode)].concat(),
        // Whoever opens it later is not to wait for the pages that others wait for.
        OPEN => [longs(&[1]), KEEP_CACHE.to_ne_bytes().to_vec(), vec![0; 4]].concat(),
        _ => {
            error = NOT_IMPLEMENTED;
            Vec::new()
        }
    };
    let length = u32::try_from(16 + answer.len()).expect("a short answer");
    let header = [length.to_ne_bytes(), error.to_ne_bytes()].concat();
    let answer = [header, unique.to_ne_bytes().to_vec(), answer].concat();
    let _ = kernel.write_all(&answer);
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// `struct fuse_attr`.
fn attributes(inode: u64) -> Vec<u8> {
    let mode: u32 = if inode == ROOT { 0o040_755 } else { 0o100_644 };
    // Times, then: mode, links, user, group, device, block size, flags.
    let words = [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0];
    let words: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
    [longs(&[inode, LENGTH, 1, 0, 0, 0]), words].concat()
}
