//! Image files and block devices of the host as block devices of the pool.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kif::{BlockDev, BlockError};
use rustix::fs::{FallocateFlags, fallocate};

use crate::Failure;

struct Image {
    file: File,
    size: u64,
    writable: bool,
}

impl BlockDev for Image {
    fn size_bytes(&self) -> u64 {
        self.size
    }
    fn sector_bytes(&self) -> u32 {
        512
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > self.size) {
            return Err(BlockError::OutOfRange);
        }
        self.file.read_exact_at(out, offset).map_err(|_| BlockError::Io)
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        if !self.writable {
            return Err(BlockError::ReadOnly);
        }
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > self.size) {
            return Err(BlockError::OutOfRange);
        }
        self.file.write_all_at(data, offset).map_err(|_| BlockError::Io)
    }
    fn flush(&self) -> Result<(), BlockError> {
        if self.writable { self.file.sync_data().map_err(|_| BlockError::Io) } else { Ok(()) }
    }
    fn discard(&self, offset: u64, length: u64) -> Result<bool, BlockError> {
        if !self.writable || offset.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(BlockError::OutOfRange);
        }
        // Files of some file systems have no holes.
        Ok(fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length).is_ok())
    }
}

/// Opens the given files, and all files directly in the given folders. Files of a folder that cannot be a pool's (too small) are
/// left out by the scan; a named file that cannot be opened is an error.
pub fn open_all(paths: &[PathBuf], writable: bool) -> Result<Vec<Box<dyn BlockDev>>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        let about = |error| Failure::Host(path.display().to_string(), error);
        if std::fs::metadata(path).map_err(about)?.is_dir() {
            for entry in std::fs::read_dir(path).map_err(about)? {
                let entry = entry.map_err(about)?.path();
                if entry.is_file() {
                    files.push(entry);
                }
            }
        } else {
            files.push(path.clone());
        }
    }
    files.sort();
    files.dedup();
    // A whole disk of OpenZFS's has its vdev in a partition.
    let mut devices = Vec::new();
    for path in &files {
        devices.extend(pool_spa::open_partitions(open(path, writable)?).into_iter().map(|(_, device)| device));
    }
    Ok(devices)
}

/// Opens one file or block device.
pub fn open(path: &Path, writable: bool) -> Result<Box<dyn BlockDev>, Failure> {
    let about = |error| Failure::Host(path.display().to_string(), error);
    let mut file = File::options().read(true).write(writable).open(path).map_err(about)?;
    // Works for block devices too, whose metadata has no length.
    let size = file.seek(SeekFrom::End(0)).map_err(about)?;
    Ok(Box::new(Image { file, size, writable }))
}
