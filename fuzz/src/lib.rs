//! What must hold of the daemon whatever it is told: one check for each fuzz target.
//!
//! Each takes bytes and panics where something does not hold. It must not know who calls it: the
//! fuzzer (`fuzz_targets/`), or the replay of every kept input (`tests/replay.rs`).

pub mod connector_datagram;
pub mod core;
pub mod fleet;
pub mod orders;
mod peers;
pub mod qmp_stream;
pub mod signal_plan;
pub mod ssconf;
pub mod state_file;
pub mod trace_page;

/// Panics where something does not hold of this input.
pub type Check = fn(&[u8]);

/// Every target, by its name.
pub const TARGETS: [(&str, Check); 9] = [
    ("qmp_stream", qmp_stream::check),
    ("connector_datagram", connector_datagram::check),
    ("trace_page", trace_page::check),
    ("ssconf", ssconf::check),
    ("state_file", state_file::check),
    ("core", core::check),
    ("orders", orders::check),
    ("signal_plan", signal_plan::check),
    ("fleet", fleet::check),
];

/// What is shown to an administrator is one line and moves no cursor.
fn assert_fit_to_print(text: &str) {
    let unfit = text.chars().find(|c| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}'));
    assert_eq!(unfit, None, "{text:?}");
}
