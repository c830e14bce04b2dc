//! Proof by fire of the pool: power cuts, broken disks, damaged structures, random operations, all on disks in memory.
//!
//! # Theory
//! A workload runs on a pool whose disks note every write and flush. Afterwards the state of the disks at any moment can be made again, with
//! what a write cache may have kept or lost ([`disk::Replay`]), and the pool opened from it: whatever was acknowledged must be there, whatever was not must be
//! there whole or not at all, and the full check ([`pool_dmu::check`]) must find nothing. The same workload runs on disks that lie, fail and
//! vanish ([`matrix`]), and from random seeds with kills between ([`ztest`]). What the kernel has above the library, with its locks and threads, is tried with tasks that take turns
//! as a seed decides ([`storm`]).
//!
//! # Structures
//! [`disk`] (disks and journals), [`rig`] (pools and layouts), [`work`] (the workload and its model), [`atlas`], [`matrix`], [`ztest`], [`storm`], [`fuzz`] with [`lie`], [`streams`] and [`watch`], [`relic`] (a pool of OpenZFS); for judges
//! from outside (`zdb`, `module`, `grub` beside this crate) [`image`] and [`listing`].
//!
//! # Failure
//! Every finding names its seed, layout and cut; the same arguments find it again. The library under test must not panic: a panic is a finding like any other,
//! and ends the run.
//!
//! # Limits
//! Disks of 80 MiB, files up to a few hundred KiB: the point is the number of states, not their size.
pub mod atlas;
pub mod disk;
pub mod family;
pub mod fuzz;
pub mod image;
pub mod lie;
pub mod listing;
pub mod matrix;
pub mod relic;
pub mod rig;
pub mod storm;
pub mod streams;
pub mod watch;
pub mod work;
pub mod ztest;

/// The layout that a seed chooses.
#[must_use]
pub fn shape_of(seed: u64) -> &'static rig::Shape {
    &rig::SHAPES[usize::try_from(disk::mix(seed) >> 8).unwrap_or(0) % rig::SHAPES.len()]
}

/// A batch of the power-cut atlas for a campaign: `cases` writes on a layout chosen by the seed, every write and flush a cut.
///
/// # Errors
/// The findings.
pub fn atlas_batch(seed: u64, cases: u64) -> Result<String, String> {
    let shape = shape_of(seed);
    let atlas = atlas::draw(shape, seed, atlas::Scale { writes: cases, every: 1 }, &mut |_, _| {}).map_err(|error| format!("{}: {error}", shape.name))?;
    if atlas.is_clean() { Ok(format!("{}: {atlas}", shape.name)) } else { Err(format!("{}: {atlas}; {}", shape.name, atlas.findings.join("; "))) }
}

/// A batch of random lives for a campaign: of the pool's library, one operation after another, and of the kernel's storage layer, its tasks in turns; every eighth of these is
/// lived twice, to see that it is the same.
///
/// # Errors
/// The finding.
pub fn ztest_batch(seed: u64, cases: u64) -> Result<String, String> {
    let shape = shape_of(seed);
    let lives = ztest::run(shape, seed, cases)?;
    let families = family::ztest(shape, seed, cases)?;
    let live = if (seed / cases.max(1)).is_multiple_of(8) { storm::replayed } else { storm::run };
    let turns = live(shape, seed, cases, 100)?;
    Ok(format!("{}: {lives}; of datasets: {families}; {turns}", shape.name))
}

fn told(what: &str, report: &fuzz::Report, watch: &watch::Watch) -> String {
    let classes = report.classes.iter().map(|(class, cases)| format!("{class} {cases}")).collect::<Vec<_>>().join(", ");
    let fuzz::Report { cases, fine, errors, written, .. } = report;
    format!("{cases} {what} ({classes}): {fine} fine, {errors} errors, {written} written; at most {:.1} ms and {} MiB", watch.longest.as_secs_f64() * 1e3, watch.grown >> 20)
}

/// A batch of pools that lie for a campaign.
///
/// # Errors
/// The finding.
pub fn liar_batch(seed: u64, cases: u64) -> Result<String, String> {
    let mut watch = watch::Watch::with_memory();
    fuzz::liar(seed, cases, &mut watch).map(|report| told("lies", &report, &watch))
}

/// A batch of labels that lie for a campaign.
///
/// # Errors
/// The finding.
pub fn labels_batch(seed: u64, cases: u64) -> Result<String, String> {
    let mut watch = watch::Watch::with_memory();
    fuzz::labels(seed, cases, &mut watch).map(|report| told("labels", &report, &watch))
}

/// A batch of structures for the parsers, for a campaign.
///
/// # Errors
/// The finding.
pub fn parsers_batch(seed: u64, cases: u64) -> Result<String, String> {
    let mut watch = watch::Watch::with_memory();
    fuzz::parsers(seed, cases, &mut watch).map(|report| told("structures", &report, &watch))
}

/// A batch of send streams that lie for a campaign.
///
/// # Errors
/// The finding.
pub fn streams_batch(seed: u64, cases: u64) -> Result<String, String> {
    let mut watch = watch::Watch::with_memory();
    let whole = streams::noise(seed, cases);
    streams::lies(seed, cases, &mut watch).map(|report| format!("{}; {cases} of noise, {whole} of them whole", told("streams", &report, &watch)))
}
