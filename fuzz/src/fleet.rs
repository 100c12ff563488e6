//! What a command printed on many nodes, and the records in it.
//!
//! Any node may be lying. Whatever it prints, the node of a line has a name, a record read in outline is
//! what the whole of it says, and nothing of it is more than text to a command.

use kvmd::wire::Printable;
use kvmd::wire::fleet::{Fleet, Said, name};
use kvmd::wire::record::{Outline, OwnNode, Record, Text, with_node};

use crate::assert_fit_to_print;

pub fn check(printed: &[u8]) {
    let mut fleet = Fleet::default();
    for line in printed.split(|&byte| byte == b'\n') {
        let (node, text) = match fleet.read(line) {
            Said::Object(node, object) => {
                assert!(object.starts_with(b"{"));
                check_object(object);
                (node, object)
            }
            Said::Text(node, text) => (node, text),
            Said::Ended(node, _) => (node, &b""[..]),
            Said::Nothing => (None, &b""[..]),
        };
        assert!(node.is_none_or(|node| name(node.as_bytes()) == Some(node)));
        assert!(line.trim_ascii().ends_with(text), "it is of the line");
    }
}

fn check_object(object: &[u8]) {
    let record = Record::parse(object).ok();
    let outline = match Outline::parse(object) {
        Ok(outline) => outline,
        Err(error) => {
            assert_fit_to_print(&Printable(error.to_string().as_bytes()).to_string());
            let is_whole = record.is_some_and(|record| !record.instance.is_empty());
            assert!(!is_whole || std::str::from_utf8(object).is_err(), "{error}");
            return;
        }
    };
    let named = with_node(object, &outline, "node1");
    let again = Outline::parse(&named).expect("a record with its node is one");
    assert_eq!(again, Outline { node: OwnNode::Named("node1".into()), ..outline.clone() });
    if let Some(record) = record {
        let of = |text: &Option<Text<'_>>| text.as_ref().map(|text| text.0.to_string());
        assert_eq!(outline.instance, record.instance);
        assert_eq!((&*outline.cause, &*outline.initiator), (&*record.cause, &*record.initiator));
        assert_eq!(
            (of(&outline.signal), outline.node()),
            (record.signal.clone(), record.node.as_deref())
        );
        assert_eq!((outline.pid, outline.exit_code), (record.pid, record.exit_code));
        for (_, value) in record.environment() {
            assert_fit_to_print(&value);
            assert!(value.len() < 128 * 1024, "execve(2) takes it");
        }
    }
}
