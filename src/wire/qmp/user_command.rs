//! A QMP command of the user's own, as it is given on the command line.

use std::fmt;

use serde_json::{Map, Value};

/// A command, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserCommand {
    name: Box<str>,
    line: Box<[u8]>,
}

/// Why text is not a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotACommand {
    /// Neither a name nor an object.
    Form,
    /// The object is not JSON.
    Json(String),
    /// The object has no `execute`, or something beside that and `arguments`.
    Object,
}

impl fmt::Display for NotACommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str(
                "monitor: needs the name of a QMP command (monitor:query-status) or all of it ('monitor:{\"execute\": \"...\", \"arguments\": {...}}')",
            ),
            Self::Json(error) => write!(f, "the command after monitor: is not JSON: {error}"),
            Self::Object => f.write_str(
                "the command after monitor: has to have \"execute\" with a name, and at most \"arguments\" beside it",
            ),
        }
    }
}

impl std::error::Error for NotACommand {}

impl UserCommand {
    /// Reads a command from the beginning of `text`, a name or a JSON object, and gives the rest.
    pub fn parse(text: &str) -> Result<(Self, &str), NotACommand> {
        if text.starts_with('{') {
            let mut objects = serde_json::Deserializer::from_str(text).into_iter();
            let object: Map<String, Value> = match objects.next() {
                Some(Ok(object)) => object,
                Some(Err(error)) => return Err(NotACommand::Json(error.to_string())),
                None => return Err(NotACommand::Form),
            };
            return Ok((Self::from_object(object)?, &text[objects.byte_offset()..]));
        }
        let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let end = text.find(|c| !is_of_a_name(c)).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        if name.is_empty() {
            return Err(NotACommand::Form);
        }
        let object = Map::from_iter([("execute".into(), Value::from(name))]);
        Ok((Self::from_object(object)?, rest))
    }

    fn from_object(object: Map<String, Value>) -> Result<Self, NotACommand> {
        let is_known = |key: &String| key == "execute" || key == "arguments";
        let name = match object.get("execute") {
            Some(Value::String(name)) if object.keys().all(is_known) => name.as_str().into(),
            _ => return Err(NotACommand::Object),
        };
        let mut line = Value::Object(object).to_string().into_bytes();
        line.push(b'\n');
        Ok(Self { name, line: line.into() })
    }

    /// The command's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The line, with its line feed.
    #[must_use]
    pub fn line(&self) -> &[u8] {
        &self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_or_an_object_is_a_command_of_one_line() {
        let (command, rest) = UserCommand::parse("query-status,then=quit").unwrap();
        assert_eq!((command.name(), rest), ("query-status", ",then=quit"));
        assert_eq!(command.line(), b"{\"execute\":\"query-status\"}\n");
        let object = "{\"execute\": \"send-key\",\n \"arguments\": {\"keys\": [1, 2]}},timeout=5";
        let (command, rest) = UserCommand::parse(object).unwrap();
        assert_eq!((command.name(), rest), ("send-key", ",timeout=5"));
        assert_eq!(
            String::from_utf8_lossy(command.line()),
            "{\"arguments\":{\"keys\":[1,2]},\"execute\":\"send-key\"}\n"
        );
    }

    #[test]
    fn anything_else_is_none() {
        assert_eq!(UserCommand::parse(""), Err(NotACommand::Form));
        assert_eq!(UserCommand::parse(",x"), Err(NotACommand::Form));
        assert!(matches!(UserCommand::parse("{\"execute\""), Err(NotACommand::Json(_))));
        for object in ["{}", "{\"execute\": 5}", "{\"execute\": \"a\", \"id\": 1}"] {
            assert_eq!(UserCommand::parse(object), Err(NotACommand::Object), "{object}");
        }
    }

    #[test]
    fn who_gave_it_reads_what_is_wrong_with_it() {
        let error = |text| UserCommand::parse(text).unwrap_err().to_string();
        assert!(error("").starts_with("monitor: needs the name of a QMP command"));
        assert!(error("{\"execute\"").starts_with("the command after monitor: is not JSON: EOF"));
        assert!(error("{}").contains("has to have \"execute\" with a name"));
    }

    proptest! {
        #[test]
        fn whatever_is_taken_is_one_line_of_json(text in "\\{?[\\PC\n]{0,40}") {
            if let Ok((command, rest)) = UserCommand::parse(&text) {
                prop_assert!(text.ends_with(rest));
                let line = command.line();
                prop_assert_eq!(line.iter().position(|&byte| byte == b'\n'), Some(line.len() - 1));
                prop_assert!(serde_json::from_slice::<Value>(line).is_ok());
            }
        }
    }
}
