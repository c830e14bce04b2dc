//! The PCI function around a [`Personality`]: configuration space, common structure, notifications, completions.

use std::collections::VecDeque;

use sim_bus::{Access, Cx, Fields, Nanos, Node, Region, Reset, Token};

use super::queue::{Queue, QueueError, SIZE_MAX};
use super::{Answer, Chain, Personality, Waiting};
use crate::pci::{Bar, Function, Identity, MsiX, TABLE_BYTES};

/// BAR 0: the four structures, a page each.
pub const STRUCTURES: Region = Region(0);
/// BAR 2: the MSI-X table.
pub const TABLE: Region = Region(2);

const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const BAR_BYTES: u64 = 0x4000;

const VERSION_1: u64 = 1 << 32;
const INDIRECT: u64 = 1 << 28;
const STATUS_FEATURES_OK: u8 = 8;
const STATUS_DRIVER_OK: u8 = 4;
const STATUS_NEEDS_RESET: u8 = 64;
/// A notification is served this much later: a device needs time to look.
const NOTICE_NS: Nanos = 500;

/// Bytes of answers on their way back at most: a driver that asks for more waits for some of them.
const HELD_MAX: usize = 64 << 20;

/// Tokens: notifications by queue, then the next completion, then a look at the outside.
const COMPLETE: Token = Token(0x100);
const LOOK: Token = Token(0x101);

/// A request on its way back.
#[derive(Clone, Debug)]
struct Done {
    at: Nanos,
    queue: u16,
    chain: Chain,
    answer: Answer,
}

/// A virtio device.
#[derive(Clone, Debug)]
pub struct Virtio<P> {
    function: Function,
    msix: MsiX,
    personality: P,
    status: u8,
    feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    queue_select: u16,
    isr: u8,
    /// The level of INTA#.
    pin: bool,
    /// Configuration generation (§4.1.4.3).
    generation: u8,
    /// A look has been asked for and has not come.
    looking: bool,
    queues: Vec<Queue>,
    /// In order of completion.
    done: VecDeque<Done>,
}

impl<P: Personality> Virtio<P> {
    pub fn new(personality: P) -> Self {
        let identity = Identity {
            vendor: 0x1af4,
            device: 0x1040 + P::TYPE,
            class: P::CLASS,
            revision: 1,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        };
        let mut function = Function::new(identity)
            .with_bar(Bar::wide(0, BAR_BYTES, STRUCTURES))
            .with_bar(Bar::wide(2, TABLE_BYTES, TABLE))
            .with_pin();
        let msix = MsiX::new(&mut function, 2, P::QUEUES + 1);
        // Vendor capabilities (§4.1.4): length, type, BAR, identifier, offset, length; notify adds the distance between queues.
        for (kind, offset, extra) in [(1u8, COMMON, None), (2, NOTIFY, Some(4u32)), (3, ISR, None), (4, DEVICE, None)] {
            let mut body = vec![if extra.is_some() { 20 } else { 16 }, kind, 0, 0, 0, 0];
            body.extend_from_slice(&(offset as u32).to_le_bytes());
            body.extend_from_slice(&0x1000u32.to_le_bytes());
            if let Some(multiplier) = extra {
                body.extend_from_slice(&multiplier.to_le_bytes());
            }
            let mask = vec![0; body.len()];
            function.add_capability(0x09, &body, &mask);
        }
        Self {
            function,
            msix,
            personality,
            status: 0,
            feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: 0xffff,
            queue_select: 0,
            isr: 0,
            pin: false,
            generation: 0,
            looking: false,
            queues: vec![Queue::default(); usize::from(P::QUEUES)],
            done: VecDeque::new(),
        }
    }

    /// The configuration space, for the board to place BARs.
    pub fn function_mut(&mut self) -> &mut Function {
        &mut self.function
    }

    fn offered(&self) -> u64 {
        VERSION_1 | INDIRECT | self.personality.features()
    }

    fn reset_device(&mut self, cx: &mut Cx<'_>) {
        self.status = 0;
        self.feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.config_vector = 0xffff;
        self.queue_select = 0;
        self.isr = 0;
        self.settle_pin(cx);
        self.queues.fill(Queue::default());
        self.done.clear();
        self.personality.reset();
        for queue in 0..P::QUEUES {
            cx.cancel(Token(queue));
        }
        cx.cancel(COMPLETE);
    }

    fn selected(&mut self) -> Option<&mut Queue> {
        self.queues.get_mut(usize::from(self.queue_select))
    }

