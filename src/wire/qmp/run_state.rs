//! The run state of a virtual machine, as far as it matters to whoever wants to end it.

use std::borrow::Cow;

use serde::Deserialize;

/// `RunState` of `qapi/run-state.json`, by what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunState {
    Running,
    /// To RAM, by the guest itself.
    Suspended,
    /// By the host, by a watchdog or by an error of a disk; it can go on.
    Paused,
    /// It has not begun: `-S`, or a migration that is still coming in.
    NotStarted,
    /// What is left of it is being migrated: it is held here until that has failed, and runs on another
    /// host if not.
    Leaving,
    /// It was migrated, and runs on another host.
    Elsewhere,
    /// It has shut down, and QEMU stays (`-no-shutdown`).
    Shutdown,
    /// It cannot go on: it panicked, or KVM failed.
    Broken,
    /// Another one.
    Other,
}

impl RunState {
    /// The state in an answer to `query-status`, a whole line; nothing if it is another answer.
    #[must_use]
    pub fn of_answer(line: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow, rename = "return")]
            answer: StatusInfo<'a>,
        }
        #[derive(Deserialize)]
        struct StatusInfo<'a> {
            #[serde(borrow)]
            status: Cow<'a, str>,
        }
        let answer: Answer<'_> = serde_json::from_slice(line).ok()?;
        Some(match &*answer.answer.status {
            "running" => Self::Running,
            "suspended" => Self::Suspended,
            "paused" | "debug" | "io-error" | "watchdog" | "colo" | "save-vm" => Self::Paused,
            "prelaunch" | "preconfig" | "inmigrate" => Self::NotStarted,
            "finish-migrate" => Self::Leaving,
            "postmigrate" => Self::Elsewhere,
            "shutdown" => Self::Shutdown,
            "guest-panicked" | "internal-error" => Self::Broken,
            _ => Self::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::RunState;

    #[test]
    fn the_state_is_in_the_answer_and_in_no_other_line() {
        let state = |line: &str| RunState::of_answer(line.as_bytes());
        assert_eq!(
            state(r#"{"return": {"status": "running", "singlestep": false, "running": true}}"#),
            Some(RunState::Running)
        );
        // Every one of QEMU 10; `restore-vm` passes by itself.
        for (names, expected) in [
            ("suspended", RunState::Suspended),
            ("paused debug io-error watchdog colo save-vm", RunState::Paused),
            ("prelaunch preconfig inmigrate", RunState::NotStarted),
            ("finish-migrate", RunState::Leaving),
            ("postmigrate", RunState::Elsewhere),
            ("shutdown", RunState::Shutdown),
            ("guest-panicked internal-error", RunState::Broken),
            ("restore-vm new", RunState::Other),
        ] {
            for name in names.split(' ') {
                let line = format!(r#"{{"return": {{"status": "{name}"}}}}"#);
                assert_eq!(state(&line), Some(expected), "{name}");
            }
        }
        for other in [
            r#"{"return": {}}"#,
            r#"{"event": "STOP"}"#,
            r#"{"return": [{"status": "running"}]}"#,
            "",
        ] {
            assert_eq!(state(other), None, "{other}");
        }
    }
}
