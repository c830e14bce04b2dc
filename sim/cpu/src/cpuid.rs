//! CPUID as a table: what a vCPU says it is.
//!
//! A leaf not listed reads as zero. [`CpuidTable::v2`] is the default machine: x86-64-v2 plus what the engine has beyond it, AMD vendor string, and nothing
//! that is not implemented. [`CpuidTable::v3`] adds what x86-64-v3 asks for: AVX, AVX2, FMA, F16C. A [`CpuChoice`] is a model without some of its
//! features. [`Features`] is what the decoder takes from a table: instructions of a feature that is not offered are undefined (LZCNT and TZCNT: do what
//! BSR and BSF do), and its bits in CR4 and EFER are reserved.

use crate::state::{cr4, efer};
use iced_x86::{CpuidFeature, EncodingKind, Instruction, Mnemonic};

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidLeaf {
    pub leaf: u32,
    /// `None`: any subleaf.
    pub subleaf: Option<u32>,
    /// EAX, EBX, ECX, EDX.
    pub value: [u32; 4],
}

/// The table of one vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuidTable {
    pub rows: Vec<CpuidLeaf>,
}

fn words(text: &str) -> [u32; 4] {
    let mut bytes = [0u8; 16];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    let mut out = [0; 4];
    for (word, chunk) in out.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
    }
    out
}

/// Leaf 1 EDX: FPU DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2, HTT apart.
const F1_EDX: u32 = 0x078b_fbfd;
/// Leaf 1 ECX: SSE3 PCLMUL SSSE3 CX16 PCID SSE4.1 SSE4.2 x2APIC MOVBE POPCNT TSC-deadline AES XSAVE RDRAND hypervisor.
const F1_ECX: u32 = 1 | 1 << 1 | 1 << 9 | 1 << 13 | 1 << 17 | 1 << 19 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 25 | 1 << 26 | 1 << 30 | 1 << 31;
/// Leaf 7 EBX: FSGSBASE TSC_ADJUST BMI1 SMEP BMI2 ERMS INVPCID RDSEED ADX SMAP CLFLUSHOPT CLWB.
const F7_EBX: u32 = 1 | 1 << 1 | 1 << 3 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 23 | 1 << 24;
/// Leaf 1 ECX, with v3: FMA AVX F16C.
const F1_ECX_V3: u32 = 1 << 12 | 1 << 28 | 1 << 29;
/// Leaf 7 EBX, with v3: AVX2.
const F7_EBX_V3: u32 = 1 << 5;
/// Leaf 0xd subleaf 0 with the x87 and SSE states only: XCR0 bits, sizes.
const X87_SSE: [u32; 4] = [3, 0x240, 0x240, 0];
/// Size and place of the upper halves in an XSAVE area (leaf 0xd subleaf 2), and the size of the whole.
const AVX_STATE: [u32; 2] = [256, 576];
/// Leaf 7 ECX: UMIP RDPID.
const F7_ECX: u32 = 1 << 2 | 1 << 22;
/// Leaf 0x80000001 ECX: LAHF SVM CR8 ABM.
const X1_ECX: u32 = 1 | 1 << 2 | 1 << 4 | 1 << 5;
/// Leaf 0x8000000a EDX: NPT, NRIPS, flush by ASID, decode assists, PAUSE filter and its threshold, virtual GIF.
const SVM_EDX: u32 = 1 | 1 << 3 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 12 | 1 << 16;
/// Leaf 0x80000001 EDX: as leaf 1, with SYSCALL NX 1G pages RDTSCP LM.
const X1_EDX: u32 = (F1_EDX & 0x0183_f3ff) | 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29;

