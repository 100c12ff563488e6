use super::questions::THREADS;
use super::*;
use crate::sys::{clock, process};
use std::thread;

const NOW: Moment = Moment(Duration::from_secs(100));
const LIFE: Incarnation = Incarnation(1);

fn nowhere() -> Lookup {
    Lookup::new(Paths::below("/nowhere".as_ref()))
}

fn begun(threads: Option<WorkerThreads>) -> Lookup {
    let mut lookup = nowhere();
    lookup.begin(NOW, threads, &mut VecDeque::new());
    lookup
}

fn hanging() -> Lookup {
    begun(Some(start_threads(|_| {}, hang).unwrap()))
}

fn hang(_: &[u8]) -> Vec<u8> {
    loop {
        thread::park();
    }
}

fn look_into(lookup: &mut Lookup, at: Moment, task: u32) -> VecDeque<Event> {
    let mut events = VecDeque::new();
    lookup.look_into(at, LIFE, at, Arc::new(Sender::unseen(task)), &mut events);
    events
}

fn give_up(lookup: &mut Lookup, now: Moment) -> usize {
    let mut events = VecDeque::new();
    lookup.give_up(now, &mut events);
    for event in &events {
        let Event::Of(LIFE, Said::LookedInto { sender: None, .. }) = event else {
            panic!("{event:?}")
        };
    }
    events.len()
}

#[test]
fn this_process_is_looked_into() {
    let poll = mio::Poll::new().unwrap();
    let mut lookup = nowhere();
    let (now, pid) = (clock::now(), std::process::id());
    let mut events = look_into(&mut lookup, now, pid);
    assert_eq!(lookup.asked, 0, "it waits for the start");
    lookup.start(now, poll.registry(), |_| {}, &mut events);
    let this = process::identify(pid).unwrap();
    lookup.read_command_line(now, LIFE, this, &mut events);
    let another = Process { started: 1, ..this };
    lookup.read_command_line(now, LIFE, another, &mut events);
    assert!(events.is_empty());
    while lookup.looks.iter().any(|look| look.about != About::CommandLine(another)) {
        lookup.read(now, |_| None, &mut events);
    }
    while !lookup.looks.is_empty() {
        lookup.read(now, |_| None, &mut events);
    }
    assert_eq!((events.len(), lookup.asked), (3, 0));
    let is_this = |event: &Event| match event {
        Event::Of(LIFE, Said::LookedInto { at, task, sender: Some(sender) }) => {
            (*at, *task, sender.pid, sender.gone) == (now, pid, Some(pid), false)
        }
        // Of another process with this pid nothing is said.
        Event::Of(LIFE, Said::CommandLine(line)) => line.is_none_or(|line| !line.no_reboot),
        _ => false,
    };
    assert!(events.iter().all(is_this), "{events:?}");
}

#[test]
fn one_that_hangs_is_asked_once_and_given_up() {
    let mut lookup = hanging();
    assert!(look_into(&mut lookup, NOW, 7).is_empty());
    assert!(look_into(&mut lookup, NOW + Duration::from_millis(1), 7).is_empty());
    assert_eq!((lookup.asked, lookup.deadline()), (1, Some(NOW + PATIENCE)));
    assert_eq!(give_up(&mut lookup, NOW + Duration::from_millis(999)), 0);
    assert_eq!(give_up(&mut lookup, NOW + PATIENCE), 2);
    assert_eq!((lookup.is_stuck, lookup.deadline()), (false, None));
    assert_eq!(look_into(&mut lookup, NOW + PATIENCE, 7).len(), 1, "at once");
}

#[test]
fn who_was_frozen_himself_gives_nobody_up_for_that() {
    let mut lookup = hanging();
    let thawed = NOW + Duration::from_secs(60);
    assert!(look_into(&mut lookup, NOW, 7).is_empty());
    assert_eq!(give_up(&mut lookup, thawed), 0);
    assert_eq!(lookup.deadline(), Some(thawed + PATIENCE));
    assert_eq!(give_up(&mut lookup, thawed + PATIENCE), 1);
}

/// Three hang for a while, and others wait behind them.
#[test]
fn the_time_of_a_look_begins_when_a_thread_does() {
    let (go_on, is_to) = std::sync::mpsc::channel::<()>();
    let is_to = Arc::new(std::sync::Mutex::new(is_to));
    let slow = move |question: &[u8]| {
        let _ = is_to.lock().unwrap().recv();
        let question: Question = serde_json::from_slice(question).unwrap();
        serde_json::to_vec(&Answer { number: question.number, found: Found::Nothing }).unwrap()
    };
    let mut lookup = begun(Some(start_threads(|_| {}, slow).unwrap()));
    for task in 1..=5 {
        assert!(look_into(&mut lookup, NOW, task).is_empty());
    }
    let later = NOW + Duration::from_millis(900);
    let mut events = VecDeque::new();
    go_on.send(()).unwrap();
    while events.is_empty() {
        lookup.read(later, |_| None, &mut events);
    }
    let since: Vec<Moment> = lookup.looks.iter().map(|look| look.since).collect();
    assert_eq!(since, [NOW, NOW, later, NOW]);
    drop(go_on);
}

