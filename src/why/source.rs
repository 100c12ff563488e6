//! Where records come from, and which node those are of.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::config::Paths;
use crate::wire::{Printable, fleet};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// What the daemon of this node writes, with the files that it was rotated to.
    Node(PathBuf),
    File(PathBuf),
    StandardInput,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) from: Origin,
    /// As the user has said.
    node: Option<String>,
    /// For records of which nothing else says the node.
    supposed: Option<String>,
}

impl Source {
    /// The records of this node.
    pub(super) fn own() -> Self {
        Self::from(Origin::Node(Paths::from_environment().records_file()))
    }

    /// `PATH`, `NODE=PATH` or `-`. A path that looks like `NODE=PATH` is written `./a=b`.
    pub(super) fn parse(text: &OsStr) -> Self {
        let bytes = text.as_bytes();
        let equals = bytes.iter().position(|&byte| byte == b'=');
        let named = equals.and_then(|at| Some((fleet::name(&bytes[..at])?, &bytes[at + 1..])));
        let (node, path) = named.map_or((None, bytes), |(node, path)| (Some(node.into()), path));
        let from = match path {
            b"-" => Origin::StandardInput,
            path => Origin::File(OsStr::from_bytes(path).into()),
        };
        Self { from, node, supposed: None }
    }

    /// One of several: without a better word, records are of the node that the file is named after.
    pub(super) fn among_others(mut self) -> Self {
        if let Origin::File(path) = &self.from {
            self.supposed = Some(node_of(path));
        }
        self
    }

    /// Whether its lines may name their nodes. What is one node's, by its place or by the user's word,
    /// says nothing of others.
    pub(super) fn is_of_many(&self) -> bool {
        self.is_chosen() && self.node.is_none()
    }

    /// The node of a record. What comes first knows best: the user says which node the file is of,
    /// whoever brought the line which it is from, and only then the record itself; else a node whose
    /// records somebody has forged would speak for others.
    pub(super) fn node<'a>(
        &'a self,
        brought: Option<&'a str>,
        own: Option<&'a str>,
    ) -> Option<&'a str> {
        self.node.as_deref().or(brought).or(own).or(self.supposed.as_deref())
    }

    /// The file, if it is one.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.from {
            Origin::Node(path) | Origin::File(path) => Some(path),
            Origin::StandardInput => None,
        }
    }

    /// Whether the user has chosen it: then it may be a pipe, a link, whatever he likes.
    pub(super) fn is_chosen(&self) -> bool {
        !matches!(self.from, Origin::Node(_))
    }
}

impl From<Origin> for Source {
    fn from(from: Origin) -> Self {
        Self { from, node: None, supposed: None }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path() {
            Some(path) => Printable(path.as_os_str().as_bytes()).fmt(f),
            None => f.write_str("standard input"),
        }
    }
}

/// `node1` of `node1.jsonl`, `node1.jsonl.2.gz` and `node1/kvm-exits.jsonl`.
fn node_of(path: &Path) -> String {
    const SUFFIX: &str = ".jsonl";
    let text = |name: Option<&OsStr>| name.unwrap_or_default().to_string_lossy().into_owned();
    let name = text(path.file_name());
    let stem = name.split_once(SUFFIX).map_or(&*name, |(stem, _)| stem);
    let directory = text(path.parent().and_then(Path::file_name));
    if stem == "kvm-exits" && !directory.is_empty() { directory } else { stem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::parse(OsStr::new(text))
    }

    #[test]
    fn a_node_may_stand_before_its_file() {
        assert_eq!(source("-").from, Origin::StandardInput);
        assert_eq!(source("node1=-").from, Origin::StandardInput);
        let named = source("node1.example.com=/tmp/a=b");
        assert_eq!(named.path(), Some(Path::new("/tmp/a=b")));
        assert_eq!(named.node(None, Some("own")), Some("node1.example.com"));
        for plain in ["a", "/tmp/a=b", "./a=b", "=b"] {
            assert_eq!(source(plain).path(), Some(Path::new(plain)));
        }
    }

    #[test]
    fn the_user_and_then_who_brings_a_line_know_best_whose_it_is() {
        let one = source("a.jsonl");
        assert_eq!(one.node(None, None), None);
        let several = one.among_others();
        let node = |brought, own| several.node(brought, own);
        assert_eq!(node(Some("brought"), Some("own")), Some("brought"));
        assert_eq!(node(None, Some("own")), Some("own"));
        assert_eq!(node(None, None), Some("a"));
        let named = source("said=a.jsonl").among_others();
        assert_eq!(named.node(Some("brought"), Some("own")), Some("said"));
        assert_eq!(named.node(None, None), Some("said"));
    }

    #[test]
    fn what_is_of_one_node_speaks_for_no_other() {
        for (text, is_of_many) in
            [("-", true), ("a.jsonl", true), ("n1=a.jsonl", false), ("n1=-", false)]
        {
            assert_eq!(source(text).is_of_many(), is_of_many, "{text}");
        }
        assert!(!Source::from(Origin::Node("a".into())).is_of_many());
    }

    #[test]
    fn files_are_named_after_their_nodes() {
        for (path, node) in [
            ("node1.example.com.jsonl", "node1.example.com"),
            ("/srv/node1.jsonl.2.gz", "node1"),
            ("/srv/node1.example.com", "node1.example.com"),
            ("/srv/node1/kvm-exits.jsonl.1", "node1"),
            ("kvm-exits.jsonl", "kvm-exits"),
        ] {
            assert_eq!(node_of(Path::new(path)), node, "{path}");
        }
    }
}
