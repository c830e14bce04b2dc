//! Register offsets (§10.1), and the registers that only hold what is written.

pub const CTRL: u32 = 0x0000;
pub const STATUS: u32 = 0x0008;
pub const EECD: u32 = 0x0010;
pub const EERD: u32 = 0x0014;
pub const CTRL_EXT: u32 = 0x0018;
pub const MDIC: u32 = 0x0020;
pub const VET: u32 = 0x0038;
pub const ICR: u32 = 0x00c0;
pub const ITR: u32 = 0x00c4;
pub const ICS: u32 = 0x00c8;
pub const IMS: u32 = 0x00d0;
pub const IMC: u32 = 0x00d8;
pub const EIAC: u32 = 0x00dc;
pub const IAM: u32 = 0x00e0;
pub const IVAR: u32 = 0x00e4;
pub const EITR: u32 = 0x00e8;
pub const RCTL: u32 = 0x0100;
pub const TCTL: u32 = 0x0400;
pub const EXTCNF_CTRL: u32 = 0x0f00;
pub const PBA: u32 = 0x1000;
pub const EEMNGCTL: u32 = 0x1010;
pub const EEWR: u32 = 0x102c;
pub const RDBAL: u32 = 0x2800;
pub const RDBAH: u32 = 0x2804;
pub const RDLEN: u32 = 0x2808;
pub const RDH: u32 = 0x2810;
pub const RDT: u32 = 0x2818;
pub const RDTR: u32 = 0x2820;
pub const RXDCTL: u32 = 0x2828;
pub const RADV: u32 = 0x282c;
pub const TDBAL: u32 = 0x3800;
pub const TDBAH: u32 = 0x3804;
pub const TDLEN: u32 = 0x3808;
pub const TDH: u32 = 0x3810;
pub const TDT: u32 = 0x3818;
pub const TIDV: u32 = 0x3820;
pub const TXDCTL: u32 = 0x3828;
pub const TADV: u32 = 0x382c;
pub const STATISTICS: u32 = 0x4000;
pub const STATISTICS_END: u32 = 0x4128;
pub const RXCSUM: u32 = 0x5000;
pub const RFCTL: u32 = 0x5008;
pub const MTA: u32 = 0x5200;
pub const RAL: u32 = 0x5400;
pub const RAH: u32 = 0x5404;
pub const VFTA: u32 = 0x5600;
pub const MRQC: u32 = 0x5818;
pub const FACTPS: u32 = 0x5b30;
pub const SWSM: u32 = 0x5b50;
pub const FWSM: u32 = 0x5b54;
pub const SYSTIML: u32 = 0xb600;
pub const SYSTIMH: u32 = 0xb604;
pub const TIMINCA: u32 = 0xb608;

pub const CTRL_MASTER_DISABLE: u32 = 1 << 2;
pub const CTRL_SET_LINK_UP: u32 = 1 << 6;
pub const CTRL_RESET: u32 = 1 << 26;
pub const CTRL_VLAN_MODE: u32 = 1 << 30;
pub const CTRL_PHY_RESET: u32 = 1 << 31;
pub const RCTL_ENABLE: u32 = 1 << 1;
pub const RCTL_UNICAST_ALL: u32 = 1 << 3;
pub const RCTL_MULTICAST_ALL: u32 = 1 << 4;
pub const RCTL_LONG: u32 = 1 << 5;
pub const RCTL_BROADCAST: u32 = 1 << 15;
pub const RCTL_VLAN_FILTER: u32 = 1 << 18;
pub const RCTL_SIZE_EXTENSION: u32 = 1 << 25;
pub const RCTL_STRIP_CRC: u32 = 1 << 26;
pub const RCTL_TYPE: u32 = 3 << 10;
pub const TCTL_ENABLE: u32 = 1 << 1;
pub const RFCTL_EXTENDED: u32 = 1 << 15;
pub const RXCSUM_IP: u32 = 1 << 8;
pub const RXCSUM_PAYLOAD: u32 = 1 << 9;

