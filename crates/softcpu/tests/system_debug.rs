//! External interrupts, their shadows, single step and breakpoints: SDM vol. 3A, 6.8; vol. 3B, chapter 18.

mod system_kit;

use system_kit::{Mode::*, check};

#[test]
fn external_interrupts() {
    check(
        Protected,
        "
        b0 21 ; mov al, 0x21
        e6 50 ; out 0x50, al
        fb ; sti
        90 ; nop
        90 ; nop
        f4 ; hlt
        ",
        "#33 at 6 cs 8",
    );
    check(
        Protected,
        "
        b0 21 ; mov al, 0x21
        e6 50 ; out 0x50, al
        fb ; sti
        f4 ; hlt
        ",
        "#33 at 6 cs 8",
    );
    check(
        Protected,
        "
        b0 21 ; mov al, 0x21
        e6 50 ; out 0x50, al
        f4 ; hlt
        ",
        "halt",
    );
    check(
        Protected,
        "
        b0 21 ; mov al, 0x21
        e6 50 ; out 0x50, al
        fb ; sti
        fa ; cli
        f4 ; hlt
        ",
        "halt",
    );
    check(
        Protected,
        "
        b0 21 ; mov al, 0x21
        e6 50 ; out 0x50, al
        68 02 02 00 00 ; push 0x202
        9d ; popf
        90 ; nop
        f4 ; hlt
        ",
        "#33 at a cs 8",
    );
    check(
        Protected,
        "
        b0 21 ; mov al, 0x21
        e6 50 ; out 0x50, al
        66 8c d0 ; mov ax, ss
        68 02 02 00 00 ; push 0x202
        9d ; popf
        f4 ; hlt
        ",
        "#33 at d cs 8",
    );
    check(
        Protected,
        "
        e6 51 ; out 0x51, al
        e9 00 00 00 00 ; jmp n
        f4 ; n: hlt
        ",
        "#2 at 7 cs 8",
    );
    check(
        Protected,
        "
        66 c7 05 10 20 00 00 12 80 ; mov word [0x2010], t
        e6 51 ; out 0x51, al
        e9 00 00 00 00 ; jmp n
        90 ; n: nop
        f4 ; hlt
        e6 51 ; t: out 0x51, al
        e9 00 00 00 00 ; jmp m
        b0 07 ; m: mov al, 7
        e6 e9 ; out 0xe9, al
        66 c7 05 10 20 00 00 27 80 ; mov word [0x2010], u
        cf ; iret
        b0 08 ; u: mov al, 8
        e6 e9 ; out 0xe9, al
        8b 04 24 ; mov eax, [esp]
        66 e7 e9 ; out 0xe9, ax
        f4 ; hlt
        ",
        "out 7 8 8010, halt",
    );
    check(
        Protected,
        "
        8c d0 ; mov eax, ss
        e6 51 ; out 0x51, al
        66 8e d0 ; mov ss, ax
        90 ; nop
        90 ; nop
        ",
        "#2 at 8 cs 8",
    );
    check(
        Real,
        "
        b0 21 ; mov al, 0x21
        e6 50 ; out 0x50, al
        fb ; sti
        90 ; nop
        90 ; nop
        f4 ; hlt
        ",
        "#33 at 6 cs 0",
    );
    check(
        LongUser,
        "
        0f 0b ; ud2
        ",
        "#6 at 0 cs 5b",
    );
    check(
        Long,
        "
        b0 21 ; mov al, 0x21
        e6 50 ; out 0x50, al
        fb ; sti
        f4 ; hlt
        ",
        "#33 at 6 cs 18",
    );
    check(
        Protected,
        "
        e6 52 ; out 0x52, al
        e9 00 00 00 00 ; jmp n
        f4 ; n: hlt
        ",
        "Interrupted",
    );
}

#[test]
fn single_step() {
    check(
        Protected,
        "
        9c ; pushf
        81 0c 24 00 01 00 00 ; or dword [esp], 0x100
        9d ; popf
        90 ; nop
        90 ; nop
        ",
        "#1 at a cs 8",
    );
    check(
        Protected,
        "
        66 c7 05 08 20 00 00 13 80 ; mov word [0x2008], t
        9c ; pushf
        81 0c 24 00 01 00 00 ; or dword [esp], 0x100
        9d ; popf
        90 ; nop
        0f 21 f0 ; t: mov eax, dr6
        e7 e9 ; out 0xe9, eax
        9c ; pushf
        58 ; pop eax
        66 e7 e9 ; out 0xe9, ax
        f4 ; hlt
        ",
        "out ffff4ff0 2, halt",
    );
    check(
        Protected,
        "
        68 02 01 00 00 ; push 0x102
        6a 08 ; push 8
        68 0d 80 00 00 ; push n
        cf ; iret
        90 ; n: nop
        90 ; nop
        ",
        "#1 at e cs 8",
    );
    check(
        Protected,
        "
        8c d0 ; mov eax, ss
        68 02 01 00 00 ; push 0x102
        9d ; popf
        66 8e d0 ; mov ss, ax
        90 ; nop
        90 ; nop
        ",
        "#1 at c cs 8",
    );
    check(
        Protected,
        "
        68 02 01 00 00 ; push 0x102
        9d ; popf
        cd 30 ; int 0x30
        ",
        "#48 at 8 cs 8",
    );
    check(
        Protected,
        "
        b9 02 00 00 00 ; mov ecx, 2
        bf 00 61 00 00 ; mov edi, 0x6100
        68 02 01 00 00 ; push 0x102
        9d ; popf
        f3 aa ; rep stosb
        ",
        "#1 at 10 cs 8",
    );
    check(
        Long,
        "
        68 02 01 00 00 ; push 0x102
        9d ; popf
        0f 0b ; ud2
        ",
        "#6 at 6 cs 18",
    );
    check(
        Real,
        "
        68 02 01 ; push 0x102
        9d ; popf
        90 ; nop
        90 ; nop
        ",
        "#1 at 5 cs 0",
    );
    check(
        LongUser,
        "
        9c ; pushf
        81 0c 24 00 01 00 00 ; or dword [rsp], 0x100
        9d ; popf
        90 ; nop
        90 ; nop
        ",
        "#1 at a cs 5b",
    );
}

