//! What differs between two snapshots: boards, points, registers, devices, pages, disks, inputs, each by its name.

use sim_board::Snapshot;
use sim_core::{Payload, Value};

const PAGE: usize = 4096;
/// Differing pages, blocks and fields of one thing that are listed before the rest is counted.
const LISTED: usize = 24;

/// A line for each difference; none: they are the same point of the same run.
pub fn snapshots(left: &Snapshot, right: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    if left.board() != right.board() {
        let toml = |snapshot: &Snapshot| snapshot.board().to_toml().unwrap_or_default();
        for pair in toml(left).lines().zip(toml(right).lines()).filter(|(left, right)| left != right) {
            lines.push(format!("board: {} / {}", pair.0, pair.1));
        }
    }
    for (what, left, right) in [("tick", left.ticks(), right.ticks()), ("time", left.ns(), right.ns())] {
        if left != right {
            lines.push(format!("{what}: {left} / {right}"));
        }
    }
    if left.receipt() != right.receipt() {
        lines.push(format!("receipt: {} / {}", left.receipt(), right.receipt()));
    }
    for (vcpu, (left, right)) in left.cpus().iter().zip(right.cpus()).enumerate() {
        listed(&mut lines, cpu(vcpu, &left.save(), &right.save()));
    }
    if left.cpus().len() != right.cpus().len() {
        lines.push(format!("vCPUs: {} / {}", left.cpus().len(), right.cpus().len()));
    }
    parts(left, right, &mut lines);
    pages(left, right, &mut lines);
    disks(left, right, &mut lines);
    let (mine, theirs) = (left.inputs(), right.inputs());
    if let Some(at) = mine.iter().zip(theirs).position(|(left, right)| left != right) {
        lines.push(format!("inputs: number {at} differs: {:?} / {:?}", mine[at], theirs[at]));
    } else if mine.len() != theirs.len() {
        lines.push(format!("inputs: {} / {}", mine.len(), theirs.len()));
    }
    lines
}

/// Names of the general registers by their numbers.
const GENERAL: [&str; 16] = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
const SEGMENTS: [&str; 8] = ["es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"];

/// Differences of two saved vCPUs, registers by name.
pub fn cpu(vcpu: usize, left: &Payload, right: &Payload) -> Vec<String> {
    let place = |field: &str, index: usize| match field {
        "gpr" => GENERAL.get(index).map(|name| (*name).to_owned()),
        "segments" => SEGMENTS.get(index / 4).map(|name| format!("{name}.{}", ["base", "limit", "attributes", "selector"][index % 4])),
        "xmm" => Some(format!("xmm{}.{}", index / 2, ["low", "high"][index % 2])),
        _ => None,
    };
    let mut lines = Vec::new();
    for ((name, mine), (_, theirs)) in left.fields().iter().zip(right.fields()) {
        match (mine, theirs) {
            (Value::Numbers(mine), Value::Numbers(theirs)) if mine.len() == theirs.len() => {
                for (index, (mine, theirs)) in mine.iter().zip(theirs).enumerate().filter(|(_, (mine, theirs))| mine != theirs) {
                    let register = place(name, index).unwrap_or_else(|| format!("{name}[{index}]"));
                    lines.push(format!("vcpu {vcpu}: {register}: {mine:#x} / {theirs:#x}"));
                }
            }
            (Value::Number(mine), Value::Number(theirs)) if mine != theirs => lines.push(format!("vcpu {vcpu}: {name}: {mine:#x} / {theirs:#x}")),
            (mine, theirs) if mine != theirs => lines.push(format!("vcpu {vcpu}: {name} differs")),
            _ => {}
        }
    }
    lines
}

fn listed(lines: &mut Vec<String>, found: Vec<String>) {
    let more = found.len().saturating_sub(LISTED);
    lines.extend(found.into_iter().take(LISTED));
    if more > 0 {
        lines.push(format!("    ... and {more} more"));
    }
}

fn parts(left: &Snapshot, right: &Snapshot, lines: &mut Vec<String>) {
    for mine in left.parts() {
        match right.parts().iter().find(|theirs| theirs.kind == mine.kind) {
            Some(theirs) => listed(lines, mine.diff(theirs)),
            None => lines.push(format!("{}: only on the left", mine.kind)),
        }
    }
    for theirs in right.parts().iter().filter(|theirs| !left.parts().iter().any(|mine| mine.kind == theirs.kind)) {
        lines.push(format!("{}: only on the right", theirs.kind));
    }
    match (left.network(), right.network()) {
        (Some(mine), Some(theirs)) => listed(lines, mine.diff(&theirs)),
        (None, None) => {}
        _ => lines.push("network: only on one side".to_owned()),
    }
}

/// What two pages or blocks of the same place differ in.
fn bytes(left: &[u8], right: &[u8], at: u64) -> Option<String> {
    let first = left.iter().zip(right).position(|(left, right)| left != right)?;
    let count = left.iter().zip(right).filter(|(left, right)| left != right).count();
    Some(format!("{count} bytes differ, first at {:#x}: {:#04x} / {:#04x}", at + first as u64, left[first], right[first]))
}

fn pages(left: &Snapshot, right: &Snapshot, lines: &mut Vec<String>) {
    if left.page_count() != right.page_count() {
        lines.push(format!("memory: {} / {} pages", left.page_count(), right.page_count()));
        return;
    }
    let mut found = Vec::new();
    for page in 0..left.page_count() {
        let (Some(mine), Some(theirs)) = (left.page(page), right.page(page)) else { continue };
        if !std::ptr::eq(mine, theirs)
            && let Some(what) = bytes(mine, theirs, u64::from(page) * PAGE as u64)
        {
            found.push(format!("memory page {page:#x}: {what}"));
        }
    }
    if found.len() > LISTED {
        lines.push(format!("memory: {} of {} pages differ", found.len(), left.page_count()));
    }
    listed(lines, found);
}

fn disks(left: &Snapshot, right: &Snapshot, lines: &mut Vec<String>) {
    let (mut left, mut right) = (left.media(), right.media());
    if left.len() != right.len() {
        lines.push(format!("disks: {} / {}", left.len(), right.len()));
    }
    for (index, (left, right)) in left.iter_mut().zip(&mut right).enumerate() {
        if left.sectors() != right.sectors() {
            lines.push(format!("disk {index}: {} / {} sectors", left.sectors(), right.sectors()));
            continue;
        }
        let mut found = Vec::new();
        let (mut mine, mut theirs) = (vec![0; PAGE], vec![0; PAGE]);
        for first in (0..left.sectors()).step_by(PAGE / 512) {
            let count = (left.sectors() - first).min(PAGE as u64 / 512) as usize * 512;
            let read = left.read(first, &mut mine[..count]).and_then(|()| right.read(first, &mut theirs[..count]));
            match read {
                Ok(()) => {
                    if let Some(what) = bytes(&mine[..count], &theirs[..count], first * 512) {
                        found.push(format!("disk {index} sector {first}: {what}"));
                    }
                }
                Err(error) => found.push(format!("disk {index} sector {first} cannot be read: {error:?}")),
            }
        }
        listed(lines, found);
    }
}