impl CpuidTable {
    /// The default machine: vCPU `apic_id` of `count`.
    pub fn v2(apic_id: u32, count: u32) -> CpuidTable {
        let vendor = words("AuthenticAMD");
        let log2 = u32::BITS - (count.max(1) - 1).leading_zeros();
        let htt = if count > 1 { 1 << 28 } else { 0 };
        let mut rows = Vec::new();
        let mut row = |leaf: u32, subleaf: Option<u32>, value: [u32; 4]| rows.push(CpuidLeaf { leaf, subleaf, value });
        row(0, None, [0x16, vendor[0], vendor[2], vendor[1]]);
        // Family 0x17 (Zen), model 0x31, stepping 0; CLFLUSH line of 64 bytes.
        row(1, None, [0x0083_0f10, apic_id << 24 | (count & 0xff) << 16 | 8 << 8, F1_ECX, F1_EDX | htt]);
        row(6, None, [1 << 2, 0, 0, 0]);
        row(7, Some(0), [0, F7_EBX, F7_ECX, 0]);
        row(0xb, Some(0), [0, 1, 1 << 8, apic_id]);
        row(0xb, Some(1), [log2, count, 2 << 8 | 1, apic_id]);
        row(0xb, None, [0, 0, 0, apic_id]);
        row(0xd, Some(0), X87_SSE);
        // XSAVEOPT, XSAVEC, XGETBV(1).
        row(0xd, Some(1), [7, 0x240, 0, 0]);
        // TSC 1 GHz: crystal 25 MHz * 40.
        row(0x15, None, [1, 40, 25_000_000, 0]);
        row(0x16, None, [1000, 1000, 100, 0]);
        row(0x4000_0000, None, [0x4000_0000, 0x6572_724f, 0x724f_7972, 0x7972_6572]);
        row(0x8000_0000, None, [0x8000_0021, vendor[0], vendor[2], vendor[1]]);
        row(0x8000_0001, None, [0x0083_0f10, 0, X1_ECX, X1_EDX]);
        let brand = ["Orrery virtual  ", "x86-64 processor", ""];
        for (index, text) in brand.iter().enumerate() {
            row(0x8000_0002 + index as u32, None, words(text));
        }
        row(0x8000_0005, None, [0xff40_ff40, 0xff40_ff40, 0x2008_0140, 0x2008_0140]);
        row(0x8000_0006, None, [0, 0x4200_4200, 0x0200_6140, 0x0080_9140]);
        // Invariant TSC.
        row(0x8000_0007, None, [0, 0, 0, 1 << 8]);
        // XSAVEERPTR: the x87 error pointers are always saved. Nothing runs before its turn here, so kernels need not guard against it: SSBD_NOT_REQUIRED, BTC_NO.
        row(0x8000_0008, None, [48 << 8 | 40, 1 << 2 | 1 << 26 | 1 << 29, log2 << 12 | (count - 1), 0]);
        row(0x8000_000a, None, [1, crate::svm::ASIDS, 0, SVM_EDX]);
        // LFENCE serializes; a null selector clears the base; SRSO_NO.
        row(0x8000_0021, None, [1 << 2 | 1 << 6 | 1 << 29, 0, 0, 0]);
        CpuidTable { rows }
    }

    /// The machine with x86-64-v3: [`CpuidTable::v2`] with AVX, AVX2, FMA and F16C.
    pub fn v3(apic_id: u32, count: u32) -> CpuidTable {
        let mut table = CpuidTable::v2(apic_id, count);
        let [size, place] = AVX_STATE;
        for row in &mut table.rows {
            match (row.leaf, row.subleaf) {
                (1, _) => row.value[2] |= F1_ECX_V3,
                (7, Some(0)) => row.value[1] |= F7_EBX_V3,
                (0xd, Some(0)) => row.value = [7, place + size, place + size, 0],
                (0xd, Some(1)) => row.value[1] = place + size,
                _ => {}
            }
        }
        table.rows.push(CpuidLeaf { leaf: 0xd, subleaf: Some(2), value: [size, place, 0, 0] });
        table
    }

    /// Looks a leaf up.
    pub fn get(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let exact = self.rows.iter().find(|row| row.leaf == leaf && row.subleaf.is_none_or(|wanted| wanted == subleaf));
        if let Some(row) = exact {
            let mut value = row.value;
            if leaf == 0xb {
                value[2] = value[2] & !0xff | subleaf & 0xff;
            }
            return value;
        }
        [0; 4]
    }

    /// XCR0 bits that exist.
    pub fn xcr0_mask(&self) -> u64 {
        let [low, _, _, high] = self.get(0xd, 0);
        u64::from(high) << 32 | u64::from(low)
    }

    /// Whether SVM exists.
    pub fn has_svm(&self) -> bool {
        self.get(0x8000_0001, 0)[2] & 4 != 0
    }

    /// Whether XSAVES exists (and with it IA32_XSS).
    pub fn has_xsaves(&self) -> bool {
        self.get(0xd, 1)[0] & 8 != 0
    }
}

/// What a vCPU is, by name: which table it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuModel {
    /// x86-64-v2, with BMI, MOVBE and LZCNT beyond it.
    #[default]
    V2,
    /// x86-64-v3.
    V3,
}

