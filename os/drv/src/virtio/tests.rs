//! The disk driver against a device of our own, which reads the rings from the frames as a device would.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use kif::{BlockDev, BlockError, Pfn};

use super::block::{self, Disk};
use super::*;
use crate::pci::{Address, ConfigSpace, Message, scan};

const SECTORS: u64 = 1024;
const BAR: u64 = 0xfe00_0000;

#[derive(Default)]
struct Chip {
    disk: Vec<u8>,
    status: u8,
    select: u32,
    driver_features: u64,
    driver_select: u32,
    queue: [u64; 3],
    seen: u16,
    used: u16,
    /// Requests in order: type, sector, bytes of data.
    requests: Vec<(u32, u64, usize)>,
    misbehaviour: Option<Misbehaviour>,
    handler: Option<Arc<dyn Fn() + Send + Sync>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Misbehaviour {
    RefusesFeatures,
    FailsRequests,
    NamesWrongHeads,
    ClaimsTooMuch,
}

#[derive(Clone)]
struct Device {
    chip: Arc<Mutex<Chip>>,
    config: Arc<Mutex<BTreeMap<u16, u32>>>,
}

fn memory(at: u64, out: &mut [u8]) {
    kif::frames().read(Pfn(at >> 12), (at & 0xfff) as usize, out);
}
fn number(at: u64, len: usize) -> u64 {
    let mut bytes = [0; 8];
    memory(at, &mut bytes[..len]);
    u64::from_le_bytes(bytes)
}
fn store(at: u64, data: &[u8]) {
    kif::frames().write(Pfn(at >> 12), (at & 0xfff) as usize, data);
}

impl Chip {
    /// Serves everything that was offered.
    fn serve(&mut self) {
        let [descriptors, available, used] = self.queue;
        while self.seen != number(available + 2, 2) as u16 {
            let head = number(available + 4 + 2 * u64::from(self.seen % 256), 2);
            self.seen = self.seen.wrapping_add(1);
            let mut chain = Vec::new();
            let mut at = head;
            loop {
                let raw = descriptors + 16 * at;
                let (address, len, flags) = (number(raw, 8), number(raw + 8, 4), number(raw + 12, 2));
                chain.push((address, len as usize, flags & 2 != 0));
                if flags & 1 == 0 {
                    break;
                }
                at = number(raw + 14, 2);
            }
            let (kind, sector) = (number(chain[0].0, 4) as u32, number(chain[0].0 + 8, 8));
            let data = &chain[1..chain.len() - 1];
            self.requests.push((kind, sector, data.iter().map(|(_, len, _)| len).sum()));
            let failed = self.misbehaviour == Some(Misbehaviour::FailsRequests) && kind != 8;
            let mut offset = sector as usize * 512;
            for (address, len, writes) in data.iter().copied().filter(|_| !failed) {
                assert_eq!(writes, kind != 1, "direction of request {kind}");
                match kind {
                    0 => store(address, &self.disk[offset..offset + len]),
                    1 => memory(address, &mut self.disk[offset..offset + len]),
                    8 => store(address, b"test-disk"),
                    _ => {}
                }
                offset += len;
            }
            store(chain[chain.len() - 1].0, &[u8::from(failed)]);
            let mut answers = vec![head as u32];
            if self.misbehaviour == Some(Misbehaviour::NamesWrongHeads) {
                answers = vec![head as u32, head as u32, 0xffff_ffff, 255];
            }
            for answer in answers {
                store(used + 4 + 8 * u64::from(self.used % 256), &answer.to_le_bytes());
                self.used = self.used.wrapping_add(1);
            }
            let claimed = if self.misbehaviour == Some(Misbehaviour::ClaimsTooMuch) { self.used.wrapping_add(1000) } else { self.used };
            store(used + 2, &claimed.to_le_bytes());
        }
    }
}

impl Device {
    fn new() -> Self {
        kif_host::start();
        let mut config = BTreeMap::new();
        let mut put = |at: u16, value: u32| {
            config.insert(at, value);
        };
        put(0, 0x1042_1af4);
        put(4, 1 << 20);
        put(0x10, BAR as u32);
        put(0x34, 0x40);
        // Common, notify, device configuration, each 4 KiB of BAR 0; MSI-X.
        for (at, next, kind, offset) in [(0x40_u16, 0x60_u32, 1_u32, 0_u32), (0x60, 0x80, 2, 0x1000), (0x80, 0xa0, 4, 0x2000)] {
            put(at, 9 | next << 8 | 20 << 16 | kind << 24);
            put(at + 4, 0);
            put(at + 8, offset);
            put(at + 12, 0x1000);
            put(at + 16, 4);
        }
        put(0xa0, 0x11);
        put(0xa4, 0x3000);
        let disk = (0..SECTORS as usize * 512).map(|n| (n / 512) as u8).collect();
        let chip = Chip { disk, ..Chip::default() };
        Self { chip: Arc::new(Mutex::new(chip)), config: Arc::new(Mutex::new(config)) }
    }

