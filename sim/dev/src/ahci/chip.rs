//! The HBA and its port: registers, slots, the way of a command.

use sim_bus::{Access, Cx, Device, DiskId, Fields, NEVER, Nanos, RegMap, Region, Reset, Token};

use super::ata::{Answer, Ata, KIB_NS, Transfer, task_state};
use super::fis::{Broken, D2H_AT, PIO_SETUP_AT, Registers, SET_BITS_AT, Segment, TaskFile, gather, scatter, segments};
use super::regs::{CAPABILITIES, MAP, Reg, SLOTS, VERSION, cmd, ghc, irq, serr, status};

pub const FETCH: Token = Token(0);
pub const COMPLETE: Token = Token(1);
/// The link has come up: the disk sends its signature.
pub const SIGNATURE: Token = Token(2);
/// A pulled disk is looked for.
pub const LOOK: Token = Token(3);

const FETCH_NS: Nanos = 500;
const LINK_NS: Nanos = 1_000_000;
const LOOK_NS: Nanos = 10_000_000;
/// Bytes of data that commands in flight may hold.
const IN_FLIGHT_MAX: usize = 64 << 20;

/// PxSSTS: device there, 6 Gb/s, active.
const LINK_UP: u32 = 0x133;
const NO_SIGNATURE: u32 = 0xffff_ffff;
const DISK_SIGNATURE: u32 = 0x0000_0101;

/// A command on its way back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Flight {
    at: Nanos,
    slot: u8,
    /// `Some`: a queued command with this tag.
    tag: Option<u8>,
    /// Where the command header is, for the byte count.
    header: u64,
    task: TaskFile,
    data: Vec<u8>,
    to: Vec<Segment>,
    /// Bytes moved, as the header will say.
    moved: u32,
    pio: bool,
}

#[derive(Clone, Debug)]
pub struct Hba {
    ata: Ata,
    control: u32,
    pending: u32,
    list: u64,
    fis: u64,
    port_interrupt: u32,
    port_enable: u32,
    command: u32,
    task: TaskFile,
    signature: u32,
    link: u32,
    link_control: u32,
    link_error: u32,
    active: u32,
    issue: u32,
    /// The slot whose command was fetched last.
    current: u8,
    /// An error stopped the port: nothing is fetched until ST is cleared.
    halted: bool,
    /// SRST is set in device control.
    in_reset: bool,
    /// Slots whose commands are in flight.
    fetched: u32,
    /// In order of completion.
    flights: Vec<Flight>,
    path_free: Nanos,
    fetching: bool,
    /// An interrupt edge for MSI: the shell takes it.
    edge: bool,
}

impl Hba {
    pub fn new(disk: DiskId, sectors: u64) -> Self {
        Self {
            ata: Ata::new(disk, sectors),
            control: ghc::AHCI,
            pending: 0,
            list: 0,
            fis: 0,
            port_interrupt: 0,
            port_enable: 0,
            command: 0,
            task: TaskFile { status: 0x7f, ..TaskFile::default() },
            signature: NO_SIGNATURE,
            link: 0,
            link_control: 0,
            link_error: 0,
            active: 0,
            issue: 0,
            current: 0,
            halted: false,
            in_reset: false,
            fetched: 0,
            flights: Vec::new(),
            path_free: 0,
            fetching: false,
            edge: false,
        }
    }

    /// Whether a message is due since the last call.
    pub fn take_edge(&mut self) -> bool {
        std::mem::take(&mut self.edge)
    }
    /// The level of INTA#.
    pub fn pin(&self) -> bool {
        self.pending != 0 && self.control & ghc::INTERRUPTS != 0
    }

    /// PxIS with its mirrors of PxSERR.
    fn port_status(&self) -> u32 {
        let mirror = |error: u32, bit: u32| if self.link_error & error != 0 { bit } else { 0 };
        self.port_interrupt | mirror(serr::EXCHANGED, irq::CONNECT) | mirror(serr::PHY_CHANGE, irq::PHY_CHANGE)
    }

