//! Owns a speaker under measurement: starts it with all of its peers, asks how many routes it has
//! chosen and how much memory it takes. All take everything in and announce nothing.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sluice_testkit::cluster::process::{Process, Spec};

use super::memory::{self, Memory};
use super::site::{HOLD_S, PEERS_ASN, SPEAKER, SPEAKER_ASN, Site};
use super::{LOOK, Who};

/// How long a speaker may take to answer the first time.
const START: Duration = Duration::from_secs(30);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// Where Debian has it.
const BIRD: &str = "/usr/sbin/bird";

/// A speaker that runs.
#[derive(Debug)]
pub(super) struct Judged<'a> {
    who: Who,
    site: &'a Site,
    process: Process,
}

impl<'a> Judged<'a> {
    /// Starts it; returns when it answers.
    ///
    /// # Errors
    /// When it is not installed, or does not answer in time.
    pub(super) fn start(who: Who, site: &'a Site) -> Result<Self> {
        let spec = match who {
            Who::Sluice => {
                let own = std::env::current_exe().context("own program")?;
                let peers = site.peers.len().to_string();
                let spec = Spec::new(own).args(["bgp-speaker", "--peers", &peers, "--socket"]);
                spec.args([site.path("speaker.ctl")])
            }
            Who::Bird => {
                let config = site.write("bird.conf", &bird_config(site))?;
                let (socket, pid) = (site.path("speaker.ctl"), site.path("bird.pid"));
                let spec = Spec::new(BIRD).args(["-f", "-c"]).args([config]);
                spec.args(["-s"]).args([socket]).args(["-P"]).args([pid])
            }
            Who::Gobgp => {
                let config = site.write("gobgpd.toml", &gobgp_config(site))?;
                Spec::new("gobgpd").args(["--pprof-disable", "-f"]).args([config])
            }
        };
        let process = site.keeper.spawn(&site.speaker, &spec.log(site.path("speaker.log")))?;
        let judged = Self { who, site, process };
        let deadline = Instant::now() + START;
        while let Err(fault) = judged.chosen() {
            if Instant::now() > deadline || judged.process.status()?.is_some() {
                bail!("{} does not answer: {fault:#}; {}", who.name(), judged.log());
            }
            std::thread::sleep(LOOK);
        }
        Ok(judged)
    }

    /// Whether its routes get into the kernel. GoBGP leaves that to FRR's zebra, and Debian's GoBGP does
    /// not understand Debian's zebra.
    pub(super) fn reaches_kernel(&self) -> bool {
        self.who != Who::Gobgp
    }

    /// Memory of the speaker itself.
    pub(super) fn memory(&self) -> Result<Memory> {
        memory::of(self.process.pid())
    }

    /// What it has said.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.site.path("speaker.log")).unwrap_or_default()
    }

    /// Prefixes that have a chosen route.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) fn chosen(&self) -> Result<usize> {
        match self.who {
            Who::Sluice => {
                let text = ask(self.site.path("speaker.ctl"), "")?;
                text.trim().parse().with_context(|| format!("the speaker says {text:?}"))
            }
            Who::Bird => {
                let text = ask(self.site.path("speaker.ctl"), "show route count\n")?;
                // `100 of 100 routes for 100 networks in table master4`
                number_before(&text, " networks in table master4")
            }
            Who::Gobgp => {
                let run = || Command::new("gobgp").args(["global", "rib", "summary"]).output();
                let output = self.site.speaker.run(run)?.context("run gobgp")?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                if !output.status.success() {
                    bail!("{text}{}", String::from_utf8_lossy(&output.stderr));
                }
                // `Destination: 100, Path: 100`
                number_before(&text.replace("Destination: ", ""), ", Path")
            }
        }
    }
}

/// The number that stands right before `after`.
fn number_before(text: &str, after: &str) -> Result<usize> {
    let before = text.split(after).next().filter(|before| before.len() < text.len());
    let word = before.and_then(|before| before.split_whitespace().next_back());
    word.and_then(|word| word.parse().ok()).with_context(|| format!("no count in {text:?}"))
}

/// Asks at a socket: what comes until it is closed, or until the line that ends BIRD's answer.
fn ask(socket: PathBuf, question: &str) -> Result<String> {
    let mut stream = UnixStream::connect(&socket).context("connect to the speaker")?;
    stream.set_read_timeout(Some(ANSWER))?;
    let mut text = String::new();
    if question.is_empty() {
        stream.read_to_string(&mut text)?;
        return Ok(text);
    }
    stream.write_all(question.as_bytes())?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        // Replies are `NNNN text`, the last of them; `NNNN-text` goes on. 0001 is the greeting.
        let ends = line.as_bytes().get(4) == Some(&b' ') && !line.starts_with("0001");
        text += &line;
        text.push('\n');
        if ends {
            break;
        }
    }
    Ok(text)
}

fn bird_config(site: &Site) -> String {
    let mut text = format!(
        "router id {SPEAKER};
protocol device {{ }}
protocol kernel {{ ipv4 {{ import none; export all; }}; }}
template bgp peer {{
    local {SPEAKER} as {SPEAKER_ASN};
    hold time {HOLD_S};
    passive yes;
    error wait time 1, 2;
    ipv4 {{ import all; export none; }};
}}
"
    );
    for (n, peer) in site.peers.iter().enumerate() {
        // Writing to a String can't fail.
        let _ = writeln!(text, "protocol bgp p{n} from peer {{ neighbor {peer} as {PEERS_ASN}; }}");
    }
    text
}

fn gobgp_config(site: &Site) -> String {
    let mut text = format!(
        "[global.config]
as = {SPEAKER_ASN}
router-id = \"{SPEAKER}\"
[global.apply-policy.config]
default-export-policy = \"reject-route\"
"
    );
    for peer in &site.peers {
        let _ = write!(
            text,
            "[[neighbors]]
[neighbors.config]
neighbor-address = \"{peer}\"
peer-as = {PEERS_ASN}
[neighbors.transport.config]
passive-mode = true
[neighbors.timers.config]
hold-time = {HOLD_S}
keepalive-interval = {}
",
            HOLD_S / 3
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_in_what_others_say() {
        let bird = "0001 BIRD 2.0.12 ready.\n1007-9 of 9 routes for 7 networks in table master4\n\
                    0014 0 of 0 routes for 0 networks in table master6\n";
        assert_eq!(number_before(bird, " networks in table master4").unwrap(), 7);
        let gobgp = "Table ipv4-unicast\nDestination: 12, Path: 13\n";
        assert_eq!(number_before(&gobgp.replace("Destination: ", ""), ", Path").unwrap(), 12);
        assert!(number_before("nothing", ", Path").is_err());
    }
}
