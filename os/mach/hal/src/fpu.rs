//! x87, SSE and AVX state.
//!
//! The area is in the layout of XSAVE (APM vol. 2, section 11.5): 512 bytes as FXSAVE writes them, a header of 64, the upper halves of YMM. The
//! entry stubs keep XMM and MXCSR in it; the rest stays in the registers until [`save`]. Without XSAVE, FXSAVE serves.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::cpu::Features;

/// Bytes with AVX, and without XSAVE.
pub(crate) const AREA: usize = 832;
const LEGACY: usize = 512;
/// Offsets in the legacy area.
pub(crate) const MXCSR: usize = 24;
pub(crate) const XMM: usize = 160;
/// Offset of XSTATE_BV.
const HEADER: usize = 512;
/// State components: x87, SSE, AVX.
const X87: u64 = 1;
const SSE: u64 = 2;
const AVX: u64 = 4;
/// MXCSR bits that may be set (all CPUs with SSE2 have DAZ).
const MXCSR_MASK: u32 = 0xffff;

static XSAVE_ON: AtomicBool = AtomicBool::new(false);
static AVX_ON: AtomicBool = AtomicBool::new(false);

/// FPU state of a user context.
#[repr(C, align(64))]
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "bytes")]
pub(crate) struct Area(pub(crate) [u8; AREA]);

impl Area {
    /// The state after reset as programs expect it: FCW 0x37f, MXCSR 0x1f80, all else zero.
    pub(crate) const fn initial() -> Self {
        let mut bytes = [0; AREA];
        bytes[0] = 0x7f;
        bytes[1] = 0x03;
        bytes[MXCSR] = 0x80;
        bytes[MXCSR + 1] = 0x1f;
        bytes[HEADER] = 3;
        Self(bytes)
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }
    fn set_word(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Stores x87 and the upper YMM halves; XMM and MXCSR are there already and must stay.
    pub(crate) fn save(&mut self) {
        let mxcsr = self.word(MXCSR);
        if XSAVE_ON.load(Relaxed) {
            let components = if AVX_ON.load(Relaxed) { X87 | AVX } else { X87 };
            // SAFETY: 1. XSAVE is on in CR4; 2. the area is aligned to 64 and has room for all components of XCR0.
            unsafe {
                asm!("xsave64 [{}]", in(reg) self.0.as_mut_ptr(), in("eax") components, in("edx") 0_u32, options(nostack));
            }
            // XSAVE of AVX stored the kernel's MXCSR; SSE is valid in any case.
            self.0[HEADER] |= 2;
        } else {
            let mut all = Self([0; AREA]);
            // SAFETY: OSFXSR is on; the area is aligned and has 512 bytes.
            unsafe { asm!("fxsave64 [{}]", in(reg) all.0.as_mut_ptr(), options(nostack)) };
            self.0[..XMM].copy_from_slice(&all.0[..XMM]);
        }
        self.set_word(MXCSR, mxcsr);
    }

    /// Loads x87 and the upper YMM halves. XMM and MXCSR come with the entry to user mode; the kernel's MXCSR is put back.
    pub(crate) fn load(&self) {
        let kernel: u32 = 0x1f80;
        if XSAVE_ON.load(Relaxed) {
            let components = if AVX_ON.load(Relaxed) { X87 | AVX } else { X87 };
            // SAFETY: 1. as in `save`; 2. the header and MXCSR were written by `initial`, `save` or the sanitiser in `import`, so nothing faults.
            unsafe {
                asm!("xrstor64 [{}]", in(reg) self.0.as_ptr(), in("eax") components, in("edx") 0_u32, options(nostack, readonly));
            }
        } else {
            // SAFETY: as for XRSTOR; XMM registers are overwritten, which the clobbers say.
            unsafe {
                asm!("fxrstor64 [{}]", in(reg) self.0.as_ptr(),
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nostack, readonly));
            }
        }
        // SAFETY: a valid MXCSR value.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const kernel, options(nostack, readonly)) };
    }

    /// Size of the state in a signal frame, without the trailing magic number.
    pub(crate) fn size() -> usize {
        if AVX_ON.load(Relaxed) {
            AREA
        } else if XSAVE_ON.load(Relaxed) {
            LEGACY + 64
        } else {
            LEGACY
        }
    }

    /// XCR0's components.
    pub(crate) fn components() -> u64 {
        if AVX_ON.load(Relaxed) { X87 | SSE | AVX } else { X87 | SSE }
    }

    /// Takes over state from a signal frame: bytes from outside. What the processor would refuse is cleared.
    pub(crate) fn import(&mut self, data: &[u8]) {
        *self = Self::initial();
        if data.len() < LEGACY {
            return;
        }
        // x87 and SSE: everything but MXCSR is acceptable as it is. Bytes 416.. are not state.
        self.0[..416].copy_from_slice(&data[..416]);
        let mxcsr = self.word(MXCSR) & MXCSR_MASK;
        self.set_word(MXCSR, mxcsr);
        self.set_word(MXCSR + 4, 0);
        if AVX_ON.load(Relaxed) && data.len() >= AREA {
            let said = u64::from_le_bytes(data[HEADER..HEADER + 8].try_into().expect("eight bytes"));
            if said & AVX != 0 {
                self.0[HEADER] |= 4;
                self.0[576..AREA].copy_from_slice(&data[576..AREA]);
            }
        }
    }
}

/// Turns on what the CPU has: XSAVE with x87, SSE and AVX. (AVX-512 and later stay off: programs do not see them.)
pub(crate) fn init(features: &Features) {
    if !features.xsave {
        return;
    }
    // SAFETY: CR4.OSXSAVE exists where CPUID reports XSAVE.
    unsafe { crate::cpu::write_cr4(crate::cpu::read_cr4() | 1 << 18) };
    let components = if features.avx { X87 | SSE | AVX } else { X87 | SSE };
    // SAFETY: XSETBV of components that the CPU has; x87 is always among them.
    unsafe { asm!("xsetbv", in("ecx") 0_u32, in("rax") components, in("rdx") 0_u64, options(nostack)) };
    XSAVE_ON.store(true, Relaxed);
    AVX_ON.store(features.avx, Relaxed);
}
