//! The filter, run by the kernel itself: over a pair of Unix sockets, which needs no privilege,
//! and on the live proc connector.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvmd::sys::clock;
use kvmd::sys::connector::{Connector, Precision, Received};
use kvmd::sys::socket_option::attach_filter;
use kvmd::wire::proc_event::ProcMessage;
use kvmd::wire::{Signal, WaitStatus};
use pid_filter::{LONGEST, Program};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use rustix::event::{PollFd, PollFlags, poll};
use testbed::needs;

const NONE: u32 = 0;
const FORK: u32 = 1;
const EXEC: u32 = 2;
const COREDUMP: u32 = 0x4000_0000;
const EXIT: u32 = 0x8000_0000;

/// The largest pid that Linux gives out.
const PID_MAX: u32 = 4_194_304;

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    fn pids(&mut self, count: usize) -> BTreeSet<u32> {
        let mut pids = BTreeSet::new();
        while pids.len() < count {
            pids.insert(self.next() % PID_MAX + 1);
        }
        pids
    }
}

/// A program attached to a socket.
struct Filter {
    sender: UnixDatagram,
    receiver: UnixDatagram,
}

impl Filter {
    fn new(program: &Program) -> Self {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        receiver.set_nonblocking(true).unwrap();
        attach_filter(receiver.as_fd(), program).unwrap();
        Self { sender, receiver }
    }

    /// Whether an event of this kind, of this thread of this process, passes.
    fn passes(&self, what: u32, pid: u32, tgid: u32) -> bool {
        let words = [76, 3, 0, 0, 1, 1, 0, 0, 40, what, 0, 0, 0, pid, tgid, 0, 17, 0, 0];
        self.passes_words(words)
    }

