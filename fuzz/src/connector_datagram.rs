//! The proc connector's datagrams: what is none must not pass for one.

use kvmd::wire::WaitStatus;
use kvmd::wire::proc_event::ProcMessage;

const PROC_EVENT_NONE: u32 = 0;
const PROC_EVENT_COREDUMP: u32 = 0x4000_0000;
const PROC_EVENT_EXIT: u32 = 0x8000_0000;
/// An exit, too. The kernel takes it for a mask only, and says the other.
const PROC_EVENT_NONZERO_EXIT: u32 = 0x2000_0000;

pub fn check(datagram: &[u8]) {
    let by_the_book = by_the_book(datagram);
    match ProcMessage::parse(datagram) {
        Ok(ProcMessage::Other) => {
            let what = by_the_book.expect("only a datagram of the proc connector is one");
            assert_eq!(what, ProcMessage::Other);
        }
        Ok(message) => assert_eq!(Some(message), by_the_book),
        // Of what it does not use it may be particular about the form.
        Err(_) => assert!(matches!(by_the_book, None | Some(ProcMessage::Other))),
    }
}

/// What the datagram says by `linux/netlink.h`, `linux/connector.h` and `linux/cn_proc.h`, without
/// a library in between. An event needs all the bytes that it has in the kernel's union.
fn by_the_book(datagram: &[u8]) -> Option<ProcMessage> {
    const CONNECTOR: (u32, u32) = (1, 1);
    let word = |index: usize| {
        let bytes = datagram.get(index * 4..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes))
    };
    let half = |at: usize| Some(u16::from_ne_bytes(*datagram.get(at..)?.first_chunk()?));
    let length = datagram.len();
    let is_well_formed = (52..=76).contains(&length)
        && word(0)? as usize == length
        && (half(4)?, half(6)?) == (3, 0)
        && (word(4)?, word(5)?) == CONNECTOR
        && usize::from(half(32)?) == length - 36;
    if !is_well_formed {
        return None;
    }
    let (request, what) = (word(7)?, word(9)?);
    let (first, second, third) = (word(13), word(14), word(15));
    Some(match what {
        PROC_EVENT_NONE => ProcMessage::Acknowledged { request, errno: first? },
        PROC_EVENT_EXIT | PROC_EVENT_NONZERO_EXIT => {
            word(18)?;
            let (pid, tgid, status) = (first?, second?, third?);
            ProcMessage::Exit { pid, tgid, status: WaitStatus(status.cast_signed()) }
        }
        PROC_EVENT_COREDUMP => {
            word(16)?;
            ProcMessage::CoreDump { tgid: second? }
        }
        _ => ProcMessage::Other,
    })
}
