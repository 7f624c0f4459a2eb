//! CPUID, system calls, ports and guarded flags: SDM vol. 1, 19.5; vol. 2; APM vol. 2, 6.1.

mod system_kit;

use system_kit::{Mode::*, check};

#[test]
fn identification() {
    check(
        Long,
        "
        31 c0 ; xor eax, eax
        0f a2 ; cpuid
        e7 e9 ; out 0xe9, eax
        89 d8 ; mov eax, ebx
        e7 e9 ; out 0xe9, eax
        b8 00 00 00 80 ; mov eax, 0x80000000
        0f a2 ; cpuid
        e7 e9 ; out 0xe9, eax
        b8 00 00 00 40 ; mov eax, 0x40000000
        0f a2 ; cpuid
        e7 e9 ; out 0xe9, eax
        89 d8 ; mov eax, ebx
        e7 e9 ; out 0xe9, eax
        b8 10 00 00 40 ; mov eax, 0x40000010
        0f a2 ; cpuid
        e7 e9 ; out 0xe9, eax
        89 d8 ; mov eax, ebx
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 16 68747541 80000021 40000010 76697254 1e8480 f4240, halt",
    );
    check(
        Long,
        "
        b8 01 00 00 00 ; mov eax, 1
        0f a2 ; cpuid
        89 c8 ; mov eax, ecx
        c1 e8 1b ; shr eax, 27
        83 e0 01 ; and eax, 1
        e7 e9 ; out 0xe9, eax
        0f 20 e0 ; mov rax, cr4
        0f ba e8 12 ; bts eax, 18
        0f 22 e0 ; mov cr4, rax
        b8 01 00 00 00 ; mov eax, 1
        0f a2 ; cpuid
        89 c8 ; mov eax, ecx
        c1 e8 1b ; shr eax, 27
        83 e0 01 ; and eax, 1
        e7 e9 ; out 0xe9, eax
        31 c9 ; xor ecx, ecx
        0f 01 d0 ; xgetbv
        e7 e9 ; out 0xe9, eax
        b8 03 00 00 00 ; mov eax, 3
        0f 01 d1 ; xsetbv
        0f 01 d0 ; xgetbv
        e7 e9 ; out 0xe9, eax
        b8 07 00 00 00 ; mov eax, 7
        0f 01 d1 ; xsetbv
        ",
        "out 0 1 1 3, #13(0) at 45 cs 18",
    );
    // XGETBV 1: what is enabled and in use. MXCSR does not count.
    check(
        Long,
        "
        0f 20 e0 ; mov rax, cr4
        48 0d 00 06 04 00 ; or rax, 0x40600
        0f 22 e0 ; mov cr4, rax
        31 c9 ; xor ecx, ecx
        31 d2 ; xor edx, edx
        b8 03 00 00 00 ; mov eax, 3
        0f 01 d1 ; xsetbv
        db e3 ; fninit
        0f 57 c0 ; xorps xmm0, xmm0
        b9 01 00 00 00 ; mov ecx, 1
        0f 01 d0 ; xgetbv
        e7 e9 ; out 0xe9, eax
        66 0f 76 c0 ; pcmpeqd xmm0, xmm0
        0f 01 d0 ; xgetbv
        e7 e9 ; out 0xe9, eax
        d9 e8 ; fld1
        0f 01 d0 ; xgetbv
        e7 e9 ; out 0xe9, eax
        0f 57 c0 ; xorps xmm0, xmm0
        0f 01 d0 ; xgetbv
        e7 e9 ; out 0xe9, eax
        ff c1 ; inc ecx
        0f 01 d0 ; xgetbv
        ",
        "out 0 2 3 1, #13(0) at 41 cs 18",
    );
    check(
        Long,
        "
        31 c9 ; xor ecx, ecx
        0f 01 d0 ; xgetbv
        ",
        "#6 at 2 cs 18",
    );
    check(
        Long,
        "
        b8 17 00 00 00 ; mov eax, 0x17
        0f a2 ; cpuid
        09 d8 ; or eax, ebx
        09 c8 ; or eax, ecx
        09 d0 ; or eax, edx
        e7 e9 ; out 0xe9, eax
        b8 15 00 00 00 ; mov eax, 0x15
        0f a2 ; cpuid
        e7 e9 ; out 0xe9, eax
        89 d8 ; mov eax, ebx
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 0 1 2, halt",
    );
    check(
        Long,
        "
        c5 f8 77 ; db 0xc5, 0xf8, 0x77
        ",
        "#6 at 0 cs 18",
    );
    check(
        Long,
        "
        0f 01 c8 ; monitor
        ",
        "#6 at 0 cs 18",
    );
    check(
        Long,
        "
        0f 01 c1 ; db 0x0f, 0x01, 0xc1
        ",
        "#6 at 0 cs 18",
    );
    check(
        Long,
        "
        48 0f c7 f0 ; rdrand rax
        0f 92 c0 ; setc al
        e6 e9 ; out 0xe9, al
        48 0f c7 f8 ; rdseed rax
        0f 92 c0 ; setc al
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 1 1, halt",
    );
}