    fn chip(&self) -> MutexGuard<'_, Chip> {
        self.chip.lock().unwrap()
    }

    fn attach(&self) -> Result<Arc<Disk>, VirtioError> {
        let function = scan(self).into_iter().next().expect("one function");
        assert!(block::matches(&function));
        block::attach(self, &function)
    }
}

impl ConfigSpace for Device {
    fn read32(&self, at: Address, offset: u16) -> u32 {
        if at != (Address { bus: 0, device: 0, function: 0 }) {
            return u32::MAX;
        }
        self.config.lock().unwrap().get(&offset).copied().unwrap_or(0)
    }
    fn write32(&self, _at: Address, offset: u16, value: u32) {
        self.config.lock().unwrap().insert(offset, value);
    }
}

struct Window(Device, u64);

impl Mmio for Window {
    fn read8(&self, offset: u64) -> u8 {
        self.read32(offset) as u8
    }
    fn read16(&self, offset: u64) -> u16 {
        self.read32(offset) as u16
    }
    fn read32(&self, offset: u64) -> u32 {
        let chip = self.0.chip();
        match self.1 + offset {
            DEVICE_FEATURE => [1 << 2 | 1 << 9, 1][chip.select as usize],
            STATUS => chip.status.into(),
            QUEUE_SIZE => 256,
            0x2000 => SECTORS as u32,
            0x200c => 4,
            _ => 0,
        }
    }
    fn write8(&self, offset: u64, value: u8) {
        let mut chip = self.0.chip();
        assert_eq!(self.1 + offset, STATUS);
        let refused = chip.misbehaviour == Some(Misbehaviour::RefusesFeatures);
        chip.status = if refused { value & !FEATURES_OK } else { value };
    }
    fn write16(&self, offset: u64, _value: u16) {
        if self.1 + offset >= 0x1000 {
            let handler = {
                let mut chip = self.0.chip();
                chip.serve();
                chip.handler.clone()
            };
            // As an interrupt: on a thread of its own.
            if let Some(handler) = handler {
                std::thread::spawn(move || handler());
            }
        }
    }
    fn write32(&self, offset: u64, value: u32) {
        let mut chip = self.0.chip();
        match self.1 + offset {
            DEVICE_FEATURE_SELECT => chip.select = value,
            DRIVER_FEATURE_SELECT => chip.driver_select = value,
            DRIVER_FEATURE => {
                let shift = 32 * chip.driver_select;
                chip.driver_features |= u64::from(value) << shift;
            }
            at @ QUEUE_DESC..COMMON_BYTES => {
                let (which, half) = ((at - QUEUE_DESC) / 8, (at - QUEUE_DESC) % 8);
                chip.queue[which as usize] |= u64::from(value) << (8 * half);
            }
            _ => {}
        }
    }
}

impl Machine for Device {
    fn config(&self) -> &dyn ConfigSpace {
        self
    }
    fn map(&self, physical: u64, _len: u64) -> Result<Box<dyn Mmio>, OutOfMemory> {
        Ok(Box::new(Window(self.clone(), physical - BAR)))
    }
    fn interrupt(&self, handler: Box<dyn Fn() + Send + Sync>) -> Option<Message> {
        self.chip().handler = Some(Arc::from(handler));
        Some(Message { address: 0xfee0_0000, data: 0x40 })
    }
}

