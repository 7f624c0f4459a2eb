//! Loading and using segments: SDM vol. 3A, 5.3 to 5.8 and 5.10; MOV, POP, LDS, LLDT, LTR, LAR in vol. 2.

mod system_kit;

use system_kit::{Mode::*, check};

#[test]
fn data_segment_loads() {
    check(
        Protected,
        "
        66 b8 10 00 ; mov ax, 0x10
        66 8e d8 ; mov ds, ax
        f4 ; hlt
        ",
        "halt",
    );
    check(
        Protected,
        "
        66 b8 00 00 ; mov ax, 0x0
        66 8e d8 ; mov ds, ax
        f4 ; hlt
        ",
        "halt",
    );
    check(
        Protected,
        "
        66 b8 60 00 ; mov ax, 0x60
        66 8e d8 ; mov ds, ax
        f4 ; hlt
        ",
        "#11(60) at 4 cs 8",
    );
    check(
        Protected,
        "
        66 b8 68 00 ; mov ax, 0x68
        66 8e d8 ; mov ds, ax
        f4 ; hlt
        ",
        "#11(68) at 4 cs 8",
    );
    check(
        Protected,
        "
        66 b8 80 00 ; mov ax, 0x80
        66 8e d8 ; mov ds, ax
        f4 ; hlt
        ",
        "#13(80) at 4 cs 8",
    );
    check(
        Protected,
        "
        66 b8 00 02 ; mov ax, 0x200
        66 8e d8 ; mov ds, ax
        f4 ; hlt
        ",
        "#13(200) at 4 cs 8",
    );
    check(
        Protected,
        "
        66 b8 30 00 ; mov ax, 0x30
        66 8e d8 ; mov ds, ax
        f4 ; hlt
        ",
        "#13(30) at 4 cs 8",
    );
    check(
        Protected,
        "
        66 b8 0f 00 ; mov ax, 0xf
        66 8e d8 ; mov ds, ax
        f4 ; hlt
        ",
        "#13(c) at 4 cs 8",
    );
    check(
        Protected,
        "
        66 b8 88 00 ; mov ax, 0x88
        0f 00 d0 ; lldt ax
        66 b8 0f 00 ; mov ax, 0x0f
        66 8e d8 ; mov ds, ax
        a0 00 80 00 00 ; mov al, [0x8000]
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 66, halt",
    );
    check(
        User,
        "
        66 b8 10 00 ; mov ax, 0x10
        66 8e d8 ; mov ds, ax
        ",
        "#13(10) at 4 cs 4b",
    );
    check(
        User,
        "
        66 b8 50 00 ; mov ax, 0x50
        66 8e d8 ; mov ds, ax
        66 b8 70 00 ; mov ax, 0x70
        66 8e c0 ; mov es, ax
        66 b8 73 00 ; mov ax, 0x73
        66 8e e0 ; mov fs, ax
        8c e0 ; mov eax, fs
        e6 e9 ; out 0xe9, al
        0f 0b ; ud2
        ",
        "out 73, #6 at 19 cs 4b",
    );
    check(
        User,
        "
        66 b8 f0 00 ; mov ax, 0xf0
        66 8e d8 ; mov ds, ax
        ",
        "#13(f0) at 4 cs 4b",
    );
    check(
        Long,
        "
        66 b8 80 00 ; mov ax, 0x80
        66 8e d8 ; mov ds, ax
        f4 ; hlt
        ",
        "#13(80) at 4 cs 18",
    );
    check(
        Long,
        "
        66 b8 68 00 ; mov ax, 0x68
        66 8e d8 ; mov ds, ax
        f4 ; hlt
        ",
        "#11(68) at 4 cs 18",
    );
}

