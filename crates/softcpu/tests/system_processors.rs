//! The local APIC inside a processor: register page, timer, start-up of others. SDM vol. 3A, 8.4 and APIC.

mod system_kit;

use system_kit::{Mode::*, check, check_on};

#[test]
fn local_apic_of_one_processor() {
    check(
        Protected,
        "
        a1 30 00 e0 fe ; mov eax, [0xfee00030]
        e7 e9 ; out 0xe9, eax
        a1 20 00 e0 fe ; mov eax, [0xfee00020]
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 1050014 0, halt",
    );
    check(
        Protected,
        "
        c7 05 f0 00 e0 fe ff 01 00 00 ; mov dword [0xfee000f0], 0x1ff
        c7 05 00 03 e0 fe 41 40 04 00 ; mov dword [0xfee00300], 0x44041
        a1 20 02 e0 fe ; mov eax, [0xfee00220]
        e7 e9 ; out 0xe9, eax
        fb ; sti
        90 ; nop
        90 ; nop
        ",
        "out 2, #65 at 1d cs 8",
    );
    check(
        Protected,
        "
        c7 05 f0 00 e0 fe ff 01 00 00 ; mov dword [0xfee000f0], 0x1ff
        66 c7 05 08 22 00 00 20 80 ; mov word [0x2208], t
        c7 05 00 03 e0 fe 41 40 04 00 ; mov dword [0xfee00300], 0x44041
        fb ; sti
        90 ; nop
        f4 ; hlt
        a1 20 01 e0 fe ; t: mov eax, [0xfee00120]
        e6 e9 ; out 0xe9, al
        c7 05 b0 00 e0 fe 00 00 00 00 ; mov dword [0xfee000b0], 0
        a1 20 01 e0 fe ; mov eax, [0xfee00120]
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out 2 0, halt",
    );
    check(
        Protected,
        "
        c7 05 f0 00 e0 fe ff 01 00 00 ; mov dword [0xfee000f0], 0x1ff
        c7 05 80 00 e0 fe 40 00 00 00 ; mov dword [0xfee00080], 0x40
        c7 05 00 03 e0 fe 41 40 04 00 ; mov dword [0xfee00300], 0x44041
        fb ; sti
        90 ; nop
        c7 05 80 00 e0 fe 00 00 00 00 ; mov dword [0xfee00080], 0
        e9 00 00 00 00 ; jmp n
        90 ; n: nop
        90 ; nop
        ",
        "#65 at 2f cs 8",
    );
    check(
        Protected,
        "
        c7 05 00 03 e0 fe 41 40 04 00 ; mov dword [0xfee00300], 0x44041
        fb ; sti
        90 ; nop
        90 ; nop
        fa ; cli
        f4 ; hlt
        ",
        "halt",
    );
    check(
        Protected,
        "
        66 a1 f0 00 e0 fe ; mov ax, [0xfee000f0]
        66 e7 e9 ; out 0xe9, ax
        a0 31 00 e0 fe ; mov al, [0xfee00031]
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        ",
        "out ff 0, halt",
    );
}

