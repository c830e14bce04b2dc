//! The PHY behind MDIC (§10.2.2.7, IEEE 802.3 §22.2.4) and the NVM's words (§6.1).

use std::collections::BTreeMap;

use sim_bus::{Fields, Nanos};

/// Auto-negotiation takes this long. On a wire it is two to three seconds; nobody learns anything from waiting for them.
pub const NEGOTIATION_NS: Nanos = 100_000_000;
/// Our PHY's address.
const ADDRESS: u32 = 1;

const CONTROL: u8 = 0;
const STATUS: u8 = 1;
const PAGE: u8 = 22;
const CONTROL_RESET: u16 = 1 << 15;
const CONTROL_NEGOTIATE: u16 = 1 << 12;
const CONTROL_POWER_DOWN: u16 = 1 << 11;
const CONTROL_RESTART: u16 = 1 << 9;
/// Everything up to 100 Mbit/s full duplex, extended status, auto-negotiation, extended registers.
const STATUS_CAN: u16 = 0x7949;
const STATUS_LINK: u16 = 1 << 2;
const STATUS_NEGOTIATED: u16 = 1 << 5;
/// Registers that are the same on every page.
const COMMON: u8 = 16;
/// Written registers of other pages that are remembered.
const OTHERS_MAX: usize = 64;

const MDIC_READY: u32 = 1 << 28;
const MDIC_ERROR: u32 = 1 << 30;

/// The PHY.
#[derive(Clone, Debug)]
pub struct Phy {
    registers: [u16; 32],
    /// Of other pages: page, register, value.
    others: BTreeMap<(u16, u8), u16>,
    /// The cable carries a link.
    pub cable: bool,
    /// Negotiation is done at this time.
    pub done_at: Nanos,
}

impl Phy {
    pub fn new(cable: bool) -> Self {
        let mut phy = Self { registers: [0; 32], others: BTreeMap::new(), cable, done_at: NEGOTIATION_NS };
        phy.reset(0);
        phy
    }

    pub fn reset(&mut self, now: Nanos) {
        self.registers = [0; 32];
        self.registers[usize::from(CONTROL)] = 0x1140; // auto-negotiation, full duplex, 1000 Mbit/s
        self.registers[2] = 0x0141; // identifier: the 82574's own
        self.registers[3] = 0x0cb1;
        self.registers[4] = 0x0de1; // what we advertise
        self.registers[9] = 0x0300;
        self.registers[15] = 0x3000; // extended status: 1000BASE-T
        self.registers[16] = 0x0068;
        self.others.clear();
        self.done_at = now.saturating_add(NEGOTIATION_NS);
    }

    /// Whether there is a link now.
    pub fn is_up(&self, now: Nanos) -> bool {
        self.cable && now >= self.done_at && self.registers[usize::from(CONTROL)] & CONTROL_POWER_DOWN == 0
    }

    /// The cable came or went.
    pub fn plug(&mut self, cable: bool, now: Nanos) {
        if cable && !self.cable {
            self.done_at = now.saturating_add(NEGOTIATION_NS);
        }
        self.cable = cable;
    }

    /// `None`: a register of a page that nobody wrote.
    fn read(&self, register: u8, now: Nanos) -> Option<u16> {
        let up = self.is_up(now);
        let page = self.registers[usize::from(PAGE)];
        Some(match register {
            STATUS => STATUS_CAN | if up { STATUS_LINK | STATUS_NEGOTIATED } else { 0 },
            5 if up => 0xcde1,                  // the partner can all of it
            10 if up => 0x7800,                 // 1000BASE-T: master, both receivers good, partner can
            6 if up => 0x000f,                  // expansion: negotiated
            5 | 6 | 10 => 0,
            17 if page == 0 && up => 0xac48,    // 1000 Mbit/s, full duplex, resolved, link, short cable
            17 if page == 0 => 0,
            COMMON..=31 if register != PAGE && page != 0 => *self.others.get(&(page, register))?,
            _ => self.registers[usize::from(register & 31)],
        })
    }

