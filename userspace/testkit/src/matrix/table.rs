//! Owns how the matrix is told: one table, and a line for each cell that is not as it must be.
//! Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::grid::{Cell, SOURCES, Source};
use super::rules::{Expected, Seen};
use super::witness::Difference;

/// The matrix as text, and how much of it is as it must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Titles of the columns.
    pub header: Vec<String>,
    /// A row for each address that was asked; a cell holds what was expected if that was seen.
    pub rows: Vec<Vec<String>>,
    /// A line for each square in which something else was seen.
    pub differing: Vec<String>,
    /// What kube-proxy is known to do otherwise, each with the number of cells that show it.
    pub known: Vec<(&'static str, usize)>,
    /// Number of cells as expected: square, protocol and family.
    pub met: usize,
    /// Number of all cells.
    pub total: usize,
    /// Answers that took about a second: packets lost on the way, or a busy machine.
    pub late: u64,
}

/// Tells of cells, in the rows' order, with what was seen; `labels` names the rows. What kube-proxy is
/// known to do otherwise is told apart where it runs (`witness`).
pub(super) fn tell(labels: &[[String; 2]], cells: &[(Cell, Seen)], witness: bool) -> Outcome {
    let mut squares: BTreeMap<(usize, usize), Vec<&(Cell, Seen)>> = BTreeMap::new();
    for cell in cells {
        squares.entry((cell.0.row, cell.0.source)).or_default().push(cell);
    }
    let late = cells.iter().map(|(_, seen)| seen.late).sum();
    let mut outcome = Outcome { total: cells.len(), late, ..Outcome::default() };
    let known = |cell: &Cell, seen: &Seen| {
        let known = cell.witness.filter(|_| witness && !cell.expected.met(seen));
        known.filter(|difference| difference.explains(&cell.expected, seen))
    };
    let mut shown: BTreeMap<Difference, usize> = BTreeMap::new();
    for difference in cells.iter().filter_map(|(cell, seen)| known(cell, seen)) {
        *shown.entry(difference).or_default() += 1;
    }
    outcome.known = shown.into_iter().map(|(what, number)| (what.text(), number)).collect();
    outcome.header = vec!["SERVICE".to_owned(), "ASKED AT".to_owned()];
    outcome.header.extend(SOURCES.iter().map(|source| source.title.to_owned()));
    for (row, label) in labels.iter().enumerate() {
        let mut line = label.to_vec();
        for (number, source) in SOURCES.iter().enumerate() {
            let square = squares.get(&(row, number)).map_or(&[][..], Vec::as_slice);
            let otherwise: Vec<&(Cell, Seen)> =
                square.iter().copied().filter(|(cell, seen)| !cell.expected.met(seen)).collect();
            outcome.met += square.len() - otherwise.len();
            let mut wrong = otherwise.clone();
            wrong.retain(|(cell, seen)| known(cell, seen).is_none());
            line.push(if square.is_empty() {
                "-".to_owned()
            } else if wrong.is_empty() && !otherwise.is_empty() {
                format!("~~ {}", ways(otherwise.iter().map(|(cell, _)| cell)))
            } else if wrong.is_empty() {
                by_way(square.iter().map(|(c, _)| (c, expected(&c.expected, source))))
            } else {
                let [service, asked_at] = label;
                let text = by_way(wrong.iter().map(|(cell, found)| {
                    let must = expected(&cell.expected, source);
                    (cell, format!("must be {must}, was {}", seen(found, source)))
                }));
                outcome.differing.push(format!("{service}, {asked_at}, {}: {text}", source.title));
                format!("!! {}", ways(wrong.iter().map(|(cell, _)| cell)))
            });
        }
        if line.iter().skip(label.len()).any(|cell| cell != "-") {
            outcome.rows.push(line);
        }
    }
    outcome
}

/// The same text once, with its ways if there is more than one text.
fn by_way<'a>(texts: impl Iterator<Item = (&'a Cell, String)>) -> String {
    let mut grouped: Vec<(String, Vec<&Cell>)> = Vec::new();
    for (cell, text) in texts {
        match grouped.iter_mut().find(|(known, _)| *known == text) {
            Some((_, cells)) => cells.push(cell),
            None => grouped.push((text, vec![cell])),
        }
    }
    if let [(text, cells)] = grouped.as_slice()
        && cells.len() == super::grid::WAYS.len()
    {
        return text.clone();
    }
    let parts: Vec<String> = grouped
        .iter()
        .map(|(text, cells)| format!("{} {text}", ways(cells.iter().copied())))
        .collect();
    parts.join("; ")
}

fn ways<'a>(cells: impl Iterator<Item = &'a Cell>) -> String {
    let mut names: Vec<&str> = cells.map(|cell| cell.way.name).collect();
    // What comes in pairs, or in all protocols, has a shorter name.
    for (short, long) in [
        ("all", &["TCP4", "TCP6", "UDP4", "UDP6", "SCTP4", "SCTP6"][..]),
        ("v4", &["TCP4", "UDP4", "SCTP4"]),
        ("v6", &["TCP6", "UDP6", "SCTP6"]),
        ("TCP", &["TCP4", "TCP6"]),
        ("UDP", &["UDP4", "UDP6"]),
        ("SCTP", &["SCTP4", "SCTP6"]),
    ] {
        if long.iter().all(|name| names.contains(name)) {
            names.retain(|name| !long.contains(name));
            names.push(short);
        }
    }
    names.join(",")
}