#[test]
fn stack_segment_loads() {
    check(
        Protected,
        "
        66 b8 10 00 ; mov ax, 0x10
        66 8e d0 ; mov ss, ax
        f4 ; hlt
        ",
        "halt",
    );
    check(
        Protected,
        "
        66 b8 00 00 ; mov ax, 0x0
        66 8e d0 ; mov ss, ax
        f4 ; hlt
        ",
        "#13(0) at 4 cs 8",
    );
    check(
        Protected,
        "
        66 b8 13 00 ; mov ax, 0x13
        66 8e d0 ; mov ss, ax
        f4 ; hlt
        ",
        "#13(10) at 4 cs 8",
    );
    check(
        Protected,
        "
        66 b8 50 00 ; mov ax, 0x50
        66 8e d0 ; mov ss, ax
        f4 ; hlt
        ",
        "#13(50) at 4 cs 8",
    );
    check(
        Protected,
        "
        66 b8 78 00 ; mov ax, 0x78
        66 8e d0 ; mov ss, ax
        f4 ; hlt
        ",
        "#13(78) at 4 cs 8",
    );
    check(
        Protected,
        "
        66 b8 08 00 ; mov ax, 0x8
        66 8e d0 ; mov ss, ax
        f4 ; hlt
        ",
        "#13(8) at 4 cs 8",
    );
    check(
        Protected,
        "
        66 b8 68 00 ; mov ax, 0x68
        66 8e d0 ; mov ss, ax
        f4 ; hlt
        ",
        "#12(68) at 4 cs 8",
    );
    check(
        User,
        "
        66 b8 13 00 ; mov ax, 0x13
        66 8e d0 ; mov ss, ax
        ",
        "#13(10) at 4 cs 4b",
    );
    check(
        Long,
        "
        66 b8 00 00 ; mov ax, 0x0
        66 8e d0 ; mov ss, ax
        f4 ; hlt
        ",
        "halt",
    );
    check(
        Long,
        "
        66 b8 03 00 ; mov ax, 0x3
        66 8e d0 ; mov ss, ax
        f4 ; hlt
        ",
        "#13(0) at 4 cs 18",
    );
    check(
        LongUser,
        "
        66 b8 03 00 ; mov ax, 3
        66 8e d0 ; mov ss, ax
        ",
        "#13(0) at 4 cs 5b",
    );
    check(
        LongUser,
        "
        66 b8 53 00 ; mov ax, 0x53
        66 8e d0 ; mov ss, ax
        0f 0b ; ud2
        ",
        "#6 at 7 cs 5b",
    );
}

#[test]
fn use_of_segments() {
    check(
        Protected,
        "
        31 c0 ; xor eax, eax
        66 8e d8 ; mov ds, ax
        a0 00 80 00 00 ; mov al, [0x8000]
        ",
        "#13(0) at 5 cs 8",
    );
    check(
        Protected,
        "
        66 b8 78 00 ; mov ax, 0x78
        66 8e d8 ; mov ds, ax
        a0 00 80 00 00 ; mov al, [0x8000]
        a2 00 80 00 00 ; mov [0x8000], al
        ",
        "#13(0) at c cs 8",
    );
    check(
        Protected,
        "
        2e a2 00 61 00 00 ; mov [cs:0x6100], al
        ",
        "#13(0) at 0 cs 8",
    );
    check(
        Protected,
        "
        2e a0 00 80 00 00 ; mov al, [cs:0x8000]
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 2e, halt",
    );
    check(
        User,
        "
        66 b8 cb 00 ; mov ax, 0xcb
        66 8e d8 ; mov ds, ax
        a0 00 10 00 00 ; mov al, [0x1000]
        a0 ff 0f 00 00 ; mov al, [0xfff]
        ",
        "#13(0) at c cs 4b",
    );
    check(
        User,
        "
        66 b8 cb 00 ; mov ax, 0xcb
        66 8e d8 ; mov ds, ax
        a1 fd ff ff ff ; mov eax, [0xfffffffd]
        ",
        "#13(0) at 7 cs 4b",
    );
    check(
        Protected,
        "
        66 b8 28 00 ; mov ax, 0x28
        66 8e d8 ; mov ds, ax
        a0 ff ff 00 00 ; mov al, [0xffff]
        66 a1 ff ff 00 00 ; mov ax, [0xffff]
        ",
        "#13(0) at c cs 8",
    );
    check(
        Protected,
        "
        66 b8 28 00 ; mov ax, 0x28
        66 8e d0 ; mov ss, ax
        bc 02 00 01 00 ; mov esp, 0x10002
        50 ; push eax
        ",
        "shutdown",
    );
    check(
        Protected,
        "
        66 b8 28 00 ; mov ax, 0x28
        66 8e d0 ; mov ss, ax
        bd 00 00 01 00 ; mov ebp, 0x10000
        8a 45 00 ; mov al, [ebp]
        ",
        "#12(0) at c cs 8",
    );
    check(
        Real,
        "
        66 b8 00 00 01 00 ; mov eax, 0x10000
        67 8a 00 ; mov al, [eax]
        ",
        "#13 at 6 cs 0",
    );
    check(
        Real,
        "
        bb ff ff ; mov bx, 0xffff
        8b 07 ; mov ax, [bx]
        ",
        "#13 at 3 cs 0",
    );
    check(
        Real,
        "
        bd ff ff ; mov bp, 0xffff
        8b 46 00 ; mov ax, [bp]
        ",
        "#12 at 3 cs 0",
    );
}

