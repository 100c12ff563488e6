//! Every input that is kept is given to its check again: the captures, and whatever once broke
//! something. The fuzzer is not needed for it.

use std::fs;
use std::path::Path;

use kvmd_fuzz::{Check, TARGETS};

/// Gives every input below `fuzz/KIND/TARGET` to its check. Says how many there were.
fn replay(kind: &str, target: &str, check: Check) -> usize {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(kind).join(target);
    let Ok(entries) = fs::read_dir(&directory) else { return 0 };
    let inputs = entries.map(|entry| entry.expect("read a directory").path());
    inputs
        .map(|path| {
            let input = fs::read(&path).expect("read an input");
            // It is shown only if the check fails.
            println!("{}", path.display());
            check(&input);
        })
        .count()
}

#[test]
fn every_kept_input_is_taken() {
    for (target, check) in TARGETS {
        assert!(replay("seeds", target, check) > 0, "{target} has no seeds");
        replay("crashes", target, check);
    }
}

#[test]
fn the_shortest_inputs_are_taken() {
    for (_, check) in TARGETS {
        check(b"");
        (0..=255).for_each(|byte| check(&[byte]));
    }
}
