//! Settings of the node's kernel that services need: loose reverse path filters, and ports that nobody
//! else is given.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sluice_abi::{SNAT_FIRST_PORT, SNAT_PORTS};

use crate::Error;
use crate::object::failed;

/// The node's ports that its own sockets are not given (Documentation/networking/ip-sysctl.rst).
const RESERVED_PORTS: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The ports of translated sources, as they stand in that file.
fn own_ports() -> String {
    format!("{SNAT_FIRST_PORT}-{}", SNAT_FIRST_PORT + (SNAT_PORTS - 1))
}

fn reserved_ports() -> Result<Vec<String>, Error> {
    let path = Path::new(RESERVED_PORTS);
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    Ok(text.trim().split(',').filter(|range| !range.is_empty()).map(str::to_owned).collect())
}

fn set_reserved_ports(ranges: &[String]) -> Result<(), Error> {
    let path = Path::new(RESERVED_PORTS);
    // An empty list is an empty line.
    fs::write(path, ranges.join(",") + "\n").map_err(failed("write", path))
}

/// Keeps the node's own sockets off the ports of translated sources, beside what is kept off already.
pub(crate) fn reserve_ports() -> Result<(), Error> {
    let mut ranges = reserved_ports()?;
    if ranges.contains(&own_ports()) {
        return Ok(());
    }
    ranges.push(own_ports());
    set_reserved_ports(&ranges)
}

/// Gives these ports back; false if they were not kept.
pub(crate) fn release_ports() -> Result<bool, Error> {
    let mut ranges = reserved_ports()?;
    let before = ranges.len();
    ranges.retain(|range| *range != own_ports());
    let kept = ranges.len() < before;
    if kept {
        set_reserved_ports(&ranges)?;
    }
    Ok(kept)
}

/// Answers of a service at the node's own address to the node's own processes come in by loopback, from
/// an own address without the route that packets on loopback have: that is to be taken for no
/// forgery (Documentation/networking/ip-sysctl.rst, `accept_local`). Nobody else can send there.
pub(crate) fn accept_own() -> io::Result<()> {
    fs::write("/proc/sys/net/ipv4/conf/lo/accept_local", "1")
}

/// Answers of a service to the node's own processes come in by kube-bridge and uplinks with the
/// service's address, to which the way leads elsewhere: a strict reverse path filter (1) is made a loose
/// one (2) there (RFC 3704; Documentation/networking/ip-sysctl.rst).
pub(crate) fn loosen_rp_filter(interface: &str) -> io::Result<()> {
    let folder = PathBuf::from("/proc/sys/net/ipv4/conf");
    let is_strict = |name: &str| -> io::Result<bool> {
        Ok(fs::read_to_string(folder.join(name).join("rp_filter"))?.trim() == "1")
    };
    if is_strict(interface)? || is_strict("all")? {
        tracing::info!(interface, "rp_filter is made loose");
        fs::write(folder.join(interface).join("rp_filter"), "2")?;
    }
    Ok(())
}
