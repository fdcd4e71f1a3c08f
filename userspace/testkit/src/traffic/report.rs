//! Owns what is known about traffic: each attempt's end is noted, and summed up as data.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How many failures a report describes one by one.
const DESCRIBED: usize = 10;

/// How an attempt can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// RST to a SYN, or ICMP port unreachable.
    Refused,
    /// RST to an established connection, or the kernel ended the socket.
    Reset,
    /// No answer in time.
    TimedOut,
    /// The other side closed before it answered.
    Closed,
    /// No route, or ICMP unreachable.
    Unreachable,
    /// An answer to something else than what was asked.
    WrongAnswer,
    /// The machine's own limits: ports, files, memory.
    Local,
}

impl Failure {
    /// What an error of a socket means.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        if error.raw_os_error() == Some(nix::errno::Errno::EDESTADDRREQ as i32) {
            // A socket that the kernel has ended has no peer any more (SOCK_DESTROY).
            return Self::Reset;
        }
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted => Self::Reset,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::UnexpectedEof => Self::Closed,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            io::ErrorKind::InvalidData => Self::WrongAnswer,
            _ => Self::Local,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::TimedOut => "timed out",
            Self::Closed => "closed",
            Self::Unreachable => "unreachable",
            Self::WrongAnswer => "wrong answer",
            Self::Local => "local limit",
        })
    }
}

/// An answered attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Name of the pod that answered.
    pub backend: String,
    /// The client's address as the backend saw it.
    pub client: IpAddr,
    /// From the attempt's start: for a new connection, with its handshake.
    pub latency: Duration,
}

/// What traffic came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Attempts that have ended.
    pub attempts: u64,
    /// Of these, those answered.
    pub answered: u64,
    /// The others.
    pub failures: BTreeMap<Failure, u64>,
    /// The first few failures, with the time since the start.
    pub described: Vec<String>,
    /// Answers by backend.
    pub backends: BTreeMap<String, u64>,
    /// Client addresses that backends saw.
    pub clients: BTreeSet<IpAddr>,
    /// Median time to an answer, microseconds; 0 without answers, as below.
    pub p50_us: u64,
    /// 99th percentile, microseconds.
    pub p99_us: u64,
    /// Longest, microseconds.
    pub max_us: u64,
    /// Connections that were made (streams: more than one means that one broke).
    pub connections: u64,
    /// Longest time without any answer, microseconds.
    pub longest_gap_us: u64,
    /// From the start to now, milliseconds.
    pub elapsed_ms: u64,
}

impl Report {
    /// Number of attempts that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Whether every backend of `expected` answered about equally often, as with independent draws:
    /// within five standard deviations of the binomial distribution, and no other backend did.
    #[must_use]
    pub fn is_uniform_over<'a>(&self, expected: impl IntoIterator<Item = &'a str>) -> bool {
        let expected: BTreeSet<&str> = expected.into_iter().collect();
        let known: BTreeSet<&str> = self.backends.keys().map(String::as_str).collect();
        if expected != known || expected.is_empty() {
            return false;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let (n, share) = (self.answered as f64, 1.0 / expected.len() as f64);
        let deviation = (n * share * (1.0 - share)).sqrt();
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let near = |count: u64| (count as f64 - n * share).abs() <= 5.0 * deviation;
        self.backends.values().all(|count| near(*count))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = Duration::from_millis(self.elapsed_ms).as_secs_f64();
        write!(f, "{} answered, {} failed in {seconds:.1} s", self.answered, self.failed())?;
        // What was reached, which a busy or emulated machine may keep far below what was asked for.
        if let Some(per_s) = self.attempts.saturating_mul(1000).checked_div(self.elapsed_ms) {
            write!(f, " ({per_s}/s)")?;
        }
        for (failure, count) in &self.failures {
            write!(f, ", {count} {failure}")?;
        }
        write!(f, "; p50 {} us, p99 {} us, longest {} us", self.p50_us, self.p99_us, self.max_us)
    }
}

