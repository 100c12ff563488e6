//! The files of records: the one that grows, and those that it was rotated to.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use inotify::{Inotify, WatchMask};

use super::Failure;
use crate::sys::plain_file;
use crate::wire::record::Record;

/// The longest line that is looked at, in bytes: a record is far shorter.
const LONGEST_LINE: u64 = 1 << 20;

/// Hands every record to `each`: first those of rotated files, unless `is_chosen`, then those of the
/// file itself. A line that is none is passed over; the last one may be torn.
///
/// Beside the daemon's records a member of Ganeti's groups may have put anything: there only plain
/// files are read. A file that the user has chosen may be a pipe.
pub(super) fn read_all(
    path: &Path,
    is_chosen: bool,
    mut each: impl FnMut(Record),
) -> Result<(), Failure> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |error| Failure::Read(path, error)
    };
    let rotated = if is_chosen { Vec::new() } else { rotated(path) };
    for path in &rotated {
        read(path, is_chosen, &mut each).map_err(failed(path))?;
    }
    match read(path, is_chosen, &mut each) {
        // Rotated away, and nothing has ended since.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !rotated.is_empty() => Ok(()),
        result => result.map_err(failed(path)),
    }
}

/// Files beside this one whose names go on where its ends: `.1`, `.2.gz`, `-20261120`.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Vec::new();
    };
    let name = name.to_string_lossy().into_owned();
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| {
            let other = entry.file_name().to_string_lossy().into_owned();
            other.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['.', '-']))
                && entry.file_type().is_ok_and(|kind| kind.is_file())
        })
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

fn open(path: &Path, is_chosen: bool) -> io::Result<File> {
    if is_chosen { File::open(path) } else { plain_file::open_to_read(path) }
}

fn read(path: &Path, is_chosen: bool, each: &mut impl FnMut(Record)) -> io::Result<()> {
    let file = open(path, is_chosen)?;
    let text: Box<dyn Read> = match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => Box::new(MultiGzDecoder::new(file)),
        Some("xz" | "zst" | "bz2" | "lz4") => {
            let text =
                "compressed in a way that is not supported; unpack it and pass it with --file";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        _ => Box::new(file),
    };
    records(&mut BufReader::new(text), each).map(|_| ())
}

/// Reads records line by line; returns how many bytes of whole lines there were.
fn records(text: &mut impl BufRead, each: &mut impl FnMut(Record)) -> io::Result<u64> {
    let mut line = Vec::new();
    let mut whole = 0;
    loop {
        line.clear();
        let length = text.take(LONGEST_LINE).read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(whole);
        }
        if line.ends_with(b"\n") {
            whole += length as u64;
        }
        if let Ok(record) = Record::parse(&line) {
            each(record);
        }
    }
}

/// Waits for records as they come, through rotations.
pub(super) struct Follower {
    path: PathBuf,
    is_chosen: bool,
    inotify: Inotify,
    /// The file that is being read, by its inode, and how far.
    inode: Option<u64>,
    offset: u64,
}

impl Follower {
    /// Tells of what is appended from now on.
    pub(super) fn new(path: &Path, is_chosen: bool) -> Result<Self, Failure> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        let watch = || {
            let inotify = Inotify::init()?;
            let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO;
            inotify.watches().add(directory, mask)?;
            Ok(inotify)
        };
        let inotify = watch().map_err(|error| Failure::Watch(directory.to_path_buf(), error))?;
        let metadata = fs::metadata(path).ok();
        Ok(Self {
            path: path.to_path_buf(),
            is_chosen,
            inotify,
            inode: metadata.as_ref().map(MetadataExt::ino),
            offset: metadata.map_or(0, |metadata| metadata.len()),
        })
    }

    /// Waits until something has changed, and hands over what is new: perhaps nothing.
    pub(super) fn next(&mut self, mut each: impl FnMut(Record)) -> Result<(), Failure> {
        let failed = |error| Failure::Read(self.path.clone(), error);
        let mut buffer = [0; 4096];
        match self.inotify.read_events_blocking(&mut buffer) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::Watch(self.path.clone(), error)),
        }
        let mut file = match open(&self.path, self.is_chosen) {
            Ok(file) => file,
            // Being rotated.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        let metadata = file.metadata().map_err(failed)?;
        if self.inode != Some(metadata.ino()) || metadata.len() < self.offset {
            self.inode = Some(metadata.ino());
            self.offset = 0;
        }
        file.seek(SeekFrom::Start(self.offset)).map_err(failed)?;
        // A line is written at once; one that is not whole is read again.
        self.offset += records(&mut BufReader::new(file), &mut each).map_err(failed)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn line(instance: &str) -> Vec<u8> {
        Record { instance: instance.into(), ..Record::default() }.to_line()
    }

    fn names(path: &Path, is_chosen: bool) -> Vec<String> {
        let mut names = Vec::new();
        read_all(path, is_chosen, |record| names.push(record.instance)).unwrap();
        names.sort();
        names
    }

    #[test]
    fn rotated_and_compressed_files_are_read_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kvm-exits.jsonl");
        fs::write(&path, line("now")).unwrap();
        fs::write(directory.path().join("kvm-exits.jsonl.1"), line("yesterday")).unwrap();
        fs::write(directory.path().join("kvm-exits.jsonlike"), line("stranger")).unwrap();
        let old = File::create(directory.path().join("kvm-exits.jsonl.2.gz")).unwrap();
        let mut old = flate2::write::GzEncoder::new(old, flate2::Compression::fast());
        old.write_all(&line("long ago")).unwrap();
        old.finish().unwrap();
        assert_eq!(names(&path, false), ["long ago", "now", "yesterday"]);
        assert_eq!(names(&path, true), ["now"]);
        fs::remove_file(&path).unwrap();
        assert_eq!(names(&path, false), ["long ago", "yesterday"]);
    }

    /// Members of Ganeti's groups can write where the records are.
    #[test]
    fn what_is_planted_beside_the_records_keeps_nobody_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records");
        let plant = |name: &str| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            let path = directory.path().join(name);
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)
                .unwrap();
        };
        plant("records.1");
        fs::write(&path, line("web1")).unwrap();
        assert_eq!(names(&path, false), ["web1"]);
        fs::remove_file(&path).unwrap();
        plant("records");
        let Err(Failure::Read(at, error)) = read_all(&path, false, |_| ()) else { panic!() };
        assert_eq!(at, path);
        assert!(error.to_string().contains("a FIFO, not a plain file; remove it"), "{error}");
    }

    #[test]
    fn torn_lines_and_nonsense_are_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records");
        let torn = &line("web2")[..20];
        fs::write(&path, [&line("web1")[..], b"nonsense\n\n", torn].concat()).unwrap();
        assert_eq!(names(&path, true), ["web1"]);
        assert!(read_all(&directory.path().join("none"), false, |_| ()).is_err());
    }

    #[test]
    fn what_comes_is_followed_through_a_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records");
        fs::write(&path, line("old")).unwrap();
        let mut follower = Follower::new(&path, true).unwrap();
        let append = |instance: &str| {
            let mut file = File::options().append(true).create(true).open(&path).unwrap();
            file.write_all(&line(instance)).unwrap();
        };
        let mut seen = Vec::new();
        let mut until = |count: usize| {
            while seen.len() < count {
                follower.next(|record| seen.push(record.instance)).unwrap();
            }
            seen.clone()
        };
        append("web1");
        assert_eq!(until(1), ["web1"]);
        fs::rename(&path, directory.path().join("records.1")).unwrap();
        append("web2");
        assert_eq!(until(2), ["web1", "web2"]);
    }
}
