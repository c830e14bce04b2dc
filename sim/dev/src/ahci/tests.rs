use sim_bus::bench::Bench;
use sim_bus::{DiskBackend, DiskError, DiskId, Effect, Node, Point};

use super::Ahci;

const SECTORS: u64 = 4096;
const LIST: u64 = 0x1000;
const RECEIVED: u64 = 0x2000;
const TABLES: u64 = 0x3000;
const DATA: u64 = 0x1_0000;

/// Sector n is full of n; the last cannot be read; from 50 ms to 60 ms the disk is not there.
#[derive(Debug, Clone)]
struct Disk {
    bytes: Vec<u8>,
    now: u64,
}

impl DiskBackend for Disk {
    fn sectors(&self) -> u64 {
        SECTORS
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let at = sector as usize * 512;
        if at + into.len() == self.bytes.len() {
            return Err(DiskError::Medium);
        }
        into.copy_from_slice(&self.bytes[at..at + into.len()]);
        Ok(())
    }
    fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        let at = sector as usize * 512;
        self.bytes[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
    fn discard(&mut self, sector: u64, count: u64) -> Result<(), DiskError> {
        self.write(sector, &vec![0; count as usize * 512])
    }
    fn fork(&self) -> Box<dyn DiskBackend> {
        Box::new(self.clone())
    }
    fn at(&mut self, point: Point) {
        self.now = point.ns;
    }
    fn is_present(&self) -> bool {
        !(50_000_000..60_000_000).contains(&self.now)
    }
}

struct Host {
    bench: Bench<Ahci>,
}

const PORT: u64 = 0x100;

impl Host {
    /// A port that runs, with MSI if asked.
    fn new(msi: bool) -> Self {
        let mut bench = Bench::new(Ahci::with_disk(DiskId(0), SECTORS));
        bench.memory = vec![0; 0x10_0000];
        let bytes = (0..SECTORS as usize * 512).map(|byte| (byte / 512) as u8).collect();
        bench.backends.add_disk(Box::new(Disk { bytes, now: 0 }));
        bench.call(|node, cx| node.reset(sim_bus::Reset::PowerOn, cx));
        bench.call(|node, cx| node.config_write(4, 2, 6, cx));
        if msi {
            let at = bench.call(|node, cx| node.config_read(0x34, 1, cx)) as u16;
            assert_eq!(bench.call(|node, cx| node.config_read(at, 1, cx)), 5);
            for (offset, size, value) in [(4, 4, 0xfee0_0000), (8, 4, 0), (12, 2, 0x51), (2, 2, 1)] {
                bench.call(|node, cx| node.config_write(at + offset, size, value, cx));
            }
        }
        let mut host = Self { bench };
        host.write(PORT, LIST);
        host.write(PORT + 8, RECEIVED);
        host.write(PORT + 0x18, 0x10);
        assert_eq!(host.read(PORT + 0x28), 0, "the link is not up at once");
        host.wait(2_000_000);
        assert_eq!((host.read(PORT + 0x28), host.read(PORT + 0x24), host.read(PORT + 0x20)), (0x133, 0x101, 0x150));
        assert_eq!(host.memory(RECEIVED + 0x40, 3), [0x34, 0, 0x50], "the signature arrived as a FIS");
        host.write(PORT + 0x30, 0xffff_ffff);
        host.write(PORT + 0x10, 0xffff_ffff);
        host.write(PORT + 0x14, 0x7dc0_007f);
        host.write(4, 0x8000_0002);
        host.write(PORT + 0x18, 0x11);
        host.bench.take();
        host
    }
    fn read(&mut self, offset: u64) -> u64 {
        self.bench.read(5, offset, 4)
    }
    fn write(&mut self, offset: u64, value: u64) {
        self.bench.write(5, offset, 4, value);
    }
    /// Time passes; the disk knows it.
    fn wait(&mut self, ns: u64) {
        let until = self.bench.now + ns;
        while self.bench.timers.earliest() <= until {
            let next = self.bench.timers.earliest();
            self.bench.backends.set_point(0, next);
            self.bench.run_to(next);
        }
        self.bench.backends.set_point(0, until);
        self.bench.run_to(until);
    }
    fn memory(&self, at: u64, length: usize) -> &[u8] {
        &self.bench.memory[at as usize..at as usize + length]
    }
    /// Fills a slot: two regions of half the data each.
    #[expect(clippy::too_many_arguments, reason = "the fields of a command")]
    fn prepare(&mut self, slot: u64, command: u8, features: u16, lba: u64, count: u16, bytes: u32, out: bool) {
        let table = TABLES + 0x100 * slot;
        let regions = if bytes == 0 { 0u32 } else { 2 };
        let mut header = [0; 32];
        header[..4].copy_from_slice(&(5 | u32::from(out) << 6 | regions << 16).to_le_bytes());
        header[8..16].copy_from_slice(&table.to_le_bytes());
        let mut fis = [0; 20];
        fis[..4].copy_from_slice(&[0x27, 0x80, command, features as u8]);
        let lba = lba.to_le_bytes();
        fis[4..8].copy_from_slice(&[lba[0], lba[1], lba[2], 0x40]);
        fis[8..12].copy_from_slice(&[lba[3], lba[4], lba[5], (features >> 8) as u8]);
        fis[12..14].copy_from_slice(&count.to_le_bytes());
        let list = (LIST + 32 * slot) as usize;
        self.bench.memory[list..list + 32].copy_from_slice(&header);
        self.bench.memory[table as usize..table as usize + 20].copy_from_slice(&fis);
        for region in 0..u64::from(regions) {
            let mut entry = [0; 16];
            entry[..8].copy_from_slice(&(DATA + 0x4000 * slot + 0x2000 * region).to_le_bytes());
            entry[12..].copy_from_slice(&(bytes / 2 - 1).to_le_bytes());
            let at = (table + 0x80 + 16 * region) as usize;
            self.bench.memory[at..at + 16].copy_from_slice(&entry);
        }
    }
    /// Runs slot 0 to its end: the task file.
    fn run(&mut self, command: u8, features: u16, lba: u64, count: u16, bytes: u32, out: bool) -> u64 {
        self.prepare(0, command, features, lba, count, bytes, out);
        self.write(PORT + 0x38, 1);
        self.wait(5_000_000);
        self.read(PORT + 0x20)
    }
    fn restart(&mut self) {
        self.write(PORT + 0x18, 0x10);
        self.write(PORT + 0x10, 0xffff_ffff);
        self.write(8, 1);
        self.write(PORT + 0x18, 0x11);
    }
}

#[test]
fn it_identifies_itself_by_pio() {
    let mut host = Host::new(false);
    assert_eq!(host.run(0xec, 0, 0, 0, 512, false), 0x50);
    assert_eq!(host.memory(DATA + 54, 12), b"rOeryrS TA A", "words are swapped");
    let words: Vec<u8> = [host.memory(DATA, 256), host.memory(DATA + 0x2000, 256)].concat();
    assert_eq!(words[200..208], SECTORS.to_le_bytes());
    assert_eq!(words.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    assert_eq!((host.memory(RECEIVED + 0x20, 4)[0], host.memory(RECEIVED + 0x2f, 1)[0]), (0x5f, 0x50), "PIO Setup with the ending status");
    assert_eq!(host.memory(LIST + 4, 4), 512u32.to_le_bytes());
    assert!(host.bench.pins[0]);
    assert_eq!((host.read(PORT + 0x10), host.read(8), host.read(PORT + 0x38)), (2, 1, 0));
    host.write(PORT + 0x10, 2);
    host.write(8, 1);
    assert!(!host.bench.pins[0]);
}

#[test]
fn sectors_move_by_dma_and_the_message_comes_after_their_time() {
    let mut host = Host::new(true);
    host.prepare(0, 0x25, 0, 300, 8, 4096, false);
    host.write(PORT + 0x38, 1);
    host.wait(20_000);
    assert_eq!(host.read(PORT + 0x20) & 0x80, 0x80, "busy");
    assert_eq!(host.memory(DATA, 1), [0]);
    host.wait(1_000_000);
    assert_eq!((host.memory(DATA, 512), host.memory(DATA + 0x2000, 512)), (&[44; 512][..], &[48; 512][..]));
    assert_eq!(host.bench.take(), [Effect::Message { address: 0xfee0_0000, data: 0x51 }]);
    host.bench.memory[DATA as usize..DATA as usize + 0x4000].fill(0xab);
    assert_eq!(host.run(0xca, 0, 77, 2, 1024, true), 0x50);
    assert_eq!(host.run(0xc8, 0, 76, 4, 2048, false), 0x50);
    assert_eq!((host.memory(DATA, 1)[0], host.memory(DATA + 512, 1)[0], host.memory(DATA + 0x2000, 1)[0], host.memory(DATA + 0x2200, 1)[0]), (76, 0xab, 0xab, 79));
    assert_eq!((host.run(0xea, 0, 0, 0, 0, false), host.run(0xe7, 0, 0, 0, 0, false)), (0x50, 0x50));
}

#[test]
fn an_error_stops_the_port_until_it_is_restarted() {
    let mut host = Host::new(false);
    // The medium fails: the sector is named.
    assert_eq!(host.run(0x25, 0, SECTORS - 8, 8, 4096, false), 0x4041);
    assert_eq!(host.memory(RECEIVED + 0x44, 3), [0xff, 0x0f, 0], "sector 4095");
    assert_eq!((host.read(PORT + 0x10) & 0x4000_0000, host.read(PORT + 0x38)), (0x4000_0000, 1));
    host.write(PORT + 0x38, 2);
    host.wait(1_000_000);
    assert_eq!(host.read(PORT + 0x38), 3, "nothing is fetched");
    host.restart();
    assert_eq!(host.read(PORT + 0x38), 0);
    for (command, lba, count, bytes, file) in
        [(0x25u8, SECTORS, 1u16, 512u32, 0x1041u64), (0x99, 0, 0, 0, 0x0441), (0x25, 0, 64, 4096, 0x0441), (0x2f, 0x33, 1, 512, 0x0441)]
    {
        assert_eq!(host.run(command, 0, lba, count, bytes, false), file, "command {command:#x}");
        host.restart();
    }
    assert_eq!(host.run(0x25, 0, 0, 8, 4096, false), 0x50, "and all is well again");
}

#[test]
fn queued_commands_overlap_and_end_in_set_device_bits() {
    let mut host = Host::new(false);
    for slot in 0..4u64 {
        host.prepare(slot, 0x60, 8, 100 + 8 * slot, (slot as u16) << 3, 4096, false);
    }
    host.write(PORT + 0x34, 0xf);
    host.write(PORT + 0x38, 0xf);
    host.wait(2_000);
    assert_eq!((host.read(PORT + 0x38), host.read(PORT + 0x34)), (0, 0xf), "all accepted, none done");
    host.wait(1_000_000);
    assert_eq!((host.read(PORT + 0x34), host.read(PORT + 0x10) & 8), (0, 8));
    for slot in 0..4u64 {
        assert_eq!(host.memory(DATA + 0x4000 * slot, 512), [100 + 8 * slot as u8; 512]);
    }
    assert_eq!(host.memory(RECEIVED + 0x58, 1), [0xa1]);
    // One fails: the log says which.
    host.prepare(2, 0x60, 1, SECTORS - 1, 2 << 3, 512, false);
    host.write(PORT + 0x34, 4);
    host.write(PORT + 0x38, 4);
    host.wait(1_000_000);
    assert_eq!((host.read(PORT + 0x10) & 0x4000_0000, host.read(PORT + 0x34)), (0x4000_0000, 4));
    host.restart();
    assert_eq!(host.run(0x2f, 0, 0x10, 1, 512, false), 0x50);
    assert_eq!(host.memory(DATA, 4), [2, 0, 0x41, 0x40]);
}

#[test]
fn resets_bring_the_signature_back() {
    let mut host = Host::new(false);
    host.write(PORT + 0x2c, 1);
    assert_eq!((host.read(PORT + 0x28), host.read(PORT + 0x20)), (0, 0x7f));
    host.write(PORT + 0x2c, 0);
    host.wait(2_000_000);
    assert_eq!((host.read(PORT + 0x28), host.read(PORT + 0x24)), (0x133, 0x101));
    assert_eq!(host.read(PORT + 0x10) & 0x40, 0x40, "connect change");
    host.write(PORT + 0x30, 0xffff_ffff);
    assert_eq!(host.read(PORT + 0x10) & 0x40, 0, "a mirror of PxSERR");
    // Software reset: two control FISes.
    for control in [4u8, 0] {
        host.prepare(0, 0, 0, 0, 0, 0, false);
        host.bench.memory[TABLES as usize + 1] = 0;
        host.bench.memory[TABLES as usize + 15] = control;
        host.write(PORT + 0x38, 1);
        host.wait(100_000);
        assert_eq!(host.read(PORT + 0x38), 0);
    }
    assert_eq!(host.read(PORT + 0x20) & 0x80, 0x80);
    host.wait(2_000_000);
    assert_eq!(host.read(PORT + 0x20), 0x150);
    // The whole HBA.
    host.write(4, 0x8000_0001);
    assert_eq!((host.read(4), host.read(PORT + 0x28)), (0x8000_0000, 0));
    host.wait(2_000_000);
    assert_eq!(host.read(PORT + 0x28), 0x133);
}

#[test]
fn a_pulled_disk_takes_the_link_down_and_comes_back() {
    let mut host = Host::new(false);
    host.wait(52_000_000 - host.bench.now);
    host.prepare(0, 0x25, 0, 0, 8, 4096, false);
    host.write(PORT + 0x38, 1);
    host.wait(1_000_000);
    assert_eq!((host.read(PORT + 0x28), host.read(PORT + 0x10) & 0x40_0000), (0, 0x40_0000));
    host.wait(30_000_000);
    assert_eq!((host.read(PORT + 0x28), host.read(PORT + 0x24)), (0x133, 0x101));
    host.restart();
    assert_eq!(host.run(0x25, 0, 0, 8, 4096, false), 0x50);
}

#[test]
fn commands_in_flight_survive_save_and_load() {
    let mut host = Host::new(true);
    host.prepare(3, 0x60, 8, 100, 3 << 3, 4096, false);
    host.write(PORT + 0x34, 8);
    host.write(PORT + 0x38, 8);
    host.wait(5_000);
    let saved = host.bench.node.save();
    let mut other = Ahci::with_disk(DiskId(0), SECTORS);
    other.load(&saved).expect("same kind");
    assert_eq!(other.save(), saved);
    host.bench.node = other;
    host.wait(1_000_000);
    assert_eq!(host.memory(DATA + 0xc000, 512), [100; 512]);
    assert_eq!(host.read(PORT + 0x34), 0);
}

#[test]
fn lists_outside_ram_are_a_host_bus_error() {
    let mut host = Host::new(false);
    host.write(PORT + 0x18, 0x10);
    host.write(PORT + 4, 0x77);
    host.write(PORT + 0x18, 0x11);
    host.write(PORT + 0x38, 1);
    host.wait(1_000_000);
    assert_eq!(host.read(PORT + 0x10) & 0x2000_0000, 0x2000_0000);
}
