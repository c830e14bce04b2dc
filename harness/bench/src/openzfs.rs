//! OpenZFS's own kernel module beside our pool, in the same unit: guest instructions.
//!
//! Debian's Linux with the module boots on the same board (more memory apart) with the same three disks, and the same program, `bench_os`, does the same
//! operations on a pool with the same properties: OpenZFS's defaults (fletcher4, no compression, blocks of 128 KiB, atime). Both are
//! counted by [`pool`](crate::pool) from mark to mark, so time that a disk takes counts on neither side.
//!
//! What is not the same: Linux's own timers, its kernel threads and the waits of OpenZFS's task queues are counted with what they interrupt; its `zpool` and
//! `zfs` are dynamically linked, which is why the cost of starting them is taken off ([`net`]).

use sim_board::Boot;

use crate::BenchError;
use crate::os::{Cost, PROGRAM};
use crate::pool::Watch;

/// The kernel's words go where nobody listens; processor bugs are not guarded against, as in our kernel. A tick is an iteration of a repeated
/// instruction, whatever its width: without ERMS Linux copies eight bytes at a time and not one, as our kernel does.
const APPEND: &str = "console=ttyS1 quiet panic=-1 mitigations=off clearcpuid=erms random.trust_cpu=on";
/// OpenZFS would not keep the file that is read in the memory that is ours.
const RAM: u64 = 1 << 30;

/// `/init` of the initial RAM disk that `harness/fire/module` makes, in place of its own.
pub fn init() -> String {
    format!(
        "#!/bin/busybox sh
export PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
while read -r name; do
    case $name in *9p*) ;; *) insmod /modules/$name.ko || echo \"@F module $name is not loaded\" >/dev/ttyS0 ;; esac
done </modules/order
# What a write may come to at worst, against the space of these small pools: each would wait for a commit.
echo 3 >/sys/module/zfs/parameters/spa_asize_inflation
# A partition of each disk, as zpool makes it: without udev it does not come to see its own.
label() {{
    {{ printf '\\0\\0\\0\\0\\277\\0\\0\\0\\0\\010\\0\\0'; printf \"$2\"; }} | dd of=/dev/$1 bs=1 seek=446 conv=notrunc
    printf '\\125\\252' | dd of=/dev/$1 bs=1 seek=510 conv=notrunc
    blockdev --rereadpt /dev/$1
}}
{{ label vda '\\0\\270\\003\\0'; label vdb '\\0\\270\\003\\0'; label vdc '\\0\\270\\005\\0'; }} 2>/dev/null
{PROGRAM} --openzfs >/dev/ttyS0 2>&1
poweroff -f
"
    )
}

/// Boots and measures.
///
/// # Errors
/// The program's end is not reached, or the program says what went wrong.
pub fn run(kernel: &[u8], initrd: &[u8]) -> Result<Vec<Cost>, BenchError> {
    Watch::boot(&Boot::new(kernel, Some(initrd), APPEND), Some(RAM))?.costs()
}

/// What an operation costs without the command that asks for it and without what an empty commit costs.
pub fn net(costs: &[Cost], name: &str) -> Option<u64> {
    let value = |name: &str| costs.iter().find(|cost| cost.name == name).and_then(|cost| cost.value.clone().ok());
    let command = ["clone", "import", "scrub", "snapshot"].iter().any(|stem| name.starts_with(stem)).then(|| value("command")).flatten();
    let commit = match name {
        "commit_4k" => value("commit_nothing").map(|ticks| ticks / 512),
        "commit_128k" => value("commit_nothing").map(|ticks| ticks / 64),
        "commit_nothing" => None,
        _ if name.starts_with("commit_") => value("commit_nothing").map(|ticks| ticks / 16),
        _ if name.starts_with("snapshot_delete") => value("commit_nothing"),
        _ => None,
    };
    Some(value(name)?.saturating_sub(command.unwrap_or(0) + commit.unwrap_or(0)))
}
