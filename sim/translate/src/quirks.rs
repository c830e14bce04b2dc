//! What the host's processor leaves in flags that the manuals call undefined.
//!
//! The interpreter has one rule for each (see `sim-cpu`'s flags). Where the host follows it, an instruction is translated as it is; where it does not, only
//! if nobody can see the flags before they are written again. So receipts do not depend on the processor.

use std::arch::asm;

/// Which classes the host does by the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quirks {
    /// AND, OR, XOR, TEST: AF 0.
    pub logic: bool,
    /// SHL, SHR, SAR: AF 1 and OF as for a count of one, unless the count is zero.
    pub shifts: bool,
    /// ROL, ROR: OF by the rule for a count of one.
    pub rotates: bool,
    /// BT and its kin: all but CF unchanged.
    pub bit_tests: bool,
    /// TZCNT, LZCNT: all but CF and ZF clear.
    pub counts: bool,
    pub has_tzcnt: bool,
    pub has_lzcnt: bool,
    /// BSF, BSR: flags of a logic result.
    pub scans: bool,
    /// BSF, BSR of zero leave all of the destination as it was.
    pub scans_keep: bool,
}

const CF: u64 = 1;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
const ALL: u64 = CF | PF | AF | ZF | SF | OF;

/// Runs one instruction on RAX with a count in RCX and flags; the result and the flags.
macro_rules! run {
    ($text:expr, $value:expr, $count:expr, $flags:expr) => {{
        let (mut value, mut flags): (u64, u64) = ($value, $flags | 2);
        // SAFETY: the instruction works on RAX and RCX; flags go in and out through the stack and are arithmetic ones only.
        unsafe {
            asm!("push {flags}", "popfq", $text, "pushfq", "pop {flags}", flags = inout(reg) flags, inout("rax") value, in("rcx") $count);
        }
        (value, flags & ALL)
    }};
}

const VALUES: [u64; 8] = [0, 1, 0x8000_0000_0000_0000, u64::MAX, 0x8123_4567_89ab_cdef, 0x0055_aa00_ff80_7f01, 0x4000_0000_4000_4040, 0x7fff_ffff_8000_8080];
const COUNTS: [u64; 12] = [0, 1, 2, 5, 7, 8, 9, 15, 17, 31, 33, 63];
const FLAGS: [u64; 2] = [0, ALL];

fn of_result(value: u64, bits: u32) -> u64 {
    let value = value << (64 - bits) >> (64 - bits);
    let mut flags = 0;
    if value == 0 {
        flags |= ZF;
    }
    if value >> (bits - 1) != 0 {
        flags |= SF;
    }
    if (value as u8).count_ones() & 1 == 0 {
        flags |= PF;
    }
    flags
}

fn when(on: bool, flag: u64) -> u64 {
    if on { flag } else { 0 }
}

/// Checks SHL, SHR, SAR, ROL and ROR of one size; whether shifts and rotates follow the rules.
macro_rules! of_size {
    ($reg:literal, $bits:literal) => {{
        let (mut shifts, mut rotates) = (true, true);
        let mask = u64::MAX >> (64 - $bits);
        for value in VALUES {
            for raw in COUNTS {
                for flags in FLAGS {
                    let count = raw & if $bits == 64 { 63 } else { 31 };
                    let v = value & mask;
                    let top = |x: u64| x >> ($bits - 1) & 1 != 0;
                    let (_, shl) = run!(concat!("shl ", $reg, ", cl"), value, raw, flags);
                    let (_, shr) = run!(concat!("shr ", $reg, ", cl"), value, raw, flags);
                    let (_, sar) = run!(concat!("sar ", $reg, ", cl"), value, raw, flags);
                    let (_, rol) = run!(concat!("rol ", $reg, ", cl"), value, raw, flags);
                    let (_, ror) = run!(concat!("ror ", $reg, ", cl"), value, raw, flags);
                    if count == 0 {
                        shifts &= [shl, shr, sar] == [flags; 3];
                        rotates &= [rol, ror] == [flags; 2];
                        continue;
                    }
                    let res = if count >= $bits { 0 } else { v << count & mask };
                    let carry = count <= $bits && v >> ($bits - count) & 1 != 0;
                    shifts &= shl == of_result(res, $bits) | AF | when(carry, CF) | when(top(res) != carry, OF);
                    let res = if count >= 64 { 0 } else { v >> count };
                    let carry = v >> (count - 1) & 1 != 0;
                    shifts &= shr == of_result(res, $bits) | AF | when(carry, CF) | when((res << 1 ^ res) >> ($bits - 1) & 1 != 0, OF);
                    let signed = (v << (64 - $bits)) as i64 >> (64 - $bits);
                    shifts &= sar == of_result((signed >> count) as u64, $bits) | AF | when(signed >> (count - 1) & 1 != 0, CF);
                    let turn = count % $bits;
                    let left = if turn == 0 { v } else { (v << turn | v >> ($bits - turn)) & mask };
                    let right = if turn == 0 { v } else { (v >> turn | v << ($bits - turn)) & mask };
                    let kept = flags & !(CF | OF);
                    rotates &= rol == kept | when(left & 1 != 0, CF) | when(top(left) != (left & 1 != 0), OF);
                    rotates &= ror == kept | when(top(right), CF) | when(top(right) != (right >> ($bits - 2) & 1 != 0), OF);
                }
            }
        }
        (shifts, rotates)
    }};
}

