//! Owns AS_PATH: its wire form with two and four octets per AS, and the merge of RFC 6793.

use bytes::{BufMut, BytesMut};

use crate::message::AS_TRANS;
use crate::reader::{Reader, Short};

/// Kind of a path segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    /// 1, unordered
    Set,
    /// 2, ordered
    Sequence,
    /// 3, ordered, within a confederation (RFC 5065)
    ConfedSequence,
    /// 4, unordered, within a confederation (RFC 5065)
    ConfedSet,
}

impl SegmentKind {
    fn wire(self) -> u8 {
        match self {
            Self::Set => 1,
            Self::Sequence => 2,
            Self::ConfedSequence => 3,
            Self::ConfedSet => 4,
        }
    }

    fn is_confed(self) -> bool {
        matches!(self, Self::ConfedSequence | Self::ConfedSet)
    }
}

/// A segment of a path: 1 to 255 ASes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Its kind.
    pub kind: SegmentKind,
    /// Its ASes, nearest first.
    pub ases: Vec<u32>,
}

/// An AS path, nearest AS first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AsPath(pub Vec<Segment>);

impl AsPath {
    /// A path of one sequence; empty for no ASes.
    #[must_use]
    pub fn sequence(ases: &[u32]) -> Self {
        Self(
            ases.chunks(255)
                .map(|part| Segment { kind: SegmentKind::Sequence, ases: part.to_vec() })
                .collect(),
        )
    }

    /// Length for the decision process: a set counts 1, confederation segments 0 (RFC 4271 9.1.2.2,
    /// RFC 5065 5.3).
    #[must_use]
    pub fn length(&self) -> usize {
        self.0
            .iter()
            .map(|segment| match segment.kind {
                SegmentKind::Sequence => segment.ases.len(),
                SegmentKind::Set => 1,
                SegmentKind::ConfedSequence | SegmentKind::ConfedSet => 0,
            })
            .sum()
    }

    /// Every AS of the path.
    pub fn ases(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flat_map(|segment| segment.ases.iter().copied())
    }

    /// The AS that the route was received from: first of a leading sequence.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        let segment = self.0.iter().find(|segment| !segment.kind.is_confed())?;
        if segment.kind == SegmentKind::Sequence { segment.ases.first().copied() } else { None }
    }

    /// The path with an AS put before it `times` times (RFC 4271 5.1.2).
    #[must_use]
    pub fn prepend(&self, asn: u32, times: usize) -> Self {
        let mut segments = self.0.clone();
        for _ in 0..times {
            match segments.first_mut() {
                Some(first) if first.kind == SegmentKind::Sequence && first.ases.len() < 255 => {
                    first.ases.insert(0, asn);
                }
                _ => segments.insert(0, Segment { kind: SegmentKind::Sequence, ases: vec![asn] }),
            }
        }
        Self(segments)
    }

    /// Whether some AS needs four octets.
    pub(crate) fn needs_as4(&self) -> bool {
        self.ases().any(|asn| u16::try_from(asn).is_err())
    }

    /// The path that AS4_PATH carries: without confederation segments (RFC 6793 3).
    pub(crate) fn without_confed(&self) -> Self {
        Self(self.0.iter().filter(|segment| !segment.kind.is_confed()).cloned().collect())
    }

    /// # Errors
    /// [`Short`] for an unknown segment type, an empty segment, an overrun, or AS 0 (RFC 7607).
    pub(crate) fn decode(value: &[u8], four_octets: bool) -> Result<Self, Short> {
        let mut reader = Reader::new(value);
        let mut segments = Vec::new();
        while !reader.is_empty() {
            let kind = match reader.u8()? {
                1 => SegmentKind::Set,
                2 => SegmentKind::Sequence,
                3 => SegmentKind::ConfedSequence,
                4 => SegmentKind::ConfedSet,
                _ => return Err(Short),
            };
            let count = reader.u8()?;
            let mut ases = Vec::with_capacity(usize::from(count));
            for _ in 0..count {
                ases.push(if four_octets { reader.u32()? } else { u32::from(reader.u16()?) });
            }
            if ases.is_empty() || ases.contains(&0) {
                return Err(Short);
            }
            segments.push(Segment { kind, ases });
        }
        Ok(Self(segments))
    }

    pub(crate) fn encode(&self, four_octets: bool, out: &mut BytesMut) {
        for segment in &self.0 {
            for part in segment.ases.chunks(255) {
                out.put_u8(segment.kind.wire());
                out.put_u8(u8::try_from(part.len()).unwrap_or(u8::MAX));
                for asn in part {
                    if four_octets {
                        out.put_u32(*asn);
                    } else {
                        out.put_u16(u16::try_from(*asn).unwrap_or(AS_TRANS));
                    }
                }
            }
        }
    }

    /// The path that a two-octet AS_PATH and its AS4_PATH stand for (RFC 6793 4.2.3): what AS_PATH
    /// has more, then AS4_PATH; AS_PATH alone if it is the shorter.
    pub(crate) fn merge(self, as4: &Self) -> Self {
        let Some(mut more) = self.length().checked_sub(as4.length()) else {
            return self;
        };
        let mut segments: Vec<Segment> = Vec::new();
        for segment in self.0 {
            match segment.kind {
                // AS4_PATH has none of these: only leading ones keep their place.
                SegmentKind::ConfedSequence | SegmentKind::ConfedSet => {
                    if segments.iter().all(|before| before.kind.is_confed()) {
                        segments.push(segment);
                    }
                }
                _ if more == 0 => break,
                SegmentKind::Set => {
                    more -= 1;
                    segments.push(segment);
                }
                SegmentKind::Sequence => {
                    let ases: Vec<u32> = segment.ases.into_iter().take(more).collect();
                    more -= ases.len();
                    segments.push(Segment { kind: SegmentKind::Sequence, ases });
                }
            }
        }
        segments.extend(as4.0.iter().cloned());
        Self(segments).joined()
    }

    /// Neighbouring sequences made one where 255 ASes hold them.
    fn joined(self) -> Self {
        let mut segments: Vec<Segment> = Vec::new();
        for segment in self.0 {
            match segments.last_mut() {
                Some(last)
                    if last.kind == SegmentKind::Sequence
                        && segment.kind == SegmentKind::Sequence
                        && last.ases.len() + segment.ases.len() <= 255 =>
                {
                    last.ases.extend(segment.ases);
                }
                _ => segments.push(segment),
            }
        }
        Self(segments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b13_merge_takes_the_leading_part_of_the_longer_path() {
        let old = AsPath::sequence(&[64512, 23456, 23456, 65001]);
        let new = AsPath::sequence(&[70000, 80000, 65001]);
        assert_eq!(old.merge(&new), AsPath::sequence(&[64512, 70000, 80000, 65001]));
        let short = AsPath::sequence(&[23456]);
        assert_eq!(short.clone().merge(&new), short, "AS4_PATH that is longer is ignored");
    }

    #[test]
    fn b24_a_set_counts_one() {
        let set = Segment { kind: SegmentKind::Set, ases: vec![1, 2, 3] };
        let path = AsPath([AsPath::sequence(&[5, 6]).0, vec![set]].concat());
        assert_eq!((path.length(), path.first()), (3, Some(5)));
        let full = AsPath::sequence(&[7; 255]).prepend(8, 2);
        assert_eq!((full.0.len(), full.length(), full.first()), (2, 257, Some(8)));
    }
}