#[test]
fn system_calls() {
    check(
        Long,
        "
        b9 81 00 00 c0 ; mov ecx, 0xc0000081
        31 c0 ; xor eax, eax
        ba 18 00 48 00 ; mov edx, 0x00480018
        0f 30 ; wrmsr
        b9 82 00 00 c0 ; mov ecx, 0xc0000082
        b8 47 80 00 00 ; mov eax, t
        31 d2 ; xor edx, edx
        0f 30 ; wrmsr
        b9 84 00 00 c0 ; mov ecx, 0xc0000084
        b8 00 02 00 00 ; mov eax, 0x200
        0f 30 ; wrmsr
        b9 36 80 00 00 ; mov ecx, n
        41 bb 02 32 00 00 ; mov r11d, 0x3202
        48 0f 07 ; o64 sysret
        9c ; n: pushf
        58 ; pop rax
        66 e7 e9 ; out 0xe9, ax
        8c c8 ; mov eax, cs
        e6 e9 ; out 0xe9, al
        8c d0 ; mov eax, ss
        e6 e9 ; out 0xe9, al
        0f 05 ; syscall
        0f 0b ; m: ud2
        9c ; t: pushf
        58 ; pop rax
        66 e7 e9 ; out 0xe9, ax
        44 89 d8 ; mov eax, r11d
        66 e7 e9 ; out 0xe9, ax
        8c c8 ; mov eax, cs
        e6 e9 ; out 0xe9, al
        8c d0 ; mov eax, ss
        e6 e9 ; out 0xe9, al
        81 e9 45 80 00 00 ; sub ecx, m
        89 c8 ; mov eax, ecx
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 3202 5b 53 3002 3202 18 20 0, halt",
    );
    check(
        Long,
        "
        b9 80 00 00 c0 ; mov ecx, 0xc0000080
        0f 32 ; rdmsr
        0f ba f0 00 ; btr eax, 0
        0f 30 ; wrmsr
        0f 05 ; syscall
        ",
        "#6 at d cs 18",
    );
    check(
        Long,
        "
        b9 81 00 00 c0 ; mov ecx, 0xc0000081
        31 c0 ; xor eax, eax
        ba 18 00 48 00 ; mov edx, 0x00480018
        0f 30 ; wrmsr
        b9 83 00 00 c0 ; mov ecx, 0xc0000083
        b8 35 80 00 00 ; mov eax, t
        31 d2 ; xor edx, edx
        0f 30 ; wrmsr
        b9 29 80 00 00 ; mov ecx, n
        41 bb 02 02 00 00 ; mov r11d, 0x202
        0f 07 ; o32 sysret
        8c c8 ; n: mov eax, cs
        e6 e9 ; out 0xe9, al
        8c d0 ; mov eax, ss
        e6 e9 ; out 0xe9, al
        0f 05 ; syscall
        0f 0b ; m: ud2
        8c c8 ; t: mov eax, cs
        e6 e9 ; out 0xe9, al
        81 e9 33 80 00 00 ; sub ecx, m
        89 c8 ; mov eax, ecx
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 4b 53 18 0, halt",
    );
    check(
        Compatible,
        "
        0f 34 ; sysenter
        ",
        "#6 at 0 cs 4b",
    );
    check(
        LongUser,
        "
        48 0f 07 ; o64 sysret
        ",
        "#13(0) at 0 cs 5b",
    );
    check(
        Long,
        "
        0f 34 ; sysenter
        ",
        "#6 at 0 cs 18",
    );
    check(
        Protected,
        "
        0f 34 ; sysenter
        ",
        "#13(0) at 0 cs 8",
    );
    check(
        Protected,
        "
        b9 74 01 00 00 ; mov ecx, 0x174
        b8 08 00 00 00 ; mov eax, 8
        31 d2 ; xor edx, edx
        0f 30 ; wrmsr
        41 ; inc ecx
        b8 00 6d 00 00 ; mov eax, 0x6d00
        0f 30 ; wrmsr
        41 ; inc ecx
        b8 20 80 00 00 ; mov eax, t
        0f 30 ; wrmsr
        0f 34 ; sysenter
        8c c8 ; t: mov eax, cs
        e6 e9 ; out 0xe9, al
        8c d0 ; mov eax, ss
        e6 e9 ; out 0xe9, al
        89 e0 ; mov eax, esp
        66 e7 e9 ; out 0xe9, ax
        f4 ; hlt
        ",
        "out 8 10 6d00, halt",
    );
    check(
        Long,
        "
        b9 02 01 00 c0 ; mov ecx, 0xc0000102
        b8 00 80 00 00 ; mov eax, 0x8000
        31 d2 ; xor edx, edx
        0f 30 ; wrmsr
        0f 01 f8 ; swapgs
        65 8a 04 25 00 00 00 00 ; mov al, [gs:0]
        e6 e9 ; out 0xe9, al
        0f 32 ; rdmsr
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out b9 0, halt",
    );
    check(
        LongUser,
        "
        0f 01 f8 ; swapgs
        ",
        "#13(0) at 0 cs 5b",
    );
    check(
        Long,
        "
        f3 48 0f ae c0 ; rdfsbase rax
        ",
        "#6 at 0 cs 18",
    );
    check(
        Long,
        "
        0f 20 e0 ; mov rax, cr4
        0f ba e8 10 ; bts eax, 16
        0f 22 e0 ; mov cr4, rax
        b8 00 80 00 00 ; mov eax, 0x8000
        f3 48 0f ae d0 ; wrfsbase rax
        64 8a 04 25 00 00 00 00 ; mov al, [fs:0]
        e6 e9 ; out 0xe9, al
        f3 48 0f ae c0 ; rdfsbase rax
        66 e7 e9 ; out 0xe9, ax
        48 b8 00 00 00 00 00 80 00 00 ; mov rax, 0x800000000000
        f3 48 0f ae d8 ; wrgsbase rax
        ",
        "out f 8000, #13(0) at 30 cs 18",
    );
}

