//! Shows numbers that are counted elsewhere, in the kernel and by the watches, as metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::events::EventCounts;
use crate::plane::{PlaneStatus, ReasonCount};
use crate::watch::WatcherReport;

/// One number of a watch: name, help, and where it is counted.
type WatchNumber = (&'static str, &'static str, fn(&WatcherReport) -> &AtomicU64);

const WATCH_COUNTERS: &[WatchNumber] = &[
    ("watch_lists", "Complete lists taken from the API server", |report| &report.lists),
    ("watch_restarts", "Requests made again after something went wrong", |report| &report.restarts),
    ("watch_unreadable_objects", "Objects that could not be decoded", |report| &report.unreadable),
    ("watch_emptied", "Lists without objects where there had been some", |report| &report.emptied),
];

/// What the last scrape was told from outside.
#[derive(Debug)]
pub(super) struct Outside {
    watches: Vec<(&'static str, Arc<WatcherReport>)>,
    events: Arc<EventCounts>,
    plane: Mutex<(Vec<ReasonCount>, Option<PlaneStatus>)>,
}

impl Outside {
    pub(super) fn new(
        watches: Vec<(&'static str, Arc<WatcherReport>)>,
        events: Arc<EventCounts>,
    ) -> Self {
        Self { watches, events, plane: Mutex::default() }
    }

    pub(super) fn set(&self, counters: Vec<ReasonCount>, plane: Option<PlaneStatus>) {
        *self.plane.lock().unwrap_or_else(PoisonError::into_inner) = (counters, plane);
    }

    fn encode_watches(&self, encoder: &mut DescriptorEncoder) -> Result<(), std::fmt::Error> {
        for (name, help, number) in WATCH_COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (resource, report) in &self.watches {
                let labels = [("resource", *resource)];
                ConstCounter::new(number(report).load(Ordering::Relaxed))
                    .encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Objects that exist, by type";
        let mut family =
            encoder.encode_descriptor("watch_objects", help, None, MetricType::Gauge)?;
        for (resource, report) in &self.watches {
            let labels = [("resource", *resource)];
            ConstGauge::new(report.objects.load(Ordering::Relaxed))
                .encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Collector for Outside {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        self.encode_watches(&mut encoder)?;
        for (name, help, number) in [
            ("events_sent", "Kubernetes Events that the API server took", &self.events.sent),
            ("events_lost", "Kubernetes Events too many or refused", &self.events.lost),
        ] {
            let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(number.load(Ordering::Relaxed)).encode(counter)?;
        }
        let plane = self.plane.lock().unwrap_or_else(PoisonError::into_inner);
        let (counters, status) = &*plane;
        let help = "Packets by the way they left the programs, since the maps were created";
        let mut family = encoder.encode_descriptor("packets", help, None, MetricType::Counter)?;
        for counter in counters {
            let drop = if counter.drop { "true" } else { "false" };
            let labels = [("reason", counter.reason.as_str()), ("drop", drop)];
            ConstCounter::new(counter.packets).encode(family.encode_family(&labels)?)?;
        }
        let Some(status) = status else { return Ok(()) };
        for (name, help, value) in [
            ("attachments", "Attached programs", status.attached.len() as u64),
            ("slots_used", "Slots taken by backend tables", status.slots_used),
            ("slots_capacity", "Slots there are", status.slots_capacity),
            ("flows_capacity", "Flow entries there can be", status.flows_capacity),
        ] {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)?;
        }
        Ok(())
    }
}
