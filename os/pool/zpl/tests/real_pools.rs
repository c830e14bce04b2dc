//! Pools written by real OpenZFS, read back against the manifests made beside them.
//!
//! The images are not part of the repository: `ORRERY_POOLS` names the folder that holds them (`NAME.tar.xz`, each with images and
//! manifests). Without it these tests say so and pass nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use kif::{BlockDev, BlockError};
use pool_dmu::{DatasetKind, Datasets, Error};
use pool_judge::Image;
use pool_spa::Pool;
use pool_zpl::Filesystem;

/// An image file with an overlay that hides damage from the file itself, and keeps writes from it.
struct Rotten {
    image: Image,
    /// Reads of these byte ranges give garbage.
    rot: Vec<std::ops::Range<u64>>,
}

impl Rotten {
    /// Everything between the labels rots.
    fn rot_all(&mut self) {
        self.rot.push((4 << 20)..self.image.size_bytes() - (1 << 20));
    }
}

impl BlockDev for Rotten {
    fn size_bytes(&self) -> u64 {
        self.image.size_bytes()
    }
    fn sector_bytes(&self) -> u32 {
        512
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        self.image.read(offset, out)?;
        let end = offset + out.len() as u64;
        for range in self.rot.iter().filter(|range| range.start < end && offset < range.end) {
            let inside = index(range.start.max(offset) - offset)..index(range.end.min(end) - offset);
            out[inside].iter_mut().for_each(|byte| *byte ^= 0x5A);
        }
        Ok(())
    }
    fn write(&self, _: u64, _: &[u8]) -> Result<(), BlockError> {
        Err(BlockError::ReadOnly)
    }
    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("within one read")
}

fn unpacked(name: &str) -> Option<PathBuf> {
    // Tests run side by side; one of them unpacks.
    static UNPACKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = UNPACKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !target.join("unpacked").exists() {
        std::fs::create_dir_all(&target).expect("make a folder for the images");
        pool_judge::unpack(name, &target)?;
        File::create(target.join("unpacked")).expect("mark the folder as complete");
    }
    Some(target.join(name))
}

fn images(folder: &Path) -> Vec<Rotten> {
    let images = pool_judge::images(folder, ".img").expect("open the images");
    images.into_iter().map(|image| Rotten { image, rot: Vec::new() }).collect()
}

fn boxed(images: Vec<Rotten>) -> Vec<Box<dyn BlockDev>> {
    images.into_iter().map(|image| Box::new(image) as Box<dyn BlockDev>).collect()
}

fn hex(words: codec::Words) -> String {
    words.iter().map(|word| format!("{word:016x}")).collect()
}

/// `path -> what the manifest says`, in the form [`describe`] gives.
fn manifest(path: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(path).expect("read manifest");
    let mut out = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('|').collect();
        match fields[..] {
            ["D", mode, uid, gid, links, path] => out.insert(path.to_string(), format!("D {mode} {uid} {gid} {links}")),
            ["F", mode, uid, gid, links, size, mtime, sha, path] => {
                out.insert(path.to_string(), format!("F {mode} {uid} {gid} {links} {size} {mtime} {sha}"))
            }
            ["L", mode, uid, gid, links, path, target] => out.insert(path.to_string(), format!("L {mode} {uid} {gid} {links} {target}")),
            ["S", mode, uid, gid, links, kind, rdev, path] => {
                out.insert(path.to_string(), format!("S {mode} {uid} {gid} {links} {kind} {rdev}"))
            }
            _ => match line.split_once("  ./") {
                Some((sha, path)) if sha.len() == 64 => out.insert(format!("./{path}"), sha.to_string()),
                _ => None,
            },
        };
    }
    out
}

fn describe(fs: &Filesystem<'_>, object: u64, short: bool) -> Result<String, Error> {
    let node = fs.stat(object)?;
    let head = format!("{:o} {} {} {}", node.mode & 0o7777, node.uid, node.gid, node.links);
    Ok(match node.mode >> 12 {
        4 => format!("D {head}"),
        8 => {
            let mut data = Vec::new();
            fs.read_file::<Error>(object, |block| {
                data.extend_from_slice(block);
                Ok(())
            })?;
            let sha = hex(codec::sha256(&data));
            if short { sha } else { format!("F {head} {} {} {sha}", node.size, node.modified.0) }
        }
        10 => format!("L {head} {}", String::from_utf8_lossy(&fs.read_link(object)?)),
        kind => {
            let name = BTreeMap::from([(1, "fifo"), (2, "character special file"), (6, "block special file"), (12, "socket")])[&kind];
            format!("S {head} {name} {:x}:{:x}", node.rdev >> 20, node.rdev & 0xF_FFFF)
        }
    })
}

