//! Random programs.

use iced_x86::code_asm::{CodeAssembler, byte_ptr, qword_ptr, r8, r9, r10, r11, r12, r13, r14, r15, rax, rbp, rbx, rcx, rdi, rdx, rsi, rsp};
use iced_x86::{Decoder, DecoderOptions, FlowControl, IcedError, Instruction, Mnemonic as M, OpKind};
use sim_cpu::{Config, Cpu, CpuModel, CpuState, Segment, TableRegister, cr0, cr4, rflags};
use sim_mem::GuestMemory;
use std::sync::Arc;

const RAM: u64 = 8 << 20;
const PML4: u64 = 0x1000;
const GDT: u64 = 0x8000;
const IDT: u64 = 0x9000;
const TSS: u64 = 0xa000;
/// What the handler loads registers from: 16 sets of 16.
const SETS: u64 = 0xb000;
/// Addresses of the pieces, and the handler's counter after them.
const PIECES: u64 = 0xc000;
const COUNTER: u64 = 0xc800;
/// A ring of what exceptions found.
const LOG: u64 = 0x1_0000;
const CODE: u64 = 0x10_0000;
const HANDLERS: u64 = 0x18_0000;
const DATA: u64 = 0x20_0000;
const STACK: u64 = 0x30_0000;
/// Pages of data; the one after is not mapped.
const DATA_PAGES: u64 = 8;
/// Entries of the table of pieces.
const PIECE_COUNT: u64 = 16;
/// A piece and the room after it.
const PIECE_BYTES: u64 = 0x1c0;
/// Page-table entries of the data.
const DATA_ENTRIES: u64 = 0x4000 + (DATA >> 12) * 8;

/// xorshift64*.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.draw() >> 11) % limit
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
    /// A value of the kind that finds bugs.
    fn value(&mut self) -> u64 {
        match self.below(9) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3..=5 => DATA + self.below(DATA_PAGES * 0x1000),
            6 => DATA + (1 + self.below(DATA_PAGES)) * 0x1000 - self.below(20),
            7 => self.below(64),
            _ => self.draw() >> self.below(64),
        }
    }
}

/// One-byte opcodes that come often: ALU, moves, shifts, groups.
const ONE: &[u8] = &[
    0x00, 0x01, 0x02, 0x03, 0x09, 0x0b, 0x11, 0x13, 0x19, 0x1b, 0x21, 0x23, 0x29, 0x2b, 0x31, 0x33, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x63, 0x69, 0x6b, 0x80, 0x81, 0x83, 0x83, 0x84, 0x85,
    0x86, 0x87, 0x88, 0x89, 0x89, 0x8a, 0x8b, 0x8b, 0x8b, 0x8d, 0x8d, 0xa8, 0xa9, 0xb0, 0xb8, 0xc0, 0xc1, 0xc1, 0xc6, 0xc7, 0xd0, 0xd1, 0xd2, 0xd3, 0xd3, 0xf6, 0xf7, 0xf7, 0xfe, 0xff, 0x98, 0x99,
    0x50, 0x53, 0x55, 0x58, 0x5b, 0x5d, 0x68, 0x6a, 0x8f, 0x9c, 0x9f, 0x9e, 0xf5, 0xf8, 0xf9, 0xfc, 0xfd, 0xa4, 0xab, 0xc9, 0xd7, 0xd9, 0xdd, 0xa1, 0xa3,
];

/// Two-byte opcodes likewise.
const TWO: &[u8] = &[
    0x10, 0x11, 0x12, 0x13, 0x14, 0x16, 0x17, 0x28, 0x29, 0x2a, 0x2c, 0x2d, 0x2e, 0x2f, 0x40, 0x42, 0x44, 0x45, 0x48, 0x4c, 0x4f, 0x50, 0x51, 0x54, 0x57, 0x58, 0x59, 0x5a, 0x5b, 0x5c, 0x5d, 0x5e,
    0x5f, 0x60, 0x64, 0x67, 0x6a, 0x6c, 0x6e, 0x6f, 0x70, 0x71, 0x72, 0x73, 0x74, 0x76, 0x7e, 0x7f, 0x90, 0x92, 0x94, 0x95, 0x9c, 0x9f, 0xa2, 0xa3, 0xa4, 0xa5, 0xab, 0xac, 0xad, 0xaf, 0xaf, 0xb0,
    0xb1, 0xb3, 0xb6, 0xb6, 0xb7, 0xb8, 0xba, 0xba, 0xbb, 0xbc, 0xbd, 0xbe, 0xbf, 0xc0, 0xc1, 0xc2, 0xc4, 0xc5, 0xc6, 0xc8, 0xcb, 0xd0, 0xd4, 0xd5, 0xd7, 0xda, 0xdb, 0xe6, 0xe7, 0xef, 0xf4, 0xf6, 0xfa,
    0xfe, 0xae, 0x31, 0x38, 0x3a,
];

