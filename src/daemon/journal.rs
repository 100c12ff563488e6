//! The journal, as the daemon keeps it: what it does not take in is counted, and the log says so.

use std::path::Path;

use log::warn;

use crate::account;
use crate::log::PROGRAM;
use crate::sys::journal;
use crate::verdict::Death;
use crate::wire::record::Record;

/// The journal, if there is one.
pub(super) struct Journal {
    journal: Option<journal::Journal>,
    /// So many ends it did not take in, the latest ones.
    missing: u64,
}

impl Journal {
    /// The one at this path. Where there is none, nothing is said, now or later.
    pub(super) fn open(path: &Path) -> Self {
        Self { journal: journal::Journal::open(path), missing: 0 }
    }

    /// Whether it has the end from now on.
    pub(super) fn write(&mut self, death: &Death, record: &Record) -> bool {
        let Some(journal) = &mut self.journal else { return false };
        let level = account::journal::level(death.verdict.initiator);
        let entry = account::journal::entry(PROGRAM, level, death, death, record);
        match journal.send(&entry) {
            Ok(()) => {
                if self.missing > 0 {
                    let missing = std::mem::take(&mut self.missing);
                    warn!("The journal takes ends in again; {missing} are missing there");
                }
                true
            }
            Err(error) => {
                if self.missing == 0 {
                    warn!(
                        "The journal at {} takes nothing in ({error}): until it does, ends are in the log and in the records only",
                        journal.path().display()
                    );
                }
                self.missing += 1;
                false
            }
        }
    }
}
