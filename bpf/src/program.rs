//! The program: which datagrams of the proc connector pass.
//!
//! Passed are the EXIT of a thread-group leader that is watched, the COREDUMP of any thread of a
//! watched process, and, while one is awaited, the acknowledgement of one request. Pids are
//! compared in a balanced tree, so that the longest program answers after a few dozen instructions.

use std::fmt;
use std::ops::{Deref, RangeInclusive};

use crate::ranges::cover;

/// The most instructions that the kernel takes in one classic BPF program
/// (`BPF_MAXINSNS` in `linux/bpf_common.h`).
pub const LONGEST: usize = 4096;

/// The fewest instructions that [`Program::watching`] can do with: one range of pids.
pub const SHORTEST: usize = LONGEST_PROLOGUE + tree_length(1) + LOWER_BOUND;

/// What a program returns to keep a datagram: as many bytes of it as there are.
pub const ACCEPT: u32 = u32::MAX;
/// What a program returns to have a datagram dropped.
pub const DROP: u32 = 0;

/// Offsets into a proc connector datagram: `struct nlmsghdr` (16 bytes), `struct cn_msg`
/// (20), `struct proc_event` (`linux/netlink.h`, `linux/connector.h`, `linux/cn_proc.h`).
mod offset {
    pub(super) const ACK: u32 = 28;
    pub(super) const WHAT: u32 = 36;
    pub(super) const PROCESS_PID: u32 = 52;
    pub(super) const PROCESS_TGID: u32 = 56;
}

/// Values of `proc_event.what` (`linux/cn_proc.h`).
mod what {
    pub(super) const NONE: u32 = 0;
    pub(super) const COREDUMP: u32 = 0x4000_0000;
    pub(super) const EXIT: u32 = 0x8000_0000;
}

/// Operation codes (`linux/filter.h`, `linux/bpf_common.h`).
mod code {
    pub(super) const LD_W_ABS: u16 = 0x20;
    pub(super) const LD_MEM: u16 = 0x60;
    pub(super) const ST: u16 = 0x02;
    pub(super) const TAX: u16 = 0x07;
    pub(super) const LSH_K: u16 = 0x64;
    pub(super) const RSH_K: u16 = 0x74;
    pub(super) const AND_K: u16 = 0x54;
    pub(super) const OR_X: u16 = 0x4c;
    pub(super) const JA: u16 = 0x05;
    pub(super) const JEQ_K: u16 = 0x15;
    pub(super) const JGT_K: u16 = 0x25;
    pub(super) const JGE_K: u16 = 0x35;
    pub(super) const JEQ_X: u16 = 0x1d;
    pub(super) const RET_K: u16 = 0x06;
}

/// One instruction, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    /// Instructions to skip if the comparison holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    pub k: u32,
}

/// A filter for the proc connector, ready to be attached with `SO_ATTACH_FILTER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
    exact: bool,
}

impl Program {
    /// Lets pass what concerns `pids`, in at most `room` instructions.
    ///
    /// Where `room` is too small to name every pid, neighbours share a range: the program
    /// then lets pass a few strangers, and never drops a watched process. `room` is taken
    /// as between [`SHORTEST`] and [`LONGEST`]. No pid at all gives the shortest program: nothing
    /// passes.
    #[must_use]
    pub fn watching(pids: &[u32], room: usize) -> Self {
        Self::new(pids, None, room)
    }

    /// As [`Program::watching`], and lets pass the kernel's answer to one request: the
    /// acknowledgement with this `cn_msg.ack`, and no other.
    ///
    /// From Linux 6.6 on anybody may ask the kernel, as often as he likes, and its answer goes to
    /// everybody who listens. With a number that cannot be guessed, for as long as the request
    /// takes, nobody else's answers pass.
    #[must_use]
    pub fn awaiting_answer(pids: &[u32], ack: u32, room: usize) -> Self {
        Self::new(pids, Some(ack), room)
    }

