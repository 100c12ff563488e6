//! The name that Ganeti knows this node by.

use std::env;

use dns_lookup::{AddrInfoHints, SockType, get_hostname, getaddrinfo, getnameinfo};

/// An address family, for the node's own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// `GANETI_HOSTNAME` if set, else the name that the address of this host's name leads back to
/// (of the cluster's family), else the host's name.
#[must_use]
pub fn find(family: Option<Family>) -> String {
    if let Some(name) = env::var_os("GANETI_HOSTNAME") {
        return name.to_string_lossy().into_owned();
    }
    let Ok(host) = get_hostname() else { return String::new() };
    let address = match family {
        None => 0,
        Some(Family::V4) => libc::AF_INET,
        Some(Family::V6) => libc::AF_INET6,
    };
    let hints =
        AddrInfoHints { socktype: SockType::Stream.into(), address, ..AddrInfoHints::default() };
    let first = getaddrinfo(Some(&host), None, Some(hints))
        .ok()
        .and_then(|mut addresses| addresses.find_map(Result::ok));
    first.and_then(|address| getnameinfo(&address.sockaddr, 0).ok()).map_or(host, |(name, _)| name)
}