    /// Recomputes what is pending; `new` bits of PxIS make an edge.
    fn update(&mut self, new: u32) {
        let before = self.pin();
        let wanted = self.port_status() & self.port_enable != 0;
        self.pending |= u32::from(wanted);
        if self.pin() && (!before || new & self.port_enable != 0) {
            self.edge = true;
        }
    }

    fn raise(&mut self, bits: u32) {
        self.port_interrupt |= bits;
        self.update(bits);
    }

    fn is_running(&self) -> bool {
        self.command & cmd::LIST_RUNNING != 0
    }

    /// Puts a received FIS where software asked for it.
    fn receive(&mut self, at: u64, fis: &[u8], cx: &mut Cx<'_>) {
        if self.command & cmd::FIS_RUNNING != 0 && cx.dma_write(self.fis.wrapping_add(at), fis).is_err() {
            self.fatal(cx);
        }
    }

    fn fatal(&mut self, cx: &mut Cx<'_>) {
        cx.note("ahci: address outside RAM", u64::from(self.current));
        self.stop(irq::HOST_FATAL);
    }

    fn fetch_soon(&mut self, cx: &mut Cx<'_>) {
        if !self.fetching {
            self.fetching = true;
            cx.after(FETCH_NS, FETCH);
        }
    }

    /// Takes commands: queued ones as long as there are, else one at a time.
    fn fetch(&mut self, cx: &mut Cx<'_>) {
        self.fetching = false;
        for slot in 0..SLOTS as u8 {
            let waits = self.issue & !self.fetched & 1 << slot != 0;
            if !waits || self.halted || !self.is_running() || self.link != LINK_UP || self.task.status & (status::BUSY | status::REQUEST) != 0 {
                continue;
            }
            let held: usize = self.flights.iter().map(|flight| flight.data.len()).sum();
            if self.flights.iter().any(|flight| flight.tag.is_none()) || held > IN_FLIGHT_MAX {
                // The disk is busy; the next completion fetches on.
                break;
            }
            self.take(slot, cx);
        }
        self.schedule(cx);
    }

    fn take(&mut self, slot: u8, cx: &mut Cx<'_>) {
        self.current = slot;
        let header_at = self.list.wrapping_add(32 * u64::from(slot));
        let mut header = [0; 16];
        let mut table_fis = [0; 20];
        if cx.dma_read(header_at, &mut header).is_err() {
            return self.fatal(cx);
        }
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let flags = word(0);
        let table = u64::from(word(8) & !0x7f) | u64::from(word(12)) << 32;
        if cx.dma_read(table, &mut table_fis).is_err() {
            return self.fatal(cx);
        }
        let Some(fis) = Registers::parse(&table_fis).filter(|_| (2..=16).contains(&(flags & 0x1f))) else {
            // Nothing a device would answer: the command stays busy until software resets the port.
            cx.note("ahci: command FIS of unknown type", u64::from(table_fis[0]));
            self.fetched |= 1 << slot;
            return;
        };
        if !fis.is_command {
            self.device_control(slot, &fis, flags & 1 << 10 != 0, cx);
            return;
        }
        let tag = Ata::tag(&fis);
        let queued_in_flight = self.flights.iter().any(|flight| flight.tag.is_some());
        let entries = (flags >> 16) as u16;
        let prepared = match self.ata.transfer(&fis) {
            Transfer::None => Ok((Vec::new(), Vec::new())),
            Transfer::In(bytes) => segments(table.wrapping_add(0x80), entries, bytes, cx).map(|to| (to, Vec::new())),
            Transfer::Out(bytes) => {
                segments(table.wrapping_add(0x80), entries, bytes, cx).and_then(|from| gather(&from, cx)).map(|data| (Vec::new(), data))
            }
        };
        let mixed = tag.is_none() && queued_in_flight || tag.is_some_and(|tag| tag != slot);
        let answer = match &prepared {
            Err(Broken::Unreachable) => return self.fatal(cx),
            Err(Broken::Short) => {
                self.raise(irq::OVERFLOW);
                None
            }
            Ok(_) if mixed => {
                cx.note("ahci: queued and other commands mixed, or tag is not the slot", u64::from(slot));
                None
            }
            Ok((_, data)) => Some(self.ata.execute(&fis, data, cx)),
        };
        let answer = answer.unwrap_or_else(|| Answer {
            task: TaskFile { status: status::READY | status::ERROR, error: 4, lba: fis.lba, device: fis.device, count: fis.count },
            ..Answer::default()
        });
        if answer.gone {
            return self.unplugged(cx);
        }
        self.fetched |= 1 << slot;
        let to = prepared.map(|(to, _)| to).unwrap_or_default();
        if tag.is_some() && answer.task.status & status::ERROR == 0 {
            // Accepted: the slot is free for the HBA, the tag stays active (§5.6.4).
            self.task = TaskFile { status: status::READY, ..TaskFile::default() };
            self.issue &= !(1 << slot);
            self.fetched &= !(1 << slot);
            let accepted = self.task.d2h(false);
            self.receive(D2H_AT, &accepted, cx);
        } else if tag.is_none() {
            self.task.status = status::BUSY | status::READY;
        }
        let start = cx.now().max(self.path_free);
        let at = if answer.moved > 0 {
            self.path_free = start.saturating_add(answer.moved.div_ceil(1024) * KIB_NS);
            self.path_free
        } else {
            cx.now()
        }
        .saturating_add(answer.takes);
        let moved = if answer.data.is_empty() { answer.moved as u32 } else { answer.data.len() as u32 };
        let flight = Flight { at, slot, tag, header: header_at, task: answer.task, data: answer.data, to, moved, pio: answer.pio };
        let place = self.flights.partition_point(|other| other.at <= at);
        self.flights.insert(place, flight);
    }

