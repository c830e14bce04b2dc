//! Backends behind devices: what a disk holds, and how images are read.
//!
//! # Theory
//! A disk is an image that is never changed (shared) under a map of sectors that were written: forking one for a snapshot costs the map, and the image given by
//! the caller stays as it was. Disks live in memory: a run is a function of its inputs, and an image file is one of them, read before the run.
//!
//! # Structures
//! [`MemoryDisk`] implements [`sim_bus::DiskBackend`]. Fault plans wrap it (`sim-fault`). [`raw_image`] makes the flat image of a file that is raw or qcow2.
//!
//! # Failure
//! Requests outside the disk and writes to read-only disks are refused; nothing else can fail here. A damaged image is refused with the field that is wrong.
//!
//! # Limits
//! Written data is kept in 4 KiB blocks in memory. qcow2: `qcow2.rs` says what is not read.

mod qcow2;

use std::collections::BTreeMap;
use std::sync::Arc;

use sim_bus::{DiskBackend, DiskError};

pub use qcow2::{Qcow2Error, raw_image};

/// Bytes in a sector.
pub const SECTOR: usize = 512;
const BLOCK: u64 = 4096;

/// A disk in memory: a shared image and what was written over it.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    image: Arc<[u8]>,
    /// Blocks that differ from the image, shared between forks until written again.
    written: BTreeMap<u64, Arc<[u8; BLOCK as usize]>>,
    sectors: u64,
    read_only: bool,
}

impl MemoryDisk {
    /// A disk of `sectors` sectors that begins with `image` and is zero after it.
    pub fn new(image: Arc<[u8]>, sectors: u64, read_only: bool) -> Self {
        Self { image, written: BTreeMap::new(), sectors, read_only }
    }

    /// The same disk, read-only.
    pub fn sealed(self) -> Self {
        Self { read_only: true, ..self }
    }

    /// An empty disk.
    pub fn empty(bytes: u64) -> Self {
        Self::new(Arc::from([]), bytes / SECTOR as u64, false)
    }

    /// The whole content, for comparing and for writing back to a file.
    pub fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.sectors).unwrap_or(0).saturating_mul(SECTOR)];
        self.copy(0, &mut bytes);
        bytes
    }

    fn range(&self, sector: u64, length: usize) -> Result<u64, DiskError> {
        let count = (length / SECTOR) as u64;
        match sector.checked_add(count) {
            Some(end) if end <= self.sectors && length.is_multiple_of(SECTOR) => Ok(sector * SECTOR as u64),
            Some(_) | None => Err(DiskError::Range),
        }
    }

    fn copy(&self, mut at: u64, mut into: &mut [u8]) {
        while !into.is_empty() {
            let inside = (at % BLOCK) as usize;
            let count = into.len().min(BLOCK as usize - inside);
            let (part, rest) = into.split_at_mut(count);
            match self.written.get(&(at / BLOCK)) {
                Some(block) => part.copy_from_slice(&block[inside..inside + count]),
                None => {
                    // Past the image everything is zero.
                    let from = usize::try_from(at).unwrap_or(usize::MAX).min(self.image.len());
                    let have = (self.image.len() - from).min(count);
                    part[..have].copy_from_slice(&self.image[from..from + have]);
                    part[have..].fill(0);
                }
            }
            at += count as u64;
            into = rest;
        }
    }

    fn put(&mut self, mut at: u64, mut from: &[u8]) {
        while !from.is_empty() {
            let inside = (at % BLOCK) as usize;
            let count = from.len().min(BLOCK as usize - inside);
            let number = at / BLOCK;
            if !self.written.contains_key(&number) {
                let mut block = [0; BLOCK as usize];
                self.copy(number * BLOCK, &mut block);
                self.written.insert(number, Arc::new(block));
            }
            if let Some(block) = self.written.get_mut(&number) {
                Arc::make_mut(block)[inside..inside + count].copy_from_slice(&from[..count]);
            }
            at += count as u64;
            from = &from[count..];
        }
    }
}

