//! Cuts what a stream says into lines, whatever pieces it comes in.
//!
//! The peer is taken as hostile: however long a line is, the memory that it takes is bounded. What
//! the lines mean is up to [`super::qmp`].

/// The longest line that is looked at, in bytes. QEMU's events need less than a tenth.
pub const LONGEST_LINE: usize = 16 * 1024;

/// A piece of the stream, cut at a line feed.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    Whole(&'a [u8]),
    /// The line grew past [`LONGEST_LINE`]. Said once a line; its bytes are gone.
    TooLong,
}

/// Cuts a stream into lines, whatever pieces it comes in, and holds at most
/// [`LONGEST_LINE`] bytes of it; none at all while no line is incomplete.
#[derive(Debug, Default)]
pub struct Lines {
    incomplete: Vec<u8>,
    skipping: bool,
}

impl Lines {
    /// Takes the next piece of the stream and hands every line that it completes to `each`.
    /// Empty lines are passed over.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            if self.skipping {
                self.skipping = false;
            } else if self.incomplete.len() + line.len() > LONGEST_LINE {
                self.incomplete = Vec::new();
                each(Line::TooLong);
            } else if self.incomplete.is_empty() {
                give(line, &mut each);
            } else {
                let mut whole = std::mem::take(&mut self.incomplete);
                whole.extend_from_slice(line);
                give(&whole, &mut each);
            }
        }
        if self.skipping || bytes.is_empty() {
            return;
        }
        if self.incomplete.len() + bytes.len() > LONGEST_LINE {
            self.incomplete = Vec::new();
            self.skipping = true;
            each(Line::TooLong);
        } else {
            self.incomplete.extend_from_slice(bytes);
        }
    }

    /// How much memory the incomplete line takes, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.incomplete.capacity()
    }

    /// The stream has ended: hands over what was left without a line feed.
    pub fn finish(&mut self, mut each: impl FnMut(Line<'_>)) {
        let last = std::mem::take(self);
        give(&last.incomplete, &mut each);
    }
}

fn give(line: &[u8], each: &mut impl FnMut(Line<'_>)) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if !line.is_empty() {
        each(Line::Whole(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lines of a stream that comes in the given pieces.
    fn lines(pieces: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
        let mut found = Vec::new();
        let mut collect = |line: Line<'_>| match line {
            Line::Whole(line) => found.push(Some(line.to_vec())),
            Line::TooLong => found.push(None),
        };
        let mut stream = Lines::default();
        for piece in pieces {
            stream.feed(piece, &mut collect);
            assert!(stream.incomplete.len() <= LONGEST_LINE);
        }
        stream.finish(&mut collect);
        found
    }

    #[test]
    fn a_line_too_long_is_said_once_and_the_next_is_whole() {
        let long = vec![b'x'; LONGEST_LINE + 1];
        let found = lines(&[&long, &long, b"\nnext\n"]);
        assert_eq!(found, [None, Some(b"next".to_vec())]);
        let at_the_limit = &long[1..];
        assert_eq!(lines(&[at_the_limit, b"\n"]), [Some(at_the_limit.to_vec())]);
    }

    #[test]
    fn a_line_of_16_kib_is_taken_in_whatever_pieces_and_no_longer_one() {
        for (length, is_taken) in [(16_384, true), (16_385, false)] {
            let line = vec![b'x'; length];
            let ended = [&line[..], b"\n"].concat();
            let taken = [is_taken.then_some(line)];
            assert_eq!(lines(&[&ended]), taken);
            assert_eq!(lines(&[&ended[..100], &ended[100..]]), taken);
        }
    }

    #[test]
    fn only_a_line_that_is_incomplete_takes_memory() {
        let mut stream = Lines::default();
        let held = |stream: &mut Lines, bytes: &[u8]| {
            stream.feed(bytes, |_| {});
            stream.held()
        };
        assert!(held(&mut stream, b"whole\nhalf") >= 4);
        assert_eq!(held(&mut stream, b"\n"), 0);
        assert!(held(&mut stream, b"half") >= 4);
        assert_eq!(held(&mut stream, &[b'x'; LONGEST_LINE]), 0, "it is too long");
    }

    #[test]
    fn the_last_line_needs_no_line_feed() {
        assert_eq!(
            lines(&[b"\r\none\r", b"\ntwo"]),
            [Some(b"one".to_vec()), Some(b"two".to_vec())]
        );
    }

    proptest! {
        #[test]
        fn the_lines_do_not_depend_on_the_pieces(text in "[ab\n]{0,60}", cuts in prop::collection::vec(0usize..60, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(lines(&pieces), lines(&[bytes]));
        }
    }
}