    fn new(pids: &[u32], ack: Option<u32>, room: usize) -> Self {
        let room = room.clamp(SHORTEST, LONGEST);
        let ranges = cover(pids, most_ranges(room));
        let mut instructions = Vec::with_capacity(room.min(4 * ranges.len() + SHORTEST));
        instructions.push(instruction(code::LD_W_ABS, offset::WHAT));
        if ranges.is_empty() {
            instructions.extend(other_kinds(ack));
        } else {
            prologue(&mut instructions, ack);
            tree(&mut instructions, &ranges, Some(*ranges[0].start()));
        }
        let covered: u64 = ranges.iter().map(|r| u64::from(r.end() - r.start()) + 1).sum();
        let exact = covered <= pids.len() as u64;
        Self { instructions, exact }
    }

    /// Whether every pid is compared for itself: nothing but the watched processes passes.
    /// (Said only of pids given once each.)
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.exact
    }
}

impl Deref for Program {
    type Target = [Instruction];

    fn deref(&self) -> &[Instruction] {
        &self.instructions
    }
}

const fn instruction(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// A value as a 32-bit load sees it: the interpreter reads words in network order, the
/// kernel wrote them in the order of this machine.
const fn loaded(value: u32) -> u32 {
    value.to_be()
}

/// Decides on what is the end of no process, with its kind in the accumulator.
fn other_kinds(ack: Option<u32>) -> Vec<Instruction> {
    let drop = instruction(code::RET_K, DROP);
    let Some(ack) = ack else { return vec![drop] };
    vec![
        jump(code::JEQ_K, loaded(what::NONE), 0, 3),
        instruction(code::LD_W_ABS, offset::ACK),
        jump(code::JEQ_K, loaded(ack), 0, 1),
        instruction(code::RET_K, ACCEPT),
        drop,
    ]
}

/// How many instructions that are at most.
const LONGEST_OTHER_KINDS: usize = 5;

/// Instructions that put a loaded word into this machine's byte order: none on a
/// big-endian one.
const TO_NATIVE_ORDER: [Instruction; if cfg!(target_endian = "little") { 16 } else { 0 }] = {
    let mut steps =
        [instruction(code::TAX, 0); if cfg!(target_endian = "little") { 16 } else { 0 }];
    if cfg!(target_endian = "little") {
        // The lowest byte of the pid arrives as the highest; X collects what is done.
        steps[0] = instruction(code::ST, 0);
        steps[1] = instruction(code::RSH_K, 24);
        steps[2] = instruction(code::TAX, 0);
        steps[3] = instruction(code::LD_MEM, 0);
        steps[4] = instruction(code::RSH_K, 8);
        steps[5] = instruction(code::AND_K, 0x0000_ff00);
        steps[6] = instruction(code::OR_X, 0);
        steps[7] = instruction(code::TAX, 0);
        steps[8] = instruction(code::LD_MEM, 0);
        steps[9] = instruction(code::LSH_K, 8);
        steps[10] = instruction(code::AND_K, 0x00ff_0000);
        steps[11] = instruction(code::OR_X, 0);
        steps[12] = instruction(code::TAX, 0);
        steps[13] = instruction(code::LD_MEM, 0);
        steps[14] = instruction(code::LSH_K, 24);
        steps[15] = instruction(code::OR_X, 0);
    }
    steps
};

/// Leaves the thread group id in the accumulator, as it is loaded.
const THREAD_GROUP: [Instruction; 6] = [
    // EXIT: every thread sends one, only the leader's pid equals its thread group's.
    instruction(code::LD_W_ABS, offset::PROCESS_PID),
    instruction(code::TAX, 0),
    instruction(code::LD_W_ABS, offset::PROCESS_TGID),
    jump(code::JEQ_X, 0, 2, 0),
    instruction(code::RET_K, DROP),
    // COREDUMP: the thread that dumps speaks for its process.
    instruction(code::LD_W_ABS, offset::PROCESS_TGID),
];

/// Where in [`THREAD_GROUP`] the decision on a COREDUMP begins.
const COREDUMP_AT: usize = THREAD_GROUP.len() - 1;

/// The load of the event's kind and two comparisons; see [`prologue`].
const LONGEST_PROLOGUE: usize =
    3 + LONGEST_OTHER_KINDS + THREAD_GROUP.len() + TO_NATIVE_ORDER.len();

/// Decides by the kind of event, which is in the accumulator, and leaves there the thread group id
/// in this machine's byte order.
fn prologue(out: &mut Vec<Instruction>, ack: Option<u32>) {
    let other_kinds = other_kinds(ack);
    let exit = other_kinds.len() + 1;
    let coredump = other_kinds.len() + COREDUMP_AT;
    out.push(jump(code::JEQ_K, loaded(what::EXIT), short(exit), 0));
    out.push(jump(code::JEQ_K, loaded(what::COREDUMP), short(coredump), 0));
    out.extend(other_kinds);
    out.extend(THREAD_GROUP);
    out.extend(TO_NATIVE_ORDER);
}

/// As many ranges as share one pair of RET instructions: every comparison among them must
/// reach the pair with an 8-bit jump, past the one extra instruction of [`LOWER_BOUND`].
const BLOCK: usize = 126;
/// The very first range is bounded from below by an instruction of its own; every other by
/// the comparison that led to it.
const LOWER_BOUND: usize = 1;

/// Length of the tree over `ranges` ranges, without [`LOWER_BOUND`].
const fn tree_length(ranges: usize) -> usize {
    if ranges <= BLOCK {
        // A comparison a range, one between each two of them, and the pair of RETs.
        2 * ranges - 1 + 2
    } else {
        // A comparison and a long jump, then the halves.
        2 + tree_length(ranges / 2) + tree_length(ranges - ranges / 2)
    }
}

/// The most ranges whose program has at most `room` instructions.
fn most_ranges(room: usize) -> usize {
    let fits = |ranges: usize| LONGEST_PROLOGUE + tree_length(ranges) + LOWER_BOUND <= room;
    // A range takes two instructions at least, so that the answer lies below room / 2.
    let (mut fitting, mut too_many) = (1, room / 2 + 1);
    while too_many - fitting > 1 {
        let middle = fitting.midpoint(too_many);
        if fits(middle) { fitting = middle } else { too_many = middle }
    }
    fitting
}

/// Emits the comparison of the accumulator against `ranges`, ending in RET on every path.
///
/// The accumulator is known not to be below the first range, but where `lower_bound` is
/// given: there it is compared.
fn tree(out: &mut Vec<Instruction>, ranges: &[RangeInclusive<u32>], lower_bound: Option<u32>) {
    if ranges.len() <= BLOCK {
        let end = out.len() + tree_length(ranges.len()) + usize::from(lower_bound.is_some());
        block(out, ranges, lower_bound, end - 2);
        out.extend([instruction(code::RET_K, ACCEPT), instruction(code::RET_K, DROP)]);
        return;
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let left_length = tree_length(left.len()) + usize::from(lower_bound.is_some());
    out.push(jump(code::JGE_K, *right[0].start(), 0, 1));
    out.push(instruction(code::JA, distance(left_length)));
    tree(out, left, lower_bound);
    tree(out, right, None);
}

/// As [`tree`], within reach of the RET pair at `accept` and `accept + 1`.
fn block(
    out: &mut Vec<Instruction>,
    ranges: &[RangeInclusive<u32>],
    lower_bound: Option<u32>,
    accept: usize,
) {
    if let [range] = ranges {
        if let Some(start) = lower_bound {
            let to_drop = accept + 1 - (out.len() + 1);
            out.push(jump(code::JGE_K, start, 0, short(to_drop)));
        }
        let to_accept = accept - (out.len() + 1);
        out.push(jump(code::JGT_K, *range.end(), short(to_accept + 1), short(to_accept)));
        return;
    }
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let left_length = 2 * left.len() - 1 + usize::from(lower_bound.is_some());
    out.push(jump(code::JGE_K, *right[0].start(), short(left_length), 0));
    block(out, left, lower_bound, accept);
    block(out, right, None, accept);
}

/// A conditional jump's distance. [`BLOCK`] keeps it within eight bits.
fn short(distance: usize) -> u8 {
    debug_assert!(u8::try_from(distance).is_ok());
    distance as u8
}

/// A long jump's distance, at most [`LONGEST`].
fn distance(instructions: usize) -> u32 {
    debug_assert!(instructions <= LONGEST);
    instructions as u32
}

/// A listing, one instruction a line, with the notation of the kernel's
/// `Documentation/networking/filter.rst`; jumps name the line they lead to.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (line, instruction) in self.iter().enumerate() {
            let Instruction { code, jt, jf, k } = *instruction;
            let next = line + 1;
            write!(f, "{line:4}: ")?;
            match code {
                code::LD_W_ABS => writeln!(f, "ld   [{k}]")?,
                code::LD_MEM => writeln!(f, "ld   M[{k}]")?,
                code::ST => writeln!(f, "st   M[{k}]")?,
                code::TAX => writeln!(f, "tax")?,
                code::LSH_K => writeln!(f, "lsh  #{k}")?,
                code::RSH_K => writeln!(f, "rsh  #{k}")?,
                code::AND_K => writeln!(f, "and  #{k:#010x}")?,
                code::OR_X => writeln!(f, "or   x")?,
                code::JA => writeln!(f, "ja   {}", next + k as usize)?,
                code::RET_K if k == DROP => writeln!(f, "ret  #0")?,
                code::RET_K => writeln!(f, "ret  #{k:#x}")?,
                _ => {
                    let (name, operand) = match code {
                        code::JEQ_X => ("jeq", "x".to_string()),
                        code::JEQ_K => ("jeq", format!("#{k:#010x}")),
                        code::JGT_K => ("jgt", format!("#{k}")),
                        code::JGE_K => ("jge", format!("#{k}")),
                        _ => ("?", format!("#{k}")),
                    };
                    let (yes, no) = (next + usize::from(jt), next + usize::from(jf));
                    writeln!(f, "{name}  {operand}, {yes}, {no}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows every jump: none may lead backwards (they cannot) or out of the program.
    fn ends_on_every_path(program: &Program) -> bool {
        program.iter().enumerate().all(|(line, instruction)| {
            let next = line + 1;
            let targets = match instruction.code {
                code::RET_K => return true,
                code::JA => vec![next + instruction.k as usize],
                code::JEQ_K | code::JGT_K | code::JGE_K | code::JEQ_X => {
                    vec![next + usize::from(instruction.jt), next + usize::from(instruction.jf)]
                }
                _ => vec![next],
            };
            targets.into_iter().all(|target| target < program.len())
        })
    }

    fn spread(count: u32) -> Vec<u32> {
        (1..=count).map(|pid| pid * 100).collect()
    }

    #[test]
    fn the_length_is_what_was_reckoned() {
        for count in [1, 2, 3, 125, 126, 127, 252, 253, 1000, 2000] {
            let program = Program::awaiting_answer(&spread(count), 7, LONGEST);
            let reckoned = LONGEST_PROLOGUE + tree_length(count as usize) + LOWER_BOUND;
            assert_eq!(program.len(), reckoned, "{count}");
            assert!(ends_on_every_path(&program), "{count}");
            let program = Program::watching(&spread(count), LONGEST);
            assert_eq!(program.len(), reckoned - LONGEST_OTHER_KINDS + 1, "{count}");
            assert!(ends_on_every_path(&program), "{count}");
        }
    }

    #[test]
    fn two_thousand_pids_are_named_one_by_one() {
        assert!(Program::watching(&spread(2000), LONGEST).is_exact());
    }

    #[test]
    fn in_any_room_the_program_fits() {
        for room in (0..LONGEST + 100).step_by(37) {
            for program in [
                Program::watching(&spread(3000), room),
                Program::awaiting_answer(&spread(3000), 7, room),
            ] {
                assert!(program.len() <= room.clamp(SHORTEST, LONGEST), "{room}");
                assert!(ends_on_every_path(&program), "{room}");
            }
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_listings_in_the_readme_are_true() {
        let readme = include_str!("../README.md");
        for program in [
            Program::watching(&[4242, 5000, 5001, 5002, 70_000], LONGEST),
            Program::awaiting_answer(&[], 0x1234_5678, LONGEST),
        ] {
            assert!(readme.contains(&program.to_string()), "README.md should have:\n{program}");
        }
    }
}
