//! The report as it grows: runs stages, prints each with its time, keeps what failed and what was
//! skipped for the end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::libtest::{self, Tally};
use crate::process::line;

/// Lines of a failed command's log that are shown.
const SHOWN: usize = 60;
/// Begins the lines between a machine's sections; no program of ours prints it.
const MARK: &str = "@@sluice-section";

/// What has been run so far.
#[derive(Debug, Default)]
pub(crate) struct Record {
    tally: Tally,
    skips: Vec<String>,
    failures: Vec<String>,
}

/// A part of what a machine runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    /// Rust tests: what they print is counted.
    Tests(String),
    /// A command: its exit status counts.
    Command(String),
}

/// Shell text that runs `command` as section `number`.
pub(crate) fn section(number: usize, command: &str) -> String {
    format!("echo '{MARK} {number}'\n( {command} ) 2>&1\necho \"{MARK} {number} $?\"\n")
}

impl Record {
    /// Runs a command that passes or fails as a whole; its output goes to `log`.
    pub(crate) fn command(&mut self, stage: &str, log: &Path, command: &mut Command) {
        begin(stage);
        let start = Instant::now();
        match logged(log, command) {
            Ok((_, true)) => self.pass("", start.elapsed()),
            Ok((output, false)) => self.broke("", stage, &output, log, start.elapsed()),
            Err(error) => self.broke("", stage, &format!("{error:#}"), log, start.elapsed()),
        }
    }

    /// Runs Rust tests and counts them; their output goes to `log`.
    pub(crate) fn tests(&mut self, stage: &str, log: &Path, command: &mut Command) {
        begin(stage);
        let start = Instant::now();
        match logged(log, command) {
            Ok((output, ok)) => self.count("", stage, &output, ok, log, start.elapsed()),
            Err(error) => self.broke("", stage, &format!("{error:#}"), log, start.elapsed()),
        }
    }

    /// Notes a stage that can't run.
    pub(crate) fn skip(&mut self, stage: &str, reason: &str) {
        println!("{stage:<48} skipped: {reason}");
        self.tally.skipped += 1;
        self.skips.push(format!("{stage}: {reason}"));
    }

    /// Notes a stage that should have run and could not.
    pub(crate) fn fail(&mut self, stage: &str, reason: &str) {
        println!("{stage:<48} FAILED: {reason}");
        self.tally.failed += 1;
        self.failures.push(stage.to_owned());
    }

    /// Takes over what another has recorded.
    pub(crate) fn merge(&mut self, other: Self) {
        self.tally += other.tally;
        self.skips.extend(other.skips);
        self.failures.extend(other.failures);
    }

    /// Reads a machine's output as it comes and records each section at its end, with its name: other
    /// machines may tell of theirs meanwhile. What does not come to its end has failed.
    pub(crate) fn follow(
        &mut self,
        sections: &[Section],
        log: &Path,
        output: impl Read,
    ) -> Result<()> {
        let mut file = File::create(log).with_context(|| format!("writing {}", log.display()))?;
        let mut reader = BufReader::new(output);
        let mut text = String::new();
        let mut start = Instant::now();
        let mut done = 0;
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes)? > 0 {
            file.write_all(&bytes)?;
            let line = String::from_utf8_lossy(&bytes).into_owned();
            bytes.clear();
            let Some(mark) = line.strip_prefix(MARK) else {
                text += &line;
                continue;
            };
            let mut words = mark.split_whitespace();
            let number: usize = words.next().unwrap_or_default().parse()?;
            let section = sections.get(number).context("a section nobody asked for")?;
            match words.next() {
                None => (text, start) = (String::new(), Instant::now()),
                Some(status) => {
                    self.ended(section, &text, status == "0", log, start.elapsed());
                    done += 1;
                }
            }
        }
        if done < sections.len() {
            bail!("only {done} of {} parts came to an end: {}", sections.len(), log.display());
        }
        Ok(())
    }

    /// Prints what was skipped and what failed, then the closing line. Whether something failed.
    pub(crate) fn close(&self) -> bool {
        for (what, list) in [("skipped", &self.skips), ("failed", &self.failures)] {
            if !list.is_empty() {
                println!("\n{what}:");
            }
            for entry in list {
                println!("    {entry}");
            }
        }
        println!("\n{}", self.tally);
        self.tally.failed > 0
    }

    fn ended(&mut self, section: &Section, text: &str, ok: bool, log: &Path, took: Duration) {
        let head = title(section.name());
        match section {
            Section::Tests(name) => self.count(&head, name, text, ok, log, took),
            Section::Command(_) if ok => self.pass(&head, took),
            Section::Command(name) => self.broke(&head, name, text, log, took),
        }
    }

    fn pass(&mut self, head: &str, took: Duration) {
        println!("{head}passed  {:.1} s", took.as_secs_f32());
        self.tally.passed += 1;
    }

    fn broke(&mut self, head: &str, stage: &str, output: &str, log: &Path, took: Duration) {
        let took_s = took.as_secs_f32();
        println!("{head}FAILED  {took_s:.1} s, see {}\n{}", log.display(), tail(output));
        self.tally.failed += 1;
        self.failures.push(stage.to_owned());
    }

    fn count(
        &mut self,
        head: &str,
        stage: &str,
        output: &str,
        ok: bool,
        log: &Path,
        took: Duration,
    ) {
        let outcome = libtest::read(output, ok);
        println!("{head}{}  {:.1} s", outcome.tally, took.as_secs_f32());
        self.tally += outcome.tally;
        for (test, reason) in outcome.skips {
            self.skips.push(format!("{stage}: {test}: {reason}"));
        }
        if !outcome.failures.is_empty() {
            println!("see {}\n{}", log.display(), tail(output));
        }
        for test in outcome.failures {
            self.failures.push(format!("{stage}: {test}"));
        }
    }
}

