//! The translator proper: units, their links, and the way in and out.

use crate::arena::Arena;
use crate::block::{self, Can, FETCH, WAY};
use crate::emit::{BUDGET, Emit, S1, S2, TAGS, at, field, resolve};
use crate::frame::{self, Frame, FrameBox, JUMPS};
use crate::registers::{host, sized};
use crate::quirks::Quirks;
use crate::{Counts, Exit, Guest, How, Unavailable, UnitId};
use iced_x86::{Code, Decoder, DecoderOptions, Formatter, IcedError, Instruction, InstructionInfoFactory, IntelFormatter, MemoryOperand, Register};
use std::sync::OnceLock;

/// A translated block.
struct Unit {
    rip: u64,
    /// Offset of each instruction, and of the end.
    offsets: Vec<u8>,
    ticks: u8,
    entry: usize,
    checked: usize,
    dead: usize,
    end: usize,
    ways: [Option<usize>; 2],
    targets: [u64; 2],
}

/// The host does not change.
static QUIRKS: OnceLock<Quirks> = OnceLock::new();

/// What must be as it was for an entry of the indirect-branch cache to hold.
pub(crate) type Context = [u64; 3];
/// Contexts remembered; more of them start over.
const CONTEXTS: usize = 16;

/// See the crate.
pub struct Translator {
    arena: Arena,
    frame: FrameBox,
    info: InstructionInfoFactory,
    quirks: Quirks,
    spoiled: bool,
    units: Vec<Unit>,
    /// Offsets of the way in, the way out and the load of XMM registers, and where units begin.
    enter: usize,
    leave: usize,
    load_xmm: usize,
    first: usize,
    context: Context,
    /// Salts of the contexts seen.
    salts: Vec<(Context, u64)>,
    salt: u64,
}

impl std::fmt::Debug for Translator {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Translator").field("units", &self.units.len()).field("bytes", &self.arena.next()).finish_non_exhaustive()
    }
}

impl Translator {
    /// # Errors
    /// The host lacks BMI2, or executable memory.
    pub fn new() -> Result<Translator, Unavailable> {
        if !std::arch::is_x86_feature_detected!("bmi2") || !std::arch::is_x86_feature_detected!("ssse3") {
            return Err(Unavailable::Processor);
        }
        let mut arena = Arena::new()?;
        let enter = arena.append(&way_in().map_err(|_| Unavailable::Encoder)?).ok_or(Unavailable::Memory)?;
        let leave = arena.append(&way_out().map_err(|_| Unavailable::Encoder)?).ok_or(Unavailable::Memory)?;
        let load_xmm = arena.append(&load_xmm().map_err(|_| Unavailable::Encoder)?).ok_or(Unavailable::Memory)?;
        let first = arena.next();
        Ok(Translator {
            arena,
            frame: FrameBox::new(),
            info: InstructionInfoFactory::new(),
            quirks: *QUIRKS.get_or_init(Quirks::probe),
            spoiled: false,
            units: Vec::new(),
            enter,
            leave,
            load_xmm,
            first,
            context: [0; 3],
            salts: Vec::new(),
            salt: 1,
        })
    }

    /// Translates wrongly from now on (ADC forgets its carry), for tests of what should notice.
    pub fn spoil(&mut self) {
        self.spoiled = true;
    }

    /// Forgets all units; their ids mean nothing any more.
    pub fn clear(&mut self) {
        self.units.clear();
        self.arena.rewind(self.first);
        // What the indirect-branch cache holds is under salts that are not used again.
        self.salts.clear();
        self.context = [u64::MAX; 3];
    }

    fn forget_jumps(&mut self) {
        let frame = self.frame.get();
        frame.jump_keys.fill(0);
        self.salts.clear();
        self.salt = 1;
        self.context = [u64::MAX; 3];
    }

