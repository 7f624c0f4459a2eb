//! Far transfers, gates, returns and task switches: SDM vol. 3A, 5.8, 6.12 and chapter 7.

mod system_kit;

use system_kit::{Mode::*, check};

#[test]
fn far_jumps() {
    check(
        Protected,
        "
        ea 07 80 00 00 08 00 ; jmp 8:n
        f4 ; n: hlt
        ",
        "halt",
    );
    check(
        Protected,
        "
        ea 07 80 00 00 0b 00 ; jmp 0x0b:n
        f4 ; n: hlt
        ",
        "#13(8) at 0 cs 8",
    );
    check(
        Protected,
        "
        ea 07 80 00 00 00 00 ; jmp 0:n
        f4 ; n: hlt
        ",
        "#13(0) at 0 cs 8",
    );
    check(
        Protected,
        "
        ea 07 80 00 00 10 00 ; jmp 0x10:n
        f4 ; n: hlt
        ",
        "#13(10) at 0 cs 8",
    );
    check(
        Protected,
        "
        ea 07 80 00 00 48 00 ; jmp 0x48:n
        f4 ; n: hlt
        ",
        "#13(48) at 0 cs 8",
    );
    check(
        Protected,
        "
        ea 07 80 00 00 60 00 ; jmp 0x60:n
        f4 ; n: hlt
        ",
        "#11(60) at 0 cs 8",
    );
    check(
        Protected,
        "
        ea 07 80 00 00 d8 00 ; jmp 0xd8:n
        f4 ; n: hlt
        ",
        "#13(d8) at 0 cs 8",
    );
    check(
        Protected,
        "
        ea 07 80 00 00 e0 00 ; jmp 0xe0:n
        f4 ; n: hlt
        ",
        "#13(0) at 0 cs 8",
    );
    check(
        Protected,
        "
        ea 07 80 00 00 08 02 ; jmp 0x208:n
        f4 ; n: hlt
        ",
        "#13(208) at 0 cs 8",
    );
    check(
        User,
        "
        ea 07 80 00 00 70 00 ; jmp 0x70:n
        8c c8 ; n: mov eax, cs
        e6 e9 ; out 0xe9, al
        0f 0b ; ud2
        ",
        "out 73, #6 at b cs 73",
    );
    check(
        User,
        "
        ea 07 80 00 00 08 00 ; jmp 8:n
        f4 ; n: hlt
        ",
        "#13(8) at 0 cs 4b",
    );
    check(
        Protected,
        "
        ea 07 80 00 00 20 00 ; jmp 0x20:n
        66 8c c8 ; n: mov eax, cs
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 20, halt",
    );
    check(
        Protected,
        "
        ff 2d 06 80 00 00 ; jmp far [0x8000 + p - $$]
        0c 80 00 00 ; p: dd n
        08 00 ; dw 8
        f4 ; n: hlt
        ",
        "halt",
    );
    check(
        Real,
        "
        ea 0f 10 00 07 ; jmp 0x700:0x100f
        90 ; nop
        90 ; nop
        90 ; nop
        90 ; nop
        90 ; nop
        90 ; nop
        90 ; nop
        90 ; nop
        90 ; nop
        90 ; nop
        8c c8 ; mov ax, cs
        e7 e9 ; out 0xe9, ax
        f4 ; hlt
        ",
        "out 700, halt",
    );
    check(
        Long,
        "
        48 b8 0c 80 00 00 00 00 00 00 ; mov rax, p
        ff 28 ; db 0xff, 0x28
        12 80 00 00 ; p: dd n
        18 00 ; dw 0x18
        f4 ; n: hlt
        ",
        "halt",
    );
    check(
        Long,
        "
        48 b8 0c 80 00 00 00 00 00 00 ; mov rax, p
        ff 28 ; db 0xff, 0x28
        12 80 00 00 ; p: dd n
        08 00 ; dw 8
        8c c8 ; n: mov eax, cs
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 8, halt",
    );
    check(
        Long,
        "
        48 b8 0c 80 00 00 00 00 00 00 ; mov rax, p
        ff 28 ; db 0xff, 0x28
        12 80 00 00 ; p: dd n
        00 01 ; dw 0x100
        f4 ; n: hlt
        ",
        "#13(100) at a cs 18",
    );
    check(
        Long,
        "
        48 b8 0c 80 00 00 00 00 00 00 ; mov rax, p
        ff 28 ; db 0xff, 0x28
        12 80 00 00 ; p: dd n
        a0 00 ; dw 0xa0
        f4 ; n: hlt
        ",
        "#13(a0) at a cs 18",
    );
}

