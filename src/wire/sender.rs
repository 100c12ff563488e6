//! Who sent a signal, and how that is told.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Shown;

/// Who sent a signal: a process as it was found right afterwards, or the kernel. All text is fit
/// to print.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(default)]
pub struct Sender {
    /// The kernel itself; then there is nothing else.
    pub kernel: bool,
    pub pid: Option<u32>,
    /// It had ended before it could be looked at.
    pub gone: bool,
    pub name: Option<String>,
    pub uid: Option<u32>,
    /// The user id that the session was logged in with.
    pub login: Option<u32>,
    pub executable: Option<String>,
    pub command: Option<String>,
    pub ancestors: Vec<Ancestor>,
}

/// A process from which the sender of a signal descends: its parent, that one's parent, ...
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(default)]
pub struct Ancestor {
    pub pid: u32,
    pub name: String,
    pub command: String,
}

impl Sender {
    /// A task of which nothing is known but its number.
    #[must_use]
    pub fn unseen(task: u32) -> Self {
        Self { pid: Some(task), ..Self::default() }
    }

    /// Whether nobody has looked at it: what is known of it, others have said.
    #[must_use]
    pub fn is_unseen(&self) -> bool {
        !self.kernel && !self.gone && self.pid.is_some() && self.uid.is_none()
    }

    /// A fault of the process itself, or the OOM killer.
    #[must_use]
    pub fn kernel() -> Self {
        Self { kernel: true, ..Self::default() }
    }
}

impl fmt::Display for Sender {
    /// `kill[5831] (uid 0), run by bash[5790] ← sshd[5788]`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kernel {
            return f.write_str("the kernel");
        }
        let nameless = if self.gone { "a process that has ended " } else { "a process " };
        Shown(self.name.as_deref().unwrap_or(nameless)).fmt(f)?;
        if let Some(pid) = self.pid {
            write!(f, "[{pid}]")?;
        }
        if let Some(uid) = self.uid {
            write!(f, " (uid {uid}")?;
            if let Some(login) = self.login.filter(|login| *login != uid) {
                write!(f, ", logged in as uid {login}")?;
            }
            f.write_str(")")?;
        }
        for (i, ancestor) in self.ancestors.iter().enumerate() {
            f.write_str(if i == 0 { ", run by " } else { " ← " })?;
            // `sshd: alice`: a daemon that says in its command line whom it serves.
            let name = Shown(&ancestor.name);
            let title = ancestor.command.strip_prefix(&format!("{}: ", ancestor.name));
            match title.filter(|title| title.len() <= 40) {
                Some(title) => write!(f, "{name}: {}[{}]", Shown(title), ancestor.pid)?,
                None => write!(f, "{name}[{}]", ancestor.pid)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_is_told_with_those_who_ran_it() {
        let ancestor = |pid, name: &str, command: &str| Ancestor {
            pid,
            name: name.into(),
            command: command.into(),
        };
        let sender = Sender {
            pid: Some(5831),
            name: Some("kill".into()),
            uid: Some(0),
            login: Some(1000),
            ancestors: vec![
                ancestor(5790, "bash", "-bash"),
                ancestor(5788, "sshd", "sshd: alice@pts/0"),
            ],
            ..Sender::default()
        };
        assert_eq!(
            sender.to_string(),
            "kill[5831] (uid 0, logged in as uid 1000), run by bash[5790] ← sshd: alice@pts/0[5788]"
        );
        let gone = Sender { pid: Some(5), gone: true, ..Sender::default() };
        assert_eq!(gone.to_string(), "a process that has ended [5]");
        assert_eq!(Sender::unseen(5).to_string(), "a process [5]");
        assert_eq!(Sender::kernel().to_string(), "the kernel");
    }

    #[test]
    fn who_has_been_looked_at_or_is_gone_is_not_unseen() {
        let unseen = Sender::unseen(5);
        assert!(unseen.is_unseen());
        assert!(Sender { name: Some("virsh".into()), ..unseen.clone() }.is_unseen());
        assert!(!Sender { uid: Some(0), ..unseen.clone() }.is_unseen());
        assert!(!Sender { gone: true, ..unseen }.is_unseen());
        assert!(!Sender::kernel().is_unseen() && !Sender::default().is_unseen());
    }
}
