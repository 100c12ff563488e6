//! Waiting for records as they come, through rotations.
//!
//! A line is handed over once, when it is whole. A file that is rotated away is read to its end, and on:
//! whoever writes it goes on doing so until it is told of the rotation. A file that cannot be read is
//! told of once, and what else there is goes on. However much is in a file, a look at it is short.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use inotify::{Inotify, WatchMask};
use jiff::Timestamp;

use super::Failure;
use super::files;
use super::lines::{LONGEST, Line, Lines};
use super::source::Source;

/// So much of a file is read before its reader sees to something else, in bytes. The longest line has
/// room in it.
const AT_ONCE: u64 = 4 * LONGEST as u64;

pub(super) struct Follower {
    inotify: Inotify,
    followed: Vec<Followed>,
    begun: Timestamp,
}

/// A source that is followed.
struct Followed {
    source: Source,
    path: PathBuf,
    /// What the path led to before, and what it leads to.
    before: Option<Open>,
    now: Option<Open>,
    /// It could not be read the last time, and that has been told.
    is_bad: bool,
}

/// A file, and how far it has been read.
struct Open {
    file: File,
    offset: u64,
    /// In a line that is too long: the rest of it is passed over.
    is_passing_over: bool,
}

impl Follower {
    /// Tells of what is appended from now on. Standard input cannot be followed: it is passed over.
    pub(super) fn new(sources: &[Source]) -> Result<Self, Failure> {
        let begun = Timestamp::now();
        let paths = sources.iter().filter_map(|source| Some((source, source.path()?)));
        let followed: Vec<Followed> =
            paths.map(|(source, path)| Followed::new(source, path)).collect::<Result<_, _>>()?;
        let directories: BTreeSet<&Path> =
            followed.iter().map(|it| directory_of(&it.path)).collect();
        let inotify = Inotify::init().map_err(Failure::Inotify)?;
        let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO;
        for directory in directories {
            let watched = inotify.watches().add(directory, mask);
            watched.map_err(|error| Failure::Watch(directory.to_path_buf(), error))?;
        }
        Ok(Self { inotify, followed, begun })
    }

    /// When it began to follow.
    pub(super) fn begun(&self) -> Timestamp {
        self.begun
    }

    /// Hands over what is new: perhaps nothing. It waits for nothing. An error is a file's, and the
    /// next one is of another, or after it could be read again.
    ///
    /// Says whether there is more already, of which no event will tell.
    pub(super) fn read(
        &mut self,
        mut each: impl FnMut(&Source, io::Result<Line<'_>>),
    ) -> Result<bool, Failure> {
        let mut buffer = [0; 4096];
        loop {
            match self.inotify.read_events(&mut buffer) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Inotify(error)),
            }
        }
        let mut is_more = false;
        for followed in &mut self.followed {
            let read = followed.read(&mut each);
            let was_bad = std::mem::replace(&mut followed.is_bad, read.is_err());
            match read {
                Ok(more) => is_more |= more,
                Err(error) if !was_bad => each(&followed.source, Err(error)),
                Err(_) => {}
            }
        }
        Ok(is_more)
    }
}

/// Readable when something may be new.
impl AsFd for Follower {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Followed {
    fn new(source: &Source, path: &Path) -> Result<Self, Failure> {
        let failed = |error| Failure::Read(path.display().to_string(), error);
        let mut now = open(path, source.is_chosen()).map_err(failed)?;
        if let Some(now) = &mut now {
            now.offset = now.file.metadata().map_err(failed)?.len();
        }
        let (source, path) = (source.clone(), path.to_path_buf());
        Ok(Self { source, path, before: None, now, is_bad: false })
    }

