//! Leaving the terminal, the way Ganeti's daemons do it.
//!
//! Two forks, a session and a umask of its own, and a pipe over which the daemon tells whoever
//! started it that it has come up, or why it has not.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::fs::Mode;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{chdir, setsid, umask};

/// Which side of the forks this process is.
#[derive(Debug)]
pub enum Side {
    /// The one that was started: it is to report what the daemon said, and to exit.
    Starter(Report),
    Daemon(Starter),
}

/// What the daemon told before it let go of the pipe: nothing, if it has come up.
#[derive(Debug)]
pub struct Report(pub String);

/// The way to whoever started the daemon. Once it is dropped, the daemon has come up.
#[derive(Debug)]
pub struct Starter(File);

impl Starter {
    /// Tells why the daemon does not come up.
    pub fn tell(&mut self, error: &str) {
        // If nobody listens any more, the log has it.
        let _ = self.0.write_all(error.as_bytes());
    }
}

/// Forks into a daemon, whose process is neither a child of the caller's nor the leader of its
/// session, and which holds no directory but the root in use.
///
/// Must be called while this process has one thread only: others would be gone in the daemon,
/// with whatever locks they held.
pub fn detach() -> io::Result<Side> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    if fork()? == Fork::Parent {
        drop(writer);
        let mut report = String::new();
        File::from(reader).read_to_string(&mut report)?;
        return Ok(Side::Starter(Report(report)));
    }
    drop(reader);
    let mut starter = Starter(File::from(writer));
    if let Err(error) = leave_the_terminal() {
        starter.tell(&error.to_string());
        std::process::exit(1);
    }
    match fork() {
        Ok(Fork::Child) => Ok(Side::Daemon(starter)),
        // The one in between has nothing to report: the daemon does.
        Ok(Fork::Parent) => std::process::exit(0),
        Err(error) => {
            starter.tell(&error.to_string());
            std::process::exit(1);
        }
    }
}

fn leave_the_terminal() -> io::Result<()> {
    chdir("/")?;
    umask(Mode::RWXG | Mode::RWXO);
    setsid()?;
    rustix::stdio::dup2_stdin(OpenOptions::new().read(true).open("/dev/null")?)?;
    Ok(())
}

/// Has stdout and stderr, where a library or the runtime may write, lead to `file`.
pub fn redirect_output(file: impl AsFd) -> io::Result<()> {
    rustix::stdio::dup2_stdout(&file)?;
    rustix::stdio::dup2_stderr(&file)?;
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Fork {
    Parent,
    Child,
}

fn fork() -> io::Result<Fork> {
    // SAFETY: the process has one thread (the caller's promise), so that the child has all
    // that the parent had, and may go on as the parent could have.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        _ => Ok(Fork::Parent),
    }
}
