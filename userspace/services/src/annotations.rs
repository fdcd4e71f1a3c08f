//! What a Service's annotations say: `sluice.io/NAME`, and `kube-router.io/NAME` as its alias.
//!
//! Called when a Service is parsed. A word that is not known is a problem and changes nothing: what
//! the Service said before stays.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::problem::{Problems, Reason, excerpt};
use crate::state::Scheduler;
use crate::weights::{self, Weights};

/// Prefixes of annotations, the first that is there counts.
const PREFIXES: [&str; 2] = ["sluice.io/", "kube-router.io/"];

/// All schedulers that a Service may ask for.
const SCHEDULERS: [Scheduler; 4] =
    [Scheduler::Random, Scheduler::LeastConnections, Scheduler::SourceHash, Scheduler::Maglev];

/// A Service's annotations, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Annotated {
    /// `service.scheduler`: how to choose a backend.
    pub(crate) scheduler: Scheduler,
    /// `service.weights`: shares of the endpoints.
    pub(crate) weights: Weights,
    /// `service.local`: traffic policy Local for all addresses, whatever the spec says.
    pub(crate) local: bool,
}

impl Annotated {
    /// Reads them. `before`: what the Service said last.
    pub(crate) fn read(
        metadata: &ObjectMeta,
        before: Option<&Self>,
        problems: &mut Problems,
    ) -> Self {
        if let Some((name, _)) = find(metadata, "service.dsr") {
            problems.add(|| format!("metadata.annotations[{name}]"), Reason::NoDirectReturn);
        }
        let before = before.cloned().unwrap_or_default();
        let known = |word: &str| match word {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        };
        let local = Word { name: "service.local", accepted: "true, false" };
        let scheduler = Word { name: "service.scheduler", accepted: "rr, lc, sh, mh" };
        Self {
            local: local.read(metadata, known, before.local, problems, |local| match local {
                true => "true",
                false => "false",
            }),
            scheduler: scheduler.read(
                metadata,
                |word| SCHEDULERS.into_iter().find(|scheduler| scheduler.word() == word),
                before.scheduler,
                problems,
                Scheduler::word,
            ),
            weights: weights(metadata, problems),
        }
    }
}

/// An annotation that is one of a few words.
struct Word {
    name: &'static str,
    accepted: &'static str,
}

impl Word {
    fn read<T: Copy + Default>(
        &self,
        metadata: &ObjectMeta,
        parse: impl Fn(&str) -> Option<T>,
        before: T,
        problems: &mut Problems,
        word_of: impl Fn(T) -> &'static str,
    ) -> T {
        let Some((name, word)) = find(metadata, self.name) else { return T::default() };
        parse(word).unwrap_or_else(|| {
            let reason = Reason::UnknownValue {
                value: excerpt(word),
                accepted: self.accepted,
                instead: word_of(before),
            };
            problems.add(|| format!("metadata.annotations[{name}]"), reason);
            before
        })
    }
}

/// The annotation under its full name.
fn find<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<(String, &'a str)> {
    let annotations = metadata.annotations.as_ref()?;
    PREFIXES.iter().find_map(|prefix| {
        let full = format!("{prefix}{name}");
        let word = annotations.get(&full)?;
        Some((full, word.as_str()))
    })
}

fn weights(metadata: &ObjectMeta, problems: &mut Problems) -> Weights {
    let annotations = metadata.annotations.as_ref();
    let text = annotations.and_then(|annotations| annotations.get(weights::ANNOTATION));
    text.map(|text| Weights::parse(text, problems)).unwrap_or_default()
}
