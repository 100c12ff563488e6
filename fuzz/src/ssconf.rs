//! The ssconf files, in which Ganeti's master tells its nodes of the cluster.
//!
//! The input is one file; it is read as each of the four, for that is what differs.

use kvmd::config::{
    SsconfError, WhyNot, has_kvm, is_user_shutdown_enabled, is_vm_capable, primary_family,
};
use kvmd::sys::node_name::Family;

use crate::assert_fit_to_print;

pub fn check(file: &[u8]) {
    let text = &*String::from_utf8_lossy(file);
    let lines: Vec<&str> = text.lines().collect();

    match has_kvm(text) {
        Ok(has_kvm) => assert_eq!(has_kvm, lines.contains(&"kvm")),
        Err(error) => check_error(&error),
    }
    match is_user_shutdown_enabled(text) {
        Ok(is_enabled) => assert_eq!(text.trim(), if is_enabled { "True" } else { "False" }),
        Err(error) => check_error(&error),
    }
    match primary_family(text) {
        Ok(Family::V4) => assert_eq!(text.trim(), "2"),
        Ok(Family::V6) => assert_eq!(text.trim(), "10"),
        Err(error) => check_error(&error),
    }
    let names = lines.iter().filter_map(|line| Some(line.split_once('=')?.0));
    for name in names.take(8).chain(["node1.example.com"]) {
        match is_vm_capable(text, name) {
            Ok(true) => assert!(lines.iter().any(|line| {
                line.split_once('=').is_some_and(|(n, value)| n == name && value.trim() == "True")
            })),
            Ok(false) => {}
            Err(error) => check_error(&error),
        }
    }
}

/// It becomes a line of the log.
fn check_error(error: &SsconfError) {
    assert_fit_to_print(&WhyNot::Malformed(error.clone()).to_string());
}
