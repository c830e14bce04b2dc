//! What surrounds a case: the rights of its pages and the control bits that decide about them.

use crate::rng::Rng;

/// Rights of one page, as the bits of its page-table entry (APM vol. 2 §5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights(pub u64);

impl Rights {
    pub const PRESENT: u64 = 1;
    pub const WRITE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    pub const ACCESSED: u64 = 1 << 5;
    pub const DIRTY: u64 = 1 << 6;
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// Readable and writable data of users, already touched.
    pub const DATA: Rights = Rights(Self::PRESENT | Self::WRITE | Self::USER | Self::ACCESSED | Self::DIRTY | Self::NO_EXECUTE);
    /// The same, but read-only.
    pub const CONSTANT: Rights = Rights(Self::PRESENT | Self::USER | Self::ACCESSED | Self::DIRTY | Self::NO_EXECUTE);

    pub fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }
}

/// The setting of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The three pages of the arena and the stack.
    pub pages: [Rights; 4],
    /// Bits of CR0 that are not as they mostly are (exclusive or).
    pub cr0: u64,
    /// The same for CR4.
    pub cr4: u64,
}

impl Default for Setting {
    fn default() -> Setting {
        Setting { pages: [Rights::DATA, Rights::DATA, Rights::CONSTANT, Rights::DATA], cr0: 0, cr4: 0 }
    }
}

const WP: u64 = 1 << 16;
const SMEP: u64 = 1 << 20;
const SMAP: u64 = 1 << 21;

impl Setting {
    /// What a process can ask its kernel for: readable, writable, or nothing at all. Never executable: what lies in the arena is random, and a
    /// system call may be among it.
    pub fn of_process(rng: &mut Rng) -> Setting {
        let mut setting = Setting::default();
        for page in &mut setting.pages {
            if rng.one_in(3) {
                // The kernel's page tables set and clear A and D as it likes: they stand from the start.
                page.0 = Rights::USER | Rights::ACCESSED | Rights::DIRTY
                    | Rights::NO_EXECUTE
                    | rng.pick(&[0, Rights::PRESENT, Rights::PRESENT | Rights::WRITE]);
            }
        }
        // A stack that is not there ends most cases at once.
        if !setting.pages[3].has(Rights::PRESENT) && !rng.one_in(4) {
            setting.pages[3] = Rights::DATA;
        }
        setting
    }

    /// Anything page tables can say about data, and the control bits that change what it means.
    pub fn of_system(rng: &mut Rng) -> Setting {
        let mut setting = Setting::default();
        for page in &mut setting.pages {
            if rng.one_in(2) {
                page.0 = Rights::NO_EXECUTE | rng.draw() & (Rights::PRESENT | Rights::WRITE | Rights::USER | Rights::ACCESSED | Rights::DIRTY);
                if !rng.one_in(5) {
                    page.0 |= Rights::PRESENT;
                }
                // A writable entry that is dirty but not accessed is nothing a processor makes.
                if !page.has(Rights::ACCESSED) {
                    page.0 &= !Rights::DIRTY;
                }
            }
        }
        if !setting.pages[3].has(Rights::PRESENT | Rights::WRITE) && !rng.one_in(4) {
            setting.pages[3] = Rights::DATA;
        }
        if rng.one_in(3) {
            setting.cr0 = WP;
        }
        // The code pages are the users', so that SMEP would end every case of ring 0 at its first instruction: seldom.
        if rng.one_in(32) {
            setting.cr4 |= SMEP;
        }
        if rng.one_in(6) {
            setting.cr4 |= SMAP;
        }
        setting
    }
}