    /// Translates as much as it can from the beginning of the block of `count` instructions at `rip`, which lies in page `page` of memory, and says how many
    /// instructions that is. `None`: its first one is not for the translator, or there is no room ([`Translator::is_full`]).
    pub fn translate(&mut self, rip: u64, page: u32, bytes: &[u8], count: usize, sse: bool, counts: Counts) -> Option<(UnitId, usize)> {
        if self.is_full() {
            return None;
        }
        let id = self.units.len() as u32;
        let fetch = crate::tlb::fetch_word(rip, page)?;
        let mut body = block::translate(&mut self.info, id, rip, bytes, count, Can { sse, counts, quirks: self.quirks, fetch, spoiled: self.spoiled }).ok()?;
        let start = self.arena.next();
        for exit in &body.exits {
            resolve(&mut body.code, exit, self.leave as i64 - start as i64);
        }
        for load in &body.loads {
            resolve(&mut body.code, load, self.load_xmm as i64 - start as i64);
        }
        let at = self.arena.append(&body.code)?;
        let done = usize::from(body.ticks);
        self.units.push(Unit {
            rip,
            offsets: body.offsets,
            ticks: body.ticks,
            entry: at + body.entry,
            checked: at,
            dead: at + body.dead,
            end: at + body.code.len(),
            ways: body.ways.map(|way| way.map(|field| at + field)),
            targets: body.targets,
        });
        Some((UnitId(id), done))
    }

    /// How many instructions at the beginning of a block that [`Translator::translate`] refused to leave to the interpreter: as many as the block has, if what follows them
    /// is not worth the way in.
    pub fn refused(&mut self, rip: u64, bytes: &[u8], count: usize, sse: bool, counts: Counts) -> usize {
        block::refused(&mut self.info, rip, bytes, count, Can { sse, counts, quirks: self.quirks, fetch: 0, spoiled: self.spoiled })
    }

    /// Whether [`Translator::clear`] is due.
    pub fn is_full(&self) -> bool {
        self.units.len() >= 1 << 18 || self.arena.next() > crate::arena::ARENA_BYTES - (64 << 10)
    }

    /// Makes whoever enters `unit` leave at once: its code was written over.
    pub fn kill(&mut self, unit: UnitId) {
        if let Some(Unit { entry, dead, .. }) = self.units.get(unit.0 as usize) {
            // jmp rel8, back to the dead entry just before; who comes from another page gets there, too.
            let back = *dead as i64 - (*entry as i64 + 2);
            let entry = *entry;
            self.arena.put(entry, &[0xeb, back as i8 as u8]);
        }
    }

    /// Lets whoever enters `dead`, which was killed, go on to `unit`, made for the same code anew.
    pub fn forward(&mut self, dead: UnitId, unit: UnitId) {
        let (Some(source), Some(target)) = (self.units.get(dead.0 as usize), self.units.get(unit.0 as usize)) else { return };
        if source.rip == target.rip && dead != unit {
            // jmp rel32 over the entry's first instructions, which are longer.
            let (from, to) = (source.entry, target.entry);
            self.arena.put(from, &[0xe9]);
            self.arena.patch(from + 1, to);
        }
    }

    /// Lets `from` go straight to `to` by `way`. If both are on one page of addresses, they must be on one page of memory.
    pub fn link(&mut self, from: UnitId, way: usize, to: UnitId) {
        let (Some(source), Some(target)) = (self.units.get(from.0 as usize), self.units.get(to.0 as usize)) else { return };
        if let Some(field) = source.ways[way & 1]
            && source.targets[way & 1] == target.rip
        {
            let near = source.rip >> 12 == target.rip >> 12;
            let to = if near { target.entry } else { target.checked };
            self.arena.patch(field, to);
        }
    }

