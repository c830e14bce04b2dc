//! What both engines must read out of an instruction alike.

use iced_x86::{DecoderOptions, Instruction, Mnemonic as M};

/// 0F 18 to 0F 1F with any operand do nothing, as on hardware without the features that took some of them.
pub const DECODER_OPTIONS: u32 = DecoderOptions::FORCE_RESERVED_NOP;

/// The condition of a Jcc, SETcc or CMOVcc: the low four bits of its opcode.
pub fn condition(instruction: &Instruction) -> Option<u8> {
    // In the order of the opcodes, after "none".
    (instruction.condition_code() as u8).checked_sub(1)
}

/// Instructions that do nothing here, whatever their operand.
pub fn does_nothing(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Nop
            | M::Endbr32
            | M::Endbr64
            | M::Lfence
            | M::Mfence
            | M::Sfence
            | M::Prefetchnta
            | M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Prefetchw
            | M::Prefetch
            | M::Rdsspd
            | M::Rdsspq
            | M::Reservednop
    )
}

/// SSE instructions whose 16-byte operand in memory may lie anywhere.
pub fn is_unaligned(mnemonic: M) -> bool {
    matches!(mnemonic, M::Movups | M::Movupd | M::Movdqu | M::Lddqu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::Decoder;

    #[test]
    fn conditions_are_those_of_the_opcodes() {
        for code in 0..16u8 {
            for bytes in [&[0x70 | code, 0][..], &[0x0f, 0x90 | code, 0xc0], &[0x0f, 0x40 | code, 0xc0]] {
                assert_eq!(condition(&Decoder::new(64, bytes, 0).decode()), Some(code));
            }
        }
        assert_eq!(condition(&Decoder::new(64, &[0x90], 0).decode()), None);
    }
}
