//! Software interrupts, exceptions and their frames: SDM vol. 3A, chapter 6.

mod system_kit;

use system_kit::{Mode::*, check};

#[test]
fn software_interrupts() {
    check(
        Protected,
        "
        cd 30 ; int 0x30
        ",
        "#48 at 2 cs 8",
    );
    check(
        User,
        "
        cd 30 ; int 0x30
        ",
        "#48 at 2 cs 4b",
    );
    check(
        User,
        "
        cd 31 ; int 0x31
        ",
        "#49 at 2 cs 4b",
    );
    check(
        User,
        "
        cd 20 ; int 0x20
        ",
        "#13(102) at 0 cs 4b",
    );
    check(
        User,
        "
        cd 33 ; int 0x33
        ",
        "#11(19a) at 0 cs 4b",
    );
    check(
        Protected,
        "
        cd 33 ; int 0x33
        ",
        "#11(19a) at 0 cs 8",
    );
    check(
        Protected,
        "
        cd 34 ; int 0x34
        ",
        "#13(0) at 0 cs 8",
    );
    check(
        Protected,
        "
        cd 35 ; int 0x35
        ",
        "#13(10) at 0 cs 8",
    );
    check(
        Protected,
        "
        cd 39 ; int 0x39
        ",
        "#11(60) at 0 cs 8",
    );
    check(
        Protected,
        "
        cd 3a ; int 0x3a
        ",
        "#13(48) at 0 cs 8",
    );
    check(
        Protected,
        "
        cd 3b ; int 0x3b
        ",
        "#13(200) at 0 cs 8",
    );
    check(
        Protected,
        "
        cd 3c ; int 0x3c
        ",
        "#13(1e2) at 0 cs 8",
    );
    check(
        User,
        "
        cc ; int3
        ",
        "#3 at 1 cs 4b",
    );
    check(
        User,
        "
        b0 7f ; mov al, 0x7f
        04 01 ; add al, 1
        ce ; into
        ",
        "#4 at 5 cs 4b",
    );
    check(
        User,
        "
        31 c0 ; xor eax, eax
        ce ; into
        f1 ; int1
        ",
        "#1 at 4 cs 4b",
    );
    check(
        User,
        "
        b8 05 00 00 00 ; mov eax, 5
        62 05 0b 80 00 00 ; bound eax, [0x8000 + p - $$]
        06 00 00 00 07 00 00 00 ; p: dd 6, 7
        ",
        "#5 at 5 cs 4b",
    );
    check(
        User,
        "
        b8 07 00 00 00 ; mov eax, 7
        62 05 0d 80 00 00 ; bound eax, [0x8000 + p - $$]
        0f 0b ; ud2
        06 00 00 00 07 00 00 00 ; p: dd 6, 7
        ",
        "#6 at b cs 4b",
    );
    check(
        Real,
        "
        cd 30 ; int 0x30
        ",
        "#48 at 2 cs 0",
    );
    check(
        Virtual,
        "
        cd 30 ; int 0x30
        ",
        "#13(0) at 0 cs 0",
    );
    check(
        VirtualIo,
        "
        cd 30 ; int 0x30
        ",
        "#48 at 2 cs 0",
    );
    check(
        VirtualIo,
        "
        cd 20 ; int 0x20
        ",
        "#13(102) at 0 cs 0",
    );
    check(
        VirtualIo,
        "
        cd 37 ; int 0x37
        ",
        "#13(70) at 0 cs 0",
    );
    check(
        Virtual,
        "
        cc ; int3
        ",
        "#3 at 1 cs 0",
    );
    check(
        Long,
        "
        cd 30 ; int 0x30
        ",
        "#48 at 2 cs 18",
    );
    check(
        Long,
        "
        cd 32 ; int 0x32
        ",
        "#13(192) at 0 cs 18",
    );
    check(
        Long,
        "
        cd 36 ; int 0x36
        ",
        "#13(1b2) at 0 cs 18",
    );
    check(
        Long,
        "
        cd 37 ; int 0x37
        ",
        "#13(70) at 0 cs 18",
    );
    check(
        LongUser,
        "
        cd 30 ; int 0x30
        ",
        "#48 at 2 cs 5b",
    );
    check(
        LongUser,
        "
        cd 20 ; int 0x20
        ",
        "#13(102) at 0 cs 5b",
    );
    check(
        Compatible,
        "
        cd 30 ; int 0x30
        ",
        "#48 at 2 cs 4b",
    );
}

