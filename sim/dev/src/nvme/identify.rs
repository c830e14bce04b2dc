//! Identify data structures (§5.15.2).

use super::chip::Controller;
use super::command::PAGE;
use super::log::ERRORS;

pub const FIRMWARE: &[u8; 8] = b"1.4     ";
/// The one namespace.
pub const NAMESPACE: u32 = 1;
/// Power of two of pages a command may move: 512 KiB.
const TRANSFER_PAGES_LOG2: u8 = 7;
const _: () = assert!(PAGE << TRANSFER_PAGES_LOG2 == super::command::TRANSFER_MAX);

fn text(bytes: &mut [u8], value: &str) {
    bytes.fill(b' ');
    for (byte, letter) in bytes.iter_mut().zip(value.bytes()) {
        *byte = letter;
    }
}

impl Controller {
    /// Identify controller (figure 247).
    pub(super) fn identify_controller(&self) -> Vec<u8> {
        let mut data = vec![0; PAGE as usize];
        data[0..2].copy_from_slice(&0x1b36u16.to_le_bytes());
        data[2..4].copy_from_slice(&0x1af4u16.to_le_bytes());
        text(&mut data[4..24], &format!("orrery-{}", self.disk.0));
        text(&mut data[24..64], "Orrery NVMe disk");
        data[64..72].copy_from_slice(FIRMWARE);
        data[72] = 3; // recommended arbitration burst: 8
        data[77] = TRANSFER_PAGES_LOG2;
        data[80..84].copy_from_slice(&super::regs::VERSION.to_le_bytes());
        data[111] = 1; // controller type: I/O
        data[258] = 3; // abort limit: 4
        data[259] = 3; // asynchronous event requests: 4
        data[260] = 0x03; // one firmware slot, read-only
        data[261] = 0x04; // log pages with extended data
        data[262] = ERRORS as u8 - 1;
        data[266..268].copy_from_slice(&343u16.to_le_bytes()); // warning temperature
        data[268..270].copy_from_slice(&353u16.to_le_bytes()); // critical temperature
        data[512] = 0x66; // submission entries of 64 bytes
        data[513] = 0x44; // completion entries of 16 bytes
        data[516..520].copy_from_slice(&1u32.to_le_bytes()); // namespaces
        // Compare, dataset management, write zeroes.
        data[520..522].copy_from_slice(&(1u16 | 1 << 2 | 1 << 3).to_le_bytes());
        data[525] = 1; // volatile write cache
        let name = format!("nqn.2026-01.org.orrery:disk-{}", self.disk.0);
        data[768..768 + name.len()].copy_from_slice(name.as_bytes());
        data[2048..2050].copy_from_slice(&2500u16.to_le_bytes()); // power state 0: 25 W
        data
    }

    /// Identify namespace (figure 245): one format, 512-byte blocks, no metadata.
    pub(super) fn identify_namespace(&self) -> Vec<u8> {
        let mut data = vec![0; PAGE as usize];
        for at in [0, 8, 16] {
            data[at..at + 8].copy_from_slice(&self.sectors.to_le_bytes()); // size, capacity, use
        }
        data[33] = 0x01; // deallocated blocks read as zeros
        data[99] = u8::from(self.read_only); // write protected
        data[130] = 9; // LBA format 0: 2^9 bytes
        data
    }

    /// Namespace identification descriptors (figure 249): a UUID made from the disk's number.
    pub(super) fn identify_descriptors(&self) -> Vec<u8> {
        let mut data = vec![0; PAGE as usize];
        data[0] = 3;
        data[1] = 16;
        data[4..10].copy_from_slice(b"orrery");
        data[10] = 0x40; // version 4
        data[12] = 0x80; // variant
        data[19] = self.disk.0;
        data
    }

    /// Active namespaces above `after`.
    pub(super) fn identify_list(after: u32) -> Vec<u8> {
        let mut data = vec![0; PAGE as usize];
        if after < NAMESPACE {
            data[..4].copy_from_slice(&NAMESPACE.to_le_bytes());
        }
        data
    }
}
