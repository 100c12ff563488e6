//! From the command line to a running daemon, in the order of Ganeti's own.
//!
//! Whatever goes wrong before the daemon has come up is told on the terminal of whoever
//! started it, and the exit code is 1.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use ::log::{error, info, warn};

use crate::cli::{Options, Syslog};
use crate::config::{self, GanetisWords, Paths};
use crate::daemon::{self, Daemon};
use crate::log::{Log, NOTICE};
use crate::sys::confinement::Reach;
use crate::sys::daemonize::{self, Report, Side, Starter};
use crate::sys::handover::{self, Inheritance};
use crate::sys::pid_file::PidFile;
use crate::sys::sandbox::{self, Role};
use crate::sys::service_manager::ServiceManager;
use crate::sys::{node_name, private_directory, process, users};

/// Why the daemon has not come up.
#[derive(Debug)]
enum StartError {
    Syslog(io::Error),
    /// There is nothing to do on this node, so that nothing is to be taken over.
    NotToRun(config::WhyNot),
    TakeOver(u32, io::Error),
    PidFile(PathBuf, io::Error),
    Daemon(daemon::FatalError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syslog(error) => write!(f, "/dev/log: {}", GanetisWords(error)),
            Self::NotToRun(why) => write!(f, "nothing to take over: {why}"),
            Self::TakeOver(pid, error) => {
                write!(f, "cannot take over from process {pid}: {error}; see its log")
            }
            Self::PidFile(path, error) => write!(
                f,
                "{}: writing PID file; already locked?: {}",
                path.display(),
                GanetisWords(error)
            ),
            Self::Daemon(error) => error.fmt(f),
        }
    }
}

const FAILED: &str = "Error when starting the daemon process";

