//! PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (SDM vol. 2, "Imm8 control byte operation").

/// Everything the four instructions can deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringResult {
    /// For ECX.
    pub index: u32,
    /// For XMM0.
    pub mask: u128,
    /// CF, ZF, SF, OF as in EFLAGS; AF and PF are clear.
    pub flags: u32,
}

/// Lengths in elements: explicit ones are the saturated magnitudes of EAX/EDX (RAX/RDX), implicit ones end at a zero element.
pub fn explicit_length(register: i64, imm: u8) -> usize {
    let elements: u64 = if imm & 1 == 1 { 8 } else { 16 };
    register.unsigned_abs().min(elements) as usize
}

/// See [`explicit_length`].
pub fn implicit_length(value: u128, imm: u8) -> usize {
    let (elements, _) = shape(imm);
    (0..elements).find(|&i| element(value, i, imm & 1) == 0).unwrap_or(elements)
}

fn shape(imm: u8) -> (usize, bool) {
    (if imm & 1 == 1 { 8 } else { 16 }, imm & 2 != 0)
}

fn element(value: u128, index: usize, imm: u8) -> i32 {
    let (words, signed) = (imm & 1 == 1, imm & 2 != 0);
    match (words, signed) {
        (false, false) => i32::from((value >> (8 * index)) as u8),
        (false, true) => i32::from((value >> (8 * index)) as i8),
        (true, false) => i32::from((value >> (16 * index)) as u16),
        (true, true) => i32::from((value >> (16 * index)) as i16),
    }
}

/// Compares; `first` is the destination operand, `second` the source, with their lengths.
pub fn compare(first: u128, second: u128, first_length: usize, second_length: usize, imm: u8) -> StringResult {
    let (elements, _) = shape(imm);
    let a = |i: usize| element(first, i, imm);
    let b = |i: usize| element(second, i, imm);
    let mut bits = 0u32;
    for j in 0..elements {
        let valid = j < second_length;
        let set = match imm >> 2 & 3 {
            0 => valid && (0..first_length).any(|i| a(i) == b(j)),
            1 => valid && (0..first_length / 2).any(|i| a(2 * i) <= b(j) && b(j) <= a(2 * i + 1)),
            2 => match (j < first_length, valid) {
                (true, true) => a(j) == b(j),
                (false, false) => true,
                _ => false,
            },
            _ => (0..elements - j).all(|i| i >= first_length || (i + j < second_length && a(i) == b(i + j))),
        };
        bits |= u32::from(set) << j;
    }
    let all = (1u32 << elements) - 1;
    let bits = match imm >> 4 & 3 {
        1 => bits ^ all,
        3 => bits ^ ((1u32 << second_length) - 1),
        _ => bits,
    };
    let index = match (bits, imm & 0x40 != 0) {
        (0, _) => elements as u32,
        (_, true) => 31 - bits.leading_zeros(),
        (_, false) => bits.trailing_zeros(),
    };
    let mask = if imm & 0x40 == 0 {
        u128::from(bits)
    } else {
        let width = 128 / elements;
        (0..elements).filter(|i| bits >> i & 1 == 1).fold(0, |acc, i| acc | (u128::MAX >> (128 - width)) << (i * width))
    };
    let flags = u32::from(bits != 0)
        | u32::from(second_length < elements) << 6
        | u32::from(first_length < elements) << 7
        | (bits & 1) << 11;
    StringResult { index, mask, flags }
}
