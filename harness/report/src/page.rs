//! One page with everything, without anything from outside.

use std::fmt::Write as _;
use std::sync::Arc;

use sim_net::Direction;

use crate::heat::Heat;
use crate::timeline::stretches;
use crate::{Evidence, Sample, Where};

/// Rows of a list that are shown.
pub const ROWS_MAX: usize = 400;
/// Programs that have a lane of their own in the timeline: those that ran most.
const PROGRAMS_MAX: usize = 8;
/// The last part of the console that is shown.
const CONSOLE_MAX: usize = 64 << 10;

const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;margin:0;background:#f6f7f9;color:#1c2430}\
header{padding:18px 28px;background:#1c2430;color:#fff}header h1{margin:0;font-size:22px}header p{margin:4px 0 0;color:#b9c4d4}\
.verdict{display:inline-block;padding:2px 12px;border-radius:12px;font-weight:700;color:#fff}.good{background:#2a9d5c}.bad{background:#c8323c}\
main{max-width:1260px;margin:0 auto;padding:8px 20px 40px}section{background:#fff;border:1px solid #e0e4ea;border-radius:8px;padding:12px 18px;margin:14px 0}\
h2{font-size:16px;margin:2px 0 10px}table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:3px 10px 3px 0;vertical-align:top;border-bottom:1px solid #eef0f3}\
pre{background:#11161d;color:#d7dee8;padding:10px;border-radius:6px;overflow:auto;max-height:460px;font-size:12px;margin:6px 0}\
.ok{color:#2a9d5c;font-weight:700}.fail{color:#c8323c;font-weight:700}.seen{color:#b57a00;font-weight:700}.add{color:#7ee2a8}.del{color:#ff9aa2}\
.small{color:#66707f;font-size:12px}svg text{fill:#1c2430}";

/// Text for HTML and SVG.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' => out.push(letter),
            // Serial lines end with both.
            '\r' => {}
            // Control characters are in no document.
            letter if letter.is_control() => out.push('\u{fffd}'),
            letter => out.push(letter),
        }
    }
    out
}

fn section(page: &mut String, title: &str, body: &str) {
    // Writing to a string cannot fail.
    let _infallible = writeln!(page, "<section><h2>{}</h2>{body}</section>", escape(title));
}

fn seconds(ns: u64) -> String {
    format!("{:.6} s", ns as f64 / 1e9)
}

/// Writes the page. `flame` is the flamegraph's picture.
pub fn write(evidence: &Evidence, flame: &str) -> String {
    let failed = evidence.rows.iter().any(|row| row.holds == Some(false));
    let judged = evidence.rows.iter().filter(|row| row.holds.is_some()).count();
    let good = evidence.rows.iter().filter(|row| row.holds == Some(true)).count();
    let (class, word) = if failed { ("bad", "does not hold") } else { ("good", "holds") };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style></head><body>\n<header><h1>{0} <span class=\"verdict {class}\">{word}</span></h1><p>{1}</p><p>{good} of {judged} hold &middot; {2} &middot; receipt {3}</p></header>\n<main>\n",
        escape(&evidence.name),
        escape(&evidence.property),
        escape(&evidence.summary),
        escape(&evidence.receipt)
    );
    section(&mut page, "Verdict", &verdict(evidence));
    for row in evidence.rows.iter().filter(|row| row.holds == Some(false)) {
        if let Some(detail) = &row.detail {
            section(&mut page, &format!("{}: {}", row.place, row.what), &difference(detail));
        }
    }
    section(&mut page, "Timeline", &timeline(evidence));
    for nic in 0..evidence.frames.len() {
        let trips = evidence.round_trips(nic);
        if !trips.is_empty() {
            let body = format!("<p class=\"small\">{} TCP segments: from sending to acknowledgement, over virtual time</p>{}", trips.len(), Heat::of_latencies(&trips, evidence.virtual_ns).svg());
            section(&mut page, &format!("Latency at nic{nic}"), &body);
        }
    }
    let disks: std::collections::BTreeSet<u8> = evidence.disks.iter().map(|operation| operation.disk).collect();
    for disk in disks {
        let own: Vec<(u64, u64)> = evidence.disks.iter().filter(|operation| operation.disk == disk && operation.sectors > 0).map(|operation| (operation.ns, operation.sector)).collect();
        let body = format!("<p class=\"small\">{} operations: where on the disk, over virtual time</p>{}", own.len(), Heat::of_places(&own, evidence.virtual_ns).svg());
        section(&mut page, &format!("Disk {disk}"), &body);
        let waits: Vec<(u64, u64)> = evidence.disks.iter().filter(|operation| operation.disk == disk).filter_map(|operation| Some((operation.ns, operation.takes_ns?))).collect();
        let body = format!("<p class=\"small\">{} requests: from the driver's to the disk's answer, over virtual time</p>{}", waits.len(), Heat::of_latencies(&waits, evidence.virtual_ns).svg());
        section(&mut page, &format!("Latency at disk {disk}"), &body);
    }
    if !evidence.samples.is_empty() {
        section(&mut page, "Flamegraph", flame);
    }
    if !evidence.network.is_empty() {
        section(&mut page, "Network", &format!("<pre>{}</pre>", escape(&evidence.network.join("\n"))));
    }
    let mut steps = String::from("<table><tr><th>began</th><th>took</th><th>zone</th><th>step</th><th>outcome</th></tr>");
    for step in evidence.steps.iter().take(ROWS_MAX) {
        let took = seconds(step.ended_ns.saturating_sub(step.began_ns));
        let _infallible = write!(steps, "<tr><td>{}</td><td>{took}</td><td>{}</td><td>{}</td><td>{}</td></tr>", seconds(step.began_ns), escape(&step.zone), escape(&step.name), escape(&step.outcome));
    }
    steps.push_str("</table>");
    section(&mut page, "Steps", &steps);
    let start = evidence.console.len().saturating_sub(CONSOLE_MAX);
    let start = (start..=evidence.console.len()).find(|at| evidence.console.is_char_boundary(*at)).unwrap_or(0);
    section(&mut page, "Console", &format!("<pre>{}</pre>", escape(&evidence.console[start..])));
    let events: Vec<String> = evidence
        .events
        .iter()
        .filter(|event| event.kind != "irq")
        .take(ROWS_MAX)
        .map(|event| format!("{:>16} {:>2}  {:<10} {:<8} {}", event.ns, event.vcpu, event.source, event.kind, event.detail))
        .collect();
    section(&mut page, "Events", &format!("<pre>{}</pre>", escape(&events.join("\n"))));
    page.push_str("</main></body></html>\n");
    page
}

fn verdict(evidence: &Evidence) -> String {
    let mut table = String::from("<table>");
    for row in &evidence.rows {
        let (class, mark) = match row.holds {
            Some(true) => ("ok", "ok"),
            Some(false) => ("fail", "FAIL"),
            None => ("seen", "seen"),
        };
        let _infallible = write!(table, "<tr><td class=\"{class}\">{mark}</td><td>{}</td><td>{}</td><td>{}</td></tr>", escape(&row.place), escape(&row.what), escape(&row.found));
    }
    table.push_str("</table>");
    table
}

/// A difference with its lines coloured.
fn difference(detail: &str) -> String {
    let mut text = String::from("<pre>");
    for line in detail.lines() {
        let class = match line.trim_start().chars().next() {
            Some('+') => Some("add"),
            Some('-') => Some("del"),
            _ => None,
        };
        match class {
            Some(class) => {
                let _infallible = writeln!(text, "<span class=\"{class}\">{}</span>", escape(line));
            }
            None => {
                let _infallible = writeln!(text, "{}", escape(line));
            }
        }
    }
    text.push_str("</pre>");
    text
}

/// Lanes over virtual time: steps by zone, vCPUs, interrupts, disks, NICs.
fn timeline(evidence: &Evidence) -> String {
    const LEFT: f64 = 110.0;
    const WIDTH: f64 = 1090.0;
    const LANE: f64 = 18.0;
    /// Density is shown in this many bins.
    const BINS: usize = 400;
    let end = evidence.virtual_ns.max(1);
    let place = |ns: u64| LEFT + ns.min(end) as f64 * WIDTH / end as f64;
    let mut lanes: Vec<(String, String)> = Vec::new();
    let mut zones: Vec<String> = Vec::new();
    for step in &evidence.steps {
        if !zones.contains(&step.zone) {
            zones.push(step.zone.clone());
        }
    }
    let bar = |began: u64, ended: u64, color: &str, title: &str| {
        let width = (place(ended) - place(began)).max(0.6);
        format!("<rect x=\"{:.1}\" y=\"YY\" width=\"{width:.1}\" height=\"14\" fill=\"{color}\"><title>{}</title></rect>", place(began), escape(title))
    };
    for zone in zones {
        let shapes: String = evidence
            .steps
            .iter()
            .filter(|step| step.zone == zone)
            .enumerate()
            .map(|(index, step)| bar(step.began_ns, step.ended_ns, if index % 2 == 0 { "#4361ee" } else { "#7b93f5" }, &format!("{}: {}", step.name, step.outcome)))
            .collect();
        lanes.push((if zone.is_empty() { "steps".to_owned() } else { format!("zone {zone}") }, shapes));
    }
    for vcpu in 0..evidence.vcpus {
        let own = evidence.samples.iter().filter(|sample| sample.vcpu as usize == vcpu);
        let shapes: String = stretches(own, 4 * evidence.every, |sample| sample.at)
            .into_iter()
            .filter(|(at, ..)| *at != Where::Halted)
            .map(|(at, began, ended)| if at == Where::Kernel { bar(began, ended, "#e07828", "kernel") } else { bar(began, ended, "#5aaa5a", "user") })
            .collect();
        lanes.push((format!("vCPU {vcpu}"), shapes));
    }
    // The programs that ran most, each with its share of the time.
    let mut programs: Vec<(Arc<str>, u64)> = Vec::new();
    for program in evidence.samples.iter().filter(|sample| sample.at != Where::Halted).filter_map(|sample| sample.program.as_ref()) {
        match programs.iter_mut().find(|(known, _)| known == program) {
            Some((_, count)) => *count += 1,
            None => programs.push((program.clone(), 1)),
        }
    }
    programs.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
    for (program, _) in programs.iter().take(PROGRAMS_MAX) {
        let runs = |sample: &Sample| sample.at != Where::Halted && sample.program.as_ref() == Some(program);
        let mut shapes = String::new();
        for vcpu in 0..evidence.vcpus {
            let own = evidence.samples.iter().filter(|sample| sample.vcpu as usize == vcpu);
            let stretches = stretches(own, 4 * evidence.every, runs);
            shapes.extend(stretches.into_iter().filter(|(runs, ..)| *runs).map(|(_, began, ended)| bar(began, ended, "#2a9d8f", &format!("{program} on vCPU {vcpu}"))));
        }
        let name = program.rsplit('/').next().unwrap_or(program);
        lanes.push((name.chars().take(16).collect(), shapes));
    }
    let mut density = |name: String, color: &str, times: Vec<u64>| {
        let mut bins = vec![0u64; BINS];
        for at in times {
            bins[((u128::from(at) * BINS as u128 / u128::from(end)) as usize).min(BINS - 1)] += 1;
        }
        let most = bins.iter().copied().max().unwrap_or(0).max(1);
        let step = WIDTH / BINS as f64;
        let shapes: String = bins
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(index, count)| {
                let height = 2.0 + 12.0 * *count as f64 / most as f64;
                format!("<rect x=\"{:.1}\" y=\"YY\" dy=\"0\" transform=\"translate(0 {:.1})\" width=\"{step:.1}\" height=\"{height:.1}\" fill=\"{color}\"><title>{count}</title></rect>", LEFT + index as f64 * step, 14.0 - height)
            })
            .collect();
        lanes.push((name, shapes));
    };
    if !evidence.interrupts.is_empty() {
        density("interrupts".to_owned(), "#7209b7", evidence.interrupts.iter().map(|interrupt| interrupt.ns).collect());
    }
    let disks: std::collections::BTreeSet<u8> = evidence.disks.iter().map(|operation| operation.disk).collect();
    for disk in disks {
        density(format!("disk {disk}"), "#b5179e", evidence.disks.iter().filter(|operation| operation.disk == disk).map(|operation| operation.ns).collect());
    }
    for (nic, frames) in evidence.frames.iter().enumerate() {
        for (word, direction, color) in [("sends", Direction::Sent, "#0096c7"), ("receives", Direction::Received, "#48cae4")] {
            density(format!("nic{nic} {word}"), color, frames.iter().filter(|captured| captured.direction == direction).map(|captured| captured.ns).collect());
        }
    }
    let height = lanes.len() as f64 * LANE + 22.0;
    let mut svg = format!("<svg viewBox=\"0 0 1225 {height}\" width=\"100%\" font-family=\"monospace\" font-size=\"11\">");
    for (index, (name, shapes)) in lanes.iter().enumerate() {
        let y = index as f64 * LANE;
        let _infallible = write!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><line x1=\"{LEFT}\" x2=\"{}\" y1=\"{line}\" y2=\"{line}\" stroke=\"#e6e9ee\"/>{shapes}",
            LEFT - 6.0,
            y + 12.0,
            escape(name),
            LEFT + WIDTH,
            line = y + 16.0,
            shapes = shapes.replace("YY", &format!("{y}"))
        );
    }
    for tenth in 0..=10u64 {
        let at = end / 10 * tenth;
        let _infallible = write!(svg, "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" font-size=\"9\">{:.2} s</text>", place(at), height - 4.0, at as f64 / 1e9);
    }
    svg.push_str("</svg><p class=\"small\">orange: kernel, green: user, white: halted; below, the programs that ran most. The whole of it opens in Perfetto: timeline.json.</p>");
    svg
}