    /// A FIS that writes device control: software reset (SRST going up, then down).
    fn device_control(&mut self, slot: u8, fis: &Registers, clear_busy: bool, cx: &mut Cx<'_>) {
        let reset = fis.control & 4 != 0;
        if clear_busy {
            self.task.status &= !(status::BUSY | status::REQUEST);
        }
        self.issue &= !(1 << slot);
        if self.in_reset && !reset {
            self.ata.reset();
            cx.after(LINK_NS, SIGNATURE);
            self.task.status = status::BUSY;
        }
        self.in_reset = reset;
    }

    fn schedule(&self, cx: &mut Cx<'_>) {
        match self.flights.first() {
            // A port that stands still completes nothing.
            Some(first) if first.at != NEVER && !self.halted => cx.at(first.at.max(cx.now()), COMPLETE),
            _ => cx.cancel(COMPLETE),
        }
    }

    fn complete(&mut self, cx: &mut Cx<'_>) {
        let mut done = 0u32;
        while !self.halted && self.flights.first().is_some_and(|first| first.at <= cx.now()) {
            let flight = self.flights.remove(0);
            if scatter(&flight.data, &flight.to, cx).is_err() {
                return self.fatal(cx);
            }
            if cx.dma_write(flight.header.wrapping_add(4), &flight.moved.to_le_bytes()).is_err() {
                return self.fatal(cx);
            }
            self.current = flight.slot;
            let failed = flight.task.status & status::ERROR != 0;
            match flight.tag {
                Some(_) if failed => {
                    // The disk gives up all queued commands; the log says which one it was.
                    self.task = flight.task;
                    let fis = self.task.set_bits(done);
                    self.active &= !done;
                    self.receive(SET_BITS_AT, &fis, cx);
                    self.stop(irq::SET_BITS | irq::TASK_FILE);
                    return;
                }
                Some(tag) => done |= 1 << tag,
                None => self.finish(&flight, failed, cx),
            }
        }
        if done != 0 {
            self.active &= !done;
            self.task = TaskFile { status: status::GOOD, ..TaskFile::default() };
            let fis = self.task.set_bits(done);
            self.receive(SET_BITS_AT, &fis, cx);
            self.raise(irq::SET_BITS);
        }
        self.fetch(cx);
    }

