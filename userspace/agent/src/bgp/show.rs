//! The views of BGP as text for a terminal.

use std::fmt::Write as _;

use super::view::{NeighborRow, RouteRow};
use crate::views::show::table;

/// `sluice bgp neighbors`
#[must_use]
pub fn neighbors(rows: &[NeighborRow]) -> String {
    let head = [
        "NEIGHBOR",
        "AS",
        "NAME",
        "STATE",
        "SINCE",
        "RECEIVED",
        "ACCEPTED",
        "ANNOUNCED",
        "LAST END",
    ];
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let stale =
                if row.stale > 0 { format!(" ({} stale)", row.stale) } else { String::new() };
            let near = if row.near_limit { " (near limit)" } else { "" };
            vec![
                row.address.clone(),
                row.asn.to_string(),
                if row.name.is_empty() { row.kind.clone() } else { row.name.clone() },
                row.state.clone(),
                format!("{}s", row.since_s),
                format!("{}+{}{stale}{near}", row.received[0], row.received[1]),
                row.accepted.to_string(),
                row.announced.to_string(),
                row.last_end.clone().unwrap_or_default(),
            ]
        })
        .collect();
    table(&head, &lines)
}

/// `sluice bgp routes`; with the reasons why peers are not told if there is one prefix only.
#[must_use]
pub fn routes(rows: &[RouteRow]) -> String {
    let head = ["PREFIX", "FROM", "NEXT HOP", "AS PATH", "STANDING", "ANNOUNCED TO"];
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let mut standing = row.standing.clone();
            if row.stale {
                standing.push_str(", stale");
            }
            if let Some(why) = &row.refused {
                let _ = write!(standing, ", kernel: {why}");
            }
            vec![
                row.prefix.clone(),
                row.from.clone(),
                row.next_hop.clone(),
                row.as_path.clone(),
                standing,
                row.announced_to.join(" "),
            ]
        })
        .collect();
    let mut text = table(&head, &lines);
    let one = rows.first().is_some_and(|first| rows.iter().all(|row| row.prefix == first.prefix));
    for (peer, why) in rows.iter().filter(|_| one).flat_map(|row| &row.withheld_from) {
        let _ = writeln!(text, "not announced to {peer}: {why}");
    }
    text
}
