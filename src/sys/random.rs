//! Numbers that nobody can guess.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// One of 2³².
pub fn random() -> io::Result<u32> {
    let mut bytes = [0; 4];
    // The kernel gives so few bytes at once, whatever signal comes.
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u32::from_ne_bytes(bytes))
}