#[test]
fn transfers_in_pieces() {
    let device = Device::new();
    let disk = device.attach().expect("attaches");
    assert_eq!((disk.serial(), disk.size_bytes(), disk.sector_bytes()), ("test-disk", SECTORS * 512, 512));
    assert_eq!(device.chip().driver_features, 1 << 32 | 1 << 9 | 1 << 2);
    assert_eq!(device.config.lock().unwrap()[&0xa0] >> 31, 1, "MSI-X is on");
    // SEG_MAX says four pages a request.
    let mut out = vec![0; 40_960];
    disk.read(512 * 3, &mut out).expect("reads");
    assert!(out.iter().enumerate().all(|(n, byte)| *byte == (3 + n / 512) as u8));
    assert_eq!(device.chip().requests[1..], [(0, 3, 16_384), (0, 35, 16_384), (0, 67, 8_192)]);
    disk.write(512, &[7; 20_480]).expect("writes");
    disk.flush().expect("flushes");
    let chip = device.chip();
    assert_eq!(chip.requests[4..], [(1, 1, 16_384), (1, 33, 4_096), (4, 0, 0)]);
    assert!(chip.disk[512..20_992].iter().all(|byte| *byte == 7) && chip.disk[511] == 0 && chip.disk[20_992] == 41);
}

#[test]
fn wrong_ranges_never_reach_the_device() {
    let device = Device::new();
    let disk = device.attach().expect("attaches");
    let before = device.chip().requests.len();
    for (offset, len) in [(1, 512), (0, 511), (SECTORS * 512, 512), (u64::MAX - 511, 512), (SECTORS * 512 - 512, 1024)] {
        assert_eq!(disk.read(offset, &mut vec![0; len]), Err(BlockError::OutOfRange));
        assert_eq!(disk.write(offset, &vec![0; len]), Err(BlockError::OutOfRange));
    }
    assert_eq!(device.chip().requests.len(), before);
}

#[test]
fn a_disk_that_fails_is_an_error_and_can_be_asked_again() {
    let device = Device::new();
    let disk = device.attach().expect("attaches");
    device.chip().misbehaviour = Some(Misbehaviour::FailsRequests);
    for _ in 0..20 {
        assert_eq!(disk.write(0, &[1; 512]), Err(BlockError::Io));
    }
    device.chip().misbehaviour = None;
    assert_eq!(disk.write(0, &[1; 512]), Ok(()));
}

#[test]
fn a_device_that_lies_harms_nobody() {
    for lie in [Misbehaviour::NamesWrongHeads, Misbehaviour::ClaimsTooMuch] {
        let device = Device::new();
        let disk = device.attach().expect("attaches");
        device.chip().misbehaviour = Some(lie);
        let mut out = [0; 512];
        disk.read(512, &mut out).expect("reads");
        assert_eq!(out, [1; 512]);
    }
    let device = Device::new();
    device.chip().misbehaviour = Some(Misbehaviour::RefusesFeatures);
    assert_eq!(device.attach().err(), Some(VirtioError::Features));
    // A structure that leaves what can be addressed.
    let device = Device::new();
    device.config.lock().unwrap().insert(0x48, 0xffff_fff0);
    device.config.lock().unwrap().insert(0x4c, 0xffff_ffff);
    assert_eq!(device.attach().err(), Some(VirtioError::Pci(PciError::BadStructure)));
}

#[test]
fn many_threads_share_the_slots() {
    let device = Device::new();
    let disk = device.attach().expect("attaches");
    std::thread::scope(|scope| {
        for thread in 0..12_u64 {
            let disk = &disk;
            scope.spawn(move || {
                for round in 0..20_u8 {
                    let offset = thread * 4096;
                    disk.write(offset, &[round ^ thread as u8; 4096]).expect("writes");
                    let mut out = [0; 4096];
                    disk.read(offset, &mut out).expect("reads");
                    assert_eq!(out, [round ^ thread as u8; 4096]);
                }
            });
        }
    });
}
