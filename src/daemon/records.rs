//! The file of exit records, as the daemon keeps it.

use std::path::Path;

use log::error;

use crate::sys::append_file::AppendFile;
use crate::wire::record::Record;

/// Readable for Ganeti's group, not for everybody: command lines may hold secrets.
const MODE: u32 = 0o640;

/// The file of records.
pub(super) struct Records {
    file: AppendFile,
}

impl Records {
    /// Opens the file. If that fails it is logged, and tried again at the next SIGHUP.
    pub(super) fn open(path: &Path) -> Self {
        let mut file = AppendFile::new(path, MODE);
        if let Err(error) = file.open() {
            error!(
                "Cannot open {}: {error}; until a SIGHUP, ends are reported in the log only",
                path.display()
            );
        }
        Self { file }
    }

    /// Opens the file anew, as after its rotation.
    pub(super) fn reopen(&mut self) {
        if let Err(error) = self.file.open() {
            error!("Cannot reopen {}: {error}", self.file.path().display());
        }
    }

    /// Writes this end down, and returns whether it is.
    pub(super) fn write(&mut self, record: &Record) -> bool {
        let written = self.file.write_line(&record.to_line());
        if let Err(error) = &written
            && self.file.file().is_some()
        {
            error!("Cannot write to {}: {error}", self.file.path().display());
        }
        written.is_ok()
    }
}