impl DiskBackend for MemoryDisk {
    fn sectors(&self) -> u64 {
        self.sectors
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let at = self.range(sector, into.len())?;
        self.copy(at, into);
        Ok(())
    }
    fn write(&mut self, sector: u64, from: &[u8]) -> Result<(), DiskError> {
        if self.read_only {
            return Err(DiskError::ReadOnly);
        }
        let at = self.range(sector, from.len())?;
        self.put(at, from);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
    fn discard(&mut self, sector: u64, count: u64) -> Result<(), DiskError> {
        if self.read_only {
            return Err(DiskError::ReadOnly);
        }
        let end = sector.checked_add(count).filter(|end| *end <= self.sectors).ok_or(DiskError::Range)?;
        let (start, limit) = (sector * SECTOR as u64, end * SECTOR as u64);
        let (first, last) = (start.div_ceil(BLOCK), limit / BLOCK);
        if first >= last {
            // Within a block, or over the border of two.
            self.put(start, &vec![0; (limit - start) as usize]);
            return Ok(());
        }
        self.put(start, &vec![0; (first * BLOCK - start) as usize]);
        self.put(last * BLOCK, &vec![0; (limit - last * BLOCK) as usize]);
        // Whole blocks are forgotten; over the image they become the one block of zeros that all share.
        let forgotten: Vec<u64> = self.written.range(first..last).map(|(number, _)| *number).collect();
        for number in forgotten {
            self.written.remove(&number);
        }
        let zeros = Arc::new([0; BLOCK as usize]);
        for number in first..last.min((self.image.len() as u64).div_ceil(BLOCK)) {
            self.written.insert(number, zeros.clone());
        }
        Ok(())
    }
    fn fork(&self) -> Box<dyn DiskBackend> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_cover_the_image_and_forks_are_apart() {
        let image: Arc<[u8]> = (0..3000u32).map(|byte| byte as u8).collect();
        let mut disk = MemoryDisk::new(image.clone(), 100, false);
        let mut sector = [0; SECTOR];
        disk.read(5, &mut sector).expect("in range");
        assert_eq!(sector[..440], image[2560..]);
        assert_eq!(sector[440..], [0; 72]);
        disk.write(5, &[7; SECTOR]).expect("in range");
        let mut fork = disk.fork();
        disk.write(5, &[8; SECTOR]).expect("in range");
        fork.read(5, &mut sector).expect("in range");
        assert_eq!(sector, [7; SECTOR]);
        disk.read(4, &mut sector).expect("in range");
        assert_eq!(sector[..], image[2048..2560], "the neighbour is untouched");
        assert_eq!(disk.read(100, &mut sector), Err(DiskError::Range));
        assert_eq!(disk.read(u64::MAX, &mut sector), Err(DiskError::Range));
    }

    #[test]
    fn discarding_is_cheap_and_exact() {
        let mut disk = MemoryDisk::empty(1 << 40);
        disk.write(5, &[7; 512]).expect("in range");
        disk.discard(0, 1 << 31).expect("in range");
        assert!(disk.written.is_empty(), "nothing is kept of it");
        for (first, count) in [(0u64, 1u64), (7, 1), (3, 20), (8, 8), (0, 32), (9, 6)] {
            let mut disk = MemoryDisk::new(vec![9; 16384].into(), 32, false);
            disk.write(10, &[5; 1024]).expect("in range");
            let before = disk.content();
            disk.discard(first, count).expect("in range");
            for (at, (was, is)) in before.iter().zip(disk.content()).enumerate() {
                let inside = (first..first + count).contains(&(at as u64 / 512));
                assert_eq!(is, if inside { 0 } else { *was }, "byte {at} of {first} +{count}");
            }
        }
    }

    #[test]
    fn discarded_sectors_are_zero_and_read_only_disks_stay() {
        let mut disk = MemoryDisk::new(vec![9; 8192].into(), 16, false);
        disk.discard(2, 3).expect("in range");
        let content = disk.content();
        assert!(content[1024..2560].iter().all(|byte| *byte == 0) && content[1023] == 9 && content[2560] == 9);
        let mut fixed = MemoryDisk::new(vec![9; 8192].into(), 16, true);
        assert_eq!(fixed.write(0, &[0; SECTOR]), Err(DiskError::ReadOnly));
        assert_eq!(fixed.discard(0, 1), Err(DiskError::ReadOnly));
    }
}
