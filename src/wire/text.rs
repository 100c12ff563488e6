//! Text that others control, made fit for a log line and for a terminal.
//!
//! An instance's name comes from a directory, a QMP message from a QEMU that its guest may
//! have taken over. Neither may forge a line, move a cursor or fill a disk.

use std::fmt::{self, Write};

/// The most bytes of foreign text that one place in a log line shows.
const LONGEST: usize = 200;

/// Foreign text on one line: control characters and what is not UTF-8 are escaped, and what
/// is longer than 200 bytes is cut and ends in `...`.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a [u8]);

/// A name or a path in double quotes, never cut: quotes and backslashes are escaped too, so
/// that the closing quote is always the real one.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a>(pub &'a [u8]);

/// Foreign text in double quotes, cut after 200 bytes: it cannot be taken for the line around
/// it.
#[derive(Clone, Copy, Debug)]
pub struct Excerpt<'a>(pub &'a [u8]);

/// Text that should be fit to print already, and comes from a file that anybody may have written:
/// control characters are escaped, and nothing else is changed.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, self.0.as_bytes(), |_| false)
    }
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(LONGEST)];
        write_escaped(f, shown, |c| c == '\\')?;
        if shown.len() < self.0.len() { f.write_str("...") } else { Ok(()) }
    }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        write_escaped(f, self.0, |c| c == '\\' || c == '"')?;
        f.write_char('"')
    }
}

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(LONGEST)];
        Quoted(shown).fmt(f)?;
        if shown.len() < self.0.len() { f.write_str("...") } else { Ok(()) }
    }
}

fn write_escaped(
    f: &mut fmt::Formatter<'_>,
    bytes: &[u8],
    also: impl Fn(char) -> bool,
) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if also(c) => write!(f, "\\{c}")?,
                c if is_invisible(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

/// Characters that change how a terminal or an editor shows those around them: controls
/// (C0, DEL, C1), line and paragraph separators, bidirectional and zero-width ones.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_are_left_alone() {
        assert_eq!(Quoted(b"web1.example.com").to_string(), "\"web1.example.com\"");
        assert_eq!(Printable("grüße".as_bytes()).to_string(), "grüße");
    }

    #[test]
    fn nothing_forges_a_line_or_a_terminal_sequence() {
        assert_eq!(Quoted(b"a\nb\"c\\d\x1b[2J").to_string(), r#""a\nb\"c\\d\u{1b}[2J""#);
        assert_eq!(Printable(br#"\u{1b} ""#).to_string(), r#"\\u{1b} ""#);
        assert_eq!(
            Printable(b"\x7f\xc2\x9b\xff\xe2\x80\xae").to_string(),
            r"\u{7f}\u{9b}\xff\u{202e}"
        );
    }

    #[test]
    fn what_is_fit_to_print_is_shown_as_it_is() {
        assert_eq!(Shown("a\\u{1b}\"b").to_string(), "a\\u{1b}\"b");
        assert_eq!(Shown("a\u{1b}[2J\n").to_string(), "a\\u{1b}[2J\\n");
    }

    #[test]
    fn long_text_is_cut_and_says_so() {
        let shown = Printable(&[b'x'; 1000]).to_string();
        assert_eq!(shown.len(), LONGEST + 3);
        assert!(shown.ends_with("..."));
        assert!(Excerpt(&[b'"'; 1000]).to_string().ends_with("\\\"\"..."));
        for whole in [&[b'x'; LONGEST][..], b"x"] {
            let text = "x".repeat(whole.len());
            assert_eq!(Printable(whole).to_string(), text);
            assert_eq!(Excerpt(whole).to_string(), format!("\"{text}\""));
        }
    }
}