#[test]
fn call_gates() {
    check(
        Protected,
        "
        9a 00 00 00 00 98 00 ; call 0x98:0
        ",
        "out 8, halt",
    );
    check(
        Protected,
        "
        ea 00 00 00 00 98 00 ; jmp 0x98:0
        ",
        "out 8, halt",
    );
    check(
        User,
        "
        9a 00 00 00 00 98 00 ; call 0x98:0
        ",
        "out 8, halt",
    );
    check(
        User,
        "
        9a 00 00 00 00 9b 00 ; call 0x9b:0
        ",
        "out 8, halt",
    );
    check(
        User,
        "
        ea 00 00 00 00 98 00 ; jmp 0x98:0
        ",
        "#13(8) at 0 cs 4b",
    );
    check(
        User,
        "
        66 c7 05 98 10 00 00 16 80 ; mov word [0x1098], t
        6a 77 ; push 0x77
        9a 00 00 00 00 98 00 ; call 0x98:0
        e6 e9 ; r: out 0xe9, al
        0f 0b ; ud2
        8b 44 24 08 ; t: mov eax, [esp + 8]
        e6 e9 ; out 0xe9, al
        89 e0 ; mov eax, esp
        e7 e9 ; out 0xe9, eax
        8b 44 24 0c ; mov eax, [esp + 12]
        e7 e9 ; out 0xe9, eax
        b0 05 ; mov al, 5
        ca 04 00 ; retf 4
        ",
        "out 77 6eec 77fc 5, #6 at 14 cs 4b",
    );
    check(
        User,
        "
        c6 05 9d 10 00 00 6c ; mov byte [0x109d], 0x6c
        9a 00 00 00 00 98 00 ; call 0x98:0
        ",
        "#11(98) at 7 cs 4b",
    );
    check(
        User,
        "
        c6 05 9d 10 00 00 8c ; mov byte [0x109d], 0x8c
        9a 00 00 00 00 98 00 ; call 0x98:0
        ",
        "#13(98) at 7 cs 4b",
    );
    check(
        User,
        "
        66 c7 05 9a 10 00 00 10 00 ; mov word [0x109a], 0x10
        9a 00 00 00 00 98 00 ; call 0x98:0
        ",
        "#13(10) at 9 cs 4b",
    );
    check(
        User,
        "
        66 c7 05 08 30 00 00 50 00 ; mov word [0x3008], 0x50
        9a 00 00 00 00 98 00 ; call 0x98:0
        ",
        "shutdown",
    );
    check(
        User,
        "
        66 c7 05 08 30 00 00 68 00 ; mov word [0x3008], 0x68
        9a 00 00 00 00 98 00 ; call 0x98:0
        ",
        "shutdown",
    );
    check(
        LongUser,
        "
        48 b8 0c 80 00 00 00 00 00 00 ; mov rax, p
        ff 18 ; db 0xff, 0x18
        00 00 00 00 ; p: dd 0
        b8 00 ; dw 0xb8
        ",
        "out 18, halt",
    );
    check(
        LongUser,
        "
        48 b8 18 80 00 00 00 00 00 00 ; mov rax, p
        66 c7 04 25 b8 10 00 00 1e 80 ; mov word [0x10b8], t
        ff 18 ; db 0xff, 0x18
        0f 0b ; ud2
        00 00 00 00 ; p: dd 0
        b8 00 ; dw 0xb8
        89 e0 ; t: mov eax, esp
        e7 e9 ; out 0xe9, eax
        8c d0 ; mov eax, ss
        e6 e9 ; out 0xe9, al
        48 cb ; o64 retf
        ",
        "out 6ee0 0, #6 at 16 cs 5b",
    );
    check(
        Long,
        "
        48 b8 0c 80 00 00 00 00 00 00 ; mov rax, p
        ff 18 ; db 0xff, 0x18
        00 00 00 00 ; p: dd 0
        98 00 ; dw 0x98
        ",
        "#13(98) at a cs 18",
    );
}

