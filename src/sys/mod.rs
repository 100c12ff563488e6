//! Everything that touches the system: files, sockets, processes, the kernel's event sources.
//!
//! The only home of `unsafe`. Nothing here decides anything: a call is made, what came of it
//! is returned, and errors keep the kernel's own number.

#![allow(unsafe_code, reason = "some calls have no safe form in any library")]

pub mod append_file;
pub mod child;
pub mod clock;
pub mod confinement;
pub mod connector;
pub mod control_dir;
pub mod core_pattern;
pub mod daemonize;
pub mod directory_watch;
pub mod handover;
pub mod inherited;
pub mod journal;
pub mod memory_cgroup;
pub mod node_name;
pub mod own_log;
pub mod pid_file;
pub mod plain_file;
pub mod priority;
pub mod private_directory;
pub mod process;
pub mod process_group;
pub mod qmp_socket;
pub mod random;
pub mod replaced_file;
pub mod sandbox;
pub mod sender;
pub mod service_manager;
pub mod signal_descriptor;
pub mod socket_option;
pub mod terminal;
pub mod trace;
pub mod tracefs;
pub mod users;
pub mod worker_threads;
pub mod writable;
