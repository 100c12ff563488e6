//! The files of records: the one that grows, and those that it was rotated to.
//!
//! Where the daemon's records are, a member of Ganeti's groups may have put anything: only what the
//! daemon itself would write to is read there. A file that the user has chosen may be a pipe.

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flate2::read::MultiGzDecoder;

use super::source::{Origin, Source};
use crate::sys::plain_file;

/// What the source's records are in, the oldest first, and what each is called.
pub(super) fn files_of(source: &Source) -> Vec<PathBuf> {
    match &source.from {
        Origin::Node(path) => {
            let rotated = rotated(path);
            // Rotated away, and nothing has ended since.
            let is_there = rotated.is_empty() || path.symlink_metadata().is_ok();
            rotated.into_iter().chain(is_there.then(|| path.clone())).collect()
        }
        Origin::File(path) => vec![path.clone()],
        Origin::StandardInput => Vec::new(),
    }
}

/// Files beside this one to which it was rotated, the oldest first: `.2.gz`, `.1`, `-20261120`. What
/// somebody has copied it to (`.bak`) is none of them.
pub(super) fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Vec::new();
    };
    let name = name.to_string_lossy().into_owned();
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let found = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let mut found: Vec<(Age, bool, PathBuf, Option<SystemTime>)> = found
        .filter_map(|entry| {
            let other = entry.file_name().to_string_lossy().into_owned();
            let (age, is_packed) = Age::of(other.strip_prefix(&name)?)?;
            let changed = entry.metadata().and_then(|it| it.modified()).ok();
            Some((age, is_packed, entry.path(), changed))
        })
        .collect();
    found.sort();
    // While one is being packed, it is there twice, and the packed one is not whole. It may also be what
    // has remained from when files were packed: then it is older.
    found.dedup_by(
        |(age, is_packed, _, changed), (plain_age, is_plain_packed, _, plain_changed)| {
            age == plain_age && *is_packed && !*is_plain_packed && changed >= plain_changed
        },
    );
    found.into_iter().map(|(_, _, path, _)| path).collect()
}

/// When a file was rotated away, as logrotate says it: the oldest is the least.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    /// So many rotations ago.
    Rotations(Reverse<u32>),
    Date(String),
}

impl Age {
    /// By how its name goes on, and whether it is packed.
    fn of(rest: &str) -> Option<(Self, bool)> {
        // logrotate's dateformat, with the hour perhaps: 20261120T03, 2026-11-20_03.
        let is_of_date = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'T');
        let when = rest.strip_prefix(['.', '-'])?;
        let may_be_number = rest.starts_with('.') && when.len() < "20261120".len();
        let (when, packed) = when.split_once('.').map_or((when, None), |(a, b)| (a, Some(b)));
        let is_when =
            when.starts_with(|c: char| c.is_ascii_digit()) && when.bytes().all(is_of_date);
        if !is_when || packed.is_some_and(|it| it != "gz" && !UNSUPPORTED.contains(&it)) {
            return None;
        }
        let number = if may_be_number { when.parse().ok() } else { None };
        let age = number.map_or_else(|| Self::Date(when.into()), |it| Self::Rotations(Reverse(it)));
        Some((age, packed.is_some()))
    }
}

/// The names of files that logrotate can pack, and this cannot unpack, end so.
const UNSUPPORTED: [&str; 4] = ["xz", "zst", "bz2", "lz4"];

/// Opens what will be read as it grows: a plain file, by whatever link it is reached. Nobody is waited
/// for.
pub(super) fn open_to_follow(path: &Path, is_chosen: bool) -> io::Result<File> {
    let open =
        if is_chosen { plain_file::open_linked_to_read } else { plain_file::open_own_to_read };
    open(path)
}

