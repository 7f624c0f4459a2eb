//! The backend that runs on our own CPU in software: works everywhere, needs nothing.
//!
//! It brings the local APICs; everything else is the machine's. With a host clock each vCPU runs on its
//! own thread for [`SLICE`] instructions at a time; with a virtual clock the caller runs them in turn and
//! moves the clock by what they executed.

use std::fmt;
use std::sync::Arc;

use softcpu::apic::Interconnect;
use softcpu::state::{Segment, Table};
use softcpu::{Bus, Cpu, Package, PackageConfig, Sleep, TimeBase};
use vm_types::{GuestAddress, GuestMemory, IrqSink, MsiSink};

use super::state::{SegmentState, TableState};
use super::{
    Capabilities, Exit, GuestIo, Hypervisor, HypervisorError, Kicker, NewVm, Suspend, Vcpu,
    VcpuState, VcpuStateError, Vm, VmConfig,
};
use crate::machine::config::ClockMode;

/// Instructions in one run of a vCPU on its own thread. Kicks and interrupts are noticed at once, so this
/// bounds nothing but the cost of coming back.
const SLICE: u64 = 10_000_000;

/// Rate of the time stamp counter: one tick a nanosecond, so that a virtual clock counts instructions.
const TSC_HZ: u64 = 1_000_000_000;

/// Rate of the local APIC timer before its divider.
const APIC_HZ: u64 = 1_000_000_000;

/// Start of the guest's random numbers in repeatable runs.
const SEED: u64 = 0x7269_7665_7421;

/// The backend. It has no state of its own: each machine stands alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Soft;

impl Hypervisor for Soft {
    fn name(&self) -> &'static str {
        "soft"
    }

    fn cpu_name(&self) -> &'static str {
        "Trivet virtual x86-64 processor"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            counts_instructions: true,
            ..Capabilities::default()
        }
    }

    fn create(&self, config: &VmConfig) -> Result<NewVm, HypervisorError> {
        if config.cpuid.is_some() {
            // What CPUID says and what the decoder takes are one table here.
            tracing::warn!(
                "[main] \"cpuid_profile\" is ignored: this CPU announces what it implements"
            );
        }
        let memory = GuestMemory::anonymous(&config.memory)?;
        let (time_base, random): (_, fn(usize, u64) -> (u64, u64)) = match config.clock_mode {
            ClockMode::Virtual => (TimeBase::Instructions, softcpu::seeded_random),
            ClockMode::Host => (TimeBase::Clock, system_random),
        };
        let (package, cpus) = Package::new(&PackageConfig {
            cpus: config.cpus as usize,
            memory: memory.clone(),
            bus: Arc::new(Wires(config.io.clone())),
            clock: config.clock.clone(),
            time_base,
            tsc_hz: TSC_HZ,
            apic_hz: APIC_HZ,
            random,
            random_seed: SEED,
        });
        let interconnect = package.interconnect().clone();
        let vcpus = cpus
            .into_iter()
            .map(|cpu| -> Box<dyn Vcpu> {
                let interconnect = interconnect.clone();
                Box::new(SoftVcpu { cpu, interconnect })
            })
            .collect();
        Ok(NewVm {
            vm: Arc::new(SoftVm { interconnect }),
            vcpus,
            memory,
        })
    }
}

/// Random bits of the operating system, mixed into the state so that a failure to read them shows as a
/// generator, not as zeroes.
fn system_random(cpu: usize, state: u64) -> (u64, u64) {
    let mut bytes = [0u8; 8];
    let read = std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
    let (state, value) = softcpu::seeded_random(cpu, state);
    match read {
        Ok(()) => (state, value ^ u64::from_le_bytes(bytes)),
        Err(_) => (state, value),
    }
}

/// The CPU's bus over the machine.
struct Wires(Arc<dyn GuestIo>);

impl Bus for Wires {
    fn read_port(&self, port: u16, data: &mut [u8]) {
        self.0.port_in(port, data);
    }
    fn write_port(&self, port: u16, data: &[u8]) {
        self.0.port_out(port, data);
    }
    fn read_mmio(&self, address: GuestAddress, data: &mut [u8]) {
        self.0.mmio_read(address, data);
    }
    fn write_mmio(&self, address: GuestAddress, data: &[u8]) {
        self.0.mmio_write(address, data);
    }
    fn acknowledge_interrupt(&self) -> Option<u8> {
        self.0.acknowledge_interrupt()
    }
    fn end_of_interrupt(&self, vector: u8) {
        self.0.end_of_interrupt(vector);
    }
}

#[derive(Debug)]
struct SoftVm {
    interconnect: Arc<Interconnect>,
}

