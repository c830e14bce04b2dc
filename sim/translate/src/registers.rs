//! Where guest registers are while translated code runs.

use iced_x86::Register;

/// The host register that holds a guest register by number, or `None` for those in the frame.
pub(crate) fn host(number: usize) -> Option<usize> {
    match number {
        0 | 2 | 3 | 5..=10 => Some(number),
        1 => Some(14),
        4 => Some(15),
        _ => None,
    }
}

/// A general register by number and size in bytes, never AH to BH.
pub(crate) fn sized(number: usize, size: usize) -> Register {
    let number = number as u32;
    match size {
        1 if number < 4 => Register::AL + number,
        1 => Register::SPL + (number - 4),
        2 => Register::AX + number,
        4 => Register::EAX + number,
        _ => Register::RAX + number,
    }
}

/// Number of a general register.
pub(crate) fn number(register: Register) -> usize {
    register.full_register() as usize - Register::RAX as usize
}

/// AH, CH, DH, BH.
pub(crate) fn is_high(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        for n in 0..16 {
            for size in [1, 2, 4, 8] {
                let register = sized(n, size);
                assert_eq!((register.size(), number(register)), (size, n), "{register:?}");
                assert!(!is_high(register));
            }
        }
    }
}
