//! Making a failing case small.

use crate::case::Case;

/// Shrinks while `fails` holds: drops instructions, then makes registers plain. At most a few hundred runs.
pub fn shrink(case: &Case, mut fails: impl FnMut(&Case) -> bool) -> Case {
    let mut best = case.clone();
    let mut index = 0;
    while index < best.insns.len() {
        let mut candidate = best.clone();
        candidate.insns.remove(index);
        for insn in &mut candidate.insns {
            if crate::case::is_direct_branch(insn) && insn.near_branch64() > index as u64 {
                insn.set_near_branch64(insn.near_branch64() - 1);
            }
        }
        if fails(&candidate) {
            best = candidate;
        } else {
            index += 1;
        }
    }
    let mut attempt = |best: &mut Case, change: &dyn Fn(&mut Case)| {
        let mut candidate = best.clone();
        change(&mut candidate);
        if fails(&candidate) {
            *best = candidate;
        }
    };
    for i in 0..16 {
        attempt(&mut best, &|c| c.start.gpr[i] = 0);
        attempt(&mut best, &|c| c.start.xmm[i] = 0);
        attempt(&mut best, &|c| c.start.upper[i] = 0);
    }
    for i in 0..8 {
        attempt(&mut best, &|c| c.start.x87.set_st(i, 0));
    }
    attempt(&mut best, &|c| c.start.x87 = sim_fp::x87::X87::default());
    attempt(&mut best, &|c| c.setting = crate::setting::Setting::default());
    for i in 0..4 {
        attempt(&mut best, &|c| c.setting.pages[i] = crate::setting::Setting::default().pages[i]);
    }
    attempt(&mut best, &|c| c.setting.cr0 = 0);
    attempt(&mut best, &|c| c.setting.cr4 = 0);
    attempt(&mut best, &|c| c.start.mxcsr = 0x1f80);
    attempt(&mut best, &|c| c.start.rflags = 0x202);
    attempt(&mut best, &|c| c.origin = crate::layout::CODE + 0x800);
    best
}