#[test]
fn ports() {
    check(
        Protected,
        "
        e4 61 ; in al, 0x61
        e6 e9 ; out 0xe9, al
        66 ba 62 00 ; mov dx, 0x62
        66 ed ; in ax, dx
        66 e7 e9 ; out 0xe9, ax
        ed ; in eax, dx
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 61 6262 62626262, halt",
    );
    check(
        User,
        "
        e6 e9 ; out 0xe9, al
        e4 61 ; in al, 0x61
        ",
        "out 53, #13(0) at 2 cs 4b",
    );
    check(
        User,
        "
        66 e7 e9 ; out 0xe9, ax
        ",
        "#13(0) at 0 cs 4b",
    );
    check(
        User,
        "
        66 ba ff ff ; mov dx, 0xffff
        ec ; in al, dx
        ",
        "#13(0) at 4 cs 4b",
    );
    check(
        Virtual,
        "
        b0 05 ; mov al, 5
        e6 e9 ; out 0xe9, al
        e4 61 ; in al, 0x61
        ",
        "out 5, #13(0) at 4 cs 0",
    );
    check(
        VirtualIo,
        "
        e4 61 ; in al, 0x61
        ",
        "#13(0) at 0 cs 0",
    );
    check(
        LongUser,
        "
        b0 05 ; mov al, 5
        e6 e9 ; out 0xe9, al
        e4 61 ; in al, 0x61
        ",
        "out 5, #13(0) at 4 cs 5b",
    );
    check(
        Protected,
        "
        bf 00 61 00 00 ; mov edi, 0x6100
        b9 03 00 00 00 ; mov ecx, 3
        ba 63 00 00 00 ; mov edx, 0x63
        f3 6c ; rep insb
        a1 00 61 00 00 ; mov eax, [0x6100]
        e7 e9 ; out 0xe9, eax
        89 f8 ; mov eax, edi
        66 e7 e9 ; out 0xe9, ax
        be 00 61 00 00 ; mov esi, 0x6100
        b9 03 00 00 00 ; mov ecx, 3
        ba e9 00 00 00 ; mov edx, 0xe9
        f3 6e ; rep outsb
        89 c8 ; mov eax, ecx
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 636363 6103 63 63 63 0, halt",
    );
    check(
        Protected,
        "
        fd ; std
        be 02 61 00 00 ; mov esi, 0x6102
        c7 05 00 61 00 00 01 02 03 00 ; mov dword [0x6100], 0x00030201
        b9 02 00 00 00 ; mov ecx, 2
        ba e9 00 00 00 ; mov edx, 0xe9
        f3 6e ; rep outsb
        89 f0 ; mov eax, esi
        66 e7 e9 ; out 0xe9, ax
        f4 ; hlt
        ",
        "out 3 2 6100, halt",
    );
    check(
        Paged,
        "
        bf 00 00 1f 00 ; mov edi, 0x1f0000
        ba 63 00 00 00 ; mov edx, 0x63
        6c ; insb
        ",
        "#14(2) at a cs 8",
    );
    check(
        Real,
        "
        bf ff ff ; mov di, 0xffff
        ba 63 00 ; mov dx, 0x63
        6d ; insw
        ",
        "#13 at 6 cs 0",
    );
}

