//! The register file as gdb sees it, and its description.
//!
//! The standard features `org.gnu.gdb.i386.core`, `.sse`, `.avx` (the upper halves, of which gdb makes `ymm0` to `ymm15`) and `.segments` come first, in
//! the order gdb numbers them; the control registers follow in a feature of our own, under the names QEMU uses.

use std::sync::OnceLock;

use gdbstub::arch::{Arch, Registers};
use sim_cpu::{CpuState, CS, DS, ES, FS, GS, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, SS};

/// gdb's order of the general registers.
const GENERAL: [(usize, &str); 16] = [
    (RAX, "rax"),
    (RBX, "rbx"),
    (RCX, "rcx"),
    (RDX, "rdx"),
    (RSI, "rsi"),
    (RDI, "rdi"),
    (RBP, "rbp"),
    (RSP, "rsp"),
    (8, "r8"),
    (9, "r9"),
    (10, "r10"),
    (11, "r11"),
    (12, "r12"),
    (13, "r13"),
    (14, "r14"),
    (15, "r15"),
];
const SEGMENTS: [(usize, &str); 6] = [(CS, "cs"), (SS, "ss"), (DS, "ds"), (ES, "es"), (FS, "fs"), (GS, "gs")];
const X87_CONTROL: [&str; 8] = ["fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"];
const SYSTEM: [&str; 7] = ["k_gs_base", "cr0", "cr2", "cr3", "cr4", "cr8", "efer"];

/// x86-64 with control registers.
#[derive(Debug)]
pub enum X86_64 {}

impl Arch for X86_64 {
    type Usize = u64;
    type Registers = Regs;
    type BreakpointKind = usize;
    type RegId = ();

    fn target_description_xml() -> Option<&'static str> {
        static XML: OnceLock<String> = OnceLock::new();
        Some(XML.get_or_init(describe))
    }
}