    /// A command that was not queued is done.
    fn finish(&mut self, flight: &Flight, failed: bool, cx: &mut Cx<'_>) {
        self.task = flight.task;
        if flight.pio && !failed {
            let fis = self.task.pio_setup(flight.data.len().min(0xffff) as u16);
            self.receive(PIO_SETUP_AT, &fis, cx);
        } else {
            let fis = self.task.d2h(true);
            self.receive(D2H_AT, &fis, cx);
        }
        if failed {
            self.stop(irq::D2H | irq::TASK_FILE);
            return;
        }
        self.fetched &= !(1 << flight.slot);
        self.issue &= !(1 << flight.slot);
        self.raise(if flight.pio { irq::PIO_SETUP } else { irq::D2H });
    }

    /// An error: the port stands still with the slot still issued (§6.2.2.1).
    fn stop(&mut self, bits: u32) {
        self.halted = true;
        self.flights.clear();
        self.raise(bits);
    }

    /// The disk is not there any more.
    fn unplugged(&mut self, cx: &mut Cx<'_>) {
        self.link = 0;
        self.task = TaskFile { status: 0x7f, ..TaskFile::default() };
        self.signature = NO_SIGNATURE;
        self.flights.clear();
        self.link_error |= serr::PHY_CHANGE;
        self.update(irq::PHY_CHANGE);
        cx.after(LOOK_NS, LOOK);
    }

    /// The link begins to come up.
    fn connect(&mut self, cx: &mut Cx<'_>) {
        self.ata.reset();
        self.flights.clear();
        self.fetched = 0;
        self.link = 0;
        self.task = TaskFile { status: 0x7f, ..TaskFile::default() };
        self.signature = NO_SIGNATURE;
        self.in_reset = false;
        cx.after(LINK_NS, SIGNATURE);
        cx.cancel(COMPLETE);
    }

    /// The disk sends its signature.
    fn signed(&mut self, cx: &mut Cx<'_>) {
        if !cx.disk(self.ata.disk()).is_some_and(|disk| disk.is_present()) {
            cx.after(LOOK_NS, LOOK);
            return;
        }
        let came_up = self.link != LINK_UP;
        self.link = LINK_UP;
        self.task = Ata::signature();
        self.signature = DISK_SIGNATURE;
        let fis = self.task.d2h(false);
        self.receive(D2H_AT, &fis, cx);
        if came_up {
            self.link_error |= serr::PHY_CHANGE | serr::EXCHANGED;
            self.update(irq::CONNECT | irq::PHY_CHANGE);
        }
        self.fetch_soon(cx);
    }

    fn set_command(&mut self, value: u32, cx: &mut Cx<'_>) {
        let before = self.command;
        if value & !(cmd::KEPT | cmd::SPIN_UP | cmd::POWER_ON | cmd::OVERRIDE | cmd::LINK_POWER | cmd::FIS_RUNNING | cmd::LIST_RUNNING | 0x1f00) != 0 {
            cx.unimplemented(Access::write(Region(0), 0x118, 4, u64::from(value)));
        }
        self.command = value & cmd::KEPT;
        if value & cmd::FIS_RECEIVE != 0 {
            self.command |= cmd::FIS_RUNNING;
        }
        if value & cmd::START != 0 {
            self.command |= cmd::LIST_RUNNING;
            if value & cmd::OVERRIDE != 0 && before & cmd::START == 0 {
                self.task.status &= !(status::BUSY | status::REQUEST);
            }
            self.fetch_soon(cx);
        } else {
            if value & cmd::OVERRIDE != 0 {
                self.task.status &= !(status::BUSY | status::REQUEST);
            }
            if before & cmd::START != 0 {
                // Commands are forgotten (§3.3.7, bit 0).
                self.issue = 0;
                self.active = 0;
                self.fetched = 0;
                self.halted = false;
                self.flights.clear();
                self.path_free = 0;
                if self.link == LINK_UP && self.task.status & status::BUSY != 0 && !self.in_reset && self.signature == DISK_SIGNATURE {
                    // A real disk would stay busy until the host resets it or it is done: it is done at once.
                    self.task.status = status::GOOD;
                }
                cx.cancel(COMPLETE);
            }
        }
    }