#[test]
fn far_calls_and_returns() {
    check(
        Protected,
        "
        9a 08 80 00 00 08 00 ; call 8:t
        f4 ; hlt
        8b 44 24 04 ; t: mov eax, [esp + 4]
        e6 e9 ; out 0xe9, al
        cb ; retf
        ",
        "out 8, halt",
    );
    check(
        Protected,
        "
        6a 50 ; push 0x50
        68 08 80 00 00 ; push n
        cb ; retf
        f4 ; n: hlt
        ",
        "#13(50) at 7 cs 8",
    );
    check(
        Protected,
        "
        6a 48 ; push 0x48
        68 08 80 00 00 ; push n
        cb ; retf
        f4 ; n: hlt
        ",
        "#13(48) at 7 cs 8",
    );
    check(
        Protected,
        "
        6a 53 ; push 0x53
        68 00 77 00 00 ; push 0x7700
        6a 4b ; push 0x4b
        68 0f 80 00 00 ; push n
        cb ; retf
        89 e0 ; n: mov eax, esp
        66 e7 e9 ; out 0xe9, ax
        0f 0b ; ud2
        ",
        "#13(0) at 11 cs 4b",
    );
    check(
        Protected,
        "
        6a 53 ; push 0x53
        68 00 77 00 00 ; push 0x7700
        6a 4b ; push 0x4b
        68 0f 80 00 00 ; push n
        cb ; retf
        0f 0b ; n: ud2
        ",
        "#6 at f cs 4b",
    );
    check(
        Protected,
        "
        6a 13 ; push 0x13
        68 00 77 00 00 ; push 0x7700
        6a 4b ; push 0x4b
        68 0f 80 00 00 ; push n
        cb ; retf
        0f 0b ; n: ud2
        ",
        "#13(10) at e cs 8",
    );
    check(
        User,
        "
        6a 08 ; push 8
        68 08 80 00 00 ; push n
        cb ; retf
        0f 0b ; n: ud2
        ",
        "#13(8) at 7 cs 4b",
    );
    check(
        Real,
        "
        9a 08 10 00 07 ; call 0x700:0x1008
        f4 ; hlt
        90 ; nop
        90 ; nop
        8c c8 ; mov ax, cs
        e7 e9 ; out 0xe9, ax
        cb ; retf
        ",
        "out 700, halt",
    );
    check(
        Long,
        "
        6a 53 ; push 0x53
        68 00 77 00 00 ; push 0x7700
        6a 5b ; push 0x5b
        68 10 80 00 00 ; push n
        48 cb ; o64 retf
        0f 0b ; n: ud2
        ",
        "#6 at 10 cs 5b",
    );
    check(
        Long,
        "
        6a 53 ; push 0x53
        68 00 77 00 00 ; push 0x7700
        6a 4b ; push 0x4b
        68 10 80 00 00 ; push n
        48 cb ; o64 retf
        0f 0b ; n: ud2
        ",
        "#6 at 10 cs 4b",
    );
    check(
        Long,
        "
        6a 00 ; push 0
        68 00 77 00 00 ; push 0x7700
        6a 5b ; push 0x5b
        68 10 80 00 00 ; push n
        48 cb ; o64 retf
        0f 0b ; n: ud2
        ",
        "#13(0) at e cs 18",
    );
}

