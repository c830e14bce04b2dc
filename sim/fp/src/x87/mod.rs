//! x87 state.
/// x87 registers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct X87 {
    /// Physical registers R0 to R7: 80 bits each.
    pub regs: [u128; 8],
    pub control: u16,
    /// TOP is in bits 11 to 13.
    pub status: u16,
    /// Bit n set: Rn is in use (the abridged tag of FXSAVE).
    pub in_use: u8,
    pub opcode: u16,
    pub ip: u64,
    pub dp: u64,
}

impl Default for X87 {
    fn default() -> X87 {
        X87 { regs: [0; 8], control: 0x37f, status: 0, in_use: 0, opcode: 0, ip: 0, dp: 0 }
    }
}