#[test]
fn flags_that_privilege_guards() {
    check(
        User,
        "
        9c ; pushf
        81 0c 24 00 30 00 00 ; or dword [esp], 0x3000
        81 24 24 ff fd ff ff ; and dword [esp], ~0x200
        9d ; popf
        9c ; pushf
        58 ; pop eax
        e6 e9 ; out 0xe9, al
        c1 e8 08 ; shr eax, 8
        e6 e9 ; out 0xe9, al
        0f 0b ; ud2
        ",
        "out 2 2, #6 at 19 cs 4b",
    );
    check(
        Virtual,
        "
        9c ; pushf
        ",
        "#13(0) at 0 cs 0",
    );
    check(
        Virtual,
        "
        9d ; popf
        ",
        "#13(0) at 0 cs 0",
    );
    check(
        Virtual,
        "
        fa ; cli
        ",
        "#13(0) at 0 cs 0",
    );
    check(
        Virtual,
        "
        cf ; iret
        ",
        "#13(0) at 0 cs 0",
    );
    check(
        VirtualIo,
        "
        fa ; cli
        9c ; pushf
        58 ; pop ax
        e6 e9 ; out 0xe9, al
        88 e0 ; mov al, ah
        e6 e9 ; out 0xe9, al
        fb ; sti
        6a 00 ; push word 0
        9d ; popf
        9c ; pushf
        58 ; pop ax
        88 e0 ; mov al, ah
        e6 e9 ; out 0xe9, al
        0f 0b ; ud2
        ",
        "out 2 30 30, #6 at 13 cs 0",
    );
    check(
        Protected,
        "
        9c ; pushf
        81 0c 24 00 00 20 00 ; or dword [esp], 0x200000
        9d ; popf
        9c ; pushf
        58 ; pop eax
        e7 e9 ; out 0xe9, eax
        68 d7 7f 3f 00 ; push 0x3f7fd7
        9d ; popf
        9c ; pushf
        58 ; pop eax
        f4 ; hlt
        ",
        "out 200002, #1 at 14 cs 8",
    );
    check(
        Long,
        "
        0f 01 cb ; stac
        9c ; pushf
        58 ; pop rax
        c1 e8 10 ; shr eax, 16
        e6 e9 ; out 0xe9, al
        0f 01 ca ; clac
        9c ; pushf
        58 ; pop rax
        c1 e8 10 ; shr eax, 16
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 4 0, halt",
    );
    check(
        LongUser,
        "
        0f 01 cb ; stac
        ",
        "#6 at 0 cs 5b",
    );
}
