//! One QEMU from its start to its end: the loop that waits for its monitor, its process, signals and
//! time.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::arguments::Options;
use super::monitor::{Heard, Monitor, Request};
use super::qemu::Qemu;
use super::supervisor::Supervisor;
use super::voice::{Level, Voice};
use crate::id::{Moment, Name};
use crate::stop::{Course, Deed, Input, Phase};
use crate::sys::process::Parent;
use crate::sys::signal_descriptor::{Origin, SignalDescriptor};
use crate::sys::{clock, sender};
use crate::verdict::{Case, CommandLine, Fact, Settings, Source};
use crate::wire::qmp::{Answer, Command, Event};
use crate::wire::{Printable, Sender, Signal, WaitStatus, command_line};

const MONITOR: Token = Token(0);
const SIGNALS: Token = Token(1);
const PROCESS: Token = Token(2);

/// A program that has not greeted after this long may be no QEMU; or one that needs long for its
/// memory.
const TO_GREET: Duration = Duration::from_secs(10);
/// A QEMU that went into the background all the same has this long to end.
const TO_END_BEHIND: Duration = Duration::from_secs(10);

/// So many parts of what it said last are read: more than a socket holds.
const MOST_LAST_WORDS: u32 = 64;

/// So often it is said that it was not understood: its guest may have it say what it likes.
const MOST_NONSENSE: u32 = 10;

/// What is known when it is over.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) at: Moment,
    pub(super) status: WaitStatus,
    pub(super) case: Case,
    pub(super) course: Course,
    pub(super) has_answered: bool,
    /// The first signal that asked for the end.
    pub(super) asked: Option<(Signal, Arc<Sender>)>,
}

