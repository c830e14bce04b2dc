//! The devices of the board: one row each, with its windows and wires.

use std::sync::Arc;

use sim_bus::{MapError, Network as _, Node, NodeId, Region, WireId};
use sim_core::Streams;
use sim_dev::acpi::Acpi;
use sim_dev::ahci::Ahci;
use sim_dev::debug::DebugExit;
use sim_dev::e1000e::E1000e;
use sim_dev::fwcfg::FwCfg;
use sim_dev::hpet::{self, Hpet};
use sim_dev::i8042::{self, I8042};
use sim_dev::nvme::Nvme;
use sim_dev::pci::{Function, HostBridge};
use sim_dev::pit::{self, Pit};
use sim_dev::post::Post;
use sim_dev::rtc::Rtc;
use sim_dev::screen::{self, Screen};
use sim_dev::uart::Uart;
use sim_dev::virtio::{Block, Console, Entropy, Net, Personality, Virtio};
use sim_dev::{acpi, pic};
use sim_fault::{Fault, FaultDisk};
use sim_host::{MemoryDisk, SECTOR};
use sim_net::NicModel;

use crate::api::Boot;
use crate::bus::{Bus, ConsoleOut, IOAPIC, PCI_ECAM, PCI_PORTS, PIC, Slot};
use crate::config::{Board, ConfigError, DiskModel};
use crate::fabric::Line;
use crate::machine::BuildError;
use crate::map;

/// Nodes the machine reaches by name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named {
    /// By the index of their port.
    pub serial: [Option<NodeId>; 3],
    pub acpi: NodeId,
    pub screen: Option<NodeId>,
}

struct Builder<'a> {
    bus: &'a mut Bus,
}

impl Builder<'_> {
    /// Adds a node with its port windows and wires.
    fn add(
        &mut self,
        name: &'static str,
        node: Box<dyn Node>,
        ports: &[(Region, u16, u16)],
        wires: &[(u8, Line)],
    ) -> Result<NodeId, MapError> {
        let id = NodeId(self.bus.nodes.len() as u16);
        for &(region, base, length) in ports {
            self.bus.ports.insert(u64::from(base), u64::from(length), id, region)?;
        }
        self.bus.nodes.push(Slot { node, name, wires: wires.to_vec(), pci: None });
        Ok(id)
    }

    /// Plugs a function in at a PCI device number, with its BARs where firmware would put them and INTA# on its interrupt line. `space` finds the
    /// configuration space.
    fn function<N: Node + 'static>(
        &mut self,
        name: &'static str,
        device: u8,
        mut function: N,
        space: fn(&mut N) -> &mut Function,
    ) -> Result<NodeId, MapError> {
        // A megabyte for each device is more than its BARs need.
        let mut next = map::PCI_WINDOW + (u64::from(device) << 20);
        let space = space(&mut function);
        for bar in space.bars().to_vec() {
            let base = next.next_multiple_of(bar.size);
            space.place(bar.index, base);
            next = base + bar.size;
        }
        let pirq = map::pirq(device);
        space.route(map::pirq_isa(pirq));
        let id = self.add(name, Box::new(function), &[], &[(0, Line::Pirq(pirq))])?;
        self.plug(device, id);
        Ok(id)
    }

    fn virtio<P: Personality + 'static>(&mut self, name: &'static str, device: u8, personality: P) -> Result<NodeId, MapError> {
        self.function(name, device, Virtio::new(personality), Virtio::function_mut)
    }

    fn plug(&mut self, device: u8, id: NodeId) {
        self.bus.pci_slots[usize::from(device)] = Some(id);
        if let Some(slot) = self.bus.nodes.get_mut(usize::from(id.0)) {
            slot.pci = Some(device);
        }
    }
}