#[test]
fn interrupt_returns() {
    check(
        Protected,
        "
        9c ; pushf
        0e ; push cs
        68 08 80 00 00 ; push n
        cf ; iret
        f4 ; n: hlt
        ",
        "halt",
    );
    check(
        Protected,
        "
        9c ; pushf
        6a 50 ; push 0x50
        68 09 80 00 00 ; push n
        cf ; iret
        f4 ; n: hlt
        ",
        "#13(50) at 8 cs 8",
    );
    check(
        Protected,
        "
        6a 53 ; push 0x53
        68 00 77 00 00 ; push 0x7700
        68 02 30 00 00 ; push 0x3002
        6a 4b ; push 0x4b
        68 14 80 00 00 ; push n
        cf ; iret
        8c d8 ; n: mov eax, ds
        e6 e9 ; out 0xe9, al
        a0 00 80 00 00 ; mov al, [0x8000]
        ",
        "out 0, #13(0) at 18 cs 4b",
    );
    check(
        Protected,
        "
        9c ; pushf
        81 0c 24 00 40 00 00 ; or dword [esp], 0x4000
        9d ; popf
        9c ; pushf
        0e ; push cs
        68 11 80 00 00 ; push n
        cf ; iret
        f4 ; n: hlt
        ",
        "#10(0) at 10 cs 8",
    );
    check(
        Long,
        "
        9c ; pushf
        81 0c 24 00 40 00 00 ; or dword [rsp], 0x4000
        9d ; popf
        6a 10 ; push 0x10
        54 ; push rsp
        9c ; pushf
        6a 18 ; push 0x18
        68 16 80 00 00 ; push n
        48 cf ; iretq
        f4 ; n: hlt
        ",
        "#13(0) at 14 cs 18",
    );
    check(
        Long,
        "
        6a 10 ; push 0x10
        68 00 70 00 00 ; push 0x7000
        9c ; pushf
        6a 18 ; push 0x18
        68 11 80 00 00 ; push n
        48 cf ; iretq
        8c d0 ; n: mov eax, ss
        e6 e9 ; out 0xe9, al
        89 e0 ; mov eax, esp
        66 e7 e9 ; out 0xe9, ax
        f4 ; hlt
        ",
        "out 10 7000, halt",
    );
    check(
        Long,
        "
        6a 00 ; push 0
        68 01 70 00 00 ; push 0x7001
        9c ; pushf
        6a 18 ; push 0x18
        68 11 80 00 00 ; push n
        48 cf ; iretq
        8c d0 ; n: mov eax, ss
        e6 e9 ; out 0xe9, al
        89 e0 ; mov eax, esp
        66 e7 e9 ; out 0xe9, ax
        f4 ; hlt
        ",
        "out 0 7001, halt",
    );
    check(
        Long,
        "
        6a 10 ; push 0x10
        68 00 70 00 00 ; push 0x7000
        9c ; pushf
        6a 08 ; push 8
        68 11 80 00 00 ; push n
        48 cf ; iretq
        8c c8 ; n: mov eax, cs
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 8, halt",
    );
    check(
        User,
        "
        9c ; pushf
        6a 08 ; push 8
        68 09 80 00 00 ; push n
        cf ; iret
        f4 ; n: hlt
        ",
        "#13(8) at 8 cs 4b",
    );
    check(
        Real,
        "
        9c ; pushf
        0e ; push cs
        68 06 80 ; push n
        cf ; iret
        f4 ; n: hlt
        ",
        "halt",
    );
    check(
        Real,
        "
        68 02 32 ; push word 0x3202
        0e ; push cs
        68 08 80 ; push n
        cf ; iret
        9c ; n: pushf
        58 ; pop ax
        e7 e9 ; out 0xe9, ax
        fa ; cli
        f4 ; hlt
        ",
        "out 3202, halt",
    );
}