/// A QEMU that runs.
#[derive(Debug)]
pub(super) struct Session<'a> {
    name: Name,
    voice: &'a Voice,
    poll: Poll,
    signals: &'a SignalDescriptor,
    qemu: &'a mut Qemu,
    monitor: Monitor,
    /// What it is not to outlive.
    parent: Option<Parent>,
    supervisor: &'a mut Supervisor,
    course: Course,
    case: Case,
    settings: Settings,
    asked: Option<(Signal, Arc<Sender>)>,
    has_answered: bool,
    /// When it will be said that there was no greeting.
    greeting_due: Option<Moment>,
    phase: Phase,
    /// How often it was not understood.
    nonsense: u32,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        options: &Options,
        voice: &'a Voice,
        signals: &'a SignalDescriptor,
        qemu: &'a mut Qemu,
        monitor: Monitor,
        parent: Option<Parent>,
        supervisor: &'a mut Supervisor,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        for (token, descriptor) in [
            (MONITOR, monitor.as_fd().as_raw_fd()),
            (SIGNALS, signals.as_fd().as_raw_fd()),
            (PROCESS, qemu.pidfd().as_raw_fd()),
        ] {
            poll.registry().register(&mut SourceFd(&descriptor), token, Interest::READABLE)?;
        }
        let course =
            Course::new(options.plans.clone(), options.stop_timeout, options.continues_to_stop);
        let no_reboot = command_line::has_no_reboot(&options.command_line());
        let now = clock::now();
        let mut session = Self {
            name: options.guest_name(),
            voice,
            poll,
            signals,
            qemu,
            monitor,
            parent,
            supervisor,
            course,
            case: Case::default(),
            settings: Settings::default(),
            asked: None,
            has_answered: false,
            greeting_due: Some(now + TO_GREET),
            phase: Phase::Going,
            nonsense: 0,
        };
        session.learn(now, Source::Process, Fact::Started(CommandLine { no_reboot }));
        Ok(session)
    }

    /// Until QEMU has ended.
    pub(super) fn run(mut self) -> io::Result<Ended> {
        let mut events = Events::with_capacity(4);
        let mut is_over = false;
        while !is_over {
            match self.poll.poll(&mut events, self.patience()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            let now = clock::now();
            // What QEMU said comes first: it may explain everything else.
            self.read_monitor(now);
            self.read_signals(now)?;
            is_over = self.qemu.has_ended();
            self.tick(now);
        }
        self.end()
    }

    fn patience(&self) -> Option<Duration> {
        if self.monitor.has_more() {
            return Some(Duration::ZERO);
        }
        let due = [self.course.due(), self.supervisor.due(), self.greeting_due];
        let first = due.into_iter().flatten().min()?;
        Some(first.since(clock::now()))
    }

    fn tick(&mut self, now: Moment) {
        self.go_on(now, &Input::Tick);
        self.supervisor.tick(now);
        if self.greeting_due.is_some_and(|due| due <= now) {
            self.greeting_due = None;
            let pid = self.qemu.process.pid;
            self.say(
                Level::Warning,
                &format!("pid {pid} has not opened its monitor yet; is it QEMU, and not a script that starts one and ends?"),
            );
        }
    }

    fn end(mut self) -> io::Result<Ended> {
        let now = clock::now();
        // What it said last, and was not read before its end was seen.
        for _ in 0..MOST_LAST_WORDS {
            self.read_monitor(now);
            if !self.monitor.has_more() {
                break;
            }
        }
        let status = self.qemu.reap()?;
        self.learn(now, Source::Process, Fact::Exited(status));
        let is_others = status.signal() == Some(Signal::KILL) && self.phase != Phase::Killed;
        if is_others && self.qemu.may_have_been_out_of_memory() {
            self.learn(now, Source::ControlGroup, Fact::OutOfMemory);
        }
        // One that has said SHUTDOWN has ended, whoever holds its monitor: something that a wrapper has
        // started before it became QEMU.
        if !self.course.is_going_down() && !self.monitor.has_ended() {
            self.end_what_is_behind()?;
        }
        let Self { case, course, has_answered, asked, .. } = self;
        Ok(Ended { at: now, status, case, course, has_answered, asked })
    }

    /// The process has ended, and yet somebody holds its monitor. That may be a QEMU that went into the
    /// background in a way that its command line did not show, or one that a wrapper did not become: then
    /// it has something to say, and ends if it is told to.
    fn end_what_is_behind(&mut self) -> io::Result<()> {
        let deadline = clock::now() + TO_END_BEHIND;
        let (mut is_told, mut is_known) = (false, false);
        let mut events = Events::with_capacity(4);
        while !self.monitor.has_ended() && clock::now() < deadline {
            if self.has_answered && !std::mem::replace(&mut is_told, true) {
                self.send(Request::Ours(Command::Quit));
            }
            self.supervisor.tick(clock::now());
            let left = deadline.since(clock::now()).min(Duration::from_secs(1));
            let patience = if self.monitor.has_more() { Duration::ZERO } else { left };
            match self.poll.poll(&mut events, Some(patience)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                polled => polled?,
            }
            if self.read_monitor(clock::now()) && !std::mem::replace(&mut is_known, true) {
                self.say(
                    Level::Error,
                    "QEMU went into the background, where no supervisor sees it; ending it",
                );
            }
        }
        Ok(())
    }

    /// Whether anything was said there.
    fn read_monitor(&mut self, now: Moment) -> bool {
        if self.monitor.has_ended() {
            return false;
        }
        let all_heard = self.monitor.read();
        let is_any = !all_heard.is_empty();
        for heard in all_heard {
            self.hear(now, heard);
        }
        if self.monitor.has_ended() {
            let descriptor = self.monitor.as_fd().as_raw_fd();
            // It fails only for one that was not registered.
            let _ = self.poll.registry().deregister(&mut SourceFd(&descriptor));
            self.learn(now, Source::Qmp, Fact::Closed);
            self.go_on(now, &Input::MonitorClosed);
        }
        is_any
    }

    fn hear(&mut self, now: Moment, heard: Heard) {
        match heard {
            Heard::Greeting(version) => {
                self.greeting_due = None;
                self.learn(now, Source::Qmp, Fact::Connected);
                self.learn(now, Source::Qmp, Fact::Greeted(version));
                self.send(Request::Ours(Command::Negotiate));
                self.send(Request::Ours(Command::QueryStatus));
            }
            // It greets while it still makes its devices, of which each may be the end of it.
            Heard::Answered { request: Request::Ours(Command::Negotiate), .. } => {
                self.has_answered = true;
                self.go_on(now, &Input::Greeted);
            }
            Heard::Answered { answer: Answer::Status { running, panicked }, state, .. } => {
                // A QEMU that is about to end still answers that its guest runs. After a gap in the
                // conversation that would take its SHUTDOWN back; here there is none.
                if !self.course.is_going_down() {
                    let fact = if panicked { Fact::IsPanicked } else { Fact::Answered { running } };
                    self.learn(now, Source::Qmp, fact);
                }
                if running {
                    self.notify_ready(now);
                }
                if let Some(state) = state {
                    self.go_on(now, &Input::State(state));
                }
            }
            Heard::Answered { .. } => {}
            Heard::Refused { request, error } => self.be_refused(now, request, &error),
            Heard::Event(event, stamp) => {
                self.learn(now, Source::Qmp, Fact::Said(event.clone(), stamp));
                if event == Event::Resume {
                    self.notify_ready(now);
                }
                self.go_on(now, &Input::Event(&event));
            }
            Heard::Nonsense(line) => {
                self.nonsense += 1;
                if self.nonsense > MOST_NONSENSE {
                    return;
                }
                let line = Printable(&line);
                self.say(Level::Warning, &format!("not understood at QEMU's monitor: {line}"));
            }
        }
    }

    fn be_refused(&mut self, now: Moment, request: Request, error: &str) {
        let error = Printable(error.as_bytes());
        match request {
            // A QEMU before 6.0: its guest may reboot, and is asked again.
            Request::Ours(Command::EndAtReboot) => {}
            Request::Ours(Command::SystemWakeup) => {
                self.say(Level::Warning, &format!("the guest cannot be woken: {error}"));
                self.go_on(now, &Input::CannotWake);
            }
            Request::Ours(command) => {
                self.say(Level::Warning, &format!("QEMU refused {command:?}: {error}"));
            }
            Request::Users(command) => {
                self.say(Level::Warning, &format!("QEMU refused {}: {error}", command.name()));
            }
        }
    }

    fn read_signals(&mut self, now: Moment) -> io::Result<()> {
        while let Some((signal, origin)) = self.signals.read()? {
            let was_stopping = self.course.ends().is_some();
            // While QEMU is busy with that there is time to look who sent it.
            let is_orphaned = self.parent.take_if(|parent| parent.has_ended()).is_some();
            let input = if is_orphaned { Input::ParentEnded } else { Input::Signal(signal) };
            self.act(now, &input);
            let sender = Arc::new(identify(origin, now));
            self.learn(now, Source::Runner, Fact::Asked(signal, Arc::clone(&sender)));
            let ended = if is_orphaned { "what started this has ended: " } else { "" };
            self.say(Level::Notice, &format!("{ended}{signal} from {sender}"));
            self.tell_phase(now);
            if self.course.ends().is_some() && !was_stopping {
                self.supervisor.notify_stopping(now);
            }
            // As the course takes it.
            let asked = if is_orphaned { Signal::TERM } else { signal };
            if !was_stopping && self.course.asked_with() == Some(asked) {
                self.asked = Some((signal, sender));
                // It may be the supervisor that has asked.
                let over = self.course.over().unwrap_or(now);
                self.supervisor.ask_for_time(now, over);
            }
        }
        Ok(())
    }

    /// Has the course take what has happened, and does what is to be done.
    fn go_on(&mut self, now: Moment, input: &Input<'_>) {
        self.act(now, input);
        self.tell_phase(now);
    }

    fn act(&mut self, now: Moment, input: &Input<'_>) {
        for deed in self.course.take(now, input) {
            self.perform(deed);
        }
    }

    fn perform(&mut self, deed: Deed) {
        let now = clock::now();
        let command = match deed {
            Deed::AskState => Command::QueryStatus,
            Deed::EndAtReboot => Command::EndAtReboot,
            Deed::Wake => Command::SystemWakeup,
            Deed::Continue => Command::Cont,
            Deed::PressButton => Command::SystemPowerdown,
            Deed::Quit => Command::Quit,
            Deed::Reset => Command::SystemReset,
            Deed::HangUp => return self.signal(now, Signal::HUP),
            Deed::Kill => return self.signal(now, Signal::KILL),
            Deed::Execute(command) => {
                self.say(Level::Notice, &format!("telling QEMU: {}", command.name()));
                self.learn(now, Source::Runner, Fact::Did("gave QEMU a command of the user's"));
                self.send(Request::Users(command));
                return;
            }
        };
        let in_words = match command {
            Command::SystemPowerdown => Some("pressed the guest's power button"),
            Command::SystemReset => Some("pressed the guest's reset button"),
            Command::SystemWakeup => Some("woke the guest"),
            Command::Cont => Some("let the guest go on"),
            Command::Quit => Some("told QEMU to end"),
            _ => None,
        };
        if let Some(words) = in_words {
            self.learn(now, Source::Runner, Fact::Did(words));
        }
        self.send(Request::Ours(command));
    }

    fn signal(&mut self, now: Moment, signal: Signal) {
        match self.qemu.send(signal) {
            Ok(true) => {
                let ours = Arc::new(look_at(std::process::id(), now));
                self.learn(now, Source::Runner, Fact::Signalled(signal, ours));
            }
            // It has ended already.
            Ok(false) => {}
            Err(error) => {
                let pid = self.qemu.process.pid;
                self.say(
                    Level::Error,
                    &format!("cannot send {signal} to QEMU, pid {pid}: {error}"),
                );
            }
        }
    }

    fn send(&mut self, request: Request) {
        // Where QEMU is gone, that will be heard; where it hangs, its time runs out.
        if let Err(error) = self.monitor.send(request)
            && error.kind() == io::ErrorKind::WouldBlock
        {
            self.say(Level::Warning, "QEMU does not read from its monitor; it may hang");
        }
    }

    fn tell_phase(&mut self, now: Moment) {
        let phase = self.course.phase();
        let before = std::mem::replace(&mut self.phase, phase);
        if before == phase {
            return;
        }
        let left = self
            .course
            .ends()
            .map_or_else(String::new, |ends| format!(", {} s at most", ends.since(now).as_secs()));
        let (level, text) = match self.phase {
            Phase::Going if before == Phase::Asked => {
                (Level::Warning, "the guest does not power down, and nothing is to follow".into())
            }
            Phase::Going => return,
            Phase::Asked => (Level::Notice, format!("asking the guest to power down{left}")),
            Phase::ToldToEnd if self.course.is_forced() => {
                (Level::Warning, format!("the guest does not power down; ending QEMU{left}"))
            }
            Phase::ToldToEnd => (Level::Notice, format!("ending QEMU{left}")),
            Phase::Flushing => (Level::Notice, "QEMU flushes its disks and ends".into()),
            Phase::Killed => (Level::Warning, "QEMU does not end; killing it".into()),
        };
        self.supervisor.notify_status(now, &text);
        self.say(level, &text);
    }

    fn notify_ready(&mut self, now: Moment) {
        if self.supervisor.notify_ready(now) {
            let version = self.case.qemu().map_or_else(String::new, |qemu| format!(" {qemu}"));
            let text = format!("the guest runs: QEMU{version}, pid {}", self.qemu.process.pid);
            self.supervisor.notify_status(now, &text);
            self.say(Level::Notice, &text);
        }
    }

    fn learn(&mut self, at: Moment, source: Source, fact: Fact) {
        self.case.learn(at, source, fact, &self.settings);
    }

    fn say(&self, level: Level, text: &str) {
        self.voice.say(level, format_args!("{}: {text}", self.name));
    }
}

/// What is to be known of a process that sends a signal at this moment. Only root and this very user
/// can: nobody who would make a look at him hang.
fn look_at(pid: u32, now: Moment) -> Sender {
    sender::look_at(pid, now, clock::boot_offset(), sender::executable(pid))
}

/// Who sent a signal to this process.
fn identify(origin: Origin, now: Moment) -> Sender {
    match origin {
        Origin::Kernel => Sender::kernel(),
        Origin::Process { pid, uid } => {
            let sender = look_at(pid, now);
            Sender { uid: sender.uid.or(Some(uid)), ..sender }
        }
        Origin::Outside { uid } => Sender {
            name: Some("a process outside this container".into()),
            uid: Some(uid),
            ..Sender::default()
        },
    }
}