#[test]
fn timer_of_the_local_apic() {
    check(
        Protected,
        "
        c7 05 f0 00 e0 fe ff 01 00 00 ; mov dword [0xfee000f0], 0x1ff
        c7 05 e0 03 e0 fe 0b 00 00 00 ; mov dword [0xfee003e0], 0xb
        c7 05 20 03 e0 fe 40 00 00 00 ; mov dword [0xfee00320], 0x40
        c7 05 80 03 e0 fe b8 0b 00 00 ; mov dword [0xfee00380], 3000
        fb ; sti
        e9 fb ff ff ff ; n: jmp n
        ",
        "#64 at 29 cs 8",
    );
    check(
        Protected,
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
    check(
        Protected,
        "
        c7 05 f0 00 e0 fe ff 01 00 00 ; mov dword [0xfee000f0], 0x1ff
        c7 05 20 03 e0 fe 40 00 04 00 ; mov dword [0xfee00320], 0x40040
        0f 31 ; rdtsc
        05 20 4e 00 00 ; add eax, 20000
        83 d2 00 ; adc edx, 0
        b9 e0 06 00 00 ; mov ecx, 0x6e0
        0f 30 ; wrmsr
        0f 32 ; rdmsr
        85 c0 ; test eax, eax
        0f 95 c0 ; setnz al
        e6 e9 ; out 0xe9, al
        fb ; sti
        f4 ; hlt
        ",
        "out 1, #64 at 30 cs 8",
    );
    check(
        Protected,
        "
        c7 05 f0 00 e0 fe ff 01 00 00 ; mov dword [0xfee000f0], 0x1ff
        c7 05 20 03 e0 fe 40 00 01 00 ; mov dword [0xfee00320], 0x10040
        c7 05 e0 03 e0 fe 0b 00 00 00 ; mov dword [0xfee003e0], 0xb
        c7 05 80 03 e0 fe b8 0b 00 00 ; mov dword [0xfee00380], 3000
        fb ; sti
        b9 10 27 00 00 ; mov ecx, 10000
        e2 fe ; n: loop n
        a1 90 03 e0 fe ; mov eax, [0xfee00390]
        e7 e9 ; out 0xe9, eax
        f4 ; hlt
        ",
        "out 0, halt",
    );
}

#[test]
fn several_processors() {
    check_on(
        Protected,
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
    check_on(
        Protected,
        4,
        "
        be 43 80 00 00 ; mov esi, t
        bf 00 90 00 00 ; mov edi, 0x9000
        b9 60 00 00 00 ; mov ecx, 96
        f3 a4 ; rep movsb
        c7 05 f0 00 e0 fe ff 01 00 00 ; mov dword [0xfee000f0], 0x1ff
        c7 05 00 03 e0 fe 00 45 0c 00 ; mov dword [0xfee00300], 0xc4500
        c7 05 00 03 e0 fe 09 46 0c 00 ; mov dword [0xfee00300], 0xc4609
        80 3d 00 61 00 00 03 ; n: cmp byte [0x6100], 3
        f3 90 ; pause
        0f 85 f1 ff ff ff ; jne n
        b0 99 ; mov al, 0x99
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        31 c0 ; t: xor ax, ax
        8e d8 ; mov ds, ax
        f0 fe 06 00 61 ; lock inc byte [0x6100]
        f4 ; hlt
        ",
        "out 99, halt",
    );
    check_on(
        Protected,
        2,
        "
        be 3e 80 00 00 ; mov esi, t
        bf 00 90 00 00 ; mov edi, 0x9000
        b9 60 00 00 00 ; mov ecx, 96
        f3 a4 ; rep movsb
        c7 05 f0 00 e0 fe ff 01 00 00 ; mov dword [0xfee000f0], 0x1ff
        c7 05 10 03 e0 fe 00 00 00 01 ; mov dword [0xfee00310], 0x01000000
        c7 05 00 03 e0 fe 09 46 00 00 ; mov dword [0xfee00300], 0x4609
        b9 88 13 00 00 ; mov ecx, 5000
        e2 fe ; n: loop n
        a0 00 61 00 00 ; mov al, [0x6100]
        e6 e9 ; out 0xe9, al
        f4 ; hlt
        31 c0 ; t: xor ax, ax
        8e d8 ; mov ds, ax
        c6 06 00 61 01 ; mov byte [0x6100], 1
        f4 ; hlt
        ",
        "out 1, halt",
    );
    check_on(
        Protected,
        2,
        "
        be 3f 80 00 00 ; mov esi, t
        bf 00 90 00 00 ; mov edi, 0x9000
        b9 60 00 00 00 ; mov ecx, 96
        f3 a4 ; rep movsb
        c7 05 f0 00 e0 fe ff 01 00 00 ; mov dword [0xfee000f0], 0x1ff
        c7 05 10 03 e0 fe 00 00 00 01 ; mov dword [0xfee00310], 0x01000000
        c7 05 00 03 e0 fe 00 45 00 00 ; mov dword [0xfee00300], 0x4500
        c7 05 00 03 e0 fe 09 46 00 00 ; mov dword [0xfee00300], 0x4609
        fb ; sti
        e9 fb ff ff ff ; n: jmp n
        66 b9 1b 00 00 00 ; t: mov ecx, 0x1b
        0f 32 ; rdmsr
        0d 00 04 ; or ax, 0x400
        0f 30 ; wrmsr
        66 b9 02 08 00 00 ; mov ecx, 0x802
        0f 32 ; rdmsr
        e6 e9 ; out 0xe9, al
        66 b9 30 08 00 00 ; mov ecx, 0x830
        66 b8 41 40 00 00 ; mov eax, 0x4041
        66 31 d2 ; xor edx, edx
        0f 30 ; wrmsr
        f4 ; hlt
        ",
        "out 1, #65 at 3a cs 8",
    );
    check_on(
        Protected,
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
        66 b8 01 00 00 00 ; t: mov eax, 1
        0f a2 ; cpuid
        66 c1 eb 18 ; shr ebx, 24
        88 d8 ; mov al, bl
        e6 e9 ; out 0xe9, al
        66 b9 1b 00 00 00 ; mov ecx, 0x1b
        0f 32 ; rdmsr
        e7 e9 ; out 0xe9, ax
        31 c0 ; xor ax, ax
        8e d8 ; mov ds, ax
        c6 06 00 61 01 ; mov byte [0x6100], 1
        f4 ; hlt
        ",
        "out 1 800 99, halt",
    );
}
