//! Disks in memory as image files, for judges that want files.

use std::io;
use std::path::Path;

use kif::BlockDev;
use pool_judge::Image;

use crate::disk::Disk;

/// Writes disks in memory to files `disk0`, `disk1`, ... of a folder, with holes where nothing was written.
///
/// # Errors
/// The host's.
pub fn save(disks: &[Disk], folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (index, disk) in disks.iter().enumerate() {
        let image = Image::create(&folder.join(format!("disk{index}")), disk.size_bytes())?;
        for (page, data) in disk.pages().iter() {
            image.write(page * data.len() as u64, data).map_err(|error| io::Error::other(format!("{error:?}")))?;
        }
    }
    Ok(())
}

/// All files of a folder as disks, in the order of their names.
///
/// # Errors
/// The host's.
pub fn load(folder: &Path) -> io::Result<Vec<Box<dyn BlockDev>>> {
    pool_judge::devices(folder, "")
}
