//! The controller: registers, queues, the way of a command.

use sim_bus::{Access, Cx, Device, DiskId, Fields, Nanos, RegMap, Region, Reset, Token};

use super::admin::Features;
use super::command::{Command, Completion, ENTRY, PAGE, Segment, Status, Submission, scatter};
use super::log::Logs;
use super::regs::{self, IO_QUEUES, MAP, Reg, cc, csts};

/// Commands are fetched this much after a doorbell.
const FETCH_NS: Nanos = 500;
/// The controller is ready this much after it is enabled.
const READY_NS: Nanos = 1_000_000;
const SHUTDOWN_NS: Nanos = 1_000_000;
/// Commands taken in one fetch; what remains is fetched in the next.
const FETCH_MAX: usize = 128;
/// I/O commands and administrative ones that the controller works on at a time, and the bytes of its answers to them: what is beyond stays in its queues.
const IO_MAX: usize = 2048;
const ADMIN_MAX: usize = 128;
const HELD_MAX: usize = 64 << 20;

pub const FETCH: Token = Token(0);
pub const COMPLETE: Token = Token(1);
pub const READY: Token = Token(2);
pub const SHUTDOWN: Token = Token(3);

/// What a command came to, for the time it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: Option<Status>,
    /// Dword 0 of the completion.
    pub result: u32,
    /// Goes to the segments.
    pub data: Vec<u8>,
    pub to: Vec<Segment>,
    pub takes: Nanos,
    /// Bytes that occupy the data path.
    pub moved: u64,
    /// Where the medium failed, for the error log.
    pub block: u64,
}

impl Answer {
    pub fn status(status: Status) -> Self {
        Self { status: Some(status), ..Self::default() }
    }
    pub fn result(result: u32) -> Self {
        Self { status: Some(Status::OK), result, ..Self::default() }
    }
    pub fn data(data: Vec<u8>, to: Vec<Segment>) -> Self {
        Self { status: Some(Status::OK), data, to, ..Self::default() }
    }
}

/// A command on its way back. One without a time waits for something (an asynchronous event).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InFlight {
    /// [`sim_bus::NEVER`]: it is stuck.
    pub at: Nanos,
    pub queue: u16,
    pub id: u16,
    pub status: Status,
    pub result: u32,
    pub data: Vec<u8>,
    pub to: Vec<Segment>,
}

/// The controller.
#[derive(Clone, Debug)]
pub struct Controller {
    pub(super) disk: DiskId,
    pub(super) sectors: u64,
    pub(super) read_only: bool,
    configuration: u32,
    pub(super) status: u32,
    mask: u32,
    admin_attributes: u32,
    admin_submission: u64,
    admin_completion: u64,
    /// By identifier; 0 is the admin queue.
    pub(super) submissions: Vec<Option<Submission>>,
    pub(super) completions: Vec<Option<Completion>>,
    /// In order of completion.
    pub(super) in_flight: Vec<InFlight>,
    /// Identifiers of asynchronous event requests that wait.
    pub(super) event_requests: Vec<u16>,
    pub(super) features: Features,
    pub(super) logs: Logs,
    /// A fetch is on its way.
    fetching: bool,
    /// Which submission queue is served first in the next fetch.
    turn: u16,
    /// When the data path is free.
    path_free: Nanos,
    /// Vectors to raise: the shell takes them.
    pub(super) raised: u64,
}

impl Controller {
    pub fn new(disk: DiskId, sectors: u64, read_only: bool) -> Self {
        let queues = usize::from(IO_QUEUES) + 1;
        Self {
            disk,
            sectors,
            read_only,
            configuration: 0,
            status: 0,
            mask: 0,
            admin_attributes: 0,
            admin_submission: 0,
            admin_completion: 0,
            submissions: vec![None; queues],
            completions: vec![None; queues],
            in_flight: Vec::new(),
            event_requests: Vec::new(),
            features: Features::default(),
            logs: Logs::default(),
            fetching: false,
            turn: 0,
            path_free: 0,
            raised: 0,
        }
    }