fn describe() -> String {
    let mut xml = String::from("<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">");
    xml.push_str("<architecture>i386:x86-64</architecture><feature name=\"org.gnu.gdb.i386.core\">");
    xml.push_str("<flags id=\"i386_eflags\" size=\"4\">");
    for (bit, name) in
        [(0, "CF"), (2, "PF"), (4, "AF"), (6, "ZF"), (7, "SF"), (8, "TF"), (9, "IF"), (10, "DF"), (11, "OF"), (14, "NT"), (16, "RF"), (17, "VM"), (18, "AC"), (21, "ID")]
    {
        xml.push_str(&format!("<field name=\"{name}\" start=\"{bit}\" end=\"{bit}\"/>"));
    }
    xml.push_str("</flags>");
    let mut reg = |name: &str, bits: u32, kind: &str| {
        xml.push_str(&format!("<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"/>"));
    };
    for (index, name) in GENERAL {
        reg(name, 64, if index == RSP || index == RBP { "data_ptr" } else { "int64" });
    }
    reg("rip", 64, "code_ptr");
    reg("eflags", 32, "i386_eflags");
    for (_, name) in SEGMENTS {
        reg(name, 32, "int32");
    }
    for index in 0..8 {
        reg(&format!("st{index}"), 80, "i387_ext");
    }
    for name in X87_CONTROL {
        reg(name, 32, "int");
    }
    xml.push_str("</feature><feature name=\"org.gnu.gdb.i386.sse\">");
    xml.push_str("<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/><vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>");
    xml.push_str("<vector id=\"v16i8\" type=\"int8\" count=\"16\"/><vector id=\"v8i16\" type=\"int16\" count=\"8\"/>");
    xml.push_str("<vector id=\"v4i32\" type=\"int32\" count=\"4\"/><vector id=\"v2i64\" type=\"int64\" count=\"2\"/>");
    xml.push_str("<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" type=\"v2d\"/>");
    xml.push_str("<field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" type=\"v4i32\"/>");
    xml.push_str("<field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/></union>");
    let mut reg = |name: &str, bits: u32, kind: &str| {
        xml.push_str(&format!("<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"/>"));
    };
    for index in 0..16 {
        reg(&format!("xmm{index}"), 128, "vec128");
    }
    reg("mxcsr", 32, "int");
    xml.push_str("</feature><feature name=\"org.gnu.gdb.i386.avx\">");
    for index in 0..16 {
        xml.push_str(&format!("<reg name=\"ymm{index}h\" bitsize=\"128\" type=\"uint128\"/>"));
    }
    xml.push_str("</feature><feature name=\"org.gnu.gdb.i386.segments\">");
    xml.push_str("<reg name=\"fs_base\" bitsize=\"64\" type=\"int\"/><reg name=\"gs_base\" bitsize=\"64\" type=\"int\"/>");
    xml.push_str("</feature><feature name=\"org.orrery.x86.system\">");
    for name in SYSTEM {
        xml.push_str(&format!("<reg name=\"{name}\" bitsize=\"64\" type=\"int64\"/>"));
    }
    xml.push_str("</feature></target>");
    xml
}

/// The registers gdb exchanges, in its order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Regs {
    pub general: [u64; 16],
    pub rip: u64,
    pub eflags: u32,
    pub segments: [u32; 6],
    /// ST(0) to ST(7): 80 bits each.
    pub x87: [u128; 8],
    pub x87_control: [u32; 8],
    pub xmm: [u128; 16],
    pub mxcsr: u32,
    pub ymm_high: [u128; 16],
    pub fs_base: u64,
    pub gs_base: u64,
    pub system: [u64; 7],
}

/// Bytes of a serialized register file.
pub const REGISTER_BYTES: usize = 16 * 8 + 8 + 4 + 6 * 4 + 8 * 10 + 8 * 4 + 16 * 16 + 4 + 16 * 16 + 2 * 8 + 7 * 8;

impl Regs {
    /// The registers of a vCPU; `cr8` lives in its local APIC.
    pub fn of(state: &CpuState, cr8: u8) -> Self {
        let sys = &state.sys;
        let x87 = &state.x87;
        Self {
            general: GENERAL.map(|(index, _)| state.gpr[index]),
            rip: state.rip,
            eflags: state.rflags as u32,
            segments: SEGMENTS.map(|(index, _)| u32::from(sys.seg[index].selector)),
            x87: std::array::from_fn(|index| x87.st(index as u8)),
            x87_control: [
                u32::from(x87.control),
                u32::from(x87.status),
                u32::from(x87.full_tag()),
                0,
                x87.ip as u32,
                0,
                x87.dp as u32,
                u32::from(x87.opcode),
            ],
            xmm: state.xmm,
            mxcsr: state.mxcsr,
            ymm_high: state.ymm_high,
            fs_base: sys.seg[FS].base,
            gs_base: sys.seg[GS].base,
            system: [sys.kernel_gs_base, sys.cr0, sys.cr2, sys.cr3, sys.cr4, u64::from(cr8), sys.efer],
        }
    }

    /// Puts what a debugger may change into `state`: general registers, RIP, flags, x87 data and control words, XMM and YMM, segment bases.
    /// Selectors and control registers
    /// are shown only: loading them has side effects that an assignment in gdb does not mean.
    pub fn apply(&self, state: &mut CpuState) {
        for ((index, _), value) in GENERAL.iter().zip(self.general) {
            state.gpr[*index] = value;
        }
        state.rip = self.rip;
        state.rflags = state.rflags & !0xffff_ffff | u64::from(self.eflags) | 2;
        for (index, value) in self.x87.iter().enumerate() {
            if state.x87.st(index as u8) != *value {
                state.x87.set_st(index as u8, *value);
            }
        }
        state.x87.control = self.x87_control[0] as u16;
        state.xmm = self.xmm;
        state.mxcsr = self.mxcsr & 0xffff;
        state.ymm_high = self.ymm_high;
        state.sys.seg[FS].base = self.fs_base;
        state.sys.seg[GS].base = self.gs_base;
        state.sys.kernel_gs_base = self.system[0];
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(REGISTER_BYTES);
        self.general.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        bytes.extend(self.rip.to_le_bytes());
        bytes.extend(self.eflags.to_le_bytes());
        self.segments.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        self.x87.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()[..10]));
        self.x87_control.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        self.xmm.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        bytes.extend(self.mxcsr.to_le_bytes());
        self.ymm_high.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        bytes.extend(self.fs_base.to_le_bytes());
        bytes.extend(self.gs_base.to_le_bytes());
        self.system.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        bytes
    }
}

/// Takes little-endian numbers off a byte string whose length was checked.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, count: usize) -> u128 {
        let (first, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        first.iter().rev().fold(0, |value, byte| value << 8 | u128::from(*byte))
    }
}

impl Registers for Regs {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.rip
    }

    fn gdb_serialize(&self, write_byte: impl FnMut(Option<u8>)) {
        self.bytes().into_iter().map(Some).for_each(write_byte);
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        if bytes.len() != REGISTER_BYTES {
            return Err(());
        }
        let mut from = Reader(bytes);
        self.general.iter_mut().for_each(|value| *value = from.take(8) as u64);
        self.rip = from.take(8) as u64;
        self.eflags = from.take(4) as u32;
        self.segments.iter_mut().for_each(|value| *value = from.take(4) as u32);
        self.x87.iter_mut().for_each(|value| *value = from.take(10));
        self.x87_control.iter_mut().for_each(|value| *value = from.take(4) as u32);
        self.xmm.iter_mut().for_each(|value| *value = from.take(16));
        self.mxcsr = from.take(4) as u32;
        self.ymm_high.iter_mut().for_each(|value| *value = from.take(16));
        self.fs_base = from.take(8) as u64;
        self.gs_base = from.take(8) as u64;
        self.system.iter_mut().for_each(|value| *value = from.take(8) as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_round_trip_through_bytes_and_state() {
        let mut state = CpuState::reset();
        for (index, value) in state.gpr.iter_mut().enumerate() {
            *value = 0x1111 * index as u64;
        }
        state.xmm[15] = u128::MAX / 3;
        state.ymm_high[15] = u128::MAX / 7;
        state.sys.seg[GS].base = 0xffff_8000_0000_1000;
        let regs = Regs::of(&state, 5);
        let bytes = regs.bytes();
        assert_eq!(bytes.len(), REGISTER_BYTES);
        let mut back = Regs::default();
        assert_eq!(back.gdb_deserialize(&bytes), Ok(()));
        assert_eq!(back, regs);
        assert_eq!(back.gdb_deserialize(&bytes[1..]), Err(()));
        let mut copy = CpuState::reset();
        back.apply(&mut copy);
        assert_eq!((copy.gpr, copy.xmm, copy.ymm_high, copy.sys.seg[GS].base), (state.gpr, state.xmm, state.ymm_high, state.sys.seg[GS].base));
    }

    #[test]
    fn the_description_lists_every_byte() {
        let xml = X86_64::target_description_xml().expect("there is one");
        let bits: usize = xml.split("bitsize=\"").skip(1).filter_map(|rest| rest.split('"').next()?.parse::<usize>().ok()).sum();
        assert_eq!(bits, REGISTER_BYTES * 8);
    }
}
