//! The proc connector's datagrams (`linux/cn_proc.h`), in the types of `neli`.
//!
//! One datagram holds one event. What is read here has passed the BPF filter, but must be
//! looked at as if it had not: a filter may name ranges of pids, or be absent.

use std::io::Cursor;

use neli::connector::{CnMsg, CnMsgBuilder, ProcEvent, ProcEventHeader};
use neli::consts::connector::{CnMsgIdx, CnMsgVal, ProcCnMcastOp};
use neli::consts::nl::{NlmF, Nlmsg};
use neli::nl::{NlPayload, NlmsghdrBuilder};
use neli::{FromBytesWithInput, ToBytes};

use super::WaitStatus;

/// The longest datagram, in bytes: `nlmsghdr` 16, `cn_msg` 20, `proc_event` 40. (`proc_event`
/// has not grown since Linux 2.6.15; a longer datagram is none of this connector's.)
pub const LONGEST: usize = 76;

/// The length of `nlmsghdr`.
const NLMSGHDR: usize = 16;

/// The length of `nlmsghdr` and `cn_msg`.
const HEADERS: usize = NLMSGHDR + 20;

/// Where `nlmsghdr` has its type and its flags, and `cn_msg` the length of what follows it.
const NLMSG_TYPE_AT: usize = 4;
const NLMSG_FLAGS_AT: usize = 6;
const CN_MSG_LEN_AT: usize = 32;

/// What a datagram says, as far as it concerns a watched process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcMessage {
    /// The kernel answers a request. Every listener sees every answer: `request` is the
    /// `ack` that the request carried, plus one.
    Acknowledged { request: u32, errno: u32 },
    /// A thread has ended; the process has, only if it was the last one.
    Exit { pid: u32, tgid: u32, status: WaitStatus },
    /// A process is dumping core, or would if it were not for its limit.
    CoreDump { tgid: u32 },
    /// Anything else.
    Other,
}

/// A request to the connector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Listen,
    Ignore,
}

/// The bytes are not a proc connector datagram.
#[derive(Debug)]
pub struct NotAProcEvent;

impl std::fmt::Display for NotAProcEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not a message of the proc connector")
    }
}

impl std::error::Error for NotAProcEvent {}

impl ProcMessage {
    pub fn parse(datagram: &[u8]) -> Result<Self, NotAProcEvent> {
        if !(HEADERS..=LONGEST).contains(&datagram.len()) || !has_true_headers(datagram) {
            return Err(NotAProcEvent);
        }
        let message = &datagram[NLMSGHDR..];
        let connector: CnMsg<ProcEventHeader> =
            CnMsg::from_bytes_with_input(&mut Cursor::new(message), message.len())
                .map_err(|_| NotAProcEvent)?;
        if (connector.idx(), connector.val()) != (&CnMsgIdx::Proc, &CnMsgVal::Proc) {
            return Err(NotAProcEvent);
        }
        Ok(match connector.payload().event {
            ProcEvent::Ack { err } => Self::Acknowledged { request: *connector.ack(), errno: err },
            ProcEvent::Exit { process_pid, process_tgid, exit_code, .. } => Self::Exit {
                pid: process_pid.cast_unsigned(),
                tgid: process_tgid.cast_unsigned(),
                status: WaitStatus(exit_code.cast_signed()),
            },
            ProcEvent::Coredump { process_tgid, .. } => {
                Self::CoreDump { tgid: process_tgid.cast_unsigned() }
            }
            _ => Self::Other,
        })
    }
}

/// Whether both headers say how long the datagram is, and the first that it is a connector's
/// (`NLMSG_DONE`, no flags). `neli` computes with the lengths that a message states before it
/// compares them, so a lie must not reach it.
fn has_true_headers(datagram: &[u8]) -> bool {
    let half = |at: usize| Some(u16::from_ne_bytes(*datagram.get(at..)?.first_chunk()?));
    let whole = datagram.first_chunk().map(|&length| u32::from_ne_bytes(length) as usize);
    whole == Some(datagram.len())
        && half(NLMSG_TYPE_AT) == Some(Nlmsg::Done.into())
        && half(NLMSG_FLAGS_AT) == Some(0)
        && half(CN_MSG_LEN_AT).map(usize::from) == datagram.len().checked_sub(HEADERS)
}