    fn write(&mut self, register: u8, value: u16, now: Nanos) {
        let page = self.registers[usize::from(PAGE)];
        match register {
            CONTROL => {
                let before = self.registers[0];
                if value & CONTROL_RESET != 0 {
                    self.done_at = now.saturating_add(NEGOTIATION_NS);
                }
                let woke = before & CONTROL_POWER_DOWN != 0 && value & CONTROL_POWER_DOWN == 0;
                if value & CONTROL_NEGOTIATE != 0 && value & CONTROL_RESTART != 0 || woke {
                    self.done_at = now.saturating_add(NEGOTIATION_NS);
                }
                self.registers[0] = value & !(CONTROL_RESET | CONTROL_RESTART);
            }
            // Status, identifiers, the partner's abilities: read only.
            STATUS | 2 | 3 | 5 | 6 | 10 | 15 | 17 => {}
            COMMON..=31 if register != PAGE && page != 0 => {
                if self.others.len() < OTHERS_MAX || self.others.contains_key(&(page, register)) {
                    self.others.insert((page, register), value);
                }
            }
            _ => self.registers[usize::from(register & 31)] = value,
        }
    }

    /// Carries out a command; says what MDIC reads then, and whether the register exists.
    pub fn command(&mut self, command: u32, now: Nanos) -> (u32, bool) {
        let register = (command >> 16 & 31) as u8;
        let result = command & !(MDIC_READY | MDIC_ERROR | 0xffff);
        if command >> 21 & 31 != ADDRESS {
            return (result | MDIC_READY | MDIC_ERROR | 0xffff, true);
        }
        match command >> 26 & 3 {
            1 => {
                self.write(register, command as u16, now);
                (result | MDIC_READY | command & 0xffff, true)
            }
            2 => {
                let value = self.read(register, now);
                (result | MDIC_READY | u32::from(value.unwrap_or(0)), value.is_some())
            }
            _ => (result | MDIC_READY | MDIC_ERROR, true),
        }
    }

    pub fn state(&mut self, fields: &mut dyn Fields) {
        for register in &mut self.registers {
            fields.u16("phy", register);
        }
        let mut others: Vec<u8> = self.others.iter().flat_map(|((page, register), value)| [&page.to_le_bytes()[..], &[*register], &value.to_le_bytes()].concat()).collect();
        fields.bytes("phy_pages", &mut others);
        let rows = others.chunks_exact(5).take(OTHERS_MAX);
        self.others = rows.map(|row| ((u16::from_le_bytes([row[0], row[1]]), row[2]), u16::from_le_bytes([row[3], row[4]]))).collect();
        fields.flag("cable", &mut self.cable);
        fields.u64("negotiated_at", &mut self.done_at);
    }
}

/// Words of the NVM.
pub const NVM_WORDS: usize = 64;

/// An NVM with its checksum (§6.1.2.2: words 0 to 0x3f add up to 0xbaba).
pub fn nvm(mac: [u8; 6]) -> [u16; NVM_WORDS] {
    let mut words = [0xffff; NVM_WORDS];
    for (word, bytes) in words.iter_mut().zip(mac.chunks_exact(2)) {
        *word = u16::from_le_bytes([bytes[0], bytes[1]]);
    }
    words[0x03] = 0; // compatibility
    words[0x05] = 0x2010; // version
    words[0x08] = 0x0000; // part number
    words[0x09] = 0x0001;
    words[0x0a] = 0x026b; // initialisation control 1
    words[0x0b] = 0x0000;
    words[0x0c] = 0x8086;
    words[0x0d] = 0x10d3;
    words[0x0f] = 0x0000; // initialisation control 2: no management
    words[0x14] = 0x0000; // initialisation control 3: no wake-up
    words[0x24] = 0x0000;
    let sum = words[..NVM_WORDS - 1].iter().fold(0u16, |sum, word| sum.wrapping_add(*word));
    words[NVM_WORDS - 1] = 0xbabau16.wrapping_sub(sum);
    words
}
