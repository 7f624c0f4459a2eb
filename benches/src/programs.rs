//! Functions of machine code for `flat`, assembled by the compiler, so that the host can run the very
//! same bytes: `fn(count: u64, data: *mut u8) -> u64`, position-independent, of the System V ABI.

use std::arch::global_asm;
use std::slice;

/// A function and its name.
#[derive(Clone, Copy)]
pub struct Program {
    /// What it does, for tables.
    pub name: &'static str,
    /// A count that takes about a second on a software processor.
    pub count: u64,
    start: unsafe extern "C" fn(u64, *mut u8) -> u64,
    end: unsafe extern "C" fn(),
}

impl std::fmt::Debug for Program {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Program")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Program {
    /// The machine code.
    pub fn bytes(&self) -> &'static [u8] {
        let start = self.start as *const u8;
        let length = (self.end as *const u8 as usize).saturating_sub(start as usize);
        // SAFETY: both labels stand in one block of assembly below, `end` after `start`, so the bytes
        // between them are part of this program's text, which lives and stays unchanged for ever.
        unsafe { slice::from_raw_parts(start, length) }
    }

    /// Calls it on the host. `data`: at least [`crate::flat::DATA_BYTES`] bytes, so that every offset
    /// that a program uses lies inside.
    pub fn call_here(&self, count: u64, data: &mut [u8]) -> Option<u64> {
        if data.len() < crate::flat::DATA_BYTES {
            return None;
        }
        // SAFETY: the code below keeps the ABI, writes only to `data` and stays within the first
        // `DATA_BYTES` of it, which the check above has established.
        Some(unsafe { (self.start)(count, data.as_mut_ptr()) })
    }
}

/// All programs, the two with a promise first.
pub const PROGRAMS: &[Program] = &[
    Program {
        name: "integer loop",
        count: 20_000_000,
        start: bench_integer,
        end: bench_integer_end,
    },
    Program {
        name: "sha256",
        count: 40_000,
        start: bench_sha256,
        end: bench_sha256_end,
    },
    Program {
        name: "calls and branches",
        count: 27,
        start: bench_calls,
        end: bench_calls_end,
    },
    Program {
        name: "memory walk",
        count: 100,
        start: bench_walk,
        end: bench_walk_end,
    },
    Program {
        name: "vectors",
        count: 400,
        start: bench_vectors,
        end: bench_vectors_end,
    },
];

unsafe extern "C" {
    fn bench_integer(count: u64, data: *mut u8) -> u64;
    fn bench_integer_end();
    fn bench_sha256(count: u64, data: *mut u8) -> u64;
    fn bench_sha256_end();
    fn bench_calls(count: u64, data: *mut u8) -> u64;
    fn bench_calls_end();
    fn bench_walk(count: u64, data: *mut u8) -> u64;
    fn bench_walk_end();
    fn bench_vectors(count: u64, data: *mut u8) -> u64;
    fn bench_vectors_end();
}

// Arithmetic, a load and a store: `count` rounds.
global_asm!(
    ".globl bench_integer, bench_integer_end",
    "bench_integer:",
    "mov rcx, rdi",
    "mov eax, 1",
    "mov edx, 3",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "2:",
    "add rax, rdx",
    "xor r8, rax",
    "mov [rsi], r8",
    "add rdx, [rsi]",
    "rol rax, 7",
    "lea r9, [r9 + rax*4 + 8]",
    "dec rcx",
    "jnz 2b",
    "ret",
    "bench_integer_end:",
);