/// Puts all devices of `board` on `bus`.
pub(crate) fn assemble(board: &Board, boot: &Boot<'_>, bus: &mut Bus) -> Result<Named, BuildError> {
    let consoles = [bus.backends.add_console(), bus.backends.add_console(), bus.backends.add_console()];
    bus.consoles = vec![ConsoleOut::default(); consoles.len()];

    bus.ports.insert(0x20, 2, PIC, pic::MASTER)?;
    bus.ports.insert(0xa0, 2, PIC, pic::SLAVE)?;
    bus.ports.insert(0x4d0, 2, PIC, pic::EDGE_LEVEL)?;
    // The address register answers to 32-bit accesses at 0xcf8; the byte at 0xcf9 is the reset port.
    bus.ports.insert(0xcf8, 1, PCI_PORTS, Region(0))?;
    bus.ports.insert(0xcfa, 2, PCI_PORTS, Region(2))?;
    bus.ports.insert(0xcfc, 4, PCI_PORTS, Region(4))?;
    bus.mmio.insert(map::IOAPIC, 0x1000, IOAPIC, Region(0))?;
    bus.mmio.insert(map::ECAM, map::ECAM_BYTES, PCI_ECAM, Region(0))?;

    let mut builder = Builder { bus };
    let timed = board.serial_timing;
    let com1 = builder.add("com1", Box::new(Uart::new(consoles[0], timed)), &[(Region(0), map::COM1, 8)], &[(0, Line::Isa(4))])?;
    let com2 = builder.add("com2", Box::new(Uart::new(consoles[1], timed)), &[(Region(0), map::COM2, 8)], &[(0, Line::Isa(3))])?;
    builder.add("pit", Box::new(Pit::default()), &[(pit::TIMER, 0x40, 4), (pit::PORT_61, 0x61, 1)], &[(0, Line::Isa(0))])?;
    builder.add("rtc", Box::new(Rtc::new(board.rtc_unix_seconds, board.ram)), &[(Region(0), 0x70, 2)], &[(0, Line::Isa(8))])?;
    let mut wires: Vec<(u8, Line)> = (0..24).map(|input| (input, Line::Gsi(input))).collect();
    wires.extend([
        (hpet::PIN_LEGACY, Line::LegacyReplacement),
        (hpet::PIN_LEGACY_IRQ0, Line::Replaced(0)),
        (hpet::PIN_LEGACY_IRQ8, Line::Replaced(8)),
    ]);
    let timer = builder.add("hpet", Box::new(Hpet::default()), &[], &wires)?;
    builder.bus.mmio.insert(hpet::BASE, 0x400, timer, Region(0))?;
    let acpi = builder.add(
        "acpi",
        Box::new(Acpi::default()),
        &[(acpi::PM, map::PM, 16), (acpi::SMI_CMD, map::SMI_CMD, 1), (acpi::RESET, map::RESET, 1)],
        &[(0, Line::Isa(9))],
    )?;
    builder.add(
        "i8042",
        Box::new(I8042::default()),
        &[(i8042::DATA, 0x60, 1), (i8042::COMMAND, 0x64, 1), (i8042::PORT_92, 0x92, 1)],
        &[(0, Line::Isa(1)), (1, Line::Isa(12))],
    )?;
    builder.add("debug-exit", Box::new(DebugExit), &[(Region(0), map::DEBUG_EXIT, 4)], &[])?;
    builder.add("fw-cfg", Box::new(FwCfg::new(board.ram, board.vcpus as u16)), &[(Region(0), map::FW_CFG, 2)], &[])?;
    builder.add("post", Box::new(Post::default()), &[(Region(0), 0x80, 1), (Region(1), 0xed, 1)], &[])?;
    let host = builder.add("pci-host", Box::new(HostBridge::default()), &[], &[])?;
    builder.plug(0, host);
    if boot.disks.len() > board.disks.len() {
        return Err(BuildError::Disk { index: board.disks.len(), why: "an image is given, but the board has no such disk" });
    }
    let plan: Arc<[Fault]> = board.faults.clone().into();
    builder.bus.backends.watch_marks(sim_fault::marker_texts(&plan));
    let mut device = 1;
    for (index, disk) in board.disks.iter().enumerate() {
        let image: Arc<[u8]> = boot.disks.get(index).map_or(&[][..], Vec::as_slice).into();
        if !image.len().is_multiple_of(SECTOR) || !disk.size.is_multiple_of(SECTOR as u64) {
            return Err(BuildError::Disk { index, why: "the size is not a multiple of 512" });
        }
        let sectors = (image.len() as u64).max(disk.size) / SECTOR as u64;
        if sectors == 0 {
            return Err(BuildError::Disk { index, why: "neither an image nor a size is given" });
        }
        let medium = Box::new(MemoryDisk::new(image, sectors, disk.read_only));
        let broken = FaultDisk::new(medium, index as u8, &plan, &Streams::new(board.seed), board.disk_journal);
        let id = builder.bus.backends.add_disk(Box::new(broken));
        match disk.model {
            DiskModel::VirtioBlk => builder.virtio("virtio-blk", device, Block::new(id, sectors, disk.read_only))?,
            DiskModel::Nvme => builder.function("nvme", device, Nvme::with_namespace(id, sectors, disk.read_only), Nvme::function_mut)?,
            DiskModel::Ahci => builder.function("ahci", device, Ahci::with_disk(id, sectors), Ahci::function_mut)?,
        };
        device += 1;
    }
    if board.rng {
        builder.virtio("virtio-rng", device, Entropy)?;
        device += 1;
    }
    let console = if board.virtio_console { Some(builder.virtio("virtio-con", device, Console::new(consoles[2]))?) } else { None };
    device += u8::from(console.is_some());
    let spec = board.network();
    let network = sim_net::Net::new(&spec, &board.faults, board.seed).map_err(ConfigError::Network)?;
    for (index, nic) in spec.nics.iter().enumerate() {
        let wire = WireId(index as u8);
        let (mac, link) = (spec.nic_mac(index).0, network.is_up(wire));
        let id = match nic.model {
            NicModel::E1000e => builder.function("e1000e", device, E1000e::new(wire, mac, link), E1000e::function_mut)?,
            NicModel::VirtioNet => builder.virtio("virtio-net", device, Net::new(wire, mac, link))?,
        };
        builder.bus.nics.push(id);
        device += 1;
    }
    // Last: boards without one number their nodes as they did.
    let screen = if board.screen { Some(builder.add("screen", Box::new(Screen::default()), &[(screen::CRTC, 0x3d4, 2)], &[])?) } else { None };
    if let Some(id) = screen {
        builder.bus.mmio.insert(screen::BASE, screen::BYTES, id, screen::MEMORY)?;
    }
    if !(spec.nics.is_empty() && spec.peers.is_empty()) {
        builder.bus.backends.set_network(Box::new(network));
        builder.bus.schedule_network();
    }
    Ok(Named { serial: [Some(com1), Some(com2), console], acpi, screen })
}
