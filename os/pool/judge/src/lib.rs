//! What the pool's tests need from the host: image files as disks, pools that OpenZFS made, and OpenZFS's `zdb` as judge.
//!
//! # Theory
//! A pool is right when the programs of the format's owners say so. `ORRERY_ZDB` names `zdb` (`harness/fire/zdb` gets it), `ORRERY_POOLS` the folder with pools
//! of OpenZFS (`NAME.tar.xz`). Neither belongs to a checkout: without them a test says what it did not try, and does the rest.
//!
//! # Structures
//! [`Image`] is a file as a disk; [`devices`] are those of a folder; [`scratch`] and [`unpack`] make folders; [`zdb`] and [`zstream`] judge;
//! [`seal`] makes a changed stream's sums right again.
//!
//! # Locking
//! None; folders are told apart by the names their tests give.
//!
//! # Failure
//! A judgement is a `Result` whose error is what the judge said. What the host refuses (no room, no `tar`) is a panic: the test cannot go on.
//!
//! # Limits
//! A write to an image is not made durable: these tests cut the power in memory only.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use kif::{BlockDev, BlockError};
use pool_stream::record::{CHECKSUM_AT, Record, SIZE};

/// Lines shown of what a judge complains about.
const LINES: usize = 40;

/// An image file as a disk.
#[derive(Debug)]
pub struct Image {
    file: File,
    size: u64,
}

impl Image {
    /// Opens an image for reading and writing.
    ///
    /// # Errors
    /// The host's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }

    /// Makes an empty image of `size` bytes, all hole.
    ///
    /// # Errors
    /// The host's.
    pub fn create(path: &Path, size: u64) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len(size)?;
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

/// The images of a folder in the order of their names: all its files, or those whose names end with `suffix`.
///
/// # Errors
/// The host's.
pub fn images(folder: &Path, suffix: &str) -> io::Result<Vec<Image>> {
    let mut paths = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<PathBuf>>>()?;
    paths.retain(|path| path.to_string_lossy().ends_with(suffix));
    paths.sort();
    paths.iter().map(|path| Image::open(path)).collect()
}

/// The same as devices.
///
/// # Errors
/// The host's.
pub fn devices(folder: &Path, suffix: &str) -> io::Result<Vec<Box<dyn BlockDev>>> {
    Ok(images(folder, suffix)?.into_iter().map(|image| Box::new(image) as Box<dyn BlockDev>).collect())
}

/// An empty folder called `name` in a test's own place, `CARGO_TARGET_TMPDIR`.
///
/// # Panics
/// If the host does not make it.
#[must_use]
pub fn scratch(place: &str, name: &str) -> PathBuf {
    let path = Path::new(place).join(name);
    drop(std::fs::remove_dir_all(&path));
    std::fs::create_dir_all(&path).expect("make a folder for images");
    path
}

/// Unpacks a pool that OpenZFS made into `target`, a folder of its own; `None` where there are none.
///
/// # Panics
/// If the archive is not there or `tar` fails.
#[must_use]
pub fn unpack(name: &str, target: &Path) -> Option<PathBuf> {
    let Some(source) = std::env::var_os("ORRERY_POOLS") else {
        eprintln!("ORRERY_POOLS is not set: {name} not tested");
        return None;
    };
    let archive = Path::new(&source).join(format!("{name}.tar.xz"));
    let status = Command::new("tar").arg("xJf").arg(&archive).arg("-C").arg(target).status().expect("run tar");
    assert!(status.success(), "tar xJf {} failed", archive.display());
    Some(target.join(name))
}

/// A pool on images in a folder is judged by `zdb`: every block's checksum, that nothing leaks, and a dump of every object. Where `ORRERY_ZDB` does not name it,
/// it is not asked.
///
/// # Errors
/// What it complains about.
///
/// # Panics
/// If it does not run.
pub fn zdb(folder: &Path, pool: &str) -> Result<(), String> {
    let Some(zdb) = std::env::var_os("ORRERY_ZDB") else {
        eprintln!("ORRERY_ZDB is not set: {pool} in {} is checked by ourselves only", folder.display());
        return Ok(());
    };
    // One run for all: most of its time goes into starting and ending.
    let output = Command::new(&zdb).arg("-e").arg("-p").arg(folder).args(["-bccdddd", pool]).output().expect("run zdb");
    let text = both(&output);
    let complaint = text.lines().find(|line| ["leaked:", "ERROR", "errors"].iter().any(|word| line.contains(word)));
    let last = || text.lines().rev().take(LINES).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
    match complaint {
        _ if !output.status.success() => Err(format!("zdb {pool}: {}\n{}", output.status, last())),
        Some(complaint) => Err(format!("zdb {pool}: {complaint}")),
        None if !text.contains("No leaks") => Err(format!("zdb {pool} did not count the blocks:\n{}", last())),
        None => Ok(()),
    }
}

/// `zstream dump`, which lies beside `zdb`, reads a stream: what it says; `None` where it is not there.
///
/// # Errors
/// It finds a checksum wrong or a record that cannot be.
///
/// # Panics
/// If it does not run to its end.
pub fn zstream(stream: &[u8]) -> Result<Option<String>, String> {
    let Some(zdb) = std::env::var_os("ORRERY_ZDB") else { return Ok(None) };
    let program = PathBuf::from(zdb).with_file_name("zstream");
    let Ok(mut child) = Command::new(&program).arg("dump").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() else { return Ok(None) };
    let mut input = child.stdin.take().expect("piped");
    let output = std::thread::scope(|scope| {
        // It may end before it has read all.
        scope.spawn(move || drop(input.write_all(stream)));
        child.wait_with_output().expect("run zstream")
    });
    let text = both(&output);
    let is_good = output.status.success() && !text.contains("nvalid") && !text.contains("ncorrect");
    if is_good { Ok(Some(text)) } else { Err(format!("zstream: {}\n{text}", output.status)) }
}

fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Makes all checksums of a stream right.
pub fn seal(stream: &mut [u8]) {
    let mut sum = [0; 4];
    let mut at = 0;
    while at + SIZE <= stream.len() {
        let payload = payload(&stream[at..at + SIZE]);
        let kind = stream[at];
        if kind == 0 {
            sum = [0; 4];
        }
        if kind == 5 {
            for (index, word) in sum.iter().enumerate() {
                stream[at + 8 + index * 8..at + 16 + index * 8].copy_from_slice(&u64::to_le_bytes(*word));
            }
        }
        sum = codec::fletcher4_continue(sum, &stream[at..at + CHECKSUM_AT]);
        if kind != 0 {
            for (index, word) in sum.iter().enumerate() {
                stream[at + CHECKSUM_AT + index * 8..at + CHECKSUM_AT + 8 + index * 8].copy_from_slice(&word.to_le_bytes());
            }
        }
        let end = at.saturating_add(SIZE).saturating_add(payload).min(stream.len());
        sum = codec::fletcher4_continue(sum, &stream[at + CHECKSUM_AT..end]);
        at = end;
    }
}

/// Bytes behind a record; none if it cannot be read.
pub fn payload(record: &[u8]) -> usize {
    let Ok(record) = record.try_into() else { return 0 };
    Record::parse(record).map_or(0, |(record, _)| usize::try_from(record.payload()).unwrap_or(usize::MAX))
}
