//! Saving and restoring x87 and SSE state, and when their exceptions are raised: small programs in user mode.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a rig that cannot be set up fails the test that wants it"
)]

use softcpu::state::Fpu;
use softcpu::state::fpu::St;
use softcpu::testkit::{End, Pages, Seat, UserState};

const CODE: u64 = 0x1000_0000;
const DATA: u64 = 0x2000_0000;
const CODE_AT: u64 = 0;
const DATA_AT: u64 = 0x1000;

const PROTECTION: u8 = 13;
const BREAKPOINT: u8 = 3;
const X87: u8 = 16;
const SIMD: u8 = 19;

/// XSAVE, XSAVEC, XSAVEOPT, XRSTOR, FXSAVE64, FXRSTOR64 and LDMXCSR of [rdi].
const XSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x27];
const XSAVEC64: &[u8] = &[0x48, 0x0f, 0xc7, 0x27];
const XSAVEOPT64: &[u8] = &[0x48, 0x0f, 0xae, 0x37];
const XRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x2f];
const FXSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x07];
const FXRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x0f];
const LDMXCSR: &[u8] = &[0x0f, 0xae, 0x17];

struct Rig {
    seat: Seat,
    state: UserState,
}

impl Rig {
    fn new() -> Self {
        let seat = Seat::new(&[
            Pages {
                linear: CODE,
                page: 0,
                pages: 1,
                writable: false,
                executable: true,
            },
            Pages {
                linear: DATA,
                page: 1,
                pages: 2,
                writable: true,
                executable: false,
            },
        ])
        .unwrap();
        let mut fpu = Fpu::new();
        for (index, register) in fpu.xmm.iter_mut().enumerate() {
            *register = 0x0101_0101_0101_0101_0101_0101_0101_0101 * (index as u128 + 1);
        }
        fpu.registers[6] = St {
            significand: 0xc000_0000_0000_0000,
            sign_exponent: 0x4001,
        };
        fpu.registers[7] = St {
            significand: 0x8000_0000_0000_0001,
            sign_exponent: 0xbfff,
        };
        fpu.occupied = 0xc0;
        fpu.status = 6 << 11 | 0x20;
        fpu.control = 0x0b7f;
        fpu.mxcsr = 0x3fa0;
        let mut general = [0; 16];
        general[7] = DATA;
        general[0] = 7;
        let state = UserState {
            general,
            rip: CODE,
            flags: 0x202,
            fs_base: 0,
            gs_base: 0,
            selectors: [0x2b, 0x33, 0x2b, 0x2b, 0, 0],
            fpu,
        };
        Self { seat, state }
    }

    /// Runs `code` up to an INT3 behind it, or to another exception, whose vector it gives.
    fn run(&mut self, code: &[u8]) -> u8 {
        let mut bytes = code.to_vec();
        bytes.push(0xcc);
        assert!(self.seat.write(CODE_AT, &bytes));
        self.state.rip = CODE;
        self.state.flags = 0x202;
        self.state.selectors = [0x2b, 0x33, 0x2b, 0x2b, 0, 0];
        match self.seat.run(&mut self.state, 1000) {
            End::Exception { vector, .. } => vector,
            end => panic!("{end:?}"),
        }
    }

    fn get(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        assert!(self.seat.read(DATA_AT + offset, &mut bytes));
        u64::from_le_bytes(bytes)
    }

    fn put(&self, offset: u64, value: u64) {
        assert!(self.seat.write(DATA_AT + offset, &value.to_le_bytes()));
    }
}

#[test]
fn xsave_and_xrstor_bring_everything_back() {
    let mut rig = Rig::new();
    let before = rig.state.fpu.clone();
    assert_eq!(rig.run(XSAVE64), BREAKPOINT);
    assert_eq!(rig.get(512), 3, "both components are in use");
    assert_eq!(rig.get(520), 0);
    assert_eq!(rig.get(0) & 0xffff_ffff, 0x3020_0b7f);
    assert_eq!(rig.get(24), 0x0000_ffff_0000_3fa0);
    assert_eq!(rig.get(32), before.registers[6].significand);
    assert_eq!(rig.get(160), before.xmm[0] as u64);
    rig.state.fpu = Fpu::new();
    assert_eq!(rig.run(XRSTOR64), BREAKPOINT);
    assert_eq!(rig.state.fpu, before);
}

#[test]
fn fxsave_and_fxrstor_bring_everything_back() {
    let mut rig = Rig::new();
    let before = rig.state.fpu.clone();
    assert_eq!(rig.run(FXSAVE64), BREAKPOINT);
    rig.state.fpu = Fpu::new();
    assert_eq!(rig.run(FXRSTOR64), BREAKPOINT);
    assert_eq!(rig.state.fpu, before);
}

#[test]
fn components_not_asked_for_stay() {
    let mut rig = Rig::new();
    assert_eq!(rig.run(XSAVE64), BREAKPOINT);
    let saved = rig.state.fpu.clone();
    rig.state.fpu = Fpu::new();
    rig.state.general[0] = 1;
    assert_eq!(rig.run(XRSTOR64), BREAKPOINT);
    assert_eq!(rig.state.fpu.registers, saved.registers);
    assert_eq!(rig.state.fpu.xmm, [0; 16]);
    assert_eq!(rig.state.fpu.mxcsr, 0x1f80);
}

#[test]
fn components_absent_from_the_area_are_initialised() {
    let mut rig = Rig::new();
    rig.put(24, 0x1fbf);
    assert_eq!(rig.run(XRSTOR64), BREAKPOINT);
    let mut expected = Fpu::new();
    // The standard form loads MXCSR in any case.
    expected.mxcsr = 0x1fbf;
    assert_eq!(rig.state.fpu, expected);
}

