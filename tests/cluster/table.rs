//! What has been played, with ours and with the original, side by side.

/// One line for one of the two.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) says: String,
    pub(crate) expected: String,
    pub(crate) result: String,
}

impl Row {
    pub(crate) fn is_right(&self) -> bool {
        self.result == self.expected
    }
}

/// Prints the table; whether ours is right everywhere.
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
            mark(row),
            their.map_or_else(|| "-".into(), mark),
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
    !ours.is_empty() && right(ours) == ours.len()
}

fn mark(row: &Row) -> String {
    if row.is_right() { "right".into() } else { format!("WRONG: {}", row.result) }
}
