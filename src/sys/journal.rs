//! Whether stderr goes to systemd's journal: `JOURNAL_STREAM` of systemd.exec(5).

use rustix::fs::fstat;
use rustix::stdio::stderr;

/// Whether a line on stderr may begin with its priority, `<5>`: see sd-daemon(3).
#[must_use]
pub fn is_stderr() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Some((device, inode)) = stream.split_once(':') else { return false };
    fstat(stderr())
        .is_ok_and(|stat| device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
}