#[test]
fn the_compacted_form_leaves_out_what_is_in_its_initial_state() {
    let mut rig = Rig::new();
    rig.state.fpu = Fpu::new();
    rig.state.fpu.xmm[3] = 1;
    rig.put(0, 0x1234_5678);
    assert_eq!(rig.run(XSAVEC64), BREAKPOINT);
    assert_eq!(rig.get(512), 2);
    assert_eq!(rig.get(520), 1 << 63 | 3);
    assert_eq!(rig.get(0), 0x1234_5678, "x87 state is not written");
    let before = rig.state.fpu.clone();
    rig.state.fpu.xmm[3] = 2;
    rig.state.fpu.control = 0x0c7f;
    assert_eq!(rig.run(XRSTOR64), BREAKPOINT);
    assert_eq!(rig.state.fpu, before);
}

#[test]
fn xsaveopt_keeps_the_bits_of_components_not_asked_for() {
    let mut rig = Rig::new();
    rig.state.general[0] = 1;
    rig.state.fpu.registers = Default::default();
    rig.state.fpu.status = 0;
    rig.state.fpu.occupied = 0;
    rig.state.fpu.control = 0x37f;
    rig.put(512, 3);
    assert_eq!(rig.run(XSAVEOPT64), BREAKPOINT);
    assert_eq!(rig.get(512), 2, "x87 is initial, SSE was not asked for");
}

#[test]
fn bad_areas_are_refused() {
    for (offset, value) in [
        (512, 4),           // A component that XCR0 does not enable.
        (520, 1),           // Neither standard nor compacted.
        (528, 1),           // Reserved.
        (24, 0x1_0000),     // MXCSR with a bit that does not exist.
        (520, 1 << 63 | 4), // Compacted, with a component that XCR0 does not enable.
    ] {
        let mut rig = Rig::new();
        rig.put(offset, value);
        let before = rig.state.fpu.clone();
        assert_eq!(rig.run(XRSTOR64), PROTECTION, "{value:#x} at {offset}");
        assert_eq!(rig.state.fpu, before);
    }
    let mut rig = Rig::new();
    rig.put(512, 2);
    rig.put(520, 1 << 63 | 1);
    assert_eq!(
        rig.run(XRSTOR64),
        PROTECTION,
        "present, but not in the format"
    );
}

#[test]
fn areas_are_aligned() {
    for (code, align) in [
        (XSAVE64, 64),
        (XRSTOR64, 64),
        (FXSAVE64, 16),
        (FXRSTOR64, 16),
    ] {
        let mut rig = Rig::new();
        rig.state.general[7] = DATA + align / 2;
        assert_eq!(rig.run(code), PROTECTION);
        let mut rig = Rig::new();
        rig.state.general[7] = DATA + align;
        assert_eq!(rig.run(code), BREAKPOINT);
    }
}

#[test]
fn mxcsr_takes_only_bits_that_exist() {
    let mut rig = Rig::new();
    rig.put(0, 0xffff);
    assert_eq!(rig.run(LDMXCSR), BREAKPOINT);
    assert_eq!(rig.state.fpu.mxcsr, 0xffff);
    rig.put(0, 0x1_1f80);
    assert_eq!(rig.run(LDMXCSR), PROTECTION);
}

#[test]
fn an_unmasked_x87_exception_waits_for_the_next_instruction() {
    let mut rig = Rig::new();
    rig.state.fpu = Fpu::new();
    rig.put(0, 0x37b);
    // fldcw [rdi]; fld1; fldz; fdivp; nop; fnstsw ax; fnop
    let code = [
        0xd9, 0x2f, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x90, 0xdf, 0xe0, 0xd9, 0xd0,
    ];
    assert_eq!(rig.run(&code), X87);
    assert_eq!(
        rig.state.rip,
        CODE + 11,
        "the first waiting instruction reports it"
    );
    assert_eq!(rig.state.general[0] as u16, 6 << 11 | 0x8084);
    assert_eq!(rig.state.fpu.last_instruction, CODE + 6);
    assert_eq!(rig.state.fpu.last_opcode, 0x6f9);
    assert_eq!(
        rig.state.fpu.occupied, 0xc0,
        "operands stay for the handler"
    );
    // fnclex; fnop
    assert_eq!(rig.run(&[0xdb, 0xe2, 0xd9, 0xd0]), BREAKPOINT);
}

#[test]
fn unmasking_a_raised_flag_makes_it_pending() {
    let mut rig = Rig::new();
    rig.state.fpu = Fpu::new();
    rig.put(0, 0x35f);
    // fldpi; fsqrt (inexact, masked); fldcw [rdi]; fwait
    let code = [0xd9, 0xeb, 0xd9, 0xfa, 0xd9, 0x2f, 0x9b];
    assert_eq!(rig.run(&code), X87);
    assert_eq!(rig.state.rip, CODE + 6);
}

#[test]
fn an_unmasked_simd_exception_stores_nothing() {
    let mut rig = Rig::new();
    rig.put(0, 0x1d80);
    rig.state.fpu.xmm[1] = 0;
    let before = rig.state.fpu.xmm;
    // ldmxcsr [rdi]; divss xmm0, xmm1
    let code = [0x0f, 0xae, 0x17, 0xf3, 0x0f, 0x5e, 0xc1];
    assert_eq!(rig.run(&code), SIMD);
    assert_eq!(rig.state.rip, CODE + 3);
    assert_eq!(rig.state.fpu.xmm, before);
    assert_eq!(rig.state.fpu.mxcsr, 0x1d84);
}
