//! The results, side by side.

use std::fmt;

/// A figure in its unit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    KiB(f64),
    Bytes(f64),
    Nanoseconds(f64),
    Count(f64),
    Ratio(f64),
}

impl Value {
    fn number(self) -> f64 {
        match self {
            Self::KiB(x)
            | Self::Bytes(x)
            | Self::Nanoseconds(x)
            | Self::Count(x)
            | Self::Ratio(x) => x,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::KiB(x) if x >= 10_240_000.0 => write!(f, "{:.1} GB", x / 1024.0 / 1024.0),
            Self::KiB(x) => write!(f, "{:.1} MB", x / 1024.0),
            Self::Bytes(x) => write!(f, "{:.2} KB", x / 1024.0),
            Self::Nanoseconds(x) if x.abs() >= 1e9 => write!(f, "{:.2} s", x / 1e9),
            Self::Nanoseconds(x) if x.abs() >= 1e7 => write!(f, "{:.0} ms", x / 1e6),
            Self::Nanoseconds(x) if x.abs() >= 1e5 => write!(f, "{:.2} ms", x / 1e6),
            Self::Nanoseconds(x) => write!(f, "{:.2} us", x / 1e3),
            Self::Count(x) if x.fract() == 0.0 => write!(f, "{x}"),
            Self::Count(x) => write!(f, "{x:.1}"),
            Self::Ratio(x) => write!(f, "{x:.3}"),
        }
    }
}

/// What ours is to reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtMost(Value),
    AtLeast(Value),
    /// The figure explains another.
    None,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<[String; 6]>,
    missed: usize,
    notes: Vec<String>,
}

impl Table {
    /// Adds a row, and says what it is while the rest is yet to be measured. Of others there may
    /// be none.
    pub(crate) fn add(
        &mut self,
        what: &str,
        ours: Value,
        others: &[(&str, Option<Value>)],
        target: Target,
    ) {
        let (target, is_met) = match target {
            Target::AtMost(most) => (format!("<= {most}"), Some(ours.number() <= most.number())),
            Target::AtLeast(least) => {
                (format!(">= {least}"), Some(ours.number() >= least.number()))
            }
            Target::None => (String::new(), None),
        };
        let met = is_met.map_or("", |is_met| if is_met { "pass" } else { "FAIL" });
        self.missed += usize::from(is_met == Some(false));
        let mut first = Some([what.to_string(), ours.to_string(), target, met.into()]);
        let mut push = |other: String, ratio: String| {
            let [what, ours, target, met] = first.take().unwrap_or_default();
            self.rows.push([what, ours, other, ratio, target, met]);
        };
        for (name, value) in others {
            match value {
                Some(value) => {
                    push(format!("{value} {name}"), ratio(ours.number(), value.number()));
                }
                None => push(format!("? {name}"), String::new()),
            }
        }
        if others.is_empty() {
            push(String::new(), String::new());
        }
        println!("  {what}: {ours}");
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub(crate) fn print(&self) {
        let head = ["measure", "ours", "others", "ours : other", "target", ""];
        let mut rows = vec![head.map(String::from)];
        rows.extend(self.rows.iter().cloned());
        let mut widths = [0; 6];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        println!();
        for row in &rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        println!();
        for note in &self.notes {
            println!("{note}");
        }
        println!("{} targets missed.", self.missed);
    }
}

fn ratio(ours: f64, other: f64) -> String {
    match (ours, other) {
        (ours, other) if ours > 0.0 && other > 0.0 && ours <= other => {
            format!("1 : {:.*}", usize::from(other / ours < 10.0), other / ours)
        }
        (ours, other) if ours > 0.0 && other > 0.0 => format!("{:.1} : 1", ours / other),
        _ => "-".into(),
    }
}

/// The value below which so many of a hundred are. The order of the values is changed.
pub(crate) fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values
        .get((values.len() * percent / 100).min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    percentile(values, 50)
}
