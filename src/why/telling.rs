//! An end, told to a person: as a sentence, as a story.

use std::fmt::{self, Write as _};
use std::io::{self, Write};

use crate::wire::Shown;
use crate::wire::record::Record;

/// How it is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) is_coloured: bool,
}

impl Style {
    /// One line.
    pub(super) fn sentence(self, record: &Record) -> String {
        format!("{}  {}", time(&record.end), self.what_happened(record))
    }

    /// The end in words, and the evidence in its order.
    pub(super) fn story(self, out: &mut impl Write, record: &Record) -> io::Result<()> {
        writeln!(out, "{}", self.what_happened(record))?;
        writeln!(out)?;
        writeln!(
            out,
            "It ended at {} UTC. The evidence, with its time relative to that:",
            time(&record.end)
        )?;
        for piece in &record.evidence {
            writeln!(
                out,
                "  {:>14}  {:<14}  {}",
                from_end(piece.at),
                Shown(&piece.source).to_string(),
                Shown(&piece.what)
            )?;
        }
        if record.omitted > 0 {
            writeln!(
                out,
                "  ({} more pieces, after the first few, were not kept)",
                record.omitted
            )?;
        }
        if let Some(command) = record.sender.as_ref().and_then(|sender| sender.command.as_ref()) {
            writeln!(out, "The sender's command line: {}", Shown(command))?;
        }
        Ok(())
    }

    pub(super) fn what_happened(self, record: &Record) -> String {
        let mut text = self.bold(&Shown(&record.instance).to_string());
        let node = record.node.as_deref().map(|node| format!("on {}", Shown(node)));
        let place = [record.pid.map(|pid| format!("pid {pid}")), node];
        let place = place.into_iter().flatten().collect::<Vec<_>>().join(" ");
        if !place.is_empty() {
            let _ = write!(text, " ({place})");
        }
        let _ = write!(text, " {}", Shown(&deed(record)));
        let whose = match &*record.initiator {
            "user" => "its user did it",
            "admin" => "an administrator did it",
            "crash" => "something broke",
            _ => "it is not known who did it",
        };
        let _ = write!(text, "; {}.", self.by(&record.initiator, whose));
        if let Some(uptime) = record.uptime {
            let _ = write!(text, " Up {}.", Uptime(uptime));
        }
        let said = record.evidence.iter().find_map(|piece| piece.what.strip_prefix("SHUTDOWN"));
        match said.map(str::trim) {
            Some("") => text.push_str(" QEMU announced a shutdown but gave no reason."),
            Some(reason) => {
                let _ = write!(text, " QEMU said: {}.", Shown(reason));
            }
            None => text.push_str(" QEMU did not announce a shutdown."),
        }
        match &record.core {
            Some(core) if core.dumped => {
                let hint = core.hint.as_deref().unwrap_or("where to is not known");
                let _ = write!(text, " It dumped core: {}.", Shown(hint));
            }
            Some(_) => text.push_str(" It would have dumped core, but its core limit forbade it."),
            None if record.signal.is_some() => text.push_str(" No core."),
            None => {}
        }
        text.push_str(&what_followed(record));
        if !record.missing.is_empty() {
            let _ = write!(text, " Not known: {}.", Shown(&record.missing.join(", ")));
        }
        text
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.painted("1", text)
    }

    /// In the colour of whoever did it.
    pub(super) fn by(self, initiator: &str, text: &str) -> String {
        match initiator {
            "user" => self.painted("32", text),
            "admin" => self.painted("33", text),
            "crash" => self.painted("31", text),
            "unknown" => self.painted("35", text),
            _ => text.into(),
        }
    }

    fn painted(self, code: &str, text: &str) -> String {
        if self.is_coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }
}

/// What Ganeti was told of it, or the supervisor of `kvmd-run`.
fn what_followed(record: &Record) -> String {
    match (&record.run, record.marked) {
        (Some(run), _) => {
            let forced = if run.why == "forced" { " because it had to be forced" } else { "" };
            format!(" kvmd-run exited with {}{forced}.", run.exit_code)
        }
        (None, Some(true)) => " Marked as a user shutdown.".into(),
        (None, Some(false)) => " Not marked as a user shutdown.".into(),
        (None, None) => {
            " The mark of a user shutdown, if there was one, was left as it was.".into()
        }
    }
}

/// What was done to it, to follow its name.
fn deed(record: &Record) -> String {
    let from = record.sender.as_ref().map_or_else(String::new, |sender| format!(" from {sender}"));
    match (&*record.cause, &record.signal, record.exit_code) {
        ("host-signal" | "killed", Some(signal), _) => format!("was killed by {signal}{from}"),
        ("out-of-memory", ..) => "was killed by the kernel's OOM killer".into(),
        ("crashed", Some(signal), _) => match &record.sender {
            Some(sender) if !sender.kernel => format!("crashed with {signal}{from}"),
            _ => format!("crashed with {signal}"),
        },
        ("failed", _, Some(code)) => format!("failed with exit code {code}"),
        (_, Some(signal), _) if record.run.is_some() => {
            format!("{} after {signal}{from}", record.summary)
        }
        _ => record.summary.clone(),
    }
}

/// A time as records have it, in the form of this program's output.
pub(super) fn time(rfc3339: &str) -> String {
    Shown(rfc3339).to_string().replace('T', " ").trim_end_matches('Z').to_string()
}