/// Programs that share their code: each has data, registers, ring, interrupt and cuts of its own. So code that was decoded and translated once is run with many
/// states, which finds more than many translations that run once, and costs less.
pub const SHARE: u64 = 8;

/// A program by its seed.
#[derive(Clone, Debug)]
pub struct Program {
    seed: u64,
    /// What its code is made from.
    group: u64,
    /// When an interrupt comes.
    interrupt: Option<u64>,
    /// Ticks it runs.
    pub ticks: u64,
    /// Pieces it consists of, bytes of code in each, and where they begin.
    pieces: u64,
    piece_bytes: usize,
    code: u64,
}

impl Program {
    /// Most are short, so that many can be tried; some are long, so that what takes time to go wrong is tried as well.
    pub fn new(seed: u64) -> Program {
        let group = seed / SHARE;
        let (ticks, pieces, piece_bytes) = match group % 512 {
            0 => (12_000, 16, PIECE_BYTES as usize - 80),
            64 | 128 | 192 | 256 | 320 | 384 | 448 => (2_000, 4, 150),
            _ => (1_000, 2, 80),
        };
        let interrupt = seed.is_multiple_of(3).then_some(50 + seed.wrapping_mul(13) % (ticks / 2));
        // All pieces lie about the end of a page.
        let code = CODE + 0xe00 - 0xc0 * pieces / 2 + group.wrapping_mul(0x9e37_79b9) % 0x180;
        Program { seed, group, interrupt, ticks, pieces, piece_bytes, code }
    }

    /// What all programs share: page tables, descriptor tables, handlers.
    pub fn tables(memory: &mut GuestMemory) {
        tables(memory);
        // Who jumps to a small number comes back: zeros would be code that writes over itself.
        memory.write(0, &[0xcc; PML4 as usize]).expect("it is in RAM");
        memory.write(HANDLERS, &handlers()).expect("it is in RAM");
    }

    /// A machine with the tables and nothing else.
    pub fn machine() -> (Cpu, GuestMemory) {
        let mut memory = GuestMemory::new(RAM);
        Program::tables(&mut memory);
        let config = Config { cpuid: CpuModel::V3.table(0, 1), ..Config::default() };
        (Cpu::new(config), memory)
    }

    /// What a machine with the tables is loaded with.
    pub fn image(&self) -> Image {
        self.image_with(&self.pieces())
    }

    /// Whether the code writes over itself. It is decoded anew each time, so few do.
    fn writes_code(&self) -> bool {
        self.group % 8 == 5
    }

    /// Programs of one group have the same code.
    pub fn group(&self) -> u64 {
        self.group
    }

    /// The code of this program's group: addresses and bytes.
    pub fn pieces(&self) -> Pieces {
        let mut rng = Rng::new(!self.group);
        let starts: Vec<u64> = (0..self.pieces).map(|piece| self.code + piece * PIECE_BYTES + rng.below(16)).collect();
        Pieces { group: self.group, code: starts.iter().map(|&at| (at, self.piece(&mut rng, at))).collect() }
    }