    /// A field of the common structure (§4.1.4.3): its bytes from `offset` as a number, and how long the field is.
    fn common_read(&mut self, offset: u64) -> Option<(u64, u64, u8)> {
        let select = self.queue_select;
        let vectors = self.queues.len() as u64;
        let offered = self.offered();
        let queue = self.selected().cloned();
        let of_queue = |field: fn(&Queue) -> u64| queue.as_ref().map_or(0, field);
        let (start, size, value) = match offset {
            0..4 => (0, 4, u64::from(self.feature_select)),
            4..8 => (4, 4, if self.feature_select < 2 { offered >> (32 * self.feature_select) & 0xffff_ffff } else { 0 }),
            8..12 => (8, 4, u64::from(self.driver_feature_select)),
            12..16 => (12, 4, if self.driver_feature_select < 2 { self.driver_features >> (32 * self.driver_feature_select) & 0xffff_ffff } else { 0 }),
            16..18 => (16, 2, u64::from(self.config_vector)),
            18..20 => (18, 2, vectors),
            20 => (20, 1, u64::from(self.status)),
            21 => (21, 1, u64::from(self.generation)),
            22..24 => (22, 2, u64::from(select)),
            24..26 => (24, 2, of_queue(|queue| u64::from(queue.size))),
            26..28 => (26, 2, queue.as_ref().map_or(0xffff, |queue| u64::from(queue.vector))),
            28..30 => (28, 2, of_queue(|queue| u64::from(queue.enabled))),
            30..32 => (30, 2, u64::from(select)),
            32..40 => (32, 8, of_queue(|queue| queue.descriptors)),
            40..48 => (40, 8, of_queue(|queue| queue.driver)),
            48..56 => (48, 8, of_queue(|queue| queue.device)),
            56..60 => (56, 4, 0),
            _ => return None,
        };
        Some((value, start, size))
    }

    /// Whether the write had an effect, or need not have one.
    fn common_write(&mut self, start: u64, value: u64, cx: &mut Cx<'_>) -> bool {
        // A vector the function does not have reads back as "none" (§4.1.5.1.2).
        let vector = if value < u64::from(self.msix.vectors()) { value as u16 } else { 0xffff };
        match start {
            0 => self.feature_select = value as u32,
            8 => self.driver_feature_select = value as u32,
            12 if self.status & STATUS_FEATURES_OK == 0 && self.driver_feature_select < 2 => {
                let shift = 32 * self.driver_feature_select;
                self.driver_features = self.driver_features & !(0xffff_ffff << shift) | (value & 0xffff_ffff) << shift;
            }
            // Features above 63, of which none is offered, declined.
            12 if value == 0 => {}
            16 => self.config_vector = vector,
            20 => {
                let mut status = value as u8;
                if status == 0 {
                    self.reset_device(cx);
                    return true;
                }
                // Features that were not offered, or a legacy driver: FEATURES_OK does not stick (§3.1.1).
                let acceptable = self.driver_features & !self.offered() == 0 && self.driver_features & VERSION_1 != 0;
                if status & STATUS_FEATURES_OK != 0 && !acceptable {
                    status &= !STATUS_FEATURES_OK;
                }
                if status & !self.status & STATUS_FEATURES_OK != 0 {
                    self.personality.negotiated(self.driver_features);
                }
                self.status = status | self.status & STATUS_NEEDS_RESET;
            }
            22 => self.queue_select = value as u16,
            _ => {
                let Some(queue) = self.selected() else { return false };
                match start {
                    26 => queue.vector = vector,
                    // A queue's place is fixed once it is enabled.
                    28 if value == 1 => queue.enabled = true,
                    24 if !queue.enabled && (1..=u64::from(SIZE_MAX)).contains(&value) && value.is_power_of_two() => queue.size = value as u16,
                    32 if !queue.enabled => queue.descriptors = value,
                    40 if !queue.enabled => queue.driver = value,
                    48 if !queue.enabled => queue.device = value,
                    // Read-only fields, and writes the rules above refuse.
                    _ => return false,
                }
            }
        }
        true
    }

    fn is_live(&self) -> bool {
        self.status & STATUS_DRIVER_OK != 0 && self.status & STATUS_NEEDS_RESET == 0
    }

