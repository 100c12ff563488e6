//! An end as an entry of systemd's journal. packaging/journal/ganeti-kvmd.catalog explains each kind.

use std::fmt::Display;

use crate::verdict::{Cause, Death, Initiator};
use crate::wire::journal::{Entry, Level};
use crate::wire::record::Record;

/// What journald tells a kind of end by, for good: journalctl(1) and others are asked for these
/// numbers, and they are in journals that were written before. `uuidgen -r` makes another.
const MESSAGE_IDS: [(&str, u128); 20] = [
    ("guest-shutdown", 0xe956_f204_3740_4873_a348_0ed0_c6f7_5b0a),
    ("guest-reset", 0x7a32_db8b_0fc3_40e3_b9e0_802d_b211_6f7a),
    ("powerdown", 0xf049_56c5_68c1_4635_a55d_49f0_dcdc_b0ad),
    ("host-signal", 0x535b_db10_33f4_4443_8f9f_61cd_48d8_8ac5),
    ("host-qmp-quit", 0x9301_e41f_e421_4106_814c_8395_ad56_e59d),
    ("host-qmp-system-reset", 0x82a6_1141_0597_4978_b17f_0f59_0c15_8c34),
    ("host-ui", 0x3f81_20f9_6e4f_4836_a291_040a_6040_fae8),
    ("subsystem-reset", 0x2a8a_08ca_e9f2_44f6_a505_a38e_60e5_ae83),
    ("snapshot-load", 0x2181_b44e_8f7f_46cf_80a9_d013_4493_1d54),
    ("host", 0x8e2b_975a_a744_4107_83a5_0986_d1d4_cb07),
    ("host-error", 0x299d_5b19_50e8_450f_a6e1_9b5d_7a8e_b979),
    ("watchdog", 0x7adc_5202_fe49_49b5_afa6_03c2_2187_b144),
    ("guest-panic", 0x1cc2_0dc2_deaf_40b8_b405_14ac_78d8_bb4b),
    ("killed", 0x4cf9_83fc_1c04_451a_bbbb_9594_91d6_01ee),
    ("out-of-memory", 0x7e05_4263_0a7d_4f6f_9c75_aabb_b014_cac4),
    ("crashed", 0xbb45_ab9a_7e38_4c53_8966_60f3_c12d_ce61),
    ("failed", 0xe0e7_7fc1_83b4_416b_b169_097d_a65a_7c73),
    ("exited", 0x9e4d_b9b2_646c_4d2c_aee2_6cd0_6237_410e),
    ("unknown", 0x9192_412d_fcd6_4dba_9116_78c7_5852_7e8d),
    ("other", OTHER),
];

/// A reason of QEMU's that this version does not know.
const OTHER: u128 = 0xa122_9cb6_9cf7_412b_baed_59c1_aa4e_a04d;

/// The entry of this end, in this program's words.
pub(crate) fn entry(
    program: &str,
    level: Level,
    words: impl Display,
    death: &Death,
    record: &Record,
) -> Entry {
    let sender = record.sender.as_ref();
    Entry::new(program, level, words)
        .with("MESSAGE_ID", format_args!("{:032x}", message_id(&death.verdict.cause)))
        .with("INSTANCE", &record.instance)
        .with_known("INSTANCE_PID", record.pid)
        .with("CAUSE", &record.cause)
        .with("INITIATOR", &record.initiator)
        .with_known("SENDER_PID", sender.and_then(|sender| sender.pid))
        .with_known("SENDER_NAME", sender.and_then(|sender| sender.name.as_ref()))
        .with_known("SENDER_UID", sender.and_then(|sender| sender.uid))
}

/// How much an end matters to whoever runs the machine.
pub(crate) fn level(initiator: Initiator) -> Level {
    match initiator {
        Initiator::Crash => Level::Warning,
        Initiator::User | Initiator::Admin | Initiator::Unknown => Level::Notice,
    }
}

fn message_id(cause: &Cause) -> u128 {
    let known = MESSAGE_IDS.iter().find(|(kind, _)| *kind == cause.kind());
    known.map_or(OTHER, |(_, id)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Verdict;
    use crate::wire::qmp::Reason;
    use std::collections::BTreeSet;

    const CATALOG: &str =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/journal/ganeti-kvmd.catalog"));

    /// The catalog's entries: the comment in front, the number, the text.
    fn catalog() -> Vec<(&'static str, &'static str, &'static str)> {
        let entries = CATALOG.split("\n-- ").collect::<Vec<_>>();
        let kind = |before: &'static str| before.lines().last().unwrap().trim_start_matches("# ");
        let pairs = entries.windows(2);
        pairs
            .map(|pair| {
                let (id, text) = pair[1].split_once('\n').unwrap();
                (kind(pair[0]), id, text)
            })
            .collect()
    }

    #[test]
    fn the_catalog_explains_each_kind_of_end_and_nothing_else() {
        let expected: Vec<(&str, String)> =
            MESSAGE_IDS.iter().map(|(kind, id)| (*kind, format!("{id:032x}"))).collect();
        let explained: Vec<(&str, String)> =
            catalog().iter().map(|(kind, id, _)| (*kind, (*id).to_string())).collect();
        assert_eq!(explained, expected);
        let every = Verdict::every();
        let kinds: BTreeSet<&str> = every.iter().map(|verdict| verdict.cause.kind()).collect();
        assert_eq!(kinds, MESSAGE_IDS.iter().map(|(kind, _)| *kind).collect());
        let numbers: BTreeSet<u128> = MESSAGE_IDS.iter().map(|(_, id)| *id).collect();
        assert_eq!(numbers.len(), MESSAGE_IDS.len());
    }

    #[test]
    fn the_catalog_names_fields_that_every_entry_has() {
        for (kind, _, text) in catalog() {
            let (head, body) = text.split_once("\n\n").unwrap();
            for line in ["Subject: Virtual machine @INSTANCE@ ", "Defined-By: ", "Documentation: "]
            {
                assert!(head.starts_with(line) || head.contains(&format!("\n{line}")), "{kind}");
            }
            for field in text.split('@').skip(1).step_by(2) {
                assert!(["INSTANCE", "CAUSE", "INITIATOR"].contains(&field), "{kind}: @{field}@");
            }
            assert!(body.trim().len() > 40, "{kind} is not explained");
        }
    }

    #[test]
    fn a_reason_that_qemu_made_up_passes_for_no_other() {
        for word in ["killed", "guest-shutdown", "warp-core-breach"] {
            let cause = Cause::Host(Some(Reason::Unknown(word.into())));
            assert_eq!(message_id(&cause), OTHER, "{word}");
        }
        assert_eq!(message_id(&Cause::Host(Some(Reason::None))), OTHER);
        assert_ne!(message_id(&Cause::Killed), OTHER);
    }

    #[test]
    fn a_crash_stands_out() {
        assert_eq!(level(Initiator::Crash), Level::Warning);
        assert_eq!(level(Initiator::User), Level::Notice);
    }
}
