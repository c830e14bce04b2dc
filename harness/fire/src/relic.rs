//! A pool as OpenZFS 2.1 left it, with the features it enables when not told otherwise.
//!
//! `tests/relic.xz` is an image as it was on disk while the kernel module still had it open, without the parts that are zero: changes that are in log space maps
//! only, a clone with a livelist, a bookmark that counts, large blocks and dnodes, zstd, gzip, sha512, a project.

use std::io::{Error, Result, Write as _};
use std::process::{Command, Stdio};

use crate::disk::{Disk, Pages};

const PACKED: &[u8] = include_bytes!("../tests/relic.xz");
/// Bytes of the image, and of its parts.
const SIZE: u64 = 80 << 20;
const PART: usize = 4096;

/// The image in memory; `xz` unpacks it.
///
/// # Errors
/// There is no `xz`, or it does not like the image.
pub fn disk() -> Result<Disk> {
    let mut xz = Command::new("xz").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = xz.stdin.take().ok_or_else(|| Error::other("no pipe"))?;
    let feeder = std::thread::spawn(move || input.write_all(PACKED));
    let output = xz.wait_with_output()?;
    feeder.join().map_err(|_| Error::other("xz was not fed"))??;
    let (parts, rest) = output.stdout.as_chunks::<{ PART + 4 }>();
    if !output.status.success() || !rest.is_empty() {
        return Err(Error::other(format!("xz: {}, {} bytes too many", output.status, rest.len())));
    }
    let mut pages = Pages::default();
    for part in parts {
        let (number, data) = part.split_at(4);
        let number = number.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        pages.write(number * PART as u64, data);
    }
    Ok(Disk::of(pages, SIZE))
}
