//! When the daemon runs before ordinary processes, and when it makes way for them.
//!
//! It is in front (at real-time priority) for less than a fifth of any second, whatever its peers do.
//! When that is used up it is an ordinary process, until half of it can be used again.
//!
//! - **What is counted** is the CPU time of the thread, which takes a system call to ask for: once
//!   after each sleep. Within a turn of the loop the time that passes stands for it, which is never
//!   less, and is read without one: a thousand instances with something to say make a long turn. What
//!   that was too much is given back after the next sleep.
//! - **A sliding second**, not a bucket of tokens: a bucket that holds a fifth and is refilled by a
//!   fifth lets two fifths pass within one second, and one that never does so holds and refills half
//!   of that, which would make a daemon ordinary that is steadily busy for an eighth of the time.
//! - **The kernel** stays as the backstop, for a turn that never ends
//!   ([`priority::HAS_RUN_TOO_LONG`]). It counts anew from each sleep: a peer that pauses for 2 ms
//!   after every 50 ms is nothing to it.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use log::{debug, error, warn};

use crate::id::Moment;
use crate::sys::{clock, priority};

const SECOND: Duration = Duration::from_secs(1);

/// For how long it may be in front in any second: a fifth, less what may pass between two looks at
/// the clock.
const SHARE: Duration = Duration::from_millis(180);

/// It gets in front again when so much of that is left: not to change at every turn.
const WORTH_IT: Duration = Duration::from_millis(90);

/// Spells that lie within so short a time are remembered as one.
const GRAIN: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    InFront,
    MakesWay {
        until: Moment,
    },
    /// It is not allowed to be anywhere else.
    Ordinary,
}

#[derive(Debug)]
pub(super) struct Pace {
    place: Place,
    /// Everything before that is accounted for, ...
    accounted: Moment,
    /// ... of which so much by the time that has passed since the CPU time was this.
    estimated: Duration,
    cpu_time: Option<Duration>,
    used: Used,
}

impl Pace {
    /// Of a daemon that has yet to get in front.
    pub(super) fn ordinary() -> Self {
        Self {
            place: Place::Ordinary,
            accounted: Moment::START,
            estimated: Duration::ZERO,
            cpu_time: None,
            used: Used::default(),
        }
    }

    /// Gets in front, for the first time.
    pub(super) fn begin(&mut self, now: Moment) -> io::Result<()> {
        priority::raise()?;
        self.place = Place::InFront;
        self.count_from(now);
        Ok(())
    }

    fn count_from(&mut self, now: Moment) {
        self.accounted = now;
        (self.estimated, self.cpu_time) = (Duration::ZERO, clock::cpu_time());
    }

    /// Counts what has passed since it was last looked at, and makes way if that was too much. To be
    /// called whenever something has been done.
    pub(super) fn look(&mut self, now: Moment) {
        if self.place == Place::InFront {
            let passed = now.since(self.accounted);
            self.used.add(self.accounted, now, passed);
            self.estimated += passed;
            self.accounted = now;
            if self.used.is_up() {
                self.lower(now, self.used.can_be_in_front_at());
            }
        }
    }

    /// The loop is about to sleep.
    pub(super) fn sleep(&mut self, now: Moment) {
        self.look(now);
        if let Place::MakesWay { until } = self.place
            && until <= now
        {
            self.used.forget(now);
            // What the kernel takes for a sleep passes in there.
            self.place = match priority::raise() {
                Ok(()) => Place::InFront,
                Err(error) => {
                    warn!(
                        "Cannot regain the real-time priority: {error}; on a busy machine a guest may be gone before its file is there"
                    );
                    Place::Ordinary
                }
            };
            self.count_from(now);
        }
    }