    /// Whether an acknowledgement of this number passes.
    fn passes_acknowledgement(&self, ack: u32) -> bool {
        self.passes_words([76, 3, 0, 0, 1, 1, 0, ack, 40, NONE, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    fn passes_words(&self, words: [u32; 19]) -> bool {
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
        self.passes_bytes(&bytes)
    }

    fn passes_bytes(&self, bytes: &[u8]) -> bool {
        self.sender.send(bytes).unwrap();
        let mut received = [0; 100];
        match self.receiver.recv(&mut received) {
            Ok(length) => {
                assert_eq!(&received[..length], bytes);
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                false
            }
        }
    }

    fn passes_exit(&self, pid: u32) -> bool {
        self.passes(EXIT, pid, pid)
    }
}

fn watching(pids: &BTreeSet<u32>) -> Program {
    Program::watching(&pids.iter().copied().collect::<Vec<_>>(), LONGEST)
}

#[test]
fn exactly_the_watched_pass_up_to_2000_random_pids() {
    if !testbed::kernel_is_at_least(6, 7) {
        needs!(Root);
    }
    let _machine = whole_machine();
    let _room = room_for_the_longest();
    let mut numbers = Numbers(1);
    for count in [0, 1, 2, 3, 126, 127, 255, 256, 1000, 2000] {
        let pids = numbers.pids(count);
        let program = watching(&pids);
        assert!(program.is_exact() && program.len() <= LONGEST, "{count}: {}", program.len());
        let filter = Filter::new(&program);
        let strangers = numbers.pids(2000);
        let neighbours = pids.iter().flat_map(|pid| [pid - 1, pid + 1]);
        let edges = [0, 1, PID_MAX, u32::MAX, i32::MAX as u32];
        for pid in pids.iter().copied().chain(neighbours).chain(strangers).chain(edges) {
            assert_eq!(filter.passes_exit(pid), pids.contains(&pid), "{count} pids: {pid}");
        }
    }
}

#[test]
fn of_20000_random_pids_none_is_missed() {
    if !testbed::kernel_is_at_least(6, 7) {
        needs!(Root);
    }
    let _machine = whole_machine();
    let _room = room_for_the_longest();
    let mut numbers = Numbers(2);
    let pids = numbers.pids(20_000);
    let program = watching(&pids);
    assert!(!program.is_exact() && program.len() <= LONGEST);
    let filter = Filter::new(&program);
    for &pid in &pids {
        assert!(filter.passes_exit(pid), "{pid}");
    }
    let strangers = numbers.pids(20_000);
    let passed = strangers.difference(&pids).filter(|&&pid| filter.passes_exit(pid)).count();
    println!("20000 pids in {} instructions: {passed} of 20000 strangers pass", program.len());
    assert!(passed < 20_000, "it still filters");
}

#[test]
fn pids_in_a_row_take_one_range() {
    let _machine = whole_machine();
    let pids = (5000..25_000).collect();
    let program = watching(&pids);
    assert!(program.is_exact());
    let filter = Filter::new(&program);
    for (pid, passes) in [(4999, false), (5000, true), (24_999, true), (25_000, false)] {
        assert_eq!(filter.passes_exit(pid), passes, "{pid}");
    }
}

#[test]
fn only_ends_pass() {
    let _machine = whole_machine();
    let filter = Filter::new(&Program::watching(&[40], LONGEST));
    for what in [NONE, FORK, EXEC, 4, 0x40, 0x80, 0x100, 0x200] {
        assert!(!filter.passes(what, 40, 40), "{what:#x}");
    }
    assert!(!filter.passes(EXIT, 41, 40), "a thread is not its process");
    assert!(!filter.passes(EXIT, 40, 41));
    assert!(filter.passes(COREDUMP, 41, 40), "any thread dumps for its process");
    assert!(!filter.passes(COREDUMP, 40, 41));
}

#[test]
fn the_acknowledgement_that_is_awaited_passes_and_no_other() {
    const AWAITED: u32 = 0x1234_5678;
    let _machine = whole_machine();
    for pids in [&[][..], &[40], &[40, 50, 60]] {
        let filter = Filter::new(&Program::awaiting_answer(pids, AWAITED, LONGEST));
        assert!(filter.passes_acknowledgement(AWAITED), "{pids:?}");
        for other in [0, 1, AWAITED - 1, AWAITED + 1, AWAITED.swap_bytes(), u32::MAX] {
            assert!(!filter.passes_acknowledgement(other), "{other:#x}");
        }
        for pid in [40, 41] {
            assert_eq!(filter.passes_exit(pid), pids.contains(&pid), "{pid} of {pids:?}");
            assert_eq!(filter.passes(COREDUMP, 7, pid), pids.contains(&pid), "{pid} of {pids:?}");
        }
        let filter = Filter::new(&Program::watching(pids, LONGEST));
        assert!(!filter.passes_acknowledgement(AWAITED), "it is awaited no more");
    }
}

/// Whoever listens gets the answers to all requests.
#[test]
fn the_live_connector_gives_each_request_its_own_answer() {
    needs!(Root);
    let _machine = whole_machine();
    let mut connector = listening(&[1]);
    let other = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_CONNECTOR).unwrap();
    for _ in 0..100 {
        for number in 0..10 {
            let listen = kvmd::wire::proc_event::Request::Listen.to_datagram(number);
            other.send(&listen, 0).unwrap();
        }
        assert_eq!(connector.receive().unwrap(), None, "somebody else's");
        connector.ask_again(&[1], clock::now()).unwrap();
        if testbed::kernel_is_at_least(6, 6) {
            assert_eq!(connector.receive().unwrap(), Some(Received::Listening));
        }
        assert_eq!(connector.receive().unwrap(), None);
    }
}

#[test]
fn what_is_too_short_is_dropped() {
    let _machine = whole_machine();
    let filter = Filter::new(&Program::watching(&[40], LONGEST));
    for length in [1, 36, 39] {
        assert!(!filter.passes_bytes(&vec![0; length]), "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn in_whatever_room_no_watched_process_is_dropped(
        pids in prop::collection::btree_set(1u32..30_000, 0..400),
        room in 0usize..LONGEST,
    ) {
        let program = Program::watching(&pids.iter().copied().collect::<Vec<_>>(), room);
        prop_assert!(program.len() <= room.max(pid_filter::SHORTEST));
        let machine = whole_machine();
        let filter = Filter::new(&program);
        drop(machine);
        for &pid in &pids {
            prop_assert!(filter.passes_exit(pid));
        }
        if program.is_exact() {
            for pid in (1..30_000).step_by(7) {
                prop_assert_eq!(filter.passes_exit(pid), pids.contains(&pid));
            }
        }
    }
}

/// `net.core.optmem_max` is the whole machine's: one test at a time may change it or rely on it.
fn whole_machine() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A sysctl set to another value, and put back when dropped.
struct Sysctl {
    path: &'static str,
    before: String,
}

impl Sysctl {
    fn set(path: &'static str, value: &str) -> Self {
        let before = fs::read_to_string(path).unwrap();
        fs::write(path, value).unwrap();
        Self { path, before }
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        fs::write(self.path, &self.before).unwrap();
    }
}

const OPTMEM_MAX: &str = "/proc/sys/net/core/optmem_max";

/// Makes room for filters of full length where there is less. Linux has it since 6.7.
fn room_for_the_longest() -> Option<Sysctl> {
    const ENOUGH: usize = 131_072;
    let room: usize = fs::read_to_string(OPTMEM_MAX).unwrap().trim().parse().unwrap();
    (room < ENOUGH).then(|| Sysctl::set(OPTMEM_MAX, &ENOUGH.to_string()))
}

/// A process that ends when it is told to.
fn waiting_process() -> Child {
    Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

fn listening(pids: &[u32]) -> Connector {
    let mut connector = Connector::open(pids, clock::now()).unwrap();
    loop {
        match connector.receive().unwrap().expect("answered at once") {
            Received::Listening => return connector,
            // Ranges may let a stranger pass, and it may end before the answer.
            Received::Message(ProcMessage::Exit { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn next_message(connector: &mut Connector) -> Received {
    let mut ready = [PollFd::new(connector, PollFlags::IN)];
    let minute = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
    assert_eq!(poll(&mut ready, Some(&minute)).unwrap(), 1, "nothing comes");
    connector.receive().unwrap().unwrap()
}

#[test]
fn the_live_connector_tells_of_the_watched_and_of_nobody_else() {
    needs!(Root);
    let _machine = whole_machine();
    let mut watched = waiting_process();
    let mut connector = listening(&[watched.id()]);
    for _ in 0..200 {
        Command::new("true").status().unwrap();
    }
    assert_eq!(connector.receive().unwrap(), None, "200 strangers");
    watched.kill().unwrap();
    let (pid, status) = (watched.id(), WaitStatus(Signal::KILL.0));
    let expected = ProcMessage::Exit { pid, tgid: pid, status };
    assert_eq!(next_message(&mut connector), Received::Message(expected));
    watched.wait().unwrap();
}

/// A daemon that is killed when it has read, and not written down, has taken nothing away.
#[test]
fn what_was_peeked_at_is_there_for_whoever_has_the_socket_then() {
    needs!(Root);
    let _machine = whole_machine();
    let mut watched = waiting_process();
    let mut connector = listening(&[watched.id()]);
    let mut kept = Connector::adopt(connector.as_fd().try_clone_to_owned().unwrap(), true);
    connector.leave_open();
    watched.kill().unwrap();
    let (pid, status) = (watched.id(), WaitStatus(Signal::KILL.0));
    let expected = Received::Message(ProcMessage::Exit { pid, tgid: pid, status });
    watched.wait().unwrap();
    for _ in 0..2 {
        assert_eq!(connector.peek().unwrap(), Some(expected));
    }
    drop(connector);
    assert_eq!(kept.peek().unwrap(), Some(expected));
    kept.take();
    assert_eq!(kept.peek().unwrap(), None);
    kept.close_with_this();
}

#[test]
fn the_filter_is_replaced_while_it_listens() {
    needs!(Root);
    let _machine = whole_machine();
    let mut connector = listening(&[]);
    for _ in 0..100 {
        let mut child = waiting_process();
        assert_eq!(connector.watch(&[child.id()]).unwrap(), Precision::Exact);
        drop(child.stdin.take());
        let heard = next_message(&mut connector);
        let expected =
            ProcMessage::Exit { pid: child.id(), tgid: child.id(), status: WaitStatus(0) };
        assert_eq!(heard, Received::Message(expected));
        child.wait().unwrap();
    }
}

#[test]
fn with_the_memory_of_an_older_kernel_the_filter_shrinks_by_ranges() {
    needs!(Root);
    let _machine = whole_machine();
    let _small = Sysctl::set(OPTMEM_MAX, "20480");
    let mut child = waiting_process();
    let mut pids: Vec<u32> = Numbers(3).pids(2000).into_iter().collect();
    let mut connector = listening(&pids);
    pids.push(child.id());
    assert_eq!(connector.watch(&pids).unwrap(), Precision::Ranges);
    drop(child.stdin.take());
    loop {
        // A range may let a stranger pass.
        if let Received::Message(ProcMessage::Exit { pid, .. }) = next_message(&mut connector)
            && pid == child.id()
        {
            break;
        }
    }
    child.wait().unwrap();
    assert_eq!(connector.watch(&pids[..10]).unwrap(), Precision::Exact, "few enough again");
}

#[test]
fn a_filter_that_does_not_fit_leaves_the_old_one_in_force() {
    needs!(Root);
    let _machine = whole_machine();
    let filter = Filter::new(&Program::watching(&[40], LONGEST));
    let _small = Sysctl::set(OPTMEM_MAX, "1024");
    let other = watching(&Numbers(4).pids(2000));
    let error = attach_filter(filter.receiver.as_fd(), &other).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
    assert!(filter.passes_exit(40) && !filter.passes_exit(41));
}

#[test]
fn with_no_memory_for_any_filter_everything_passes() {
    needs!(Root);
    let _machine = whole_machine();
    let mut child = waiting_process();
    let mut connector = listening(&[1]);
    {
        let _none = Sysctl::set(OPTMEM_MAX, "1");
        assert_eq!(connector.watch(&[child.id()]).unwrap(), Precision::Unfiltered);
    }
    drop(child.stdin.take());
    loop {
        if let Received::Message(ProcMessage::Exit { pid, .. }) = next_message(&mut connector)
            && pid == child.id()
        {
            break;
        }
    }
    child.wait().unwrap();
    assert_eq!(connector.watch(&[1]).unwrap(), Precision::Exact, "and a filter fits again");
}