    /// As [`Program::image`], with the code of its group.
    pub fn image_with(&self, pieces: &Pieces) -> Image {
        let starts: Vec<u64> = pieces.code.iter().map(|(at, _)| *at).collect();
        let mut rng = Rng::new(self.seed);
        let mut parts = Vec::with_capacity(12);
        let mut sets = Vec::with_capacity(16 * 128);
        for _ in 0..16 {
            for register in 0..16 {
                let value = if register == 4 { STACK - 8 * rng.below(64) } else { rng.value() };
                sets.extend(value.to_le_bytes());
            }
        }
        parts.push((SETS, sets));
        let table: Vec<u8> = starts.iter().cycle().take(PIECE_COUNT as usize).flat_map(|at| at.to_le_bytes()).collect();
        parts.push((PIECES, table));
        // Noise at the ends of the pages, where accesses cross.
        for page in 0..DATA_PAGES {
            let noise: Vec<u8> = (0..32).flat_map(|_| rng.value().to_le_bytes()).collect();
            parts.push((DATA + page * 0x1000 + 0xf80, noise));
        }
        if self.seed % 16 == 1 {
            // Code that can be written through a page of data.
            parts.push((DATA_ENTRIES + 8 * 4, ((CODE + 0x1000 * rng.below(2)) | 7).to_le_bytes().to_vec()));
        }
        let state = self.state(&mut rng, starts[0]);
        Image { pieces: pieces.clone(), parts, state, interrupt: self.interrupt }
    }

    fn state(&self, rng: &mut Rng, start: u64) -> CpuState {
        let mut state = CpuState::linux64(CODE, 0, PML4, TableRegister { base: GDT, limit: 0x4f });
        state.rip = start;
        state.sys.cr0 |= cr0::WP | cr0::NE;
        state.sys.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::PGE;
        if self.group % 8 == 3 {
            state.sys.cr4 |= cr4::PCIDE;
        }
        if self.group % 8 > 1 {
            state.sys.cr4 |= cr4::OSXSAVE;
            state.sys.xcr0 = 7;
        }
        if self.group % 7 == 2 {
            state.sys.cr0 |= cr0::AM;
        }
        state.sys.efer |= sim_cpu::efer::SCE;
        state.sys.star = 0x0033_0010 << 32;
        state.sys.lstar = start;
        state.sys.sfmask = if self.seed.is_multiple_of(2) { rflags::IF } else { 0 };
        state.sys.idtr = TableRegister { base: IDT, limit: 0xfff };
        state.sys.seg[sim_cpu::TR] = Segment { base: TSS, limit: 0x67, attr: 0x8b, selector: 0x20 };
        for index in [sim_cpu::FS, sim_cpu::GS] {
            state.sys.seg[index].base = DATA + rng.below(0x2000);
        }
        for register in &mut state.gpr {
            *register = rng.value();
        }
        state.gpr[sim_cpu::RSP] = STACK - 64;
        for register in state.xmm.iter_mut().chain(&mut state.ymm_high) {
            *register = u128::from(rng.value()) << 64 | u128::from(if rng.below(2) == 0 { (rng.draw() as i32 as f64 / 8.0).to_bits() } else { rng.draw() });
        }
        state.rflags = rng.draw() & rflags::ARITH | rflags::IF | rflags::FIXED;
        if self.seed % 5 < 2 {
            state.sys.cpl = 3;
            for (index, selector) in [(sim_cpu::CS, 0x33), (sim_cpu::SS, 0x3b), (sim_cpu::DS, 0x3b), (sim_cpu::ES, 0x3b)] {
                state.sys.seg[index].selector = selector;
                state.sys.seg[index].attr |= 3 << sim_cpu::attr::DPL_SHIFT;
            }
        }
        if rng.below(6) == 0 {
            state.mxcsr = 0x1f80 ^ (rng.draw() as u32 & 0xffc0);
        }
        state
    }

