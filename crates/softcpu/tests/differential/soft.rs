//! Our processor: the same case in a guest that maps the same addresses.

use crate::layout::{CODE, CODE_LEN, DATA, DATA_HIGH, DATA_LEN, DATA_WRITABLE, PAGE};
use crate::native::PATTERNS;
use crate::segments::{LOCAL, Local};
use crate::state::{Case, Outcome, RSP};
use softcpu::testkit::{End, Pages, Seat, UserState};

/// Instructions that a case may take: the longest string operation that a window allows, and some.
const BUDGET: u64 = 200_000;
/// Offset of the data in the program's physical memory.
const DATA_OFFSET: u64 = CODE_LEN;
const INT3: u8 = 0xcc;
/// Vectors for outcomes that no processor gives.
const RUNNING: u64 = 1000;
const SHUT_DOWN: u64 = 1001;

/// The guest with what its memory holds.
pub(crate) struct Soft {
    seat: Seat,
    patterns: Box<[[u8; DATA_LEN as usize]; PATTERNS]>,
    /// Data before the current run.
    pub(crate) before: Box<[u8; DATA_LEN as usize]>,
    filled: Option<u32>,
}

impl Soft {
    /// A guest laid out like the child.
    pub(crate) fn new(patterns: &[[u8; DATA_LEN as usize]; PATTERNS]) -> Self {
        let row = |linear, page, pages, writable, executable| Pages {
            linear,
            page,
            pages,
            writable,
            executable,
        };
        let writable = DATA_WRITABLE / PAGE;
        let mut seat = Seat::new(&[
            row(CODE, 0, 1, false, true),
            row(DATA, 1, writable, true, false),
            row(DATA + DATA_WRITABLE, 1 + writable, 1, false, false),
            row(DATA_HIGH, 1, writable, true, false),
            row(DATA_HIGH + DATA_WRITABLE, 1 + writable, 1, false, false),
        ])
        .expect("a small guest");
        assert!(seat.set_local_table(&LOCAL.map(Local::descriptor)));
        assert!(seat.write(0, &[INT3; CODE_LEN as usize]));
        Self {
            seat,
            patterns: Box::new(*patterns),
            before: Box::new([0; DATA_LEN as usize]),
            filled: None,
        }
    }

    /// Runs a case.
    pub(crate) fn run(&mut self, case: &Case, outcome: &mut Outcome) {
        if self.filled != Some(case.pattern) {
            *self.before = self.patterns[case.pattern as usize];
            case.patch_into(&mut self.before[..]);
            assert!(self.seat.write(DATA_OFFSET, &self.before[..]));
        } else if case.patch_len != 0 {
            case.patch_into(&mut self.before[..]);
            let patch = &case.patch[..case.patch_len as usize];
            assert!(
                self.seat
                    .write(DATA_OFFSET + u64::from(case.patch_at), patch)
            );
        }
        self.filled = Some(case.pattern);
        let (at, len) = case.code_place();
        assert!(self.seat.write(at as u64, &case.bytes()[..len]));
        let mut state = to_user(&case.state);
        let end = self.seat.run(&mut state, BUDGET);
        assert!(
            self.seat
                .write(at as u64, &[INT3; crate::state::CODE_MAX][..len])
        );
        from_user(&state, &mut outcome.state);
        (outcome.vector, outcome.error_code, outcome.cr2) = match end {
            End::Exception { vector, error, cr2 } => (u64::from(vector), error, cr2),
            End::Running => (RUNNING, 0, 0),
            End::ShutDown => (SHUT_DOWN, 0, 0),
        };
        assert!(self.seat.read(DATA_OFFSET, &mut outcome.memory));
        let changed = outcome.memory != self.before[..DATA_WRITABLE as usize];
        outcome.memory_changed = u64::from(changed);
        if changed {
            self.filled = None;
        } else if case.patch_len != 0 {
            let range = case.patch_at as usize..(case.patch_at + case.patch_len) as usize;
            let pattern = &self.patterns[case.pattern as usize][range.clone()];
            assert!(self.seat.write(DATA_OFFSET + range.start as u64, pattern));
        }
    }

    /// Forgets the patch of the last run in `before`; called when it has been looked at.
    pub(crate) fn settle(&mut self, case: &Case) {
        if self.filled.is_some() && case.patch_len != 0 {
            let range = case.patch_at as usize..(case.patch_at + case.patch_len) as usize;
            self.before[range.clone()]
                .copy_from_slice(&self.patterns[case.pattern as usize][range]);
        }
    }
}

fn to_user(state: &crate::state::CpuState) -> UserState {
    let mut user = UserState {
        general: state.gpr,
        rip: state.rip(),
        flags: state.rflags(),
        fs_base: state.fs_base,
        gs_base: state.gs_base,
        selectors: [
            state.es as u16,
            state.cs(),
            state.ss(),
            state.ds as u16,
            state.fs as u16,
            state.gs as u16,
        ],
        fpu: softcpu::state::Fpu::new(),
    };
    let fpu = &mut user.fpu;
    fpu.control = state.fcw();
    fpu.status = state.fsw();
    fpu.occupied = state.ftw();
    (fpu.last_opcode, fpu.last_instruction, fpu.last_data) = state.fpu_pointers();
    fpu.mxcsr = state.mxcsr();
    let top = fpu.top() as usize;
    for index in 0..8 {
        let (significand, sign_exponent) = state.st(index);
        let register = &mut fpu.registers[(top + index) & 7];
        register.significand = significand;
        register.sign_exponent = sign_exponent;
    }
    for index in 0..16 {
        fpu.xmm[index] = state.xmm(index);
    }
    user
}

fn from_user(user: &UserState, state: &mut crate::state::CpuState) {
    *state = crate::state::CpuState::quiet();
    for (index, value) in user.general.iter().enumerate() {
        state.set_gpr(index, *value);
    }
    state.set_gpr(RSP, user.general[RSP]);
    state.set_rip(user.rip);
    state.set_rflags(user.flags);
    state.fs_base = user.fs_base;
    state.gs_base = user.gs_base;
    state.es = u64::from(user.selectors[0]);
    state.set_cs(user.selectors[1]);
    state.set_ss(user.selectors[2]);
    state.ds = u64::from(user.selectors[3]);
    state.fs = u64::from(user.selectors[4]);
    state.gs = u64::from(user.selectors[5]);
    let fpu = &user.fpu;
    state.set_fcw(fpu.control);
    state.set_fsw(fpu.status);
    state.set_ftw(fpu.occupied);
    state.set_fpu_pointers(fpu.last_opcode, fpu.last_instruction, fpu.last_data);
    state.set_mxcsr(fpu.mxcsr);
    let top = fpu.top() as usize;
    for index in 0..8 {
        let register = fpu.registers[(top + index) & 7];
        state.set_st(index, register.significand, register.sign_exponent);
    }
    for index in 0..16 {
        state.set_xmm(index, fpu.xmm[index]);
    }
}
