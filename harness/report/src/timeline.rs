//! The timeline as Chrome trace JSON, which Perfetto opens (*Trace Event Format*, duration, instant and metadata events).

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sim_net::Direction;

use crate::{Evidence, Sample, Where};

/// Tracks of the trace: a "process" each.
const SCENARIO: u32 = 1;
const VCPUS: u32 = 2;
const PROCESSES: u32 = 3;
const INTERRUPTS: u32 = 4;
const DEVICES: u32 = 5;
const DISKS: u32 = 6;
const NETWORK: u32 = 7;
/// Frames of one NIC that are shown; the capture has them all.
const FRAMES_MAX: usize = 100_000;
/// Requests of one disk that are shown side by side.
const DISK_LANES: u64 = 64;

fn micros(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

fn span(track: u32, lane: u64, name: &str, began: u64, ended: u64, arguments: Value) -> Value {
    json!({"ph": "X", "pid": track, "tid": lane, "name": name, "ts": micros(began), "dur": micros(ended.saturating_sub(began).max(1)), "args": arguments})
}

fn instant(track: u32, lane: u64, name: &str, at: u64, arguments: Value) -> Value {
    json!({"ph": "i", "s": "t", "pid": track, "tid": lane, "name": name, "ts": micros(at), "args": arguments})
}

/// Runs of equal samples of one vCPU: what, from, to. Samples come by ticks, and ticks stand still while all vCPUs are halted: a gap longer than `gap_ns` belongs
/// to nobody.
pub fn stretches<'a, K: PartialEq>(samples: impl Iterator<Item = &'a Sample>, gap_ns: u64, key: impl Fn(&Sample) -> K) -> Vec<(K, u64, u64)> {
    let mut stretches: Vec<(K, u64, u64)> = Vec::new();
    for sample in samples {
        let now = key(sample);
        match stretches.last_mut() {
            Some((what, _, end)) => {
                let gap = sample.ns - *end > gap_ns.max(1);
                *end = if gap { *end + gap_ns / 4 } else { sample.ns };
                if gap || *what != now {
                    stretches.push((now, sample.ns, sample.ns));
                }
            }
            None => stretches.push((now, sample.ns, sample.ns)),
        }
    }
    stretches
}

/// The lane of a zone: in order of appearance.
fn lane(names: &mut Vec<String>, name: &str) -> u64 {
    let found = names.iter().position(|other| other == name);
    found.unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    }) as u64
}

