//! The boot in order.

use alloc::string::String;

use boot::{BootError, BootInfo, PhysRange, RegionKind};
use drv::acpi::{self, Tables};
use hal::port::Ports;
use hal::time::Reference;
use kif::OutOfMemory;

use crate::machine::{LOG, Machine, RANDOM};
use crate::threads::ZoneShares;
use crate::{HEAP, console, disks, power, stats, threads, userland};

/// The kernel's first function, on the boot stack, interrupts off.
pub fn start(boot: Result<BootInfo, BootError>) -> ! {
    hal::percpu::init();
    console::init();
    let boot = boot.unwrap_or_else(|error| panic!("{error}"));
    memory(&boot);
    kif::install(&Machine);
    hal::paging::init_cpu();
    greet(&boot);
    let tables = tables(&boot);
    power::configure(&tables);
    clock(&tables);
    interrupts(&tables).expect("memory for device mappings at boot");
    threads::init(1).expect("memory for the first threads at boot");
    hal::cpu::interrupts_on();
    zone::install_scheduler(&ZoneShares);
    zone::init_global("orrery");
    userland::mount_root(&boot);
    userland::mount_system();
    console::start_terminals(&tables).expect("memory for terminals at boot");
    disks::start();
    userland::start_processes().expect("memory for the process layer at boot");
    userland::describe_machine(&boot);
    stats::register(1);
    userland::start_pools();
    userland::start_init(&boot);
    threads::leave()
}

/// Physical memory: the kernel's page tables, then the frame allocator with all that is left.
fn memory(boot: &BootInfo) {
    // Tables for the direct map come first, from the largest run below 4 GiB: 2 pages per GiB, some for the image.
    let mut largest = PhysRange::default();
    boot.usable(|range| {
        let range = PhysRange { start: range.start, end: range.end.min(1 << 32) };
        if range.len() > largest.len() {
            largest = range;
        }
    });
    let early_bytes = (64 + 2 * (boot.memory_end() >> 30)) * 4096;
    assert!(largest.len() > 2 * early_bytes, "too little memory: {} KiB in one piece", largest.len() >> 10);
    let early = PhysRange { start: largest.start, end: largest.start + early_bytes };
    let image = hal::paging::Image {
        physical: boot.image.physical,
        text_end: boot.image.text_end,
        rodata_end: boot.image.rodata_end,
        data_end: boot.image.data_end,
        end: boot.image.end,
        boot_stack_guard: boot.image.boot_stack_guard,
    };
    let ram = boot.regions().iter().filter(|region| region.kind != RegionKind::Reserved).map(|region| (region.range.start, region.range.end));
    hal::paging::init(&image, ram, (early.start, early.end));
    let mut ranges = [(0, 0); 2 * boot::MAX_REGIONS];
    let mut count = 0;
    boot.usable(|range| {
        let start = if range.start == early.start { early.end } else { range.start };
        if count < ranges.len() && start < range.end {
            ranges[count] = (start, range.end);
            count += 1;
        }
    });
    assert!(heap::adopt!(HEAP, hal::paging::DIRECT_MAP, ranges[..count].iter().copied()), "no room for the frame table");
}

fn greet(boot: &BootInfo) {
    if boot.command_line.words().any(|word| word == "quiet") {
        LOG.set_quiet();
    }
    let (free, total) = kif::frames().free_total();
    kif::log().line(format_args!("orrery {} started by {:?}", env!("CARGO_PKG_VERSION"), boot.loader));
    kif::log().line(format_args!("memory: {} MiB, {} MiB free", total >> 8, free >> 8));
    kif::log().line(format_args!("command line: {}", boot.command_line.text()));
    if boot.command_line.dropped > 0 {
        kif::log().line(format_args!("command line: {} bytes too long, dropped", boot.command_line.dropped));
    }
}

fn tables(boot: &BootInfo) -> Tables {
    let Some(rsdp) = boot.rsdp else {
        kif::log().line(format_args!("acpi: no root pointer; no interrupt wiring, no power-off"));
        return Tables::default();
    };
    let tables = acpi::tables(&rsdp, &hal::paging::read_physical);
    for name in &tables.ignored {
        kif::log().line(format_args!("acpi: table {} makes no sense, ignored", String::from_utf8_lossy(name)));
    }
    tables
}

/// Calibrates the TSC, reads the wall clock, seeds the random-number generator.
fn clock(tables: &Tables) {
    let (source, hz) = if let Some(port) = tables.pm_timer {
        hal::time::calibrate(&Reference::PmTimer(&Ports::claim(port, 4)))
    } else if let Some(Ok(registers)) = tables.hpet.map(|address| hal::paging::map_device(address, 0x400)) {
        let period = u64::from(registers.read32(4));
        hal::time::calibrate(&Reference::Hpet(&registers, period))
    } else {
        hal::time::calibrate(&Reference::Pit)
    };
    kif::log().line(format_args!("clock: TSC at {}.{:03} MHz ({source:?})", hz / 1_000_000, hz / 1000 % 1000));
    let seconds = drv::rtc::seconds(&RtcPorts(Ports::claim(0x70, 2)), tables.century);
    hal::time::set_wall_clock(seconds.unwrap_or(0));
    let hardware = [(); 4].map(|()| hal::cpu::hardware_random().unwrap_or_default());
    RANDOM.seed(&hardware);
    RANDOM.seed(&[hal::cpu::timestamp(), seconds.unwrap_or(0), hz]);
}

struct RtcPorts(Ports);

impl drv::rtc::Cmos for RtcPorts {
    fn read(&self, register: u8) -> u8 {
        self.0.write8(0, register);
        self.0.read8(1)
    }
}

fn interrupts(tables: &Tables) -> Result<(), OutOfMemory> {
    hal::apic::init_local(tables.local_apic)?;
    for apic in &tables.io_apics {
        hal::apic::add_io_apic(apic.address, apic.first)?;
    }
    if tables.io_apics.is_empty() {
        kif::log().line(format_args!("no IOAPIC: devices have no interrupts"));
    }
    kif::log().line(format_args!("{} processors, 1 used", tables.processors.len().max(1)));
    Ok(())
}
