//! Reads what Rust's test harness prints with `--show-output`.

use std::fmt;
use std::ops::AddAssign;

/// What a test prints that can't run here, before its reason.
const SKIP: &str = "SKIP: ";

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Ran and held.
    pub(crate) passed: usize,
    /// Ran and did not hold, or never came to an end.
    pub(crate) failed: usize,
    /// Did not run.
    pub(crate) skipped: usize,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// What one run of a test binary (or of several, one after the other) came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The numbers, with tests that skipped themselves taken out of the passed ones.
    pub(crate) tally: Tally,
    /// Names of tests that skipped themselves, with their reasons.
    pub(crate) skips: Vec<(String, String)>,
    /// Names of tests that failed.
    pub(crate) failures: Vec<String>,
}

/// The part of the output a line stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Running,
    Successes,
    Failures,
}

/// Reads the output of a run. A binary that ends without its result line has failed, so has one
/// whose status is not 0 although its lines tell of no failure.
pub(crate) fn read(output: &str, exited_0: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let mut part = Part::Running;
    let mut test: Option<String> = None;
    let mut begun = 0_usize;
    let mut results = 0_usize;
    for line in output.lines() {
        if let Some(result) = line.strip_prefix("test result: ") {
            outcome.tally += counts(result);
            results += 1;
            part = Part::Running;
            test = None;
        } else if line.starts_with("running ") && line.trim_end().ends_with(['t', 's']) {
            begun += usize::from(is_start(line));
        } else if line == "successes:" {
            (part, test) = (Part::Successes, None);
        } else if line == "failures:" {
            (part, test) = (Part::Failures, None);
        } else if let Some(name) = heading(line) {
            test = Some(name.to_owned());
            if part == Part::Failures && !outcome.failures.iter().any(|known| known == name) {
                outcome.failures.push(name.to_owned());
            }
        } else if let (Part::Successes, Some(reason)) = (part, line.strip_prefix(SKIP))
            && let Some(name) = test.take()
        {
            outcome.skips.push((name, reason.trim().to_owned()));
        }
    }
    let skips = outcome.skips.len().min(outcome.tally.passed);
    outcome.tally.passed -= skips;
    outcome.tally.skipped += skips;
    if begun > results || results == 0 || (!exited_0 && outcome.tally.failed == 0) {
        outcome.tally.failed += 1;
        outcome.failures.push("(ended before its result)".to_owned());
    }
    outcome
}

/// `running 3 tests`: the start of a harness, not some test's own words.
fn is_start(line: &str) -> bool {
    let mut words = line.split_whitespace().skip(1);
    words.next().is_some_and(|count| count.parse::<usize>().is_ok())
        && words.next().is_some_and(|word| word == "test" || word == "tests")
        && words.next().is_none()
}

/// The name in `---- name stdout ----`.
fn heading(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

/// The numbers in `ok. 3 passed; 0 failed; 1 ignored; 0 measured; ...`.
fn counts(result: &str) -> Tally {
    let number = |what: &str| {
        result
            .split([';', '.'])
            .filter_map(|part| part.trim().strip_suffix(what))
            .find_map(|number| number.trim().parse().ok())
            .unwrap_or(0)
    };
    Tally { passed: number("passed"), failed: number("failed"), skipped: number("ignored") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &str = "
running 4 tests
test a::holds ... ok
test a::needs_root ... ok
test a::slow ... ignored
test b::breaks ... FAILED

successes:

---- a::holds stdout ----
it says running 3 tests in a sentence

---- a::needs_root stdout ----
some words first
SKIP: network namespaces need root
SKIP: and once more

successes:
    a::holds
    a::needs_root

failures:

---- b::breaks stdout ----
SKIP: does not count, for it failed

thread 'b::breaks' panicked at src/b.rs:1:1

failures:
    b::breaks

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn a_test_that_skips_itself_is_not_a_passed_one() {
        let outcome = read(MIXED, false);
        assert_eq!(outcome.tally, Tally { passed: 1, failed: 1, skipped: 2 });
        let skip = ("a::needs_root".to_owned(), "network namespaces need root".to_owned());
        assert_eq!(outcome.skips, [skip]);
        assert_eq!(outcome.failures, ["b::breaks"]);
    }

    #[test]
    fn several_results_add_up() {
        let one = "running 1 test\ntest a ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(read(&one.repeat(3), true).tally, Tally { passed: 3, failed: 0, skipped: 0 });
    }

    #[test]
    fn a_crash_is_a_failure() {
        let cut = "running 2 tests\ntest a ... ok\n";
        assert_eq!(read(cut, false).tally.failed, 1);
        assert_eq!(read("", true).tally.failed, 1);
        assert_eq!(read("Segmentation fault\n", false).tally.failed, 1);
        // Held, and then crashed on the way out.
        let late =
            "running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured\n";
        assert_eq!(read(late, false).tally.failed, 1);
        assert_eq!(read(late, true).tally, Tally::default());
    }
}
