//! Owns SCTP's packets as octets (RFC 9260 section 3): reading and writing them, with their CRC32c.
//! Pure.

use bytes::{Buf, BufMut, TryGetError};
use crc::{CRC_32_ISCSI, Crc};
use thiserror::Error;

/// Appendix A of RFC 9260.
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// Octets before the first chunk.
const HEADER: usize = 12;
/// Octets before a chunk's value.
const CHUNK_HEADER: usize = 4;
/// The parameter of INIT ACK that the client returns (section 3.3.3.1).
const STATE_COOKIE: u16 = 7;
/// Flag of ABORT and SHUTDOWN COMPLETE: the tag is the one that the receiver gave (section 8.5.1).
const REFLECTED: u8 = 1;

/// Why a packet is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Fault {
    /// RFC 9260 section 6.8: to be dropped in silence.
    #[error("wrong CRC32c")]
    Checksum,
    /// It ends before a length in it says.
    #[error("cut short")]
    Short,
}

impl From<TryGetError> for Fault {
    fn from(_: TryGetError) -> Self {
        Self::Short
    }
}

/// A packet: the header and its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// Port of the sender.
    pub(super) source: u16,
    /// Port of the receiver.
    pub(super) destination: u16,
    /// The receiver's verification tag.
    pub(super) tag: u32,
    pub(super) chunks: Vec<Chunk>,
}

/// A chunk. Of its fields those that anybody here looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    Data(Data),
    Init(Init),
    InitAck(Init),
    Sack {
        /// The last TSN that came in order.
        cumulative: u32,
    },
    Heartbeat(Vec<u8>),
    HeartbeatAck(Vec<u8>),
    Abort {
        reflected: bool,
    },
    Shutdown {
        cumulative: u32,
    },
    ShutdownAck,
    /// Something that the peer can't use; the association goes on.
    Error,
    CookieEcho(Vec<u8>),
    CookieAck,
    ShutdownComplete {
        reflected: bool,
    },
    /// Of another type, which may be passed over.
    Other(u8),
}

/// A message or a part of it (section 3.3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Data {
    /// Whether the message begins here.
    pub(super) begins: bool,
    /// Whether it ends here.
    pub(super) ends: bool,
    pub(super) tsn: u32,
    /// Number of the message in its stream, the first one.
    pub(super) sequence: u16,
    pub(super) content: Vec<u8>,
}

/// INIT and INIT ACK (sections 3.3.2 and 3.3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Init {
    /// What packets to the sender of this have to carry.
    pub(super) tag: u32,
    /// Its first TSN.
    pub(super) tsn: u32,
    /// In an INIT ACK: what the receiver returns.
    pub(super) cookie: Option<Vec<u8>>,
}

/// Octets that a receiver has room for.
const WINDOW: u32 = 1 << 20;
/// Streams in each direction that are offered; only the first is used.
const STREAMS: u16 = 16;

impl Packet {
    /// The packet as octets.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut octets = Vec::new();
        octets.put_u16(self.source);
        octets.put_u16(self.destination);
        octets.put_u32(self.tag);
        octets.put_u32(0);
        for chunk in &self.chunks {
            let (kind, flags, value) = chunk.write();
            octets.put_u8(kind);
            octets.put_u8(flags);
            octets.put_u16(length(CHUNK_HEADER + value.len()));
            octets.put_slice(&value);
            octets.put_bytes(0, padding(value.len()));
        }
        let check = CRC32C.checksum(&octets);
        if let Some(mut place) = octets.get_mut(8..HEADER) {
            place.put_u32_le(check);
        }
        octets
    }

    /// Reads what [`Packet::write`] and others write.
    pub(super) fn read(octets: &[u8]) -> Result<Self, Fault> {
        let (mut header, mut rest) = octets.split_at_checked(HEADER).ok_or(Fault::Short)?;
        let mut digest = CRC32C.digest();
        digest.update(header.get(..8).unwrap_or_default());
        digest.update(&[0; 4]);
        digest.update(rest);
        let (source, destination) = (header.try_get_u16()?, header.try_get_u16()?);
        let tag = header.try_get_u32()?;
        if header.try_get_u32_le()? != digest.finalize() {
            return Err(Fault::Checksum);
        }
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            let (kind, flags) = (rest.try_get_u8()?, rest.try_get_u8()?);
            let value = value(&mut rest)?;
            let chunk = Chunk::read(kind, flags, value)?;
            // Section 3.2: of unknown types half are to be passed over, the others end a packet.
            if matches!(chunk, Chunk::Other(kind) if kind & 0x80 == 0) {
                break;
            }
            chunks.push(chunk);
        }
        Ok(Self { source, destination, tag, chunks })
    }
}