/// A run of registers that hold what is written: first offset, how many, which bits can be written, value after reset.
struct Plain(u32, u32, u32, u32);

/// In order of offset. Those that mean something to the model are read where it does.
const PLAIN: &[Plain] = &[
    Plain(CTRL, 1, !(CTRL_RESET | CTRL_PHY_RESET), 1),
    Plain(CTRL_EXT, 1, !0, 0x0010_0000),
    Plain(0x0028, 1, !0, 0x00c2_8001), // FCAL
    Plain(0x002c, 1, !0, 0x100),       // FCAH
    Plain(0x0030, 1, !0, 0x8808),      // FCT
    Plain(VET, 1, 0xffff, 0x8100),
    Plain(ITR, 1, 0xffff, 0),
    Plain(EIAC, 1, 0x01f0_0000, 0),
    Plain(IAM, 1, !0, 0),
    Plain(IVAR, 1, 0x800f_ffff, 0),
    Plain(EITR, 5, 0xffff, 0),
    Plain(RCTL, 1, !0, 0),
    Plain(0x0170, 1, !0, 0), // FCTTV
    Plain(TCTL, 1, !0, 0),
    Plain(0x0404, 1, !0, 0x0004_2000), // TCTL_EXT
    Plain(0x0410, 1, !0, 0x0060_2006), // TIPG
    Plain(0x0458, 1, !0, 0),           // AIT
    Plain(0x0e00, 1, !0, 0x0706_8402), // LEDCTL
    Plain(EXTCNF_CTRL, 1, 0x20, 0),    // MDIO software ownership
    Plain(0x0f10, 1, !0, 0),           // POEMB
    Plain(PBA, 1, 0xffff, 0x0014_0014),
    Plain(0x1008, 1, !0, 0),        // PBS
    Plain(0x100c, 1, !0, 0),        // PBECCSTS
    Plain(EEMNGCTL, 1, 0, 1 << 18), // configuration done
    Plain(0x2160, 1, !0, 0),        // FCRTL
    Plain(0x2168, 1, !0, 0),        // FCRTH
    Plain(0x2170, 1, !0, 0),        // PSRCTL
    Plain(RDBAL, 1, !0xf, 0),
    Plain(RDBAH, 1, !0, 0),
    Plain(RDLEN, 1, 0xf_ff80, 0),
    Plain(RDH, 1, 0xffff, 0),
    Plain(RDT, 1, 0xffff, 0),
    Plain(RDTR, 1, 0xffff, 0),
    Plain(RXDCTL, 1, !0, 0x0101_0000),
    Plain(RADV, 1, 0xffff, 0),
    Plain(0x2928, 1, !0, 0x0101_0000), // RXDCTL1
    Plain(0x2c00, 1, !0, 0), // RSRPD
    Plain(0x2c08, 1, !0, 0), // RAID
    Plain(TDBAL, 1, !0xf, 0),
    Plain(TDBAH, 1, !0, 0),
    Plain(TDLEN, 1, 0xf_ff80, 0),
    Plain(TDH, 1, 0xffff, 0),
    Plain(TDT, 1, 0xffff, 0),
    Plain(TIDV, 1, 0xffff, 0),
    Plain(TXDCTL, 1, !0, 0),
    Plain(TADV, 1, 0xffff, 0),
    Plain(0x3840, 1, !0, 0x0000_0403), // TARC0
    Plain(0x3928, 1, !0, 0),           // TXDCTL1: set up by drivers that do not use the queue
    Plain(0x3940, 1, !0, 0x0000_0403), // TARC1
    Plain(RXCSUM, 1, !0, 0),
    Plain(RFCTL, 1, !0, 0),
    Plain(MTA, 128, !0, 0),
    Plain(RAL, 32, !0, 0),
    Plain(VFTA, 128, !0, 0),
    Plain(0x5800, 1, !0, 0), // WUC
    Plain(0x5808, 1, !0, 0), // WUFC
    Plain(0x5810, 1, 0, 0),  // WUS
    Plain(MRQC, 1, !0, 0),
    Plain(0x5820, 1, !0, 0), // MANC
    Plain(0x5860, 1, !0, 0), // MANC2H
    Plain(0x5b00, 1, !0, 0), // GCR
    Plain(FACTPS, 1, 0, 0),
    Plain(SWSM, 1, 0xb, 0),
    Plain(FWSM, 1, 0, 0),
    Plain(0x5b5c, 1, !0, 0), // SW_FW_SYNC
    Plain(0x5b64, 1, !0, 0), // GCR2
    Plain(0x5c00, 32, !0, 0), // RETA
    Plain(0x5c80, 10, !0, 0), // RSSRK
    Plain(TIMINCA, 1, !0, 0),
    Plain(0xb614, 1, !0, 0), // TSYNCTXCTL
    Plain(0xb618, 2, 0, 0),  // TXSTMPL, TXSTMPH: no packet is stamped
    Plain(0xb620, 1, !0, 0), // TSYNCRXCTL
    Plain(0xb624, 4, 0, 0),  // RXSTMPL, RXSTMPH, RXSATRL, RXSATRH
    Plain(0xb634, 1, !0, 0), // RXMTRL
    Plain(0xb638, 1, !0, 0), // RXUDP
];

