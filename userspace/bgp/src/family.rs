//! Owns address families: what stands on the wire, and the two that Sluice speaks.

use std::fmt;

use ipnet::IpNet;

/// AFI and SAFI as they stand on the wire (IANA registries), known to us or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AfiSafi {
    /// Address family identifier.
    pub afi: u16,
    /// Subsequent address family identifier.
    pub safi: u8,
}

impl fmt::Display for AfiSafi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Family::try_from(*self) {
            Ok(family) => family.fmt(f),
            Err(Self { afi, safi }) => write!(f, "AFI {afi} SAFI {safi}"),
        }
    }
}

/// An address family whose routes are exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// 1/1
    Ipv4Unicast,
    /// 2/1
    Ipv6Unicast,
}

impl Family {
    /// Both families, v4 first.
    pub const ALL: [Self; 2] = [Self::Ipv4Unicast, Self::Ipv6Unicast];

    /// The family of a prefix.
    #[must_use]
    pub fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::Ipv4Unicast,
            IpNet::V6(_) => Self::Ipv6Unicast,
        }
    }

    /// The longest prefix, in bits.
    #[must_use]
    pub fn max_prefix_len(self) -> u8 {
        match self {
            Self::Ipv4Unicast => 32,
            Self::Ipv6Unicast => 128,
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Ipv4Unicast => 1,
            Self::Ipv6Unicast => 2,
        }
    }
}

impl From<Family> for AfiSafi {
    fn from(family: Family) -> Self {
        match family {
            Family::Ipv4Unicast => Self { afi: 1, safi: 1 },
            Family::Ipv6Unicast => Self { afi: 2, safi: 1 },
        }
    }
}

impl TryFrom<AfiSafi> for Family {
    type Error = AfiSafi;

    /// # Errors
    /// The pair itself, if it is none of ours.
    fn try_from(wire: AfiSafi) -> Result<Self, AfiSafi> {
        match (wire.afi, wire.safi) {
            (1, 1) => Ok(Self::Ipv4Unicast),
            (2, 1) => Ok(Self::Ipv6Unicast),
            _ => Err(wire),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4Unicast => "ipv4-unicast",
            Self::Ipv6Unicast => "ipv6-unicast",
        })
    }
}

/// A set of families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Families(u8);

impl Families {
    /// Both families.
    pub const ALL: Self = Self(3);

    /// Whether the family is in the set.
    #[must_use]
    pub fn contains(self, family: Family) -> bool {
        self.0 & family.bit() != 0
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The members, v4 first.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.contains(*family))
    }
}

impl FromIterator<Family> for Families {
    fn from_iter<T: IntoIterator<Item = Family>>(families: T) -> Self {
        Self(families.into_iter().fold(0, |set, family| set | family.bit()))
    }
}
