//! Flamegraphs: folded stacks, and a picture of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::page::escape;
use crate::{Evidence, Sample, Symbols, Where};

/// Stacks, outermost first, and how often each was met.
pub type Folded = BTreeMap<Vec<String>, u64>;

const WIDTH: u32 = 1200;
const ROW: u32 = 16;
/// Boxes narrower than this are left out, in thousandths of the width.
const NARROW: u64 = 1;

/// What a process is called.
fn process(sample: &Sample) -> String {
    sample.program.as_deref().map_or_else(|| format!("address space {:#x}", sample.space), str::to_owned)
}

/// Folds samples: `kernel` or `user` first, then functions, innermost last. Halted vCPUs are not counted.
pub fn folded(evidence: &Evidence, symbols: &Symbols) -> Folded {
    let mut folded = Folded::new();
    for sample in &evidence.samples {
        let mut stack = Vec::new();
        match sample.at {
            Where::Halted => continue,
            Where::User => {
                stack.push("user".to_owned());
                stack.push(process(sample));
            }
            Where::Kernel => {
                stack.push("kernel".to_owned());
                let moved = symbols.moved(sample.lstar);
                let mut names: Vec<String> = Vec::new();
                for (depth, address) in sample.stack.iter().enumerate() {
                    // A return address may be that of the next function.
                    let place = address.wrapping_sub(moved).wrapping_sub(u64::from(depth > 0));
                    match symbols.name(place) {
                        Some(name) => names.push(name.to_owned()),
                        // Without names, by the page.
                        None if depth == 0 => names.push(if symbols.is_empty() { format!("page {:#x}", address & !0xfff) } else { "(elsewhere)".to_owned() }),
                        None => break,
                    }
                }
                stack.extend(names.into_iter().rev());
            }
        }
        *folded.entry(stack).or_default() += 1;
    }
    folded
}

/// One line a stack: names with `;` between, and the count.
pub fn text(folded: &Folded) -> String {
    let mut text = String::new();
    for (stack, count) in folded {
        let names: Vec<String> = stack.iter().map(|name| name.replace([';', '\n'], ",")).collect();
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "{} {count}", names.join(";"));
    }
    text
}

/// A warm colour that belongs to a name.
fn color(name: &str, user: bool) -> String {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let base = if user { (90, 170, 90) } else { (225, 120, 40) };
    let shift = |value: u64, by: u32| value + (hash >> by) % 30;
    format!("rgb({},{},{})", shift(base.0, 0), shift(base.1, 8), shift(base.2, 16))
}

/// The picture. Box widths are shares of ticks; a title on each box says how much.
pub fn svg(folded: &Folded, every: u64) -> String {
    let total: u64 = folded.values().sum();
    let depth = folded.keys().map(Vec::len).max().unwrap_or(0) as u32;
    let height = (depth + 2) * ROW;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"100%\" font-family=\"monospace\" font-size=\"11\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    // Writing to a string cannot fail.
    let _infallible = writeln!(svg, "<text x=\"4\" y=\"{}\">{total} samples, one every {every} ticks</text>", height - 4);
    if total > 0 {
        let stacks: Vec<(&[String], u64)> = folded.iter().map(|(stack, count)| (stack.as_slice(), *count)).collect();
        draw(&mut svg, &stacks, 0, 0, total, height);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Draws the boxes of one level, side by side from `start`, and what stands on them.
fn draw(svg: &mut String, stacks: &[(&[String], u64)], level: usize, mut start: u64, total: u64, height: u32) {
    let mut rest = stacks;
    while let Some((first, _)) = rest.first() {
        let Some(name) = first.get(level) else {
            // A stack that ends here takes its room.
            start += rest[0].1;
            rest = &rest[1..];
            continue;
        };
        let count = rest.iter().take_while(|(stack, _)| stack.get(level) == Some(name)).count();
        let (group, others) = rest.split_at(count);
        let weight: u64 = group.iter().map(|(_, weight)| weight).sum();
        if weight * 1000 >= NARROW * total {
            let place = |weight: u64| weight as f64 * f64::from(WIDTH) / total as f64;
            let (x, width) = (place(start), place(weight));
            let y = height - (level as u32 + 2) * ROW;
            let share = weight as f64 * 100.0 / total as f64;
            let letters = (width / 6.8) as usize;
            let label: String = if letters < 3 { String::new() } else { name.chars().take(letters).collect() };
            // Writing to a string cannot fail.
            let _infallible = writeln!(
                svg,
                "<g><title>{} ({share:.2} %)</title><rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{}\" stroke=\"#fff\" stroke-width=\"0.5\"/><text x=\"{:.1}\" y=\"{}\">{}</text></g>",
                escape(name),
                ROW - 1,
                color(name, first[0] == "user"),
                x + 2.0,
                y + 12,
                escape(&label)
            );
            draw(svg, group, level + 1, start, total, height);
        }
        start += weight;
        rest = others;
    }
}