#[test]
fn breakpoints() {
    check(
        Protected,
        "
        b8 11 80 00 00 ; mov eax, n
        0f 23 c0 ; mov dr0, eax
        b8 01 00 00 00 ; mov eax, 1
        0f 23 f8 ; mov dr7, eax
        90 ; nop
        90 ; n: nop
        f4 ; hlt
        ",
        "#1 at 11 cs 8",
    );
    check(
        Protected,
        "
        b8 1a 80 00 00 ; mov eax, n
        0f 23 d8 ; mov dr3, eax
        b8 80 00 00 00 ; mov eax, 0x80
        0f 23 f8 ; mov dr7, eax
        66 c7 05 08 20 00 00 1c 80 ; mov word [0x2008], t
        90 ; nop
        90 ; n: nop
        f4 ; hlt
        0f 21 f0 ; t: mov eax, dr6
        e7 e9 ; out 0xe9, eax
        81 4c 24 08 00 00 01 00 ; or dword [esp + 8], 0x10000
        cf ; iret
        ",
        "out ffff0ff8, halt",
    );
    check(
        Protected,
        "
        b8 02 61 00 00 ; mov eax, 0x6102
        0f 23 c8 ; mov dr1, eax
        b8 04 00 50 00 ; mov eax, 0x00500004
        0f 23 f8 ; mov dr7, eax
        a0 02 61 00 00 ; mov al, [0x6102]
        a2 01 61 00 00 ; mov [0x6101], al
        a2 03 61 00 00 ; mov [0x6103], al
        90 ; nop
        ",
        "#1 at 1f cs 8",
    );
    check(
        Protected,
        "
        b8 00 61 00 00 ; mov eax, 0x6100
        0f 23 c0 ; mov dr0, eax
        b8 01 00 0f 00 ; mov eax, 0x000f0001
        0f 23 f8 ; mov dr7, eax
        a0 ff 60 00 00 ; mov al, [0x60ff]
        66 a1 ff 60 00 00 ; mov ax, [0x60ff]
        90 ; nop
        ",
        "#1 at 1b cs 8",
    );
    check(
        Protected,
        "
        b8 08 00 00 00 ; mov eax, 8
        0f 22 e0 ; mov cr4, eax
        b8 e9 00 00 00 ; mov eax, 0xe9
        0f 23 d0 ; mov dr2, eax
        b8 10 00 00 02 ; mov eax, 0x02000010
        0f 23 f8 ; mov dr7, eax
        e6 e8 ; out 0xe8, al
        e6 e9 ; out 0xe9, al
        90 ; nop
        ",
        "out 10 10, #1 at 1c cs 8",
    );
    check(
        Protected,
        "
        b8 00 20 00 00 ; mov eax, 0x2000
        0f 23 f8 ; mov dr7, eax
        0f 21 c0 ; mov eax, dr0
        ",
        "#1 at 8 cs 8",
    );
    check(
        Protected,
        "
        b8 08 00 00 00 ; mov eax, 8
        0f 22 e0 ; mov cr4, eax
        0f 21 e0 ; mov eax, dr4
        ",
        "#6 at 8 cs 8",
    );
    check(
        Protected,
        "
        0f 21 e0 ; mov eax, dr4
        e7 e9 ; out 0xe9, eax
        0f 21 e8 ; mov eax, dr5
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out ffff0ff0 400, halt",
    );
    check(
        Protected,
        "
        b8 ff ff ff ff ; mov eax, -1
        0f 23 f0 ; mov dr6, eax
        0f 21 f0 ; mov eax, dr6
        e7 e9 ; out 0xe9, eax
        b8 00 dc 00 00 ; mov eax, 0xdc00
        0f 23 f8 ; mov dr7, eax
        0f 21 f8 ; mov eax, dr7
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out ffffefff 400, halt",
    );
    check(
        Long,
        "
        48 b8 00 00 00 00 01 00 00 00 ; mov rax, 0x100000000
        0f 23 f8 ; mov dr7, rax
        ",
        "#13(0) at a cs 18",
    );
}
