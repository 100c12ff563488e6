//! Waiting for records as they come, through rotations.
//!
//! A line is handed over once, when it is whole. A file that is rotated away is read to its end, and on:
//! whoever writes it goes on doing so until it is told of the rotation. A file that cannot be read is
//! told of once, and what else there is goes on. However much is in a file, a look at it is short.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use inotify::{Inotify, WatchDescriptor, WatchMask};
use jiff::{SignedDuration, Timestamp};

use super::Failure;
use super::files;
use super::lines::{LONGEST, Line, Lines};
use super::reading::Reader;
use super::source::Source;

/// So much of a file is read before its reader sees to something else, in bytes. The longest line has
/// room in it.
const AT_ONCE: u64 = 4 * LONGEST as u64;

/// So often it looks whether or not it was told of anything: of what happens on another machine's disk, or
/// in a directory that is made anew, the kernel tells nobody.
pub(super) const LOOK: Duration = Duration::from_secs(30);

/// Of so many files that have had one name it is known how far they were read. Whoever has more of them
/// take turns has them read again.
const REMEMBERED: usize = 256;

pub(super) struct Follower {
    inotify: Inotify,
    followed: Vec<Followed>,
    /// The directories that links lead to.
    linked: BTreeMap<PathBuf, WatchDescriptor>,
    /// By the clock as it was then, and by one that nobody sets.
    begun: (Timestamp, Instant),
    watched: Instant,
}

/// A source that is followed.
struct Followed {
    /// As a source; each file has its own.
    reader: Reader,
    path: PathBuf,
    /// What the path led to before, and what it leads to.
    before: Option<Open>,
    now: Option<Open>,
    /// How far others were read to which it led.
    earlier: VecDeque<(Identity, Place)>,
    /// It could not be read the last time, and that has been told.
    is_bad: bool,
}

/// A file, and how far it has been read.
struct Open {
    file: File,
    reader: Reader,
    identity: Identity,
    place: Place,
}

/// Tells a file from all others, and from one that gets its number when it is gone.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    /// Not every file system knows.
    born: Option<SystemTime>,
}

#[derive(Clone, Copy, Default)]
struct Place {
    offset: u64,
    /// In a line that is too long: the rest of it is passed over.
    is_passing_over: bool,
}

impl Follower {
    /// Tells of what is appended from now on. Standard input cannot be followed: it is passed over.
    pub(super) fn new(sources: &[Source]) -> Result<Self, Failure> {
        let begun = (Timestamp::now(), Instant::now());
        let paths = sources.iter().filter_map(|source| Some((source, source.path()?)));
        let followed: Vec<Followed> =
            paths.map(|(source, path)| Followed::new(source, path)).collect::<Result<_, _>>()?;
        let inotify = Inotify::init().map_err(Failure::Inotify)?;
        let linked = BTreeMap::new();
        let mut follower = Self { inotify, followed, linked, begun, watched: begun.1 };
        for directory in follower.directories() {
            let watched = follower.watch(&directory);
            watched.map_err(|error| Failure::Watch(directory, error))?;
        }
        follower.watch_linked();
        Ok(follower)
    }

    fn directories(&self) -> BTreeSet<PathBuf> {
        self.followed.iter().map(|it| directory_of(&it.path).to_path_buf()).collect()
    }

    fn watch(&self, directory: &Path) -> io::Result<WatchDescriptor> {
        let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO;
        self.inotify.watches().add(directory, mask)
    }

    /// Watches where those files are to which the user has chosen links, as far as that is allowed, and
    /// no longer where they were.
    fn watch_linked(&mut self) {
        let own = self.directories();
        let chosen = self.followed.iter().filter(|it| it.reader.source().is_chosen());
        let targets = chosen.filter_map(|it| fs::canonicalize(&it.path).ok());
        let targets: BTreeSet<PathBuf> =
            targets.map(|target| directory_of(&target).to_path_buf()).collect();
        let watched = targets.difference(&own).filter_map(|directory| {
            let descriptor = self.watch(directory).ok()?;
            Some((directory.clone(), descriptor))
        });
        let watched: BTreeMap<_, _> = watched.collect();
        for (_, descriptor) in std::mem::replace(&mut self.linked, watched) {
            if !self.linked.values().any(|it| *it == descriptor) {
                // It fails where the directory is gone, and its watch with it.
                let _ = self.inotify.watches().remove(descriptor);
            }
        }
    }

    /// When it began to follow, by the clock as it is now or was then, whichever is earlier: if the clock
    /// has been set, so have the times of ends.
    pub(super) fn begun(&self) -> Timestamp {
        let (then, instant) = self.begun;
        let elapsed = SignedDuration::try_from(instant.elapsed()).unwrap_or(SignedDuration::MAX);
        Timestamp::now().checked_sub(elapsed).unwrap_or(then).min(then)
    }

    /// From where on the file at this path has not been handed over, in bytes, if it is followed.
    pub(super) fn begins_at(&self, path: &Path) -> Option<u64> {
        let followed = self.followed.iter().find(|it| it.path == path)?;
        Some(followed.now.as_ref().map_or(0, |now| now.place.offset))
    }