fn walk(fs: &Filesystem<'_>, object: u64, path: &str, short: bool, out: &mut BTreeMap<String, String>) -> Result<(), Error> {
    let about = describe(fs, object, short)?;
    if !short || !about.contains(' ') {
        out.insert(path.to_string(), about);
    }
    if fs.stat(object)?.mode >> 12 == 4 {
        for entry in fs.read_dir(object)? {
            let name = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            walk(fs, entry.object, &name, short, out)?;
        }
    }
    Ok(())
}

/// Compares every file system and snapshot that has a manifest; returns how many entries were compared.
fn compare_all(folder: &Path, pool: &Pool) -> usize {
    let datasets = Datasets::open(pool).expect("open the dataset tree");
    let mut compared = 0;
    for info in datasets.list(pool.name()).expect("list datasets") {
        let file = folder.join(format!("manifest.{}.txt", info.name.replace('/', "_").replace('@', "~")));
        if !file.exists() {
            continue;
        }
        let wanted = manifest(&file);
        let fs = Filesystem::open(datasets.open_dataset(&info).expect("open dataset")).expect("open file system");
        let mut found = BTreeMap::new();
        let short = wanted.values().all(|about| !about.contains(' '));
        walk(&fs, fs.root(), ".", short, &mut found).expect("read every file");
        for (path, about) in &wanted {
            assert_eq!(found.get(path), Some(about), "{}: {path}", info.name);
        }
        assert_eq!(found.len(), wanted.len(), "{}: as many entries as the manifest has", info.name);
        compared += wanted.len();
    }
    compared
}

#[test]
fn every_file_of_every_dataset_and_snapshot_matches_its_manifest() {
    for (name, entries) in [("p01nofeat", 150), ("p02min", 6000), ("p03mirror", 100), ("p07raidz2", 50)] {
        let Some(folder) = unpacked(name) else { return };
        let pool = Pool::import(boxed(images(&folder)), Some(name)).expect("import");
        let compared = compare_all(&folder, &pool);
        assert!(compared >= entries, "{name}: only {compared} entries were compared");
    }
}

#[test]
fn datasets_are_listed_as_zfs_lists_them() {
    for name in ["p01nofeat", "p02min", "p03mirror", "p07raidz2"] {
        let Some(folder) = unpacked(name) else { return };
        let pool = Pool::import(boxed(images(&folder)), None).expect("import");
        let datasets = Datasets::open(&pool).expect("open the dataset tree");
        let mut found: Vec<String> = datasets
            .list(name)
            .expect("list")
            .into_iter()
            .map(|info| {
                let kind = match info.kind {
                    DatasetKind::Filesystem => "filesystem",
                    DatasetKind::Volume => "volume",
                    DatasetKind::Snapshot => "snapshot",
                };
                let origin = info.origin.unwrap_or_else(|| "-".to_string());
                format!("{}\t{kind}\t{origin}\t{}\t{}", info.name, info.dataset.guid, info.dataset.creation_txg)
            })
            .collect();
        found.sort();
        let text = std::fs::read_to_string(folder.join("zfs-list.txt")).expect("read the list");
        let mut wanted: Vec<String> = text
            .lines()
            .map(|line| {
                let field: Vec<&str> = line.split('\t').collect();
                format!("{}\t{}\t{}\t{}\t{}", field[0], field[1], field[4], field[5], field[6])
            })
            .collect();
        wanted.sort();
        assert_eq!(found, wanted);
    }
}

#[test]
fn a_mirror_with_one_rotten_side_gives_every_file_and_counts_the_errors() {
    let Some(folder) = unpacked("p03mirror") else { return };
    let mut devices = images(&folder);
    devices[0].rot_all();
    let pool = Pool::import(boxed(devices), None).expect("import");
    assert!(compare_all(&folder, &pool) > 100);
    let status = &pool.status()[0];
    let errors: Vec<u64> = status.children.iter().filter_map(|side| side.leaf.as_ref()).map(|leaf| leaf.counts.checksum_errors).collect();
    assert!(errors[0] > 0 && errors[1] == 0, "only the rotten side is blamed: {errors:?}");
}

