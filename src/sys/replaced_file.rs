//! A file that is replaced as a whole: whoever reads it sees the old one or the new one.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::random::random;

/// Puts a file with these contents at `path`, and returns it, open for more. Nothing is flushed to
/// the disk: what is lost with the machine's power was about processes that are gone with it.
pub fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<File> {
    let mut temporary = beside(path, "");
    // Exclusively: it is a new file, and no link is followed.
    let create =
        |path: &Path| OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let created = match create(&temporary) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // One that an earlier process left behind is not left for ever. Somebody may have put
            // something there that is not so easily removed, or may put it there again.
            let _ = fs::remove_file(&temporary);
            temporary = beside(path, &format!("{:x}.", random()?));
            create(&temporary)
        }
        created => created,
    };
    let written = created
        // Whatever the umask has left of it.
        .and_then(|file| file.set_permissions(Permissions::from_mode(mode)).map(|()| file))
        .and_then(|mut file| file.write_all(contents).map(|()| file))
        .and_then(|file| fs::rename(&temporary, path).map(|()| file));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// In the same directory, so that it can be renamed; hidden, and with an ending that collectors
/// of text files pass over.
fn beside(path: &Path, random: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{random}tmp"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_replaced_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.prom");
        replace(&path, b"one", 0o644).unwrap();
        fs::write(beside(&path, ""), "left behind").unwrap();
        replace(&path, b"two", 0o644).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        // More than any umask leaves.
        replace(&path, b"two", 0o666).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(replace(&directory.path().join("none").join("file"), b"", 0o644).is_err());
    }
}
