//! A machine whose processors are replaced again and again, by new ones with the saved state, behaves as if
//! nothing had happened.

mod system_kit;

use system_kit::{Machine, Mode};

#[track_caller]
fn check_transplanted(
    slices: &[u64],
    mode: Mode,
    processors: usize,
    listing: &str,
    expected: &str,
) {
    for &slice in slices {
        let outcome = Machine::new(mode, processors, listing).outcome_in(slice);
        assert_eq!(outcome, expected, "slices of {slice}");
    }
    assert_eq!(Machine::new(mode, processors, listing).outcome(), expected);
}

#[test]
fn a_periodic_timer_goes_on() {
    check_transplanted(
        &[64, 700],
        Mode::Protected,
        1,
        "
        c7 05 f0 00 e0 fe ff 01 00 00 ; mov dword [0xfee000f0], 0x1ff
        66 c7 05 00 22 00 00 3a 80 ; mov word [0x2200], t
        c7 05 e0 03 e0 fe 0b 00 00 00 ; mov dword [0xfee003e0], 0xb
        c7 05 20 03 e0 fe 40 00 02 00 ; mov dword [0xfee00320], 0x20040
        c7 05 80 03 e0 fe 88 13 00 00 ; mov dword [0xfee00380], 5000
        31 db ; xor ebx, ebx
        fb ; sti
        f4 ; n: hlt
        e9 fa ff ff ff ; jmp n
        43 ; t: inc ebx
        88 d8 ; mov al, bl
        e6 e9 ; out 0xe9, al
        c7 05 b0 00 e0 fe 00 00 00 00 ; mov dword [0xfee000b0], 0
        83 fb 03 ; cmp ebx, 3
        0f 84 01 00 00 00 ; je m
        cf ; iret
        c7 05 20 03 e0 fe 40 00 01 00 ; m: mov dword [0xfee00320], 0x10040
        f4 ; hlt
        ",
        "out 1 2 3, halt",
    );
}

#[test]
fn shadows_and_blocked_nmis_last() {
    check_transplanted(
        &[1, 3, 50],
        Mode::Protected,
        1,
        "
        66 c7 05 10 20 00 00 19 80 ; mov word [0x2010], t
        e6 51 ; out 0x51, al
        e9 00 00 00 00 ; jmp n
        90 ; n: nop
        b0 21 ; mov al, 0x21
        e6 50 ; out 0x50, al
        fb ; sti
        90 ; nop
        90 ; nop
        f4 ; hlt
        e6 51 ; t: out 0x51, al
        e9 00 00 00 00 ; jmp m
        b0 07 ; m: mov al, 7
        e6 e9 ; out 0xe9, al
        66 c7 05 10 20 00 00 2e 80 ; mov word [0x2010], u
        cf ; iret
        b0 08 ; u: mov al, 8
        e6 e9 ; out 0xe9, al
        cf ; iret
        ",
        "out 7 8, #33 at 17 cs 8",
    );
}

#[test]
fn a_processor_is_started() {
    check_transplanted(
        &[1, 3, 50],
        Mode::Protected,
        2,
        "
        be 4d 80 00 00 ; mov esi, t
        bf 00 90 00 00 ; mov edi, 0x9000
        b9 60 00 00 00 ; mov ecx, 96
        f3 a4 ; rep movsb
        c7 05 f0 00 e0 fe ff 01 00 00 ; mov dword [0xfee000f0], 0x1ff
        c7 05 10 03 e0 fe 00 00 00 01 ; mov dword [0xfee00310], 0x01000000
        c7 05 00 03 e0 fe 00 45 00 00 ; mov dword [0xfee00300], 0x4500
        c7 05 00 03 e0 fe 09 46 00 00 ; mov dword [0xfee00300], 0x4609
        80 3d 00 61 00 00 01 ; n: cmp byte [0x6100], 1
        f3 90 ; pause
        0f 85 f1 ff ff ff ; jne n
        b0 99 ; mov al, 0x99
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        8c c8 ; t: mov ax, cs
        e7 e9 ; out 0xe9, ax
        31 c0 ; xor ax, ax
        8e d8 ; mov ds, ax
        c6 06 00 61 01 ; mov byte [0x6100], 1
        f4 ; hlt
        ",
        "out 900 99, halt",
    );
}

#[test]
fn memory_types_and_the_time_stamp_stay() {
    check_transplanted(
        &[1, 3, 50],
        Mode::Long,
        1,
        "
        b9 3b 00 00 00 ; mov ecx, 0x3b
        31 c0 ; xor eax, eax
        ba 01 00 00 00 ; mov edx, 1
        0f 30 ; wrmsr
        b9 0f 02 00 00 ; mov ecx, 0x20f
        b8 00 08 00 00 ; mov eax, 0x800
        31 d2 ; xor edx, edx
        0f 30 ; wrmsr
        0f 31 ; rdtsc
        89 d0 ; mov eax, edx
        e7 e9 ; out 0xe9, eax
        b9 0f 02 00 00 ; mov ecx, 0x20f
        0f 32 ; rdmsr
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 1 800, halt",
    );
}
