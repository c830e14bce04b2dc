//! Comparing outcomes.

use iced_x86::{Formatter, IntelFormatter, RflagsBits};

use crate::case::{Assembled, Case, End, Outcome, is_direct_branch, memory_address};
use crate::generate::{may_leave_undefined, rflags_mask};

/// The six arithmetic flags and DF.
const FLAGS: u64 = 0xcd5;

/// Whether the two can be held against each other at all.
pub fn comparable(case: &Case, code: &Assembled, ours: &Outcome, expected: &Outcome) -> bool {
    use iced_x86::Mnemonic as M;
    let ended_at = |outcome: &Outcome, vectors: &[u8], names: &[M]| {
        matches!(outcome.end, End::Fault { vector, .. } if vectors.contains(&vector))
            && stopped_in(case, code, outcome).is_some_and(|insn| names.contains(&insn.mnemonic()))
    };
    let apart = ours.end != expected.end || ours.rip != expected.rip;
    // What the masked stores of SSE check of a mask without bits, and the alignment of how many bytes, is each processor's own (SDM vol. 2, MASKMOVDQU:
    // "implementation-dependent"; AMD's look at eight bytes).
    let masked = [M::Maskmovdqu, M::Vmaskmovdqu, M::Maskmovq];
    let masked = apart && (ended_at(ours, &[17], &masked) || ended_at(expected, &[17], &masked));
    // XRSTOR refuses components that XCR0 has not (SDM vol. 1 §13.8.1); the host's may have more of them.
    let restored = apart && ended_at(ours, &[13], &[M::Xrstor, M::Xrstor64]);
    // What XSAVE calls in use of registers that VZEROALL cleared (see `in_use`) decides whether XRSTOR reads an image that was changed in between.
    let among = |names: &[M]| case.insns.iter().any(|insn| names.contains(&insn.mnemonic()));
    let initial = among(&[M::Vzeroall]) && among(&[M::Xsave, M::Xsave64]) && among(&[M::Xrstor, M::Xrstor64]);
    // MXCSR bit 17 (misaligned exception mask) exists on AMD's processors, not on ours: LDMXCSR went another way.
    ours.end != End::Unknown && expected.end != End::Unknown && expected.mxcsr & 1 << 17 == 0 && !masked && !restored && !initial
}

/// What differs, a line each; empty if nothing does. `expected` is the oracle.
pub fn differences(case: &Case, code: &Assembled, ours: &Outcome, expected: &Outcome) -> Vec<String> {
    if !comparable(case, code, ours, expected) {
        return Vec::new();
    }
    let mut out = Vec::new();
    // CMPS reads two places in an order of its own choosing (AMD's own forms differ), and an indirect call may look at its target before or
    // after its stack: of two faults either will do.
    let either = matches!((ours.end, expected.end), (End::Fault { vector: 12..=14 | 17, .. }, End::Fault { vector: 12..=14 | 17, .. }))
        && ours.rip == expected.rip
        && stopped_in(case, code, expected).is_some_and(|insn| {
            use iced_x86::Mnemonic as M;
            insn.is_call_near_indirect() || (insn.is_string_instruction() && matches!(insn.mnemonic(), M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq))
        });
    // MASKMOVDQU is checked for alignment on eight bytes by AMD's processors; the manuals say that it is, not on how many (APM vol. 4).
    let either = either
        || matches!((ours.end, expected.end), (End::Fault { vector: 14 | 17, .. }, End::Fault { vector: 14 | 17, .. }))
            && ours.rip == expected.rip
            && stopped_in(case, code, expected).is_some_and(|insn| insn.mnemonic() == iced_x86::Mnemonic::Maskmovdqu);
    // Which byte of a large operand on two pages is looked at first is nowhere said: AMD's processors begin with the last.
    let either = either
        || matches!((ours.end, expected.end), (End::Fault { vector: 14, .. }, End::Fault { vector: 14, .. }))
            && ours.rip == expected.rip
            && stopped_in(case, code, expected).is_some_and(|insn| insn.memory_size().size() > 64);
    if ours.end != expected.end && !either {
        out.push(format!("end       {:?}, should be {:?}", ours.end, expected.end));
    }
    if ours.rip != expected.rip {
        out.push(format!("rip       {:#x}, should be {:#x}", ours.rip, expected.rip));
    }
    const NAMES: [&str; 16] = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
    for (i, name) in NAMES.iter().enumerate() {
        if ours.gpr[i] != expected.gpr[i] {
            out.push(format!("{name:<9} {:016x}, should be {:016x}", ours.gpr[i], expected.gpr[i]));
        }
    }
    let mask = FLAGS & !rflags_mask(undefined_at(case, code, expected.rip, expected.end));
    if (ours.rflags ^ expected.rflags) & mask != 0 {
        out.push(format!("rflags    {:03x}, should be {:03x} (compared: {mask:03x})", ours.rflags & FLAGS, expected.rflags & FLAGS));
    }
    for i in 0..16 {
        if ours.xmm[i] != expected.xmm[i] {
            out.push(format!("xmm{i:<6} {:032x}, should be {:032x}", ours.xmm[i], expected.xmm[i]));
        }
    }
    for i in 0..16 {
        if ours.upper[i] != expected.upper[i] {
            out.push(format!("upper{i:<4} {:032x}, should be {:032x}", ours.upper[i], expected.upper[i]));
        }
    }
    if ours.mxcsr != expected.mxcsr {
        out.push(format!("mxcsr     {:04x}, should be {:04x}", ours.mxcsr, expected.mxcsr));
    }
    let (a, b) = (&ours.x87, &expected.x87);
    if (a.control, a.status, a.in_use) != (b.control, b.status, b.in_use) {
        out.push(format!(
            "x87       control {:04x} status {:04x} in use {:02x}, should be {:04x} {:04x} {:02x}",
            a.control, a.status, a.in_use, b.control, b.status, b.in_use
        ));
    }
    for i in 0..8 {
        if a.st(i) != b.st(i) {
            out.push(format!("st{i}       {:020x}, should be {:020x}", a.st(i), b.st(i)));
        }
    }
    for ((name, got), (_, wanted)) in ours.system.iter().zip(&expected.system) {
        if got != wanted && !(either && *name == "cr2") {
            out.push(format!("{name:<9} {got:016x}, should be {wanted:016x}"));
        }
    }
    if ours.memory == expected.memory {
        return out;
    }
    let wrong: Vec<usize> = (0..ours.memory.len())
        .filter(|&i| {
            let (ours, theirs) = (ours.memory[i], expected.memory[i]);
            ours != theirs && !of_vendors(case, memory_address(i)) && !(in_use(case, memory_address(i)) && ours | theirs == theirs && ours ^ theirs <= 7)
        })
        .collect();
    if !wrong.is_empty() {
        for i in wrong.iter().take(8) {
            out.push(format!("[{:08x}] {:02x}, should be {:02x}", memory_address(*i), ours.memory[*i], expected.memory[*i]));
        }
        if wrong.len() > 8 {
            out.push(format!("... and {} bytes more", wrong.len() - 8));
        }
    }
    out
}

