//! What can wake the loop, and the number by which `epoll(7)` names it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::id::Incarnation;

/// What has woken the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    Signals,
    Directory,
    Connector,
    Trace,
    /// Something is written, or there is room again.
    Writer,
    /// A process has been looked into.
    Lookup,
    /// The connection of this life.
    Qmp(Incarnation),
    /// The end of this life's process.
    Pidfd(Incarnation),
}

/// From here on, two numbers belong to each life. See [`Incarnation`] for why they fit.
const FIRST_LIFE: usize = 6;

impl From<Wake> for Token {
    fn from(wake: Wake) -> Self {
        let of = |incarnation: Incarnation| FIRST_LIFE + 2 * incarnation.0 as usize;
        Self(match wake {
            Wake::Signals => 0,
            Wake::Directory => 1,
            Wake::Connector => 2,
            Wake::Trace => 3,
            Wake::Writer => 4,
            Wake::Lookup => 5,
            Wake::Qmp(incarnation) => of(incarnation),
            Wake::Pidfd(incarnation) => of(incarnation) + 1,
        })
    }
}

impl From<Token> for Wake {
    fn from(Token(number): Token) -> Self {
        let incarnation = Incarnation((number.saturating_sub(FIRST_LIFE) / 2) as u64);
        match number {
            0 => Self::Signals,
            1 => Self::Directory,
            2 => Self::Connector,
            3 => Self::Trace,
            4 => Self::Writer,
            5 => Self::Lookup,
            _ if (number - FIRST_LIFE).is_multiple_of(2) => Self::Qmp(incarnation),
            _ => Self::Pidfd(incarnation),
        }
    }
}

impl Wake {
    /// Has the loop woken by this whenever the descriptor becomes readable.
    pub(super) fn register(self, registry: &Registry, descriptor: &impl AsFd) -> io::Result<()> {
        let descriptor = descriptor.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&descriptor), self.into(), Interest::READABLE)
    }
}

/// Has the loop woken by this descriptor no more, even if somebody else keeps a copy of it open.
pub(super) fn deregister(registry: &Registry, descriptor: &impl AsFd) {
    // It fails only for one that was not registered.
    let _ = registry.deregister(&mut SourceFd(&descriptor.as_fd().as_raw_fd()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_wake_has_a_number_of_its_own_and_is_found_by_it() {
        let mut wakes = vec![
            Wake::Signals,
            Wake::Directory,
            Wake::Connector,
            Wake::Trace,
            Wake::Writer,
            Wake::Lookup,
        ];
        for number in [0, 1, 2, 41, (1 << 48) - 1] {
            let incarnation = Incarnation(number);
            wakes.extend([Wake::Qmp(incarnation), Wake::Pidfd(incarnation)]);
        }
        let tokens: HashSet<Token> = wakes.iter().map(|&wake| wake.into()).collect();
        assert_eq!(tokens.len(), wakes.len());
        for wake in wakes {
            assert_eq!(Wake::from(Token::from(wake)), wake);
        }
    }
}