impl CpuModel {
    /// Every model, with its name in board tables and on command lines.
    pub const ALL: [(CpuModel, &'static str); 2] = [(CpuModel::V2, "v2"), (CpuModel::V3, "v3")];

    /// The model of that name.
    pub fn named(name: &str) -> Option<CpuModel> {
        CpuModel::ALL.iter().find(|(_, known)| *known == name).map(|(model, _)| *model)
    }

    /// CPUID of vCPU `apic_id` of `count`.
    pub fn table(self, apic_id: u32, count: u32) -> CpuidTable {
        match self {
            CpuModel::V2 => CpuidTable::v2(apic_id, count),
            CpuModel::V3 => CpuidTable::v3(apic_id, count),
        }
    }
}

/// A model with features switched off one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuChoice {
    pub model: CpuModel,
    /// Rows of [`FEATURES`].
    without: Vec<usize>,
}

impl From<CpuModel> for CpuChoice {
    /// With all it has.
    fn from(model: CpuModel) -> CpuChoice {
        CpuChoice { model, without: Vec::new() }
    }
}

impl CpuChoice {
    /// Reads `v3` or `v3,-avx2,-smap`; the model may be written `x86-64-v3`.
    ///
    /// # Errors
    /// What is wrong with it, with what there is.
    pub fn parse(text: &str) -> Result<CpuChoice, String> {
        let mut words = text.split(',').map(str::trim);
        let name = words.next().unwrap_or_default();
        let model = CpuModel::named(name.strip_prefix("x86-64-").unwrap_or(name)).ok_or_else(|| format!("no model `{name}`: there are `v2` and `v3`"))?;
        let mut without = Vec::new();
        for word in words {
            let row = word.strip_prefix('-').and_then(|name| FEATURES.iter().position(|row| row.name == name));
            let names = || FEATURES.map(|row| row.name).join(" ");
            without.push(row.ok_or_else(|| format!("`{word}` is no feature to leave out; behind a minus stands one of: {}", names()))?);
        }
        Ok(CpuChoice { model, without })
    }

    /// CPUID of vCPU `apic_id` of `count`.
    pub fn table(&self, apic_id: u32, count: u32) -> CpuidTable {
        let mut table = self.model.table(apic_id, count);
        for &row in &self.without {
            table.take(FEATURES[row].name);
        }
        table
    }
}

/// A feature that a table may lack: then its instructions are undefined, and its bits in control registers reserved.
struct Feature {
    /// As Linux lists it in `/proc/cpuinfo`.
    name: &'static str,
    leaf: u32,
    subleaf: u32,
    /// EAX is 0.
    register: usize,
    bit: u32,
    /// What its instructions are filed under.
    instructions: Option<CpuidFeature>,
    /// Goes where this one goes.
    needs: &'static str,
}

const fn feature(name: &'static str, (leaf, register, bit): (u32, usize, u32), instructions: Option<CpuidFeature>, needs: &'static str) -> Feature {
    // XSAVE's own features are in subleaf 1 of leaf 0xd.
    Feature { name, leaf, subleaf: if leaf == 0xd { 1 } else { 0 }, register, bit, instructions, needs }
}

const EXTENDED: u32 = 0x8000_0001;
const FEATURES: [Feature; 34] = [
    feature("pni", (1, 2, 0), Some(CpuidFeature::SSE3), ""),
    feature("ssse3", (1, 2, 9), Some(CpuidFeature::SSSE3), "pni"),
    feature("sse4_1", (1, 2, 19), Some(CpuidFeature::SSE4_1), "ssse3"),
    feature("sse4_2", (1, 2, 20), Some(CpuidFeature::SSE4_2), "sse4_1"),
    feature("popcnt", (1, 2, 23), Some(CpuidFeature::POPCNT), ""),
    feature("aes", (1, 2, 25), Some(CpuidFeature::AES), ""),
    feature("pclmulqdq", (1, 2, 1), Some(CpuidFeature::PCLMULQDQ), ""),
    feature("cx16", (1, 2, 13), Some(CpuidFeature::CMPXCHG16B), ""),
    feature("movbe", (1, 2, 22), Some(CpuidFeature::MOVBE), ""),
    feature("abm", (EXTENDED, 2, 5), Some(CpuidFeature::LZCNT), ""),
    feature("bmi1", (7, 1, 3), Some(CpuidFeature::BMI1), ""),
    feature("bmi2", (7, 1, 8), Some(CpuidFeature::BMI2), ""),
    feature("adx", (7, 1, 19), Some(CpuidFeature::ADX), ""),
    feature("rdrand", (1, 2, 30), Some(CpuidFeature::RDRAND), ""),
    feature("rdseed", (7, 1, 18), Some(CpuidFeature::RDSEED), ""),
    feature("rdtscp", (EXTENDED, 3, 27), Some(CpuidFeature::RDTSCP), ""),
    feature("rdpid", (7, 2, 22), Some(CpuidFeature::RDPID), ""),
    feature("clflushopt", (7, 1, 23), Some(CpuidFeature::CLFLUSHOPT), ""),
    feature("clwb", (7, 1, 24), Some(CpuidFeature::CLWB), ""),
    feature("xsave", (1, 2, 26), Some(CpuidFeature::XSAVE), ""),
    feature("xsaveopt", (0xd, 0, 0), Some(CpuidFeature::XSAVEOPT), "xsave"),
    feature("xsavec", (0xd, 0, 1), Some(CpuidFeature::XSAVEC), "xsave"),
    feature("avx", (1, 2, 28), Some(CpuidFeature::AVX), "xsave"),
    feature("avx2", (7, 1, 5), Some(CpuidFeature::AVX2), "avx"),
    feature("fma", (1, 2, 12), Some(CpuidFeature::FMA), "avx"),
    feature("f16c", (1, 2, 29), Some(CpuidFeature::F16C), "avx"),
    feature("fsgsbase", (7, 1, 0), Some(CpuidFeature::FSGSBASE), ""),
    feature("smap", (7, 1, 20), Some(CpuidFeature::SMAP), ""),
    feature("smep", (7, 1, 7), None, ""),
    feature("umip", (7, 2, 2), None, ""),
    feature("pcid", (1, 2, 17), None, ""),
    feature("invpcid", (7, 1, 10), Some(CpuidFeature::INVPCID), "pcid"),
    feature("nx", (EXTENDED, 3, 20), None, ""),
    feature("svm", (EXTENDED, 2, 2), None, ""),
];

/// CR4 bits that are reserved without a feature.
const CR4_BITS: [(&str, u64); 6] =
    [("xsave", cr4::OSXSAVE), ("fsgsbase", cr4::FSGSBASE), ("smap", cr4::SMAP), ("smep", cr4::SMEP), ("umip", cr4::UMIP), ("pcid", cr4::PCIDE)];

impl CpuidTable {
    fn offers(&self, feature: &Feature) -> bool {
        self.get(feature.leaf, feature.subleaf)[feature.register] >> feature.bit & 1 != 0
    }