/// What is in the file, unpacked.
pub(super) fn text(path: &Path, is_chosen: bool) -> io::Result<Box<dyn Read>> {
    let file = if is_chosen { File::open(path) } else { plain_file::open_own_to_read(path) }?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => Ok(Box::new(MultiGzDecoder::new(file))),
        Some(extension) if UNSUPPORTED.contains(&extension) => {
            let text =
                "compressed in a way that is not supported; unpack it and pass it with --file";
            Err(io::Error::new(io::ErrorKind::Unsupported, text))
        }
        _ => Ok(Box::new(file)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// What is in the files of the source, and what cannot be read.
    fn texts(source: &Source) -> (Vec<String>, Vec<io::Error>) {
        let (mut texts, mut errors) = (Vec::new(), Vec::new());
        for path in files_of(source) {
            match text(&path, source.is_chosen()).and_then(io::read_to_string) {
                Ok(text) => texts.push(text),
                Err(error) => errors.push(error),
            }
        }
        (texts, errors)
    }

    #[test]
    fn rotated_and_compressed_files_are_read_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kvm-exits.jsonl");
        let own = Source::from(Origin::Node(path.clone()));
        fs::write(&path, "now").unwrap();
        fs::write(directory.path().join("kvm-exits.jsonl.1"), "yesterday").unwrap();
        fs::write(directory.path().join("kvm-exits.jsonlike"), "stranger").unwrap();
        let old = File::create(directory.path().join("kvm-exits.jsonl.2.gz")).unwrap();
        let mut old = flate2::write::GzEncoder::new(old, flate2::Compression::fast());
        old.write_all(b"long ago").unwrap();
        old.finish().unwrap();
        // Being packed, and copied by somebody.
        fs::write(directory.path().join("kvm-exits.jsonl.1.gz"), "half").unwrap();
        for copy in ["bak", "1.bak", "2.gz.part", "1~", "old"] {
            fs::write(directory.path().join(format!("kvm-exits.jsonl.{copy}")), "copy").unwrap();
        }
        let (there, errors) = texts(&own);
        assert_eq!(
            (&*there, errors.len()),
            (&["long ago", "yesterday", "now"].map(String::from)[..], 0)
        );
        // From when files were packed.
        let stale = File::options().append(true).open(path.with_extension("jsonl.1.gz")).unwrap();
        stale.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(texts(&own).1.len(), 1);
        fs::remove_file(path.with_extension("jsonl.1.gz")).unwrap();
        assert_eq!(texts(&Source::from(Origin::File(path.clone()))).0, ["now"]);
        fs::remove_file(&path).unwrap();
        let (there, errors) = texts(&own);
        assert_eq!((there.len(), errors.len()), (2, 0));
    }

    #[test]
    fn files_are_in_the_order_in_which_they_were_rotated() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let names = [
            "a.10.gz",
            "a.2.xz",
            "a.1",
            "a-20251231.gz",
            "a-202547",
            "a-20260101",
            "a-20260101T03",
        ];
        for name in names {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let found = rotated(&path);
        let found: Vec<_> = found.iter().map(|it| it.file_name().unwrap()).collect();
        assert_eq!(found, names);
    }

    /// Members of Ganeti's groups can write where the records are.
    #[test]
    fn what_is_planted_beside_the_records_keeps_nobody_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let own = Source::from(Origin::Node(directory.path().join("records")));
        let plant = |name: &str| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            let path = directory.path().join(name);
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)
                .unwrap();
        };
        plant("records.1");
        fs::write(directory.path().join("records"), "web1").unwrap();
        assert_eq!(texts(&own).0, ["web1"]);
        fs::remove_file(directory.path().join("records")).unwrap();
        plant("records");
        let errors = texts(&own).1;
        let [error] = &*errors else { panic!("{errors:?}") };
        assert!(error.to_string().contains("a FIFO, not a plain file; remove it"), "{error}");
    }

    /// They can give a file of theirs, or another name of root's, the name of the records.
    #[test]
    fn what_others_have_made_or_named_is_no_record_of_the_nodes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records");
        let own = Source::from(Origin::Node(path.clone()));
        fs::write(&path, "web1").unwrap();
        fs::hard_link(&path, directory.path().join("other")).unwrap();
        let said = texts(&own).1.remove(0).to_string();
        assert_eq!(said, "it has other names as well; remove it");
        fs::remove_file(directory.path().join("other")).unwrap();
        assert_eq!(texts(&own).0, ["web1"]);
        // Only root can give a file away.
        if std::os::unix::fs::chown(&path, Some(12345), None).is_ok() {
            let said = texts(&own).1.remove(0).to_string();
            assert_eq!(said, "it belongs to user 12345 and not to root; remove it");
        }
    }

    #[test]
    fn what_is_not_there_cannot_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let own = Source::from(Origin::Node(directory.path().join("records")));
        let errors = texts(&own).1;
        assert_eq!(errors[0].kind(), io::ErrorKind::NotFound);
    }
}