fn expected(expected: &Expected, source: &Source) -> String {
    match expected {
        Expected::Answers { backends, sticky } => {
            let pairs = backends.iter().map(|(b, client)| (b.as_str(), client.as_str()));
            let text = answers(pairs, source);
            if *sticky { format!("one of {text}") } else { text }
        }
        Expected::Refused => "refused".to_owned(),
        Expected::Silence => "silence".to_owned(),
        Expected::Passed => "passed on".to_owned(),
    }
}

fn seen(seen: &Seen, source: &Source) -> String {
    let pairs = seen.backends.iter().flat_map(|(backend, clients)| {
        clients.iter().map(|client| (backend.as_str(), client.as_str()))
    });
    let mut parts = vec![answers(pairs, source)];
    for (name, count) in
        [("refused", seen.refused), ("silence", seen.silent), ("unreachable or reset", seen.other)]
    {
        if count > 0 {
            parts.push(name.to_owned());
        }
    }
    parts.retain(|part| !part.is_empty());
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(" and ") }
}

/// `1 2 kept, 3 by n1`: backends without their common prefix, by whose address they see.
fn answers<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>, source: &Source) -> String {
    let mut by_client: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (backend, client) in pairs {
        let short = backend.strip_prefix("web-").unwrap_or(backend);
        by_client.entry(client).or_default().push(short);
    }
    let mut text = String::new();
    for (client, backends) in by_client {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{}", backends.join(" "));
        let _ = if client == source.name {
            write!(text, " kept")
        } else {
            write!(text, " by {client}")
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::grid::WAYS;
    use super::super::probe::{Protocol, Question};
    use super::*;

    fn cell(way: usize, expected: Expected, seen: Seen) -> (Cell, Seen) {
        let question = Question {
            target: "192.0.2.1:80".parse().unwrap(),
            protocol: Protocol::Tcp,
            source: None,
            backends: 1,
            least: 1,
            most: 1,
            timeout_ms: 1,
        };
        (Cell { row: 0, source: 0, way: WAYS[way], question, expected, witness: None }, seen)
    }

    fn answered(backends: &[(&str, &str)]) -> (Expected, Seen) {
        let owned = backends.iter().map(|(b, c)| ((*b).to_owned(), (*c).to_owned()));
        let seen = owned.clone().map(|(b, c)| (b, [c].into())).collect();
        let seen = Seen { backends: seen, ..Seen::default() };
        (Expected::Answers { backends: owned.collect(), sticky: false }, seen)
    }

    #[test]
    fn a_square_holds_what_was_expected_or_the_ways_that_differ() {
        let labels = [["svc".to_owned(), "ClusterIP".to_owned()]];
        let (all, good) = answered(&[("web-1", "n1"), ("web-2", "client-n1")]);
        let silent = Seen { silent: 2, ..Seen::default() };
        let mut cells: Vec<_> = (0..6).map(|w| cell(w, all.clone(), good.clone())).collect();
        let outcome = tell(&labels, &cells, false);
        assert_eq!(outcome.rows[0][2..4], ["2 kept, 1 by n1", "-"]);
        assert_eq!((outcome.met, outcome.total, outcome.differing.len()), (6, 6, 0));
        cells[1] = cell(1, all.clone(), silent.clone());
        for way in [3, 5] {
            cells[way] = cell(way, Expected::Refused, silent.clone());
        }
        let outcome = tell(&labels, &cells, false);
        assert_eq!(outcome.rows[0][2], "!! v6");
        assert_eq!((outcome.met, outcome.total), (3, 6));
        assert_eq!(
            outcome.differing,
            ["svc, ClusterIP, pod on n1: TCP6 must be 2 kept, 1 by n1, was silence; \
              UDP6,SCTP6 must be refused, was silence"]
        );
    }

    #[test]
    fn what_kube_proxy_is_known_for_is_no_news_where_it_runs_and_news_elsewhere() {
        let labels = [["svc".to_owned(), "ClusterIP".to_owned()]];
        let failed = Seen { other: 2, ..Seen::default() };
        let mut one = cell(2, Expected::Refused, failed);
        one.0.witness = Some(Difference::OwnDatagrams);
        let outcome = tell(&labels, &[one.clone()], true);
        assert_eq!((outcome.met, outcome.differing.len()), (0, 0));
        assert_eq!(outcome.known, [(Difference::OwnDatagrams.text(), 1)]);
        assert_eq!(outcome.rows[0][2], "~~ UDP4");
        let outcome = tell(&labels, &[one], false);
        assert_eq!((outcome.known.len(), outcome.differing.len()), (0, 1));
    }
}