    /// The loop has woken up.
    pub(super) fn wake(&mut self, now: Moment) {
        if self.place == Place::InFront {
            let cpu_time = clock::cpu_time();
            let used = cpu_time.zip(self.cpu_time).map(|(now, then)| now.saturating_sub(then));
            // Where nobody says, what has passed stands.
            let used = used.unwrap_or(self.estimated);
            self.used.take_back(self.estimated.saturating_sub(used));
            // To fall asleep and to wake up takes some, too.
            self.used.add(self.accounted, now, used.saturating_sub(self.estimated));
            (self.estimated, self.cpu_time) = (Duration::ZERO, cpu_time);
        }
        self.accounted = now;
    }

    /// The kernel says that it has run for too long. It is right even where nothing was counted.
    pub(super) fn make_way(&mut self, now: Moment) {
        self.look(now);
        if self.place == Place::InFront {
            self.lower(now, now + SECOND);
        }
    }

    fn lower(&mut self, now: Moment, until: Moment) {
        self.place = Place::MakesWay { until };
        match priority::lower() {
            Ok(()) => debug!(
                "Has run before other processes for long enough; giving way to them for {:.0?}",
                until.since(now)
            ),
            Err(error) => error!("Cannot give up the real-time priority: {error}"),
        }
    }

    /// When it is to get in front again.
    pub(super) fn deadline(&self) -> Option<Moment> {
        match self.place {
            Place::MakesWay { until } => Some(until),
            Place::InFront | Place::Ordinary => None,
        }
    }
}

/// What was used of the share in the latest second.
#[derive(Debug, Default)]
struct Used {
    spells: VecDeque<Spell>,
    total: Duration,
}

/// Some time at real-time priority.
#[derive(Debug)]
struct Spell {
    from: Moment,
    until: Moment,
    /// How much of the time in between it was.
    length: Duration,
}

impl Used {
    /// Adds so much, which lies between the two. It counts until a second after the later one.
    fn add(&mut self, from: Moment, until: Moment, length: Duration) {
        self.forget(until);
        self.total += length;
        match self.spells.back_mut() {
            Some(last) if until.since(last.from) <= GRAIN => {
                last.until = until;
                last.length += length;
            }
            _ => self.spells.push_back(Spell { from, until, length }),
        }
    }

    /// So much of what was added last was not used.
    fn take_back(&mut self, mut length: Duration) {
        while let Some(last) = self.spells.back_mut().filter(|_| !length.is_zero()) {
            let taken = last.length.min(length);
            last.length -= taken;
            self.total -= taken;
            length -= taken;
            if last.length.is_zero() {
                self.spells.pop_back();
            }
        }
    }

    /// Forgets what was used more than a second ago.
    fn forget(&mut self, now: Moment) {
        while let Some(spell) = self.spells.front()
            && spell.until + SECOND <= now
        {
            self.total -= spell.length;
            self.spells.pop_front();
        }
    }

    fn is_up(&self) -> bool {
        self.total >= SHARE
    }

