//! Headers as they stand in a packet. Words are as loaded from memory; `_be` names network order.

/// A value that is plain bytes without padding, readable from a packet at any offset.
pub trait Wire: Copy + 'static {
    /// Reads the value from the first bytes of `bytes`; `None` if there are too few.
    fn decode(bytes: &[u8]) -> Option<Self>;
    /// Writes the value over the first bytes of `bytes`; `None` if there are too few.
    fn encode(self, bytes: &mut [u8]) -> Option<()>;
}

macro_rules! integers {
    ($($t:ty),*) => {$(
        impl Wire for $t {
            fn decode(bytes: &[u8]) -> Option<Self> {
                bytes.first_chunk().map(|b| Self::from_ne_bytes(*b))
            }
            fn encode(self, bytes: &mut [u8]) -> Option<()> {
                *bytes.first_chunk_mut()? = self.to_ne_bytes();
                Some(())
            }
        }
    )*};
}
integers!(u8, u16, u32);

impl<T: Wire, const N: usize> Wire for [T; N] {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut out = [T::decode(bytes)?; N];
        for (i, slot) in out.iter_mut().enumerate() {
            *slot = T::decode(bytes.get(i * size_of::<T>()..)?)?;
        }
        Some(out)
    }
    fn encode(self, bytes: &mut [u8]) -> Option<()> {
        for (i, value) in self.into_iter().enumerate() {
            value.encode(bytes.get_mut(i * size_of::<T>()..)?)?;
        }
        Some(())
    }
}

macro_rules! header {
    ($(#[$doc:meta])* $name:ident, $size:literal { $($(#[$fdoc:meta])* $field:ident: $t:ty,)* }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[$fdoc])* pub $field: $t,)* }

        const _: () = {
            assert!(size_of::<$name>() == $size);
            assert!(0 $(+ size_of::<$t>())* == $size, "padding");
        };

        impl Wire for $name {
            fn decode(bytes: &[u8]) -> Option<Self> {
                let mut at = 0;
                $(let $field = <$t>::decode(bytes.get(at..)?)?; at += size_of::<$t>();)*
                let _ = at;
                Some(Self { $($field),* })
            }
            fn encode(self, bytes: &mut [u8]) -> Option<()> {
                let mut at = 0;
                $(self.$field.encode(bytes.get_mut(at..)?)?; at += size_of::<$t>();)*
                let _ = at;
                Some(())
            }
        }
    };
}

header! {
    /// IPv4 without options (RFC 791 section 3.1).
    Ipv4, 20 {
        /// Version in the high, header length in words in the low half.
        version_ihl: u8,
        /// Type of service.
        tos: u8,
        /// Length of header and payload.
        total_len_be: u16,
        /// Identification.
        id_be: u16,
        /// Flags and fragment offset.
        fragment_be: u16,
        /// Time to live.
        ttl: u8,
        /// Protocol.
        protocol: u8,
        /// Header checksum.
        check_be: u16,
        /// Source.
        src: u32,
        /// Destination.
        dst: u32,
    }
}

header! {
    /// What translation changes of an IPv4 header: its last twelve octets.
    Ipv4Tail, 12 {
        /// Time to live.
        ttl: u8,
        /// Protocol.
        protocol: u8,
        /// Header checksum.
        check_be: u16,
        /// Source.
        src: u32,
        /// Destination.
        dst: u32,
    }
}

header! {
    /// IPv6 (RFC 8200 section 3).
    Ipv6, 40 {
        /// Version, traffic class and flow label.
        version_flow_be: u32,
        /// Length of what follows.
        payload_len_be: u16,
        /// Next header.
        next_header: u8,
        /// Hop limit.
        hop_limit: u8,
        /// Source.
        src: [u32; 4],
        /// Destination.
        dst: [u32; 4],
    }
}

header! {
    /// IPv6's fragment header (RFC 8200 section 4.5).
    Ipv6Fragment, 8 {
        /// What comes behind it.
        next_header: u8,
        /// Reserved.
        reserved: u8,
        /// Offset, and in the lowest bit whether more come.
        fragment_be: u16,
        /// Identification.
        id: u32,
    }
}

header! {
    /// TCP without options (RFC 9293 section 3.1).
    Tcp, 20 {
        /// Source port.
        sport_be: u16,
        /// Destination port.
        dport_be: u16,
        /// Sequence number.
        seq_be: u32,
        /// Acknowledgement number.
        ack_be: u32,
        /// Data offset in words, in the high half.
        offset: u8,
        /// Flags.
        flags: u8,
        /// Window.
        window_be: u16,
        /// Checksum.
        check_be: u16,
        /// Urgent pointer.
        urgent_be: u16,
    }
}

header! {
    /// UDP (RFC 768).
    Udp, 8 {
        /// Source port.
        sport_be: u16,
        /// Destination port.
        dport_be: u16,
        /// Length of header and payload.
        len_be: u16,
        /// Checksum; 0 is none (IPv4).
        check_be: u16,
    }
}

header! {
    /// SCTP and the beginning of its first chunk (RFC 9260 section 3).
    Sctp, 16 {
        /// Source port.
        sport_be: u16,
        /// Destination port.
        dport_be: u16,
        /// Verification tag.
        tag_be: u32,
        /// CRC32c of header and chunks, least significant octet first.
        check_le: u32,
        /// Type of the chunk.
        kind: u8,
        /// Flags of the chunk.
        flags: u8,
        /// Length of the chunk.
        len_be: u16,
    }
}

header! {
    /// ICMP and ICMPv6, an error (RFC 792, RFC 4443 section 3.1).
    Icmp, 8 {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Checksum.
        check_be: u16,
        /// What the kind says: an MTU in its low half (ICMPv6: all of it), else zero.
        rest_be: u32,
    }
}

/// TCP's FIN flag.
pub const FIN: u8 = 0x01;
/// TCP's SYN flag.
pub const SYN: u8 = 0x02;
/// TCP's RST flag.
pub const RST: u8 = 0x04;
/// TCP's ACK flag.
pub const ACK: u8 = 0x10;

/// IANA protocol number of TCP.
pub const TCP: u8 = 6;
/// IANA protocol number of UDP.
pub const UDP: u8 = 17;

/// IANA protocol number of SCTP.
pub const SCTP: u8 = 132;

/// IANA protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IANA protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// Type of an echo request.
pub const ECHO: u8 = 8;
/// Type of an ICMPv6 echo request.
pub const ECHO6: u8 = 128;

/// Length of an Ethernet header; the network header of every packet begins here.
pub const ETHERNET_LEN: usize = 14;
/// Offset of the source MAC.
pub const SOURCE_MAC: usize = 6;
/// Offset of [`Ipv4Tail`] in an IPv4 header.
pub const IPV4_TAIL: usize = 8;
/// Offset of the addresses in an IPv6 header; the hop limit is the octet before.
pub const IPV6_ADDRESSES: usize = 8;
/// Offset of the checksum in a TCP header.
pub const TCP_CHECK: usize = 16;
/// Offset of the checksum in a UDP header.
pub const UDP_CHECK: usize = 6;
/// Offset of the checksum in an SCTP header.
pub const SCTP_CHECK: usize = 8;
/// Octets of IPv6 extension headers that are passed over at most, the fragment header not counted.
pub const MAX_EXTENSIONS: usize = 256;