// SHA-256 of `count` blocks that all hold what stands at `data`; the state follows at `data` + 64 and
// the message schedule at `data` + 128. Source: FIPS 180-4, 6.2.2. Returns the first two words.
global_asm!(
    ".globl bench_sha256, bench_sha256_end",
    ".macro bench_round a, b, c, d, e, f, g, h, at",
    "mov eax, \\e",
    "mov edx, \\e",
    "ror eax, 6",
    "ror edx, 11",
    "xor eax, edx",
    "ror edx, 14",
    "xor eax, edx",
    "mov edx, \\f",
    "xor edx, \\g",
    "and edx, \\e",
    "xor edx, \\g",
    "add eax, edx",
    "add \\h, [rbx + rcx*4 + 4*\\at]",
    "add \\h, [rsi + rcx*4 + 128 + 4*\\at]",
    "add \\h, eax",
    "add \\d, \\h",
    "mov eax, \\a",
    "mov edx, \\a",
    "ror eax, 2",
    "ror edx, 13",
    "xor eax, edx",
    "ror edx, 9",
    "xor eax, edx",
    "add \\h, eax",
    "mov eax, \\a",
    "mov edx, \\a",
    "or eax, \\b",
    "and edx, \\b",
    "and eax, \\c",
    "or eax, edx",
    "add \\h, eax",
    ".endm",
    "bench_sha256:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "lea rbx, [rip + 7f]",
    // The initial state.
    "xor ecx, ecx",
    "2:",
    "mov eax, [rbx + rcx*4 + 256]",
    "mov [rsi + rcx*4 + 64], eax",
    "inc ecx",
    "cmp ecx, 8",
    "jne 2b",
    "test rdi, rdi",
    "jz 6f",
    // One block: the schedule's first sixteen words are the block's, the highest byte first.
    "3:",
    "xor ecx, ecx",
    "4:",
    "mov eax, [rsi + rcx*4]",
    "bswap eax",
    "mov [rsi + rcx*4 + 128], eax",
    "inc ecx",
    "cmp ecx, 16",
    "jne 4b",
    "5:",
    "mov eax, [rsi + rcx*4 + 128 - 60]",
    "mov edx, eax",
    "mov ebp, eax",
    "ror eax, 7",
    "ror edx, 18",
    "shr ebp, 3",
    "xor eax, edx",
    "xor eax, ebp",
    "mov edx, [rsi + rcx*4 + 128 - 8]",
    "mov ebp, edx",
    "mov r8d, edx",
    "ror edx, 17",
    "ror ebp, 19",
    "shr r8d, 10",
    "xor edx, ebp",
    "xor edx, r8d",
    "add eax, edx",
    "add eax, [rsi + rcx*4 + 128 - 64]",
    "add eax, [rsi + rcx*4 + 128 - 28]",
    "mov [rsi + rcx*4 + 128], eax",
    "inc ecx",
    "cmp ecx, 64",
    "jne 5b",
    // Sixty-four rounds, eight a turn, so that the letters come round to where they were.
    "mov r8d, [rsi + 64]",
    "mov r9d, [rsi + 68]",
    "mov r10d, [rsi + 72]",
    "mov r11d, [rsi + 76]",
    "mov r12d, [rsi + 80]",
    "mov r13d, [rsi + 84]",
    "mov r14d, [rsi + 88]",
    "mov r15d, [rsi + 92]",
    "xor ecx, ecx",
    "8:",
    "bench_round r8d, r9d, r10d, r11d, r12d, r13d, r14d, r15d, 0",
    "bench_round r15d, r8d, r9d, r10d, r11d, r12d, r13d, r14d, 1",
    "bench_round r14d, r15d, r8d, r9d, r10d, r11d, r12d, r13d, 2",
    "bench_round r13d, r14d, r15d, r8d, r9d, r10d, r11d, r12d, 3",
    "bench_round r12d, r13d, r14d, r15d, r8d, r9d, r10d, r11d, 4",
    "bench_round r11d, r12d, r13d, r14d, r15d, r8d, r9d, r10d, 5",
    "bench_round r10d, r11d, r12d, r13d, r14d, r15d, r8d, r9d, 6",
    "bench_round r9d, r10d, r11d, r12d, r13d, r14d, r15d, r8d, 7",
    "add ecx, 8",
    "cmp ecx, 64",
    "jne 8b",
    "add [rsi + 64], r8d",
    "add [rsi + 68], r9d",
    "add [rsi + 72], r10d",
    "add [rsi + 76], r11d",
    "add [rsi + 80], r12d",
    "add [rsi + 84], r13d",
    "add [rsi + 88], r14d",
    "add [rsi + 92], r15d",
    "dec rdi",
    "jnz 3b",
    "6:",
    "mov eax, [rsi + 64]",
    "shl rax, 32",
    "mov edx, [rsi + 68]",
    "or rax, rdx",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".balign 4",
    "7:",
    ".long 0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4",
    ".long 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe",
    ".long 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f",
    ".long 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7",
    ".long 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc",
    ".long 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b",
    ".long 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116",
    ".long 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3",
    ".long 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7",
    ".long 0xc67178f2",
    ".long 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab",
    ".long 0x5be0cd19",
    "bench_sha256_end:",
);

