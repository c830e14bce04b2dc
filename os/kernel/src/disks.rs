//! Disks: PCI as drivers see it, the disks found on it, and their device nodes.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;

use drv::pci::{Address, ConfigSpace, Machine, Message, Mmio};
use drv::virtio::block;
use hal::paging::Registers;
use hal::port::Ports;
use kif::{BlockDev, OutOfMemory};
use sync::{Class, SpinLock};

/// Local APICs listen here for messages (Intel SDM volume 3, section 11.11.1); the destination is in bits 12..19.
const MESSAGE_ADDRESS: u64 = 0xfee0_0000;

/// Configuration mechanism #1 (PCI 3.0, section 3.2.2.3.2): an address port, then a data port.
struct ConfigPorts(SpinLock<Ports>);

impl ConfigPorts {
    fn with<R>(&self, at: Address, offset: u16, body: impl FnOnce(&Ports) -> R) -> R {
        let ports = self.0.lock();
        let function = u32::from(at.bus) << 16 | u32::from(at.device) << 11 | u32::from(at.function) << 8;
        ports.write32(0, 1 << 31 | function | u32::from(offset & 0xfc));
        body(&ports)
    }
}

impl ConfigSpace for ConfigPorts {
    fn read32(&self, at: Address, offset: u16) -> u32 {
        self.with(at, offset, |ports| ports.read32(4))
    }
    fn write32(&self, at: Address, offset: u16, value: u32) {
        self.with(at, offset, |ports| ports.write32(4, value));
    }
}

struct Mapped(Registers);

impl Mmio for Mapped {
    fn read8(&self, offset: u64) -> u8 {
        self.0.read8(offset)
    }
    fn read16(&self, offset: u64) -> u16 {
        self.0.read16(offset)
    }
    fn read32(&self, offset: u64) -> u32 {
        self.0.read32(offset)
    }
    fn write8(&self, offset: u64, value: u8) {
        self.0.write8(offset, value);
    }
    fn write16(&self, offset: u64, value: u16) {
        self.0.write16(offset, value);
    }
    fn write32(&self, offset: u64, value: u32) {
        self.0.write32(offset, value);
    }
}

/// What the kernel lends PCI drivers.
struct Pci(ConfigPorts);

impl Machine for Pci {
    fn config(&self) -> &dyn ConfigSpace {
        &self.0
    }
    fn map(&self, physical: u64, len: u64) -> Result<Box<dyn Mmio>, OutOfMemory> {
        Ok(Box::new(Mapped(hal::paging::map_device(physical, len)?)))
    }
    fn interrupt(&self, handler: Box<dyn Fn() + Send + Sync>) -> Option<Message> {
        let vector = hal::trap::install(handler)?;
        // Edge-triggered, fixed delivery, to this CPU. Identifiers above 255 need interrupt remapping; CPU 0 never has one.
        let address = MESSAGE_ADDRESS | u64::from(hal::apic::local_id() & 0xff) << 12;
        Some(Message { address, data: vector.into() })
    }
}

/// Finds disks and gives them device nodes: `vda`, `vdb`, ... in order of their PCI addresses. Needs threads and interrupts.
pub fn start() {
    let machine = Pci(ConfigPorts(SpinLock::new(Class::KernelMap, Ports::claim(0xcf8, 8))));
    for function in drv::pci::scan(machine.config()) {
        if !block::matches(&function) {
            continue;
        }
        match block::attach(&machine, &function) {
            Ok(disk) => {
                let sectors = disk.size_bytes() / 512;
                let serial = format!("{}", disk.serial());
                match vfs::block::register("vd", disk as Arc<dyn BlockDev>) {
                    Some(name) => kif::log().line(format_args!("{name}: virtio disk at {}, {sectors} sectors, serial \"{serial}\"", function.address)),
                    None => kif::log().line(format_args!("disk at {}: no name is left", function.address)),
                }
            }
            Err(error) => kif::log().line(format_args!("disk at {}: cannot be used: {error:?}", function.address)),
        }
    }
}
