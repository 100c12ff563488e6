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
        if let Some(at) = self.earlier.iter().position(is_next) {
            next.place = self.earlier.remove(at).expect("it is there").1;
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
mod tests {
    use super::*;
    use crate::why::reading::read_all;
    use crate::why::source::Origin;
    use crate::why::unread::Unread;
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

    /// As one on a network file system that was replaced there.
    #[test]
    fn a_file_that_cannot_be_read_does_not_hide_the_one_that_has_its_name_now() {
        let mut scene = Scene::new(&["records"]);
        // Nothing can be read through this descriptor.
        let unreadable = File::options().write(true).open(scene.path("records")).unwrap();
        scene.append("records", "web1\n");
        scene.follower.followed[0].now.as_mut().unwrap().file = unreadable;
        fs::rename(scene.path("records"), scene.path("old")).unwrap();
        scene.append("records", "web2\n");
        let mut told = Vec::new();
        let read = scene.follower.read(|_, line| told.push(format!("{line:?}")));
        read.unwrap();
        assert!(told[0].contains("Bad file descriptor"), "{told:?}");
        assert_eq!(told[1..], [format!("Ok({:?})", Line::Whole(b"web2"))]);
    }

    /// Others were there in between, as many as a hostile member of Ganeti's groups cares to put there.
    #[test]
    fn what_has_been_read_is_not_read_again_however_many_have_had_its_name() {
        let mut scene = Scene::of_node();
        scene.append("records", "web1\n");
        assert_eq!(scene.read(), ["web1"]);
        fs::rename(scene.path("records"), scene.path("hold")).unwrap();
        for i in 0..20 {
            scene.append("records", &format!("other{i}\n"));
            assert_eq!(scene.read(), [format!("other{i}")]);
            fs::rename(scene.path("records"), scene.path(&format!("other{i}"))).unwrap();
        }
        fs::rename(scene.path("hold"), scene.path("records")).unwrap();
        assert_eq!(scene.read(), [""; 0]);
        scene.append("records", "web2\n");
        assert_eq!(scene.read(), ["web2"]);
    }

    /// Whoever owns a file that others have chosen can put anything there.
    #[test]
    fn a_chosen_file_that_becomes_a_fifo_keeps_nobody_waiting() {
        let mut scene = Scene::new(&["alice", "bob"]);
        fs::remove_file(scene.path("alice")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, scene.path("alice"), fifo, mode, 0).unwrap();
        scene.append("bob", "web1\n");
        let mut told = Vec::new();
        let read = scene.follower.read(|reader, line| {
            told.push(match line {
                Ok(Line::Whole(line)) => String::from_utf8_lossy(line).into_owned(),
                other => format!("{}: {}", reader.name(), other.unwrap_err()),
            });
        });
        read.unwrap();
        let fifo = "it is a FIFO; only a plain file can be followed";
        assert_eq!(told, [format!("{}: {fifo}", scene.path("alice").display()), "web1".into()]);
        // Nor does one that is there from the beginning.
        let alice = Source::parse(OsStr::new(&scene.path("alice")));
        assert!(matches!(Follower::new(&[alice]), Err(Failure::Read(..))));
    }

    /// An end that comes while the earlier ones are being read.
    #[test]
    fn what_will_be_handed_over_is_not_read_before() {
        let mut scene = Scene::new(&["records"]);
        let record = r#"{"instance":"web1","cause":"killed","initiator":"admin"}"#;
        scene.append("records", &format!("{record}\n"));
        let source = Source::parse(OsStr::new(&scene.path("records")));
        let sources = [source];
        scene.follower = Follower::new(&sources).unwrap();
        scene.append("records", &format!("{record}\n"));
        let mut count = 0;
        let (follower, now) = (Some(&scene.follower), Timestamp::now());
        read_all(&sources, follower, now, &mut Unread::default(), &mut |_| {
            count += 1;
            Ok(())
        });
        assert_eq!(count, 1);
        assert_eq!(scene.read(), [record]);
    }

    /// The kernel tells of changes where a file is, not where a link to it is.
    #[test]
    fn a_file_behind_a_link_is_followed() {
        let mut scene = Scene::new(&["records"]);
        let elsewhere = tempfile::tempdir().unwrap();
        let link = elsewhere.path().join("link");
        std::os::unix::fs::symlink(scene.path("records"), &link).unwrap();
        scene.follower = Follower::new(&[Source::parse(OsStr::new(&link))]).unwrap();
        scene.append("records", "web1\n");
        let mut ready = [rustix::event::PollFd::new(&scene.follower, rustix::event::PollFlags::IN)];
        let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut ready, Some(&at_once)), Ok(1));
        assert_eq!(scene.read(), ["web1"]);
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