    /// Code for one piece: random instructions with branches over them, run a few times, then on to another piece.
    fn piece(&self, rng: &mut Rng, at: u64) -> Vec<u8> {
        let mut code = Vec::new();
        // Branch targets are the starts of instructions so far.
        let mut starts = vec![0usize];
        let counter = DATA + 0x7000 + rng.below(32) * 8;
        while code.len() < self.piece_bytes {
            starts.push(code.len());
            match rng.below(25) {
                // jcc over the next instruction.
                0..=2 => {
                    let over = instruction(rng);
                    code.extend([0x70 | rng.below(16) as u8, over.len() as u8]);
                    code.extend(over);
                }
                // A loop back, as long as the counter lasts: dec qword [counter]; jns.
                3 => {
                    code.extend([0x48, 0xff, 0x0c, 0x25]);
                    code.extend((counter as u32).to_le_bytes());
                    let target = rng.pick(&starts);
                    code.extend([0x0f, 0x8f]);
                    code.extend((target as i32 - (code.len() as i32 + 4)).to_le_bytes());
                }
                // A call of what follows, and a return out of it.
                4 => {
                    let inside = instruction(rng);
                    code.extend([0xe8, 2, 0, 0, 0, 0xeb, inside.len() as u8 + 1]);
                    code.extend(inside);
                    code.push(0xc3);
                }
                // A store into code: of this piece or another.
                5 if self.writes_code() && rng.below(3) == 0 => {
                    let target = self.code + rng.below(self.pieces * PIECE_BYTES);
                    code.extend([0x88, 0x04 | (rng.below(4) as u8) << 3, 0x25]);
                    code.extend((target as u32).to_le_bytes());
                }
                // An indirect jump to the next instruction: lea rax, [rip + 2]; jmp rax.
                6 => code.extend([0x48, 0x8d, 0x05, 2, 0, 0, 0, 0xff, 0xe0]),
                // Sense for a register: mov r, address.
                7 | 8 => {
                    let register = rng.below(16) as u8;
                    if register != 4 {
                        code.extend([0x48 | register >> 3, 0xc7, 0xc0 | register & 7]);
                        code.extend((rng.value() as u32 & 0x7fff_ffff).to_le_bytes());
                    }
                }
                9 if rng.below(3) == 0 => code.extend(mapping(rng)),
                10 if rng.below(2) == 0 => code.extend(system(rng)),
                11 if rng.below(3) == 0 => code.extend(string(rng)),
                _ => code.extend(instruction(rng)),
            }
        }
        // Sets the counter, and jumps to another piece, directly or through the table.
        code.extend([0x48, 0xc7, 0x04, 0x25]);
        code.extend((counter as u32).to_le_bytes());
        code.extend((2 + rng.below(30) as u32).to_le_bytes());
        let next = rng.below(self.pieces);
        match rng.below(3) {
            0 => {
                code.extend([0xff, 0x24, 0x25]);
                code.extend((PIECES as u32 + 8 * next as u32).to_le_bytes());
            }
            1 => {
                // push qword [table]; ret.
                code.extend([0xff, 0x34, 0x25]);
                code.extend((PIECES as u32 + 8 * next as u32).to_le_bytes());
                code.push(0xc3);
            }
            _ => {
                // Into the middle of an instruction, as likely as not.
                let target = self.code + next * PIECE_BYTES + 16;
                code.push(0xe9);
                code.extend(((target as i64 - (at as i64 + code.len() as i64 + 4)) as i32).to_le_bytes());
            }
        }
        code
    }
}

/// The code that the programs of a group share.
#[derive(Clone, Debug)]
pub struct Pieces {
    pub group: u64,
    code: Arc<[(u64, Vec<u8>)]>,
}

/// A program as it is loaded.
#[derive(Clone, Debug)]
pub struct Image {
    pub pieces: Pieces,
    parts: Vec<(u64, Vec<u8>)>,
    state: CpuState,
    /// When an interrupt comes.
    pub interrupt: Option<u64>,
}

impl Image {
    /// Puts the code into memory that holds the tables.
    pub fn load_code(&self, memory: &mut GuestMemory) {
        for (gpa, bytes) in self.pieces.code.iter() {
            memory.write(*gpa, bytes).expect("it is in RAM");
        }
    }

    /// Puts the rest into memory that holds tables and code, and the vCPU at the start.
    pub fn load(&self, cpu: &mut Cpu, memory: &mut GuestMemory) {
        for (gpa, bytes) in &self.parts {
            memory.write(*gpa, bytes).expect("it is in RAM");
        }
        cpu.set_state(&self.state);
    }
}

