//! The ssconf files: small texts in which Ganeti's master tells its nodes of the cluster.
//!
//! They are read as strictly as Ganeti's own daemon reads them, and what is wrong with one is
//! told in its words.

use std::fmt;
use std::io;
use std::path::Path;

use crate::sys::node_name::Family;
use crate::sys::plain_file;
use crate::wire::Quoted;

/// As much of a file as is looked at, in bytes.
const LONGEST: usize = 131_072;

/// The hypervisors that Ganeti knows.
const HYPERVISORS: [&str; 6] = ["kvm", "xen-pvm", "xen-hvm", "chroot", "lxc", "fake"];

/// A file is not what Ganeti writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SsconfError(String);

impl fmt::Display for SsconfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SsconfError {}

pub(super) fn read(path: &Path) -> io::Result<String> {
    let bytes = plain_file::read(path, LONGEST)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether `kvm` is among the hypervisors, one a line. One that is not known fails them all.
pub fn has_kvm(text: &str) -> Result<bool, SsconfError> {
    for name in text.lines() {
        if !HYPERVISORS.contains(&name) {
            let name = Quoted(name.as_bytes());
            return Err(SsconfError(format!("Invalid string value for type Hypervisor: {name}")));
        }
    }
    Ok(text.lines().any(|name| name == "kvm"))
}

/// Whether users' shutdowns are to be told apart.
pub fn is_user_shutdown_enabled(text: &str) -> Result<bool, SsconfError> {
    parse_bool(text.trim_end(), "Parsing enabled_user_shutdown")
}

/// The cluster's default of KVM's parameter `user_shutdown`, among lines of the form `name=value`.
/// Ganeti's own daemon does not read this file, so nothing is wrong with one that does not say.
pub(super) fn user_shutdown_by_default(text: &str) -> Option<bool> {
    let value = text.lines().find_map(|line| line.strip_prefix("user_shutdown="))?;
    parse_bool(value.trim_end(), "user_shutdown").ok()
}

/// Whether `node` may have instances: the first of the lines `name=True` that has its name. A
/// line of another form fails them all.
pub fn is_vm_capable(text: &str, node: &str) -> Result<bool, SsconfError> {
    let mut answer = None;
    for line in text.lines() {
        let mut parts = line.split('=');
        let (Some(name), Some(value), None) = (parts.next(), parts.next(), parts.next()) else {
            let text = "Failed to parse key-value pair for Parsing node_vm_capable";
            return Err(SsconfError(text.into()));
        };
        let value = parse_bool(value, "Parsing value of node_vm_capable")?;
        if name == node {
            answer.get_or_insert(value);
        }
    }
    Ok(answer.unwrap_or(false))
}

/// The family of the cluster's addresses, as Python numbers them on Linux.
pub fn primary_family(text: &str) -> Result<Family, SsconfError> {
    match text.trim() {
        "2" => Ok(Family::V4),
        "10" => Ok(Family::V6),
        other => Err(SsconfError(format!("Unknown af_family value: {}", Quoted(other.as_bytes())))),
    }
}

fn parse_bool(text: &str, what: &str) -> Result<bool, SsconfError> {
    match text.trim_start() {
        "True" => Ok(true),
        "False" => Ok(false),
        _ => Err(SsconfError(format!("{what}: cannot parse string '{}'", text.escape_debug()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_of_a_parameter() {
        let text = "acpi=True\nuser_shutdown=False\nvhost_net=False\n";
        assert_eq!(user_shutdown_by_default(text), Some(false));
        assert_eq!(user_shutdown_by_default("user_shutdown=True"), Some(true));
        assert_eq!(user_shutdown_by_default("no_user_shutdown=True\n"), None);
        assert_eq!(user_shutdown_by_default("user_shutdown=\n"), None);
    }

    #[test]
    fn one_hypervisor_a_line() {
        assert_eq!(has_kvm("kvm\n"), Ok(true));
        assert_eq!(has_kvm("fake\nkvm"), Ok(true));
        assert_eq!(has_kvm("xen-hvm\n"), Ok(false));
        assert_eq!(has_kvm(""), Ok(false));
        let error = has_kvm("kvm\nbogus\n").unwrap_err().to_string();
        assert_eq!(error, "Invalid string value for type Hypervisor: \"bogus\"");
    }

    #[test]
    fn only_pythons_true_is_true() {
        assert_eq!(is_user_shutdown_enabled("True \n\n"), Ok(true));
        assert_eq!(is_user_shutdown_enabled("False"), Ok(false));
        let error = is_user_shutdown_enabled("true\n").unwrap_err().to_string();
        assert_eq!(error, "Parsing enabled_user_shutdown: cannot parse string 'true'");
    }

    #[test]
    fn the_first_line_with_the_nodes_name_counts() {
        let text = "node1.example.com=True\nnode2=False\nnode2=True\n";
        assert_eq!(is_vm_capable(text, "node1.example.com"), Ok(true));
        assert_eq!(is_vm_capable(text, "node2"), Ok(false));
        assert_eq!(is_vm_capable(text, "node1"), Ok(false));
        assert!(is_vm_capable("node1=True\n\n", "node1").is_err());
        assert!(is_vm_capable("node1=maybe\n", "node2").is_err());
    }

    #[test]
    fn families_as_python_numbers_them() {
        assert_eq!(primary_family("2\n"), Ok(Family::V4));
        assert_eq!(primary_family("10"), Ok(Family::V6));
        assert!(primary_family("4").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = (has_kvm(&text), is_user_shutdown_enabled(&text), primary_family(&text));
            let _ = is_vm_capable(&text, "node1");
        }
    }
}
