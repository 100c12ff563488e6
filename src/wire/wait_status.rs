//! How a process ended, as `wait(2)` and the proc connector report it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A raw wait status: the low seven bits are the signal that the process died *by* (0 if it
/// exited), 0x80 says that core was dumped, the next eight bits are the exit code.
///
/// A QEMU that was told to go with SIGTERM catches it and exits with 0: that signal is not
/// to be found here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct WaitStatus(pub i32);

impl WaitStatus {
    /// The exit code, 0 to 255, or nothing if a signal ended the process.
    #[must_use]
    pub fn code(self) -> Option<i32> {
        self.signal().is_none().then_some((self.0 >> 8) & 0xff)
    }

    /// The signal that ended the process, or nothing if it exited.
    #[must_use]
    pub fn signal(self) -> Option<Signal> {
        Some(self.0 & 0x7f).filter(|&number| number != 0).map(Signal)
    }

    #[must_use]
    pub fn core_dumped(self) -> bool {
        self.signal().is_some() && self.0 & 0x80 != 0
    }
}

/// Whether the kernel keeps the status of a process that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StatusAnswer {
    Known(WaitStatus),
    /// It will once the process has been reaped; then `Said::Died` comes once more.
    NotYet,
    #[default]
    Never,
}

impl fmt::Display for WaitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.signal(), self.code()) {
            (Some(signal), _) if self.core_dumped() => write!(f, "{signal} (core dumped)"),
            (Some(signal), _) => signal.fmt(f),
            (None, code) => write!(f, "exit status {}", code.unwrap_or_default()),
        }
    }
}

/// A signal's number, 1 to 64 (`signal(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Signal(pub i32);

/// The numbers of `asm-generic/signal.h`, from 1 on, which every architecture that runs KVM shares
/// (MIPS numbers some of them differently).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The last there is.
const LAST: i32 = 64;

impl Signal {
    pub const HUP: Self = Self(1);
    pub const INT: Self = Self(2);
    pub const QUIT: Self = Self(3);
    pub const KILL: Self = Self(9);
    pub const USR1: Self = Self(10);
    pub const USR2: Self = Self(12);
    pub const TERM: Self = Self(15);
    pub const CHLD: Self = Self(17);
    /// SIGRTMIN as a program that is linked with glibc knows it, systemd among them (glibc keeps the
    /// two before it for itself).
    pub const REAL_TIME: Self = Self(34);

    /// Whether this is one of the signals that QEMU takes as a request to end in good order.
    #[must_use]
    pub fn asks_to_end(self) -> bool {
        matches!(self, Self::TERM | Self::INT | Self::HUP)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = self.0.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        let name = index.and_then(|index| NAMES.get(index));
        match name {
            Some(name) => write!(f, "SIG{name}"),
            None if *self == Self::REAL_TIME => f.write_str("SIGRTMIN"),
            None if (Self::REAL_TIME.0..=LAST).contains(&self.0) => {
                write!(f, "SIGRTMIN+{}", self.0 - Self::REAL_TIME.0)
            }
            None => write!(f, "signal {}", self.0),
        }
    }
}

/// There is no signal of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchSignal;

impl FromStr for Signal {
    type Err = NoSuchSignal;

    /// `TERM`, `SIGTERM`, `RTMIN+3`, `RTMAX-1` or `15`.
    fn from_str(text: &str) -> Result<Self, NoSuchSignal> {
        let number = |text: &str| -> Option<i32> {
            text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let name = text.strip_prefix("SIG").unwrap_or(text);
        let real_time = |prefix: &str, sign: char| match name.strip_prefix(prefix)? {
            "" => Some(0),
            offset => offset.strip_prefix(sign).and_then(number),
        };
        let by_name =
            || (1..).zip(NAMES).find(|(_, known)| *known == name).map(|(number, _)| number);
        let signal = number(text)
            .or_else(by_name)
            .or_else(|| real_time("RTMIN", '+')?.checked_add(Self::REAL_TIME.0))
            .or_else(|| {
                Some(LAST - real_time("RTMAX", '-').filter(|&n| LAST - n >= Self::REAL_TIME.0)?)
            });
        let exists =
            |number: &i32| (1..=31).contains(number) || (Self::REAL_TIME.0..=LAST).contains(number);
        signal.filter(exists).map(Self).ok_or(NoSuchSignal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_as_the_kernel_reports_them() {
        assert_eq!(WaitStatus(0).to_string(), "exit status 0");
        assert_eq!(WaitStatus(0x300).code(), Some(3));
        assert_eq!(WaitStatus(0x9).signal(), Some(Signal::KILL));
        assert_eq!(WaitStatus(0x9).code(), None);
        assert_eq!(WaitStatus(0x8b).to_string(), "SIGSEGV (core dumped)");
        assert_eq!(WaitStatus(0x22).to_string(), "SIGRTMIN");
        assert_eq!(WaitStatus(0x20).to_string(), "signal 32");
        // As a damaged state file has it.
        for number in [i32::MIN, 0, 65] {
            assert_eq!(Signal(number).to_string(), format!("signal {number}"));
        }
    }

    /// `os_setup_signal_handling` in its `os-posix.c`.
    #[test]
    fn qemu_catches_three_signals_and_ends_in_good_order() {
        let caught = (1..=64).map(Signal).filter(|signal| signal.asks_to_end());
        assert!(caught.eq([Signal::HUP, Signal::INT, Signal::TERM]));
    }

    #[test]
    fn a_signal_has_names_and_a_number() {
        for number in (1..=31).chain(34..=64) {
            let signal = Signal(number);
            assert_eq!(signal.to_string().parse(), Ok(signal), "{signal}");
            assert_eq!(number.to_string().parse(), Ok(signal));
        }
        for (name, number) in
            [("TERM", 15), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("RTMAX", 64), ("RTMAX-14", 50)]
        {
            assert_eq!(name.parse(), Ok(Signal(number)), "{name}");
        }
        for none in [
            "",
            "SIG",
            "term",
            "0",
            "32",
            "65",
            "-1",
            "+15",
            "RTMIN+31",
            "RTMIN-1",
            "RTMAX-31",
            // Not the 31st.
            "RTMAX-33",
            "RTMIN+99999999999",
        ] {
            assert_eq!(none.parse::<Signal>(), Err(NoSuchSignal), "{none}");
        }
    }
}