#[test]
fn segments_on_the_stack() {
    check(
        Protected,
        "
        6a 10 ; push 0x10
        1f ; pop ds
        1e ; push ds
        58 ; pop eax
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 10, halt",
    );
    check(
        Protected,
        "
        89 e3 ; mov ebx, esp
        6a 68 ; push 0x68
        29 e3 ; sub ebx, esp
        88 d8 ; mov al, bl
        e6 e9 ; out 0xe9, al
        1f ; pop ds
        ",
        "out 4, #11(68) at a cs 8",
    );
    check(
        Protected,
        "
        89 e3 ; mov ebx, esp
        66 0f a0 ; o16 push fs
        29 e3 ; sub ebx, esp
        88 d8 ; mov al, bl
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 2, halt",
    );
    check(
        Long,
        "
        48 89 e3 ; mov rbx, rsp
        0f a0 ; push fs
        48 29 e3 ; sub rbx, rsp
        88 d8 ; mov al, bl
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 8, halt",
    );
    check(
        Protected,
        "
        c5 1d 0f 80 00 00 ; lds ebx, [0x8000 + p - $$]
        8c d8 ; mov eax, ds
        e6 e9 ; out 0xe9, al
        88 d8 ; mov al, bl
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        77 00 00 00 ; p: dd 0x77
        10 00 ; dw 0x10
        ",
        "out 10 77, halt",
    );
    check(
        Protected,
        "
        c4 1d 06 80 00 00 ; les ebx, [0x8000 + p - $$]
        77 00 00 00 ; p: dd 0x77
        30 00 ; dw 0x30
        ",
        "#13(30) at 0 cs 8",
    );
}

