//! The state translated code works on; the host's RSP points to it.

use std::mem::offset_of;

/// Slots of the indirect-branch cache.
pub(crate) const JUMPS: usize = 1 << 16;

/// Below it lies free stack for signal handlers of the host.
#[repr(C, align(64))]
pub(crate) struct Frame {
    /// Guest registers by number: R11 to R15 live here while translated code runs.
    pub gpr: [u64; 16],
    /// AH as LAHF leaves it, AL = OF.
    pub flags: u64,
    pub budget: i64,
    pub tags: u64,
    /// Where the guest's registers are between visits.
    pub guest: u64,
    pub xmm: u64,
    /// 0 once the guest's XMM registers and MXCSR are the host's.
    pub no_xmm: u64,
    pub mxcsr: u32,
    pub host_mxcsr: u32,
    pub native_rsp: u64,
    pub target: u64,
    pub exit: u64,
    /// Exit code of the unit that control last left for another page by.
    pub from: u64,
    /// Masks for PEXT: bits above a page offset; those and the low four; the sign.
    pub beyond_page: u64,
    pub beyond_aligned: u64,
    pub sign: u64,
    /// Context of the indirect-branch cache: less than its slots.
    pub salt: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub kernel_gs_base: u64,
    /// 0 in ring 0; 0 where CLI, STI, PUSHFQ are allowed.
    pub not_kernel: u64,
    pub no_cli: u64,
    pub no_sti: u64,
    pub no_pushf: u64,
    /// RFLAGS but for the six flags: now, with IF clear, with IF set.
    pub rest: u64,
    pub rest_closed: u64,
    pub rest_open: u64,
    /// Masks for PEXT and PDEP that bring AH and AL of `flags` to their places in RFLAGS.
    pub in_ax: u64,
    pub turned: u64,
    pub in_rflags: u64,
    pub value: u64,
    /// Negated guest addresses and host addresses, at the low bits of address + salt.
    pub jump_keys: [u64; JUMPS],
    pub jump_hosts: [u64; JUMPS],
}

pub(crate) const FLAGS: i64 = offset_of!(Frame, flags) as i64;
pub(crate) const BUDGET: i64 = offset_of!(Frame, budget) as i64;
pub(crate) const TAGS: i64 = offset_of!(Frame, tags) as i64;
pub(crate) const GUEST: i64 = offset_of!(Frame, guest) as i64;
pub(crate) const XMM: i64 = offset_of!(Frame, xmm) as i64;
pub(crate) const NO_XMM: i64 = offset_of!(Frame, no_xmm) as i64;
pub(crate) const MXCSR: i64 = offset_of!(Frame, mxcsr) as i64;
pub(crate) const HOST_MXCSR: i64 = offset_of!(Frame, host_mxcsr) as i64;
pub(crate) const NATIVE_RSP: i64 = offset_of!(Frame, native_rsp) as i64;
pub(crate) const TARGET: i64 = offset_of!(Frame, target) as i64;
pub(crate) const FROM: i64 = offset_of!(Frame, from) as i64;
pub(crate) const EXIT: i64 = offset_of!(Frame, exit) as i64;
pub(crate) const BEYOND_PAGE: i64 = offset_of!(Frame, beyond_page) as i64;
pub(crate) const BEYOND_ALIGNED: i64 = offset_of!(Frame, beyond_aligned) as i64;
pub(crate) const SIGN: i64 = offset_of!(Frame, sign) as i64;
pub(crate) const SALT: i64 = offset_of!(Frame, salt) as i64;
pub(crate) const FS_BASE: i64 = offset_of!(Frame, fs_base) as i64;
pub(crate) const GS_BASE: i64 = offset_of!(Frame, gs_base) as i64;
pub(crate) const KERNEL_GS_BASE: i64 = offset_of!(Frame, kernel_gs_base) as i64;
pub(crate) const NOT_KERNEL: i64 = offset_of!(Frame, not_kernel) as i64;
pub(crate) const NO_CLI: i64 = offset_of!(Frame, no_cli) as i64;
pub(crate) const NO_STI: i64 = offset_of!(Frame, no_sti) as i64;
pub(crate) const NO_PUSHF: i64 = offset_of!(Frame, no_pushf) as i64;
pub(crate) const REST: i64 = offset_of!(Frame, rest) as i64;
pub(crate) const REST_CLOSED: i64 = offset_of!(Frame, rest_closed) as i64;
pub(crate) const REST_OPEN: i64 = offset_of!(Frame, rest_open) as i64;
pub(crate) const IN_AX: i64 = offset_of!(Frame, in_ax) as i64;
pub(crate) const TURNED: i64 = offset_of!(Frame, turned) as i64;
pub(crate) const IN_RFLAGS: i64 = offset_of!(Frame, in_rflags) as i64;
pub(crate) const VALUE: i64 = offset_of!(Frame, value) as i64;
pub(crate) const JUMP_KEYS: i64 = offset_of!(Frame, jump_keys) as i64;
pub(crate) const JUMP_HOSTS: i64 = offset_of!(Frame, jump_hosts) as i64;

/// Free stack below the frame.
const STACK: usize = 64 << 10;

/// A frame with its free stack, on the heap.
pub(crate) struct FrameBox {
    words: Box<[u64]>,
}

impl FrameBox {
    pub fn new() -> FrameBox {
        let bytes = STACK + size_of::<Frame>() + align_of::<Frame>();
        let mut frame = FrameBox { words: vec![0; bytes.div_ceil(8)].into_boxed_slice() };
        let inner = frame.get();
        inner.beyond_page = !0xfff;
        inner.beyond_aligned = !0xff0;
        inner.sign = 1 << 63;
        // OF CF PF AF ZF SF; after a turn by one CF PF AF ZF SF and, at the top, OF; their places.
        inner.in_ax = 0xd501;
        inner.turned = 0x8000_001f;
        inner.in_rflags = 0x8d5;
        frame
    }

    /// The frame.
    pub fn get(&mut self) -> &mut Frame {
        let start = self.words.as_mut_ptr() as usize + STACK;
        let skip = start.next_multiple_of(align_of::<Frame>()) - self.words.as_mut_ptr() as usize;
        // SAFETY: `skip` plus the frame's size lies inside the allocation (its slack is one alignment), is aligned, and any bits are a valid `Frame`
        // of plain integers; the borrow is that of `self`.
        unsafe { &mut *self.words.as_mut_ptr().cast::<u8>().add(skip).cast::<Frame>() }
    }
}
