//! Owns what the demo says: headings, steps, tables, expectations met or not. Colours only on a
//! terminal.

use std::cell::RefCell;
use std::fmt::{Display, Write as _};
use std::io::{IsTerminal, stdout};
use std::time::Instant;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";

/// Where the demo speaks, and what it expected so far.
#[derive(Debug)]
pub(super) struct Console {
    colours: bool,
    start: Instant,
    expectations: RefCell<Vec<(String, bool)>>,
}

impl Console {
    pub(super) fn new() -> Self {
        let colours = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colours, start: Instant::now(), expectations: RefCell::default() }
    }

    pub(super) fn heading(&self, text: &str) {
        println!("\n{}", self.paint(BOLD, text));
    }

    /// A step of work, with the time since the start.
    pub(super) fn step(&self, text: &str) {
        println!(
            "{} {text}",
            self.paint(DIM, &format!("[{:6.1} s]", self.start.elapsed().as_secs_f64()))
        );
    }

    pub(super) fn line(&self, text: impl Display) {
        println!("  {text}");
    }

    /// Rows under a header, in columns as wide as they need to be.
    pub(super) fn table(&self, header: &[&str], rows: &[Vec<String>]) {
        let lines = columns(header, rows);
        for (n, line) in lines.iter().enumerate() {
            self.line(if n == 0 { self.paint(DIM, line) } else { line.clone() });
        }
    }

    /// Notes whether an expectation holds, by its name; `detail` is what was seen.
    pub(super) fn expect(&self, name: &str, holds: bool, detail: impl Display) {
        let mark = if holds { self.paint(GREEN, "ok    ") } else { self.paint(RED, "FAILED") };
        println!("  {mark} {name}: {detail}");
        self.expectations.borrow_mut().push((name.to_owned(), holds));
    }

    /// Sums up; the names of the expectations that failed.
    pub(super) fn verdict(&self) -> Vec<String> {
        let all = self.expectations.borrow();
        let failed: Vec<String> =
            all.iter().filter(|(_, holds)| !holds).map(|(name, _)| name.clone()).collect();
        let text = format!("{} expectations, {} failed", all.len(), failed.len());
        println!("\n{}", self.paint(if failed.is_empty() { GREEN } else { RED }, &text));
        for name in &failed {
            println!("  {name}");
        }
        failed
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn columns(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let all: Vec<Vec<&str>> = std::iter::once(header.to_vec())
        .chain(rows.iter().map(|row| row.iter().map(String::as_str).collect()))
        .collect();
    let width = |column: usize| {
        all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..header.len()).map(|column| width(column).unwrap_or(0)).collect();
    let lines = all.iter().map(|row| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}   ");
        }
        line.trim_end().to_owned()
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["web".to_owned(), "10.96.0.1".to_owned()],
            vec!["nearby".to_owned(), "x".to_owned()],
        ];
        assert_eq!(
            columns(&["NAME", "IP"], &rows),
            ["NAME     IP", "web      10.96.0.1", "nearby   x"]
        );
    }

    #[test]
    fn the_verdict_names_what_failed() {
        let console = Console::new();
        console.expect("a", true, "");
        console.expect("b", false, "");
        assert_eq!(console.verdict(), ["b"]);
    }
}