/// Whether a byte belongs to what processors of different make store differently in an image of the floating-point state: opcode and addresses of the
/// last x87 instruction (APM vol. 2 §11.4.4.3: AMD stores them only if an exception is pending), and which bits MXCSR has.
fn of_vendors(case: &Case, address: u64) -> bool {
    use iced_x86::Mnemonic as M;
    case.insns.iter().any(|insn| {
        let offset = address.wrapping_sub(insn.memory_displacement64());
        match insn.mnemonic() {
            M::Fxsave | M::Fxsave64 | M::Xsave | M::Xsave64 => matches!(offset, 6..24 | 28..32),
            M::Fnsave | M::Fnstenv => matches!(offset, 12..28),
            _ => false,
        }
    })
}

/// Whether the instruction at which an outcome stopped may have stopped for a value rather than for its privilege:
///
/// * A place in memory, the stack or a target: alignment and canonical form (SDM vol. 1 §4.9.1, §3.3.7.1).
/// * WRFSBASE and WRGSBASE: a base that is not canonical (SDM vol. 2, under both: #GP).
/// * In ring 0, registers in which not every value exists: reserved bits of control and debug registers (SDM vol. 3 §2.5, §17.2.6), MSRs that are not
///   there (SDM vol. 2, RDMSR, WRMSR), XCR0 (SDM vol. 1 §13.3), the null selector for TR (SDM vol. 2, LTR) and, with another RPL than the CPL, for SS (SDM vol. 2, MOV).
pub fn stopped_at_a_value(case: &Case, code: &Assembled, outcome: &Outcome) -> bool {
    use iced_x86::{Mnemonic as M, OpKind, Register};
    stopped_in(case, code, outcome).is_none_or(|insn| {
        let place = (0..insn.op_count()).any(|n| !matches!(insn.op_kind(n), OpKind::Register) && insn.try_immediate(n).is_err());
        let base = matches!(insn.mnemonic(), M::Wrfsbase | M::Wrgsbase);
        let to = insn.op0_register();
        let register = to.is_cr() || to.is_dr() || to == Register::SS || matches!(insn.mnemonic(), M::Rdmsr | M::Wrmsr | M::Xsetbv | M::Ltr);
        place || base || (register && case.ring == crate::case::Ring::Kernel) || insn.is_stack_instruction() || insn.flow_control() != iced_x86::FlowControl::Next
    })
}

