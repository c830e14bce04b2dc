//! The kstats of a zone (reference: zones(7) of illumos, names users expect).

use alloc::format;
use alloc::string::ToString;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use kif::ZoneId;
use probe::{Audience, Counter, Registration, Sink, Source, Value};

use crate::rctl::Rctl;
use crate::{Zone, sched};

/// Counters that other layers bump.
#[derive(Debug, Default)]
pub struct Counters {
    /// Forks refused by a limit of the zone.
    pub forkfail_cap: Counter,
    /// Forks refused because the process table is full.
    pub forkfail_noproc: Counter,
    /// Forks refused for want of memory.
    pub forkfail_nomem: Counter,
    /// Forks refused for any other reason.
    pub forkfail_misc: Counter,
    /// System calls made.
    pub syscalls: Counter,
    /// Page faults resolved.
    pub faults: Counter,
    /// Allocations refused by the memory cap.
    pub anon_alloc_fail: Counter,
}

struct ZoneSource(Weak<Zone>);

impl Source for ZoneSource {
    fn read(&self, sink: &mut dyn Sink) {
        let Some(zone) = self.0.upgrade() else { return };
        let usage = sched::get().usage(zone.id());
        let mut number = |name: &str, value: u64| sink.value(name, Value::U64(value));
        number("nsec_user", usage.user.0);
        number("nsec_sys", usage.system.0);
        number("nsec_waitrq", usage.wait.0);
        for (name, load) in ["avenrun_1min", "avenrun_5min", "avenrun_15min"].into_iter().zip(usage.load) {
            number(name, load.into());
        }
        let stats = &zone.stats;
        number("forkfail_cap", stats.forkfail_cap.get());
        number("forkfail_noproc", stats.forkfail_noproc.get());
        number("forkfail_nomem", stats.forkfail_nomem.get());
        number("forkfail_misc", stats.forkfail_misc.get());
        number("syscalls", stats.syscalls.get());
        number("faults", stats.faults.get());
        number("nprocs", zone.processes());
        number("nlwps", zone.rctl_usage(Rctl::MaxLwps).unwrap_or(0));
        number("cpu_shares", zone.rctl(Rctl::CpuShares));
        number("init_pid", zone.init_pid().unwrap_or(0).into());
        number("boot_time", zone.booted_at_realtime().0 / 1_000_000_000);
        sink.value("zonename", Value::String(zone.name().to_string()));
    }
}

struct MemorySource(Weak<Zone>);

impl Source for MemorySource {
    fn read(&self, sink: &mut dyn Sink) {
        let Some(zone) = self.0.upgrade() else { return };
        sink.value("rss", Value::U64(kif::frames().charged_bytes(zone.id())));
        sink.value("physcap", Value::U64(zone.rctl(Rctl::MaxPhysicalMemory)));
        sink.value("anon_alloc_fail", Value::U64(zone.stats.anon_alloc_fail.get()));
        sink.value("zonename", Value::String(zone.name().to_string()));
    }
}

struct CapSource(Weak<Zone>);

impl Source for CapSource {
    fn read(&self, sink: &mut dyn Sink) {
        let Some(zone) = self.0.upgrade() else { return };
        sink.value("value", Value::U64(zone.rctl(Rctl::CpuCap)));
        sink.value("zonename", Value::String(zone.name().to_string()));
    }
}

/// Registers the kstats of a new zone; they go with the returned registrations.
pub(crate) fn register(zone: &Arc<Zone>) -> Vec<Registration> {
    let id = zone.id().0;
    let audience = if zone.id() == ZoneId::GLOBAL { Audience::Global } else { Audience::Zone(zone.id()) };
    let weak = || Arc::downgrade(zone);
    [
        ("zones", zone.name().to_string(), "zone_misc", Arc::new(ZoneSource(weak())) as Arc<dyn Source>),
        ("memory_cap", zone.name().to_string(), "zone_memory_cap", Arc::new(MemorySource(weak()))),
        ("caps", format!("cpucaps_zone_{id}"), "zone_caps", Arc::new(CapSource(weak()))),
    ]
    .into_iter()
    .map(|(module, name, class, source)| probe::register(module, id, &name, class, audience, source))
    .collect()
}
