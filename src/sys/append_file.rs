//! A file of lines that grows, is rotated by others, and lies on a disk that may be full, in a
//! directory where others may write.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::plain_file::open_own;

/// A file to which whole lines are appended.
#[derive(Debug)]
pub struct AppendFile {
    path: PathBuf,
    mode: u32,
    /// Absent while it cannot be opened.
    file: Option<File>,
    /// The file ends in a part of a line: there was no room for the rest, or whoever wrote it
    /// was killed.
    is_torn: bool,
}

impl AppendFile {
    /// The file at `path`, which is not opened yet. Where it is created, it gets what the umask
    /// leaves of `mode`.
    #[must_use]
    pub fn new(path: &Path, mode: u32) -> Self {
        Self { path: path.to_path_buf(), mode, file: None, is_torn: false }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Opens the file, or opens it anew, as after its rotation. On an error the old one stays in
    /// use.
    pub fn open(&mut self) -> io::Result<()> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE;
        let file = open_own(&self.path, flags, Mode::from_raw_mode(self.mode))?;
        let mut last = [0];
        let end = file.metadata()?.len().checked_sub(1);
        self.is_torn =
            end.is_some_and(|at| file.read_exact_at(&mut last, at).is_ok()) && last != *b"\n";
        self.file = Some(file);
        Ok(())
    }

    /// Writes the line, which ends in a line feed, with one call, so that no other process's line
    /// can come between. Where only a part of a line is there, that gets its line feed first.
    ///
    /// An error, if not all of it was written; the next line will be tried all the same.
    pub fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        if self.is_torn {
            write_whole(file, b"\n")?;
            self.is_torn = false;
        }
        let written = file.write(line)?;
        self.is_torn = 0 < written && written < line.len();
        if written < line.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

fn write_whole(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    match file.write(bytes)? {
        written if written == bytes.len() => Ok(()),
        _ => Err(io::ErrorKind::StorageFull.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(path: &Path) -> AppendFile {
        let mut output = AppendFile::new(path, 0o640);
        output.open().unwrap();
        output
    }

    #[test]
    fn a_torn_line_does_not_spoil_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut output = opened(&path);
        output.write_line(b"first\n").unwrap();
        // Only a part of a line had fitted; whoever wrote it was killed.
        output.file.as_mut().unwrap().write_all(b"sec").unwrap();
        let mut output = opened(&path);
        output.write_line(b"third\n").unwrap();
        output.write_line(b"fourth\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first\nsec\nthird\nfourth\n");
    }

    #[test]
    fn after_a_rotation_lines_go_to_the_new_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut output = opened(&path);
        output.write_line(b"old\n").unwrap();
        std::fs::rename(&path, directory.path().join("log.1")).unwrap();
        output.open().unwrap();
        output.write_line(b"new\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
    }

    #[test]
    fn what_cannot_be_opened_is_an_error_and_can_be_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("not there").join("log");
        let mut output = AppendFile::new(&path, 0o640);
        assert!(output.open().is_err());
        assert!(output.write_line(b"lost\n").is_err());
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        output.open().unwrap();
        output.write_line(b"kept\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept\n");
    }
}