    /// Vectors raised since the last call, a bit each.
    pub fn take_vectors(&mut self) -> u64 {
        std::mem::take(&mut self.raised)
    }

    /// The level of INTA#: an unmasked completion queue holds entries (§7.5.1.1).
    pub fn pin(&self) -> bool {
        self.completions.iter().flatten().any(|queue| queue.interrupts && !queue.is_empty() && self.mask >> (queue.vector & 31) & 1 == 0)
    }

    fn is_ready(&self) -> bool {
        self.status & (csts::READY | csts::FATAL) == csts::READY
    }

    fn fatal(&mut self, why: &'static str, cx: &mut Cx<'_>) {
        cx.note(why, 0);
        self.status |= csts::FATAL;
    }

    /// A write to the doorbell area: `index` counts doorbells, even ones are submission tails.
    pub fn doorbell(&mut self, index: u64, value: u32, cx: &mut Cx<'_>) {
        if !self.is_ready() {
            cx.note("nvme: doorbell while not ready", index);
            return;
        }
        let queue = (index / 2) as usize;
        if index.is_multiple_of(2) {
            match self.submissions.get_mut(queue).and_then(Option::as_mut) {
                Some(submission) if value < u32::from(submission.size) => {
                    submission.tail = value as u16;
                    self.fetch_soon(cx);
                }
                Some(_) => self.error_event(1, cx),
                None => self.error_event(0, cx),
            }
        } else {
            match self.completions.get_mut(queue).and_then(Option::as_mut) {
                Some(completion) if value < u32::from(completion.size) => {
                    completion.head = value as u16;
                    // What found the queue full can be posted now.
                    self.schedule(cx);
                }
                Some(_) => self.error_event(1, cx),
                None => self.error_event(0, cx),
            }
        }
    }

    /// An asynchronous error event (§5.2, type 0): 0 invalid doorbell register, 1 invalid doorbell value.
    fn error_event(&mut self, information: u8, cx: &mut Cx<'_>) {
        self.logs.event(0, information, 1);
        // Posting needs the memory.
        self.schedule_at(cx.now().saturating_add(FETCH_NS), cx);
    }

    fn fetch_soon(&mut self, cx: &mut Cx<'_>) {
        if !self.fetching {
            self.fetching = true;
            cx.after(FETCH_NS, FETCH);
        }
    }

    /// Bytes of answers on their way back.
    pub(super) fn held(&self) -> usize {
        self.in_flight.iter().map(|back| back.data.len()).sum()
    }

    /// Takes commands from every queue, one from each in turn (§4.13, round robin).
    fn fetch(&mut self, cx: &mut Cx<'_>) {
        self.fetching = false;
        if !self.is_ready() {
            return;
        }
        let queues = self.submissions.len() as u16;
        let mut held = self.held();
        let mut admin = self.in_flight.iter().filter(|back| back.queue == 0).count();
        let mut idle = 0;
        let mut taken = 0;
        while idle < queues && taken < FETCH_MAX {
            let index = self.turn % queues;
            self.turn = (index + 1) % queues;
            let waits = self.submissions[usize::from(index)].as_ref().is_some_and(|queue| !queue.is_empty());
            let busy = if index == 0 { admin >= ADMIN_MAX } else { self.in_flight.len().saturating_sub(admin) >= IO_MAX || held >= HELD_MAX };
            if !waits || busy {
                idle += 1;
                continue;
            }
            idle = 0;
            taken += 1;
            let before = self.in_flight.len();
            match self.take(index, cx) {
                Some(bytes) => held += bytes,
                None => return,
            }
            if index == 0 {
                admin += self.in_flight.len().saturating_sub(before);
            }
        }
        if taken == FETCH_MAX {
            self.fetch_soon(cx);
        }
        self.answer_events(cx);
        self.schedule(cx);
    }

