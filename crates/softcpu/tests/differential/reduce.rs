//! Makes a failing case small: whatever can be quiet without making the difference go away, is.

use crate::generate::{Generated, sequence};
use crate::state::{Case, CpuState};
use iced_x86::{Decoder, DecoderOptions};

/// Tries simpler values one after the other. `fails` says whether a case still shows a difference.
pub(crate) fn reduce(found: &Generated, mut fails: impl FnMut(&Generated) -> bool) -> Generated {
    let mut best = found.clone();
    if found.sequence.is_some() {
        // Instructions become NOPs one after the other; their places stay, and so do jumps over them.
        let decoder = Decoder::with_ip(64, found.case.bytes(), 0, DecoderOptions::NONE);
        let ranges: Vec<_> = decoder
            .into_iter()
            .map(|i| i.ip() as usize..i.next_ip() as usize)
            .collect();
        for range in ranges {
            let mut next = best.clone();
            if let Some(bytes) = next.case.code.get_mut(range) {
                bytes.fill(0x90);
            }
            if sequence::sound(&next.case) && fails(&next) {
                best = next;
            }
        }
    }
    let quiet = CpuState::quiet();
    let mut attempt = |best: &mut Generated, change: &dyn Fn(&mut Case)| {
        let mut next = best.clone();
        change(&mut next.case);
        if fails(&next) {
            *best = next;
        }
    };
    attempt(&mut best, &|case| case.patch_len = 0);
    attempt(&mut best, &|case| case.pattern = 0);
    attempt(&mut best, &|case| {
        for index in 0..16 {
            case.state.set_xmm(index, 0);
        }
    });
    attempt(&mut best, &|case| {
        for index in 0..8 {
            case.state.set_st(index, 0, 0);
        }
    });
    attempt(&mut best, &|case| case.state.set_fpu_pointers(0, 0, 0));
    for index in 0..16 {
        attempt(&mut best, &|case| case.state.set_gpr(index, 0));
        attempt(&mut best, &|case| {
            case.state.set_gpr(index, case.state.gpr[index] & 0xff)
        });
        attempt(&mut best, &|case| case.state.set_xmm(index, 0));
    }
    for index in 0..8 {
        attempt(&mut best, &|case| case.state.set_st(index, 0, 0));
    }
    attempt(&mut best, &|case| case.state.fs_base = 0);
    attempt(&mut best, &|case| case.state.gs_base = 0);
    attempt(&mut best, &|case| case.state.set_rflags(quiet.rflags()));
    for bit in 0..22 {
        attempt(&mut best, &|case| {
            case.state
                .set_rflags((case.state.rflags() & !(1 << bit)) | quiet.rflags());
        });
    }
    attempt(&mut best, &|case| case.state.set_fsw(0));
    attempt(&mut best, &|case| {
        case.state.set_fsw(case.state.fsw() & 0x3800)
    });
    attempt(&mut best, &|case| case.state.set_fcw(quiet.fcw()));
    attempt(&mut best, &|case| case.state.set_ftw(0));
    attempt(&mut best, &|case| case.state.set_ftw(0xff));
    attempt(&mut best, &|case| case.state.set_mxcsr(quiet.mxcsr()));
    for bit in 0..16 {
        attempt(&mut best, &|case| {
            let mxcsr = case.state.mxcsr() ^ (quiet.mxcsr() ^ case.state.mxcsr()) & 1 << bit;
            case.state.set_mxcsr(mxcsr);
        });
    }
    attempt(&mut best, &|case| case.patch[8..].fill(0));
    best
}
