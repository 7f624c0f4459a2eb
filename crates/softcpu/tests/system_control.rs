//! Control registers, mode switches and MSRs: SDM vol. 3A, 2.5 and chapter 9; vol. 4.

mod system_kit;

use system_kit::{Mode::*, check};

#[test]
fn control_registers() {
    check(
        Protected,
        "
        b8 00 00 00 80 ; mov eax, 0x80000000
        0f 22 c0 ; mov cr0, eax
        ",
        "#13(0) at 5 cs 8",
    );
    check(
        Protected,
        "
        b8 01 00 00 20 ; mov eax, 0x20000001
        0f 22 c0 ; mov cr0, eax
        ",
        "#13(0) at 5 cs 8",
    );
    check(
        Protected,
        "
        31 c0 ; xor eax, eax
        83 c8 21 ; or eax, 0x21
        0f 22 c0 ; mov cr0, eax
        0f 20 c0 ; mov eax, cr0
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 31, halt",
    );
    check(
        Protected,
        "
        b8 01 00 00 00 ; mov eax, 1
        0f 22 e0 ; mov cr4, eax
        ",
        "#13(0) at 5 cs 8",
    );
    check(
        Protected,
        "
        b8 00 00 02 00 ; mov eax, 0x20000
        0f 22 e0 ; mov cr4, eax
        ",
        "#13(0) at 5 cs 8",
    );
    check(
        Protected,
        "
        0f 20 c8 ; db 0x0f, 0x20, 0xc8
        ",
        "#6 at 0 cs 8",
    );
    check(
        Protected,
        "
        0f 20 e8 ; db 0x0f, 0x20, 0xe8
        ",
        "#6 at 0 cs 8",
    );
    check(
        Long,
        "
        0f 20 e0 ; mov rax, cr4
        83 e0 df ; and eax, ~0x20
        0f 22 e0 ; mov cr4, rax
        ",
        "#13(0) at 6 cs 18",
    );
    check(
        Long,
        "
        0f 20 c0 ; mov rax, cr0
        48 0f ba f0 1f ; btr rax, 31
        0f 22 c0 ; mov cr0, rax
        ",
        "#13(0) at 8 cs 18",
    );
    check(
        Long,
        "
        0f 20 c0 ; mov rax, cr0
        48 0f ba e8 20 ; bts rax, 32
        0f 22 c0 ; mov cr0, rax
        ",
        "#13(0) at 8 cs 18",
    );
    check(
        Long,
        "
        b8 10 00 00 00 ; mov eax, 16
        44 0f 22 c0 ; mov cr8, rax
        ",
        "#13(0) at 5 cs 18",
    );
    check(
        Long,
        "
        b8 09 00 00 00 ; mov eax, 9
        44 0f 22 c0 ; mov cr8, rax
        44 0f 20 c0 ; mov rax, cr8
        e6 e9 ; out 0xe9, al
        8b 04 25 80 00 e0 fe ; mov eax, [0xfee00080]
        ; ****************** warning: dword data exceeds bounds [-w+number-overflow]
        ; ****************** warning: dword data exceeds bounds [-w+number-overflow]
        ",
        "out 9, #14(0) at f cs 18",
    );
    check(
        Long,
        "
        48 b8 00 00 00 00 00 40 00 00 ; mov rax, 1 << 46
        0f 22 d8 ; mov cr3, rax
        ",
        "#13(0) at a cs 18",
    );
    check(
        Long,
        "
        48 b8 00 00 00 00 00 00 00 80 ; mov rax, 1 << 63
        0f 22 d8 ; mov cr3, rax
        ",
        "#13(0) at a cs 18",
    );
    check(
        Long,
        "
        0f 20 e0 ; mov rax, cr4
        0f ba e8 11 ; bts eax, 17
        0f 22 e0 ; mov cr4, rax
        0f 20 d8 ; mov rax, cr3
        48 0f ba e8 3f ; bts rax, 63
        0f 22 d8 ; mov cr3, rax
        0f 20 d8 ; mov rax, cr3
        48 c1 e8 3c ; shr rax, 60
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 0, halt",
    );
    check(
        Long,
        "
        b8 01 00 02 00 ; mov eax, 0x20001
        0f 22 d8 ; mov cr3, rax
        0f 20 e0 ; mov rax, cr4
        0f ba e8 11 ; bts eax, 17
        0f 22 e0 ; mov cr4, rax
        ",
        "#13(0) at f cs 18",
    );
    check(
        User,
        "
        0f 01 e0 ; smsw eax
        e6 e9 ; out 0xe9, al
        0f 0b ; ud2
        ",
        "out 33, #6 at 5 cs 4b",
    );
    check(
        Protected,
        "
        b8 3e 00 00 00 ; mov eax, 0x3e
        0f 01 f0 ; lmsw ax
        0f 20 c0 ; mov eax, cr0
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 3f, halt",
    );
    check(
        Protected,
        "
        0f 06 ; clts
        0f 20 c0 ; mov eax, cr0
        0f ba e8 03 ; bts eax, 3
        0f 22 c0 ; mov cr0, eax
        0f 06 ; clts
        0f 20 c0 ; mov eax, cr0
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 33, halt",
    );
}