#[test]
fn system_segment_loads() {
    check(
        Protected,
        "
        66 b8 88 00 ; mov ax, 0x88
        0f 00 d0 ; lldt ax
        0f 00 c0 ; sldt eax
        e6 e9 ; out 0xe9, al
        31 c0 ; xor eax, eax
        0f 00 d0 ; lldt ax
        f4 ; hlt
        ",
        "out 88, halt",
    );
    check(
        Protected,
        "
        66 b8 f8 00 ; mov ax, 0xf8
        0f 00 d0 ; lldt ax
        ",
        "#11(f8) at 4 cs 8",
    );
    check(
        Protected,
        "
        66 b8 10 00 ; mov ax, 0x10
        0f 00 d0 ; lldt ax
        ",
        "#13(10) at 4 cs 8",
    );
    check(
        Protected,
        "
        66 b8 8c 00 ; mov ax, 0x8c
        0f 00 d0 ; lldt ax
        ",
        "#13(8c) at 4 cs 8",
    );
    check(
        Protected,
        "
        0f 00 c8 ; str eax
        e6 e9 ; out 0xe9, al
        66 b8 30 00 ; mov ax, 0x30
        0f 00 d8 ; ltr ax
        ",
        "out 30, #13(30) at 9 cs 8",
    );
    check(
        Protected,
        "
        31 c0 ; xor eax, eax
        0f 00 d8 ; ltr ax
        ",
        "#13(0) at 2 cs 8",
    );
    check(
        Protected,
        "
        66 b8 d0 00 ; mov ax, 0xd0
        0f 00 d8 ; ltr ax
        a0 d5 10 00 00 ; mov al, [0x10d5]
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 83, halt",
    );
    check(
        Long,
        "
        66 b8 d0 00 ; mov ax, 0xd0
        0f 00 d8 ; ltr ax
        ",
        "#13(d0) at 4 cs 18",
    );
    check(
        User,
        "
        31 c0 ; xor eax, eax
        0f 00 d0 ; lldt ax
        ",
        "#13(0) at 2 cs 4b",
    );
    check(
        Real,
        "
        31 c0 ; xor ax, ax
        0f 00 d0 ; lldt ax
        ",
        "#6 at 2 cs 0",
    );
    check(
        VirtualIo,
        "
        0f 00 c8 ; str ax
        ",
        "#6 at 0 cs 0",
    );
}

