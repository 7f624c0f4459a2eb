//! Request numbers: a base for each kind of object, and a number in it.

/// Requests to the control node.
const CONTROL: i32 = 0x0056_4d00;
/// Requests to a machine.
const MACHINE: i32 = 0x0076_6d00;
/// Requests to a machine that stop all its vCPUs meanwhile.
const LOCKED: i32 = 0x0076_6c00;
/// Requests to a vCPU, whose number is the argument's first word.
const VCPU: i32 = 0x0076_7000;

macro_rules! requests {
    ($base:expr; $($(#[$doc:meta])* $name:ident = $number:expr;)*) => {
        $($(#[$doc])* pub const $name: i32 = $base | $number;)*
    };
}

requests! { CONTROL;
    /// Makes a machine.
    VMM_CREATE_VM = 0x01;
    /// Destroys one.
    VMM_DESTROY_VM = 0x02;
    /// Whether this host can run machines.
    VMM_VM_SUPPORTED = 0x03;
    /// Gives the interface's version.
    VMM_INTERFACE_VERSION = 0x04;
    /// Whether there is an IOMMU.
    VMM_CHECK_IOMMU = 0x05;
    /// State of the memory reservoir.
    VMM_RESV_QUERY = 0x10;
    /// Sets its size.
    VMM_RESV_SET_TARGET = 0x11;
}

requests! { VCPU;
    /// Runs a vCPU until it exits; see [`crate::run`].
    VM_RUN = 0x01;
    /// Writes a register.
    VM_SET_REGISTER = 0x02;
    /// Reads a register.
    VM_GET_REGISTER = 0x03;
    /// Writes the hidden part of a segment or table register.
    VM_SET_SEGMENT_DESCRIPTOR = 0x04;
    /// Reads it.
    VM_GET_SEGMENT_DESCRIPTOR = 0x05;
    /// Writes several registers.
    VM_SET_REGISTER_SET = 0x06;
    /// Reads several.
    VM_GET_REGISTER_SET = 0x07;
    /// Makes an exception pending.
    VM_INJECT_EXCEPTION = 0x08;
    /// Turns a capability on or off.
    VM_SET_CAPABILITY = 0x09;
    /// Asks for its state.
    VM_GET_CAPABILITY = 0x0a;
    /// xAPIC or x2APIC.
    VM_SET_X2APIC_STATE = 0x0d;
    /// Linear to physical.
    VM_GLA2GPA = 0x0e;
    /// The same without a fault.
    VM_GLA2GPA_NOFAULT = 0x0f;
    /// Lets a vCPU be run.
    VM_ACTIVATE_CPU = 0x10;
    /// Writes pending event information.
    VM_SET_INTINFO = 0x11;
    /// Reads it.
    VM_GET_INTINFO = 0x12;
    /// Runs the instruction again.
    VM_RESTART_INSTRUCTION = 0x13;
    /// RESET or INIT.
    VM_RESET_CPU = 0x16;
    /// Waiting for INIT, SIPI, or running.
    VM_GET_RUN_STATE = 0x17;
    /// Sets that.
    VM_SET_RUN_STATE = 0x18;
    /// Reads the FPU area.
    VM_GET_FPU = 0x19;
    /// Writes it.
    VM_SET_FPU = 0x1a;
    /// Reads the CPUID table.
    VM_GET_CPUID = 0x1b;
    /// Writes it.
    VM_SET_CPUID = 0x1c;
    /// What CPUID would say without a table.
    VM_LEGACY_CPUID = 0x1d;
}

requests! { LOCKED;
    /// Back to the state after creation; named memory segments have to be mapped again.
    VM_REINIT = 0x01;
    /// Allocates a memory segment.
    VM_ALLOC_MEMSEG = 0x05;
    /// Maps it into the guest.
    VM_MMAP_MEMSEG = 0x06;
    /// Where the PM timer is; the port is the argument itself.
    VM_PMTMR_LOCATE = 0x07;
    /// Takes a mapping out.
    VM_MUNMAP_MEMSEG = 0x08;
    /// Time and devices stand still.
    VM_PAUSE = 0x0a;
    /// They go on.
    VM_RESUME = 0x0b;
}

requests! { MACHINE;
    /// Raises a vector in a local APIC.
    VM_LAPIC_IRQ = 0x04;
    /// Raises a local interrupt.
    VM_LAPIC_LOCAL_IRQ = 0x05;
    /// Delivers a message-signalled interrupt.
    VM_LAPIC_MSI = 0x06;
    /// Drives an IOAPIC pin high.
    VM_IOAPIC_ASSERT_IRQ = 0x07;
    /// Drives it low.
    VM_IOAPIC_DEASSERT_IRQ = 0x08;
    /// High and low.
    VM_IOAPIC_PULSE_IRQ = 0x09;
    /// Drives a PIC pin, and an IOAPIC pin with it, high.
    VM_ISA_ASSERT_IRQ = 0x0a;
    /// Drives both low.
    VM_ISA_DEASSERT_IRQ = 0x0b;
    /// High and low.
    VM_ISA_PULSE_IRQ = 0x0c;
    /// Edge or level.
    VM_ISA_SET_IRQ_TRIGGER = 0x0d;
    /// Writes CMOS memory.
    VM_RTC_WRITE = 0x0e;
    /// Reads it.
    VM_RTC_READ = 0x0f;
    /// Sets the time of day.
    VM_RTC_SETTIME = 0x10;
    /// Reads it.
    VM_RTC_GETTIME = 0x11;
    /// Suspends the machine: reset, power-off, halt or triple fault.
    VM_SUSPEND = 0x12;
    /// How many pins the IOAPIC has.
    VM_IOAPIC_PINCOUNT = 0x13;
    /// What the HPET can do.
    VM_GET_HPET_CAPABILITIES = 0x15;
    /// Counters.
    VM_STATS = 0x16;
    /// Their names.
    VM_STAT_DESC = 0x17;
    /// A non-maskable interrupt.
    VM_INJECT_NMI = 0x18;
    /// Sets sockets, cores and threads.
    VM_SET_TOPOLOGY = 0x1a;
    /// Reads them.
    VM_GET_TOPOLOGY = 0x1b;
    /// Which vCPUs are active.
    VM_GET_CPUS = 0x1c;
    /// Stops a vCPU for a debugger.
    VM_SUSPEND_CPU = 0x1d;
    /// Lets it go on.
    VM_RESUME_CPU = 0x1e;
    /// Pages written since the last call.
    VM_TRACK_DIRTY_PAGES = 0x20;
    /// How the FPU area is laid out.
    VM_DESC_FPU_AREA = 0x21;
    /// Reads a class of state; see [`crate::state`].
    VM_DATA_READ = 0x22;
    /// Writes one.
    VM_DATA_WRITE = 0x23;
    /// The machine goes when its last handle does.
    VM_SET_AUTODESTRUCT = 0x24;
    /// The machine goes now.
    VM_DESTROY_SELF = 0x25;
    /// Whether it is going.
    VM_DESTROY_PENDING = 0x26;
    /// A vCPU has been outside the guest since.
    VM_VCPU_BARRIER = 0x27;
    /// Operations on nested page tables: dirty bits by range.
    VM_NPT_OPERATION = 0x28;
    /// Where a memory segment is mapped from.
    VM_DEVMEM_GETOFFSET = 0xff;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_spell_their_letters() {
        let letters = |high: u8, low: u8| i32::from(high) << 16 | i32::from(low) << 8;
        assert_eq!(VMM_CREATE_VM, letters(b'V', b'M') | 1);
        assert_eq!(VM_RUN, letters(b'v', b'p') | 1);
        assert_eq!(VM_REINIT, letters(b'v', b'l') | 1);
        assert_eq!(VM_LAPIC_MSI, letters(b'v', b'm') | 6);
    }
}