    /// GHC.HR (§10.4.3): all but the addresses.
    fn reset_hba(&mut self, cx: &mut Cx<'_>) {
        let (list, fis) = (self.list, self.fis);
        let mut fresh = Self::new(self.ata.disk(), 0);
        fresh.ata = self.ata.clone();
        fresh.list = list;
        fresh.fis = fis;
        *self = fresh;
        for token in [FETCH, COMPLETE, LOOK] {
            cx.cancel(token);
        }
        self.connect(cx);
    }
}

impl Device for Hba {
    const KIND: &'static str = "ahci-hba";
    type Reg = Reg;

    fn map(&self, _region: Region) -> &'static RegMap<Reg> {
        &MAP
    }

    fn read(&mut self, reg: Reg, _cx: &mut Cx<'_>) -> u64 {
        let value = match reg {
            Reg::Capabilities => CAPABILITIES,
            Reg::Control => self.control,
            Reg::Pending => self.pending,
            Reg::Ports => 1,
            Reg::Version => VERSION,
            Reg::ListBase => self.list as u32,
            Reg::ListBaseHigh => (self.list >> 32) as u32,
            Reg::FisBase => self.fis as u32,
            Reg::FisBaseHigh => (self.fis >> 32) as u32,
            Reg::PortInterrupt => self.port_status(),
            Reg::PortEnable => self.port_enable,
            Reg::Command => self.command | cmd::SPIN_UP | cmd::POWER_ON | u32::from(self.current) << 8,
            Reg::TaskFile => u32::from(self.task.error) << 8 | u32::from(self.task.status),
            Reg::Signature => self.signature,
            Reg::LinkStatus => self.link,
            Reg::LinkControl => self.link_control,
            Reg::LinkError => self.link_error,
            Reg::Active => self.active,
            Reg::Issue => self.issue,
            // Features that CAP and CAP2 do not offer read as zero.
            Reg::Coalescing
            | Reg::CoalescingPorts
            | Reg::EnclosureLocation
            | Reg::EnclosureControl
            | Reg::Capabilities2
            | Reg::Handoff
            | Reg::Notification
            | Reg::Switching
            | Reg::Sleep => 0,
        };
        u64::from(value)
    }

    fn write(&mut self, reg: Reg, value: u64, cx: &mut Cx<'_>) {
        let value = value as u32;
        match reg {
            Reg::Control => {
                if value & ghc::RESET != 0 {
                    self.reset_hba(cx);
                } else {
                    self.control = ghc::AHCI | value & ghc::INTERRUPTS;
                    self.update(0);
                }
            }
            Reg::Pending => {
                self.pending &= !value;
                self.update(0);
            }
            Reg::ListBase => self.list = self.list & !0xffff_ffff | u64::from(value & !0x3ff),
            Reg::ListBaseHigh => self.list = self.list & 0xffff_ffff | u64::from(value) << 32,
            Reg::FisBase => self.fis = self.fis & !0xffff_ffff | u64::from(value & !0xff),
            Reg::FisBaseHigh => self.fis = self.fis & 0xffff_ffff | u64::from(value) << 32,
            Reg::PortInterrupt => {
                self.port_interrupt &= !(value & !irq::MIRRORS);
                self.update(0);
            }
            Reg::PortEnable => {
                self.port_enable = value & irq::DEFINED;
                self.update(0);
            }
            Reg::Command => self.set_command(value, cx),
            Reg::LinkControl => {
                let before = self.link_control & 0xf;
                self.link_control = value & 0xfff;
                match (before, value & 0xf) {
                    // COMRESET while DET is 1; the link comes up when it is taken back (§10.4.2).
                    (_, 1) => {
                        self.connect(cx);
                        cx.cancel(SIGNATURE);
                    }
                    (1 | 4, 0) => self.connect(cx),
                    (_, 4) => {
                        self.connect(cx);
                        cx.cancel(SIGNATURE);
                        self.link = 4;
                    }
                    _ => {}
                }
            }
            Reg::LinkError => {
                self.link_error &= !value;
                self.update(0);
            }
            // Bits are set only, and only while the list runs (§3.3.13, §3.3.14).
            Reg::Active if self.command & cmd::START != 0 => self.active |= value,
            Reg::Issue if self.command & cmd::START != 0 => {
                self.issue |= value;
                self.fetch_soon(cx);
            }
            Reg::Active | Reg::Issue => cx.note("ahci: command issued while PxCMD.ST is 0", u64::from(value)),
            Reg::Capabilities | Reg::Ports | Reg::Version | Reg::TaskFile | Reg::Signature | Reg::LinkStatus | Reg::Capabilities2 => {}
            Reg::Coalescing
            | Reg::CoalescingPorts
            | Reg::EnclosureLocation
            | Reg::EnclosureControl
            | Reg::Handoff
            | Reg::Notification
            | Reg::Switching
            | Reg::Sleep => {
                if value != 0 {
                    cx.note("ahci: write to a register of a feature that is not offered", reg as u64);
                }
            }
        }
    }

    fn event(&mut self, what: Token, cx: &mut Cx<'_>) {
        match what {
            FETCH => self.fetch(cx),
            COMPLETE => self.complete(cx),
            SIGNATURE => self.signed(cx),
            LOOK if self.link != LINK_UP => self.signed(cx),
            _ => {}
        }
    }

    fn reset(&mut self, _how: Reset, cx: &mut Cx<'_>) {
        self.reset_hba(cx);
        self.list = 0;
        self.fis = 0;
    }

    fn state(&mut self, fields: &mut dyn Fields) {
        self.ata.state(fields);
        for (name, word) in [
            ("control", &mut self.control),
            ("pending", &mut self.pending),
            ("port_interrupt", &mut self.port_interrupt),
            ("port_enable", &mut self.port_enable),
            ("command", &mut self.command),
            ("signature", &mut self.signature),
            ("link", &mut self.link),
            ("link_control", &mut self.link_control),
            ("link_error", &mut self.link_error),
            ("active", &mut self.active),
            ("issue", &mut self.issue),
            ("fetched", &mut self.fetched),
        ] {
            fields.u32(name, word);
        }
        fields.u64("list", &mut self.list);
        fields.u64("fis", &mut self.fis);
        task_state(&mut self.task, fields);
        fields.u8("current", &mut self.current);
        self.current &= 31;
        fields.flag("halted", &mut self.halted);
        fields.flag("in_reset", &mut self.in_reset);
        fields.u64("path_free", &mut self.path_free);
        fields.flag("fetching", &mut self.fetching);
        fields.flag("edge", &mut self.edge);
        let mut count = self.flights.len() as u64;
        fields.u64("flights", &mut count);
        if count > u64::from(2 * SLOTS) {
            fields.refuse("flights");
            return;
        }
        self.flights.resize(count as usize, Flight::default());
        for flight in &mut self.flights {
            fields.u64("at", &mut flight.at);
            fields.u8("slot", &mut flight.slot);
            let mut tag = flight.tag.map(u64::from);
            fields.option("tag", &mut tag);
            flight.tag = tag.map(|tag| tag as u8 & 31);
            flight.slot &= 31;
            fields.u64("header", &mut flight.header);
            task_state(&mut flight.task, fields);
            fields.bytes("data", &mut flight.data);
            fields.u32("moved", &mut flight.moved);
            fields.flag("pio", &mut flight.pio);
            let mut flat: Vec<u8> =
                flight.to.iter().flat_map(|(address, length)| [address.to_le_bytes(), u64::from(*length).to_le_bytes()].concat()).collect();
            fields.bytes("segments", &mut flat);
            let words: Vec<u64> = flat.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
            flight.to = words.chunks_exact(2).map(|pair| (pair[0], pair[1] as u32)).collect();
        }
    }
}
