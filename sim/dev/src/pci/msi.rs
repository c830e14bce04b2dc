//! MSI: one message, its address and data in configuration space (PCI 3.0 §6.8.1).

use sim_bus::Cx;

use super::Function;

const CAPABILITY: u8 = 0x05;
const CONTROL: usize = 2;
const CONTROL_ENABLE: u8 = 1 << 0;
/// 64-bit address capable, one message, no masks.
const CONTROL_WIDE: u8 = 1 << 7;
const ADDRESS: usize = 4;
const DATA: usize = 12;

/// The one message of a function. All its state is in the configuration space.
#[derive(Clone, Copy, Debug)]
pub struct Msi {
    capability: usize,
}

impl Msi {
    /// Adds the capability to `function`.
    pub fn new(function: &mut Function) -> Self {
        let mut body = [0; 12];
        body[0] = CONTROL_WIDE;
        let mut mask = [0xff; 12];
        // Enable, and the count of messages in use (§6.8.1.3); the address is a multiple of four.
        mask[0] = CONTROL_ENABLE | 0x70;
        mask[1] = 0;
        mask[2] = 0xfc;
        Self { capability: function.add_capability(CAPABILITY, &body, &mask) }
    }

    /// Whether software has turned it on.
    pub fn is_enabled(self, function: &Function) -> bool {
        function.byte(self.capability + CONTROL) & CONTROL_ENABLE != 0
    }

    /// Sends the message, if it is on and the function may.
    pub fn raise(self, function: &Function, cx: &mut Cx<'_>) {
        if self.is_enabled(function) && function.is_master() {
            let at = self.capability as u16;
            cx.msi(function.read(at + ADDRESS as u16, 8), function.read(at + DATA as u16, 2) as u32);
        }
    }
}
