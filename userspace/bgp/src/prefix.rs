//! Owns prefixes on the wire: a length in bits and as many octets as it needs (RFC 4271 4.3).

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::BufMut;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::family::Family;
use crate::reader::{Reader, Short};

/// Octets that a prefix takes on the wire.
pub(crate) fn wire_len(prefix: &IpNet) -> usize {
    1 + usize::from(prefix.prefix_len()).div_ceil(8)
}

/// Writes a prefix; host bits are not sent.
pub(crate) fn encode(prefix: &IpNet, out: &mut impl BufMut) {
    out.put_u8(prefix.prefix_len());
    let count = wire_len(prefix) - 1;
    match prefix.network() {
        std::net::IpAddr::V4(address) => {
            address.octets().iter().take(count).for_each(|o| out.put_u8(*o))
        }
        std::net::IpAddr::V6(address) => {
            address.octets().iter().take(count).for_each(|o| out.put_u8(*o))
        }
    }
}

/// Reads prefixes until the field ends. Trailing bits beyond the length are cleared (RFC 4271
/// 4.3: their value is irrelevant).
///
/// # Errors
/// [`Short`] for a length beyond the family's, or a field that ends within a prefix.
pub(crate) fn decode_all(family: Family, mut field: Reader<'_>) -> Result<Vec<IpNet>, Short> {
    let mut prefixes = Vec::new();
    while !field.is_empty() {
        let bits = field.u8()?;
        if bits > family.max_prefix_len() {
            return Err(Short);
        }
        let octets = field.take(usize::from(bits).div_ceil(8))?;
        prefixes.push(match family {
            Family::Ipv4Unicast => {
                let address = Ipv4Addr::from(padded::<4>(octets));
                IpNet::V4(Ipv4Net::new(address, bits).map_err(|_| Short)?.trunc())
            }
            Family::Ipv6Unicast => {
                let address = Ipv6Addr::from(padded::<16>(octets));
                IpNet::V6(Ipv6Net::new(address, bits).map_err(|_| Short)?.trunc())
            }
        });
    }
    Ok(prefixes)
}

fn padded<const N: usize>(octets: &[u8]) -> [u8; N] {
    let mut whole = [0; N];
    whole.iter_mut().zip(octets).for_each(|(to, from)| *to = *from);
    whole
}