pub(super) fn from_end(seconds: f64) -> String {
    let magnitude = seconds.abs();
    if magnitude < 1.0 {
        format!("{:+.3} ms", seconds * 1000.0)
    } else if magnitude < 100.0 {
        format!("{seconds:+.3} s")
    } else {
        format!("{}{}", if seconds < 0.0 { "-" } else { "+" }, Uptime(magnitude))
    }
}

/// Seconds, in the two largest units: `3 d 4 h`.
pub(super) struct Uptime(pub(super) f64);

impl fmt::Display for Uptime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whatever a file says: this saturates.
        #[allow(clippy::cast_sign_loss)]
        let seconds = self.0.max(0.0) as u64;
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
        let text = match (days, hours, minutes) {
            (0, 0, 0) => return f.pad(&format!("{:.1} s", self.0.max(0.0))),
            (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
            (0, _, _) => format!("{hours} h {minutes} min"),
            _ => format!("{days} d {hours} h"),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record::{Core, Evidence, Run};
    use crate::wire::{Ancestor, Sender};

    const PLAIN: Style = Style { is_coloured: false };

    fn terminated() -> Record {
        let ancestor = |pid, name: &str| Ancestor { pid, name: name.into(), command: name.into() };
        Record {
            instance: "web1".into(),
            pid: Some(4242),
            end: "2026-11-21T02:14:07.667502Z".into(),
            uptime: Some(3.0 * 86_400.0 + 4.5 * 3600.0),
            cause: "host-signal".into(),
            initiator: "admin".into(),
            signal: Some("SIGTERM".into()),
            exit_code: Some(0),
            sender: Some(Sender {
                pid: Some(5831),
                name: Some("kill".into()),
                uid: Some(0),
                ancestors: vec![ancestor(5790, "bash"), ancestor(5788, "sshd")],
                ..Sender::default()
            }),
            marked: Some(false),
            evidence: vec![
                Evidence { at: -900.0, source: "qmp".into(), what: "connected".into() },
                Evidence { at: -0.0052, source: "qmp".into(), what: "SHUTDOWN host-signal".into() },
            ],
            ..Record::default()
        }
    }

    #[test]
    fn a_kill_is_told_with_all_who_had_a_hand_in_it() {
        assert_eq!(
            PLAIN.what_happened(&terminated()),
            "web1 (pid 4242) was killed by SIGTERM from kill[5831] (uid 0), run by bash[5790] ← sshd[5788]; an administrator did it. Up 3 d 4 h. QEMU said: host-signal. No core. Not marked as a user shutdown."
        );
    }

    #[test]
    fn a_supervisors_signal_is_told_with_what_the_supervisor_was_told() {
        let record = Record {
            cause: "powerdown".into(),
            summary: "obeyed a powerdown request".into(),
            marked: None,
            run: Some(Run { exit_code: 0, why: "powerdown".into() }),
            evidence: Vec::new(),
            ..terminated()
        };
        let told = PLAIN.what_happened(&record);
        assert!(
            told.starts_with(
                "web1 (pid 4242) obeyed a powerdown request after SIGTERM from kill[5831] (uid 0)"
            ),
            "{told}"
        );
        assert!(told.ends_with("kvmd-run exited with 0."), "{told}");
        let run = Some(Run { exit_code: 41, why: "forced".into() });
        let told = PLAIN.what_happened(&Record { run, ..record });
        assert!(told.ends_with("kvmd-run exited with 41 because it had to be forced."), "{told}");
    }

    #[test]
    fn an_end_elsewhere_is_told_with_its_node() {
        let record = Record { node: Some("node1\x1b".into()), ..terminated() };
        let told = PLAIN.what_happened(&record);
        assert!(told.starts_with("web1 (pid 4242 on node1\\u{1b}) was killed"), "{told}");
        let told = PLAIN.what_happened(&Record { pid: None, ..record });
        assert!(told.starts_with("web1 (on node1"), "{told}");
    }

    #[test]
    fn a_crash_says_where_its_core_is() {
        let record = Record {
            instance: "web2".into(),
            cause: "crashed".into(),
            initiator: "crash".into(),
            signal: Some("SIGSEGV".into()),
            core: Some(Core {
                dumped: true,
                hint: Some("coredumpctl info 7".into()),
                ..Core::default()
            }),
            ..Record::default()
        };
        assert_eq!(
            PLAIN.what_happened(&record),
            "web2 crashed with SIGSEGV; something broke. QEMU did not announce a shutdown. It dumped core: coredumpctl info 7. The mark of a user shutdown, if there was one, was left as it was."
        );
    }

    #[test]
    fn a_story_has_its_evidence_in_order() {
        let mut story = Vec::new();
        PLAIN.story(&mut story, &terminated()).unwrap();
        let story = String::from_utf8(story).unwrap();
        assert!(story.contains("-15 min 0 s  qmp             connected\n"), "{story}");
        assert!(story.contains("-5.200 ms  qmp             SHUTDOWN host-signal\n"), "{story}");
    }

    #[test]
    fn a_forged_record_cannot_move_the_cursor() {
        let record = Record {
            instance: "web\x1b[2J\n1".into(),
            summary: "x\r\x07".into(),
            end: "\x1b]0;".into(),
            ..Record::default()
        };
        let mut out = Vec::new();
        PLAIN.story(&mut out, &record).unwrap();
        assert!(out.iter().all(|&byte| byte == b'\n' || byte >= b' '));
    }
}