    /// Serves every chain that waits on a queue.
    fn notified(&mut self, index: u16, cx: &mut Cx<'_>) {
        if !self.is_live() {
            return;
        }
        if self.personality.holds(index) {
            self.deliver(cx);
            return;
        }
        let mut held = self.held();
        let Some(queue) = self.queues.get_mut(usize::from(index)) else { return };
        // A queue holds no more chains than it has entries: the loop ends.
        for _ in 0..SIZE_MAX {
            if held >= HELD_MAX {
                // The next completion looks again.
                break;
            }
            let mut chain = match queue.take(cx) {
                Ok(Some(chain)) => chain,
                Ok(None) => break,
                Err(error) => {
                    self.broken(error, cx);
                    return;
                }
            };
            // A driver that offers more chains than the queue has entries is not waiting for any of them.
            if self.done.iter().filter(|done| done.queue == index).count() >= usize::from(SIZE_MAX) {
                self.broken(QueueError::Available, cx);
                return;
            }
            let answer = self.personality.serve(index, &chain, cx);
            held += answer.data.len();
            chain.input = Vec::new();
            // A queue's requests are done one after the other, as a single-headed device works.
            let free = self.done.iter().rev().find(|done| done.queue == index).map_or(cx.now(), |last| last.at.max(cx.now()));
            let at = free.saturating_add(answer.takes).max(answer.not_before);
            let place = self.done.partition_point(|done| done.at <= at);
            self.done.insert(place, Done { at, queue: index, chain, answer });
        }
        self.schedule(cx);
    }

    /// Looks at the outside: changed configuration, and what waits for held queues.
    fn look(&mut self, cx: &mut Cx<'_>) {
        self.looking = false;
        if self.personality.look(cx) {
            self.generation = self.generation.wrapping_add(1);
            if self.status & STATUS_DRIVER_OK != 0 {
                self.configuration_changed(cx);
            }
        }
        self.deliver(cx);
    }

    /// Puts what waits into the chains of held queues, as long as there are both.
    fn deliver(&mut self, cx: &mut Cx<'_>) {
        if !self.is_live() {
            return;
        }
        let mut interrupts = 0u64;
        while let Some(waiting) = self.personality.waiting(cx) {
            match self.deliver_one(waiting, cx) {
                Ok(Some(interrupt)) => interrupts |= u64::from(interrupt) << waiting.queue,
                Ok(None) => break,
                Err(error) => {
                    self.broken(error, cx);
                    return;
                }
            }
        }
        self.interrupt(interrupts, cx);
    }

    /// Puts one thing in. `None`: there are not enough chains. `true`: the driver wants an interrupt.
    fn deliver_one(&mut self, waiting: Waiting, cx: &mut Cx<'_>) -> Result<Option<bool>, QueueError> {
        let Some(queue) = self.queues.get_mut(usize::from(waiting.queue)) else { return Ok(None) };
        let mut chains: Vec<Chain> = Vec::new();
        let mut room = 0u64;
        while room < waiting.bytes as u64 {
            match queue.take(cx)? {
                Some(chain) => {
                    room += chain.room();
                    chains.push(chain);
                }
                None => {
                    queue.put_back(chains.len() as u16);
                    return Ok(None);
                }
            }
            if !waiting.spreads {
                break;
            }
        }
        if room < waiting.bytes as u64 {
            // The driver posts buffers that nothing fits into: the thing is lost, the buffers stay.
            queue.put_back(chains.len() as u16);
            self.personality.refuse(cx);
            return Ok(Some(false));
        }
        let data = self.personality.fetch(chains.len() as u16, usize::try_from(room).unwrap_or(usize::MAX), cx);
        let mut rest = data.as_slice();
        let mut interrupt = false;
        for chain in &chains {
            let before = rest.len();
            rest = scatter(&chain.output, rest, cx)?;
            if let Some(queue) = self.queues.get_mut(usize::from(waiting.queue)) {
                interrupt |= queue.put(chain.head, (before - rest.len()) as u32, cx)?;
            }
        }
        Ok(Some(interrupt))
    }

    /// Raises the vectors of queues, a bit each.
    fn interrupt(&mut self, queues: u64, cx: &mut Cx<'_>) {
        for queue in 0..P::QUEUES {
            if queues >> queue & 1 != 0 {
                let vector = self.queues[usize::from(queue)].vector;
                self.notify(1, vector, cx);
            }
        }
        self.settle_pin(cx);
    }

    fn schedule(&self, cx: &mut Cx<'_>) {
        if let Some(first) = self.done.front() {
            cx.at(first.at, COMPLETE);
        }
    }

    /// Bytes of answers on their way back.
    fn held(&self) -> usize {
        self.done.iter().map(|done| done.answer.data.len()).sum()
    }

    fn completed(&mut self, cx: &mut Cx<'_>) {
        let was_full = self.held() >= HELD_MAX;
        let mut interrupts = 0u64;
        while self.done.front().is_some_and(|first| first.at <= cx.now()) {
            let Some(done) = self.done.pop_front() else { break };
            match self.finish(&done, cx) {
                Ok(true) => interrupts |= 1 << done.queue,
                Ok(false) => {}
                Err(error) => {
                    self.broken(error, cx);
                    return;
                }
            }
        }
        self.interrupt(interrupts, cx);
        self.schedule(cx);
        if was_full {
            for queue in 0..P::QUEUES {
                if !self.personality.holds(queue) {
                    self.notified(queue, cx);
                }
            }
        }
    }