    /// When enough of it will have been forgotten.
    fn can_be_in_front_at(&self) -> Moment {
        let mut left = self.total;
        let mut at = Moment::START;
        for spell in &self.spells {
            if left <= SHARE.saturating_sub(WORTH_IT) {
                break;
            }
            left -= spell.length;
            at = spell.until + SECOND;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn at(milliseconds: u64) -> Moment {
        Moment(Duration::from_millis(milliseconds))
    }

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// A stretch of time in front.
    #[derive(Debug)]
    struct Stretch(Moment, Moment);

    /// Plays turns of the loop, each of so many microseconds after so long a sleep, with a look at
    /// the clock every millisecond; returns when it was in front.
    fn play(turns: impl IntoIterator<Item = (u64, u64)>) -> Vec<Stretch> {
        const LOOK: Duration = Duration::from_millis(1);
        let mut used = Used::default();
        let mut now = at(1_000_000);
        let mut makes_way_until = None;
        let mut in_front: Vec<Stretch> = Vec::new();
        for (awake, asleep) in turns {
            let mut left = Duration::from_micros(awake);
            while !left.is_zero() {
                let step = left.min(LOOK);
                left -= step;
                let then = now + step;
                if makes_way_until.is_none() {
                    match in_front.last_mut() {
                        Some(Stretch(_, until)) if *until == now => *until = then,
                        _ => in_front.push(Stretch(now, then)),
                    }
                    used.add(now, then, step);
                    if used.is_up() {
                        makes_way_until = Some(used.can_be_in_front_at());
                    }
                }
                now = then;
            }
            if makes_way_until.is_some_and(|until| until <= now) {
                used.forget(now);
                makes_way_until = None;
            }
            now = now + Duration::from_micros(asleep);
        }
        in_front
    }

    /// How much of the second before `end` was spent in front.
    fn in_the_second_before(end: Moment, in_front: &[Stretch]) -> Duration {
        let begin = end.before(SECOND);
        in_front
            .iter()
            .map(|Stretch(from, until)| (*until).min(end).since((*from).max(begin)))
            .sum()
    }

    fn most_in_any_second(in_front: &[Stretch]) -> Duration {
        // The busiest second ends where a stretch does.
        in_front.iter().map(|it| in_the_second_before(it.1, in_front)).max().unwrap_or_default()
    }

    #[test]
    fn bursts_of_50_ms_with_pauses_of_2_ms_have_less_than_a_fifth_and_most_of_it() {
        let in_front = play([(50_000, 2_000)].repeat(200));
        let most = most_in_any_second(&in_front);
        assert!(most >= ms(170) && most < ms(200), "{most:?}");
        let altogether: Duration = in_front.iter().map(|it| it.1.since(it.0)).sum();
        assert!(altogether > ms(10 * 100), "{altogether:?} of ten seconds");
    }

    #[test]
    fn a_daemon_that_never_sleeps_has_less_than_a_fifth() {
        let most = most_in_any_second(&play([(1_000, 0)].repeat(5_000)));
        assert!(most < ms(200), "{most:?}");
    }

    #[test]
    fn one_that_is_steadily_busy_for_a_sixth_of_the_time_stays_in_front() {
        let turns = 3_000;
        let in_front = play([(500, 2_500)].repeat(turns));
        assert_eq!(in_front.len(), turns);
    }

    #[test]
    fn what_is_remembered_does_not_grow() {
        let mut used = Used::default();
        for number in 0..100_000 {
            let from = at(number);
            used.add(from, from + Duration::from_micros(10), Duration::from_micros(10));
            assert!(used.spells.len() <= 101, "{}", used.spells.len());
        }
        assert!(!used.is_up());
        used.forget(at(200_000));
        assert_eq!((used.spells.len(), used.total), (0, Duration::ZERO));
    }

    #[test]
    fn what_was_counted_too_much_is_given_back() {
        let mut used = Used::default();
        used.add(at(100), at(130), ms(30));
        used.add(at(130), at(160), ms(30));
        used.take_back(ms(40));
        assert_eq!((used.spells.len(), used.total), (1, ms(20)));
        // It is not asked to give back what has been forgotten since.
        used.take_back(ms(40));
        assert_eq!((used.spells.len(), used.total), (0, Duration::ZERO));
    }

    #[test]
    fn it_is_in_front_again_when_half_can_be_used_again() {
        let mut used = Used::default();
        for number in 0..4 {
            used.add(at(number * 100), at(number * 100 + 50), ms(50));
        }
        assert!(used.is_up());
        // The third of the four: 50 of 180 are used then.
        assert_eq!(used.can_be_in_front_at(), at(1250));
        used.forget(at(1250));
        assert!(used.total + WORTH_IT <= SHARE);
    }

    proptest! {
        #[test]
        fn no_second_has_more_than_a_fifth(
            turns in prop::collection::vec((1_u64..100_000, 0_u64..50_000), 1..150),
        ) {
            let most = most_in_any_second(&play(turns));
            prop_assert!(most <= ms(200), "{most:?}");
        }
    }
}
