//! A backend that runs a script instead of a guest: for tests of everything above.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use vm_types::{GuestAddress, GuestMemory, IrqSink, MsiMessage, MsiSink};

use super::{
    Capabilities, Exit, GuestIo, Hypervisor, HypervisorError, Kicker, NewVm, Vcpu, VcpuState,
    VcpuStateError, Vm, VmConfig,
};

/// One thing that a scripted vCPU does in [`Vcpu::run`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// OUT of these bytes.
    Out(u16, Vec<u8>),
    /// IN of this many bytes; the result is noted in [`Fake::inputs`].
    In(u16, usize),
    /// A store of these bytes.
    Store(u64, Vec<u8>),
    /// A load of this many bytes; noted as well.
    Load(u64, usize),
    /// Come back with this exit.
    Exit(Exit),
    /// Spin until kicked.
    Spin,
}

/// A backend whose vCPU `n` runs script `n`; without a script, or after its end, a vCPU is halted. A
/// reset begins the scripts again.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    /// The scripts.
    pub scripts: Vec<Vec<Step>>,
    /// What it claims to bring along.
    pub capabilities: Capabilities,
    /// What the scripts' inputs and loads gave.
    pub inputs: Inputs,
}

/// What scripts have read so far, oldest first. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct Inputs(Arc<Mutex<Vec<Vec<u8>>>>);

impl Inputs {
    /// Takes the list.
    pub fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *lock(&self.0))
    }

    fn note(&self, data: Vec<u8>) {
        lock(&self.0).push(data);
    }
}

impl Hypervisor for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn cpu_name(&self) -> &'static str {
        "script"
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn create(&self, config: &VmConfig) -> Result<NewVm, HypervisorError> {
        let vm = Arc::new(FakeVm::default());
        let vcpus = (0..config.cpus)
            .map(|id| -> Box<dyn Vcpu> {
                let script = self.scripts.get(id as usize).cloned().unwrap_or_default();
                Box::new(FakeVcpu {
                    id,
                    steps: script.clone().into(),
                    script,
                    io: config.io.clone(),
                    vm: vm.clone(),
                    inputs: self.inputs.clone(),
                    kicked: Arc::default(),
                    state: VcpuState::default(),
                })
            })
            .collect();
        Ok(NewVm {
            vm,
            vcpus,
            memory: GuestMemory::anonymous(&config.memory)?,
        })
    }
}

/// The machine of a [`Fake`], which remembers what it was told.
#[derive(Default)]
pub struct FakeVm {
    messages: Arc<Mutex<Vec<MsiMessage>>>,
    resets: AtomicU64,
    nmis: AtomicU64,
    waker: OnceLock<Arc<dyn Fn() + Send + Sync>>,
}

impl FakeVm {
    /// Messages sent so far.
    pub fn messages(&self) -> Vec<MsiMessage> {
        lock(&self.messages).clone()
    }

    /// How often it was reset.
    pub fn resets(&self) -> u64 {
        self.resets.load(Ordering::SeqCst)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for FakeVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeVm")
            .field("resets", &self.resets)
            .finish_non_exhaustive()
    }
}

struct NoPins;
impl IrqSink for NoPins {
    fn raise(&self, _pin: u32) {}
    fn lower(&self, _pin: u32) {}
}

impl Vm for FakeVm {
    fn irqchip(&self) -> Option<Arc<dyn IrqSink>> {
        None
    }

    fn msi_sink(&self) -> MsiSink {
        let messages = self.messages.clone();
        MsiSink::new(Arc::new(move |message| lock(&messages).push(message)))
    }

    fn interrupt_line(&self) -> Arc<dyn IrqSink> {
        Arc::new(NoPins)
    }

    fn inject_nmi(&self) {
        self.nmis.fetch_add(1, Ordering::SeqCst);
        if let Some(waker) = self.waker.get() {
            waker();
        }
    }

    fn reset(&self) -> Result<(), HypervisorError> {
        self.resets.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

struct FakeVcpu {
    id: u32,
    script: Vec<Step>,
    steps: VecDeque<Step>,
    io: Arc<dyn GuestIo>,
    vm: Arc<FakeVm>,
    inputs: Inputs,
    kicked: Arc<AtomicBool>,
    state: VcpuState,
}

impl fmt::Debug for FakeVcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeVcpu")
            .field("id", &self.id)
            .field("left", &self.steps.len())
            .finish_non_exhaustive()
    }
}

impl Vcpu for FakeVcpu {
    fn id(&self) -> u32 {
        self.id
    }

    fn run(&mut self) -> Exit {
        loop {
            if self.kicked.swap(false, Ordering::SeqCst) {
                return Exit::Interrupted;
            }
            match self.steps.pop_front() {
                Some(Step::Out(port, data)) => self.io.port_out(port, &data),
                Some(Step::In(port, length)) => {
                    let mut data = vec![0; length];
                    self.io.port_in(port, &mut data);
                    self.inputs.note(data);
                }
                Some(Step::Store(at, data)) => self.io.mmio_write(GuestAddress(at), &data),
                Some(Step::Load(at, length)) => {
                    let mut data = vec![0; length];
                    self.io.mmio_read(GuestAddress(at), &mut data);
                    self.inputs.note(data);
                }
                Some(Step::Exit(exit)) => return exit,
                Some(Step::Spin) => {
                    self.steps.push_front(Step::Spin);
                    std::thread::yield_now();
                }
                None => return Exit::Halted { until: None },
            }
        }
    }

    fn kicker(&self) -> Kicker {
        let kicked = self.kicked.clone();
        Kicker::new(move || kicked.store(true, Ordering::SeqCst))
    }

    fn set_waker(&mut self, waker: Arc<dyn Fn() + Send + Sync>) {
        self.vm.waker.get_or_init(|| waker);
    }

    fn state(&self) -> VcpuState {
        self.state.clone()
    }

    fn set_state(&mut self, state: &VcpuState) -> Result<(), VcpuStateError> {
        self.state = state.clone();
        Ok(())
    }

    fn reset(&mut self) {
        self.state = VcpuState::default();
        self.steps = self.script.clone().into();
    }
}