/// Something about mappings: an entry of the data's page table, a page flushed, CR3 loaded (with another PCID, flushing or not). Outside ring 0 the last
/// two fault.
fn mapping(rng: &mut Rng) -> Vec<u8> {
    let page = rng.below(DATA_PAGES);
    let entry = ((DATA_ENTRIES + 8 * page) as u32).to_le_bytes();
    let mut code = Vec::new();
    match rng.below(4) {
        // xor byte [entry], bits: writable, user, accessed, dirty.
        0 => {
            code.extend([0x80, 0x34, 0x25]);
            code.extend(entry);
            code.push(rng.pick(&[2, 4, 6, 0x20, 0x40, 0x42, 0x62]));
        }
        // xor byte [entry + 1], 1: global.
        1 => {
            code.extend([0x80, 0x34, 0x25]);
            code.extend(((DATA_ENTRIES + 8 * page) as u32 + 1).to_le_bytes());
            code.push(1);
        }
        2 => {
            code.extend([0x0f, 0x01, 0x3c, 0x25]);
            code.extend(((DATA + page * 0x1000) as u32).to_le_bytes());
        }
        // mov rax, PML4 | pcid | keep; mov cr3, rax.
        _ => {
            code.extend([0x48, 0xb8]);
            code.extend((PML4 | rng.pick(&[0, 0, 1, 2, 1 << 63, 1 << 63 | 1])).to_le_bytes());
            code.extend([0x0f, 0x22, 0xd8]);
        }
    }
    code
}

/// What kernels do between other things: interrupts off and on, flags, segment bases, control registers, system calls. Outside ring 0 most of it faults.
fn system(rng: &mut Rng) -> Vec<u8> {
    match rng.below(13) {
        // cli; sti; clac; stac; swapgs; rdtsc; syscall; sysretq.
        0 => vec![0xfa],
        1 => vec![0xfb],
        2 => vec![0x0f, 0x01, 0xca],
        3 => vec![0x0f, 0x01, 0xcb],
        4 => vec![0x0f, 0x01, 0xf8],
        5 => vec![0x0f, 0x31],
        6 => vec![0x0f, 0x05],
        7 => vec![0x48, 0x0f, 0x07],
        // pushfq; xor dword [rsp], flags; popfq.
        8 | 9 => {
            let mut code = vec![0x9c, 0x81, 0x34, 0x24];
            code.extend(rng.pick(&[0u32, 0x200, 0x200, 0x400, 0x8d5, 0x100, 0x4_0000, 0x4_0200]).to_le_bytes());
            code.push(0x9d);
            code
        }
        // mov rax, cr0; mov cr0, rax.
        10 => vec![0x0f, 0x20, 0xc0, 0x0f, 0x22, 0xc0],
        // mov rax, cr4; xor al, PGE; mov cr4, rax.
        11 => vec![0x0f, 0x20, 0xe0, 0x34, 0x80, 0x0f, 0x22, 0xe0],
        // mov ecx, FS.base or GS.base; mov eax, address; xor edx, edx; wrmsr.
        _ => {
            let mut code = vec![0xb9, rng.below(2) as u8, 0x01, 0x00, 0xc0, 0xb8];
            code.extend((DATA as u32 + rng.below(0x2000) as u32).to_le_bytes());
            code.extend([0x31, 0xd2, 0x0f, 0x30]);
            code
        }
    }
}

/// A string instruction that may well end: `mov esi, edi, ecx`, then MOVS, STOS, LODS, SCAS or CMPS of any size, repeated or not, either way.
fn string(rng: &mut Rng) -> Vec<u8> {
    let mut code = Vec::with_capacity(24);
    for opcode in [0xbe, 0xbf] {
        code.push(opcode);
        code.extend((DATA as u32 + rng.below(DATA_PAGES * 0x1000) as u32).to_le_bytes());
    }
    code.push(0xb9);
    code.extend((rng.below(80) as u32).to_le_bytes());
    if rng.below(4) == 0 {
        code.push(0xfd);
    }
    match rng.below(4) {
        0 => {}
        1 => code.push(0xf2),
        _ => code.push(0xf3),
    }
    match rng.below(4) {
        0 => code.push(0x48),
        1 => code.push(0x66),
        _ => {}
    }
    code.extend([rng.pick(&[0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf]), 0xfc]);
    code
}

