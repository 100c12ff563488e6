//! The users and groups that Ganeti's daemons run as.

use std::fmt;

/// Those of Debian's packages. (Ganeti's `configure --with-user-prefix` may name others; then
/// the check is to be left out, with `--no-user-checks`.)
const USERS: [&str; 5] = ["gnt-masterd", "gnt-metad", "root", "gnt-rapi", "gnt-confd"];
const GROUPS: [&str; 8] = [
    "gnt-masterd",
    "gnt-metad",
    "root",
    "gnt-rapi",
    "gnt-confd",
    "gnt-luxid",
    "gnt-daemons",
    "gnt-admin",
];

/// Why this is not where the daemon can run.
#[derive(Debug)]
pub enum UserError {
    NoSuchUser(&'static str),
    NoSuchGroup(&'static str),
    NotRoot(u32),
}

/// Checks that Ganeti is installed and that this process is root's.
pub fn check() -> Result<(), UserError> {
    let missing = |user: &&str| uzers::get_user_by_name(user).is_none();
    if let Some(user) = USERS.into_iter().find(missing) {
        return Err(UserError::NoSuchUser(user));
    }
    let missing = |group: &&str| uzers::get_group_by_name(group).is_none();
    if let Some(group) = GROUPS.into_iter().find(missing) {
        return Err(UserError::NoSuchGroup(group));
    }
    match uzers::get_effective_uid() {
        0 => Ok(()),
        other => Err(UserError::NotRoot(other)),
    }
}

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchUser(user) => write!(
                f,
                "Error: Can't find required user/groups: no such user: {user} (is Ganeti installed? see --no-user-checks)"
            ),
            Self::NoSuchGroup(group) => write!(
                f,
                "Error: Can't find required user/groups: no such group: {group} (is Ganeti installed? see --no-user-checks)"
            ),
            Self::NotRoot(uid) => {
                write!(f, "ganeti-kvmd started using wrong user ID ({uid}), expected 0")
            }
        }
    }
}

impl std::error::Error for UserError {}
