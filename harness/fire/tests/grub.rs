//! GRUB reads files of our pools: another reader of the format, with no code in common with OpenZFS's.
//!
//! `grub-fstest` comes with the packages that `./run --setup` installs; without it nothing is tried.

use std::path::Path;
use std::process::Command;

use pool_fire::image;
use pool_fire::rig::{self, NAME, NEW, NOW, SHAPES};
use pool_fire::work::{Model, Work};
use pool_zpl::{Make, Writer, create_filesystem};

/// Files compared per dataset.
const FILES: usize = 6;

fn compare(folder: &Path, disks: usize, dataset: &str, files: &Model) {
    let whole = |path: &&String| !path.ends_with('/');
    for path in files.keys().filter(whole).take(FILES) {
        let local = folder.join("local");
        std::fs::write(&local, &files[path]).expect("write what it must be");
        let mut grub = Command::new("grub-fstest");
        grub.arg("-c").arg(disks.to_string());
        grub.args((0..disks).map(|index| folder.join(format!("disk{index}"))));
        grub.arg("cmp").arg(format!("(loop0)/{dataset}{path}")).arg(&local);
        let output = grub.output().expect("run grub-fstest");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && text.trim().is_empty(), "GRUB at {dataset}{path}: {}\n{text}", output.status);
    }
}

#[test]
fn grub_reads_files_of_every_layout() {
    if Command::new("grub-fstest").arg("--version").output().is_err() {
        eprintln!("there is no grub-fstest here");
        return;
    }
    for shape in SHAPES.iter().filter(|shape| !shape.log) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("grub-{}", shape.name));
        drop(std::fs::remove_dir_all(&folder));
        let (disks, mut store) = rig::create(shape, 3).expect("create");
        let mut work = Work::new(3);
        for _ in 0..120 {
            work.step(&mut store).expect("an operation");
        }
        store.snapshot(NAME, "then", NOW.0).expect("snapshot");
        let then = work.model.clone();
        for _ in 0..40 {
            work.step(&mut store).expect("an operation");
        }
        let home = format!("{NAME}/home");
        create_filesystem(&mut store, &home, &NEW).expect("make a file system");
        let dataset = store.find(&home).expect("find");
        let mut writer = Writer::open(&mut store, dataset).expect("open");
        let root = writer.root();
        let file = writer.make(root, b"large", Make::File, &NEW).expect("make");
        let large: Vec<u8> = (0..700_000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        writer.write(file, 0, &large, NOW).expect("write");
        store.export(NOW.0).expect("export");
        image::save(&disks, &folder).expect("save the images");
        compare(&folder, shape.disks, "@", &work.model);
        compare(&folder, shape.disks, "@then", &then);
        compare(&folder, shape.disks, "home@", &Model::from([("/large".to_owned(), large)]));
        drop(std::fs::remove_dir_all(&folder));
    }
}