/// The 8259's output as a set of one line.
struct Intr(Arc<Interconnect>);

impl IrqSink for Intr {
    fn raise(&self, _pin: u32) {
        self.0.set_intr(true);
    }
    fn lower(&self, _pin: u32) {
        self.0.set_intr(false);
    }
}

impl Vm for SoftVm {
    fn irqchip(&self) -> Option<Arc<dyn IrqSink>> {
        None
    }

    fn msi_sink(&self) -> MsiSink {
        self.interconnect.msi_sink()
    }

    fn interrupt_line(&self) -> Arc<dyn IrqSink> {
        Arc::new(Intr(self.interconnect.clone()))
    }

    fn inject_nmi(&self) {
        self.interconnect.pulse_nmi();
    }

    fn reset(&self) -> Result<(), HypervisorError> {
        // Everything that is not memory or a device belongs to a vCPU.
        Ok(())
    }
}

struct SoftVcpu {
    cpu: Cpu,
    interconnect: Arc<Interconnect>,
}

impl fmt::Debug for SoftVcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cpu.fmt(f)
    }
}

impl Vcpu for SoftVcpu {
    fn id(&self) -> u32 {
        self.cpu.id() as u32
    }

    fn run(&mut self) -> Exit {
        self.run_for(SLICE)
    }

    fn run_for(&mut self, instructions: u64) -> Exit {
        match self.cpu.run(instructions) {
            softcpu::Exit::Budget | softcpu::Exit::Interrupted => Exit::Interrupted,
            softcpu::Exit::TripleFault => Exit::Suspend(Suspend::TripleFault),
            softcpu::Exit::Halted => match self.cpu.sleep() {
                Sleep::Awake => Exit::Interrupted,
                Sleep::Until(moment) => Exit::Halted {
                    until: Some(moment),
                },
                Sleep::Indefinitely => Exit::Halted { until: None },
            },
        }
    }

    fn executed(&self) -> u64 {
        self.cpu.executed()
    }

    fn kicker(&self) -> Kicker {
        let interconnect = self.interconnect.clone();
        let id = self.cpu.id();
        Kicker::new(move || {
            if let Some(mailbox) = interconnect.mailbox(id) {
                mailbox.kick();
            }
        })
    }

    fn set_waker(&mut self, waker: Arc<dyn Fn() + Send + Sync>) {
        if let Some(mailbox) = self.interconnect.mailbox(self.cpu.id()) {
            mailbox.set_waker(waker);
        }
    }

    fn state(&self) -> VcpuState {
        let state = self.cpu.state();
        VcpuState {
            general: state.registers,
            rip: state.rip,
            rflags: state.rflags,
            segments: state.segments.map(segment_out),
            ldtr: segment_out(state.ldtr),
            tr: segment_out(state.tr),
            gdt: table_out(state.control.gdt),
            idt: table_out(state.control.idt),
            cr0: state.control.cr0,
            cr2: state.control.cr2,
            cr3: state.control.cr3,
            cr4: state.control.cr4,
            efer: state.control.efer,
            halted: state.halted,
        }
    }

    fn set_state(&mut self, state: &VcpuState) -> Result<(), VcpuStateError> {
        let mut whole = self.cpu.state();
        whole.registers = state.general;
        whole.rip = state.rip;
        whole.rflags = state.rflags;
        whole.segments = state.segments.map(segment_in);
        whole.ldtr = segment_in(state.ldtr);
        whole.tr = segment_in(state.tr);
        whole.control.gdt = table_in(state.gdt);
        whole.control.idt = table_in(state.idt);
        whole.control.cr0 = state.cr0;
        whole.control.cr2 = state.cr2;
        whole.control.cr3 = state.cr3;
        whole.control.cr4 = state.cr4;
        whole.control.efer = state.efer;
        whole.halted = state.halted;
        whole.waits_for_startup = false;
        self.cpu.set_state(&whole);
        Ok(())
    }

    fn reset(&mut self) {
        self.cpu.reset();
    }
}

fn segment_out(segment: Segment) -> SegmentState {
    SegmentState {
        selector: segment.selector,
        base: segment.base,
        limit: segment.limit,
        attributes: segment.attributes,
    }
}

fn segment_in(segment: SegmentState) -> Segment {
    Segment {
        selector: segment.selector,
        attributes: segment.attributes,
        limit: segment.limit,
        base: segment.base,
    }
}

fn table_out(table: Table) -> TableState {
    TableState {
        base: table.base,
        limit: table.limit,
    }
}

fn table_in(table: TableState) -> Table {
    Table {
        base: table.base,
        limit: table.limit,
    }
}