/// The length of a chunk or parameter is next in `rest`, then its value and padding, which the last
/// one may lack.
fn value<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Fault> {
    let length = usize::from(rest.try_get_u16()?);
    let length = length.checked_sub(CHUNK_HEADER).ok_or(Fault::Short)?;
    let (value, behind) = rest.split_at_checked(length).ok_or(Fault::Short)?;
    *rest = behind.get(padding(length)..).unwrap_or_default();
    Ok(value)
}

/// Octets to the next multiple of four.
fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

fn length(octets: usize) -> u16 {
    u16::try_from(octets).unwrap_or(u16::MAX)
}

impl Chunk {
    /// Its type, flags and value.
    fn write(&self) -> (u8, u8, Vec<u8>) {
        let mut value = Vec::new();
        let (kind, flags) = match self {
            Self::Data(data) => {
                value.put_u32(data.tsn);
                value.put_u16(0);
                value.put_u16(data.sequence);
                value.put_u32(0);
                value.put_slice(&data.content);
                (0, u8::from(data.begins) << 1 | u8::from(data.ends))
            }
            Self::Init(init) | Self::InitAck(init) => {
                init.write(&mut value);
                (if matches!(self, Self::Init(_)) { 1 } else { 2 }, 0)
            }
            Self::Sack { cumulative } => {
                value.put_u32(*cumulative);
                value.put_u32(WINDOW);
                value.put_u32(0);
                (3, 0)
            }
            Self::Heartbeat(information) | Self::HeartbeatAck(information) => {
                value.put_slice(information);
                (if matches!(self, Self::Heartbeat(_)) { 4 } else { 5 }, 0)
            }
            Self::Abort { reflected } => (6, u8::from(*reflected) * REFLECTED),
            Self::Shutdown { cumulative } => {
                value.put_u32(*cumulative);
                (7, 0)
            }
            Self::ShutdownAck => (8, 0),
            Self::Error => (9, 0),
            Self::CookieEcho(cookie) => {
                value.put_slice(cookie);
                (10, 0)
            }
            Self::CookieAck => (11, 0),
            Self::ShutdownComplete { reflected } => (14, u8::from(*reflected) * REFLECTED),
            Self::Other(kind) => (*kind, 0),
        };
        (kind, flags, value)
    }

    fn read(kind: u8, flags: u8, mut value: &[u8]) -> Result<Self, Fault> {
        let reflected = flags & REFLECTED != 0;
        Ok(match kind {
            0 => {
                let tsn = value.try_get_u32()?;
                let _stream = value.try_get_u16()?;
                let sequence = value.try_get_u16()?;
                let _payload_protocol = value.try_get_u32()?;
                let (begins, ends) = (flags & 2 != 0, flags & 1 != 0);
                Self::Data(Data { begins, ends, tsn, sequence, content: value.to_vec() })
            }
            1 => Self::Init(Init::read(value)?),
            2 => Self::InitAck(Init::read(value)?),
            3 => Self::Sack { cumulative: value.try_get_u32()? },
            4 => Self::Heartbeat(value.to_vec()),
            5 => Self::HeartbeatAck(value.to_vec()),
            6 => Self::Abort { reflected },
            7 => Self::Shutdown { cumulative: value.try_get_u32()? },
            8 => Self::ShutdownAck,
            10 => Self::CookieEcho(value.to_vec()),
            11 => Self::CookieAck,
            14 => Self::ShutdownComplete { reflected },
            9 => Self::Error,
            kind => Self::Other(kind),
        })
    }
}

