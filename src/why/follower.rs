//! Waiting for records as they come, through rotations.
//!
//! A line is handed over once, when it is whole. A file that is rotated away is read to its end, and on:
//! whoever writes it goes on doing so until it is told of the rotation.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use inotify::{Inotify, WatchMask};

use super::Failure;
use super::files;
use super::lines::{Line, Lines};
use super::source::Source;

pub(super) struct Follower {
    inotify: Inotify,
    followed: Vec<Followed>,
}

/// A source that is followed.
struct Followed {
    source: Source,
    path: PathBuf,
    /// What the path led to before, and what it leads to.
    before: Option<Open>,
    now: Option<Open>,
}

/// A file, and how far it has been read.
struct Open {
    file: File,
    offset: u64,
}

impl Follower {
    /// Tells of what is appended from now on. Standard input cannot be followed: it is passed over.
    pub(super) fn new(sources: &[Source]) -> Result<Self, Failure> {
        let paths = sources.iter().filter_map(|source| Some((source, source.path()?)));
        let followed: Vec<Followed> =
            paths.map(|(source, path)| Followed::new(source, path)).collect::<Result<_, _>>()?;
        let directories: BTreeSet<&Path> =
            followed.iter().map(|it| directory_of(&it.path)).collect();
        let inotify = Inotify::init().map_err(|error| Failure::Watch(PathBuf::new(), error))?;
        let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO;
        for directory in directories {
            let watched = inotify.watches().add(directory, mask);
            watched.map_err(|error| Failure::Watch(directory.to_path_buf(), error))?;
        }
        Ok(Self { inotify, followed })
    }

    /// Hands over what is new: perhaps nothing. It waits for nothing.
    pub(super) fn read(&mut self, mut each: impl FnMut(&Source, Line<'_>)) -> Result<(), Failure> {
        let mut buffer = [0; 4096];
        loop {
            match self.inotify.read_events(&mut buffer) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Watch(PathBuf::new(), error)),
            }
        }
        for followed in &mut self.followed {
            let read = followed.read(&mut each);
            read.map_err(|error| Failure::Read(followed.path.display().to_string(), error))?;
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
        Ok(Self { source: source.clone(), path: path.to_path_buf(), before: None, now })
    }

    fn read(&mut self, each: &mut impl FnMut(&Source, Line<'_>)) -> io::Result<()> {
        let Self { source, path, before, now } = self;
        let mut each = |line: Line<'_>| each(source, line);
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
            next.read(&mut each)?;
            *before = now.replace(next);
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
    use std::ffi::OsStr;
    use std::fs;
    use std::io::Write;

    struct Scene {
        directory: tempfile::TempDir,
        follower: Follower,
    }

    impl Scene {
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
                    Line::Whole(line) => seen.push(String::from_utf8_lossy(line).into_owned()),
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