#[test]
fn tasks() {
    check(
        Protected,
        "
        ea 00 00 00 00 a8 00 ; jmp 0xa8:0
        ",
        "out 8, halt",
    );
    check(
        Protected,
        "
        ea 00 00 00 00 a0 00 ; jmp 0xa0:0
        ",
        "out 8, halt",
    );
    check(
        Protected,
        "
        ea 00 00 00 00 d0 00 ; jmp 0xd0:0
        ",
        "out 20, halt",
    );
    check(
        Protected,
        "
        ea 00 00 00 00 b0 00 ; jmp 0xb0:0
        ",
        "#13(b0) at 0 cs 8",
    );
    check(
        Protected,
        "
        ea 00 00 00 00 e8 00 ; jmp 0xe8:0
        ",
        "#10(e8) at 0 cs 8",
    );
    check(
        Protected,
        "
        9a 00 00 00 00 b0 00 ; call 0xb0:0
        ",
        "#13(b0) at 0 cs 8",
    );
    check(
        User,
        "
        ea 00 00 00 00 a8 00 ; jmp 0xa8:0
        ",
        "out 8, halt",
    );
    check(
        User,
        "
        c6 05 ad 10 00 00 89 ; mov byte [0x10ad], 0x89
        ea 00 00 00 00 a8 00 ; jmp 0xa8:0
        ",
        "#13(a8) at 7 cs 4b",
    );
    check(
        Protected,
        "
        c7 05 20 34 00 00 27 80 00 00 ; mov dword [0x3420], t
        9a 00 00 00 00 a8 00 ; call 0xa8:0
        89 d8 ; mov eax, ebx
        e6 e9 ; out 0xe9, al
        0f 00 c8 ; str eax
        e6 e9 ; out 0xe9, al
        a0 ad 10 00 00 ; mov al, [0x10ad]
        e6 e9 ; out 0xe9, al
        0f 20 c0 ; mov eax, cr0
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        0f 00 c8 ; t: str eax
        e6 e9 ; out 0xe9, al
        66 a1 00 34 00 00 ; mov ax, [0x3400]
        66 e7 e9 ; out 0xe9, ax
        b3 09 ; mov bl, 9
        9c ; pushf
        58 ; pop eax
        c1 e8 08 ; shr eax, 8
        e6 e9 ; out 0xe9, al
        cf ; iret
        ",
        "out a8 30 40 0 30 e9 3b, halt",
    );
    check(
        Protected,
        "
        c7 05 20 34 00 00 0d 80 00 00 ; mov dword [0x3420], t
        cd 32 ; int 0x32
        f4 ; hlt
        a0 35 10 00 00 ; t: mov al, [0x1035]
        e6 e9 ; out 0xe9, al
        a0 ad 10 00 00 ; mov al, [0x10ad]
        e6 e9 ; out 0xe9, al
        cf ; iret
        ",
        "out 8b eb, halt",
    );
    check(
        Protected,
        "
        c7 05 20 34 00 00 12 80 00 00 ; mov dword [0x3420], t
        ea 00 00 00 00 a8 00 ; jmp 0xa8:0
        f4 ; hlt
        a0 35 10 00 00 ; t: mov al, [0x1035]
        e6 e9 ; out 0xe9, al
        a0 ad 10 00 00 ; mov al, [0x10ad]
        e6 e9 ; out 0xe9, al
        a1 20 30 00 00 ; mov eax, [0x3020]
        2d 00 80 00 00 ; sub eax, 0x8000
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 89 eb 11, halt",
    );
    check(
        Protected,
        "
        66 c7 05 50 34 00 00 68 00 ; mov word [0x3450], 0x68
        ea 00 00 00 00 a8 00 ; jmp 0xa8:0
        ",
        "shutdown",
    );
    check(
        Protected,
        "
        c7 05 54 34 00 00 68 00 00 00 ; mov dword [0x3454], 0x68
        ea 00 00 00 00 a8 00 ; jmp 0xa8:0
        ",
        "#11(68) at 9000 absolute cs 8",
    );
    check(
        Protected,
        "
        c7 05 64 34 00 00 01 00 00 00 ; mov dword [0x3464], 1
        ea 00 00 00 00 a8 00 ; jmp 0xa8:0
        ",
        "#1 at 9000 absolute cs 8",
    );
    check(
        Long,
        "
        48 b8 0c 80 00 00 00 00 00 00 ; mov rax, p
        ff 28 ; db 0xff, 0x28
        00 00 00 00 ; p: dd 0
        30 00 ; dw 0x30
        ",
        "#13(30) at a cs 18",
    );
}
