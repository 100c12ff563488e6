//! The files in which Ganeti keeps what it has started an instance with, to start it again on another
//! node: QEMU's command line, its network cards, the hypervisor's parameters and its disks, as one JSON
//! array (`_SaveKVMRuntime` in Ganeti's `hv_kvm`).

use std::io;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::sys::plain_file;

/// As much of a file as is looked at, in bytes. One of an instance with 16 disks has some 20,000.
const LONGEST: usize = 1 << 20;

/// The parameters, as far as anything here asks for them.
#[derive(Deserialize)]
struct Parameters {
    user_shutdown: Option<bool>,
}

pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    plain_file::read(path, LONGEST)
}

/// The parameter `user_shutdown`, if the file says.
pub(super) fn user_shutdown(text: &[u8]) -> Option<bool> {
    type Runtime = (IgnoredAny, IgnoredAny, Parameters, IgnoredAny);
    let (_, _, parameters, _): Runtime = serde_json::from_slice(text).ok()?;
    parameters.user_shutdown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_come_third() {
        let with = |parameters| {
            let text =
                format!(r#"[["kvm", "-name", "web1"], [{{"mac": "aa"}}], {parameters}, []]"#);
            user_shutdown(text.as_bytes())
        };
        assert_eq!(
            with(r#"{"acpi": true, "user_shutdown": true, "boot_order": "disk"}"#),
            Some(true)
        );
        assert_eq!(with(r#"{"user_shutdown": false}"#), Some(false));
        assert_eq!(with(r#"{"acpi": true}"#), None);
        assert_eq!(with(r#"{"user_shutdown": "yes"}"#), None);
        assert_eq!(with("[]"), None);
        assert_eq!(user_shutdown(b"[]"), None);
        assert_eq!(user_shutdown(b"[[], [], {\"user_shutdown\": true"), None);
    }
}
