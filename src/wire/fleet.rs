//! What a command printed on many nodes, as it comes through one pipe.
//!
//! `gnt-cluster command` prints, for each node (`RunClusterCommand` in Ganeti's
//! `lib/client/gnt_cluster.py`): a line of dashes; what the command wrote to stdout, then what it wrote to
//! stderr; `return code = N`. With `-M` each line of the command's has `NODE: ` before it; without, the
//! line `node: NODE` comes first. pdsh and clush put `NODE: ` before each line, too, and nothing else.
//!
//! What is a record is up to [`super::record`]: here it is a line that begins as an object does.

/// The most bytes that a node's name has (RFC 1035).
const LONGEST_NAME: usize = 253;

/// Of so many dashes at least a line has to be for another node to begin; Ganeti prints 48.
const RULE: usize = 40;

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// It may be a record; of this node, if the line or one before it names one.
    Object(Option<&'a str>, &'a [u8]),
    /// Something else that the command printed.
    Text(Option<&'a str>, &'a [u8]),
    /// The exit status of the command on this node; the node is not known if nothing was printed there.
    Ended(Option<&'a str>, i32),
    /// It separates, or is empty.
    Nothing,
}

impl<'a> Said<'a> {
    /// What a line is that no fleet's command has brought: nothing in it names a node.
    #[must_use]
    pub fn alone(line: &'a [u8]) -> Self {
        said(None, line.trim_ascii())
    }
}

/// Where in the output of `gnt-cluster command` a line is.
#[derive(Debug, Default)]
pub struct Fleet {
    place: Place,
    /// The node that the last line was of.
    node: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// In no part of a node's, or in one whose every line names it.
    #[default]
    Prefixed,
    /// A node begins: the next line may name it.
    Beginning,
    /// In the part of the node that was named.
    Named,
}

impl Fleet {
    /// Reads the next line; its line feed may be there or not.
    pub fn read<'a>(&'a mut self, line: &'a [u8]) -> Said<'a> {
        let line = line.trim_ascii();
        if line.is_empty() {
            return Said::Nothing;
        }
        // What follows the first line of a node's part is in no such part, unless that is said here.
        let place = std::mem::take(&mut self.place);
        if line.len() >= RULE && line.iter().all(|&byte| byte == b'-') {
            self.place = Place::Beginning;
            self.node = None;
            return Said::Nothing;
        }
        if let Some(code) = return_code(line) {
            return Said::Ended(self.node.as_deref(), code);
        }
        if place == Place::Named {
            self.place = Place::Named;
            return said(self.node.as_deref(), line);
        }
        let Some((node, rest)) = prefix(line) else {
            return said(None, line);
        };
        if let ("node", Place::Beginning, Some(name)) = (node, place, name(rest)) {
            self.place = Place::Named;
            self.node = Some(name.into());
            return Said::Nothing;
        }
        if self.node.as_deref() != Some(node) {
            self.node = Some(node.into());
        }
        said(Some(node), rest)
    }
}

/// What the command itself has printed.
fn said<'a>(node: Option<&'a str>, text: &'a [u8]) -> Said<'a> {
    match text {
        [] => Said::Nothing,
        [b'{', ..] => Said::Object(node, text),
        _ => Said::Text(node, text),
    }
}

/// What may be a node's name: `node1.example.com`.
#[must_use]
pub fn name(bytes: &[u8]) -> Option<&str> {
    let is_fit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_name = (1..=LONGEST_NAME).contains(&bytes.len()) && bytes.iter().all(is_fit);
    std::str::from_utf8(bytes).ok().filter(|_| is_name)
}

/// `NODE: `, and what follows it.
fn prefix(line: &[u8]) -> Option<(&str, &[u8])> {
    let colon = memchr::memchr(b':', &line[..line.len().min(LONGEST_NAME + 1)])?;
    let rest = &line[colon + 1..];
    // A line's end is trimmed.
    let is_apart = rest.is_empty() || rest.starts_with(b" ");
    name(&line[..colon]).filter(|_| is_apart).map(|node| (node, rest.trim_ascii_start()))
}