    /// Chooses the context that entries of the indirect-branch cache are made and found in.
    pub fn set_context(&mut self, context: Context) {
        // Asked at every entry: by parts, not by a call.
        let [mode, cr4, efer] = self.context;
        if mode == context[0] && cr4 == context[1] && efer == context[2] {
            return;
        }
        self.context = context;
        let known = self.salts.iter().find(|(other, _)| *other == context).map(|(_, salt)| *salt);
        let salt = known.unwrap_or_else(|| {
            self.salt += 1;
            if self.salt > 0xffff {
                self.forget_jumps();
                self.context = context;
                self.salt = 2;
            }
            if self.salts.len() >= CONTEXTS {
                self.salts.clear();
            }
            self.salts.push((context, self.salt));
            self.salt
        });
        let frame = self.frame.get();
        frame.salt = salt;
        // An empty slot is that of address 0 where slot and salt are the same; it is given an address that has this slot under salt 0, which nobody has.
        let key = &mut frame.jump_keys[salt as usize & (JUMPS - 1)];
        if *key == 0 && known.is_none() {
            *key = salt.wrapping_neg();
        }
    }

    /// Lets indirect branches of the current context find `unit`.
    pub fn remember(&mut self, unit: UnitId) {
        let Some(found) = self.units.get(unit.0 as usize) else { return };
        let host = self.arena.address(found.checked);
        let rip = found.rip;
        let frame = self.frame.get();
        let slot = rip.wrapping_add(frame.salt) as usize & (JUMPS - 1);
        frame.jump_keys[slot] = rip.wrapping_neg();
        frame.jump_hosts[slot] = host;
    }

    /// Runs from `unit` on until something is not for translated code. `None`: the memory is not what the tags were made for.
    pub fn run(&mut self, guest: &mut Guest<'_>, unit: UnitId) -> Option<Exit> {
        let entry = self.arena.address(self.units.get(unit.0 as usize)?.entry);
        if guest.tags.limit() > guest.ram.len() as u64 || guest.tags.base() != guest.ram.as_mut_ptr() as u64 {
            return None;
        }
        let enter = self.arena.address(self.enter);
        let frame = self.frame.get();
        frame.guest = guest.gpr.as_mut_ptr() as u64;
        frame.flags = to_ax(*guest.flags);
        frame.budget = *guest.budget;
        frame.tags = guest.tags.view(guest.view) as u64;
        frame.xmm = guest.xmm.as_mut_ptr() as u64;
        frame.no_xmm = 1;
        frame.mxcsr = *guest.mxcsr;
        frame.fs_base = guest.fs_base;
        frame.gs_base = *guest.gs_base;
        frame.kernel_gs_base = *guest.kernel_gs_base;
        frame.not_kernel = u64::from(!guest.kernel);
        frame.no_cli = u64::from(!guest.may_cli);
        frame.no_sti = u64::from(!guest.may_sti);
        frame.no_pushf = u64::from(!guest.may_pushf);
        frame.rest = *guest.rest;
        frame.rest_closed = *guest.rest & !IF;
        frame.rest_open = *guest.rest | IF;
        // SAFETY: `enter` is the way in, written by `new` and never again; it keeps the calling convention, takes the frame and the address of a unit's entry.
        // Units read and write the frame, guest registers through `frame.guest` and `frame.xmm` (borrowed in `guest`), the tags of one view (borrowed; `TAGS` points
        // to VIEW_WORDS words and indices are cut to 16 bits), and guest memory only where a tag admits it, which is inside `tags.limit() <= ram.len()` from
        // `tags.base() == ram` on by the invariant of `FastTags`. Entries in the jump cache and patched jumps lead to unit entries of this arena, which is rewound only together with both. The frame and
        // everything borrowed stay in place during the call, and no other thread has them.
        unsafe {
            let run: extern "sysv64" fn(*mut Frame, u64) = std::mem::transmute(enter as *const ());
            run(frame, entry);
        }
        *guest.flags = from_ax(frame.flags);
        *guest.budget = frame.budget;
        *guest.mxcsr = frame.mxcsr;
        *guest.gs_base = frame.gs_base;
        *guest.kernel_gs_base = frame.kernel_gs_base;
        *guest.rest = frame.rest;
        let code = frame.exit as u32;
        let id = code >> 8;
        let unit = &self.units[id as usize];
        let how = match code & 0xff {
            FETCH => How::Fetch { rip: unit.rip, from: UnitId(frame.from as u32 >> 8) },
            what @ (WAY..) => {
                let way = (what - WAY) as usize & 1;
                How::Way { way, rip: unit.targets[way] }
            }
            instruction => {
                let instruction = instruction as usize;
                How::Before { rip: unit.rip.wrapping_add(u64::from(unit.offsets[instruction])), done: instruction }
            }
        };
        Some(Exit { unit: UnitId(id), how })
    }

