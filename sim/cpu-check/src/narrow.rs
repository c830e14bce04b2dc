//! From a difference at the end to the block that made it.

use crate::{Bench, Difference, Program, differences};
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

/// Finds the first tick after which the engines differ, and tells what ran there: guest code, host code, both states.
pub fn narrow(difference: &Difference) -> String {
    let program = Program::new(difference.seed);
    let at = |tick: u64| -> Option<(Bench, Bench)> {
        let mut left = Bench::with(&program, None).ok()?;
        let mut right = Bench::with(&program, difference.plan.hot).ok()?;
        left.run_to(tick, u64::MAX);
        right.run_to(tick, difference.plan.cut);
        Some((left, right))
    };
    if at(program.ticks).is_some_and(|(left, right)| differences(&left, &right).is_empty()) {
        return "equal on machines made for this program: it takes what the programs before it had translated (run the batch again)".to_owned();
    }
    let (mut good, mut bad) = (0, program.ticks);
    while bad - good > 1 {
        let middle = (good + bad) / 2;
        match at(middle) {
            Some((left, right)) if differences(&left, &right).is_empty() => good = middle,
            Some(_) => bad = middle,
            None => return "the host cannot translate".to_owned(),
        }
    }
    let (Some((before, translated)), Some((left, right))) = (at(good), at(bad)) else { return String::new() };
    let mut text = format!("equal at tick {good}, different at {bad}: {}\n", differences(&left, &right).join(", "));
    let rip = before.cpu.rip();
    text.push_str("guest, from the instruction that runs there:\n");
    let mut bytes = [0; 64];
    if let Some(gpa) = before.cpu.translate(&mut before.memory.clone(), rip)
        && before.memory.read(gpa, &mut bytes).is_ok()
    {
        let mut formatter = IntelFormatter::new();
        for instruction in Decoder::with_ip(64, &bytes, rip, DecoderOptions::NONE).iter().take(4) {
            let mut line = String::new();
            formatter.format(&instruction, &mut line);
            text.push_str(&format!("  {:x}: {line}\n", instruction.ip()));
        }
    }
    text.push_str(&format!("before: {:x?}\n", before.cpu.state().gpr));
    text.push_str(&format!("        rflags {:#x}, mxcsr {:#x}\n", before.cpu.state().rflags, before.cpu.state().mxcsr));
    if let Some(listing) = right.cpu.translation_of(rip).or_else(|| translated.cpu.translation_of(rip)) {
        text.push_str(&listing);
    }
    text
}
