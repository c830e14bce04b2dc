//! Image files as disks, for judges that want files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kif::{BlockDev, BlockError};

use crate::disk::Disk;

/// A file as a disk.
#[derive(Debug)]
pub struct Image {
    file: File,
    size: u64,
}

impl Image {
    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// The host's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

impl BlockDev for Image {
    fn size_bytes(&self) -> u64 {
        self.size
    }
    fn sector_bytes(&self) -> u32 {
        512
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        self.file.read_exact_at(out, offset).map_err(|_| BlockError::Io)
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        if offset.saturating_add(data.len() as u64) > self.size {
            return Err(BlockError::OutOfRange);
        }
        self.file.write_all_at(data, offset).map_err(|_| BlockError::Io)
    }
    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }
}

/// Writes disks in memory to files `disk0`, `disk1`, ... of a folder, with holes where nothing was written.
///
/// # Errors
/// The host's.
pub fn save(disks: &[Disk], folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (index, disk) in disks.iter().enumerate() {
        let file = File::create(folder.join(format!("disk{index}")))?;
        file.set_len(disk.size_bytes())?;
        for (page, data) in disk.pages().iter() {
            file.write_all_at(data, page * data.len() as u64)?;
        }
    }
    Ok(())
}

/// All files of a folder as disks, in the order of their names.
///
/// # Errors
/// The host's.
pub fn load(folder: &Path) -> io::Result<Vec<Box<dyn BlockDev>>> {
    let mut paths = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    paths.sort();
    paths.iter().map(|path| Image::open(path).map(|image| Box::new(image) as Box<dyn BlockDev>)).collect()
}
