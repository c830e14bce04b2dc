//! Firmware configuration device of QEMU, minimal: signature, features, RAM size, CPU count, and an empty file directory.
//!
//! # Theory
//! QEMU `docs/specs/fw_cfg`: a 16-bit selector at 0x510 and a byte stream at 0x511. Each select rewinds. Reads past the end give zeros.
//!
//! # Limits
//! The DMA interface is not offered (feature bit 1 is clear). Writes to data are ignored, as QEMU has done since 2.4.

use sim_bus::{Access, Cx, Fields, Node, Region, Reset, Token};

/// Signature, features, RAM, CPUs, CPUs at most, directory.
const ITEMS: [u16; 6] = [0x00, 0x01, 0x03, 0x05, 0x0f, 0x19];

/// The device.
#[derive(Clone, Debug)]
pub struct FwCfg {
    ram_bytes: u64,
    vcpus: u16,
    selector: u16,
    position: u64,
}

impl FwCfg {
    pub fn new(ram_bytes: u64, vcpus: u16) -> Self {
        Self { ram_bytes, vcpus, selector: 0, position: 0 }
    }

    fn byte(&self) -> u8 {
        let item: [u8; 8] = match self.selector {
            0x0000 => *b"QEMU\0\0\0\0",
            0x0001 => 1u64.to_le_bytes(),
            0x0003 => self.ram_bytes.to_le_bytes(),
            // CPUs now, and at most.
            0x0005 | 0x000f => u64::from(self.vcpus).to_le_bytes(),
            // File directory: a big-endian count of zero. Everything else is absent and reads as zeros, too.
            _ => [0; 8],
        };
        usize::try_from(self.position).ok().and_then(|position| item.get(position)).copied().unwrap_or(0)
    }
}

impl Node for FwCfg {
    fn kind(&self) -> &'static str {
        "fw-cfg"
    }
    fn read(&mut self, region: Region, offset: u64, size: u8, cx: &mut Cx<'_>) -> u64 {
        match (offset, size) {
            (1, 1) => {
                let byte = self.byte();
                self.position = self.position.saturating_add(1);
                u64::from(byte)
            }
            (0, 2) => u64::from(self.selector),
            _ => {
                cx.unimplemented(Access::read(region, offset, size));
                0
            }
        }
    }
    fn write(&mut self, region: Region, offset: u64, size: u8, value: u64, cx: &mut Cx<'_>) {
        match (offset, size) {
            (0, 2) => {
                self.selector = value as u16;
                self.position = 0;
                if !ITEMS.contains(&self.selector) {
                    // It reads as zeros, as the specification says; but somebody wanted something.
                    cx.unimplemented(Access::write(region, offset, size, value));
                }
            }
            (1, 1) => {}
            _ => cx.unimplemented(Access::write(region, offset, size, value)),
        }
    }
    fn event(&mut self, _what: Token, _cx: &mut Cx<'_>) {}
    fn input(&mut self, _cx: &mut Cx<'_>) {}
    fn reset(&mut self, _how: Reset, _cx: &mut Cx<'_>) {
        self.selector = 0;
        self.position = 0;
    }
    fn state(&mut self, fields: &mut dyn Fields) {
        fields.u16("selector", &mut self.selector);
        fields.u64("position", &mut self.position);
    }
}

#[cfg(test)]
mod tests {
    use sim_bus::bench::Bench;

    use super::FwCfg;

    fn item(bench: &mut Bench<FwCfg>, selector: u64, length: usize) -> Vec<u8> {
        bench.write(0, 0, 2, selector);
        (0..length).map(|_| bench.read(0, 1, 1) as u8).collect()
    }

    #[test]
    fn items() {
        let mut bench = Bench::new(FwCfg::new(256 << 20, 4));
        assert_eq!(item(&mut bench, 0, 6), b"QEMU\0\0");
        assert_eq!(item(&mut bench, 3, 8), (256u64 << 20).to_le_bytes());
        assert_eq!(item(&mut bench, 5, 2), [4, 0]);
        assert_eq!(item(&mut bench, 0x19, 4), [0; 4], "no files");
        assert!(bench.take().is_empty());
        assert_eq!(item(&mut bench, 0x15, 4), [0; 4], "no command line");
        assert!(matches!(bench.take()[..], [sim_bus::Effect::Unimplemented(_)]));
    }
}