    /// Hands over what is new: perhaps nothing. It waits for nothing. An error is a file's, and the
    /// next one is of another, or after it could be read again.
    ///
    /// Says whether there is more already, of which no event will tell.
    pub(super) fn read(
        &mut self,
        mut each: impl FnMut(&mut Reader, io::Result<Line<'_>>),
    ) -> Result<bool, Failure> {
        if self.watched.elapsed() >= LOOK {
            self.watched = Instant::now();
            // One that was made anew has to be watched anew. One that is not there is looked for again.
            for directory in self.directories() {
                let _ = self.watch(&directory);
            }
            self.watch_linked();
        }
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
                Err(error) if !was_bad => each(&mut followed.reader, Err(error)),
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
        let reader = Reader::new(source.clone(), source.to_string());
        let mut now = Open::at(path, &reader).map_err(failed)?;
        if let Some(now) = &mut now {
            now.place.offset = now.file.metadata().map_err(failed)?.len();
        }
        Ok(Self {
            reader,
            path: path.to_path_buf(),
            before: None,
            now,
            earlier: VecDeque::new(),
            is_bad: false,
        })
    }

    /// Whether there is more. A file that cannot be read does not hide the one that has its name now.
    fn read(
        &mut self,
        each: &mut impl FnMut(&mut Reader, io::Result<Line<'_>>),
    ) -> io::Result<bool> {
        match self.before.as_mut().map(|before| before.read(each)) {
            Some(Ok(true)) => return Ok(true),
            Some(Err(error)) => {
                self.before = None;
                each(&mut self.reader, Err(error));
            }
            Some(Ok(false)) | None => {}
        }
        let read = self.read_now(each);
        if matches!(read, Ok(true)) {
            return read;
        }
        let next = Open::at(&self.path, &self.reader)?;
        let is_another =
            |next: &Open| self.now.as_ref().is_none_or(|it| it.identity != next.identity);
        let Some(next) = next.filter(is_another) else { return read };
        // Whoever wrote the last one may have done so since.
        match read.and_then(|_| self.read_now(each)) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(error) => {
                self.now = None;
                each(&mut self.reader, Err(error));
            }
        }
        self.go_on_with(next);
        self.read_now(each)
    }

    fn read_now(
        &mut self,
        each: &mut impl FnMut(&mut Reader, io::Result<Line<'_>>),
    ) -> io::Result<bool> {
        self.now.as_mut().map_or(Ok(false), |now| now.read(each))
    }

    /// The name leads to another file, or to one again that it has led to before: then that is read from
    /// where it was left.
    fn go_on_with(&mut self, mut next: Open) {
        match std::mem::replace(&mut self.before, self.now.take()) {
            // Nobody else can have its number: it is still open.
            Some(before) if before.identity == next.identity => next.place = before.place,
            Some(before) => self.earlier.push_back((before.identity, before.place)),
            None => {}
        }
        // Of those, one without a time of birth may be a new one with the number of one that is gone.
        let is_next =
            |(known, _): &(Identity, Place)| *known == next.identity && known.born.is_some();
        let known = self.earlier.iter().position(is_next);
        if let Some((_, place)) = known.and_then(|at| self.earlier.remove(at)) {
            next.place = place;
        }
        if self.earlier.len() > REMEMBERED {
            self.earlier.pop_front();
        }
        self.now = Some(next);
    }
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), born: metadata.created().ok() }
    }
}

impl Open {
    /// Opens the file; nothing while there is none: it is being rotated, or has not been written yet.
    fn at(path: &Path, reader: &Reader) -> io::Result<Option<Self>> {
        match files::open_to_follow(path, reader.source().is_chosen()) {
            Ok(file) => {
                let identity = Identity::of(&file.metadata()?);
                let reader = reader.of_another_file();
                Ok(Some(Self { file, reader, identity, place: Place::default() }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether there is more.
    fn read(
        &mut self,
        each: &mut impl FnMut(&mut Reader, io::Result<Line<'_>>),
    ) -> io::Result<bool> {
        let Self { file, reader, place, .. } = self;
        let length = file.metadata()?.len();
        if length == place.offset {
            return Ok(false);
        }
        if length < place.offset {
            // It has been cut.
            *place = Place::default();
            *reader = reader.of_another_file();
        }
        file.seek(SeekFrom::Start(place.offset))?;
        let mut lines = Lines::new((&*file).take(AT_ONCE));
        let read = loop {
            let line = match lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let is_rest = place.is_passing_over;
            match line {
                // A line is written at once; one that is not whole is read again.
                Line::Unfinished(_) => continue,
                Line::Whole(_) => place.is_passing_over = false,
                Line::TooLong { is_whole } => place.is_passing_over = !is_whole,
            }
            if !is_rest {
                each(reader, Ok(line));
            }
        };
        // Even if the rest cannot be read: no line is handed over twice.
        place.offset += lines.whole();
        if place.is_passing_over {
            place.offset += lines.unfinished();
        }
        read?;
        Ok(lines.whole() + lines.unfinished() >= AT_ONCE)
    }
}

#[cfg(test)]
mod tests;
