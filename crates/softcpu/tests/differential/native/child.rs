//! The child process: its memory, its signal handler, and the two pipes that hand batches over.

use super::enter::{TRIVET_DIFF_HOST_FS, trivet_diff_enter, trivet_diff_signal_entry};
use super::{PATTERNS, Shared};
use crate::layout::{CODE, CODE_LEN, DATA, DATA_HIGH, DATA_WRITABLE, PAGE};
use crate::segments;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};

/// Bytes of the stack that signals arrive on: the frame with all extended state and the handler itself.
const SIGNAL_STACK: usize = 128 * 1024;
const INT3: u8 = 0xcc;

/// What the handler works on. Set in the child, whose copy of this memory nobody else sees.
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());
static GO: AtomicI32 = AtomicI32::new(-1);
static DONE: AtomicI32 = AtomicI32::new(-1);
/// Pattern in the data window, or `PATTERNS` when it must be filled anew.
static FILLED: AtomicU32 = AtomicU32::new(PATTERNS as u32);

/// A process that runs batches.
pub(super) struct Child {
    pid: libc::pid_t,
    go: i32,
    done: i32,
}

/// An anonymous file of `size` bytes.
pub(super) fn memory_file(size: usize) -> io::Result<i32> {
    // SAFETY: the name is a terminated string.
    let file = unsafe { libc::memfd_create(c"trivet-differential".as_ptr(), libc::MFD_CLOEXEC) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain system call on a file that is ours.
    if unsafe { libc::ftruncate(file, size as i64) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// Maps the whole file, readable and writable.
pub(super) fn map_shared(file: i32, size: usize) -> io::Result<NonNull<libc::c_void>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel picks the place.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size,
            protection,
            libc::MAP_SHARED | libc::MAP_POPULATE,
            file,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(at).ok_or_else(|| io::Error::other("a mapping at address zero"))
}

/// Removes a mapping.
pub(super) fn unmap(at: NonNull<libc::c_void>, size: usize) {
    // SAFETY: the caller gives its own mapping back.
    unsafe { libc::munmap(at.as_ptr(), size) };
}

/// Closes a file.
pub(super) fn close(file: i32) {
    // SAFETY: the caller owns it.
    unsafe { libc::close(file) };
}

fn pipe() -> io::Result<[i32; 2]> {
    let mut ends = [-1; 2];
    // SAFETY: room for two numbers.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ends)
}

impl Child {
    /// Forks a child that waits for its first batch.
    pub(super) fn start(shared: NonNull<Shared>, memory: i32) -> io::Result<Self> {
        let go = pipe()?;
        let done = pipe()?;
        // SAFETY: the child calls only functions that are safe after fork: it allocates nothing and takes no lock.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                GO.store(go[0], Ordering::Relaxed);
                DONE.store(done[1], Ordering::Relaxed);
                SHARED.store(shared.as_ptr(), Ordering::Relaxed);
                let failed = prepare(memory);
                if failed {
                    // SAFETY: leaves without running anything of the parent's.
                    unsafe { libc::_exit(1) }
                }
                serve()
            }
            _ => {
                close(go[0]);
                close(done[1]);
                Ok(Self {
                    pid,
                    go: go[1],
                    done: done[0],
                })
            }
        }
    }

    /// Lets the child run from `current` on; false when it died or did not come back in time.
    pub(super) fn run_batch(&mut self, patience_ms: i32) -> bool {
        if !put_byte(self.go) {
            return false;
        }
        let mut poll = libc::pollfd {
            fd: self.done,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one record.
        let ready = unsafe { libc::poll(&raw mut poll, 1, patience_ms) };
        ready == 1 && get_byte(self.done)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: our own child, not yet waited for.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        // SAFETY: no status wanted.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
        close(self.go);
        close(self.done);
    }
}

fn put_byte(to: i32) -> bool {
    let byte = 1u8;
    // SAFETY: one byte from the stack.
    unsafe { libc::write(to, (&raw const byte).cast(), 1) == 1 }
}

fn get_byte(from: i32) -> bool {
    let mut byte = 0u8;
    loop {
        // SAFETY: one byte to the stack.
        let got = unsafe { libc::read(from, (&raw mut byte).cast(), 1) };
        if got == 1 {
            return true;
        }
        // SAFETY: the place of this thread's errno.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: valid as long as the thread lives.
        if got == 0 || unsafe { *errno } != libc::EINTR {
            return false;
        }
    }
}

/// Maps the fixed views and installs the handlers. Returns true on failure.
fn prepare(memory: i32) -> bool {
    // SAFETY: asks to be killed when the parent goes.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let execute = libc::PROT_READ | libc::PROT_EXEC;
    let write = libc::PROT_READ | libc::PROT_WRITE;
    let mut failed = map_fixed(memory, CODE, CODE_LEN, 0, execute);
    for base in [DATA, DATA_HIGH] {
        failed |= map_fixed(memory, base, DATA_WRITABLE, CODE_LEN, write);
        failed |= map_fixed(
            memory,
            base + DATA_WRITABLE,
            PAGE,
            CODE_LEN + DATA_WRITABLE,
            libc::PROT_READ,
        );
    }
    if failed {
        return true;
    }
    // SAFETY: a fresh private mapping anywhere.
    let stack = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            SIGNAL_STACK,
            write,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    let alternate = libc::stack_t {
        ss_sp: stack,
        ss_flags: 0,
        ss_size: SIGNAL_STACK,
    };
    // SAFETY: the stack was just made, and nothing else uses it.
    failed |= unsafe { libc::sigaltstack(&raw const alternate, std::ptr::null_mut()) } != 0;
    // SAFETY: zero is a valid value for both records: no flags, empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
    action.sa_sigaction = trivet_diff_signal_entry as *const () as usize;
    for signal in [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGTRAP,
    ] {
        // SAFETY: the handler has the three-argument form that SA_SIGINFO asks for.
        failed |= unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0;
    }
    // SAFETY: an empty set.
    unsafe {
        libc::sigprocmask(
            libc::SIG_SETMASK,
            &raw const action.sa_mask,
            std::ptr::null_mut(),
        )
    };
    for (index, local) in segments::LOCAL.iter().enumerate() {
        const WRITE: libc::c_long = 0x11;
        let description = local.user_description(index);
        let size = size_of_val(&description);
        // SAFETY: the record has the layout that the kernel expects.
        let result =
            unsafe { libc::syscall(libc::SYS_modify_ldt, WRITE, description.as_ptr(), size) };
        // The kernel gives an int in a long.
        failed |= result as i32 != 0;
    }
    let fs: u64;
    // SAFETY: the parent has checked that the instruction is allowed.
    unsafe { core::arch::asm!("rdfsbase {}", out(reg) fs, options(nomem, nostack)) };
    // SAFETY: single-threaded from fork on.
    unsafe { TRIVET_DIFF_HOST_FS = fs };
    shared().code.fill(INT3);
    failed
}

fn map_fixed(memory: i32, at: u64, len: u64, offset: u64, protection: i32) -> bool {
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE | libc::MAP_FIXED_NOREPLACE;
    let wanted = at as *mut libc::c_void;
    // SAFETY: refuses to replace what is mapped already.
    let got = unsafe {
        libc::mmap(
            wanted,
            len as usize,
            protection,
            flags,
            memory,
            offset as i64,
        )
    };
    got != wanted
}

fn shared() -> &'static mut Shared {
    let at = SHARED.load(Ordering::Relaxed);
    // SAFETY: set before first use, mapped for the life of the child; the handler never nests.
    unsafe { &mut *at }
}

