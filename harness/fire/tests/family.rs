//! Lives of datasets, judged by our own checks and, where `ORRERY_ZDB` names it, by OpenZFS's `zdb`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use pool_fire::disk::Disk;
use pool_fire::family;
use pool_fire::rig::{NAME, SHAPES};

fn judge(name: &str, disks: &[Disk]) {
    let Some(zdb) = std::env::var_os("ORRERY_ZDB") else {
        eprintln!("ORRERY_ZDB is not set: {name} is checked by ourselves only");
        return;
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("family-{name}"));
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir_all(&folder).expect("make a folder");
    for (index, disk) in disks.iter().enumerate() {
        let file = File::create(folder.join(format!("d{index}"))).expect("make an image");
        file.set_len(kif::BlockDev::size_bytes(disk)).expect("size it");
        for (page, data) in disk.pages().iter() {
            file.write_all_at(data, page * 4096).expect("write it");
        }
    }
    for flags in ["-bcc", "-dddd"] {
        let output = Command::new(&zdb).arg("-e").arg("-p").arg(&folder).arg(flags).arg(NAME).output().expect("run zdb");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "zdb {flags} {name}: {}\n{}", output.status, text.lines().rev().take(30).collect::<Vec<_>>().join("\n"));
        let complaint = text.lines().find(|line| line.contains("leaked:") || line.contains("ERROR") || line.contains("errors"));
        assert_eq!(complaint, None, "zdb {flags} {name}");
    }
    drop(std::fs::remove_dir_all(&folder));
}

/// Operations of a longer search: `ORRERY_FAMILY=N`.
fn operations(least: u64) -> u64 {
    std::env::var("ORRERY_FAMILY").ok().and_then(|text| text.parse().ok()).unwrap_or(least)
}

#[test]
fn datasets_come_and_go_and_every_sum_stays_right() {
    for (index, shape) in (0_u64..).zip([&SHAPES[0], &SHAPES[3]]) {
        for seed in 0..2 {
            let (report, disks) = family::run(shape, 100 * index + seed, operations(150)).expect("no finding");
            eprintln!("{}: {report}", shape.name);
            judge(&format!("{}-{seed}", shape.name), &disks);
        }
    }
}

#[test]
fn a_cut_shows_the_family_before_or_after() {
    let report = family::cuts(&SHAPES[0], 7, operations(60), 24).expect("no finding");
    eprintln!("{report}");
    assert!(report.cuts > 20, "{report}");
}