    /// Takes one command; how many bytes its answer has. `None`: the controller has failed.
    fn take(&mut self, index: u16, cx: &mut Cx<'_>) -> Option<usize> {
        let Some(queue) = self.submissions[usize::from(index)].as_mut() else { return Some(0) };
        let mut entry = [0; ENTRY];
        if cx.dma_read(queue.base.wrapping_add(ENTRY as u64 * u64::from(queue.head)), &mut entry).is_err() {
            self.fatal("nvme: submission queue outside RAM", cx);
            return None;
        }
        queue.head = (queue.head + 1) % queue.size;
        let command = Command::parse(&entry);
        let known = self.in_flight.iter().any(|other| other.queue == index && other.id == command.id);
        let answer = if known {
            Answer::status(Status::ID_CONFLICT)
        } else if index == 0 {
            self.admin(&command, cx)
        } else {
            self.io(&command, cx)
        };
        let Some(status) = answer.status else {
            // It waits for an event.
            return Some(0);
        };
        if !status.is_ok() {
            self.logs.error(index, command.id, status, answer.block, command.namespace);
        }
        // Latencies overlap, the data path does not.
        let start = cx.now().max(self.path_free);
        if answer.moved > 0 {
            self.path_free = start.saturating_add(answer.moved.div_ceil(1024) * super::io::KIB_NS);
        }
        let at = if answer.moved > 0 { self.path_free } else { cx.now() }.saturating_add(answer.takes);
        let back = InFlight { at, queue: index, id: command.id, status, result: answer.result, data: answer.data, to: answer.to };
        let bytes = back.data.len();
        let place = self.in_flight.partition_point(|other| other.at <= at);
        self.in_flight.insert(place, back);
        Some(bytes)
    }