/// The instruction at which an outcome stopped.
fn stopped_in<'a>(case: &'a Case, code: &Assembled, outcome: &Outcome) -> Option<&'a iced_x86::Instruction> {
    let offset = outcome.rip.wrapping_sub(case.origin);
    case.insns.get(code.offsets.iter().position(|at| u64::from(*at) == offset)?)
}

/// Flags that are undefined when the sequence ends at `rip`. With branches in it: all that any instruction may have left undefined.
fn undefined_at(case: &Case, code: &Assembled, rip: u64, end: End) -> u32 {
    let branches = case.insns.iter().any(|insn| is_direct_branch(insn) || insn.flow_control() != iced_x86::FlowControl::Next);
    let offset = rip.wrapping_sub(case.origin);
    let stop = match end {
        End::Fault { vector: 3, .. } => case.insns.len(),
        _ => code.offsets.iter().position(|at| u64::from(*at) == offset).unwrap_or(case.insns.len()),
    };
    let mut undefined = 0;
    for insn in &case.insns[..if branches { case.insns.len() } else { stop.min(case.insns.len()) }] {
        let left = may_leave_undefined(insn);
        // Shifts by CL and REP instructions may do nothing.
        let certain = !branches && insn.rflags_undefined() & !left == 0 && !insn.has_rep_prefix() && !insn.has_repne_prefix();
        let conditional = matches!(insn.op_count(), 2 | 3)
            && insn.op_kind(insn.op_count() - 1) == iced_x86::OpKind::Register
            && insn.op_register(insn.op_count() - 1) == iced_x86::Register::CL;
        if certain && !conditional {
            undefined &= !(insn.rflags_written() | insn.rflags_cleared() | insn.rflags_set());
        }
        undefined |= left;
    }
    // An interrupted REP CMPS or SCAS has flags only from whole iterations; hardware may have saved earlier ones.
    if let (End::Fault { vector, .. }, Some(insn)) = (end, case.insns.get(stop))
        && vector != 3
        && insn.is_string_instruction()
    {
        undefined |= insn.rflags_written() & (RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF);
    }
    undefined
}

/// Whether a byte is the lowest of XSTATE_BV in an image of XSAVE's: a component that has its initial value may be called in use or not (SDM vol. 1
/// §13.6); by ours it is not, AMD's processors say so from the first write on.
fn in_use(case: &Case, address: u64) -> bool {
    use iced_x86::Mnemonic as M;
    case.insns.iter().any(|insn| matches!(insn.mnemonic(), M::Xsave | M::Xsave64) && address.wrapping_sub(insn.memory_displacement64()) == 512)
}

/// The sequence with addresses, bytes and text.
pub fn listing(case: &Case, code: &Assembled) -> String {
    let mut formatter = IntelFormatter::new();
    let mut out = String::new();
    for (i, pair) in code.offsets.windows(2).enumerate() {
        let bytes = &code.bytes[pair[0] as usize..pair[1] as usize];
        let mut insn = iced_x86::Decoder::with_ip(64, bytes, case.origin + u64::from(pair[0]), 0).decode();
        if insn.is_invalid() {
            insn = case.insns[i];
        }
        let mut text = String::new();
        formatter.format(&insn, &mut text);
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        out.push_str(&format!("  {:08x}  {:<32} {text}\n", case.origin + u64::from(pair[0]), hex.join(" ")));
    }
    out
}

/// The registers a case starts from.
pub fn start(case: &Case) -> String {
    let s = &case.start;
    let pages: Vec<String> = case.setting.pages.iter().map(|rights| format!("{:x}", rights.0 & 0xfff)).collect();
    let mut out = format!("  {:?}, pages {}, CR0 ^{:x}, CR4 ^{:x}\n", case.ring, pages.join(" "), case.setting.cr0, case.setting.cr4);
    for (i, chunk) in s.gpr.chunks(4).enumerate() {
        let values: Vec<String> = chunk.iter().enumerate().map(|(j, v)| format!("r{}={v:x}", 4 * i + j)).collect();
        out.push_str(&format!("  {}\n", values.join(" ")));
    }
    out.push_str(&format!("  rflags={:x} mxcsr={:x} x87 control={:x} status={:x} in use={:x}\n", s.rflags, s.mxcsr, s.x87.control, s.x87.status, s.x87.in_use));
    for (i, v) in s.xmm.iter().enumerate().filter(|(_, v)| **v != 0) {
        out.push_str(&format!("  xmm{i}={v:032x}\n"));
    }
    for (i, v) in s.upper.iter().enumerate().filter(|(_, v)| **v != 0) {
        out.push_str(&format!("  upper{i}={v:032x}\n"));
    }
    for i in 0..8 {
        if s.x87.st(i) != 0 {
            out.push_str(&format!("  st{i}={:020x}\n", s.x87.st(i)));
        }
    }
    out
}