#[test]
fn user_mode_prevention() {
    check(
        User,
        "
        0f 01 05 00 61 00 00 ; sgdt [0x6100]
        0f 01 0d 08 61 00 00 ; sidt [0x6108]
        0f 00 c0 ; sldt eax
        0f 00 cb ; str ebx
        a1 00 61 00 00 ; mov eax, [0x6100]
        e6 e9 ; out 0xe9, al
        0f 0b ; ud2
        ",
        "out f, #6 at 1b cs 4b",
    );
    check(
        Protected,
        "
        b8 00 08 00 00 ; mov eax, 0x800
        0f 22 e0 ; mov cr4, eax
        6a 53 ; push 0x53
        68 00 77 00 00 ; push 0x7700
        6a 02 ; push 2
        6a 4b ; push 0x4b
        68 19 80 00 00 ; push n
        cf ; iret
        0f 01 05 00 61 00 00 ; n: sgdt [0x6100]
        ",
        "#13(0) at 19 cs 4b",
    );
    check(
        Protected,
        "
        b8 00 08 00 00 ; mov eax, 0x800
        0f 22 e0 ; mov cr4, eax
        6a 53 ; push 0x53
        68 00 77 00 00 ; push 0x7700
        6a 02 ; push 2
        6a 4b ; push 0x4b
        68 19 80 00 00 ; push n
        cf ; iret
        0f 01 e0 ; n: smsw eax
        ",
        "#13(0) at 19 cs 4b",
    );
    check(
        Protected,
        "
        b8 04 00 00 00 ; mov eax, 0x4
        0f 22 e0 ; mov cr4, eax
        6a 53 ; push 0x53
        68 00 77 00 00 ; push 0x7700
        6a 02 ; push 2
        6a 4b ; push 0x4b
        68 19 80 00 00 ; push n
        cf ; iret
        0f 31 ; n: rdtsc
        ",
        "#13(0) at 19 cs 4b",
    );
    check(
        User,
        "
        0f 33 ; rdpmc
        ",
        "#13(0) at 0 cs 4b",
    );
}

