//! Threads that do what may hang, so that nobody else does.
//!
//! Whoever asks runs before ordinary processes, and they do not: it must never wait for one of
//! them. So the two sides share nothing but a socket. A lock, a channel or an allocation that
//! passed from one to the other could be held by a thread that gets no processor; what the kernel
//! copies from one side to the other cannot.
//!
//! Each thread takes a question, and sends an answer. One that hangs is one less; nobody waits for
//! its end, and it does not keep the process from ending.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

use super::priority;

/// Room for a thread's stack, in bytes. They call nothing deep.
const STACK: usize = 128 << 10;

/// The longest question, in bytes.
const LONGEST_QUESTION: usize = 1024;

/// The side of whoever asks.
#[derive(Debug)]
pub struct WorkerThreads {
    socket: OwnedFd,
    count: usize,
}

impl WorkerThreads {
    /// Starts so many threads of this name (15 bytes at most), at ordinary priority, the first
    /// among equals: what they are to look at may be gone in a moment. Each begins
    /// with `begin`, and answers each question by `work`. Fewer, if some cannot be started.
    pub fn start(
        name: &str,
        count: usize,
        begin: impl Fn() + Clone + Send + 'static,
        work: fn(&[u8]) -> Vec<u8>,
    ) -> io::Result<Self> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let theirs = Arc::new(theirs);
        let mut workers = Self { socket, count: 0 };
        for _ in 0..count {
            let (begin, theirs) = (begin.clone(), Arc::clone(&theirs));
            let started =
                thread::Builder::new().name(name.into()).stack_size(STACK).spawn(move || {
                    block_signals();
                    // Without the privilege it takes its turn.
                    let _ = priority::come_first_among_others();
                    begin();
                    serve(&theirs, work);
                });
            match started {
                Ok(_) => workers.count += 1,
                Err(error) if workers.count == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(workers)
    }

    /// How many threads there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Asks, without waiting. `WouldBlock`: too many questions wait already.
    pub fn ask(&self, question: &[u8]) -> io::Result<()> {
        debug_assert!(question.len() <= LONGEST_QUESTION);
        Ok(send(&self.socket, question, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map(|_| ())?)
    }

    /// Takes an answer, without waiting for one (`WouldBlock`), and returns its length. Of one that
    /// is longer than the buffer the end is lost.
    pub fn take_answer(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(&self.socket, buffer, RecvFlags::DONTWAIT)?.0)
    }
}

/// Becomes readable when there is an answer.
impl AsFd for WorkerThreads {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Answers questions until nobody asks any more.
fn serve(socket: &OwnedFd, work: fn(&[u8]) -> Vec<u8>) {
    let mut question = [0; LONGEST_QUESTION];
    loop {
        match recv(socket, &mut question[..], RecvFlags::empty()) {
            Ok((length, _)) if length > 0 => {
                let _ = send(socket, &work(&question[..length]), SendFlags::NOSIGNAL);
            }
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}

/// Signals to the process are for the thread that waits for them.
fn block_signals() {
    let mut all = MaybeUninit::uninit();
    // SAFETY: the set is filled by the first call before the second one reads it, and lives across
    // both; the former mask is not asked for.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn reversed(question: &[u8]) -> Vec<u8> {
        question.iter().rev().copied().collect()
    }

    fn answer(workers: &WorkerThreads) -> Vec<u8> {
        poll(&mut [PollFd::new(workers, PollFlags::IN)], None).unwrap();
        let mut buffer = [0; 8];
        let length = workers.take_answer(&mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    #[test]
    fn what_is_asked_is_answered() {
        let workers = WorkerThreads::start("worker", 2, || {}, reversed).unwrap();
        assert_eq!(workers.count(), 2);
        let nothing = workers.take_answer(&mut [0; 8]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        workers.ask(b"abc").unwrap();
        assert_eq!(answer(&workers), b"cba");
    }

    #[test]
    fn who_asks_does_not_wait_for_those_who_hang() {
        let hang = || loop {
            thread::park();
        };
        let workers = WorkerThreads::start("worker", 1, hang, reversed).unwrap();
        let mut asked = 0;
        let full = loop {
            match workers.ask(b"abc") {
                Ok(()) => asked += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        assert!(asked > 0);
    }
}
