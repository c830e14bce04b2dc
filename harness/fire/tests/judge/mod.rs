//! OpenZFS's own judge of pools in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use pool_fire::disk::Disk;
use pool_fire::rig::NAME;

/// `zdb` finds nothing; where `ORRERY_ZDB` does not name it, it is not asked. `name` is that of the images' folder, for one test at a time.
pub fn zdb(name: &str, disks: &[Disk]) {
    let Some(zdb) = std::env::var_os("ORRERY_ZDB") else {
        eprintln!("ORRERY_ZDB is not set: {name} is checked by ourselves only");
        return;
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("judge-{name}"));
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