/// Runs the daemon: here, or detached from the terminal.
pub(crate) fn run(options: Options) -> ExitCode {
    if options.has_arguments {
        eprintln!("Error: This program doesn't take any arguments");
        return ExitCode::FAILURE;
    }
    if !options.no_user_checks
        && let Err(error) = users::check()
    {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let mut starter = None;
    if !options.foreground {
        match daemonize::detach() {
            Ok(Side::Daemon(way)) => starter = Some(way),
            Ok(Side::Starter(Report(error))) if error.is_empty() => return ExitCode::SUCCESS,
            Ok(Side::Starter(Report(error))) => {
                eprintln!("{FAILED}: {error}");
                return ExitCode::FAILURE;
            }
            Err(error) => {
                eprintln!("{FAILED}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    come_up(options, starter)
}

/// The daemon's own process begins here.
fn come_up(options: Options, mut starter: Option<Starter>) -> ExitCode {
    // daemon-util looks for a process of this name, by whatever path it was started.
    process::set_name(c"ganeti-kvmd");
    let paths = Paths::from_environment();
    let log = Log::new();
    let result = open_log(&log, &paths, &options).and_then(|()| {
        let inheritance = if options.takes_over { Some(take_over(&paths)?) } else { None };
        let pid_file = PidFile::create(&paths.pid_file())
            .map_err(|error| StartError::PidFile(paths.pid_file(), error))?;
        Ok((inheritance, pid_file))
    });
    let (inheritance, pid_file) = match result {
        Ok(ready) => ready,
        Err(error) => return give_up(&error, starter.as_mut()),
    };
    info!(target: NOTICE, "ganeti-kvmd daemon startup");
    if let Err(error) = process::raise_descriptor_limit() {
        warn!("Cannot raise the limit of open files: {error}");
    }
    if let Err(error) = private_directory::prepare(&paths.private_dir()) {
        error!("Cannot keep the state where only root can write: {error}");
    }
    let result = serve(paths, options, log, inheritance, &mut starter);
    drop(pid_file);
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => give_up(&StartError::Daemon(error), starter.as_mut()),
    };
    info!(target: NOTICE, "ganeti-kvmd daemon shutdown");
    crate::log::finish(daemon::LAST_WORDS);
    code
}

/// Opens the log where it is to go. A file that cannot be opened is said on stderr, and goes
/// without; a syslog that was asked for and is not there is an error, as with Ganeti's own.
fn open_log(log: &Log, paths: &Paths, options: &Options) -> Result<(), StartError> {
    let mut file = Ok(());
    if options.syslog != Syslog::Only {
        file = log.to_file(&paths.log_file());
    }
    if let Err(error) = &file {
        eprintln!(
            "Warning: cannot open the log file {}: {error}; running without it",
            paths.log_file().display()
        );
    }
    if options.foreground {
        log.to_stderr();
    } else if let Err(error) = log.take_output() {
        eprintln!("Warning: cannot redirect stdout and stderr: {error}");
    }
    let syslog = if options.syslog == Syslog::No { Ok(()) } else { log.to_syslog() };
    log.start(options.debug);
    syslog.map_err(StartError::Syslog)
}

/// Whether there is something to do on this node. It may take [the name service] to answer.
///
/// [the name service]: node_name::find
fn should_run(paths: &Paths) -> Result<(), config::WhyNot> {
    let file = paths.node_name_file();
    let node = config::should_run(paths, |family| {
        let node = node_name::find(family, &file);
        if let Some(failure) = node.failure() {
            warn!(
                "Cannot look up this node's name: {failure}. To do without: {}",
                node_name::REMEDY
            );
        }
        node
    })?;
    if let Err(error) = node.remember(&file) {
        info!(
            "Cannot write {}: {error}; if the name service does not answer at the next start, this node's name is not known",
            file.display()
        );
    }
    Ok(())
}

/// Takes what the daemon that runs has open, if one does, and if there is something to do on this
/// node. That is asked while the other daemon still serves: what it takes is not asked again.
fn take_over(paths: &Paths) -> Result<Inheritance, StartError> {
    should_run(paths).map_err(StartError::NotToRun)?;
    let running = PidFile::holder(&paths.pid_file())
        .map_err(|error| StartError::PidFile(paths.pid_file(), error))?;
    let Some(pid) = running else {
        info!("No daemon is running that could hand over; starting as usual");
        return Ok(Inheritance::new());
    };
    info!("Taking over from process {pid}");
    handover::take_over(pid, &paths.handover_socket())
        .map_err(|error| StartError::TakeOver(pid, error))
}

fn give_up(error: &StartError, starter: Option<&mut Starter>) -> ExitCode {
    match starter {
        Some(starter) => starter.tell(&error.to_string()),
        None => eprintln!("{FAILED}: {error}"),
    }
    error!("{error}");
    ExitCode::FAILURE
}

/// Runs until a signal asks it to end, or says why there is nothing to do here. With an inheritance
/// it is known that there is.
fn serve(
    paths: Paths,
    options: Options,
    log: Log,
    inheritance: Option<Inheritance>,
    starter: &mut Option<Starter>,
) -> Result<(), daemon::FatalError> {
    // A daemon that detaches itself may have been started by another service, whose manager is
    // none of its.
    let manager = options.foreground.then(ServiceManager::of_this_process).flatten();
    if inheritance.is_none()
        && let Err(why) = should_run(&paths)
    {
        info!("{why}");
        info!("{}", why.remedy());
        // To end without having been up would be a failure, and worth another try.
        if let Some(Err(error)) = manager.map(|manager| manager.notify_ready()) {
            warn!("Cannot notify the service manager: {error}");
        }
        return Ok(());
    }
    let reach = paths.reach_of_loop();
    let reach_of_lookup = paths.reach_of_lookup();
    let writers_reach = paths.reach_of_writer(options.metrics_file.as_deref());
    let mut daemon = Daemon::new(
        paths,
        options.settings,
        options.metrics_file,
        manager,
        log,
        (!options.no_sandbox).then_some(writers_reach),
    )?;
    // From here on it is up: whoever started it may go on.
    *starter = None;
    daemon.begin(inheritance.unwrap_or_default());
    if options.no_sandbox {
        warn!("No sandbox (--no-sandbox): the daemon keeps all capabilities and system calls");
        daemon.look_into_processes(|_| {});
    } else {
        enter_sandbox(&reach, reach_of_lookup, &mut daemon);
    }
    daemon.run()
}

/// Has the loop give up what it does not need, and starts the threads that look into processes, which
/// do so themselves.
fn enter_sandbox(reach: &Reach, reach_of_lookup: Reach, daemon: &mut Daemon) {
    let is_to_be_confined = daemon.is_told_of_exits() || process::has_statuses_of_the_dead();
    if !is_to_be_confined {
        info!(
            "Not confined to its directories: without the proc connector, /proc has to tell how processes end, and Landlock would hide that"
        );
    }
    daemon.look_into_processes(move |role| {
        // What fails here fails for the loop, too, which logs it.
        let _ = sandbox::enter(role, is_to_be_confined.then_some(&reach_of_lookup));
    });
    daemon::sandbox::enter(Role::Loop, is_to_be_confined.then_some(reach));
}
