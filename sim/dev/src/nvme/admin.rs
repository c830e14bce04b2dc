//! Admin commands (§5).

use sim_bus::{Cx, Fields};

use super::chip::{Answer, Controller};
use super::command::{Command, Completion, PAGE, Status, Submission, segments};
use super::identify::NAMESPACE;
use super::regs::{IO_QUEUES, QUEUE_ENTRIES_MAX};

const DELETE_SUBMISSION: u8 = 0x00;
const CREATE_SUBMISSION: u8 = 0x01;
const GET_LOG: u8 = 0x02;
const DELETE_COMPLETION: u8 = 0x04;
const CREATE_COMPLETION: u8 = 0x05;
const IDENTIFY: u8 = 0x06;
const ABORT: u8 = 0x08;
const SET_FEATURES: u8 = 0x09;
const GET_FEATURES: u8 = 0x0a;
const EVENT_REQUEST: u8 = 0x0c;

/// Asynchronous event requests that may wait (AERL + 1).
const EVENT_REQUESTS_MAX: usize = 4;
/// All namespaces.
pub const BROADCAST: u32 = 0xffff_ffff;

/// Features (§5.21.1) that are a value and nothing more: identifier, default, the bits that can be set.
const PLAIN: &[(u8, u32, u32)] = &[
    (0x01, 3, 0xffff_ff07),          // arbitration: round robin needs no weights
    (0x02, 0, 0x1f),                 // power management: one state
    (0x04, 343, 0x003f_ffff),        // temperature threshold
    (0x05, 0, 0x0001_ffff),          // error recovery
    (0x08, 0, 0xffff),               // interrupt coalescing: kept, not done
    (0x0a, 0, 1),                    // write atomicity
    (0x0b, 0, 0xffff),               // asynchronous event configuration
];
const VOLATILE_CACHE: u8 = 0x06;
const QUEUES: u8 = 0x07;
const VECTOR: u8 = 0x09;

/// What Set Features has set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    plain: [u32; PLAIN.len()],
    cache: bool,
    queues_set: bool,
    /// Vectors with coalescing off, a bit each.
    vectors: u64,
}

impl Default for Features {
    fn default() -> Self {
        Self { plain: std::array::from_fn(|index| PLAIN[index].1), cache: true, queues_set: false, vectors: 0 }
    }
}

impl Features {
    /// Whether writes stay in the volatile cache until a flush.
    pub fn cache(&self) -> bool {
        self.cache
    }
    pub fn state(&mut self, fields: &mut dyn Fields) {
        for word in &mut self.plain {
            fields.u32("feature", word);
        }
        fields.flag("cache", &mut self.cache);
        fields.flag("queues_set", &mut self.queues_set);
        fields.u64("vectors", &mut self.vectors);
    }
}

impl Controller {
    /// Carries out an admin command.
    pub(super) fn admin(&mut self, command: &Command, cx: &mut Cx<'_>) -> Answer {
        let done = if !command.is_plain() {
            Err(Status::INVALID_FIELD)
        } else {
            match command.opcode {
                DELETE_SUBMISSION => self.delete_submission(command, cx),
                CREATE_SUBMISSION => self.create_submission(command),
                GET_LOG => self.get_log(command, cx),
                DELETE_COMPLETION => self.delete_completion(command),
                CREATE_COMPLETION => self.create_completion(command),
                IDENTIFY => self.identify(command, cx),
                ABORT => {
                    let done = self.abort(command.dword(10) as u16, (command.dword(10) >> 16) as u16, cx);
                    Ok(Answer::result(u32::from(!done)))
                }
                SET_FEATURES => self.set_features(command),
                GET_FEATURES => self.get_features(command),
                EVENT_REQUEST if self.event_requests.len() < EVENT_REQUESTS_MAX => {
                    self.event_requests.push(command.id);
                    Ok(Answer::default())
                }
                EVENT_REQUEST => Err(Status::EVENT_LIMIT),
                opcode => {
                    cx.note("nvme: admin command not implemented", u64::from(opcode));
                    Err(Status::INVALID_OPCODE)
                }
            }
        };
        done.unwrap_or_else(Answer::status)
    }

