//! Owns `sluice-testkit probe`: asks many addresses from one namespace at once, and tells for each
//! who answered and how it failed otherwise. A process of its own, so that it belongs to its node
//! as everything on it does, to the cgroup as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::traffic::exchange::{Association, Connection, Flow};
use crate::traffic::{Answer, Failure};

/// Questions under way at once. Most of them wait for an answer that never comes.
const AT_ONCE: usize = 48;
/// After so many failures a question is settled.
const FAILURES: u64 = 2;

/// An answer after this is late: a SYN is sent again after a second.
const LATE: Duration = Duration::from_millis(900);

/// What to ask.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// File with the questions, a JSON list
    #[arg(long, value_name = "PATH")]
    pub questions: PathBuf,
}

/// Protocols of service ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP, spoken in user space
    Sctp,
}

/// Asks one address again and again, each time by a new connection or association or from a new UDP
/// port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Question {
    /// Whom to ask.
    pub(super) target: SocketAddr,
    /// By which protocol.
    pub(super) protocol: Protocol,
    /// Address to ask from.
    pub(super) source: Option<IpAddr>,
    /// Ask until so many backends have answered ...
    pub(super) backends: usize,
    /// ... but at least so often ...
    pub(super) least: u64,
    /// ... and at most so often.
    pub(super) most: u64,
    /// Milliseconds after which there is no answer.
    pub(super) timeout_ms: u64,
}

/// What came of a question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Finding {
    /// By the backend's name: the client addresses it saw.
    pub(super) backends: BTreeMap<String, BTreeSet<IpAddr>>,
    /// How other attempts ended.
    pub(super) failures: BTreeMap<Failure, u64>,
    /// Answers that took as long as only a packet that was sent again does, or a busy machine.
    pub(super) late: u64,
}

impl Finding {
    fn note(&mut self, result: io::Result<Answer>) {
        match result {
            Ok(answer) => {
                self.late += u64::from(answer.latency > LATE);
                self.backends.entry(answer.backend).or_default().insert(answer.client);
            }
            Err(error) => *self.failures.entry(Failure::of(&error)).or_default() += 1,
        }
    }

    fn is_settled(&self, question: &Question, asked: u64) -> bool {
        self.failures.values().sum::<u64>() >= FAILURES
            || (asked >= question.least && self.backends.len() >= question.backends)
    }
}

/// Asks all questions of a file, and prints the findings in the same order, as JSON.
///
/// # Errors
/// When the file is none.
pub async fn execute(config: Config) -> Result<()> {
    let path = config.questions.display();
    let text = fs::read(&config.questions).with_context(|| format!("read {path}"))?;
    let questions: Vec<Question> =
        serde_json::from_slice(&text).with_context(|| format!("questions in {path}"))?;
    let findings = ask_all(questions).await?;
    println!("{}", serde_json::to_string(&findings)?);
    Ok(())
}

async fn ask_all(questions: Vec<Question>) -> Result<Vec<Finding>> {
    let mut findings = vec![Finding::default(); questions.len()];
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for (number, question) in questions.into_iter().enumerate() {
        let slots = slots.clone();
        tasks.spawn(async move {
            let _slot = slots.acquire().await;
            (number, ask(question).await)
        });
    }
    while let Some(joined) = tasks.join_next().await {
        let (number, finding) = joined.context("a question")?;
        if let Some(place) = findings.get_mut(number) {
            *place = finding;
        }
    }
    Ok(findings)
}

async fn ask(question: Question) -> Finding {
    let mut finding = Finding::default();
    for asked in 0..question.most {
        if finding.is_settled(&question, asked) {
            break;
        }
        finding.note(once(&question, asked).await);
    }
    finding
}

async fn once(question: &Question, number: u64) -> io::Result<Answer> {
    let (start, limit) = (Instant::now(), Duration::from_millis(question.timeout_ms));
    let Question { target, source, .. } = *question;
    match question.protocol {
        Protocol::Tcp => {
            let mut connection = Connection::open(target, source, limit).await?;
            connection.ask(number, start, limit).await
        }
        Protocol::Udp => {
            let mut flow = Flow::open(target, source).await?;
            flow.ask(number, start, limit).await
        }
        Protocol::Sctp => {
            let mut association = Association::open(target, source, limit).await?;
            let answer = association.ask(number, start, limit).await?;
            association.close(limit).await;
            Ok(answer)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(backends: usize) -> Question {
        Question {
            target: "192.0.2.1:80".parse().unwrap(),
            protocol: Protocol::Tcp,
            source: None,
            backends,
            least: 3,
            most: 9,
            timeout_ms: 100,
        }
    }

    #[test]
    fn a_question_is_settled_by_all_backends_after_a_while_or_by_two_failures() {
        let mut finding = Finding::default();
        let answer = |backend: &str| {
            let client = "192.0.2.7".parse().unwrap();
            Ok(Answer { backend: backend.to_owned(), client, latency: Duration::ZERO })
        };
        finding.note(answer("a"));
        assert!(finding.is_settled(&question(1), 3) && !finding.is_settled(&question(1), 2));
        assert!(!finding.is_settled(&question(2), 3));
        finding.note(answer("b"));
        assert!(finding.is_settled(&question(2), 3));
        finding.note(Err(io::ErrorKind::ConnectionRefused.into()));
        assert!(!finding.is_settled(&question(3), 3));
        finding.note(Err(io::ErrorKind::TimedOut.into()));
        assert!(finding.is_settled(&question(3), 2));
        let again: Finding =
            serde_json::from_str(&serde_json::to_string(&finding).unwrap()).unwrap();
        assert_eq!(again, finding);
    }
}