/// Writes the trace.
pub fn write(evidence: &Evidence) -> String {
    let mut events = Vec::new();
    let mut name = |track: u32, text: &str| events.push(json!({"ph": "M", "pid": track, "name": "process_name", "args": {"name": text}}));
    for (track, text) in [
        (SCENARIO, "scenario, by zone"),
        (VCPUS, "vCPUs"),
        (PROCESSES, "processes"),
        (INTERRUPTS, "interrupts"),
        (DEVICES, "devices"),
        (DISKS, "disks"),
        (NETWORK, "network"),
    ] {
        name(track, text);
    }
    let thread = |track: u32, lane: u64, text: &str| json!({"ph": "M", "pid": track, "tid": lane, "name": "thread_name", "args": {"name": text}});

    let mut zones = Vec::new();
    for step in &evidence.steps {
        let lane = lane(&mut zones, if step.zone.is_empty() { "global" } else { &step.zone });
        events.push(span(SCENARIO, lane, &step.name, step.began_ns, step.ended_ns, json!({"outcome": step.outcome})));
    }
    events.extend(zones.iter().enumerate().map(|(index, zone)| thread(SCENARIO, index as u64, zone)));

    let gap = 4 * evidence.every;
    for vcpu in 0..evidence.vcpus {
        let own = || evidence.samples.iter().filter(move |sample| sample.vcpu as usize == vcpu);
        events.push(thread(VCPUS, vcpu as u64, &format!("vCPU {vcpu}")));
        events.push(thread(PROCESSES, vcpu as u64, &format!("vCPU {vcpu}")));
        events.push(thread(INTERRUPTS, vcpu as u64, &format!("vCPU {vcpu}")));
        for (what, began, ended) in stretches(own(), gap, |sample| sample.at) {
            let word = match what {
                Where::Kernel => "kernel",
                Where::User => "user",
                Where::Halted => "halted",
            };
            events.push(span(VCPUS, vcpu as u64, word, began, ended, json!({"ticks between samples": evidence.every})));
        }
        for (process, began, ended) in stretches(own(), gap, |sample| (sample.at != Where::Halted).then(|| (sample.space, sample.program.clone()))) {
            if let Some((space, program)) = process {
                let space = format!("{space:#x}");
                events.push(span(PROCESSES, vcpu as u64, program.as_deref().unwrap_or("kernel"), began, ended, json!({"address space": space})));
            }
        }
    }

    for interrupt in &evidence.interrupts {
        events.push(instant(INTERRUPTS, u64::from(interrupt.vcpu), &format!("vector {:#04x}", interrupt.vector), interrupt.ns, json!({})));
    }
    let mut sources = Vec::new();
    for event in evidence.events.iter().filter(|event| event.kind != "irq") {
        let lane = lane(&mut sources, &event.source);
        events.push(instant(DEVICES, lane, &event.kind, event.ns, json!({"detail": event.detail, "vcpu": event.vcpu})));
    }
    events.extend(sources.iter().enumerate().map(|(index, source)| thread(DEVICES, index as u64, source)));

    // Requests of a disk overlap, spans of a lane must not: each takes the first lane that is free.
    let mut busy: BTreeMap<u64, u64> = BTreeMap::new();
    for operation in &evidence.disks {
        let arguments = json!({"sector": operation.sector, "sectors": operation.sectors, "trouble": operation.trouble});
        let first = u64::from(operation.disk) * DISK_LANES;
        let lane = (first..first + DISK_LANES).find(|lane| busy.get(lane).is_none_or(|until| *until <= operation.ns)).unwrap_or(first + DISK_LANES - 1);
        match operation.takes_ns {
            Some(takes) => {
                let ended = operation.ns.saturating_add(takes);
                busy.insert(lane, ended);
                events.push(span(DISKS, lane, operation.what, operation.ns, ended, arguments));
            }
            None => {
                busy.entry(lane).or_default();
                events.push(instant(DISKS, lane, operation.what, operation.ns, arguments));
            }
        }
    }
    events.extend(busy.keys().map(|lane| thread(DISKS, *lane, &format!("disk {} request {}", lane / DISK_LANES, lane % DISK_LANES + 1))));
    let mut peers = Vec::new();
    for conversation in &evidence.conversations {
        let lane = 100 + lane(&mut peers, &conversation.peer);
        let arguments = json!({"sent": conversation.sent, "received": conversation.received, "complete": conversation.complete});
        events.push(span(NETWORK, lane, &conversation.what, conversation.began_ns, conversation.ended_ns, arguments));
    }
    events.extend(peers.iter().enumerate().map(|(index, peer)| thread(NETWORK, 100 + index as u64, &format!("conversations of {peer}"))));
    for (nic, frames) in evidence.frames.iter().enumerate() {
        for (lane, direction, word) in [(2 * nic as u64, Direction::Sent, "sends"), (2 * nic as u64 + 1, Direction::Received, "receives")] {
            events.push(thread(NETWORK, lane, &format!("nic{nic} {word}")));
            for captured in frames.iter().filter(|captured| captured.direction == direction).take(FRAMES_MAX) {
                events.push(instant(NETWORK, lane, "frame", captured.ns, json!({"bytes": captured.frame.len()})));
            }
        }
    }
    json!({"displayTimeUnit": "ns", "traceEvents": events, "otherData": {"scenario": evidence.name, "receipt": evidence.receipt}}).to_string()
}
