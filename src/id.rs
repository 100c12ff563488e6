//! The words that every room uses: which instance, which of its lives, which process, when.
//!
//! Plain values. Nothing here may know how they are found or what follows from them.

use std::fmt;
use std::ops::Add;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::wire::Quoted;

/// A point in time: what `CLOCK_MONOTONIC` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
pub struct Moment(pub Duration);

impl Moment {
    /// Before everything that this boot of the machine has seen.
    pub const START: Self = Self(Duration::ZERO);

    /// So long before this one.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }

    /// The time from `earlier` until now; none if that lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// An instance's name, as it is spelt in the control directory: any bytes but `/` and NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Name(Arc<[u8]>);

impl Name {
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for Name {
    type Error = &'static str;

    /// It is to become a file's name.
    fn try_from(bytes: Vec<u8>) -> Result<Self, Self::Error> {
        if bytes.is_empty() || bytes.contains(&b'/') || bytes.contains(&0) {
            return Err("no file can have this name");
        }
        Ok(Self::new(&bytes))
    }
}

impl From<Name> for Vec<u8> {
    fn from(name: Name) -> Self {
        name.0.to_vec()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Quoted(&self.0).fmt(f)
    }
}

/// The inode of a `.kvmd` socket. A socket that is bound again has another one, as long as
/// the first is held open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Inode(pub u64);

/// One life of an instance. Never used twice, so that what belongs to one life can never be
/// taken for the next one's.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "u64")]
pub struct Incarnation(pub u64);

impl TryFrom<u64> for Incarnation {
    type Error = &'static str;

    /// There has to be a next one, and room for two descriptors of each.
    fn try_from(number: u64) -> Result<Self, Self::Error> {
        if number >> 48 != 0 {
            return Err("no daemon can have counted so many instances");
        }
        Ok(Self(number))
    }
}

/// A process, told apart from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Process {
    pub pid: u32,
    /// In clock ticks since boot: field 22 of `/proc/PID/stat`, see proc(5).
    pub started: u64,
}
