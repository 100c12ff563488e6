//! Threads that do what may hang, so that nobody else does.
//!
//! Whoever asks runs before ordinary processes, and they do not: it must never wait for one of
//! them. So the two sides share nothing but a socket. A lock, a channel or an allocation that
//! passed from one to the other could be held by a thread that gets no processor; what the kernel
//! copies from one side to the other cannot.
//!
//! Each thread takes a question and sends an answer, which may be the question to the next stage. One
//! that hangs is one less; nobody waits for its end, and it does not keep the process from ending.

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
const LONGEST_QUESTION: usize = 4096;

/// Threads that do the same.
pub struct Stage<B, W> {
    /// Of 15 bytes at most.
    pub name: &'static str,
    pub count: usize,
    /// How each begins.
    pub begin: B,
    /// How each answers a question.
    pub work: W,
}

/// The side of whoever asks.
#[derive(Debug)]
pub struct WorkerThreads {
    socket: OwnedFd,
    count: usize,
}

impl WorkerThreads {
    /// Starts the threads of both stages, at ordinary priority, the first among equals: what they
    /// are to look at may be gone in a moment. A question goes to `first`, what that answers goes to
    /// `last`, and what that answers is the answer. Fewer threads, if some cannot be started.
    pub fn start<B, F, L>(first: Stage<B, F>, last: Stage<B, L>) -> io::Result<Self>
    where
        B: FnOnce() + Clone + Send + 'static,
        F: Fn(&[u8]) -> Vec<u8> + Clone + Send + 'static,
        L: Fn(&[u8]) -> Vec<u8> + Clone + Send + 'static,
    {
        let pair =
            || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (socket, theirs) = pair()?;
        let (passed_on, taken) = pair()?;
        let (theirs, passed_on, taken) = (Arc::new(theirs), Arc::new(passed_on), Arc::new(taken));
        start_stage(first, &theirs, &passed_on)?;
        Ok(Self { socket, count: start_stage(last, &taken, &theirs)? })
    }

    /// How many threads the last stage has.
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

/// Starts threads that take from the one and send to the other, and returns how many. None is an
/// error.
fn start_stage<B, W>(
    stage: Stage<B, W>,
    from: &Arc<OwnedFd>,
    to: &Arc<OwnedFd>,
) -> io::Result<usize>
where
    B: FnOnce() + Clone + Send + 'static,
    W: Fn(&[u8]) -> Vec<u8> + Clone + Send + 'static,
{
    let Stage { name, count, begin, work } = stage;
    for started in 0..count {
        let (begin, work) = (begin.clone(), work.clone());
        let (from, to) = (Arc::clone(from), Arc::clone(to));
        let thread = thread::Builder::new().name(name.into()).stack_size(STACK).spawn(move || {
            block_signals();
            // Without the privilege it takes its turn.
            let _ = priority::come_first_among_others();
            begin();
            serve(&from, &to, &work);
        });
        match thread {
            Ok(_) => {}
            Err(error) if started == 0 => return Err(error),
            Err(_) => return Ok(started),
        }
    }
    Ok(count)
}

/// Answers questions until nobody asks any more.
fn serve(from: &OwnedFd, to: &OwnedFd, work: &impl Fn(&[u8]) -> Vec<u8>) {
    let mut question = [0; LONGEST_QUESTION];
    loop {
        match recv(from, &mut question[..], RecvFlags::empty()) {
            Ok((length, _)) if length > 0 => {
                let _ = send(to, &work(&question[..length]), SendFlags::NOSIGNAL);
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

    fn start(
        count: usize,
        first: fn(&[u8]) -> Vec<u8>,
        last: fn(&[u8]) -> Vec<u8>,
    ) -> WorkerThreads {
        let begin = || {};
        let first = Stage { name: "first", count: 1, begin, work: first };
        WorkerThreads::start(first, Stage { name: "last", count, begin, work: last }).unwrap()
    }

    fn hang(_: &[u8]) -> Vec<u8> {
        loop {
            thread::park();
        }
    }

    fn without_first(question: &[u8]) -> Vec<u8> {
        question[1..].to_vec()
    }

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
        let workers = start(2, without_first, reversed);
        assert_eq!(workers.count(), 2);
        let nothing = workers.take_answer(&mut [0; 8]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        workers.ask(b"abc").unwrap();
        assert_eq!(answer(&workers), b"cb");
    }

    #[test]
    fn who_asks_does_not_wait_for_those_who_hang() {
        let workers = start(1, hang, reversed);
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
