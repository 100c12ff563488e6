//! The state file: a journal of what is known of each life, so that the next daemon goes on.
//!
//! Its first line says of which boot of the machine it is; each further one is an entry. What has
//! changed is appended with one call, and now and then the whole is written anew. A line without
//! its end was being written when the daemon was killed: nobody has acted on it yet.
//!
//! What is worth an entry, and what the entries mean, `verdict` decides.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sys::plain_file;
use crate::sys::replaced_file::replace;
use crate::verdict::{Entry, Memory};
use crate::wire::Shown;

/// The version of the file's form. Another one is not read.
const VERSION: u32 = 3;

/// Nobody else's business.
const MODE: u32 = 0o600;

/// It is written anew when it has so many lines, and ...
const FEWEST_LINES: usize = 1024;
/// ... so many for each life.
const LINES_FOR_EACH: usize = 4;

/// The most that is read of it, in bytes: some kilobytes for each of ten thousand lives.
const LONGEST: usize = 64 << 20;

/// So much of the memory for what is written is kept from one time to the next, in bytes.
const ROOM_KEPT: usize = 4096;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head<'a> {
    version: u32,
    boot: Cow<'a, str>,
}

/// The file is not what this version writes.
#[derive(Debug)]
pub struct NotSaved {
    line: usize,
    error: serde_json::Error,
}

impl fmt::Display for NotSaved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It quotes what it has found.
        let error = self.error.to_string();
        write!(f, "not what this version writes: line {}: {}", self.line, Shown(&error))
    }
}

impl std::error::Error for NotSaved {}

/// What the text of a state file tells whoever runs on the boot `boot`; nothing if it is of
/// another one, or of another version.
pub fn recall(text: &[u8], boot: &str) -> Result<Option<Memory>, NotSaved> {
    fn parse<'a, T: Deserialize<'a>>((index, line): (usize, &'a [u8])) -> Result<T, NotSaved> {
        serde_json::from_slice(line).map_err(|error| NotSaved { line: index + 1, error })
    }
    let whole_lines = text.split_inclusive(|&byte| byte == b'\n').enumerate();
    let mut whole_lines = whole_lines.filter(|(_, line)| line.ends_with(b"\n"));
    let Some(first) = whole_lines.next() else { return Ok(None) };
    let head: Head<'_> = parse(first)?;
    if head.version != VERSION || head.boot != boot {
        return Ok(None);
    }
    let mut memory = Memory::default();
    for line in whole_lines {
        memory.read(parse(line)?);
    }
    Ok(Some(memory))
}

/// Writes the text of a state file that tells this.
pub fn write_whole(memory: Memory, boot: &str, text: &mut Vec<u8>) {
    append(&Head { version: VERSION, boot: boot.into() }, text);
    memory.entries().for_each(|entry| append(&entry, text));
}

fn append(line: &impl Serialize, text: &mut Vec<u8>) {
    // Nothing in it can fail to become JSON.
    let _ = serde_json::to_writer(&mut *text, line);
    text.push(b'\n');
}

/// The file of a daemon that runs.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    boot: String,
    /// Absent before the first writing, and after one that has failed: the whole is to be written.
    file: Option<File>,
    /// In the latest one; none before the first writing.
    lines: usize,
    /// What is being written; its room is kept from one writing to the next.
    text: Vec<u8>,
}