/// Notes attempts as they end; shared by all tasks of a load.
#[derive(Debug)]
pub struct Recorder {
    start: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    report: Report,
    latencies_us: Vec<u64>,
    last_answer: Instant,
}

impl Recorder {
    /// Starts the clock.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        let inner =
            Inner { report: Report::default(), latencies_us: Vec::new(), last_answer: start };
        Self { start, inner: Mutex::new(inner) }
    }

    /// Notes a connection made.
    pub fn connected(&self) {
        self.lock().report.connections += 1;
    }

    /// Notes the end of an attempt at the time `now`.
    pub fn note(&self, result: Result<Answer, io::Error>, now: Instant) {
        let mut inner = self.lock();
        inner.report.attempts += 1;
        match result {
            Ok(answer) => {
                let gap = micros(now.saturating_duration_since(inner.last_answer));
                inner.last_answer = now;
                inner.latencies_us.push(micros(answer.latency));
                let report = &mut inner.report;
                report.answered += 1;
                report.longest_gap_us = report.longest_gap_us.max(gap);
                *report.backends.entry(answer.backend).or_default() += 1;
                report.clients.insert(answer.client);
            }
            Err(error) => {
                let at = now.saturating_duration_since(self.start).as_secs_f64();
                let failure = Failure::of(&error);
                *inner.report.failures.entry(failure).or_default() += 1;
                if inner.report.described.len() < DESCRIBED {
                    inner.report.described.push(format!("at {at:.3} s: {failure}: {error}"));
                }
            }
        }
    }

    /// What is known at the time `now`.
    #[must_use]
    pub fn report(&self, now: Instant) -> Report {
        let inner = self.lock();
        let mut sorted = inner.latencies_us.clone();
        sorted.sort_unstable();
        let quantile = |percent: usize| {
            sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        };
        let mut report = inner.report.clone();
        report.p50_us = quantile(50).copied().unwrap_or(0);
        report.p99_us = quantile(99).copied().unwrap_or(0);
        report.max_us = sorted.last().copied().unwrap_or(0);
        report.longest_gap_us =
            report.longest_gap_us.max(micros(now.saturating_duration_since(inner.last_answer)));
        report.elapsed_ms = u64::try_from(now.saturating_duration_since(self.start).as_millis())
            .unwrap_or(u64::MAX);
        report
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(backend: &str, ms: u64) -> Answer {
        Answer {
            backend: backend.to_owned(),
            client: "10.0.0.1".parse().unwrap(),
            latency: Duration::from_millis(ms),
        }
    }

    #[test]
    fn a_report_counts_backends_failures_and_the_longest_silence() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let recorder = Recorder::new(start);
        recorder.note(Ok(answer("a", 1)), at(10));
        recorder.note(Ok(answer("b", 3)), at(60));
        recorder.note(Err(io::ErrorKind::ConnectionReset.into()), at(70));
        let report = recorder.report(at(90));
        assert_eq!((report.attempts, report.answered, report.failed()), (3, 2, 1));
        assert_eq!(report.failures[&Failure::Reset], 1);
        assert_eq!((report.p50_us, report.max_us, report.longest_gap_us), (3000, 3000, 50_000));
        assert!(report.described[0].starts_with("at 0.070 s: reset"), "{:?}", report.described);
    }

    #[test]
    fn uniform_means_all_of_them_none_else_and_about_equally_often() {
        let report = |counts: &[(&str, u64)]| Report {
            answered: counts.iter().map(|(_, n)| n).sum(),
            backends: counts.iter().map(|(b, n)| ((*b).to_owned(), *n)).collect(),
            ..Report::default()
        };
        for (counts, uniform) in [
            (vec![("a", 95), ("b", 105)], true),
            (vec![("a", 20), ("b", 180)], false),
            (vec![("a", 200)], false),
            (vec![("a", 70), ("b", 70), ("c", 60)], false),
            (vec![], false),
        ] {
            assert_eq!(report(&counts).is_uniform_over(["a", "b"]), uniform, "{counts:?}");
        }
    }
}