    fn finish(&mut self, done: &Done, cx: &mut Cx<'_>) -> Result<bool, QueueError> {
        scatter(&done.chain.output, &done.answer.data, cx)?;
        let mut written = done.answer.data.len().min(done.chain.room() as usize) as u32;
        if let Some(last) = done.answer.last
            && let Some(&(address, length)) = done.chain.output.iter().rev().find(|(_, length)| *length > 0)
        {
            cx.dma_write(address.wrapping_add(u64::from(length) - 1), &[last]).map_err(|_| QueueError::Unreachable)?;
            written += 1;
        }
        match self.queues.get_mut(usize::from(done.queue)) {
            Some(queue) => queue.put(done.chain.head, written, cx),
            None => Ok(false),
        }
    }

    fn broken(&mut self, error: QueueError, cx: &mut Cx<'_>) {
        let why = match error {
            QueueError::Unreachable => "virtqueue outside RAM",
            QueueError::Index => "virtqueue descriptor loop or index",
            QueueError::Order => "virtqueue descriptor order",
            QueueError::Length => "virtqueue chain too long",
            QueueError::Available => "virtqueue available index",
        };
        cx.note(why, 0);
        self.status |= STATUS_NEEDS_RESET;
        self.done.clear();
        self.configuration_changed(cx);
    }

    /// A configuration change notification (§4.1.5.4).
    fn configuration_changed(&mut self, cx: &mut Cx<'_>) {
        self.notify(2, self.config_vector, cx);
        self.settle_pin(cx);
    }

    /// A message, or, while MSI-X is off, a bit of ISR (§4.1.5.3, §4.1.5.4).
    fn notify(&mut self, isr: u8, vector: u16, cx: &mut Cx<'_>) {
        if self.msix.is_enabled(&self.function) {
            self.msix.raise(vector, &self.function, cx);
        } else {
            self.isr |= isr;
        }
    }

    /// Without MSI-X, INTA# is asserted until the driver has read the ISR register (§4.1.4.5).
    fn settle_pin(&mut self, cx: &mut Cx<'_>) {
        let pin = self.isr != 0 && !self.msix.is_enabled(&self.function);
        if pin != self.pin {
            self.pin = pin;
            self.function.interrupt(pin, cx);
        }
    }
}

/// Writes `data` into buffers; returns what did not fit.
fn scatter<'a>(buffers: &[(u64, u32)], data: &'a [u8], cx: &mut Cx<'_>) -> Result<&'a [u8], QueueError> {
    let mut rest = data;
    for &(address, length) in buffers {
        if rest.is_empty() {
            break;
        }
        let (part, left) = rest.split_at(rest.len().min(length as usize));
        cx.dma_write(address, part).map_err(|_| QueueError::Unreachable)?;
        rest = left;
    }
    Ok(rest)
}