fn tables(memory: &mut GuestMemory) {
    let mut put = |gpa: u64, value: u64| memory.write_u64(gpa, 8, value).expect("tables are in RAM");
    put(PML4, 0x2007);
    put(0x2000, 0x3007);
    for index in 0..4 {
        put(0x3000 + 8 * index, (0x4000 + 0x1000 * index) | 7);
        for page in 0..512 {
            let address = (index * 512 + page) << 12;
            let hole = address == DATA + DATA_PAGES * 0x1000;
            // A page of data that is read-only, and one that is a device.
            let entry = match address {
                _ if hole => 0,
                a if a == DATA + 0x5000 => a | 5,
                a if a == DATA + 0x6000 => 0xfec0_0000 | 7,
                a => a | 7,
            };
            put(0x4000 + 0x1000 * index + 8 * page, entry);
        }
    }
    put(GDT + 0x10, 0x00af_9b00_0000_ffff);
    put(GDT + 0x18, 0x00cf_9300_0000_ffff);
    put(GDT + 0x20, 0x0000_8b00_0000_0067 | (TSS & 0xff_ffff) << 16);
    put(GDT + 0x28, 0);
    put(GDT + 0x30, 0x00af_fb00_0000_ffff);
    put(GDT + 0x38, 0x00cf_f300_0000_ffff);
    // SYSRET's code segment.
    put(GDT + 0x40, 0x00af_fb00_0000_ffff);
    for vector in 0..256u64 {
        let handler = HANDLERS + 16 * vector;
        // Interrupt gates on the first stack of the IST, so that a lost stack pointer does no harm.
        put(IDT + 16 * vector, handler & 0xffff | 0x10 << 16 | 0xee01 << 32 | (handler >> 16 & 0xffff) << 48);
        put(IDT + 16 * vector + 8, handler >> 32);
    }
    put(TSS + 4, STACK + 0x8000);
    put(TSS + 0x24, STACK + 0x7000);
}

/// 256 entries of 16 bytes and the handler they share.
fn handlers() -> Vec<u8> {
    let mut out = vec![0x90; 0x1000];
    for vector in 0..256usize {
        // push imm32; jmp rel32.
        let at = 16 * vector;
        out[at] = 0x68;
        out[at + 1..at + 5].copy_from_slice(&(vector as u32).to_le_bytes());
        out[at + 5] = 0xe9;
        out[at + 6..at + 10].copy_from_slice(&(0x1000 - (at as u32 + 10)).to_le_bytes());
    }
    out.extend(common_handler().expect("the handler assembles"));
    out
}