    /// Posts what is due, as far as completion queues have room.
    fn complete(&mut self, cx: &mut Cx<'_>) {
        if !self.is_ready() {
            return;
        }
        self.answer_events(cx);
        let mut index = 0;
        while self.in_flight.get(index).is_some_and(|first| first.at <= cx.now()) {
            let back = &self.in_flight[index];
            let queue = self.submissions.get(usize::from(back.queue)).and_then(Option::as_ref);
            let Some((target, head)) = queue.map(|queue| (queue.completion, queue.head)) else {
                // Its queue was deleted meanwhile.
                self.in_flight.remove(index);
                continue;
            };
            if self.completions.get(usize::from(target)).and_then(Option::as_ref).is_none_or(Completion::is_full) {
                index += 1;
                continue;
            }
            let mut back = self.in_flight.remove(index);
            if let Err(error) = scatter(&back.data, &back.to, cx) {
                back.status = error;
                self.logs.error(back.queue, back.id, error, 0, 0);
            }
            if !self.post(target, back.result, back.queue, head, back.id, back.status, cx) {
                return;
            }
        }
        // There is room for what was left in its queues.
        if self.submissions.iter().flatten().any(|queue| !queue.is_empty()) {
            self.fetch_soon(cx);
        }
        self.schedule(cx);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a completion entry")]
    fn post(&mut self, target: u16, result: u32, queue: u16, head: u16, id: u16, status: Status, cx: &mut Cx<'_>) -> bool {
        let Some(completion) = self.completions.get_mut(usize::from(target)).and_then(Option::as_mut) else { return true };
        if completion.post(result, queue, head, id, status, cx).is_err() {
            self.fatal("nvme: completion queue outside RAM", cx);
            return false;
        }
        if completion.interrupts {
            self.raised |= 1 << (completion.vector & 63);
        }
        true
    }

    /// Completes waiting event requests with waiting events.
    fn answer_events(&mut self, cx: &mut Cx<'_>) {
        while !self.event_requests.is_empty() && self.completions[0].as_ref().is_some_and(|queue| !queue.is_full()) {
            let Some(event) = self.logs.next_event() else { return };
            let id = self.event_requests.remove(0);
            let head = self.submissions[0].as_ref().map_or(0, |queue| queue.head);
            if !self.post(0, event, 0, head, id, Status::OK, cx) {
                return;
            }
        }
    }

    /// Asks for the next completion.
    pub(super) fn schedule(&mut self, cx: &mut Cx<'_>) {
        let can_post = |back: &&InFlight| {
            let queue = self.submissions.get(usize::from(back.queue)).and_then(Option::as_ref);
            let target = queue.and_then(|queue| self.completions.get(usize::from(queue.completion))).and_then(Option::as_ref);
            target.is_none_or(|target| !target.is_full())
        };
        if let Some(first) = self.in_flight.iter().find(can_post) {
            let at = first.at;
            self.schedule_at(at.max(cx.now()), cx);
        }
    }

    fn schedule_at(&self, at: Nanos, cx: &mut Cx<'_>) {
        cx.at(at, COMPLETE);
    }

    /// Whether an identifier of a queue is in flight; if so it is completed as aborted.
    pub(super) fn abort(&mut self, queue: u16, id: u16, cx: &mut Cx<'_>) -> bool {
        if queue == 0
            && let Some(at) = self.event_requests.iter().position(|waiting| *waiting == id)
        {
            self.event_requests.remove(at);
            self.put_aborted(queue, id, Status::ABORTED, cx);
            return true;
        }
        match self.in_flight.iter().position(|back| back.queue == queue && back.id == id) {
            Some(at) => {
                self.in_flight.remove(at);
                self.put_aborted(queue, id, Status::ABORTED, cx);
                true
            }
            None => false,
        }
    }

    fn put_aborted(&mut self, queue: u16, id: u16, status: Status, cx: &mut Cx<'_>) {
        let back = InFlight { at: cx.now(), queue, id, status, result: 0, data: Vec::new(), to: Vec::new() };
        let place = self.in_flight.partition_point(|other| other.at <= back.at);
        self.in_flight.insert(place, back);
    }

    /// Completes all commands of a submission queue that is being deleted, at once (§5.6).
    pub(super) fn flush_queue(&mut self, queue: u16, cx: &mut Cx<'_>) {
        let Some((target, head)) = self.submissions[usize::from(queue)].as_ref().map(|queue| (queue.completion, queue.head)) else { return };
        let mut dropped = Vec::new();
        self.in_flight.retain(|back| {
            if back.queue == queue {
                dropped.push(back.id);
            }
            back.queue != queue
        });
        for id in dropped {
            // Where the completion queue is full, the host learns of it by the deletion alone.
            if self.completions[usize::from(target)].as_ref().is_some_and(|queue| !queue.is_full())
                && !self.post(target, 0, queue, head, id, Status::ABORTED_WITH_QUEUE, cx)
            {
                return;
            }
        }
    }

    /// A controller reset (§7.3.2): queues and requests are gone, the admin queue's registers stay.
    fn disable(&mut self, cx: &mut Cx<'_>) {
        self.submissions.fill(None);
        self.completions.fill(None);
        self.in_flight.clear();
        self.event_requests.clear();
        self.features = Features::default();
        self.logs.reset();
        self.fetching = false;
        self.turn = 0;
        self.path_free = 0;
        self.raised = 0;
        self.status = 0;
        self.mask = 0;
        for token in [FETCH, COMPLETE, READY, SHUTDOWN] {
            cx.cancel(token);
        }
    }

    fn configure(&mut self, value: u32, cx: &mut Cx<'_>) {
        let before = self.configuration;
        if value & !cc::DEFINED != 0 {
            cx.unimplemented(Access::write(Region(0), 0x14, 4, u64::from(value)));
        }
        self.configuration = value & cc::DEFINED;
        if before & cc::ENABLE != 0 && value & cc::ENABLE == 0 {
            self.disable(cx);
        } else if before & cc::ENABLE == 0 && value & cc::ENABLE != 0 {
            self.status &= !csts::SHUTDOWN;
            // 4 KiB pages, the NVM command set, round robin: all CAP offers.
            if value & (cc::PAGE_SIZE | cc::COMMAND_SET | cc::ARBITRATION) != 0 {
                self.fatal("nvme: configuration that CAP does not offer", cx);
                return;
            }
            let attributes = self.admin_attributes;
            let size = |bits: u32| (bits & 0xfff) as u16 + 1;
            let sizes = [size(attributes), size(attributes >> 16)];
            let aligned = (self.admin_submission | self.admin_completion).is_multiple_of(PAGE);
            if !aligned || sizes.iter().any(|size| *size < 2) {
                self.fatal("nvme: admin queues", cx);
                return;
            }
            // The admin queue may have 4,096 entries; more than I/O queues, but none needs them.
            self.submissions[0] = Some(Submission::new(self.admin_submission, sizes[0], 0));
            self.completions[0] = Some(Completion::new(self.admin_completion, sizes[1], 0, true));
            cx.after(READY_NS, READY);
        }
        let asked = value & cc::SHUTDOWN != 0 && before & cc::SHUTDOWN == 0;
        if asked && self.status & csts::SHUTDOWN == 0 {
            self.status |= csts::SHUTDOWN_RUNNING;
            cx.after(SHUTDOWN_NS, SHUTDOWN);
        }
    }
}

impl Device for Controller {
    const KIND: &'static str = "nvme-controller";
    type Reg = Reg;