#[test]
fn raidz2_without_two_devices_and_with_one_rotten_stripe_gives_every_file() {
    let Some(folder) = unpacked("p07raidz2") else { return };
    for (first, second) in [(0, 1), (1, 4), (2, 3)] {
        let mut devices = images(&folder);
        devices.remove(second);
        devices.remove(first);
        let pool = Pool::import(boxed(devices), None).expect("import with two devices missing");
        compare_all(&folder, &pool);
    }
    let mut devices = images(&folder);
    devices.remove(0);
    devices[2].rot_all();
    let pool = Pool::import(boxed(devices), None).expect("import with one device missing and one rotten");
    compare_all(&folder, &pool);
    // One more than the parity can bear: errors, never wrong bytes.
    let mut devices = images(&folder);
    devices.truncate(2);
    let pool = Pool::import(boxed(devices), None).expect("labels are still there");
    assert!(matches!(Datasets::open(&pool), Err(Error::Unreadable(_))));
}

#[test]
fn every_copy_of_every_block_verifies() {
    for name in ["p01nofeat", "p02min", "p03mirror", "p07raidz2"] {
        let Some(folder) = unpacked(name) else { return };
        let pool = Pool::import(boxed(images(&folder)), None).expect("import");
        let datasets = Datasets::open(&pool).expect("open the dataset tree");
        let (mut blocks, mut bad) = (0, 0);
        let mut tally = |_: &_, found: pool_spa::Scrubbed| {
            blocks += 1;
            bad += found.bad + u32::from(!found.good);
        };
        datasets.mos().verify(&mut tally).expect("verify the MOS");
        for info in datasets.list(name).expect("list") {
            datasets.open_dataset(&info).expect("open").verify(&mut tally).expect("verify a dataset");
        }
        assert!(blocks > 100, "{name}: only {blocks} blocks");
        assert_eq!(bad, 0, "{name}: bad copies");
    }
}

#[test]
fn a_scrub_finds_rot_on_every_side_and_column() {
    for (name, rotten) in [("p03mirror", 0), ("p03mirror", 1), ("p07raidz2", 0), ("p07raidz2", 3)] {
        let Some(folder) = unpacked(name) else { return };
        let mut devices = images(&folder);
        devices[rotten].rot_all();
        let pool = Pool::import(boxed(devices), None).expect("import");
        let datasets = Datasets::open(&pool).expect("open the dataset tree");
        let (mut bad, mut lost) = (0, 0);
        datasets
            .mos()
            .verify(&mut |_, found| {
                bad += found.bad;
                lost += u32::from(!found.good);
            })
            .expect("verify the MOS");
        assert!(bad > 20 && lost == 0, "{name}: {bad} bad places, {lost} lost blocks");
        let leaves: Vec<u64> = pool.status()[0].children.iter().filter_map(|leaf| leaf.leaf.as_ref()).map(|leaf| leaf.counts.checksum_errors).collect();
        for (index, errors) in leaves.iter().enumerate() {
            assert_eq!(*errors > 0, index == rotten, "{name}: {leaves:?}");
        }
    }
}

#[test]
fn random_damage_never_panics_and_never_gives_wrong_bytes() {
    let Some(folder) = unpacked("p01nofeat") else { return };
    let mut seed = 0x2545_F491_4F6C_DD1D_u64;
    for _ in 0..20 {
        let mut devices = images(&folder);
        for _ in 0..400 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = (4 << 20) + seed % (16 << 20);
            devices[0].rot.push(at..at + 8);
        }
        let Ok(pool) = Pool::import(boxed(devices), None) else { continue };
        let Ok(datasets) = Datasets::open(&pool) else { continue };
        let Ok(list) = datasets.list("p01nofeat") else { continue };
        for info in list {
            let Ok(fs) = datasets.open_dataset(&info).and_then(Filesystem::open) else { continue };
            let wanted = manifest(&folder.join(format!("manifest.{}.txt", info.name.replace('@', "~"))));
            for (path, about) in wanted {
                if let Ok(found) = fs.lookup(path.as_bytes()).and_then(|object| describe(&fs, object, false)) {
                    assert_eq!(found, about, "{path} is right or an error");
                }
            }
        }
    }
}
