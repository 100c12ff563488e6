//! Where core dumps go: `kernel.core_pattern`, see core(5).

use super::plain_file;
use crate::wire::Printable;

/// The pattern that is in force, fit to print.
#[must_use]
pub fn read() -> Option<String> {
    /// `CORENAME_MAX_SIZE` of the kernel.
    const LONGEST: usize = 128;
    let pattern = plain_file::read("/proc/sys/kernel/core_pattern", LONGEST).ok()?;
    Some(Printable(pattern.trim_ascii_end()).to_string())
}

/// How to get at a core that was dumped under this pattern.
#[must_use]
pub fn hint(pattern: &str, pid: Option<u32>) -> String {
    let pid = pid.map_or_else(|| "PID".into(), |pid| pid.to_string());
    if let Some(program) = pattern.strip_prefix('|') {
        let program = program.split_whitespace().next().unwrap_or_default();
        return if program.ends_with("systemd-coredump") {
            format!("coredumpctl info {pid}")
        } else if program.ends_with("apport") {
            format!("see /var/crash; it was handed to {program}")
        } else {
            format!("it was handed to {program}")
        };
    }
    // Only what is known here can be filled in.
    let path = pattern.replace("%p", &pid).replace("%P", &pid);
    if path.starts_with('/') {
        format!("the file {path} (core(5) explains any other % in it)")
    } else {
        format!("the file {path} in the directory in which QEMU ran (under Ganeti: /)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_pattern_has_its_hint() {
        let systemd = "|/lib/systemd/systemd-coredump %P %u %g %s %t 9223372036854775808 %h";
        assert_eq!(hint(systemd, Some(4242)), "coredumpctl info 4242");
        assert!(hint("|/usr/bin/collect %p", Some(1)).contains("/usr/bin/collect"));
        assert!(hint("/var/cores/core.%p", Some(7)).starts_with("the file /var/cores/core.7 "));
        assert!(hint("core", None).contains("in the directory"));
    }
}