#[test]
fn questions_about_descriptors() {
    check(
        Protected,
        "
        66 bb 08 00 ; mov bx, 0x8
        31 c0 ; xor eax, eax
        0f 02 c3 ; lar eax, ebx
        0f 94 c1 ; setz cl
        c1 e8 08 ; shr eax, 8
        e7 e9 ; out 0xe9, eax
        88 c8 ; mov al, cl
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out cf9b 1, halt",
    );
    check(
        Protected,
        "
        66 bb 98 00 ; mov bx, 0x98
        31 c0 ; xor eax, eax
        0f 02 c3 ; lar eax, ebx
        0f 94 c1 ; setz cl
        c1 e8 08 ; shr eax, 8
        e7 e9 ; out 0xe9, eax
        88 c8 ; mov al, cl
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out ec 1, halt",
    );
    check(
        Protected,
        "
        66 bb d8 00 ; mov bx, 0xd8
        31 c0 ; xor eax, eax
        0f 02 c3 ; lar eax, ebx
        0f 94 c1 ; setz cl
        c1 e8 08 ; shr eax, 8
        e7 e9 ; out 0xe9, eax
        88 c8 ; mov al, cl
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 0 0, halt",
    );
    check(
        Protected,
        "
        66 bb 00 02 ; mov bx, 0x200
        31 c0 ; xor eax, eax
        0f 02 c3 ; lar eax, ebx
        0f 94 c1 ; setz cl
        c1 e8 08 ; shr eax, 8
        e7 e9 ; out 0xe9, eax
        88 c8 ; mov al, cl
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 0 0, halt",
    );
    check(
        Protected,
        "
        66 bb 00 00 ; mov bx, 0x0
        31 c0 ; xor eax, eax
        0f 02 c3 ; lar eax, ebx
        0f 94 c1 ; setz cl
        c1 e8 08 ; shr eax, 8
        e7 e9 ; out 0xe9, eax
        88 c8 ; mov al, cl
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 0 0, halt",
    );
    check(
        Protected,
        "
        66 bb 0b 00 ; mov bx, 0xb
        31 c0 ; xor eax, eax
        0f 02 c3 ; lar eax, ebx
        0f 94 c1 ; setz cl
        c1 e8 08 ; shr eax, 8
        e7 e9 ; out 0xe9, eax
        88 c8 ; mov al, cl
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 0 0, halt",
    );
    check(
        Protected,
        "
        66 bb 73 00 ; mov bx, 0x73
        31 c0 ; xor eax, eax
        0f 02 c3 ; lar eax, ebx
        0f 94 c1 ; setz cl
        c1 e8 08 ; shr eax, 8
        e7 e9 ; out 0xe9, eax
        88 c8 ; mov al, cl
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out cf9f 1, halt",
    );
    check(
        Protected,
        "
        66 bb 10 00 ; mov bx, 0x10
        31 c0 ; xor eax, eax
        0f 03 c3 ; lsl eax, ebx
        0f 94 c1 ; setz cl
        c1 e8 08 ; shr eax, 8
        e7 e9 ; out 0xe9, eax
        88 c8 ; mov al, cl
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out ffffff 1, halt",
    );
    check(
        Protected,
        "
        66 bb 30 00 ; mov bx, 0x30
        31 c0 ; xor eax, eax
        0f 03 c3 ; lsl eax, ebx
        0f 94 c1 ; setz cl
        c1 e8 08 ; shr eax, 8
        e7 e9 ; out 0xe9, eax
        88 c8 ; mov al, cl
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out f 1, halt",
    );
    check(
        Protected,
        "
        66 bb 98 00 ; mov bx, 0x98
        31 c0 ; xor eax, eax
        0f 03 c3 ; lsl eax, ebx
        0f 94 c1 ; setz cl
        c1 e8 08 ; shr eax, 8
        e7 e9 ; out 0xe9, eax
        88 c8 ; mov al, cl
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 0 0, halt",
    );
    check(
        Long,
        "
        66 bb d0 00 ; mov bx, 0xd0
        31 c0 ; xor eax, eax
        0f 02 c3 ; lar eax, ebx
        0f 94 c1 ; setz cl
        c1 e8 08 ; shr eax, 8
        e7 e9 ; out 0xe9, eax
        88 c8 ; mov al, cl
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 0 0, halt",
    );
    check(
        Long,
        "
        66 bb b8 00 ; mov bx, 0xb8
        31 c0 ; xor eax, eax
        0f 02 c3 ; lar eax, ebx
        0f 94 c1 ; setz cl
        c1 e8 08 ; shr eax, 8
        e7 e9 ; out 0xe9, eax
        88 c8 ; mov al, cl
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out ec 1, halt",
    );
    check(
        Protected,
        "
        66 b8 80 00 ; mov ax, 0x80
        0f 00 e0 ; verr ax
        0f 94 c0 ; setz al
        e6 e9 ; out 0xe9, al
        66 b8 78 00 ; mov ax, 0x78
        0f 00 e8 ; verw ax
        0f 94 c0 ; setz al
        e6 e9 ; out 0xe9, al
        66 b8 10 00 ; mov ax, 0x10
        0f 00 e8 ; verw ax
        0f 94 c0 ; setz al
        e6 e9 ; out 0xe9, al
        66 b8 30 00 ; mov ax, 0x30
        0f 00 e0 ; verr ax
        0f 94 c0 ; setz al
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 0 0 1 0, halt",
    );
    check(
        Protected,
        "
        66 b8 10 00 ; mov ax, 0x10
        66 bb 03 00 ; mov bx, 3
        63 d8 ; arpl ax, bx
        0f 94 c1 ; setz cl
        e6 e9 ; out 0xe9, al
        88 c8 ; mov al, cl
        e6 e9 ; out 0xe9, al
        66 b8 13 00 ; mov ax, 0x13
        63 d8 ; arpl ax, bx
        0f 94 c0 ; setz al
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 13 1 0, halt",
    );
    check(
        Real,
        "
        0f 02 c3 ; lar ax, bx
        ",
        "#6 at 0 cs 0",
    );
    check(
        VirtualIo,
        "
        0f 00 e0 ; verr ax
        ",
        "#6 at 0 cs 0",
    );
}

#[test]
fn code_that_may_only_be_executed_can_be_flushed_and_not_read() {
    check(
        Protected,
        "
        ea 07 80 00 00 80 00 ; jmp 0x80:0x8007
        2e 0f ae 3d 00 80 00 00 ; clflush cs:[0x8000]
        2e a0 00 80 00 00 ; mov al, cs:[0x8000]
        ",
        "#13(0) at f cs 80",
    );
}
