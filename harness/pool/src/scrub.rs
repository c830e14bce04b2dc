//! `scrub`: every copy of every block.

use indicatif::{ProgressBar, ProgressStyle};
use pool_dmu::{DatasetKind, Datasets};
use pool_phys::blkptr::BlockPointer;
use pool_spa::{Pool, Scrubbed};

use crate::Failure;
use crate::list::{print, vdevs};
use pool_dmu::human;

pub fn scrub(pool: &Pool) -> Result<(), Failure> {
    let about = |error| Failure::Pool(pool.name().into(), error);
    let datasets = Datasets::open(pool).map_err(about)?;
    let list = datasets.list(pool.name()).map_err(about)?;
    // Snapshots share blocks with what came before them: only those born since are read again.
    let total: u64 = list.iter().filter(|info| info.kind != DatasetKind::Snapshot).map(|info| info.dataset.compressed_bytes).sum();
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    let progress = ProgressBar::new(total).with_style(style);
    let (mut blocks, mut bytes, mut bad, mut damaged) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut tally = |pointer: &BlockPointer, found: Scrubbed| {
        blocks += 1;
        bytes += pointer.psize;
        progress.inc(pointer.psize);
        bad += u64::from(found.bad);
        damaged += u64::from(!found.good);
    };
    progress.set_message("pool metadata");
    datasets.mos().verify(&mut tally).map_err(about)?;
    let mut unreadable = Vec::new();
    for info in &list {
        progress.set_message(info.name.clone());
        let walked = datasets.open_dataset(info).and_then(|set| set.verify(&mut tally));
        if let Err(error) = walked {
            unreadable.push(format!("{}: {error}\n", info.name));
        }
    }
    progress.finish_and_clear();
    print(&format!("scrubbed {blocks} blocks, {}: {bad} bad places (all but {damaged} blocks can still be read)\n", human(bytes)))?;
    print(&vdevs(pool))?;
    for line in &unreadable {
        print(line)?;
    }
    if damaged == 0 && unreadable.is_empty() { Ok(()) } else { Err(Failure::Damaged) }
}