    fn map(&self, _region: Region) -> &'static RegMap<Reg> {
        &MAP
    }

    fn read(&mut self, reg: Reg, _cx: &mut Cx<'_>) -> u64 {
        match reg {
            Reg::Capabilities => regs::CAPABILITIES,
            Reg::Version => u64::from(regs::VERSION),
            Reg::MaskSet | Reg::MaskClear => u64::from(self.mask),
            Reg::Configuration => u64::from(self.configuration),
            Reg::Status => u64::from(self.status),
            Reg::AdminAttributes => u64::from(self.admin_attributes),
            Reg::AdminSubmission => self.admin_submission,
            Reg::AdminCompletion => self.admin_completion,
            // No controller memory buffer, no boot partitions.
            Reg::MemoryLocation | Reg::MemorySize | Reg::BootPartition => 0,
        }
    }

    fn write(&mut self, reg: Reg, value: u64, cx: &mut Cx<'_>) {
        match reg {
            Reg::MaskSet => self.mask |= value as u32,
            Reg::MaskClear => self.mask &= !(value as u32),
            Reg::Configuration => self.configure(value as u32, cx),
            Reg::AdminAttributes => self.admin_attributes = value as u32 & 0x0fff_0fff,
            Reg::AdminSubmission => self.admin_submission = value & !(PAGE - 1),
            Reg::AdminCompletion => self.admin_completion = value & !(PAGE - 1),
            // Read-only; the bits of CSTS that can be cleared belong to features that are not there.
            Reg::Capabilities | Reg::Version | Reg::Status | Reg::MemoryLocation | Reg::MemorySize | Reg::BootPartition => {}
        }
    }

    fn peek(&self, reg: Reg) -> Option<u64> {
        // Only the 64-bit registers may be written in parts (§3.1).
        match reg {
            Reg::AdminSubmission => Some(self.admin_submission),
            Reg::AdminCompletion => Some(self.admin_completion),
            _ => None,
        }
    }

    fn event(&mut self, what: Token, cx: &mut Cx<'_>) {
        match what {
            FETCH => self.fetch(cx),
            COMPLETE => self.complete(cx),
            READY => self.status |= csts::READY,
            SHUTDOWN => {
                if let Some(disk) = cx.disk(self.disk)
                    && disk.flush().is_err()
                {
                    cx.note("nvme: flush at shutdown failed", 0);
                }
                self.status = self.status & !csts::SHUTDOWN | csts::SHUTDOWN_DONE;
            }
            _ => {}
        }
    }