impl Section {
    fn name(&self) -> &str {
        match self {
            Self::Tests(name) | Self::Command(name) => name,
        }
    }
}

/// How the line of a stage begins.
fn title(stage: &str) -> String {
    format!("{stage:<48} ")
}

/// Starts the line of a stage; its result follows on the same line.
fn begin(stage: &str) {
    print!("{}", title(stage));
    // Nothing depends on the text being seen at once.
    let _ = std::io::stdout().flush();
}

/// Runs a command into a file: a process that outlives it can't hold the report back.
fn logged(log: &Path, command: &mut Command) -> Result<(String, bool)> {
    let file = File::create(log).with_context(|| format!("writing {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("starting {}", line(command)))?;
    let output = fs::read(log).with_context(|| format!("reading {}", log.display()))?;
    Ok((String::from_utf8_lossy(&output).into_owned(), status.success()))
}

/// The end of an output, where the reason stands most often.
fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.trim_end().lines().collect();
    lines.get(lines.len().saturating_sub(SHOWN)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, sections: &[Section]) -> (Record, Result<()>) {
        let folder = tempfile::tempdir().unwrap();
        let shell = Command::new("sh").args(["-c", script]).output().unwrap();
        let mut record = Record::default();
        let log = folder.path().join("log");
        let ended = record.follow(sections, &log, shell.stdout.as_slice());
        assert_eq!(fs::read(log).unwrap(), shell.stdout);
        (record, ended)
    }

    #[test]
    fn sections_of_a_machine_are_told_apart() {
        let result = "printf 'running 1 test\\ntest result: ok. 1 passed; 0 failed; 0 ignored\\n'";
        let script = section(0, result) + &section(1, "echo shown; exit 3") + &section(2, "true");
        let sections = [
            Section::Tests("tests".into()),
            Section::Command("breaks".into()),
            Section::Command("holds".into()),
        ];
        let (record, ended) = run(&script, &sections);
        ended.unwrap();
        assert_eq!(record.tally, Tally { passed: 2, failed: 1, skipped: 0 });
        assert_eq!(record.failures, ["breaks"]);
    }

    #[test]
    fn a_section_without_an_end_is_an_error() {
        let script = section(0, "true") + &format!("echo '{MARK} 1'\n");
        let sections = [Section::Command("a".into()), Section::Command("b".into())];
        let (record, ended) = run(&script, &sections);
        assert_eq!(record.tally.passed, 1);
        assert!(ended.unwrap_err().to_string().contains("only 1 of 2"));
    }

    #[test]
    fn a_command_that_can_not_start_fails() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = Record::default();
        let mut command = Command::new(folder.path().join("absent"));
        record.command("stage", &folder.path().join("log"), &mut command);
        assert!(record.close());
        assert_eq!(record.failures, ["stage"]);
    }
}
