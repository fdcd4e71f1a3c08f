//! The rows of the RFC 7606 table as octets, once for the codec (`wire`) and for the running speaker
//! (`speaker`).

/// One malformed attribute: flags, code, value.
pub(crate) type Row = (u8, u8, Vec<u8>);

/// Attributes with `row` in place of the one of its code, or after them. All have one octet of
/// length.
pub(crate) fn with(row: &Row, attributes: &[u8]) -> Vec<u8> {
    let (flags, code, value) = row;
    let attribute = [&[*flags, *code, u8::try_from(value.len()).unwrap()], &value[..]].concat();
    let mut all = Vec::new();
    let mut rest = attributes;
    while let Some((head, _)) = rest.split_first_chunk::<3>() {
        let (this, after) = rest.split_at(3 + usize::from(head[2]));
        if head[1] != *code {
            all.extend(this);
        }
        rest = after;
    }
    all.extend(attribute);
    all
}

/// Treated as withdrawals, from external peers.
pub(crate) fn withdrawn_external() -> Vec<Row> {
    vec![
        (0xc0, 1, vec![0]),
        (0x60, 1, vec![0]),
        (0x40, 1, vec![]),
        (0x40, 1, vec![0, 0]),
        (0x40, 1, vec![3]),
        (0x40, 1, vec![4]),
        (0x40, 1, vec![255]),
        (0xc0, 2, vec![2, 1, 0, 0, 0xfd, 0xe9]),
        (0x40, 2, vec![0, 1, 0, 0, 0xfd, 0xe9]),
        (0x40, 2, vec![5, 1, 0, 0, 0xfd, 0xe9]),
        (0x40, 2, vec![2, 0]),
        (0x40, 2, vec![2, 0xff, 0, 0, 0xfd, 0xe9]),
        (0x40, 2, vec![2, 1, 0, 0, 0, 0]),
        (0x40, 3, vec![10, 0, 0]),
        (0x40, 3, vec![10, 0, 0, 1, 1]),
        (0x40, 3, vec![0; 4]),
        (0x40, 3, vec![127, 0, 0, 1]),
        (0x40, 3, vec![224, 0, 0, 1]),
        (0xc0, 4, vec![0; 4]),
        (0x80, 4, vec![]),
        (0x80, 4, vec![0; 3]),
        (0x80, 4, vec![0; 5]),
        (0x80, 8, vec![0; 4]),
        (0xc0, 8, vec![]),
        (0xc0, 8, vec![0; 5]),
        (0x80, 16, vec![0; 8]),
        (0xc0, 16, vec![]),
        (0xc0, 16, vec![0; 9]),
        (0x80, 25, vec![0; 20]),
        (0xc0, 25, vec![]),
        (0xc0, 25, vec![0; 19]),
        (0x80, 32, vec![0; 12]),
        (0xc0, 32, vec![]),
        (0xc0, 32, vec![0; 13]),
        (0x80, 35, vec![0, 0, 0, 1]),
        (0xc0, 35, vec![0; 3]),
        (0xc0, 35, vec![1; 5]),
        (0xc0, 35, vec![0; 4]),
    ]
}

/// Treated as withdrawals, from internal peers.
pub(crate) fn withdrawn_internal() -> Vec<Row> {
    vec![
        (0x40, 5, vec![]),
        (0x40, 5, vec![0; 3]),
        (0x40, 5, vec![0; 5]),
        (0xc0, 5, vec![0; 4]),
        (0x80, 9, vec![1; 3]),
        (0x80, 9, vec![1; 5]),
        (0xc0, 9, vec![1; 4]),
        (0x80, 10, vec![]),
        (0x80, 10, vec![1; 5]),
        (0xc0, 10, vec![1; 4]),
    ]
}

/// Discarded, with the route standing, from external peers.
pub(crate) fn discarded_external() -> Vec<Row> {
    vec![
        // Whatever LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST from an external peer are.
        (0x40, 5, vec![0; 4]),
        (0x40, 5, vec![0; 3]),
        (0x80, 9, vec![1; 4]),
        (0x80, 9, vec![1; 3]),
        (0x80, 10, vec![1; 4]),
        (0x80, 10, vec![1; 5]),
        (0x40, 6, vec![0]),
        (0xc0, 7, vec![1; 5]),
        (0xc0, 7, vec![1; 6]),
        (0xc0, 7, vec![1; 7]),
        (0xc0, 7, vec![1; 9]),
        (0xc0, 7, vec![0, 0, 0, 0, 1, 1, 1, 1]),
        // Where the oracles disagree: with RFC 6793 and against FRR.
        (0x80, 17, vec![2, 1, 0, 0, 0xfd, 0xe9]),
        (0xc0, 17, vec![0, 1, 0, 0, 0xfd, 0xe9]),
        (0xc0, 18, vec![1; 7]),
        (0xc0, 18, vec![1; 9]),
        (0xc0, 26, vec![1, 0, 11, 0, 0, 0, 0, 0, 0, 0, 1]),
        (0x80, 26, vec![1, 0, 12, 0, 0, 0, 0, 0, 0, 0, 1]),
        (0x80, 40, vec![1, 0, 0]),
        (0xc0, 40, vec![1, 0, 1]),
        (0xc0, 29, vec![0, 1, 0, 0]),
        (0x80, 29, vec![0, 1, 0, 1]),
    ]
}
