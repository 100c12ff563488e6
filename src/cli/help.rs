//! What `--help`, `--version` and `--help-completion` print, laid out as by Ganeti's own daemons.

use std::fmt::Write as _;

use super::options::{Effect, GANETIS, OURS, Opt};

/// What `--help` prints.
#[must_use]
pub fn help() -> String {
    let mut text = format!("{}\nUsage: ganeti-kvmd [OPTION...]\n", first_line());
    text.push_str(&table(&GANETIS));
    text.push_str("\nOptions that the original does not have:\n");
    text.push_str(&table(&OURS));
    text.push_str(
        "\nWatches this node's KVM instances and tells Ganeti which of them their own users\n\
         have shut down, by creating the file NAME.shutdown in the control directory. For\n\
         every instance that ends it logs why, and who did it; kvmd-why NAME explains it,\n\
         even weeks later.\n",
    );
    text
}

/// What `--version` prints.
#[must_use]
pub fn version() -> String {
    format!("{}\nrunning on {} {}\n", first_line(), std::env::consts::OS, std::env::consts::ARCH)
}

/// What `--help-completion` prints: an option a line.
#[must_use]
pub fn completion() -> String {
    let mut text = String::new();
    for option in GANETIS.iter().chain(&OURS) {
        if let Some(short) = option.short {
            let _ = write!(text, "-{short},");
        }
        let _ = writeln!(text, "--{} {}", option.long, option.effect.completion());
    }
    text
}

fn first_line() -> String {
    format!("ganeti-kvmd {} (for Ganeti 2.16 to 3.1)", env!("CARGO_PKG_VERSION"))
}

/// The options as Haskell's `getopt` lays them out, long descriptions folded.
pub(super) fn table(options: &[Opt]) -> String {
    const FOLD_AT: usize = 78;
    let spelling = |option: &Opt| match &option.effect {
        Effect::With(value) => format!("--{}={}", option.long, value.name()),
        Effect::Flag(_) => format!("--{}", option.long),
    };
    let width = options.iter().map(|option| spelling(option).len()).max().unwrap_or_default();
    let is_folded = options.iter().any(|option| option.help.len() > 120);
    let mut text = String::new();
    for option in options {
        let short = option.short.map_or_else(|| "  ".into(), |short| format!("-{short}"));
        let start = format!("  {short}  {:width$}  ", spelling(option));
        text.push_str(&start);
        let mut column = start.len();
        for (i, word) in option.help.split(' ').enumerate() {
            if is_folded && column + 1 + word.len() > FOLD_AT {
                let _ = write!(text, "\n{:1$}{word}", "", start.len());
                column = start.len() + word.len();
            } else {
                let _ = write!(text, "{}{word}", if i == 0 { "" } else { " " });
                column += word.len() + usize::from(i > 0);
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_fits_a_terminal_and_the_completion_has_every_option() {
        let help = help();
        for line in help.lines().filter(|line| !line.contains("syslog")) {
            assert!(line.len() <= 80, "{line}");
        }
        for option in GANETIS.iter().chain(&OURS) {
            assert!(help.contains(&format!("--{}", option.long)));
            assert!(completion().contains(&format!("--{} ", option.long)));
        }
    }
}
