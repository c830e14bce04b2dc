//! The machine's own kstats: `unix:0:system_misc`, `unix:0:system_pages`, `cpu:N:sys`, `zfs:0:arcstats`, and what zones do with files and disks:
//! `zone_vfs:ID:NAME`, `zone_zfs:ID:NAME`.

use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use kif::{CpuId, ZoneId};
use probe::{Audience, Registration, Sink, Source, Value};
use sync::{Class, Mutex};
use zone::{Hook, Scheduler, Zone};

use crate::threads::{self, ZoneShares};

struct SystemMisc {
    cpus: u32,
}

impl Source for SystemMisc {
    fn read(&self, sink: &mut dyn Sink) {
        let load = ZoneShares.usage(ZoneId::GLOBAL).load;
        for (name, load) in ["avenrun_1min", "avenrun_5min", "avenrun_15min"].into_iter().zip(load) {
            sink.value(name, Value::U64(load.into()));
        }
        let clock = kif::clock();
        let now = clock.monotonic();
        sink.value("boot_time", Value::U64(clock.realtime().since(now).0 / 1_000_000_000));
        sink.value("ncpus", Value::U64(self.cpus.into()));
        sink.value("nproc", Value::U64(zone::live().iter().map(|zone| zone.processes()).sum()));
        sink.value("nzones", Value::U64(zone::live().len() as u64));
        sink.value("uptime_ns", Value::U64(now.0));
    }
}

struct SystemPages;

impl Source for SystemPages {
    fn read(&self, sink: &mut dyn Sink) {
        let (free, total) = kif::frames().free_total();
        sink.value("freemem", Value::U64(free));
        sink.value("physmem", Value::U64(total));
        sink.value("pagestotal", Value::U64(total));
        sink.value("pagesfree", Value::U64(free));
    }
}

struct CpuSys {
    cpu: CpuId,
}

impl Source for CpuSys {
    fn read(&self, sink: &mut dyn Sink) {
        let (user, system, idle, switches) = threads::cpu_times(self.cpu);
        sink.value("cpu_nsec_user", Value::U64(user.0));
        sink.value("cpu_nsec_kernel", Value::U64(system.0));
        sink.value("cpu_nsec_idle", Value::U64(idle.0));
        sink.value("pswitch", Value::U64(switches));
    }
}

/// The cache of pools' files.
struct ArcStats;

impl Source for ArcStats {
    fn read(&self, sink: &mut dyn Sink) {
        let stats = pool_fs::cache_stats();
        let mut number = |name: &str, value: u64| sink.value(name, Value::U64(value));
        number("hits", stats.hits + stats.prefetch_hits);
        number("misses", stats.misses + stats.prefetch_misses);
        number("demand_data_hits", stats.hits);
        number("demand_data_misses", stats.misses);
        number("prefetch_data_hits", stats.prefetch_hits);
        number("prefetch_data_misses", stats.prefetch_misses);
        number("mru_hits", stats.mru_hits);
        number("mru_ghost_hits", stats.mru_ghost_hits);
        number("mfu_hits", stats.mfu_hits);
        number("mfu_ghost_hits", stats.mfu_ghost_hits);
        number("deleted", stats.deleted);
        number("evict_skip", stats.evict_skip);
        number("hash_elements", stats.elements);
        number("p", stats.p);
        number("c", stats.c);
        number("c_min", stats.c_min);
        number("c_max", stats.c_max);
        number("size", stats.size);
        number("mru_size", stats.mru_size);
        number("mfu_size", stats.mfu_size);
        number("mru_ghost_size", stats.mru_ghost_size);
        number("mfu_ghost_size", stats.mfu_ghost_size);
        let second = pool_fs::second_stats();
        number("l2_hits", second.hits);
        number("l2_misses", second.misses);
        number("l2_feeds", second.feeds);
        number("l2_read_bytes", second.read_bytes);
        number("l2_write_bytes", second.write_bytes);
        number("l2_writes_sent", second.writes_sent);
        number("l2_writes_error", second.writes_error);
        number("l2_cksum_bad", second.cksum_bad);
        number("l2_io_error", second.io_error);
        number("l2_size", second.size);
        number("l2_asize", second.asize);
        number("l2_hdr_size", second.hdr_size);
    }
}

