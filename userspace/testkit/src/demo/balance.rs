//! Owns the first act: who answers, how evenly, which client address backends see, and how long
//! an answer takes.

use std::time::Duration;

use anyhow::Result;

use super::scene::{Scene, WAYS};
use crate::traffic::{Load, Plan, Report};

/// Questions per way; enough to tell six even backends from five.
const QUESTIONS: u64 = 300;
/// Questions from each node's client and per way.
const CLIENT_QUESTIONS: u64 = 30;
/// Questions of a pod to its own service.
const HAIRPIN_QUESTIONS: u64 = 60;
/// Round trips per latency figure, and before them to warm up.
const ROUND_TRIPS: u64 = 1000;
const WARM_UP: u64 = 50;

/// `web` from one client, in all four ways.
pub(super) fn spread(scene: &Scene) -> Result<()> {
    let client = scene.pod("client-n1")?;
    let names = scene.backends();
    let mut rows = Vec::new();
    let mut reports = Vec::new();
    for way in WAYS {
        let target = scene.service("web", way)?;
        let report = scene.ask("client-n1", Plan::new(target, way.load(600)).limit(QUESTIONS))?;
        let mut row = vec![way.name.to_owned(), target.to_string()];
        row.extend(
            names.iter().map(|name| report.backends.get(name).copied().unwrap_or(0).to_string()),
        );
        row.push(report.failed().to_string());
        rows.push(row);
        reports.push((way, report));
    }
    let mut header = vec!["FROM client-n1", "TO web"];
    header.extend(names.iter().map(String::as_str));
    header.push("failed");
    scene.console.table(&header, &rows);
    for (way, report) in &reports {
        let name = way.name;
        scene.console.expect(
            &format!("{name} to web is answered"),
            complete(report, QUESTIONS),
            report,
        );
        let uniform = report.is_uniform_over(names.iter().map(String::as_str));
        scene.console.expect(
            &format!("{name} to web reaches all backends evenly"),
            uniform,
            counts(report),
        );
        let kept =
            report.clients.iter().eq(client.addresses.iter().filter(|ip| ip.is_ipv4() == way.v4));
        let seen: Vec<String> = report.clients.iter().map(ToString::to_string).collect();
        scene.console.expect(&format!("{name} keeps the client's address"), kept, seen.join(", "));
    }
    Ok(())
}

/// `web` from every node, and from its own backends (hairpin).
pub(super) fn everyone(scene: &Scene) -> Result<()> {
    for client in scene.clients() {
        for way in WAYS {
            let plan = Plan::new(scene.service("web", way)?, way.load(300)).limit(CLIENT_QUESTIONS);
            let report = scene.ask(&client, plan)?;
            let name = format!("{way} from {client} to web", way = way.name);
            scene.console.expect(&name, complete(&report, CLIENT_QUESTIONS), &report);
        }
    }
    let own = scene.backends().into_iter().next().unwrap_or_default();
    for way in WAYS {
        let plan = Plan::new(scene.service("web", way)?, way.load(300)).limit(HAIRPIN_QUESTIONS);
        let report = scene.ask(&own, plan)?;
        let met = complete(&report, HAIRPIN_QUESTIONS) && report.backends.contains_key(&own);
        let detail =
            format!("{} by itself; {report}", report.backends.get(&own).copied().unwrap_or(0));
        scene.console.expect(&format!("{} from {own} to its own service", way.name), met, detail);
    }
    Ok(())
}

/// Round trips to one backend, by its own address and through its service.
pub(super) fn latency(scene: &Scene) -> Result<()> {
    let pause = Duration::ZERO;
    let mut rows = Vec::new();
    for (backend, place) in [("near", "same node"), ("far", "other node")] {
        for way in WAYS {
            let load = if way.tcp { Load::Stream { pause } } else { Load::Flow { pause } };
            let mut medians = Vec::new();
            for (via, target) in
                [("pod", scene.direct(backend, way)?), ("service", scene.service(backend, way)?)]
            {
                scene.ask("client-n1", Plan::new(target, load).limit(WARM_UP))?;
                let report = scene.ask("client-n1", Plan::new(target, load).limit(ROUND_TRIPS))?;
                let name = format!("{} round trips to {backend} via {via}", way.name);
                scene.console.expect(&name, complete(&report, ROUND_TRIPS), &report);
                medians.push(format!("{} us", report.p50_us));
            }
            rows.push([vec![place.to_owned(), way.name.to_owned()], medians].concat());
        }
    }
    scene.console.table(&["MEDIAN ROUND TRIP", "BY", "DIRECT", "THROUGH SERVICE"], &rows);
    Ok(())
}

fn complete(report: &Report, attempts: u64) -> bool {
    report.answered == attempts && report.failed() == 0
}

fn counts(report: &Report) -> String {
    let counts: Vec<String> =
        report.backends.iter().map(|(name, n)| format!("{name} {n}")).collect();
    if counts.is_empty() { "nobody".to_owned() } else { counts.join(", ") }
}
