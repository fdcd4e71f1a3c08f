//! Owns control packets on the wire (RFC 5880 4.1). Without authentication: packets that claim to
//! have any are refused, as 6.8.6 asks of sessions without.

use std::time::Duration;

use crate::reader::{Reader, Short};

/// State of a session; the number is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Ended by an operator.
    AdminDown = 0,
    /// Nothing is heard.
    Down = 1,
    /// The peer is heard, and has not heard us.
    Init = 2,
    /// Both hear each other.
    Up = 3,
}

/// Why a session is down; the number is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Diagnostic {
    /// 0
    None,
    /// 1
    DetectionExpired,
    /// 3
    NeighborDown,
    /// 7
    AdminDown,
    /// Any other.
    Other(u8),
}

/// A control packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The sender's state.
    pub state: State,
    /// Why it is down.
    pub diagnostic: Diagnostic,
    /// P: asks for a packet with F.
    pub poll: bool,
    /// F: answers one with P.
    pub is_final: bool,
    /// Packets that may be lost before the sender counts as gone.
    pub multiplier: u8,
    /// The sender's, not 0.
    pub my_discriminator: u32,
    /// The receiver's, 0 if not known.
    pub your_discriminator: u32,
    /// How often the sender wants to send; whole microseconds on the wire.
    pub desired_send: Duration,
    /// How often it can receive; 0: not at all.
    pub required_receive: Duration,
}

/// Why a packet is dropped (6.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Shorter than 24 octets, or than it says.
    #[error("too short")]
    Short,
    /// Not version 1.
    #[error("version {0}")]
    Version(u8),
    /// Authentication, which was not agreed on.
    #[error("authentication was not agreed on")]
    Authentication,
    /// A field that must not be what it is.
    #[error("{0}")]
    Field(&'static str),
}

impl From<Short> for PacketError {
    fn from(_: Short) -> Self {
        Self::Short
    }
}

impl Diagnostic {
    fn wire(self) -> u8 {
        match self {
            Self::None => 0,
            Self::DetectionExpired => 1,
            Self::NeighborDown => 3,
            Self::AdminDown => 7,
            Self::Other(code) => code & 0x1f,
        }
    }
}

impl From<u8> for Diagnostic {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::None,
            1 => Self::DetectionExpired,
            3 => Self::NeighborDown,
            7 => Self::AdminDown,
            code => Self::Other(code),
        }
    }
}

impl Packet {
    /// The octets.
    #[must_use]
    pub fn encode(&self) -> [u8; 24] {
        let flags =
            (self.state as u8) << 6 | u8::from(self.poll) << 5 | u8::from(self.is_final) << 4;
        let mut octets = [0; 24];
        let words = [
            u32::from_be_bytes([1 << 5 | self.diagnostic.wire(), flags, self.multiplier, 24]),
            self.my_discriminator,
            self.your_discriminator,
            micros(self.desired_send),
            micros(self.required_receive),
            0,
        ];
        let chunks = octets.chunks_exact_mut(4).zip(words);
        chunks.for_each(|(to, word)| to.copy_from_slice(&word.to_be_bytes()));
        octets
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// Why it has to be dropped.
    pub fn decode(octets: &[u8]) -> Result<Self, PacketError> {
        let mut reader = Reader::new(octets);
        let [first, flags, multiplier, length] = reader.array::<4>()?;
        if first >> 5 != 1 {
            return Err(PacketError::Version(first >> 5));
        }
        if length < 24 || usize::from(length) > octets.len() {
            return Err(PacketError::Short);
        }
        if flags & 0x04 != 0 {
            return Err(PacketError::Authentication);
        }
        if flags & 0x01 != 0 {
            return Err(PacketError::Field("multipoint"));
        }
        if multiplier == 0 {
            return Err(PacketError::Field("detection multiplier 0"));
        }
        let (my_discriminator, your_discriminator) = (reader.u32()?, reader.u32()?);
        if my_discriminator == 0 {
            return Err(PacketError::Field("discriminator 0"));
        }
        let state = match flags >> 6 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        };
        let desired_send = Duration::from_micros(u64::from(reader.u32()?));
        let required_receive = Duration::from_micros(u64::from(reader.u32()?));
        Ok(Self {
            state,
            diagnostic: Diagnostic::from(first & 0x1f),
            poll: flags & 0x20 != 0,
            is_final: flags & 0x10 != 0,
            multiplier,
            my_discriminator,
            your_discriminator,
            desired_send,
            required_receive,
        })
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