fn answer_of(events: &VecDeque<Event>) -> &Answers {
    match events.front() {
        Some(Event::Of(LIFE, Said::Consulted(answers))) if events.len() == 1 => answers,
        other => panic!("{other:?}"),
    }
}

#[test]
fn qemus_own_log_answers_a_consultation() {
    let directory = tempfile::tempdir().unwrap();
    let paths = Paths::below(directory.path().as_os_str());
    let (there, missing) = (Name::new(b"web\n1"), Name::new(b"web2"));
    let log = paths.log_of(&there);
    std::fs::create_dir_all(log.parent().unwrap()).unwrap();
    std::fs::write(log, "qemu: terminating on signal 15 from pid 7 (/bin/sh)\n").unwrap();
    let poll = mio::Poll::new().unwrap();
    let mut lookup = Lookup::new(paths);
    lookup.start(NOW, poll.registry(), |_| {}, &mut VecDeque::new());
    let mut read = |name: &Name| {
        let mut events = VecDeque::new();
        lookup.read_own_log(NOW, LIFE, name, &mut events);
        while events.is_empty() {
            lookup.read(NOW, |_| None, &mut events);
        }
        answer_of(&events).clone()
    };
    let answers = read(&there);
    let [(Source::OwnLog, Fact::Signalled(signal, sender))] = &answers.facts[..] else {
        panic!("{answers:?}")
    };
    assert_eq!((*signal, sender.pid), (crate::wire::Signal::TERM, Some(7)));
    assert_eq!(read(&missing), Answers::default(), "it has nothing to say");
    let what = About::OwnLog(there).what(&lookup.paths);
    assert!(!what.contains('\n'), "{what}");
}

#[test]
fn a_log_that_hangs_is_given_up() {
    let mut lookup = hanging();
    let name = Name::new(b"web1");
    let mut events = VecDeque::new();
    lookup.read_own_log(NOW, LIFE, &name, &mut events);
    assert!(events.is_empty());
    lookup.give_up(NOW + PATIENCE, &mut events);
    assert!(answer_of(&events).lacks_own_log);
    events.clear();
    lookup.read_own_log(NOW + PATIENCE, LIFE, &name, &mut events);
    assert!(answer_of(&events).lacks_own_log, "at once");
}

#[test]
fn when_all_hang_nobody_is_asked_until_one_goes_on() {
    let mut lookup = hanging();
    let count = MOST_ASKED + 10;
    for task in 1..=count {
        assert!(look_into(&mut lookup, NOW, task as u32).is_empty());
    }
    assert_eq!((lookup.asked, lookup.looks.len()), (MOST_ASKED, count));
    assert_eq!(give_up(&mut lookup, NOW + PATIENCE), count);
    assert!(lookup.is_stuck);
    assert_eq!((lookup.asked, lookup.looks.len()), (THREADS, THREADS));
    assert_eq!(look_into(&mut lookup, NOW + PATIENCE, 1000).len(), 1, "at once");
    assert_eq!(lookup.deadline(), None);
}

#[test]
fn without_threads_nothing_is_known() {
    let mut lookup = nowhere();
    assert!(look_into(&mut lookup, NOW, 7).is_empty());
    let mut events = VecDeque::new();
    lookup.begin(NOW, None, &mut events);
    assert_eq!((events.len(), look_into(&mut lookup, NOW, 7).len()), (1, 1));
    assert_eq!(lookup.deadline(), None);
}

#[test]
fn who_is_called_otherwise_than_qemu_says_is_gone() {
    let by_qemu = Sender {
        name: Some("virsh".into()),
        command: Some("/usr/bin/virsh".into()),
        ..Sender::unseen(7)
    };
    let seen = |command: &str| Sender {
        name: Some("name".into()),
        command: Some(command.into()),
        uid: Some(0),
        ..Sender::unseen(7)
    };
    let same = seen("/usr/bin/virsh destroy web1");
    assert_eq!(completed(&by_qemu, &same), same);
    let gone = completed(&by_qemu, &seen("/usr/bin/virsh-admin"));
    assert!(gone.gone && gone.uid.is_none(), "{gone:?}");
    assert_eq!(gone.name.as_deref(), Some("virsh"));
    assert_eq!(completed(&Sender::unseen(7), &same), same);
}