impl<P: Personality> Node for Virtio<P> {
    fn kind(&self) -> &'static str {
        P::KIND
    }

    fn read(&mut self, region: Region, offset: u64, size: u8, cx: &mut Cx<'_>) -> u64 {
        if region == TABLE {
            return self.msix.read(region, offset, size, cx);
        }
        match offset & !0xfff {
            COMMON => match self.common_read(offset) {
                Some((value, start, length)) if offset - start + u64::from(size) <= u64::from(length) => value >> (8 * (offset - start)),
                _ => {
                    cx.unimplemented(Access::read(region, offset, size));
                    0
                }
            },
            ISR if offset == ISR => {
                let isr = std::mem::take(&mut self.isr);
                self.settle_pin(cx);
                u64::from(isr)
            }
            DEVICE => (0..usize::from(size)).rev().fold(0, |value, byte| value << 8 | u64::from(self.personality.config((offset - DEVICE) as usize + byte))),
            NOTIFY => 0,
            _ => {
                cx.unimplemented(Access::read(region, offset, size));
                0
            }
        }
    }

    fn write(&mut self, region: Region, offset: u64, size: u8, value: u64, cx: &mut Cx<'_>) {
        if region == TABLE {
            self.msix.write(region, offset, size, value, &self.function, cx);
            return;
        }
        match offset & !0xfff {
            COMMON => match self.common_read(offset) {
                Some((old, start, length)) if offset - start + u64::from(size) <= u64::from(length) => {
                    // 64-bit addresses may be written in halves.
                    let shift = 8 * (offset - start);
                    let lanes = (u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))) << shift;
                    if !self.common_write(start, old & !lanes | value << shift & lanes, cx) {
                        cx.unimplemented(Access::write(region, offset, size, value));
                    }
                }
                _ => cx.unimplemented(Access::write(region, offset, size, value)),
            },
            DEVICE => {
                let mut taken = true;
                for (index, byte) in value.to_le_bytes().into_iter().take(usize::from(size)).enumerate() {
                    taken &= self.personality.config_write((offset - DEVICE) as usize + index, byte);
                }
                if !taken {
                    cx.unimplemented(Access::write(region, offset, size, value));
                }
            }
            NOTIFY => {
                let queue = (offset - NOTIFY) / 4;
                if queue < u64::from(P::QUEUES) {
                    cx.after(NOTICE_NS, Token(queue as u16));
                } else {
                    cx.unimplemented(Access::write(region, offset, size, value));
                }
            }
            _ => cx.unimplemented(Access::write(region, offset, size, value)),
        }
    }

    fn event(&mut self, what: Token, cx: &mut Cx<'_>) {
        if self.function.is_master() {
            self.work(what, cx);
        } else {
            self.work(what, &mut cx.without_dma());
        }
    }

    fn input(&mut self, cx: &mut Cx<'_>) {
        if !std::mem::replace(&mut self.looking, true) {
            cx.after(NOTICE_NS, LOOK);
        }
    }

    fn reset(&mut self, _how: Reset, cx: &mut Cx<'_>) {
        self.reset_device(cx);
        self.msix.reset();
        self.function.reset(cx);
    }

    fn state(&mut self, fields: &mut dyn Fields) {
        self.function.state(fields);
        self.msix.state(fields);
        self.personality.state(fields);
        fields.u8("status", &mut self.status);
        fields.u32("feature_select", &mut self.feature_select);
        fields.u32("driver_feature_select", &mut self.driver_feature_select);
        fields.u64("driver_features", &mut self.driver_features);
        fields.u16("config_vector", &mut self.config_vector);
        fields.u16("queue_select", &mut self.queue_select);
        fields.u8("isr", &mut self.isr);
        fields.flag("pin", &mut self.pin);
        fields.u8("generation", &mut self.generation);
        fields.flag("looking", &mut self.looking);
        for queue in &mut self.queues {
            queue.state(fields);
        }
        self.done_state(fields);
    }

    fn windows(&self) -> Vec<(Region, Option<u64>, u64)> {
        self.function.windows().map(|(bar, base)| (bar.region, base, bar.size)).collect()
    }

    fn config_read(&mut self, register: u16, size: u8, _cx: &mut Cx<'_>) -> u64 {
        self.function.read(register, size)
    }

    fn config_write(&mut self, register: u16, size: u8, value: u64, cx: &mut Cx<'_>) {
        self.function.write(register, size, value, cx);
        self.msix.settle(&self.function, cx);
        self.settle_pin(cx);
    }
}

impl<P: Personality> Virtio<P> {
    fn work(&mut self, what: Token, cx: &mut Cx<'_>) {
        if what == COMPLETE {
            self.completed(cx);
        } else if what == LOOK {
            self.look(cx);
        } else {
            self.notified(what.0, cx);
        }
    }

    /// Requests in flight.
    fn done_state(&mut self, fields: &mut dyn Fields) {
        let mut count = self.done.len() as u64;
        fields.u64("in_flight", &mut count);
        if count > u64::from(SIZE_MAX) * u64::from(P::QUEUES) {
            fields.refuse("in_flight");
            return;
        }
        let empty = Done { at: 0, queue: 0, chain: Chain::default(), answer: Answer::default() };
        self.done.resize(count as usize, empty);
        for done in &mut self.done {
            fields.u64("at", &mut done.at);
            fields.u16("queue", &mut done.queue);
            fields.u16("head", &mut done.chain.head);
            let mut buffers: Vec<u8> = done.chain.output.iter().flat_map(|(address, length)| [address.to_le_bytes(), u64::from(*length).to_le_bytes()].concat()).collect();
            fields.bytes("buffers", &mut buffers);
            let words: Vec<u64> = buffers.chunks_exact(8).map(|word| word.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))).collect();
            done.chain.output = words.chunks_exact(2).map(|pair| (pair[0], pair[1] as u32)).collect();
            fields.bytes("data", &mut done.answer.data);
            let mut last = done.answer.last.map(u64::from);
            fields.option("last", &mut last);
            done.answer.last = last.map(|last| last as u8);
        }
    }
}