#[test]
fn mode_switches() {
    check(
        Real,
        "
        66 0f 01 16 f0 07 ; o32 lgdt [0x7f0]
        0f 20 c0 ; mov eax, cr0
        0c 01 ; or al, 1
        0f 22 c0 ; mov cr0, eax
        ea 13 80 08 00 ; jmp 8:n
        8c c8 ; n: mov eax, cs
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 8, halt",
    );
    check(
        Protected16,
        "
        0f 20 c0 ; mov eax, cr0
        24 fe ; and al, 0xfe
        0f 22 c0 ; mov cr0, eax
        ea 0d 80 00 00 ; jmp 0:n
        8c c8 ; n: mov ax, cs
        e6 e9 ; out 0xe9, al
        b8 00 01 ; mov ax, 0x100
        8e d8 ; mov ds, ax
        66 a1 00 50 ; mov eax, [0x5000]
        89 c1 ; mov cx, ax
        f4 ; hlt
        ",
        "out 0, halt",
    );
    check(
        Real,
        "
        66 0f 01 16 f0 07 ; o32 lgdt [0x7f0]
        0f 20 c0 ; mov eax, cr0
        0c 01 ; or al, 1
        0f 22 c0 ; mov cr0, eax
        bb 10 00 ; mov bx, 0x10
        8e db ; mov ds, bx
        24 fe ; and al, 0xfe
        0f 22 c0 ; mov cr0, eax
        31 db ; xor bx, bx
        8e db ; mov ds, bx
        66 bb 00 00 10 00 ; mov ebx, 0x100000
        67 c6 03 07 ; mov byte [ebx], 7
        67 8a 03 ; mov al, [ebx]
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 7, halt",
    );
    check(
        Long,
        "
        48 b8 0c 80 00 00 00 00 00 00 ; mov rax, p
        ff 28 ; db 0xff, 0x28
        12 80 00 00 ; p: dd n
        08 00 ; dw 8
        0f 20 c0 ; n: mov eax, cr0
        0f ba f0 1f ; btr eax, 31
        0f 22 c0 ; mov cr0, eax
        b9 80 00 00 c0 ; mov ecx, 0xc0000080
        0f 32 ; rdmsr
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 901, halt",
    );
    check(
        Long,
        "
        48 b8 0c 80 00 00 00 00 00 00 ; mov rax, p
        ff 28 ; db 0xff, 0x28
        12 80 00 00 ; p: dd n
        08 00 ; dw 8
        40 ; n: inc eax
        66 b8 10 00 ; mov ax, 0x10
        66 8e d0 ; mov ss, ax
        bc 00 70 00 00 ; mov esp, 0x7000
        ea 26 80 00 00 18 00 ; jmp 0x18:m
        48 b8 88 77 66 55 44 33 22 11 ; m: mov rax, 0x1122334455667788
        48 c1 e8 20 ; shr rax, 32
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 11223344, halt",
    );
    check(
        Paged,
        "
        0f 20 e0 ; mov eax, cr4
        83 c8 20 ; or eax, 0x20
        0f 22 e0 ; mov cr4, eax
        ",
        "#13(0) at 6 cs 8",
    );
    check(
        Long,
        "
        b9 80 00 00 c0 ; mov ecx, 0xc0000080
        0f 32 ; rdmsr
        0f ba f0 08 ; btr eax, 8
        0f 30 ; wrmsr
        ",
        "#13(0) at b cs 18",
    );
    check(
        Protected,
        "
        b9 80 00 00 c0 ; mov ecx, 0xc0000080
        b8 00 01 00 00 ; mov eax, 0x100
        31 d2 ; xor edx, edx
        0f 30 ; wrmsr
        b8 00 00 02 00 ; mov eax, 0x20000
        0f 22 d8 ; mov cr3, eax
        0f 20 c0 ; mov eax, cr0
        0f ba e8 1f ; bts eax, 31
        0f 22 c0 ; mov cr0, eax
        ",
        "#13(0) at 1d cs 8",
    );
}

