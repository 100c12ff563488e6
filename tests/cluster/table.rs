//! What has been played, with ours and with the original, side by side.

/// One line for one of the two.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) says: String,
    pub(crate) expected: String,
    pub(crate) result: Outcome,
}

/// What came of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was played to its end; what was seen.
    Seen(String),
    /// It failed on the way, which its daemon may be to blame for.
    Failed,
    /// Its turn never came, and why: there was no cluster to play it on.
    NotPlayed(String),
}

impl Row {
    /// One that is still to be played.
    pub(crate) fn owed(says: &str, expected: String) -> Self {
        Self { says: says.into(), expected, result: Outcome::NotPlayed(String::new()) }
    }

    pub(crate) fn seen(self, result: String) -> Self {
        Self { result: Outcome::Seen(result), ..self }
    }

    pub(crate) fn not_played(self, reason: &str) -> Self {
        // The last line of an output is where a program says what it has stumbled over.
        let reason = reason.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        let reason = reason.trim().chars().take(100).collect();
        Self { result: Outcome::NotPlayed(reason), ..self }
    }

    pub(crate) fn is_right(&self) -> bool {
        matches!(&self.result, Outcome::Seen(seen) if *seen == self.expected)
    }

    fn mark(&self) -> String {
        match &self.result {
            Outcome::Seen(seen) if *seen == self.expected => "right".into(),
            Outcome::Seen(seen) => format!("WRONG: {seen}"),
            Outcome::Failed => "WRONG: could not be played".into(),
            Outcome::NotPlayed(reason) => format!("NOT PLAYED: {reason}"),
        }
    }
}

/// Prints the table; whether all has been played, and ours is right everywhere.
pub(crate) fn print(ours: &[Row], theirs: &[Row]) -> bool {
    let width = |texts: &mut dyn Iterator<Item = &String>| {
        texts.map(|text| text.chars().count()).max().unwrap_or_default()
    };
    let says = width(&mut ours.iter().map(|row| &row.says));
    let expected = width(&mut ours.iter().map(|row| &row.expected));
    println!("\n{:says$}  {:expected$}  ours  the original", "what happens", "expected");
    for row in ours {
        let their = theirs.iter().find(|their| their.says == row.says);
        println!(
            "{:says$}  {:expected$}  {}  {}",
            row.says,
            row.expected,
            row.mark(),
            their.map_or_else(|| "-".into(), Row::mark),
        );
    }
    let right = |rows: &[Row]| rows.iter().filter(|row| row.is_right()).count();
    println!(
        "\nOurs is right in {} of {}, the original in {} of {}.",
        right(ours),
        ours.len(),
        right(theirs),
        theirs.len()
    );
    let is_missing = |row: &&Row| matches!(row.result, Outcome::NotPlayed(_));
    let missing = ours.iter().chain(theirs).filter(is_missing).count();
    if missing > 0 {
        println!("{missing} of these have not been played: the comparison is not complete.");
    }
    !ours.is_empty() && right(ours) == ours.len() && missing == 0
}
