//! Waiting for records as they come, through rotations.
//!
//! A line is handed over once, when it is whole. A file that is rotated away is read to its end, and on:
//! whoever writes it goes on doing so until it is told of the rotation. A file that cannot be read is
//! told of once, and what else there is goes on.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use inotify::{Inotify, WatchMask};
use jiff::Timestamp;

use super::Failure;
use super::files;
use super::lines::{Line, Lines};
use super::source::Source;

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
    pub(super) fn read(
        &mut self,
        mut each: impl FnMut(&Source, io::Result<Line<'_>>),
    ) -> Result<(), Failure> {
        let mut buffer = [0; 4096];
        loop {
            match self.inotify.read_events(&mut buffer) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Inotify(error)),
            }
        }
        for followed in &mut self.followed {
            let read = followed.read(&mut each);
            let was_bad = std::mem::replace(&mut followed.is_bad, read.is_err());
            if let Err(error) = read
                && !was_bad
            {
                each(&followed.source, Err(error));
            }
        }
        Ok(())
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

    fn read(&mut self, each: &mut impl FnMut(&Source, io::Result<Line<'_>>)) -> io::Result<()> {
        let Self { source, path, before, now, .. } = self;
        let mut each = |line: Line<'_>| each(source, Ok(line));
        for open in [&mut *before, &mut *now].into_iter().flatten() {
            open.read(&mut each)?;
        }
        let next = open(path, source.is_chosen())?;
        if let Some(mut next) = next
            && !now.as_ref().is_some_and(|now| now.is(&next))
        {
            // Whoever wrote the last one may have done so since.
            if let Some(now) = now {
                now.read(&mut each)?;
            }
            if before.as_ref().is_some_and(|before| before.is(&next)) {
                // It has been given its name back, and has been read.
                std::mem::swap(before, now);
            } else {
                next.read(&mut each)?;
                *before = now.replace(next);
            }
        }
        Ok(())
    }
}

/// Opens the file; nothing while there is none: it is being rotated, or has not been written yet.
fn open(path: &Path, is_chosen: bool) -> io::Result<Option<Open>> {
    match files::open(path, is_chosen) {
        Ok(file) => Ok(Some(Open { file, offset: 0 })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Open {
    fn is(&self, other: &Self) -> bool {
        let identity = |open: &Self| open.file.metadata().ok().map(|it| (it.dev(), it.ino()));
        identity(self).is_some_and(|own| identity(other) == Some(own))
    }

    fn read(&mut self, each: &mut impl FnMut(Line<'_>)) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length == self.offset {
            return Ok(());
        }
        if length < self.offset {
            // It has been cut.
            self.offset = 0;
        }
        self.file.seek(SeekFrom::Start(self.offset))?;
        let mut lines = Lines::new(&self.file);
        while let Some(line) = lines.next()? {
            // A line is written at once; one that is not whole is read again.
            if !matches!(line, Line::Unfinished(_) | Line::TooLong { is_whole: false }) {
                each(line);
            }
        }
        self.offset += lines.whole();
        Ok(())
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