#[test]
fn model_specific_registers() {
    check(
        Long,
        "
        b9 48 00 00 00 ; mov ecx, 0x48
        0f 32 ; rdmsr
        ",
        "#13(0) at 5 cs 18",
    );
    check(
        Long,
        "
        b9 0a 01 00 00 ; mov ecx, 0x10a
        0f 30 ; wrmsr
        ",
        "#13(0) at 5 cs 18",
    );
    check(
        Long,
        "
        b9 80 00 00 c0 ; mov ecx, 0xc0000080
        0f 32 ; rdmsr
        e7 e9 ; out 0xe9, eax
        83 c8 02 ; or eax, 2
        0f 30 ; wrmsr
        ",
        "out d01, #13(0) at c cs 18",
    );
    check(
        Long,
        "
        b9 00 01 00 c0 ; mov ecx, 0xc0000100
        b8 00 80 00 00 ; mov eax, 0x8000
        31 d2 ; xor edx, edx
        0f 30 ; wrmsr
        64 8a 04 25 00 00 00 00 ; mov al, [fs:0]
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out b9, halt",
    );
    check(
        Long,
        "
        b9 01 01 00 c0 ; mov ecx, 0xc0000101
        b8 00 00 00 00 ; mov eax, 0
        ba 00 80 00 00 ; mov edx, 0x8000
        0f 30 ; wrmsr
        ",
        "#13(0) at f cs 18",
    );
    check(
        Long,
        "
        b9 82 00 00 c0 ; mov ecx, 0xc0000082
        b8 00 00 00 00 ; mov eax, 0
        ba 00 80 00 00 ; mov edx, 0x8000
        0f 30 ; wrmsr
        ",
        "#13(0) at f cs 18",
    );
    check(
        Long,
        "
        b9 77 02 00 00 ; mov ecx, 0x277
        b8 02 00 00 00 ; mov eax, 2
        31 d2 ; xor edx, edx
        0f 30 ; wrmsr
        ",
        "#13(0) at c cs 18",
    );
    check(
        Long,
        "
        b9 77 02 00 00 ; mov ecx, 0x277
        0f 32 ; rdmsr
        e7 e9 ; out 0xe9, eax
        b9 ff 02 00 00 ; mov ecx, 0x2ff
        0f 32 ; rdmsr
        e7 e9 ; out 0xe9, eax
        b9 fe 00 00 00 ; mov ecx, 0xfe
        0f 32 ; rdmsr
        e7 e9 ; out 0xe9, eax
        b9 00 02 00 00 ; mov ecx, 0x200
        b8 06 00 00 00 ; mov eax, 6
        31 d2 ; xor edx, edx
        0f 30 ; wrmsr
        0f 32 ; rdmsr
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 70406 c06 508 6, halt",
    );
    check(
        Long,
        "
        b9 1b 00 00 00 ; mov ecx, 0x1b
        0f 32 ; rdmsr
        e7 e9 ; out 0xe9, eax
        0d 00 04 00 00 ; or eax, 0x400
        0f 30 ; wrmsr
        b9 02 08 00 00 ; mov ecx, 0x802
        0f 32 ; rdmsr
        e7 e9 ; out 0xe9, eax
        b9 03 08 00 00 ; mov ecx, 0x803
        0f 30 ; wrmsr
        ",
        "out fee00900 0, #13(0) at 1e cs 18",
    );
    check(
        Long,
        "
        b9 02 08 00 00 ; mov ecx, 0x802
        0f 32 ; rdmsr
        ",
        "#13(0) at 5 cs 18",
    );
    check(
        Long,
        "
        b9 10 00 00 00 ; mov ecx, 0x10
        31 c0 ; xor eax, eax
        31 d2 ; xor edx, edx
        0f 30 ; wrmsr
        0f 31 ; rdtsc
        c1 e8 10 ; shr eax, 16
        e7 e9 ; out 0xe9, eax
        b9 03 01 00 c0 ; mov ecx, 0xc0000103
        b8 77 00 00 00 ; mov eax, 0x77
        0f 30 ; wrmsr
        0f 01 f9 ; rdtscp
        89 c8 ; mov eax, ecx
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 0 77, halt",
    );
    check(
        Long,
        "
        b9 3b 00 00 00 ; mov ecx, 0x3b
        0f 32 ; rdmsr
        e7 e9 ; out 0xe9, eax
        b8 00 00 00 00 ; mov eax, 0
        ba 01 00 00 00 ; mov edx, 1
        0f 30 ; wrmsr
        0f 31 ; rdtsc
        89 d0 ; mov eax, edx
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 0 1, halt",
    );
}
