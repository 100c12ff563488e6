//! Lines of a file or a pipe, each where it is read: memory is bounded whatever comes, and a line that
//! is too long cannot end in one that looks like another.

use std::io::{self, BufRead, BufReader, Read};

/// The longest line that is looked at, in bytes: a record is far shorter.
pub(super) const LONGEST: usize = 1 << 20;

/// What is read at once, in bytes.
const AT_ONCE: usize = 1 << 17;

/// A line, without its line feed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    /// The last one, which has no line feed: it may be being written.
    Unfinished(&'a [u8]),
    /// It has more than [`LONGEST`] bytes, which are gone; its line feed may yet have to come.
    TooLong {
        is_whole: bool,
    },
}

pub(super) struct Lines<R> {
    text: BufReader<R>,
    /// A line that the buffer has only in part.
    line: Vec<u8>,
    /// The bytes of the line that was handed out from the buffer.
    handed_out: usize,
    whole: u64,
    unfinished: u64,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(text: R) -> Self {
        let text = BufReader::with_capacity(AT_ONCE, text);
        Self { text, line: Vec::new(), handed_out: 0, whole: 0, unfinished: 0 }
    }

    /// How many bytes the whole lines had that have been handed out, with their line feeds.
    pub(super) fn whole(&self) -> u64 {
        self.whole
    }

    /// How many bytes came after those, if they have been handed out.
    pub(super) fn unfinished(&self) -> u64 {
        self.unfinished
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.text.consume(std::mem::take(&mut self.handed_out));
        self.fill()?;
        let Some(end) = memchr::memchr(b'\n', self.text.buffer()) else {
            return self.next_in_parts();
        };
        self.handed_out = end + 1;
        self.whole += end as u64 + 1;
        Ok(Some(Line::Whole(&self.text.buffer()[..end])))
    }

    fn next_in_parts(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let mut length = 0;
        loop {
            self.fill()?;
            let part = self.text.buffer();
            if part.is_empty() {
                // It may be asked for once more.
                self.unfinished = self.unfinished.max(length as u64);
                return Ok(match length {
                    0 => None,
                    _ if length > LONGEST => Some(Line::TooLong { is_whole: false }),
                    _ => Some(Line::Unfinished(&self.line)),
                });
            }
            let end = memchr::memchr(b'\n', part);
            let part = &part[..end.unwrap_or(part.len())];
            length += part.len();
            if length <= LONGEST {
                self.line.extend_from_slice(part);
            } else {
                self.line = Vec::new();
            }
            let taken = part.len() + usize::from(end.is_some());
            self.text.consume(taken);
            if end.is_some() {
                self.whole += length as u64 + 1;
                return Ok(Some(if length > LONGEST {
                    Line::TooLong { is_whole: true }
                } else {
                    Line::Whole(&self.line)
                }));
            }
        }
    }

    /// Has something in the buffer, unless the text has ended.
    fn fill(&mut self) -> io::Result<()> {
        loop {
            match self.text.fill_buf() {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lines in words, and the bytes of the whole ones.
    fn all(text: impl Read) -> (Vec<String>, u64) {
        let mut lines = Lines::new(text);
        let mut told = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            told.push(match line {
                Line::Whole(line) => String::from_utf8_lossy(line).into_owned(),
                Line::Unfinished(line) => format!("{}...", String::from_utf8_lossy(line)),
                Line::TooLong { is_whole } => format!("(too long, {is_whole})"),
            });
            assert!(lines.line.len() <= LONGEST);
        }
        (told, lines.whole())
    }

    #[test]
    fn a_long_line_is_one_and_the_next_is_whole() {
        let text = [&vec![b'x'; 3 * LONGEST][..], b"{}\nnext\n", &vec![b'x'; LONGEST + 1]].concat();
        let (told, whole) = all(&text[..]);
        assert_eq!(told, ["(too long, true)", "next", "(too long, false)"]);
        assert_eq!(whole, 3 * LONGEST as u64 + 8);
        let longest = [&vec![b'x'; LONGEST][..], b"\n"].concat();
        assert_eq!(all(&longest[..]).0[0].len(), LONGEST);
    }

    /// A reader of a pipe: it gives a few bytes at a time.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(buffer.len()).min(self.0.len());
            let (now, rest) = self.0.split_at(length);
            buffer[..length].copy_from_slice(now);
            self.0 = rest;
            Ok(length)
        }
    }

    proptest! {
        #[test]
        fn the_lines_do_not_depend_on_the_pieces(text in "[ab\n]{0,60}", length in 1_usize..70) {
            let (told, whole) = all(Dribble(text.as_bytes(), length));
            prop_assert_eq!(whole, text.rfind('\n').map_or(0, |at| at as u64 + 1));
            let mut expected: Vec<String> = text.split('\n').map(String::from).collect();
            match expected.pop() {
                Some(last) if !last.is_empty() => expected.push(format!("{last}...")),
                _ => {}
            }
            prop_assert_eq!(told, expected);
        }
    }
}
