//! QEMU's command line, as `/proc/PID/cmdline` shows it, as far as a verdict depends on it.

/// Whether QEMU ends where its guest resets itself: `-no-reboot`, which is short for `-action
/// reboot=shutdown` (qemu(1)). The last one counts.
///
/// `arguments` end in a NUL each. Where the end is cut off, what stood there is not seen.
#[must_use]
pub fn has_no_reboot(arguments: &[u8]) -> bool {
    let mut has_no_reboot = false;
    let mut arguments = arguments.split(|&byte| byte == 0);
    while let Some(argument) = arguments.next() {
        // QEMU takes its options with two dashes as well.
        let Some(option) = argument.strip_prefix(b"-") else { continue };
        match option.strip_prefix(b"-").unwrap_or(option) {
            b"no-reboot" => has_no_reboot = true,
            b"action" => {
                let actions = arguments.next().unwrap_or_default().split(|&byte| byte == b',');
                for action in actions.filter_map(|action| action.strip_prefix(b"reboot=")) {
                    has_no_reboot = action == b"shutdown";
                }
            }
            _ => {}
        }
    }
    has_no_reboot
}

/// Whether QEMU is to go into the background.
#[must_use]
pub fn has_daemonize(arguments: &[u8]) -> bool {
    let mut arguments = arguments.split(|&byte| byte == 0);
    arguments.any(|argument| matches!(argument, b"-daemonize" | b"--daemonize"))
}

/// The guest's name: `-name NAME`, or `-name guest=NAME`, and options after a comma.
#[must_use]
pub fn name(arguments: &[u8]) -> Option<&[u8]> {
    let mut arguments = arguments.split(|&byte| byte == 0);
    arguments.find(|argument| matches!(*argument, b"-name" | b"--name"))?;
    let value = arguments.next()?;
    value.strip_prefix(b"guest=").unwrap_or(value).split(|&byte| byte == b',').next()
}

#[cfg(test)]
mod tests {
    use super::{has_daemonize, has_no_reboot, name};

    #[test]
    fn a_guest_has_a_name() {
        for (line, expected) in [
            ("qemu -m 128 -name web1 -S", Some("web1")),
            ("qemu --name guest=web1,debug-threads=on", Some("web1")),
            ("qemu -name", None),
            ("qemu -m 128", None),
        ] {
            let arguments = line.replace(' ', "\0") + "\0";
            let expected = expected.map(str::as_bytes);
            assert_eq!(name(arguments.as_bytes()).filter(|name| !name.is_empty()), expected);
        }
    }

    #[test]
    fn going_into_the_background_is_seen() {
        assert!(has_daemonize(b"qemu\0-daemonize\0") && has_daemonize(b"qemu\0--daemonize\0-S\0"));
        assert!(!has_daemonize(b"qemu\0-append\0a -daemonize\0"));
    }

    #[test]
    fn the_last_word_about_a_reboot_counts() {
        for (line, expected) in [
            ("qemu -m 128 -no-reboot -S", true),
            ("qemu --no-reboot", true),
            ("qemu -action panic=none,reboot=shutdown", true),
            ("qemu --action reboot=shutdown", true),
            ("qemu -no-reboot -action reboot=reset", false),
            ("qemu -action reboot=reset -no-reboot", true),
            ("qemu -action panic=none -S", false),
            ("qemu -action", false),
            ("qemu no-reboot", false),
            ("", false),
        ] {
            let arguments = line.replace(' ', "\0") + "\0";
            assert_eq!(has_no_reboot(arguments.as_bytes()), expected, "{line}");
        }
        assert!(!has_no_reboot(b"qemu\0-append\0panic=10 -no-reboot\0"));
    }
}