/// Values of the plain registers.
#[derive(Clone, Debug)]
pub struct Registers {
    values: Vec<u32>,
    /// Where each row's values begin.
    starts: Vec<usize>,
}

impl Default for Registers {
    fn default() -> Self {
        let values = PLAIN.iter().flat_map(|&Plain(_, count, _, reset)| std::iter::repeat_n(reset, count as usize)).collect();
        let starts = PLAIN
            .iter()
            .scan(0, |start, &Plain(_, count, _, _)| {
                let own = *start;
                *start += count as usize;
                Some(own)
            })
            .collect();
        Self { values, starts }
    }
}

impl Registers {
    /// Position and row of a register.
    fn find(&self, offset: u32) -> Option<(usize, &'static Plain)> {
        let row = PLAIN.partition_point(|&Plain(first, ..)| first <= offset).checked_sub(1)?;
        let &Plain(first, count, _, _) = &PLAIN[row];
        let index = (offset - first) / 4;
        (index < count && offset.is_multiple_of(4)).then(|| (self.starts[row] + index as usize, &PLAIN[row]))
    }
    /// The value; zero for a register that is not plain.
    pub fn get(&self, offset: u32) -> u32 {
        self.find(offset).map_or(0, |(position, _)| self.values[position])
    }
    /// The value of a plain register.
    pub fn read(&self, offset: u32) -> Option<u32> {
        self.find(offset).map(|(position, _)| self.values[position])
    }
    /// Sets the bits that software may set. `false`: the register is not plain.
    pub fn write(&mut self, offset: u32, value: u32) -> bool {
        match self.find(offset) {
            Some((position, &Plain(_, _, mask, _))) => {
                self.values[position] = self.values[position] & !mask | value & mask;
                true
            }
            None => false,
        }
    }
    /// Sets all bits.
    pub fn set(&mut self, offset: u32, value: u32) {
        if let Some((position, _)) = self.find(offset) {
            self.values[position] = value;
        }
    }
    /// A ring's base address.
    pub fn wide(&self, low: u32, high: u32) -> u64 {
        u64::from(self.get(low)) | u64::from(self.get(high)) << 32
    }
    pub fn state(&mut self, fields: &mut dyn sim_bus::Fields) {
        let mut bytes: Vec<u8> = self.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        fields.array("registers", &mut bytes);
        for (value, word) in self.values.iter_mut().zip(bytes.chunks_exact(4)) {
            *value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        }
    }
}