    /// Whether there is more.
    fn read(&mut self, each: &mut impl FnMut(&Source, io::Result<Line<'_>>)) -> io::Result<bool> {
        let Self { source, path, before, now, .. } = self;
        let mut each = |line: Line<'_>| each(source, Ok(line));
        for open in [&mut *before, &mut *now].into_iter().flatten() {
            if open.read(&mut each)? {
                return Ok(true);
            }
        }
        let next = open(path, source.is_chosen())?;
        if let Some(mut next) = next
            && !now.as_ref().is_some_and(|now| now.is(&next))
        {
            // Whoever wrote the last one may have done so since.
            if let Some(now) = now
                && now.read(&mut each)?
            {
                return Ok(true);
            }
            if before.as_ref().is_some_and(|before| before.is(&next)) {
                // It has been given its name back, and has been read.
                std::mem::swap(before, now);
            } else {
                let more = next.read(&mut each);
                *before = now.replace(next);
                return more;
            }
        }
        Ok(false)
    }
}

/// Opens the file; nothing while there is none: it is being rotated, or has not been written yet.
fn open(path: &Path, is_chosen: bool) -> io::Result<Option<Open>> {
    match files::open(path, is_chosen) {
        Ok(file) => Ok(Some(Open { file, offset: 0, is_passing_over: false })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Open {
    fn is(&self, other: &Self) -> bool {
        let identity = |open: &Self| open.file.metadata().ok().map(|it| (it.dev(), it.ino()));
        identity(self).is_some_and(|own| identity(other) == Some(own))
    }

    /// Whether there is more.
    fn read(&mut self, each: &mut impl FnMut(Line<'_>)) -> io::Result<bool> {
        let length = self.file.metadata()?.len();
        if length == self.offset {
            return Ok(false);
        }
        if length < self.offset {
            // It has been cut.
            self.offset = 0;
            self.is_passing_over = false;
        }
        self.file.seek(SeekFrom::Start(self.offset))?;
        let mut lines = Lines::new((&self.file).take(AT_ONCE));
        let read = loop {
            let line = match lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let is_rest = self.is_passing_over;
            match line {
                // A line is written at once; one that is not whole is read again.
                Line::Unfinished(_) => continue,
                Line::Whole(_) => self.is_passing_over = false,
                Line::TooLong { is_whole } => self.is_passing_over = !is_whole,
            }
            if !is_rest {
                each(line);
            }
        };
        // Even if the rest cannot be read: no line is handed over twice.
        self.offset += lines.whole();
        if self.is_passing_over {
            self.offset += lines.unfinished();
        }
        read?;
        Ok(lines.whole() + lines.unfinished() >= AT_ONCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::why::source::Origin;
    use std::ffi::OsStr;
    use std::fs;
    use std::io::Write;

    struct Scene {
        directory: tempfile::TempDir,
        follower: Follower,
    }

    impl Scene {
        /// This node's records, with a line.
        fn of_node() -> Self {
            let mut scene = Self::new(&["records"]);
            let own = Source::from(Origin::Node(scene.path("records")));
            scene.follower = Follower::new(&[own]).unwrap();
            scene
        }

        /// Files of these names, each with a line.
        fn new(names: &[&str]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let sources: Vec<Source> = names
                .iter()
                .map(|name| {
                    let path = directory.path().join(name);
                    fs::write(&path, "old\n").unwrap();
                    Source::parse(OsStr::new(&path))
                })
                .collect();
            let follower = Follower::new(&sources).unwrap();
            Self { directory, follower }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn append(&self, name: &str, text: &str) {
            let mut file = File::options().append(true).create(true).open(self.path(name)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn read(&mut self) -> Vec<String> {
            let mut seen = Vec::new();
            self.follower
                .read(|_, line| match line {
                    Ok(Line::Whole(line)) => seen.push(String::from_utf8_lossy(line).into_owned()),
                    other => panic!("{other:?}"),
                })
                .unwrap();
            seen
        }
    }

    #[test]
    fn what_comes_is_followed_through_a_rotation() {
        let mut scene = Scene::new(&["records"]);
        assert!(scene.read().is_empty());
        scene.append("records", "web1\nwe");
        assert_eq!(scene.read(), ["web1"]);
        // Before and after it, with no look in between.
        scene.append("records", "b2\n");
        fs::rename(scene.path("records"), scene.path("records.1")).unwrap();
        scene.append("records", "web4\n");
        scene.append("records.1", "web3\n");
        assert_eq!(scene.read(), ["web2", "web3", "web4"]);
        // By a daemon that has not been told of it yet.
        scene.append("records.1", "late\n");
        assert_eq!(scene.read(), ["late"]);
        assert!(scene.read().is_empty());
    }

    #[test]
    fn what_has_been_read_is_not_read_again_under_its_old_name() {
        let mut scene = Scene::of_node();
        scene.append("records", "web1\n");
        assert_eq!(scene.read(), ["web1"]);
        fs::rename(scene.path("records"), scene.path("records.1")).unwrap();
        scene.append("records", "web2\n");
        assert_eq!(scene.read(), ["web2"]);
        fs::rename(scene.path("records.1"), scene.path("records")).unwrap();
        scene.append("records", "web3\n");
        assert_eq!(scene.read(), ["web3"]);
    }

    /// A member of Ganeti's groups can put anything there.
    #[test]
    fn a_planted_file_is_told_of_once_and_the_records_are_followed_on() {
        let mut scene = Scene::of_node();
        fs::rename(scene.path("records"), scene.path("moved")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, scene.path("records"), fifo, mode, 0).unwrap();
        let mut told = Vec::new();
        for name in ["web1", "web2"] {
            scene.append("moved", &format!("{name}\n"));
            let read = scene.follower.read(|_, line| match line {
                Ok(line) => told.push(format!("{line:?}")),
                Err(error) => told.push(error.to_string()),
            });
            read.unwrap();
        }
        let whole = |name: &str| format!("{:?}", Line::Whole(name.as_bytes()));
        let fifo = "it is a FIFO, not a plain file; remove it".to_string();
        assert_eq!(told, [whole("web1"), fifo, whole("web2")]);
        fs::remove_file(scene.path("records")).unwrap();
        scene.append("records", "web3\n");
        assert_eq!(scene.read(), ["web3"]);
    }

    /// `truncate -s 1T`, but for its size.
    #[test]
    fn a_line_without_an_end_is_told_of_once_and_passed_over() {
        let mut scene = Scene::new(&["records"]);
        let records = scene.path("records");
        let lengthen = |length: u64| {
            let file = File::options().write(true).open(&records).unwrap();
            file.set_len(length).unwrap();
        };
        let mut turn = || {
            let mut told = Vec::new();
            let more = scene.follower.read(|_, line| told.push(format!("{:?}", line.unwrap())));
            (told, more.unwrap())
        };
        lengthen(3 * AT_ONCE + 10);
        let too_long = format!("{:?}", Line::TooLong { is_whole: false });
        assert_eq!(turn(), (vec![too_long], true));
        assert_eq!(turn(), (vec![], true));
        assert_eq!(turn(), (vec![], true));
        // The line that was there before it has been read.
        assert_eq!(turn(), (vec![], false));
        lengthen(3 * AT_ONCE + 20);
        assert_eq!(turn(), (vec![], false));
        let mut file = File::options().append(true).open(&records).unwrap();
        file.write_all(b"its end\nweb1\nwe").unwrap();
        assert_eq!(turn(), (vec![format!("{:?}", Line::Whole(b"web1"))], false));
        file.write_all(b"b2\n").unwrap();
        assert_eq!(turn(), (vec![format!("{:?}", Line::Whole(b"web2"))], false));
    }

    #[test]
    fn many_lines_are_read_in_several_turns_and_through_a_rotation() {
        let mut scene = Scene::new(&["records"]);
        let line = format!("{}\n", "x".repeat(99));
        let count = AT_ONCE as usize / 100 * 2;
        scene.append("records", &line.repeat(count));
        fs::rename(scene.path("records"), scene.path("records.1")).unwrap();
        scene.append("records", "last\n");
        let (mut turns, mut told, mut last) = (1, 0, Vec::new());
        let mut read = || {
            scene.follower.read(|_, line| {
                told += 1;
                let Ok(Line::Whole(line)) = line else { panic!("{line:?}") };
                last = line.to_vec();
            })
        };
        while read().unwrap() {
            turns += 1;
        }
        assert_eq!((turns, told, &*last), (2, count + 1, &b"last"[..]));
    }

    #[test]
    fn several_files_are_followed() {
        let mut scene = Scene::new(&["a", "b"]);
        scene.append("b", "web1\n");
        scene.append("a", "web2\n");
        assert_eq!(scene.read(), ["web2", "web1"]);
        fs::write(scene.path("b"), "cut\n").unwrap();
        scene.append("b", "");
        assert_eq!(scene.read(), ["cut"]);
    }
}
