//! The name that Ganeti knows this node by.
//!
//! The name service may take as long as it likes, or have no answer: the daemon does not wait for it
//! for longer than [`PATIENCE`], and goes on with the name that it ran by last.

use std::env;
use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use dns_lookup::{AddrInfoHints, LookupError, SockType, get_hostname, getaddrinfo, getnameinfo};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::plain_file;
use super::replaced_file::replace;
use crate::wire::Printable;

/// How long the name service has for its answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// What to do where it has none.
pub const REMEDY: &str =
    "put this node's name and address into /etc/hosts, or set GANETI_HOSTNAME for the daemon";

/// An address family, for the node's own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// The node's name, and how it was found.
#[derive(Debug)]
pub struct NodeName {
    pub name: String,
    /// The host's own name, where the name is one that the name service gave for it.
    host: Option<String>,
    /// Why the name service did not give it.
    failure: Option<Failure>,
}

/// The name service has not given the name, and another was taken.
#[derive(Debug)]
pub struct Failure {
    reason: Reason,
    taken: Taken,
}

#[derive(Debug)]
enum Reason {
    /// It has no answer, in the words of the C library.
    Error(io::Error),
    TimedOut,
}

#[derive(Debug)]
enum Taken {
    Last(String),
    Host(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::Error(error) => error.fmt(f)?,
            Reason::TimedOut => {
                write!(f, "no answer from the name service within {} s", PATIENCE.as_secs())?;
            }
        }
        match &self.taken {
            Taken::Last(name) => write!(
                f,
                "; taking {}, the name by which the daemon ran last",
                Printable(name.as_bytes())
            ),
            Taken::Host(name) => write!(
                f,
                "; taking {}, the host's own name, since the daemon has not run by any other",
                Printable(name.as_bytes())
            ),
        }
    }
}

impl std::error::Error for Failure {}

impl NodeName {
    /// A name that is beyond doubt.
    #[must_use]
    pub fn given(name: impl Into<String>) -> Self {
        Self { name: name.into(), host: None, failure: None }
    }

    /// Why the name service did not give it, if it was to.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Remembers it in the file at `path`, if it is the name service's answer. The daemon has found
    /// that it may run by this name. The file's directory is made if need be, for this user alone.
    pub fn remember(&self, path: &Path) -> io::Result<()> {
        const MODE: u32 = 0o600;
        const DIRECTORY_MODE: u32 = 0o700;
        let Some(host) = &self.host else { return Ok(()) };
        if last(path, host).as_ref() == Some(&self.name) {
            return Ok(());
        }
        if let Some(directory) = path.parent() {
            match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        replace(path, format!("{host} {}\n", self.name).as_bytes(), MODE)?;
        Ok(())
    }
}

/// `GANETI_HOSTNAME` if set, else the name that the address of this host's name leads back to
/// (of the cluster's family). If the name service does not know: the name in the file at
/// `remembered` if it was this host's, else the host's own name.
#[must_use]
pub fn find(family: Option<Family>, remembered: &Path) -> NodeName {
    if let Some(name) = env::var_os("GANETI_HOSTNAME") {
        return NodeName::given(name.to_string_lossy());
    }
    let Ok(host) = get_hostname() else { return NodeName::given("") };
    let asked = host.clone();
    match within(PATIENCE, move || look_up(&asked, family)) {
        Ok(name) => NodeName { name, host: Some(host), failure: None },
        Err(reason) => {
            let last = last(remembered, &host);
            let name = last.clone().unwrap_or_else(|| host.clone());
            let taken = last.map_or(Taken::Host(host), Taken::Last);
            NodeName { name, host: None, failure: Some(Failure { reason, taken }) }
        }
    }
}

/// Asks in a thread that is given up when its time is over: the C library's resolver knows no
/// deadline. Until the resolver gives up, too, the thread lives on beside the daemon, which by then
/// is confined. So the thread has no capabilities; a socket takes none.
fn within(
    patience: Duration,
    look_up: impl FnOnce() -> Result<String, LookupError> + Send + 'static,
) -> Result<String, Reason> {
    let (sender, answer) = mpsc::channel();
    let started = thread::Builder::new().name("name service".into()).spawn(move || {
        let none = CapabilitySet::empty();
        let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
        // Of this thread.
        let _ = set_capabilities(None, none);
        let _ = sender.send(look_up());
    });
    started.map_err(Reason::Error)?;
    match answer.recv_timeout(patience) {
        Ok(answer) => answer.map_err(|error| Reason::Error(error.into())),
        Err(_) => Err(Reason::TimedOut),
    }
}

fn look_up(host: &str, family: Option<Family>) -> Result<String, LookupError> {
    let address = match family {
        None => 0,
        Some(Family::V4) => libc::AF_INET,
        Some(Family::V6) => libc::AF_INET6,
    };
    let hints =
        AddrInfoHints { socktype: SockType::Stream.into(), address, ..AddrInfoHints::default() };
    let mut addresses = getaddrinfo(Some(host), None, Some(hints))?.filter_map(Result::ok);
    let Some(first) = addresses.next() else { return Ok(host.into()) };
    Ok(getnameinfo(&first.sockaddr, 0)?.0)
}

/// The name in this file, if it was that of a host with this name.
fn last(path: &Path, host: &str) -> Option<String> {
    /// Two names of 253 characters at most.
    const LONGEST: usize = 1024;
    let text = String::from_utf8(plain_file::read(path, LONGEST).ok()?).ok()?;
    let (of, name) = text.strip_suffix('\n')?.split_once(' ')?;
    (of == host && !name.is_empty()).then(|| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_name_service_that_does_not_answer_is_given_up() {
        let (answer, question) = mpsc::channel::<()>();
        let never = move || {
            let _ = question.recv();
            Ok(String::new())
        };
        let reason = within(Duration::from_millis(1), never).unwrap_err();
        assert!(matches!(reason, Reason::TimedOut), "{reason:?}");
        drop(answer);
        assert_eq!(within(PATIENCE, || Ok("node1".into())).unwrap(), "node1");
    }

    #[test]
    fn what_the_name_service_said_of_this_host_is_remembered_for_this_user_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("own/node-name");
        NodeName::given("from.the.environment").remember(&path).unwrap();
        assert!(!path.exists());
        let name = NodeName {
            name: "node1.example.com".into(),
            host: Some("node1".into()),
            failure: None,
        };
        for _ in 0..2 {
            name.remember(&path).unwrap();
            assert_eq!(last(&path, "node1").as_deref(), Some("node1.example.com"));
        }
        assert_eq!(last(&path, "node2"), None);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        for nonsense in ["", "node1", "node1 \n", "node1 half a line"] {
            fs::write(&path, nonsense).unwrap();
            assert_eq!(last(&path, "node1"), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_failure_says_which_name_was_taken() {
        let failure = Failure { reason: Reason::TimedOut, taken: Taken::Host("node1".into()) };
        assert_eq!(
            failure.to_string(),
            "no answer from the name service within 4 s; taking node1, the host's own name, since the daemon has not run by any other"
        );
    }
}
