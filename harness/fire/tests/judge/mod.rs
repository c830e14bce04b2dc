//! OpenZFS's own judge of pools in memory.

use pool_fire::disk::Disk;
use pool_fire::image;
use pool_fire::rig::NAME;

/// `zdb` finds nothing; where `ORRERY_ZDB` does not name it, it is not asked. `name` is that of the images' folder, for one test at a time.
pub fn zdb(name: &str, disks: &[Disk]) {
    zdb_of(name, NAME, disks);
}

/// The same for a pool of another name.
pub fn zdb_of(name: &str, pool: &str, disks: &[Disk]) {
    let folder = pool_judge::scratch(env!("CARGO_TARGET_TMPDIR"), &format!("judge-{name}"));
    image::save(disks, &folder).expect("save the images");
    pool_judge::zdb(&folder, pool).unwrap_or_else(|complaint| panic!("{name}: {complaint}"));
    drop(std::fs::remove_dir_all(&folder));
}
