//! The machine's own kstats: `unix:0:system_misc`, `unix:0:system_pages`, `cpu:N:sys`.

use alloc::sync::Arc;

use kif::{CpuId, ZoneId};
use probe::{Audience, Sink, Source, Value};
use zone::Scheduler;

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

/// Publishes them, for the life of the kernel.
pub fn register(cpus: u32) {
    // Tenants see how many CPUs there are, and the machine's load only as the global zone's: system_misc is not for them.
    probe::register("unix", 0, "system_misc", "misc", Audience::Global, Arc::new(SystemMisc { cpus })).forever();
    probe::register("unix", 0, "system_pages", "pages", Audience::Global, Arc::new(SystemPages)).forever();
    for cpu in 0..cpus {
        probe::register("cpu", cpu, "sys", "misc", Audience::All, Arc::new(CpuSys { cpu: CpuId(cpu) })).forever();
    }
}