#[test]
fn frames() {
    check(
        User,
        "
        66 c7 05 80 21 00 00 10 80 ; mov word [0x2180], t
        bc f0 77 00 00 ; mov esp, 0x77f0
        cd 30 ; int 0x30
        89 e0 ; t: mov eax, esp
        e7 e9 ; out 0xe9, eax
        8c d0 ; mov eax, ss
        e6 e9 ; out 0xe9, al
        8b 44 24 0c ; mov eax, [esp + 12]
        e7 e9 ; out 0xe9, eax
        8b 44 24 10 ; mov eax, [esp + 16]
        e6 e9 ; out 0xe9, al
        9c ; pushf
        58 ; pop eax
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 6eec 10 77f0 53 2, halt",
    );
    check(
        User,
        "
        66 c7 05 88 21 00 00 0b 80 ; mov word [0x2188], t
        cd 31 ; int 0x31
        9c ; t: pushf
        58 ; pop eax
        e7 e9 ; out 0xe9, eax
        fa ; cli
        f4 ; hlt
        ",
        "out 202, halt",
    );
    check(
        Protected,
        "
        66 c7 05 b0 21 00 00 0e 80 ; mov word [0x21b0], t
        89 e0 ; mov eax, esp
        cd 36 ; int 0x36
        90 ; nop
        29 e0 ; t: sub eax, esp
        e7 e9 ; out 0xe9, eax
        66 8b 04 24 ; mov ax, [esp]
        66 e7 e9 ; out 0xe9, ax
        66 8b 44 24 02 ; mov ax, [esp + 2]
        66 e7 e9 ; out 0xe9, ax
        f4 ; hlt
        ",
        "out 6 800d 8, halt",
    );
    check(
        Long,
        "
        66 c7 04 25 80 23 00 00 0c 80 ; mov word [0x2380], t
        cd 38 ; int 0x38
        89 e0 ; t: mov eax, esp
        e7 e9 ; out 0xe9, eax
        8c d0 ; mov eax, ss
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 6bd8 0, halt",
    );
    check(
        Long,
        "
        66 c7 04 25 00 23 00 00 11 80 ; mov word [0x2300], t
        bc 0b 6f 00 00 ; mov esp, 0x6f0b
        cd 30 ; int 0x30
        89 e0 ; t: mov eax, esp
        e7 e9 ; out 0xe9, eax
        48 8b 44 24 18 ; mov rax, [rsp + 24]
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 6ed8 6f0b, halt",
    );
    check(
        LongUser,
        "
        66 c7 04 25 00 23 00 00 0c 80 ; mov word [0x2300], t
        cd 30 ; int 0x30
        89 e0 ; t: mov eax, esp
        e7 e9 ; out 0xe9, eax
        8c d0 ; mov eax, ss
        e7 e9 ; out 0xe9, eax
        48 8b 44 24 20 ; mov rax, [rsp + 32]
        e7 e9 ; out 0xe9, eax
        48 cf ; iretq
        ",
        "out 6ed8 0 53, #13(0) at e cs 5b",
    );
    check(
        VirtualIo,
        "
        c7 06 80 21 0d 80 ; mov word [0x2180], t
        b8 23 01 ; mov ax, 0x123
        8e e0 ; mov fs, ax
        cd 30 ; int 0x30
        89 e0 ; t: mov eax, esp
        e7 e9 ; out 0xe9, eax
        8b 44 24 1c ; mov eax, [esp + 28]
        e7 e9 ; out 0xe9, eax
        8c d8 ; mov eax, ds
        e6 e9 ; out 0xe9, al
        8b 44 24 08 ; mov eax, [esp + 8]
        e7 e9 ; out 0xe9, eax
        cf ; iretd
        ",
        "out 6edc 123 0 23202, #13(0) at f cs 0",
    );
}

