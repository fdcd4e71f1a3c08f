//! Views as text for a terminal.

use std::fmt::Write as _;

use super::{DropsView, ServiceRow, StatusView};
use crate::plane::{FlowRow, ReasonCount};

/// Lines of a table with columns as wide as their widest cell; the last one is not padded.
#[must_use]
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = all.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        })
        .collect();
    let mut text = String::new();
    for row in all {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `sluice status`
#[must_use]
pub fn status(view: &StatusView) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<11}{value}");
    };
    line(
        "agent",
        format!(
            "sluice {}, node {}, pid {}, up {}",
            view.version,
            view.node,
            view.pid,
            duration(view.uptime_s)
        ),
    );
    let ready =
        view.not_ready_because.as_ref().map_or("yes".to_owned(), |why| format!("no: {why}"));
    line("ready", ready);
    line("healthy", if view.healthy { "yes" } else { "no: updates wait too long" }.to_owned());
    for watch in &view.watches {
        let listed = if watch.listed { "" } else { ", not listed yet" };
        let mut value = format!("{} {}{listed}", watch.objects, watch.resource);
        for (count, what) in [(watch.restarts, "restarts"), (watch.unreadable, "unreadable")] {
            if count > 0 {
                let _ = write!(value, ", {count} {what}");
            }
        }
        line("watch", value);
    }
    let ranges = view.service_ranges.join(", ");
    line("services", format!("{ranges} ({})", view.service_ranges_from).trim_start().to_owned());
    if view.health_checks > 0 {
        line("balancers", format!("{} health checks answered", view.health_checks));
    }
    let sync = &view.sync;
    let ago = sync.last_ago_s.map_or("never".to_owned(), |ago| format!("{ago:.1} s ago"));
    line(
        "sync",
        format!(
            "last {ago} in {:.1} ms with {} changes; {} done, {} failed",
            sync.last_ms, sync.last_operations, sync.done, sync.failed
        ),
    );
    if let Some(pending) = sync.pending_s {
        line("pending", format!("a change waits for {pending:.1} s"));
    }
    if let Some(error) = &sync.error {
        line("error", error.clone());
    }
    if let Some(plane) = &view.dataplane {
        line(
            "data plane",
            format!(
                "{} frontends, {} backends, {} of {} slots, {} flow entries at most, pinned in {}",
                plane.frontends,
                plane.backends,
                plane.slots_used,
                plane.slots_capacity,
                plane.flows_capacity,
                plane.bpf_dir
            ),
        );
        for at in &plane.attached {
            line("attached", format!("{} {} ({})", at.interface, at.program, at.mode));
        }
    }
    if let Some(error) = &view.upkeep_error {
        line("upkeep", format!("flows are not looked after: {error}"));
    }
    if view.unresolved_pods > 0 {
        line("links", format!("{} local backends without a known interface", view.unresolved_pods));
    }
    for problem in &view.problems {
        line("problem", problem.clone());
    }
    text
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

/// `sluice services`: a line per service port; with `detail`, all backends below it.
#[must_use]
pub fn services(rows: &[ServiceRow], detail: bool) -> String {
    if rows.is_empty() {
        return "no services\n".to_owned();
    }
    let head = ["SERVICE", "PORT", "ADDRESSES", "VERDICT", "BACKENDS", "LOCAL", "SCHEDULER"];
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let port_name = if row.port_name.is_empty() {
                String::new()
            } else {
                format!(":{}", row.port_name)
            };
            let addresses: Vec<&str> = row.addresses.iter().map(|at| at.address.as_str()).collect();
            vec![
                format!("{}/{}{port_name}", row.namespace, row.name),
                format!("{}/{}", row.port, row.protocol),
                addresses.join(","),
                row.verdict.clone(),
                row.backends.len().to_string(),
                row.backends.iter().filter(|backend| backend.local).count().to_string(),
                row.scheduler.clone(),
            ]
        })
        .collect();
    if !detail {
        return table(&head, &cells);
    }
    let mut text = String::new();
    for (row, cells) in rows.iter().zip(cells) {
        text.push_str(&table(&head, &[cells]));
        for backend in &row.backends {
            let local = if backend.local { " local" } else { "" };
            let serving = if backend.serving { "" } else { " not serving" };
            let weight = match backend.weight {
                1 => String::new(),
                weight => format!(" weight {weight}"),
            };
            let _ = writeln!(text, "  {}{local}{serving}{weight}", backend.endpoint);
        }
    }
    text
}

/// `sluice flows`
#[must_use]
pub fn flows(rows: &[FlowRow]) -> String {
    if rows.is_empty() {
        return "no flows\n".to_owned();
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|flow| {
            vec![
                flow.protocol.clone(),
                flow.client.clone(),
                flow.frontend.clone(),
                flow.backend.clone(),
                flow.state.clone(),
                format!("{:.0} s", flow.idle_s),
            ]
        })
        .collect();
    table(&["PROTOCOL", "CLIENT", "SERVICE", "BACKEND", "STATE", "IDLE"], &cells)
}

/// `sluice drops`
#[must_use]
pub fn drops(view: &DropsView) -> String {
    let rows = |counters: &[ReasonCount], what: &str| -> Vec<Vec<String>> {
        counters
            .iter()
            .map(|counter| {
                vec![counter.reason.clone(), what.to_owned(), counter.packets.to_string()]
            })
            .collect()
    };
    let mut all = rows(&view.drops, "dropped");
    all.extend(rows(&view.others, "passed"));
    table(&["REASON", "VERDICT", "PACKETS"], &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows =
            [vec!["länger".to_owned(), "1".to_owned()], vec!["b".to_owned(), "2".to_owned()]];
        assert_eq!(table(&["A", "B"], &rows), "A       B\nlänger  1\nb       2\n");
    }

    #[test]
    fn status_tells_why_it_is_not_ready() {
        let view = StatusView {
            not_ready_because: Some("waiting".to_owned()),
            problems: vec!["Service d/web: spec.ports: none".to_owned()],
            ..StatusView::default()
        };
        let text = status(&view);
        assert!(text.contains("ready      no: waiting\n"), "{text}");
        assert!(text.contains("problem    Service d/web: spec.ports: none\n"), "{text}");
    }

    #[test]
    fn drops_come_first() {
        let count =
            |reason: &str, drop| ReasonCount { reason: reason.to_owned(), drop, packets: 3 };
        let view = DropsView {
            drops: vec![count("no_flow", true)],
            others: vec![count("forward_peer", false)],
        };
        let text = drops(&view);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("no_flow ") && lines[1].contains("dropped"), "{text}");
        assert!(lines[2].contains("passed"), "{text}");
    }
}