/// Waits for a batch and starts its first case.
fn serve() -> ! {
    if !get_byte(GO.load(Ordering::Relaxed)) {
        // SAFETY: the parent is gone.
        unsafe { libc::_exit(0) }
    }
    start_current()
}

/// Lays out memory and code of the current case and enters it.
fn start_current() -> ! {
    let shared = shared();
    let case = &shared.cases[shared.current.load(Ordering::Relaxed) as usize];
    if FILLED.load(Ordering::Relaxed) != case.pattern {
        let pattern = &shared.patterns[case.pattern as usize];
        shared.data.copy_from_slice(pattern);
        shared.before.copy_from_slice(pattern);
        FILLED.store(case.pattern, Ordering::Relaxed);
    }
    case.patch_into(&mut shared.data);
    case.patch_into(&mut shared.before);
    let (at, len) = case.code_place();
    shared.code[at..at + len].copy_from_slice(&case.bytes()[..len]);
    // SAFETY: every register value is allowed in user mode; the exception that ends the run is handled.
    unsafe { trivet_diff_enter(&raw const case.state) }
}

/// Takes the outcome of the current case from the signal frame and goes on to the next.
pub(super) unsafe extern "C" fn on_signal(
    _signal: i32,
    _info: *const libc::siginfo_t,
    context: *const libc::ucontext_t,
    fs_base: u64,
    gs_base: u64,
    selectors_read: u64,
) -> ! {
    let shared = shared();
    let current = shared.current.load(Ordering::Relaxed) as usize;
    let case = &shared.cases[current];
    let outcome = &mut shared.outcomes[current];
    // SAFETY: the kernel passes a complete frame.
    let machine = unsafe { &(*context).uc_mcontext };
    // SAFETY: the frame's floating-point part begins with an FXSAVE image.
    let fx = unsafe { &*machine.fpregs.cast::<[u8; 512]>() };
    let registers = &machine.gregs;
    let register = |index: i32| registers[index as usize] as u64;
    let state = &mut outcome.state;
    state.fx = *fx;
    // What follows the registers is the kernel's.
    state.fx[416..].fill(0);
    const ORDER: [i32; 16] = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
        libc::REG_R8,
        libc::REG_R9,
        libc::REG_R10,
        libc::REG_R11,
        libc::REG_R12,
        libc::REG_R13,
        libc::REG_R14,
        libc::REG_R15,
    ];
    for (index, from) in ORDER.into_iter().enumerate() {
        state.set_gpr(index, register(from));
    }
    state.set_rip(register(libc::REG_RIP));
    state.set_rflags(register(libc::REG_EFL));
    let selectors = register(libc::REG_CSGSFS);
    state.set_cs(selectors as u16);
    state.set_ss((selectors >> 48) as u16);
    state.fs_base = fs_base;
    state.gs_base = gs_base;
    state.ds = selectors_read & 0xffff;
    state.es = (selectors_read >> 16) & 0xffff;
    state.fs = (selectors_read >> 32) & 0xffff;
    state.gs = selectors_read >> 48;
    outcome.vector = register(libc::REG_TRAPNO);
    outcome.error_code = register(libc::REG_ERR);
    outcome.cr2 = register(libc::REG_CR2);
    let writable = &shared.data[..DATA_WRITABLE as usize];
    outcome.memory_changed = u64::from(writable != &shared.before[..DATA_WRITABLE as usize]);
    if outcome.memory_changed != 0 {
        outcome.memory.copy_from_slice(writable);
        FILLED.store(PATTERNS as u32, Ordering::Relaxed);
    } else if case.patch_len != 0 {
        let range = case.patch_at as usize..(case.patch_at + case.patch_len) as usize;
        let pattern = &shared.patterns[case.pattern as usize];
        shared.data[range.clone()].copy_from_slice(&pattern[range.clone()]);
        shared.before[range.clone()].copy_from_slice(&pattern[range]);
    }
    let (at, len) = case.code_place();
    shared.code[at..at + len].fill(INT3);
    if current + 1 < shared.count as usize {
        shared.current.store(current as u32 + 1, Ordering::Relaxed);
        start_current()
    }
    put_byte(DONE.load(Ordering::Relaxed));
    serve()
}