/// A scan or count of RCX into RAX: the result and the flags.
fn scan(value: u64) -> [(u64, (u64, u64), u64); 4] {
    let result = |at: u32| if value == 0 { KEPT } else { u64::from(at) };
    let logic = |result: u64| if value == 0 { ZF | of_result(KEPT, 64) & !ZF } else { of_result(result, 64) & !ZF };
    let count = |count: u32| when(value == 0, CF) | when(count == 0, ZF);
    let (low, high) = (result(value.trailing_zeros()), result(value.leading_zeros() ^ 63));
    [
        (low, run!("bsf rax, rcx", KEPT, value, ALL), logic(low)),
        (high, run!("bsr rax, rcx", KEPT, value, ALL), logic(high)),
        (u64::from(value.trailing_zeros()), run!("tzcnt rax, rcx", KEPT, value, ALL), count(value.trailing_zeros())),
        (u64::from(value.leading_zeros()), run!("lzcnt rax, rcx", KEPT, value, ALL), count(value.leading_zeros())),
    ]
}

/// What the destination of a scan holds before.
const KEPT: u64 = 0x8765_4321_1234_5678;

impl Quirks {
    /// Asks the host.
    pub fn probe() -> Quirks {
        let sizes = [of_size!("al", 8), of_size!("ax", 16), of_size!("eax", 32), of_size!("rax", 64)];
        let (mut logic, mut bit_tests) = (true, true);
        for value in VALUES {
            for other in VALUES {
                for flags in FLAGS {
                    for (result, got) in [
                        (value & other, run!("and rax, rcx", value, other, flags).1),
                        (value | other, run!("or rax, rcx", value, other, flags).1),
                        (value ^ other, run!("xor rax, rcx", value, other, flags).1),
                        (value & other, run!("test rax, rcx", value, other, flags).1),
                    ] {
                        logic &= got == of_result(result, 64);
                    }
                    let expected = flags & !CF | when(value >> (other & 63) & 1 != 0, CF);
                    for got in [
                        run!("bt rax, rcx", value, other, flags).1,
                        run!("bts rax, rcx", value, other, flags).1,
                        run!("btr rax, rcx", value, other, flags).1,
                        run!("btc rax, rcx", value, other, flags).1,
                    ] {
                        bit_tests &= got == expected;
                    }
                }
            }
        }
        let (has_tzcnt, has_lzcnt) = (std::arch::is_x86_feature_detected!("bmi1"), std::arch::is_x86_feature_detected!("lzcnt"));
        let (mut counts, mut scans, mut scans_keep) = (has_tzcnt && has_lzcnt, true, true);
        for value in VALUES {
            let [low, high, trailing, leading] = scan(value);
            for (result, got, flags) in [low, high] {
                scans &= got == (result, flags);
                scans_keep &= got.0 == result;
            }
            for (result, got, flags) in [trailing, leading] {
                counts &= got == (result, flags);
            }
        }
        // The upper half of a 32-bit destination, too.
        scans_keep &= run!("bsf eax, ecx", KEPT, 0, 0).0 == KEPT && run!("bsr eax, ecx", KEPT, 0, 0).0 == KEPT;
        Quirks { counts, has_tzcnt, has_lzcnt, scans, scans_keep, logic, shifts: sizes.iter().all(|size| size.0), rotates: sizes.iter().all(|size| size.1), bit_tests }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_does_logic_by_the_rules() {
        // The others differ between vendors; this one is the same on every processor known.
        let quirks = Quirks::probe();
        eprintln!("{quirks:?}");
        assert!(quirks.logic);
    }
}