impl Init {
    fn write(&self, value: &mut Vec<u8>) {
        value.put_u32(self.tag);
        value.put_u32(WINDOW);
        value.put_u16(STREAMS);
        value.put_u16(STREAMS);
        value.put_u32(self.tsn);
        if let Some(cookie) = &self.cookie {
            value.put_u16(STATE_COOKIE);
            value.put_u16(length(CHUNK_HEADER + cookie.len()));
            value.put_slice(cookie);
        }
    }

    fn read(mut value: &[u8]) -> Result<Self, Fault> {
        let tag = value.try_get_u32()?;
        let _window = value.try_get_u32()?;
        let _streams = value.try_get_u32()?;
        let tsn = value.try_get_u32()?;
        let mut cookie = None;
        while !value.is_empty() {
            let kind = value.try_get_u16()?;
            let parameter = self::value(&mut value)?;
            if kind == STATE_COOKIE {
                cookie = Some(parameter.to_vec());
            }
        }
        Ok(Self { tag, tsn, cookie })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(chunks: Vec<Chunk>) -> Packet {
        Packet { source: 4000, destination: 90, tag: 0x0102_0304, chunks }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let data = |content: &[u8]| {
            let content = content.to_vec();
            Chunk::Data(Data { begins: true, ends: false, tsn: u32::MAX, sequence: 7, content })
        };
        let init = |cookie: Option<&[u8]>| Init { tag: 9, tsn: 8, cookie: cookie.map(Into::into) };
        let all = packet(vec![
            data(b"1"),
            data(b"1234"),
            Chunk::Init(init(None)),
            Chunk::InitAck(init(Some(b"12345"))),
            Chunk::Sack { cumulative: 5 },
            Chunk::Heartbeat(b"12".to_vec()),
            Chunk::HeartbeatAck(b"123".to_vec()),
            Chunk::Abort { reflected: true },
            Chunk::Shutdown { cumulative: 6 },
            Chunk::ShutdownAck,
            Chunk::Error,
            Chunk::CookieEcho(b"1".to_vec()),
            Chunk::CookieAck,
            Chunk::ShutdownComplete { reflected: false },
            Chunk::Other(0xc0),
        ]);
        assert_eq!(Packet::read(&all.write()), Ok(all));
    }

    #[test]
    fn any_flipped_bit_is_found_and_any_cut() {
        let whole = packet(vec![Chunk::Sack { cumulative: 5 }, Chunk::CookieAck]).write();
        for bit in 0..whole.len() * 8 {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Packet::read(&bad), Err(Fault::Checksum), "bit {bit}");
        }
        for length in 0..whole.len() {
            assert!(Packet::read(&whole[..length]).is_err(), "{length} octets");
        }
    }

    /// RFC 9260 section 3.2: the highest bit says whether to go on behind it.
    #[test]
    fn unknown_chunks_are_passed_over_or_end_the_packet() {
        for (kind, known) in [(0xc1, 1), (0x41, 0)] {
            let read = Packet::read(&packet(vec![Chunk::Other(kind), Chunk::CookieAck]).write());
            let chunks = read.unwrap().chunks;
            assert_eq!(chunks.iter().filter(|chunk| **chunk == Chunk::CookieAck).count(), known);
        }
    }

    #[test]
    fn lengths_that_lie_are_faults() {
        for length in [0_u16, 3, 200] {
            let mut octets = packet(vec![Chunk::CookieAck]).write();
            octets[14..16].copy_from_slice(&length.to_be_bytes());
            octets[8..12].fill(0);
            let check = CRC32C.checksum(&octets).to_le_bytes();
            octets[8..12].copy_from_slice(&check);
            assert_eq!(Packet::read(&octets), Err(Fault::Short), "{length}");
        }
    }
}