/// What a zone does through files.
struct ZoneVfs(ZoneId, alloc::string::String);

impl Source for ZoneVfs {
    fn read(&self, sink: &mut dyn Sink) {
        let io = vfs::zoneio::of(self.0);
        sink.value("zonename", Value::String(self.1.clone()));
        let mut number = |name: &str, value: u64| sink.value(name, Value::U64(value));
        for (flow, names) in [
            (io.reads, ["nread", "reads", "rtime", "rlentime", "rcnt"]),
            (io.writes, ["nwritten", "writes", "wtime", "wlentime", "wcnt"]),
        ] {
            for (name, value) in names.into_iter().zip([flow.bytes, flow.operations, flow.busy.0, flow.length.0, flow.pending]) {
                number(name, value);
            }
        }
        for (name, count) in ["10ms_ops", "100ms_ops", "1s_ops", "10s_ops"].into_iter().zip(io.slow) {
            number(name, count);
        }
        number("delay_cnt", io.delays);
        number("delay_time", io.delayed_us);
    }
}

/// What a zone reads from the disks of pools.
struct ZoneZfs(ZoneId, alloc::string::String);

impl Source for ZoneZfs {
    fn read(&self, sink: &mut dyn Sink) {
        let reads = pool_fs::zone_reads(self.0);
        sink.value("zonename", Value::String(self.1.clone()));
        let mut number = |name: &str, value: u64| sink.value(name, Value::U64(value));
        number("nread", reads.reads.bytes);
        number("reads", reads.reads.operations);
        number("rtime", reads.reads.busy.0);
        // In progress at the disks: without those that queue.
        number("rlentime", reads.reads.length.0.saturating_sub(reads.waited.0));
        // Writes belong to transaction groups, not to zones.
        number("nwritten", 0);
        number("writes", 0);
        number("waittime", reads.waited.0);
        number("cached_bytes", pool_fs::cached_by(self.0));
    }
}

static ZONES: Mutex<Vec<(ZoneId, [Registration; 2])>> = Mutex::new(Class::Zone, Vec::new());

fn zone_created(zone: &Arc<Zone>) {
    let id = zone.id();
    let audience = if id == ZoneId::GLOBAL { Audience::Global } else { Audience::Zone(id) };
    let name = || zone.name().to_string();
    let registrations = [
        probe::register("zone_vfs", id.0, zone.name(), "zone_vfs", audience, Arc::new(ZoneVfs(id, name()))),
        probe::register("zone_zfs", id.0, zone.name(), "zone_zfs", audience, Arc::new(ZoneZfs(id, name()))),
    ];
    ZONES.lock().push((id, registrations));
}

fn zone_destroyed(zone: &Arc<Zone>) {
    let id = zone.id();
    let gone: Vec<_> = {
        let mut zones = ZONES.lock();
        let (gone, kept) = core::mem::take(&mut *zones).into_iter().partition(|(known, _)| *known == id);
        *zones = kept;
        gone
    };
    drop(gone);
    vfs::zoneio::forget(id);
    pool_fs::forget_zone(id);
}

/// Publishes them, for the life of the kernel.
pub fn register(cpus: u32) {
    // Tenants see how many CPUs there are, and the machine's load only as the global zone's: system_misc is not for them.
    probe::register("unix", 0, "system_misc", "misc", Audience::Global, Arc::new(SystemMisc { cpus })).forever();
    probe::register("unix", 0, "system_pages", "pages", Audience::Global, Arc::new(SystemPages)).forever();
    probe::register("zfs", 0, "arcstats", "misc", Audience::Global, Arc::new(ArcStats)).forever();
    zone_created(zone::global());
    zone::register_hook(Hook {
        name: "statistics",
        created: |zone| {
            zone_created(zone);
            Ok(())
        },
        shutdown: |_| {},
        destroyed: zone_destroyed,
    });
    for cpu in 0..cpus {
        probe::register("cpu", cpu, "sys", "misc", Audience::All, Arc::new(CpuSys { cpu: CpuId(cpu) })).forever();
    }
}