// The Fibonacci number of `count`, by recursion: calls, returns, pushes and branches.
global_asm!(
    ".globl bench_calls, bench_calls_end",
    "bench_calls:",
    "cmp rdi, 2",
    "jae 2f",
    "mov rax, rdi",
    "ret",
    "2:",
    "push rbx",
    "push rdi",
    "dec rdi",
    "call bench_calls",
    "mov rbx, rax",
    "pop rdi",
    "sub rdi, 2",
    "call bench_calls",
    "add rax, rbx",
    "pop rbx",
    "ret",
    "bench_calls_end:",
);

// Adds up words a page and a bit apart over 1 MiB, `count` times around: the translation cache's case.
global_asm!(
    ".globl bench_walk, bench_walk_end",
    "bench_walk:",
    "xor eax, eax",
    "imul rdi, rdi, 4096",
    "xor ecx, ecx",
    "2:",
    "add rax, [rsi + rcx]",
    "mov [rsi + rcx], rax",
    "add rcx, 4168",
    "and rcx, 0xfffff",
    "dec rdi",
    "jnz 2b",
    "ret",
    "bench_walk_end:",
);

// Running sums of 16-byte vectors over 256 KiB, `count` times around: loads and stores of that size.
global_asm!(
    ".globl bench_vectors, bench_vectors_end",
    "bench_vectors:",
    "shl rdi, 14",
    "xor ecx, ecx",
    "pxor xmm1, xmm1",
    "2:",
    "movdqu xmm0, [rsi + rcx]",
    "paddd xmm1, xmm0",
    "movdqu [rsi + rcx], xmm1",
    "movdqu xmm2, [rsi]",
    "pxor xmm1, xmm2",
    "add ecx, 16",
    "and ecx, 0x3ffff",
    "dec rdi",
    "jnz 2b",
    "movq rax, xmm1",
    "ret",
    "bench_vectors_end:",
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flat::{self, DATA_BYTES};

    #[test]
    fn the_processor_agrees_with_the_host() {
        for program in PROGRAMS {
            for count in [1, 2, 9] {
                let mut data: Vec<u8> = (0..DATA_BYTES).map(|at| (at % 251) as u8).collect();
                let run = flat::call(program.bytes(), count, &data).unwrap();
                let here = program.call_here(count, &mut data).unwrap();
                assert_eq!(run.result, here, "{} of {count}", program.name);
            }
        }
    }

    #[test]
    fn sha256_is_sha256() {
        // The padded block of "abc", whose digest FIPS 180-4 gives as ba7816bf 8f01cfea ...
        let mut data = vec![0; DATA_BYTES];
        data[..4].copy_from_slice(b"abc\x80");
        data[63] = 24;
        let sha256 = PROGRAMS
            .iter()
            .find(|program| program.name == "sha256")
            .unwrap();
        assert_eq!(sha256.call_here(1, &mut data), Some(0xba78_16bf_8f01_cfea));
    }

    #[test]
    fn the_recursion_counts_rabbits() {
        let calls = PROGRAMS
            .iter()
            .find(|program| program.name == "calls and branches")
            .unwrap();
        assert_eq!(calls.call_here(20, &mut vec![0; DATA_BYTES]), Some(6765));
    }

    #[test]
    fn too_little_room_is_refused() {
        assert_eq!(PROGRAMS[0].call_here(1, &mut [0; 64]), None);
    }
}
