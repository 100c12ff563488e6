//! When the daemon runs before ordinary processes, and when it makes way for them.

use std::time::Duration;

use log::{debug, error, warn};

use crate::id::Moment;
use crate::sys::priority;

/// For how long it is an ordinary process after it has run for 200 ms without sleep: it keeps a
/// processor for itself for a sixth of the time at most.
const WAY_FOR_OTHERS: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// It has run for too long, and is ordinary until then.
    makes_way_until: Option<Moment>,
}

impl Pace {
    /// Lets ordinary processes run for a while.
    pub(super) fn make_way(&mut self, now: Moment) {
        match priority::lower() {
            Ok(()) => {
                self.makes_way_until = Some(now + WAY_FOR_OTHERS);
                debug!(
                    "Ran for 200 ms without sleeping; giving way to other processes for a while"
                );
            }
            Err(error) => error!("Cannot give up the real-time priority: {error}"),
        }
    }

    /// Gets in front again, if that while is over.
    pub(super) fn get_in_front(&mut self, now: Moment) {
        if self.makes_way_until.is_some_and(|until| until <= now) {
            self.makes_way_until = None;
            if let Err(error) = priority::raise() {
                warn!("Cannot regain the real-time priority: {error}");
            }
        }
    }

    /// When it is to get in front again.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.makes_way_until
    }
}
