//! `kvmd-run` on the QEMU of each Debian: tests of `tests/run`, with this QEMU in the place of this
//! machine's. They are those that depend on QEMU most: every exit code, every state that a guest can be
//! stopped in (on pc and q35), signals that QEMU must not hear, migration, a real kernel that has to hear
//! the button (on pc, q35 and microvm), and that no QEMU outlives its `kvmd-run`.

use std::process::Command;

use crate::build::Build;
use crate::column::{Cell, WRONG};

/// A test, and what it shows.
const STORIES: [(&str, &str); 10] = [
    ("ends::every_end_has_its_exit_code", "27 ways to end, each with its exit code (pc, q35)"),
    (
        "ends::a_guest_that_chooses_qemus_exit_code_does_not_choose_ours",
        "the guest chooses QEMU's exit code",
    ),
    ("stops::a_guest_is_stopped_in_whatever_state_it_is", "stopped in every state (pc, q35)"),
    (
        "stops::a_guest_that_answers_the_button_with_a_reboot_ends_as_well",
        "the guest answers the button with a reboot (pc)",
    ),
    (
        "stops::a_reset_of_the_supervisors_leaves_the_guest_running",
        "signals to QEMU itself are not heard",
    ),
    ("stops::a_guest_is_stopped_where_it_has_gone", "migrated, then stopped"),
    ("stops::a_guest_that_is_migrated_meanwhile_is_not_waited_for", "migrated during a stop"),
    (
        "stops::a_linux_guest_is_asked_until_it_hears",
        "Linux hears the button, early or late (pc, q35, microvm)",
    ),
    ("stops::a_microvm_without_acpi_has_no_button_and_is_ended", "a microvm without ACPI is ended"),
    ("moments::qemu_does_not_outlive_it", "QEMU does not outlive it, 100 times"),
];

/// A cell for each story. The words of the command are separated by spaces.
pub(crate) fn play(qemu: &str) -> Vec<Cell> {
    STORIES
        .iter()
        .zip(rows())
        .map(|(&(test, _), what)| {
            let result = play_story(test, qemu);
            println!("{what}: {result}");
            Cell { what, result }
        })
        .collect()
}

/// What each of the cells is.
pub(crate) fn rows() -> impl Iterator<Item = String> {
    STORIES.iter().map(|(_, shows)| format!("kvmd-run: {shows}"))
}

fn play_story(test: &str, qemu: &str) -> String {
    let program = match Build::of_this_machine().test("run") {
        Ok(program) => program,
        Err(error) => return format!("{WRONG}: {error}"),
    };
    let output = Command::new(program)
        .args(["--exact", test, "--nocapture"])
        .env("TESTBED_QEMU", qemu)
        .env("RUST_BACKTRACE", "0")
        // What a story needs is there: one that cannot run is a failure.
        .env("CI", "true")
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return format!("{WRONG}: {error}"),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed") {
        "passes".into()
    } else {
        println!("{said}");
        let panic = said.lines().skip_while(|line| !line.contains(" panicked at ")).nth(1);
        format!("{WRONG}: {}", panic.unwrap_or("it failed"))
    }
}
