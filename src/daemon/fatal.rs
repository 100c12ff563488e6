//! What the daemon cannot run without.

use std::fmt;
use std::io;

/// The daemon cannot run at all.
#[derive(Debug)]
pub struct FatalError {
    what: &'static str,
    error: io::Error,
}

/// Names what was being done when an error came.
pub(super) fn cannot(what: &'static str) -> impl FnOnce(io::Error) -> FatalError {
    move |error| FatalError { what, error }
}

impl fmt::Display for FatalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cannot {}: {}", self.what, self.error)
    }
}

impl std::error::Error for FatalError {}
