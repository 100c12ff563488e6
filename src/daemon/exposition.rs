//! Prometheus's text format: families of samples, a line each. Names, labels and helps are words of
//! the daemon's own, so nothing is escaped.

use std::fmt::{Display, Write as _};

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins a family, to which the samples that follow belong.
    pub(super) fn family(&mut self, kind: Kind, name: &'static str, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(self.text, "# HELP ganeti_kvmd_{name} {help}");
        let _ = writeln!(self.text, "# TYPE ganeti_kvmd_{name} {kind}");
        Family { text: &mut self.text, name }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    /// The only sample of its family.
    pub(super) fn is(&mut self, value: impl Display) {
        self.add("", &[], value);
    }

    /// `suffix` is what follows the family's name, for a histogram.
    pub(super) fn add(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "ganeti_kvmd_{}{suffix}", self.name);
        for (i, (label, value)) in labels.iter().enumerate() {
            let before = if i == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{value}\"");
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{after} {value}");
    }
}
