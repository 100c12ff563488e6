//! The filter of the kernel's trace: which signals to which processes it lets pass, as text.

use super::Signal;

/// The filter of an event that lets these signals to these processes pass, in the notation of
/// the kernel's `trace/events.rst`, at most [`LONGEST_FILTER`] bytes. Each range is a first and a
/// last pid.
#[must_use]
pub fn filter(signals: &[Signal], ranges: &[(u32, u32)]) -> String {
    let any = |alternatives: Vec<String>| format!("({})", alternatives.join("||"));
    let mut parts = Vec::new();
    if !signals.is_empty() {
        parts.push(any(signals.iter().map(|signal| format!("sig=={}", signal.0)).collect()));
    }
    // Nobody is watched: no task has the pid 0.
    let pids: Vec<String> = ranges.iter().copied().map(condition).collect();
    parts.push(if pids.is_empty() { "pid==0".into() } else { any(pids) });
    parts.join("&&")
}

fn condition((first, last): (u32, u32)) -> String {
    if first == last { format!("pid=={first}") } else { format!("(pid>={first}&&pid<={last})") }
}

/// How many of these ranges, from the first one on, have room in one filter with these signals.
pub(super) fn room(signals: &[Signal], ranges: &[(u32, u32)]) -> usize {
    let mut length = filter(signals, &[]).len();
    let fits = |&range: &(u32, u32)| {
        length += "||".len() + condition(range).len();
        length <= LONGEST_FILTER
    };
    ranges.iter().copied().take_while(fits).count()
}

/// The ranges of pids that such a filter lets pass; nothing, if it is none of [`filter`]'s.
#[must_use]
pub fn watched_by(filter: &str) -> Option<Vec<(u32, u32)>> {
    let (_, pids) = filter.trim_end().split_at(filter.find("pid")?);
    let range = |part: &str| {
        if let Some(pid) = part.strip_prefix("pid==") {
            return pid.parse().ok().map(|pid| (pid, pid));
        }
        let (first, last) = part.strip_prefix("pid>=")?.split_once("&&pid<=")?;
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    let parts = pids.split("||").map(|part| part.trim_matches(['(', ')']));
    let ranges: Vec<(u32, u32)> = parts.map(range).collect::<Option<_>>()?;
    // Nobody is watched.
    Some(ranges.into_iter().filter(|&range| range != (0, 0)).collect())
}

/// The longest filter that the kernel takes, in bytes: a page less its last byte.
pub const LONGEST_FILTER: usize = 4095;

/// So many ranges always fit into a filter: each is at most `||(pid>=4194304&&pid<=4194304)`.
pub const MOST_RANGES: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_says_who_is_watched() {
        let signals = [Signal::TERM, Signal::KILL];
        for ranges in [vec![], vec![(7, 7)], vec![(3, 9)], vec![(7, 7), (10, 4_194_304), (9, 9)]] {
            for signals in [&signals[..], &[]] {
                let text = filter(signals, &ranges);
                assert_eq!(watched_by(&text), Some(ranges.clone()), "{text}");
                assert_eq!(watched_by(&format!("{text}\n")), Some(ranges.clone()), "{text}");
            }
        }
        for other in ["none\n", "", "sig==9\n", "pid==x"] {
            assert_eq!(watched_by(other), None, "{other}");
        }
    }

    #[test]
    fn as_many_have_room_as_the_kernel_takes() {
        let signals = [Signal::TERM; 12];
        for pid in [1, 99_999, 4_194_304] {
            for range in [(pid, pid), (pid, pid + 1)] {
                let ranges = vec![range; 5000];
                let count = room(&signals, &ranges);
                let length = filter(&signals, &ranges[..count]).len();
                assert!((LONGEST_FILTER - 64..=LONGEST_FILTER).contains(&length), "{length}");
                assert_eq!(room(&signals, &ranges[..count]), count);
                assert!(count >= MOST_RANGES, "{count}");
            }
        }
        assert_eq!(room(&signals, &[]), 0);
    }

    #[test]
    fn the_filter_names_signals_and_pids() {
        assert_eq!(
            filter(&[Signal::TERM, Signal::KILL], &[(5, 5), (7, 9)]),
            "(sig==15||sig==9)&&(pid==5||(pid>=7&&pid<=9))"
        );
        assert_eq!(filter(&[], &[]), "pid==0");
        let most = vec![(4_194_304, 4_194_305); MOST_RANGES];
        assert!(filter(&[Signal::TERM; 12], &most).len() <= LONGEST_FILTER);
    }
}