impl Request {
    /// The request as a datagram to the kernel. The kernel's answer carries `number + 1`.
    ///
    /// It has the short form (an operation and no event mask), which every kernel knows and
    /// which is the only one that Linux 6.6 and later acknowledge.
    #[must_use]
    pub fn to_datagram(self, number: u32) -> Vec<u8> {
        let operation = match self {
            Self::Listen => ProcCnMcastOp::Listen,
            Self::Ignore => ProcCnMcastOp::Ignore,
        };
        let mut buffer = Cursor::new(Vec::new());
        // The builders fail only where a field is missing, and a vector takes every write.
        let written = CnMsgBuilder::default()
            .idx(CnMsgIdx::Proc)
            .val(CnMsgVal::Proc)
            .ack(number)
            .payload(operation)
            .build()
            .map(|message| {
                NlmsghdrBuilder::default()
                    .nl_type(Nlmsg::Done)
                    .nl_flags(NlmF::empty())
                    .nl_payload(NlPayload::Payload(message))
                    .build()
                    .map(|datagram| datagram.to_bytes(&mut buffer))
            });
        debug_assert!(matches!(written, Ok(Ok(Ok(())))));
        buffer.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A datagram as the kernel lays it out, from its words after the header.
    fn datagram(ack: u32, what: u32, data: &[u32]) -> Vec<u8> {
        let mut words = vec![76, 3, 0, 0, 1, 1, 7, ack, 40, what, 0, 0, 0];
        words.extend(data);
        words.resize(19, 0);
        words.into_iter().flat_map(u32::to_ne_bytes).collect()
    }

    #[test]
    fn an_exit_carries_the_wait_status_not_the_signal_to_the_parent() {
        let killed = datagram(0, 0x8000_0000, &[41, 40, 9, 17, 1, 1]);
        let expected = ProcMessage::Exit { pid: 41, tgid: 40, status: WaitStatus(9) };
        assert_eq!(ProcMessage::parse(&killed).unwrap(), expected);
    }

    #[test]
    fn a_core_dump_names_the_process() {
        let dumping = datagram(0, 0x4000_0000, &[41, 40, 1, 1]);
        assert_eq!(ProcMessage::parse(&dumping).unwrap(), ProcMessage::CoreDump { tgid: 40 });
    }

    #[test]
    fn an_acknowledgement_names_its_request() {
        let acknowledged = datagram(6, 0, &[1]);
        let expected = ProcMessage::Acknowledged { request: 6, errno: 1 };
        assert_eq!(ProcMessage::parse(&acknowledged).unwrap(), expected);
    }

    #[test]
    fn what_is_not_the_kernels_is_refused() {
        let exit = || datagram(0, 0x8000_0000, &[41, 40, 9, 17, 1, 1]);
        assert!(ProcMessage::parse(&exit()).is_ok());
        let (overrun, flagged, of_others) =
            (2u16.to_ne_bytes(), 1u16.to_ne_bytes(), 9u32.to_ne_bytes());
        for (what, at, bytes) in [
            ("one byte longer than it is", 0, &77u32.to_ne_bytes()[..]),
            ("not the last of its kind", NLMSG_TYPE_AT, &overrun),
            ("flagged", NLMSG_FLAGS_AT, &flagged),
            ("of another index", 16, &of_others),
            ("of another value", 20, &of_others),
            ("with a shorter content", CN_MSG_LEN_AT, &39u16.to_ne_bytes()),
        ] {
            let mut datagram = exit();
            datagram[at..][..bytes.len()].copy_from_slice(bytes);
            let refused = ProcMessage::parse(&datagram).expect_err(what);
            assert_eq!(refused.to_string(), "not a message of the proc connector");
        }
    }

    #[test]
    fn a_datagram_is_as_long_as_its_event_and_no_longer() {
        let of_length = |length: usize| {
            let mut datagram = datagram(0, 0x8000_0000, &[41, 40, 9, 17, 1, 1]);
            datagram.resize(length, 0);
            datagram[..4].copy_from_slice(&(length as u32).to_ne_bytes());
            let content = length.saturating_sub(HEADERS) as u16;
            datagram[CN_MSG_LEN_AT..][..2].copy_from_slice(&content.to_ne_bytes());
            ProcMessage::parse(&datagram)
        };
        assert!(of_length(LONGEST).is_ok());
        // One that ends within its headers, and is right as far as it goes.
        let cut = |length: usize| {
            let mut datagram = datagram(0, 0x8000_0000, &[41, 40, 9, 17, 1, 1]);
            datagram.truncate(length);
            if let Some(stated) = datagram.first_chunk_mut() {
                *stated = (length as u32).to_ne_bytes();
            }
            ProcMessage::parse(&datagram)
        };
        for length in 0..HEADERS {
            assert!(cut(length).is_err(), "{length}");
        }
        for length in (HEADERS..HEADERS + 16).chain([LONGEST + 1]) {
            assert!(of_length(length).is_err(), "{length}");
        }
    }

    #[test]
    fn listen_has_the_short_form() {
        let request = Request::Listen.to_datagram(5);
        assert_eq!(request.len(), 40);
        let words: Vec<u32> =
            request.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words, [40, 3, 0, 0, 1, 1, 0, 5, 4, 1]);
    }

    proptest! {
        #[test]
        fn no_datagram_makes_the_parser_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..100),
            whole in prop::sample::select(vec![0u32, 16, 20, 36, 52, 76, 80, u32::MAX]),
            inner in prop::sample::select(vec![0u16, 4, 15, 16, 20, 40, 41, u16::MAX]),
            lengths_are_true: bool,
            kind in 2usize..5,
        ) {
            if bytes.len() >= HEADERS + 4 {
                let (whole, inner) = if lengths_are_true {
                    (bytes.len() as u32, (bytes.len() - HEADERS) as u16)
                } else {
                    (whole, inner)
                };
                bytes[..4].copy_from_slice(&whole.to_ne_bytes());
                bytes[4..8].copy_from_slice(&(kind as u32).to_ne_bytes());
                bytes[16..20].copy_from_slice(&1u32.to_ne_bytes());
                bytes[20..24].copy_from_slice(&1u32.to_ne_bytes());
                bytes[CN_MSG_LEN_AT..][..2].copy_from_slice(&inner.to_ne_bytes());
                bytes[HEADERS..HEADERS + 4].copy_from_slice(&(1u32 << (kind * 7)).to_ne_bytes());
            }
            let _ = ProcMessage::parse(&bytes);
        }
    }
}