impl StateFile {
    /// Of this boot of the machine. Nothing is opened yet.
    pub(super) fn new(path: PathBuf, boot: String) -> Self {
        Self { path, boot, file: None, lines: 0, text: Vec::new() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What an earlier daemon has left; nothing if there is no such file, or it is of another
    /// boot.
    pub(super) fn read(&self) -> io::Result<Result<Option<Memory>, NotSaved>> {
        match plain_file::read_own(&self.path, LONGEST) {
            Ok(text) => Ok(recall(&text, &self.boot)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(None)),
            Err(error) => Err(error),
        }
    }

    /// Whether it is time to write the whole, where there are so many lives.
    pub(super) fn is_to_be_rewritten(&self, lives: usize) -> bool {
        self.file.is_none() || self.lines > FEWEST_LINES + LINES_FOR_EACH * lives
    }

    /// Looks whether somebody has removed it, or put another in its place.
    pub(super) fn look(&mut self) {
        self.file.take_if(|file| !plain_file::is_at(file, &self.path));
    }

    /// Whether the whole is to be written even though nothing has changed.
    pub(super) fn is_missing(&self) -> bool {
        self.file.is_none() && self.lines > 0
    }

    /// Puts a new file in the place of the old one.
    pub(super) fn rewrite(&mut self, memory: Memory) -> io::Result<()> {
        write_whole(memory, &self.boot, &mut self.text);
        let lines = memchr::memchr_iter(b'\n', &self.text).count();
        let replaced = replace(&self.path, &self.text, MODE);
        self.forget_text();
        self.file = None;
        self.file = Some(replaced?);
        self.lines = lines;
        Ok(())
    }

    /// Appends entries. If that fails the file tells what it told before.
    pub(super) fn append(&mut self, entries: impl Iterator<Item = Entry>) -> io::Result<()> {
        for entry in entries {
            append(&entry, &mut self.text);
            self.lines += 1;
        }
        if self.text.is_empty() {
            return Ok(());
        }
        let written = match self.file.as_mut().map(|file| file.write(&self.text)) {
            Some(Ok(length)) if length == self.text.len() => Ok(()),
            Some(Ok(_)) => Err(io::ErrorKind::StorageFull.into()),
            Some(Err(error)) => Err(error),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        if written.is_err() {
            // It may end in half a line.
            self.file = None;
        }
        self.forget_text();
        written
    }

    fn forget_text(&mut self) {
        self.text.clear();
        self.text.shrink_to(ROOM_KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &[&str]) -> Vec<u8> {
        lines.concat().into_bytes()
    }

    const HEAD: &str = "{\"version\": 3, \"boot\": \"one\"}\n";

    fn last(memory: &Memory) -> Option<u64> {
        match memory.clone().entries().next() {
            Some(Entry::Last(last)) => Some(last.0),
            _ => None,
        }
    }

    #[test]
    fn only_what_was_written_on_this_boot_by_this_version_is_recalled() {
        let mut text = Vec::new();
        write_whole(Memory::default(), "one", &mut text);
        assert!(recall(&text, "one").unwrap().is_some());
        assert!(recall(&text, "another").unwrap().is_none());
        let later = br#"{"version": 4, "boot": "one", "more": 1}
            {"Unheard": "of"}
            "#;
        assert!(recall(later, "one").unwrap().is_none());
        assert!(recall(b"", "one").unwrap().is_none());
    }

    #[test]
    fn a_line_that_has_no_end_was_never_written() {
        let memory = recall(&text(&[HEAD, "{\"Last\": 7}\n", "{\"Last\": 8}"]), "one").unwrap();
        assert_eq!(memory.as_ref().and_then(last), Some(7));
    }

    #[test]
    fn what_is_wrong_with_the_file_is_told_by_line_and_forges_none() {
        let broken = text(&[HEAD, "{\"Last\": 1}\n", "{\"a\\nforged\": 2}\n"]);
        let error = recall(&broken, "one").unwrap_err().to_string();
        assert!(error.contains("line 3: ") && error.contains(r"a\nforged"), "{error}");
    }

    #[test]
    fn what_is_appended_is_read_after_the_whole() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(directory.path().join("state"), "one".into());
        assert!(file.is_to_be_rewritten(0));
        file.rewrite(Memory::default()).unwrap();
        for number in 1..=3 {
            assert!(!file.is_to_be_rewritten(0));
            file.append([Entry::Over(crate::id::Incarnation(number))].into_iter()).unwrap();
            let memory = file.read().unwrap().unwrap().unwrap();
            assert_eq!(last(&memory), Some(number));
        }
    }

    #[test]
    fn it_grows_with_the_lives_and_not_with_time() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(directory.path().join("state"), "one".into());
        let mut longest = 0;
        for number in 1..=100_000 {
            if file.is_to_be_rewritten(3) {
                file.rewrite(Memory::default()).unwrap();
            }
            file.append([Entry::Last(crate::id::Incarnation(number))].into_iter()).unwrap();
            longest = longest.max(file.lines);
        }
        assert!(longest <= FEWEST_LINES + 3 * LINES_FOR_EACH + 1, "{longest}");
    }

    #[test]
    fn one_that_was_removed_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut file = StateFile::new(path.clone(), "one".into());
        file.rewrite(Memory::default()).unwrap();
        file.look();
        assert!(!file.is_missing());
        std::fs::remove_file(&path).unwrap();
        file.look();
        assert!(file.is_missing() && file.is_to_be_rewritten(0));
        file.rewrite(Memory::default()).unwrap();
        assert!(!file.is_missing() && path.exists());
    }

    #[test]
    fn after_a_failure_the_whole_is_due_and_the_old_one_is_still_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut file = StateFile::new(path.clone(), "one".into());
        file.rewrite(Memory::default()).unwrap();
        // A file that cannot be written to.
        file.file = Some(File::open(&path).unwrap());
        assert!(file.append([Entry::Last(crate::id::Incarnation(1))].into_iter()).is_err());
        assert!(file.is_to_be_rewritten(0));
        assert_eq!(last(&file.read().unwrap().unwrap().unwrap()), Some(0));
    }
}