    /// Guest address of a unit, its instructions, and a listing of its host code.
    pub fn listing(&self, unit: UnitId) -> Option<String> {
        let unit = self.units.get(unit.0 as usize)?;
        let code = self.arena.bytes(unit.checked, unit.end - unit.checked);
        let mut text = format!("host code of {:#x}, {} ticks:\n", unit.rip, unit.ticks);
        text.push_str(&disassemble(code, unit.checked as u64));
        Some(text)
    }
}

/// Lines of Intel syntax.
fn disassemble(code: &[u8], rip: u64) -> String {
    let mut formatter = IntelFormatter::new();
    let mut text = String::new();
    for instruction in &mut Decoder::with_ip(64, code, rip, DecoderOptions::NONE) {
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        text.push_str(&format!("  {:x}: {line}\n", instruction.ip()));
    }
    text
}

/// RFLAGS.IF.
const IF: u64 = 1 << 9;

/// RFLAGS bits to AH as SAHF takes it, and AL = OF.
fn to_ax(flags: u64) -> u64 {
    (flags & 0xd5 | 2) << 8 | flags >> 11 & 1
}

fn from_ax(ax: u64) -> u64 {
    ax >> 8 & 0xd5 | (ax & 1) << 11
}

/// Callee-saved registers of the System V convention but RSP.
const SAVED: [Register; 6] = [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

/// `fn(frame: rdi, entry: rsi)`: saves what the caller keeps, turns RSP into the frame, loads the guest.
fn way_in() -> Result<Vec<u8>, IcedError> {
    let mut e = Emit::new();
    for register in SAVED {
        e.put(&Instruction::with1(Code::Push_r64, register)?)?;
    }
    e.store(at(Register::RDI, frame::NATIVE_RSP), Register::RSP)?;
    e.mov(Register::RSP, Register::RDI)?;
    e.store(field(frame::TARGET), Register::RSI)?;
    e.load(TAGS, field(frame::TAGS))?;
    e.load(BUDGET, field(frame::BUDGET))?;
    // AL + 0x7f overflows exactly if AL is 1; SAHF then sets the other five.
    e.load(Register::RAX, field(frame::FLAGS))?;
    e.put(&Instruction::with2(Code::Add_AL_imm8, Register::AL, 0x7f)?)?;
    e.put(&Instruction::with(Code::Sahf))?;
    e.load(S1, field(frame::GUEST))?;
    for guest in 0..16 {
        let place = at(S1, 8 * guest as i64);
        match host(guest) {
            Some(n) => e.load(sized(n, 8), place)?,
            None => {
                e.load(S2, place)?;
                e.store(field(8 * guest as i64), S2)?;
            }
        }
    }
    e.put(&Instruction::with1::<MemoryOperand>(Code::Jmp_rm64, field(frame::TARGET))?)?;
    Ok(e.take())
}

/// Loads the XMM registers and MXCSR, flags kept, and goes where the frame says.
fn load_xmm() -> Result<Vec<u8>, IcedError> {
    let mut e = Emit::new();
    e.put(&Instruction::with1(Code::Stmxcsr_m32, field(frame::HOST_MXCSR))?)?;
    e.put(&Instruction::with1(Code::Ldmxcsr_m32, field(frame::MXCSR))?)?;
    e.load(Register::RCX, field(frame::XMM))?;
    for n in 0..16u32 {
        e.put(&Instruction::with2(Code::Movups_xmm_xmmm128, Register::XMM0 + n, at(Register::RCX, 16 * i64::from(n)))?)?;
    }
    e.put(&Instruction::with2(Code::Mov_rm64_imm32, field(frame::NO_XMM), 0)?)?;
    e.put(&Instruction::with1::<MemoryOperand>(Code::Jmp_rm64, field(frame::TARGET))?)?;
    Ok(e.take())
}

/// ECX = exit code: saves the guest, gives the host its stack back.
fn way_out() -> Result<Vec<u8>, IcedError> {
    let mut e = Emit::new();
    e.store(field(frame::EXIT), Register::RCX)?;
    e.load(S1, field(frame::GUEST))?;
    for guest in 0..16 {
        let place = at(S1, 8 * guest as i64);
        match host(guest) {
            Some(n) => e.store(place, sized(n, 8))?,
            None => {
                e.load(S2, field(8 * guest as i64))?;
                e.store(place, S2)?;
            }
        }
    }
    e.put(&Instruction::with(Code::Lahf))?;
    e.put(&Instruction::with1(Code::Seto_rm8, Register::AL)?)?;
    e.store(field(frame::FLAGS), Register::RAX)?;
    e.store(field(frame::BUDGET), BUDGET)?;
    e.load(Register::RCX, field(frame::NO_XMM))?;
    let never = e.jmp_unless_zero();
    e.load(Register::RCX, field(frame::XMM))?;
    for n in 0..16u32 {
        e.put(&Instruction::with2(Code::Movups_xmmm128_xmm, at(Register::RCX, 16 * i64::from(n)), Register::XMM0 + n)?)?;
    }
    e.put(&Instruction::with1(Code::Stmxcsr_m32, field(frame::MXCSR))?)?;
    e.put(&Instruction::with1(Code::Ldmxcsr_m32, field(frame::HOST_MXCSR))?)?;
    e.resolve_here(&never);
    e.load(Register::RSP, field(frame::NATIVE_RSP))?;
    for register in SAVED.into_iter().rev() {
        e.put(&Instruction::with1(Code::Pop_r64, register)?)?;
    }
    e.put(&Instruction::with(Code::Retnq))?;
    Ok(e.take())
}

const _: () = {
    const fn send<T: Send>() {}
    send::<Translator>();
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FastTags;

    #[test]
    fn only_what_was_remembered_is_found() {
        let Ok(mut translator) = Translator::new() else {
            eprintln!("nothing to test: the host cannot translate");
            return;
        };
        // jmp rax
        let (unit, done) = translator.translate(0x1000, 1, &[0xff, 0xe0], 1, true, Counts::default()).expect("it can be translated");
        assert_eq!(done, 1);
        let mut tags = FastTags::new();
        tags.stand_on(&mut []);
        for context in 1..40 {
            translator.set_context([context, 0, 0]);
            if context == 1 {
                translator.remember(unit);
            }
            // Addresses that differ by what may tell contexts apart, most of them not canonical; of no page and of the unit's.
            for target in (0..64u64).flat_map(|n| [n, n << 48]).flat_map(|n| [n, n.wrapping_neg()]).flat_map(|n| [n, n.wrapping_add(0x1000)]) {
                let (mut gpr, mut flags, mut budget) = ([0; 32], 2, -100);
                gpr[0] = target;
                let exit = translator.run(
                    &mut Guest {
                        gpr: &mut gpr,
                        xmm: &mut [0; 16],
                        mxcsr: &mut 0x1f80,
                        flags: &mut flags,
                        budget: &mut budget,
                        ram: &mut [],
                        tags: &tags,
                        view: 0,
                        fs_base: 0,
                        gs_base: &mut 0,
                        kernel_gs_base: &mut 0,
                        rest: &mut 2,
                        kernel: true,
                        may_cli: true,
                        may_sti: true,
                        may_pushf: true,
                    },
                    unit,
                );
                let found = context == 1 && target == 0x1000;
                // No page was fetched from, so what is found is not entered.
                let how = if found { How::Fetch { rip: 0x1000, from: unit } } else { How::Before { rip: 0x1000, done: 0 } };
                assert_eq!(exit, Some(Exit { unit, how }), "{target:#x} in context {context}");
                assert_eq!((gpr[0], budget), (target, if found { -99 } else { -100 }));
            }
        }
    }
}