#[test]
fn exceptions() {
    check(
        Protected,
        "
        0f 0b ; ud2
        ",
        "#6 at 0 cs 8",
    );
    check(
        Protected,
        "
        31 c9 ; xor ecx, ecx
        f7 f1 ; div ecx
        ",
        "#0 at 2 cs 8",
    );
    check(
        User,
        "
        f4 ; hlt
        ",
        "#13(0) at 0 cs 4b",
    );
    check(
        User,
        "
        fa ; cli
        ",
        "#13(0) at 0 cs 4b",
    );
    check(
        User,
        "
        0f 20 c0 ; mov eax, cr0
        ",
        "#13(0) at 0 cs 4b",
    );
    check(
        User,
        "
        0f 01 3d 00 00 00 00 ; invlpg [0]
        ",
        "#13(0) at 0 cs 4b",
    );
    check(
        User,
        "
        0f 09 ; wbinvd
        ",
        "#13(0) at 0 cs 4b",
    );
    check(
        User,
        "
        0f 06 ; clts
        ",
        "#13(0) at 0 cs 4b",
    );
    check(
        User,
        "
        0f 01 15 f0 07 00 00 ; lgdt [0x7f0]
        ",
        "#13(0) at 0 cs 4b",
    );
    check(
        User,
        "
        0f 32 ; rdmsr
        ",
        "#13(0) at 0 cs 4b",
    );
    check(
        User,
        "
        0f 21 c0 ; mov eax, dr0
        ",
        "#13(0) at 0 cs 4b",
    );
    check(
        Paged,
        "
        a0 00 00 1f 00 ; mov al, [0x1f0000]
        ",
        "#14(0) at 0 cs 8",
    );
    check(
        Paged,
        "
        a2 00 10 1f 00 ; mov [0x1f1000], al
        ",
        "#14(3) at 0 cs 8",
    );
    check(
        Paged,
        "
        0f 20 c0 ; mov eax, cr0
        25 ff ff fe ff ; and eax, 0xfffeffff
        0f 22 c0 ; mov cr0, eax
        a2 00 10 1f 00 ; mov [0x1f1000], al
        f4 ; hlt
        ",
        "halt",
    );
    check(
        Paged,
        "
        a3 fe 0f 1f 00 ; mov [0x1f0ffe], eax
        ",
        "#14(2) at 0 cs 8",
    );
    check(
        LongUser,
        "
        8a 04 25 00 00 1f 00 ; mov al, [0x1f0000]
        ",
        "#14(4) at 0 cs 5b",
    );
    check(
        LongUser,
        "
        8a 04 25 00 20 1f 00 ; mov al, [0x1f2000]
        ",
        "#14(5) at 0 cs 5b",
    );
    check(
        LongUser,
        "
        88 04 25 00 10 1f 00 ; mov [0x1f1000], al
        ",
        "#14(7) at 0 cs 5b",
    );
    check(
        LongUser,
        "
        b8 00 30 1f 00 ; mov eax, 0x1f3000
        ff e0 ; jmp rax
        ",
        "#14(15) at 1f3000 absolute cs 5b",
    );
    check(
        LongUser,
        "
        48 b8 00 00 00 00 00 80 00 00 ; mov rax, 0x800000000000
        8a 00 ; mov al, [rax]
        ",
        "#13(0) at a cs 5b",
    );
    check(
        LongUser,
        "
        48 bd 00 00 00 00 00 80 00 00 ; mov rbp, 0x800000000000
        8a 45 00 ; mov al, [rbp]
        ",
        "#12(0) at a cs 5b",
    );
    check(
        Long,
        "
        48 b8 00 00 00 00 00 80 00 00 ; mov rax, 0x800000000000
        ff e0 ; jmp rax
        ",
        "#13(0) at a cs 18",
    );
    check(
        Long,
        "
        66 c7 04 25 e0 20 00 00 11 80 ; mov word [0x20e0], t
        8a 04 25 23 01 1f 00 ; mov al, [0x1f0123]
        0f 20 d0 ; t: mov rax, cr2
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 1f0123, halt",
    );
}

#[test]
fn faults_in_delivery() {
    check(
        Protected,
        "
        80 25 6d 20 00 00 7f ; and byte [0x206d], 0x7f
        66 b8 00 02 ; mov ax, 0x200
        66 8e d8 ; mov ds, ax
        ",
        "#8(0) at b cs 8",
    );
    check(
        Protected,
        "
        80 25 35 20 00 00 7f ; and byte [0x2035], 0x7f
        0f 0b ; ud2
        ",
        "#11(33) at 7 cs 8",
    );
    check(
        Protected,
        "
        80 25 6d 20 00 00 7f ; and byte [0x206d], 0x7f
        80 25 45 20 00 00 7f ; and byte [0x2045], 0x7f
        66 b8 00 02 ; mov ax, 0x200
        66 8e d8 ; mov ds, ax
        ",
        "shutdown",
    );
    check(
        Paged,
        "
        80 25 75 20 00 00 7f ; and byte [0x2075], 0x7f
        a0 00 00 1f 00 ; mov al, [0x1f0000]
        ",
        "#8(0) at 7 cs 8",
    );
    check(
        Paged,
        "
        bc 00 10 1f 00 ; mov esp, 0x1f1000
        0f 0b ; ud2
        ",
        "shutdown",
    );
    check(
        Long,
        "
        c6 04 25 84 20 00 00 01 ; mov byte [0x2084], 1
        bc 00 10 1f 00 ; mov esp, 0x1f1000
        0f 0b ; ud2
        ",
        "#8(0) at d cs 18",
    );
    check(
        Long,
        "
        48 bc 00 00 00 00 00 90 00 00 ; mov rsp, 0x900000000000
        c6 04 25 c4 20 00 00 01 ; mov byte [0x20c4], 1
        0f 0b ; ud2
        ",
        "#12(1) at 12 cs 18",
    );
    check(
        Real,
        "
        2e 0f 01 1e 08 80 ; lidt [cs:0x8000 + p - $$]
        cd 30 ; int 0x30
        23 00 ; p: dw 0x23
        00 00 00 00 ; dd 0
        ",
        "#8 at 6 cs 0",
    );
    check(
        Protected,
        "
        0f 01 1d 09 80 00 00 ; lidt [0x8000 + p - $$]
        cd 30 ; int 0x30
        7f 00 ; p: dw 0x7f
        00 20 00 00 ; dd 0x2000
        ",
        "#13(182) at 7 cs 8",
    );
    check(
        Protected,
        "
        0f 01 1d 08 80 00 00 ; lidt [0x8000 + p - $$]
        cc ; int3
        00 00 ; p: dw 0
        00 20 00 00 ; dd 0x2000
        ",
        "shutdown",
    );
}