    fn reset(&mut self, how: Reset, cx: &mut Cx<'_>) {
        self.disable(cx);
        self.configuration = 0;
        self.admin_attributes = 0;
        self.admin_submission = 0;
        self.admin_completion = 0;
        if how == Reset::PowerOn {
            self.logs = Logs::default();
        }
    }

    fn state(&mut self, fields: &mut dyn Fields) {
        fields.u32("configuration", &mut self.configuration);
        fields.u32("status", &mut self.status);
        fields.u32("mask", &mut self.mask);
        fields.u32("admin_attributes", &mut self.admin_attributes);
        fields.u64("admin_submission", &mut self.admin_submission);
        fields.u64("admin_completion", &mut self.admin_completion);
        for queue in &mut self.submissions {
            let mut there = queue.is_some();
            fields.flag("submission", &mut there);
            if there {
                let queue = queue.get_or_insert_default();
                fields.u64("base", &mut queue.base);
                for (name, word) in
                    [("size", &mut queue.size), ("head", &mut queue.head), ("tail", &mut queue.tail), ("completion", &mut queue.completion)]
                {
                    fields.u16(name, word);
                }
                if queue.size < 2 || queue.head >= queue.size || queue.tail >= queue.size || queue.completion > IO_QUEUES {
                    fields.refuse("size");
                    *queue = Submission::new(0, 2, 0);
                }
            } else {
                *queue = None;
            }
        }
        for queue in &mut self.completions {
            let mut there = queue.is_some();
            fields.flag("completion_queue", &mut there);
            if there {
                let queue = queue.get_or_insert_default();
                fields.u64("base", &mut queue.base);
                for (name, word) in
                    [("size", &mut queue.size), ("head", &mut queue.head), ("tail", &mut queue.tail), ("vector", &mut queue.vector)]
                {
                    fields.u16(name, word);
                }
                fields.flag("phase", &mut queue.phase);
                fields.flag("interrupts", &mut queue.interrupts);
                if queue.size < 2 || queue.head >= queue.size || queue.tail >= queue.size {
                    fields.refuse("size");
                    *queue = Completion::new(0, 2, 0, false);
                }
            } else {
                *queue = None;
            }
        }
        let mut count = self.in_flight.len() as u64;
        fields.u64("in_flight", &mut count);
        if count > 0x1_0000 {
            fields.refuse("in_flight");
            return;
        }
        let empty = InFlight { at: 0, queue: 0, id: 0, status: Status::OK, result: 0, data: Vec::new(), to: Vec::new() };
        self.in_flight.resize(count as usize, empty);
        for back in &mut self.in_flight {
            fields.u64("at", &mut back.at);
            fields.u16("queue", &mut back.queue);
            fields.u16("id", &mut back.id);
            fields.u16("status", &mut back.status.0);
            fields.u32("result", &mut back.result);
            fields.bytes("data", &mut back.data);
            segments_state(&mut back.to, fields);
        }
        let mut requests: Vec<u8> = self.event_requests.iter().flat_map(|id| id.to_le_bytes()).collect();
        fields.bytes("event_requests", &mut requests);
        self.event_requests = requests.as_chunks::<2>().0.iter().map(|word| u16::from_le_bytes(*word)).collect();
        self.features.state(fields);
        self.logs.state(fields);
        fields.flag("fetching", &mut self.fetching);
        fields.u16("turn", &mut self.turn);
        fields.u64("path_free", &mut self.path_free);
        fields.u64("raised", &mut self.raised);
    }
}

/// The walk over a list of segments.
fn segments_state(to: &mut Vec<Segment>, fields: &mut dyn Fields) {
    let mut flat: Vec<u8> = to.iter().flat_map(|(address, length)| [address.to_le_bytes(), u64::from(*length).to_le_bytes()].concat()).collect();
    fields.bytes("segments", &mut flat);
    let words: Vec<u64> = flat.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    *to = words.chunks_exact(2).map(|pair| (pair[0], pair[1] as u32)).collect();
}