    /// Identifier and size of a queue to be made.
    fn queue_fields(command: &Command, id_fault: Status, taken: impl Fn(usize) -> bool) -> Result<(usize, u16), Status> {
        let id = command.dword(10) as u16;
        if id == 0 || id > IO_QUEUES || taken(usize::from(id)) {
            return Err(id_fault);
        }
        let size = (command.dword(10) >> 16) + 1;
        if !(2..=u32::from(QUEUE_ENTRIES_MAX)).contains(&size) {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        // Physically contiguous: CAP.CQR.
        if command.dword(11) & 1 == 0 {
            return Err(Status::INVALID_FIELD);
        }
        if !command.prp1.is_multiple_of(PAGE) {
            return Err(Status::PRP_OFFSET);
        }
        Ok((usize::from(id), size as u16))
    }

    fn create_completion(&mut self, command: &Command) -> Result<Answer, Status> {
        let (id, size) = Self::queue_fields(command, Status::INVALID_QUEUE, |id| self.completions[id].is_some())?;
        let vector = (command.dword(11) >> 16) as u16;
        if vector > IO_QUEUES {
            return Err(Status::INVALID_VECTOR);
        }
        self.completions[id] = Some(Completion::new(command.prp1, size, vector, command.dword(11) & 2 != 0));
        Ok(Answer::result(0))
    }

    fn create_submission(&mut self, command: &Command) -> Result<Answer, Status> {
        let (id, size) = Self::queue_fields(command, Status::INVALID_QUEUE, |id| self.submissions[id].is_some())?;
        let target = (command.dword(11) >> 16) as u16;
        if target == 0 || self.completions.get(usize::from(target)).is_none_or(Option::is_none) {
            return Err(Status::INVALID_COMPLETION_QUEUE);
        }
        self.submissions[id] = Some(Submission::new(command.prp1, size, target));
        Ok(Answer::result(0))
    }

    fn delete_submission(&mut self, command: &Command, cx: &mut Cx<'_>) -> Result<Answer, Status> {
        let id = command.dword(10) as u16;
        if id == 0 || self.submissions.get(usize::from(id)).is_none_or(Option::is_none) {
            return Err(Status::INVALID_QUEUE);
        }
        self.flush_queue(id, cx);
        self.submissions[usize::from(id)] = None;
        Ok(Answer::result(0))
    }

    fn delete_completion(&mut self, command: &Command) -> Result<Answer, Status> {
        let id = command.dword(10) as u16;
        if id == 0 || self.completions.get(usize::from(id)).is_none_or(Option::is_none) {
            return Err(Status::INVALID_QUEUE);
        }
        if self.submissions.iter().flatten().any(|queue| queue.completion == id) {
            return Err(Status::QUEUE_DELETION);
        }
        self.completions[usize::from(id)] = None;
        Ok(Answer::result(0))
    }

    fn identify(&mut self, command: &Command, cx: &mut Cx<'_>) -> Result<Answer, Status> {
        let data = match command.dword(10) as u8 {
            0x00 if command.namespace == NAMESPACE => self.identify_namespace(),
            0x00 => return Err(Status::INVALID_NAMESPACE),
            0x01 => self.identify_controller(),
            0x02 if command.namespace >= 0xffff_fffe => return Err(Status::INVALID_NAMESPACE),
            0x02 => Self::identify_list(command.namespace),
            0x03 if command.namespace == NAMESPACE => self.identify_descriptors(),
            0x03 => return Err(Status::INVALID_NAMESPACE),
            other => {
                cx.note("nvme: identify structure not implemented", u64::from(other));
                return Err(Status::INVALID_FIELD);
            }
        };
        let to = segments(command, PAGE, cx)?;
        Ok(Answer::data(data, to))
    }

    fn get_log(&mut self, command: &Command, cx: &mut Cx<'_>) -> Result<Answer, Status> {
        let page = command.dword(10) as u8;
        let retain = command.dword(10) >> 15 & 1 != 0;
        // Number of dwords, zero-based, and where to begin (LPA bit 2).
        let length = ((u64::from(command.dword(10) >> 16) | u64::from(command.dword(11) & 0xffff) << 16) + 1) * 4;
        let offset = u64::from(command.dword(12)) | u64::from(command.dword(13)) << 32;
        if !matches!(command.namespace, 0 | NAMESPACE | BROADCAST) {
            return Err(Status::INVALID_NAMESPACE);
        }
        let Some(data) = self.logs.read(page, retain) else {
            cx.note("nvme: log page not implemented", u64::from(page));
            return Err(Status::INVALID_LOG);
        };
        let offset = usize::try_from(offset).ok().filter(|offset| *offset <= data.len() && offset.is_multiple_of(4)).ok_or(Status::INVALID_FIELD)?;
        let data = data[offset..].to_vec();
        // More than the page has is undefined; it is not written.
        let to = segments(command, length.min(data.len() as u64), cx)?;
        Ok(Answer::data(data, to))
    }

    fn set_features(&mut self, command: &Command) -> Result<Answer, Status> {
        let id = command.dword(10) as u8;
        if command.dword(10) >> 31 != 0 {
            return Err(Status::NOT_SAVEABLE);
        }
        let value = command.dword(11);
        match id {
            VOLATILE_CACHE => self.features.cache = value & 1 != 0,
            QUEUES => {
                // Only before I/O queues are made; 0xffff is not allowed (§5.21.1.7).
                if self.submissions.iter().chain([&None]).skip(1).any(Option::is_some) {
                    return Err(Status(0x0c | 1 << 14));
                }
                if value & 0xffff == 0xffff || value >> 16 == 0xffff {
                    return Err(Status::INVALID_FIELD);
                }
                self.features.queues_set = true;
                return Ok(Answer::result(Self::queues_granted()));
            }
            VECTOR => {
                let vector = value & 0xffff;
                if vector > u32::from(IO_QUEUES) {
                    return Err(Status::INVALID_FIELD);
                }
                let bit = 1 << vector;
                self.features.vectors = self.features.vectors & !bit | if value >> 16 & 1 != 0 { bit } else { 0 };
            }
            _ => {
                let index = PLAIN.iter().position(|row| row.0 == id).ok_or(Status::INVALID_FIELD)?;
                if id == 0x02 && value & 0x1f != 0 {
                    // There is power state 0 only.
                    return Err(Status::INVALID_FIELD);
                }
                self.features.plain[index] = value & PLAIN[index].2;
            }
        }
        Ok(Answer::result(0))
    }

    fn get_features(&mut self, command: &Command) -> Result<Answer, Status> {
        let id = command.dword(10) as u8;
        let select = command.dword(10) >> 8 & 7;
        let defaults = Features::default();
        let from = match select {
            0 => &self.features,
            // Nothing is saveable: the saved value is the default.
            1 | 2 => &defaults,
            // Capabilities: changeable, not saveable, not per namespace.
            3 => return Ok(Answer::result(4)),
            _ => return Err(Status::INVALID_FIELD),
        };
        let value = match id {
            VOLATILE_CACHE => u32::from(from.cache),
            QUEUES => Self::queues_granted(),
            VECTOR => {
                let vector = command.dword(11) & 0xffff;
                if vector > u32::from(IO_QUEUES) {
                    return Err(Status::INVALID_FIELD);
                }
                vector | u32::from(from.vectors >> vector & 1 != 0) << 16
            }
            _ => from.plain[PLAIN.iter().position(|row| row.0 == id).ok_or(Status::INVALID_FIELD)?],
        };
        Ok(Answer::result(value))
    }

    /// Both counts, zero-based.
    fn queues_granted() -> u32 {
        let count = u32::from(IO_QUEUES) - 1;
        count | count << 16
    }
}