fn return_code(line: &[u8]) -> Option<i32> {
    let code = line.strip_prefix(b"return code = ")?;
    // `None`, if a signal ended ssh.
    if code == b"None" {
        return Some(-1);
    }
    std::str::from_utf8(code).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What `Said` says, in words.
    fn all(text: &str) -> Vec<String> {
        let mut fleet = Fleet::default();
        let mut told = Vec::new();
        for line in text.split_inclusive('\n') {
            let of = |node: Option<&str>| node.unwrap_or("?").to_string();
            let shown = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
            match fleet.read(line.as_bytes()) {
                Said::Object(node, json) => told.push(format!("{} {}", of(node), shown(json))),
                Said::Text(node, text) => told.push(format!("{} says {}", of(node), shown(text))),
                Said::Ended(node, code) => told.push(format!("{} ends {code}", of(node))),
                Said::Nothing => {}
            }
        }
        told
    }

    const RULE: &str = "------------------------------------------------\n";

    #[test]
    fn with_names_each_line_is_its_nodes() {
        let text = [
            RULE,
            "node2.example.com: {\"a\": 1}\nnode2.example.com: {\"b\": 2}\nreturn code = 0\n",
            RULE,
            "return code = 255\n",
            RULE,
            "node1: kvmd-why: No record matches.\nnode1: \nreturn code = 1\n",
        ];
        let told = [
            "node2.example.com {\"a\": 1}",
            "node2.example.com {\"b\": 2}",
            "node2.example.com ends 0",
            "? ends 255",
            "node1 says kvmd-why: No record matches.",
            "node1 ends 1",
        ];
        assert_eq!(all(&text.concat()), told);
    }

    #[test]
    fn without_names_a_node_is_named_where_it_begins() {
        let text = [
            RULE,
            "node: node2\n{\"a\": 1}\n\nreturn code = 0\n",
            RULE,
            "node: node1\nkvmd-why: No record matches.\n\nreturn code = 1\n{}\n",
        ];
        let told = [
            "node2 {\"a\": 1}",
            "node2 ends 0",
            "node1 says kvmd-why: No record matches.",
            "node1 ends 1",
            "? {}",
        ];
        assert_eq!(all(&text.concat()), told);
    }

    #[test]
    fn records_alone_are_nobodys() {
        let text = "{}\r\nnode: -\na b: {}\na:b: {}\n{}\n";
        assert_eq!(all(text), ["? {}", "node says -", "? says a b: {}", "? says a:b: {}", "? {}"]);
    }

    #[test]
    fn a_line_that_comes_alone_names_nobody() {
        assert_eq!(Said::alone(b" {}\r\n"), Said::Object(None, b"{}"));
        assert_eq!(Said::alone(b"n1: {}"), Said::Text(None, b"n1: {}"));
        assert_eq!(Said::alone(b"return code = 1"), Said::Text(None, b"return code = 1"));
        assert_eq!(Said::alone(b"\n"), Said::Nothing);
    }

    #[test]
    fn only_a_name_is_a_name() {
        assert_eq!(name(b"node1.example.com"), Some("node1.example.com"));
        for no in ["", "a b", "a/b", "a\x1b", "gr\u{fc}n", &"x".repeat(254)] {
            assert_eq!(name(no.as_bytes()), None, "{no:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_a_node_has_a_name_and_the_rest_is_of_the_line(
            lines in prop::collection::vec("(-{40}|node: |n1: |return code = |\\{|\\PC| ){0,4}", 0..8)
        ) {
            let mut fleet = Fleet::default();
            for line in &lines {
                let (node, rest) = match fleet.read(line.as_bytes()) {
                    Said::Object(node, rest) => {
                        prop_assert!(rest[0] == 0x7b);
                        (node, rest)
                    }
                    Said::Text(node, rest) => (node, rest),
                    Said::Ended(node, _) => (node, &b""[..]),
                    Said::Nothing => (None, &b""[..]),
                };
                prop_assert!(node.is_none_or(|node| name(node.as_bytes()).is_some()));
                prop_assert!(line.trim_ascii().as_bytes().ends_with(rest));
            }
        }
    }
}