    /// Whether the feature of that name is offered.
    fn has(&self, name: &str) -> bool {
        FEATURES.iter().any(|row| row.name == name && self.offers(row))
    }

    /// Takes a feature away, and what needs it.
    fn take(&mut self, name: &str) {
        for feature in FEATURES.iter().filter(|row| row.name == name) {
            for row in self.rows.iter_mut().filter(|row| row.leaf == feature.leaf && row.subleaf.is_none_or(|subleaf| subleaf == feature.subleaf)) {
                row.value[feature.register] &= !(1 << feature.bit);
            }
        }
        match name {
            "xsave" => self.rows.retain(|row| row.leaf != 0xd),
            "svm" => self.rows.retain(|row| row.leaf != 0x8000_000a),
            "avx" => {
                self.rows.retain(|row| (row.leaf, row.subleaf) != (0xd, Some(2)));
                for row in self.rows.iter_mut().filter(|row| row.leaf == 0xd) {
                    row.value = if row.subleaf == Some(0) { X87_SSE } else { [row.value[0], X87_SSE[1], row.value[2], row.value[3]] };
                }
            }
            _ => {}
        }
        for feature in FEATURES.iter().filter(|row| row.needs == name) {
            self.take(feature.name);
        }
    }

    /// CR4 bits that exist.
    pub fn cr4_mask(&self) -> u64 {
        CR4_BITS.iter().filter(|(name, _)| !self.has(name)).fold(cr4::ALL, |mask, (_, bit)| mask & !bit)
    }

    /// EFER bits that exist.
    pub fn efer_mask(&self) -> u64 {
        let without = if self.has("nx") { 0 } else { efer::NXE };
        efer::ALL & !without | if self.has_svm() { efer::SVME } else { 0 }
    }
}

/// The instruction sets that decoding asks about, one bit for each row of [`FEATURES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features(u64);

impl Features {
    /// What a table offers.
    pub fn of(table: &CpuidTable) -> Features {
        Features(FEATURES.iter().enumerate().filter(|(_, row)| table.offers(row)).fold(0, |bits, (index, _)| bits | 1 << index))
    }

    /// Whether `feature` is one of those here, and offered; `None` if it is none of those here.
    fn known(self, feature: CpuidFeature) -> Option<bool> {
        FEATURES.iter().position(|row| row.instructions == Some(feature)).map(|index| self.0 >> index & 1 != 0)
    }

    /// Whether `feature` is one of those here, and offered.
    pub fn has(self, feature: CpuidFeature) -> bool {
        self.known(feature) == Some(true)
    }

    /// Whether an instruction exists: a VEX-encoded one if all its features do, one of the legacy encoding unless a feature of those here is missing
    /// (TZCNT and LZCNT are BSF and BSR then), no other.
    pub fn allow(self, insn: &Instruction) -> bool {
        match insn.encoding() {
            EncodingKind::Legacy => {
                matches!(insn.mnemonic(), Mnemonic::Tzcnt | Mnemonic::Lzcnt) || insn.cpuid_features().iter().all(|&feature| self.known(feature) != Some(false))
            }
            EncodingKind::VEX => insn.cpuid_features().iter().all(|feature| self.has(*feature)),
            _ => false,
        }
    }
}
