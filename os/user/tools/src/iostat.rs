//! `zpool iostat`: what pools and their devices transfer.

use std::time::Duration;

use nv::NvList;

use crate::bytes::number;
use crate::usage::{self, Failure, Step};
use crate::zpool::{cache_devices, options, pools};

/// A pool or one of its vdevs at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sample {
    name: String,
    /// 0 for the pool.
    depth: u64,
    /// Allocated and free bytes, where they are known: of the pool.
    space: Option<(u64, u64)>,
    /// Reads, writes, bytes read, bytes written, since the import.
    counts: [u64; 4],
    age_ns: u64,
    /// What kind of devices come below; no more than that.
    is_title: bool,
}

/// How to print.
#[derive(Debug, Clone, Copy, Default)]
struct Form {
    script: bool,
    exact: bool,
    verbose: bool,
}

/// What is counted of a device.
const COUNTS: [&str; 4] = ["reads", "writes", "bytes_read", "bytes_written"];

fn samples(pool: &NvList, verbose: bool) -> Result<Vec<Sample>, Failure> {
    let field = |list: &NvList, name: &str| list.number(name).map_err(Failure::new);
    let (size, allocated, age_ns) = (field(pool, "size")?, field(pool, "allocated")?, field(pool, "age")?);
    let name = pool.string("name").map_err(Failure::new)?.to_owned();
    let mut rows = vec![Sample { name, depth: 0, space: Some((allocated, size.saturating_sub(allocated))), counts: [0; 4], age_ns, is_title: false }];
    // Of the vdevs only leaves count; what is above is the sum of those below.
    let vdevs = pool.lists("vdevs").map_err(Failure::new)?;
    for (index, vdev) in vdevs.iter().enumerate() {
        let depth = field(vdev, "depth")?;
        let mut counts = [0; 4];
        for (other, below) in vdevs[index..].iter().enumerate() {
            if other > 0 && field(below, "depth")? <= depth {
                break;
            }
            for (sum, name) in counts.iter_mut().zip(COUNTS) {
                *sum += field(below, name)?;
            }
        }
        if depth == 0 {
            rows[0].counts.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        if verbose {
            let space = match (vdev.number("size"), vdev.number("allocated")) {
                (Ok(size), Ok(allocated)) => Some((allocated, size.saturating_sub(allocated))),
                _ => None,
            };
            rows.push(Sample { name: vdev.string("name").map_err(Failure::new)?.to_owned(), depth: depth + 1, space, counts, age_ns, is_title: false });
        }
    }
    if verbose {
        let caches = cache_devices(pool)?;
        if !caches.is_empty() {
            rows.push(Sample { name: "cache".to_owned(), depth: 0, space: None, counts: [0; 4], age_ns, is_title: true });
        }
        for device in caches {
            let mut counts = [0; 4];
            for (count, name) in counts.iter_mut().zip(COUNTS) {
                *count = field(device, name)?;
            }
            let (size, allocated) = (field(device, "size")?, field(device, "allocated")?);
            rows.push(Sample { name: device.string("name").map_err(Failure::new)?.to_owned(), depth: 1, space: Some((allocated, size.saturating_sub(allocated))), counts, age_ns, is_title: false });
        }
    }
    Ok(rows)
}

/// What a row says: space, then rates since `before` (or since the import).
fn cells(now: &Sample, before: Option<&Sample>, exact: bool) -> [String; 6] {
    if now.is_title {
        return core::array::from_fn(|_| "-".to_owned());
    }
    let span = now.age_ns.saturating_sub(before.map_or(0, |before| before.age_ns)).max(1);
    let rate = |index: usize| {
        let count = now.counts[index].saturating_sub(before.map_or(0, |before| before.counts[index]));
        number(u64::try_from(u128::from(count) * 1_000_000_000 / u128::from(span)).unwrap_or(u64::MAX), exact)
    };
    let space = now.space.map_or(["-".to_owned(), "-".to_owned()], |(allocated, free)| [number(allocated, exact), number(free, exact)]);
    let [allocated, free] = space;
    [allocated, free, rate(0), rate(1), rate(2), rate(3)]
}

fn report(now: &[Vec<Sample>], before: &[Vec<Sample>], form: Form, heading: bool) -> String {
    let old = |sample: &Sample, pool: &[Sample]| before.iter().find(|known| known[0].name == pool[0].name).and_then(|known| known.iter().find(|row| row.name == sample.name && row.depth == sample.depth)).cloned();
    let shown = |sample: &Sample| format!("{}{}", "  ".repeat(usize::try_from(sample.depth).unwrap_or(0)), sample.name);
    let mut out = String::new();
    let wide = now.iter().flatten().map(|sample| shown(sample).chars().count()).chain([10]).max().unwrap_or(10);
    let line = format!("{}  -----  -----  -----  -----  -----  -----\n", "-".repeat(wide));
    if heading && !form.script {
        out.push_str(&format!("{:wide$}    capacity     operations     bandwidth\n", ""));
        out.push_str(&format!("{:<wide$}  {:>5}  {:>5}  {:>5}  {:>5}  {:>5}  {:>5}\n{line}", "pool", "alloc", "free", "read", "write", "read", "write"));
    }
    for pool in now {
        for sample in pool {
            let cells = cells(sample, old(sample, pool).as_ref(), form.exact);
            if form.script {
                out.push_str(&format!("{}\t{}\n", sample.name, cells.join("\t")));
            } else {
                let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>5}")).collect();
                out.push_str(&format!("{:<wide$}  {}\n", shown(sample), cells.join("  ")));
            }
        }
        if !form.script && (form.verbose || now.len() > 1) {
            out.push_str(&line);
        }
    }
    out
}

pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let (steps, mut operands) = options("iostat", arguments, "Hnpvy")?;
    let has = |letter| steps.contains(&Step::Flag(letter));
    let form = Form { script: has('H'), exact: has('p'), verbose: has('v') };
    let numbers = usage::trailing_numbers(&mut operands);
    let (interval, count) = usage::interval(&numbers)?;
    let mut before: Vec<Vec<Sample>> = Vec::new();
    let mut printed = 0;
    let mut round = 0;
    while printed < count {
        if round > 0 {
            std::thread::sleep(Duration::from_secs(interval));
        }
        let now = pools(&operands)?.iter().map(|pool| samples(pool, form.verbose)).collect::<Result<Vec<_>, _>>()?;
        if now.is_empty() {
            return Err(Failure::new("no pools available"));
        }
        if round > 0 || !has('y') || interval == 0 {
            usage::print(&report(&now, &before, form, printed == 0 || (form.verbose && !has('n'))));
            printed += 1;
        }
        before = now;
        round += 1;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(age_ns: u64, factor: u64) -> Vec<Sample> {
        let row = |name: &str, depth, space, counts: [u64; 4]| Sample { name: name.to_owned(), depth, space, counts: counts.map(|count| count * factor), age_ns, is_title: false };
        vec![
            row("tank", 0, Some((100 << 20, 1946 << 20)), [20, 40, 2 << 20, 5 << 20]),
            row("mirror-0", 1, None, [20, 40, 2 << 20, 5 << 20]),
            row("vda", 2, None, [10, 20, 1 << 20, 5 << 19]),
        ]
    }

    #[test]
    fn columns_of_the_reference() {
        let form = Form { verbose: true, ..Form::default() };
        let text = report(&[pool(10_000_000_000, 1)], &[], form, true);
        let expected = "              capacity     operations     bandwidth
pool        alloc   free   read  write   read  write
----------  -----  -----  -----  -----  -----  -----
tank         100M  1.90G      2      4   205K   512K
  mirror-0      -      -      2      4   205K   512K
    vda         -      -      1      2   102K   256K
----------  -----  -----  -----  -----  -----  -----
";
        assert_eq!(text, expected);
        let form = Form { script: true, exact: true, verbose: false };
        let text = report(&[pool(20_000_000_000, 3)], &[pool(10_000_000_000, 1)], form, true);
        assert!(text.starts_with("tank\t104857600\t2040528896\t4\t8\t419430\t1048576\n"), "{text}");
    }
}
