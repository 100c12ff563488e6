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
/// Without their time of birth, one of the files could be a new one with an earlier one's number.
#[test]
fn what_has_been_read_is_not_read_again_however_many_have_had_its_name() {
    if !testbed::can_run(&[testbed::Need::TimesOfBirth]) {
        return;
    }
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
