//! Has a thread enter its sandbox, and logs what stays out of reach, or within it.

use log::{error, info, warn};

use crate::sys::confinement::Reach;
use crate::sys::sandbox::{self, Role};

/// See [`sandbox::enter`]. What could not be given up is logged: the daemon goes on.
pub fn enter(role: Role, reach: Option<&Reach>) {
    match sandbox::enter(role, reach) {
        Ok(confined) => {
            // The same kernel says the same to the writer.
            if reach.is_some() && !confined.is_enforced && role == Role::Loop {
                info!(
                    "Not confined to its directories: this kernel has no Landlock, or has it off"
                );
            }
            for path in confined.missing {
                warn!(
                    "{} does not exist: if it is created later, the daemon has to be restarted to use it",
                    path.display()
                );
            }
        }
        Err(error) => error!(
            "{error}; running with more privileges than needed (use --no-sandbox if that is intended)"
        ),
    }
}