fn common_handler() -> Result<Vec<u8>, IcedError> {
    let registers = [rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
    let mut a = CodeAssembler::new(64)?;
    for register in registers {
        a.push(register)?;
    }
    // The next entry of the log: 24 words from the top of the stack (registers, vector, what was pushed).
    a.cld()?;
    a.mov(rbx, qword_ptr(COUNTER))?;
    a.inc(qword_ptr(COUNTER))?;
    a.mov(rdi, rbx)?;
    a.and(rdi, 255)?;
    a.shl(rdi, 8)?;
    a.add(rdi, LOG as i32)?;
    a.mov(rsi, rsp)?;
    a.mov(ecx_(), 24)?;
    a.rep().movsq()?;
    // Vector 0x30 comes from outside and changes nothing.
    let mut again = a.create_label();
    a.cmp(byte_ptr(rsp + 15 * 8), 0x30)?;
    a.jne(again)?;
    for register in registers.into_iter().rev() {
        a.pop(register)?;
    }
    a.add(rsp, 8)?;
    a.iretq()?;
    a.set_label(&mut again)?;
    // The frame: an error code is there if the word after the vector is below the code's addresses; both kinds end with CS, flags, RSP, SS.
    let mut plain = a.create_label();
    let mut ready = a.create_label();
    a.lea(rdi, qword_ptr(rsp + 16 * 8))?;
    a.mov(rax, qword_ptr(rdi + 8))?;
    a.and(rax, -4)?;
    a.cmp(rax, 0x10)?;
    a.je(plain)?;
    a.cmp(rax, 0x30)?;
    a.je(plain)?;
    a.cmp(rax, 0x40)?;
    a.je(plain)?;
    a.add(rdi, 8)?;
    a.jmp(ready)?;
    a.set_label(&mut plain)?;
    a.nop()?;
    a.set_label(&mut ready)?;
    // A new RIP, stack and registers; the flags stay but for TF, NT and AC.
    a.mov(rcx, rbx)?;
    a.and(rcx, PIECE_COUNT as i32 - 1)?;
    a.mov(rax, qword_ptr(rcx * 8 + PIECES))?;
    a.mov(qword_ptr(rdi), rax)?;
    a.and(qword_ptr(rdi + 16), 0xcd5)?;
    a.or(qword_ptr(rdi + 16), 0x202)?;
    a.and(ebx_(), 15)?;
    a.shl(ebx_(), 7)?;
    a.add(rbx, SETS as i32)?;
    a.mov(rax, qword_ptr(rbx + 32))?;
    a.mov(qword_ptr(rdi + 24), rax)?;
    a.mov(rsp, rdi)?;
    for (number, register) in [(0, rax), (1, rcx), (2, rdx), (5, rbp), (6, rsi), (7, rdi), (8, r8), (9, r9), (10, r10), (11, r11), (12, r12), (13, r13), (14, r14), (15, r15), (3, rbx)] {
        a.mov(register, qword_ptr(rbx + 8 * number))?;
    }
    a.iretq()?;
    a.assemble(HANDLERS + 0x1000)
}

fn ecx_() -> iced_x86::code_asm::AsmRegister32 {
    iced_x86::code_asm::ecx
}

fn ebx_() -> iced_x86::code_asm::AsmRegister32 {
    iced_x86::code_asm::ebx
}

/// One random instruction that does not leave its place.
fn instruction(rng: &mut Rng) -> Vec<u8> {
    loop {
        let mut bytes = Vec::with_capacity(24);
        let vex = rng.below(16) == 0;
        match rng.below(12) {
            _ if vex => {}
            0 | 1 => bytes.push(0x66),
            2 => bytes.push(0xf2),
            3 => bytes.push(0xf3),
            4 => bytes.push(rng.pick(&[0x64, 0x65, 0xf0, 0x67])),
            _ => {}
        }
        if rng.below(3) > 0 && !vex {
            bytes.push(0x40 | if rng.below(2) == 0 { 8 } else { rng.below(16) as u8 });
        }
        match rng.below(20) {
            0..=9 if vex => bytes.extend([0xc5, rng.draw() as u8, rng.pick(TWO)]),
            _ if vex => {
                let map = rng.pick(&[1, 2, 2, 3]);
                let opcode = if map == 1 { rng.pick(TWO) } else { rng.draw() as u8 };
                bytes.extend([0xc4, 0xe0 ^ (rng.draw() as u8 & 0xe0) | map, rng.draw() as u8, opcode]);
            }
            0..=11 => bytes.push(rng.pick(ONE)),
            12..=18 => bytes.extend([0x0f, rng.pick(TWO)]),
            _ => bytes.extend([0x0f, rng.draw() as u8]),
        }
        // ModRM: registers, [reg], [reg + disp8], or with disp32; or an address of data, so that not every other instruction faults.
        let mode = rng.pick(&[0xc0u8, 0xc0, 0xc0, 0, 0x40, 0x40, 0x80]);
        if mode != 0xc0 && rng.below(4) > 0 {
            bytes.extend([4 | rng.draw() as u8 & 0x38, 0x25]);
            let page = rng.pick(&[0, 0, 1, 2, 3, 3, 4, 5, 6, 7]);
            let offset = if rng.below(8) == 0 { 0x1000 - rng.below(20) } else { rng.below(0x100) * 16 };
            bytes.extend(((DATA + page * 0x1000 + offset) as u32).to_le_bytes());
        } else {
            bytes.push(mode | rng.draw() as u8 & 0x3f);
            if rng.below(2) == 0 {
                bytes.push(rng.draw() as u8);
            }
        }
        let small = (rng.below(0x200) as i32 - 0x100).to_le_bytes();
        bytes.extend(small);
        bytes.extend(rng.draw().to_le_bytes());
        let instruction = Decoder::new(64, &bytes, DecoderOptions::FORCE_RESERVED_NOP).decode();
        if is_fit(&instruction) {
            bytes.truncate(instruction.len());
            return bytes;
        }
    }
}

fn is_fit(instruction: &Instruction) -> bool {
    if instruction.is_invalid() || instruction.flow_control() != FlowControl::Next || instruction.is_privileged() {
        return false;
    }
    let segment = (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Register && instruction.op_register(i).is_segment_register());
    !segment && !matches!(instruction.mnemonic(), M::Popf | M::Popfq | M::Lss | M::Lfs | M::Lgs | M::Swapgs | M::Ldmxcsr | M::Fxrstor | M::Xrstor | M::Rdpmc)
}
