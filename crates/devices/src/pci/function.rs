//! The part that all device functions share: configuration space, windows, MSI-X, pin and gates.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use thiserror::Error;
use vm_types::{Gate, IrqLine, MsiSink};

use super::bar::{BARS, Bar, BarMapper, BarWindow, MappingId, Space};
use super::config::{ConfigSpace, command, reg, status};
use super::endpoint::Endpoint;
use super::intx::IntxPin;
use super::msix::{Msix, MsixState};
use crate::sync::lock;

/// Capability id of MSI-X.
const CAP_MSIX: u8 = 0x11;
/// Bits of the MSI-X message control word that a guest can set.
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_FUNCTION_MASK: u16 = 1 << 14;
/// Where the first capability is put.
const FIRST_CAPABILITY: u16 = 0x40;

/// Who a function says that it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class, subclass and programming interface: `0x010802` for NVMe.
    pub class: u32,
    /// Revision.
    pub revision: u8,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
}

/// A mistake in a device's declaration; never the guest's doing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FunctionError {
    /// The register does not exist, is taken, or the size is not one that it can decode.
    #[error("base address register {index} cannot be {bar:?}")]
    Bar {
        /// Which register.
        index: usize,
        /// What was asked of it.
        bar: Bar,
    },
    /// The capabilities do not fit into 256 bytes.
    #[error("no room for capability {id:#04x}")]
    Capability {
        /// Its id.
        id: u8,
    },
}

/// Declares a [`Function`].
#[derive(Debug)]
pub struct FunctionBuilder {
    config: ConfigSpace,
    bars: [Option<Bar>; BARS],
    bar_count: usize,
    next_capability: u16,
    last_pointer: u16,
    msix: Option<(usize, u16, Msix)>,
    pin: Option<IntxPin>,
    gate: Gate,
    error: Option<FunctionError>,
}

impl FunctionBuilder {
    fn new(identity: Identity, header_type: u8) -> Self {
        let mut config = ConfigSpace::new();
        config.define(reg::VENDOR, &identity.vendor.to_le_bytes(), &[]);
        config.define(reg::DEVICE, &identity.device.to_le_bytes(), &[]);
        config.define(reg::COMMAND, &[0; 2], &command::WRITABLE.to_le_bytes());
        let class = identity.class << 8 | u32::from(identity.revision);
        config.define(reg::REVISION, &class.to_le_bytes(), &[]);
        config.define(reg::CACHE_LINE, &[0; 2], &[0xff; 2]);
        config.define(reg::HEADER_TYPE, &[header_type], &[]);
        if header_type == 0 {
            let vendor = identity.subsystem_vendor.to_le_bytes();
            config.define(reg::SUBSYSTEM_VENDOR, &vendor, &[]);
            config.define(reg::SUBSYSTEM, &identity.subsystem.to_le_bytes(), &[]);
        }
        Self {
            config,
            bars: [None; BARS],
            bar_count: if header_type == 0 { BARS } else { 2 },
            next_capability: FIRST_CAPABILITY,
            last_pointer: reg::CAPABILITIES,
            msix: None,
            pin: None,
            gate: Gate::closed(),
            error: None,
        }
    }

    /// Base address register `index` decodes `bar`.
    #[must_use]
    pub fn bar(mut self, index: usize, bar: Bar) -> Self {
        let last = index + usize::from(bar.wide);
        let free = last < self.bar_count
            && self.bars.get(index) == Some(&None)
            && self.bars.get(last) == Some(&None)
            && !(index > 0 && self.bars[index - 1].is_some_and(|below| below.wide));
        if !free || !bar.is_valid() {
            self.fail(FunctionError::Bar { index, bar });
            return self;
        }
        self.bars[index] = Some(bar);
        let offset = reg::BAR0 + index as u16 * 4;
        let mask = bar.address_mask().to_le_bytes();
        let value = u64::from(bar.flags()).to_le_bytes();
        let bytes = if bar.wide { 8 } else { 4 };
        self.config.define(offset, &value[..bytes], &mask[..bytes]);
        self
    }

    /// Adds a capability: `body` is what follows id and next pointer, `writable` its bits open to the
    /// guest (missing bytes: none). Capabilities are listed in the order of the calls; each starts at
    /// a multiple of 4.
    #[must_use]
    pub fn capability(mut self, id: u8, body: &[u8], writable: &[u8]) -> Self {
        self.add_capability(id, body, writable);
        self
    }

    /// Where the next capability will stand.
    pub fn next_capability_offset(&self) -> u16 {
        self.next_capability
    }

    fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Option<u16> {
        let offset = self.next_capability;
        let end = usize::from(offset) + 2 + body.len();
        if end > super::config::CONFIG_BYTES {
            self.fail(FunctionError::Capability { id });
            return None;
        }
        self.config.define(offset, &[id, 0], &[]);
        self.config.define(offset + 2, body, writable);
        self.config.define(self.last_pointer, &[offset as u8], &[]);
        self.config
            .set_bits(reg::STATUS, status::CAPABILITIES, true);
        self.last_pointer = offset + 1;
        self.next_capability = end.next_multiple_of(4) as u16;
        Some(offset)
    }

    /// Adds MSI-X with `vectors` vectors, its table and pending bits in a 32-bit window of their own in
    /// register `bar`. Messages pass only while bus mastering is on.
    #[must_use]
    pub fn msix(self, bar: usize, vectors: u16, sink: MsiSink) -> Self {
        // A closure, so that a gate that the sink has already stays in force.
        let sink = MsiSink::new(Arc::new(move |message| sink.send(message))).gated(&self.gate);
        let msix = Msix::new(vectors, sink);
        let pending = msix.pending_offset() as u32 | bar as u32;
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(msix.vector_count() - 1).to_le_bytes());
        body[2..6].copy_from_slice(&(bar as u32).to_le_bytes());
        body[6..].copy_from_slice(&pending.to_le_bytes());
        let control = MSIX_ENABLE | MSIX_FUNCTION_MASK;
        let mut this = self.bar(bar, Bar::memory32(msix.window_size()));
        if let Some(offset) = this.add_capability(CAP_MSIX, &body, &control.to_le_bytes()) {
            this.msix = Some((bar, offset, msix));
        }
        this
    }

    /// Declares the interrupt pin.
    #[must_use]
    pub fn interrupt_pin(mut self, pin: IntxPin) -> Self {
        self.config.define(reg::INTERRUPT_LINE, &[0], &[0xff]);
        self.config.define(reg::INTERRUPT_PIN, &[pin as u8], &[]);
        self.pin = Some(pin);
        self
    }

    /// Declares further bytes of the space, for registers that belong to one device only (PIRQ routes,
    /// bridge windows), with the bits of `writable` open to the guest.
    #[must_use]
    pub fn register(mut self, offset: u16, value: &[u8], writable: &[u8]) -> Self {
        self.config.define(offset, value, writable);
        self
    }

    /// The gate that bus mastering opens. A device makes its [`vm_types::GuestMemory`] handle with it.
    pub fn dma_gate(&self) -> Gate {
        self.gate.clone()
    }

    /// The function, or the first mistake in its declaration.
    pub fn build(self) -> Result<Function, FunctionError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        Ok(Function {
            power_on: self.config.clone(),
            state: Mutex::new(State {
                config: self.config,
                mapped: [const { None }; BARS],
                intx_asserted: false,
            }),
            bars: self.bars,
            msix: self.msix,
            pin: self.pin,
            gate: self.gate,
            wiring: OnceLock::new(),
        })
    }

    fn fail(&mut self, error: FunctionError) {
        self.error.get_or_insert(error);
    }
}

impl fmt::Debug for ConfigSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:04x}",
            self.u16(reg::VENDOR),
            self.u16(reg::DEVICE)
        )
    }
}

/// Configuration space, windows, MSI-X, interrupt pin and bus-master gate of one device function.
pub struct Function {
    power_on: ConfigSpace,
    state: Mutex<State>,
    bars: [Option<Bar>; BARS],
    /// Window, capability offset, state.
    msix: Option<(usize, u16, Msix)>,
    pin: Option<IntxPin>,
    gate: Gate,
    wiring: OnceLock<Wiring>,
}

struct State {
    config: ConfigSpace,
    mapped: [Option<Mapped>; BARS],
    /// What the device asks of its pin.
    intx_asserted: bool,
}

struct Mapped {
    base: u64,
    id: MappingId,
}

/// What the topology gives a function when it is plugged in.
struct Wiring {
    mapper: Arc<dyn BarMapper>,
    endpoint: Weak<dyn Endpoint>,
    intx: IrqLine,
}

/// The saved state of a [`Function`].
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct FunctionState {
    /// The bits that the guest has set: 256 bytes, two hexadecimal digits each.
    config: String,
    intx_asserted: bool,
    msix: Option<MsixState>,
}

impl Function {
    /// Declares a function with a type 0 header.
    pub fn builder(identity: Identity) -> FunctionBuilder {
        FunctionBuilder::new(identity, 0)
    }

    /// Declares a function with a type 1 header: two base address registers, no subsystem id.
    pub(super) fn bridge_builder(identity: Identity) -> FunctionBuilder {
        FunctionBuilder::new(identity, 1)
    }

    /// Open while bus mastering is on.
    pub fn dma_gate(&self) -> &Gate {
        &self.gate
    }

    /// The function's MSI-X, if it was declared with one.
    pub fn msix(&self) -> Option<&Msix> {
        self.msix.as_ref().map(|(_, _, msix)| msix)
    }

    /// The declared interrupt pin.
    pub fn interrupt_pin(&self) -> Option<IntxPin> {
        self.pin
    }

    /// The MSI-X whose table is in window `bar`.
    pub(super) fn msix_in(&self, bar: usize) -> Option<&Msix> {
        match &self.msix {
            Some((index, _, msix)) if *index == bar => Some(msix),
            _ => None,
        }
    }

    /// Fires MSI-X vector `vector`; see [`Msix::fire`].
    pub fn fire(&self, vector: u16) {
        if let Some(msix) = self.msix() {
            msix.fire(vector);
        }
    }

    /// Asks for the interrupt pin to be high or low. The guest may have disabled the pin, or MSI-X may
    /// have replaced it; the status bit is set all the same.
    pub fn set_intx(&self, asserted: bool) {
        let mut state = self.lock();
        if state.intx_asserted != asserted {
            state.intx_asserted = asserted;
            self.drive_pin(&mut state);
        }
    }

    /// Where a window is mapped now: space, first address, size. `None` while it is not decoded.
    pub fn bar_location(&self, bar: usize) -> Option<(Space, u64, u64)> {
        let declared = (*self.bars.get(bar)?)?;
        let base = self.lock().mapped.get(bar)?.as_ref()?.base;
        Some((declared.space, base, declared.size))
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        self.lock().config.u16(reg::COMMAND)
    }

    /// One byte of configuration space, as a guest would read it.
    pub fn config_u8(&self, offset: u16) -> u8 {
        self.lock().config.u8(offset)
    }

    /// Reads configuration space. Past 256 bytes there are zeroes.
    pub fn config_read(&self, offset: u16, data: &mut [u8]) {
        self.lock().config.read(offset, data);
    }

    /// Writes configuration space and does what follows: windows move, gates open and close.
    pub fn config_write(&self, offset: u16, data: &[u8]) {
        let mut state = self.lock();
        state.config.write(offset, data);
        self.settle(&mut state);
    }

    /// Back to the power-on state: nothing decoded, no bus mastering, pin low, MSI-X off.
    pub fn reset(&self) {
        let mut state = self.lock();
        // The multi-function bit is the topology's, not the guest's.
        let header = state.config.u8(reg::HEADER_TYPE);
        state.config = self.power_on.clone();
        state.config.define(reg::HEADER_TYPE, &[header], &[]);
        state.intx_asserted = false;
        if let Some(msix) = self.msix() {
            msix.reset();
        }
        self.settle(&mut state);
    }

    /// The state that a guest has made.
    pub fn save(&self) -> FunctionState {
        let state = self.lock();
        FunctionState {
            config: hex(&state.config.guest_bits()),
            intx_asserted: state.intx_asserted,
            msix: self.msix().map(Msix::save),
        }
    }

    /// Takes back a saved state and maps the windows accordingly.
    ///
    /// Errors (a text that says what is wrong) leave the function as it was.
    pub fn restore(&self, saved: &FunctionState) -> Result<(), String> {
        let config = bytes(&saved.config)
            .filter(|config| config.len() == super::config::CONFIG_BYTES)
            .ok_or("configuration space is no 256 bytes")?;
        let mut state = self.lock();
        match (self.msix(), &saved.msix) {
            (Some(msix), Some(saved)) => msix.restore(saved)?,
            (None, None) => {}
            _ => return Err("MSI-X on one side only".to_owned()),
        }
        state.config.write(0, &config);
        state.intx_asserted = saved.intx_asserted;
        self.settle(&mut state);
        Ok(())
    }

    /// Plugs the function in. The first call counts.
    pub(super) fn connect(
        &self,
        endpoint: Weak<dyn Endpoint>,
        mapper: Arc<dyn BarMapper>,
        intx: IrqLine,
    ) {
        let mut state = self.lock();
        self.wiring.get_or_init(|| Wiring {
            mapper,
            endpoint,
            intx,
        });
        self.settle(&mut state);
    }

    /// Says in the header that the device has several functions.
    pub(super) fn set_multifunction(&self) {
        let mut state = self.lock();
        let header = state.config.u8(reg::HEADER_TYPE) | 0x80;
        state.config.define(reg::HEADER_TYPE, &[header], &[]);
    }

    /// Makes windows, gates and pin agree with the registers.
    fn settle(&self, state: &mut State) {
        let command = state.config.u16(reg::COMMAND);
        self.gate.set(command & command::BUS_MASTER != 0);
        if let Some((_, offset, msix)) = &self.msix {
            let control = state.config.u16(*offset + 2);
            let enabled = control & MSIX_ENABLE != 0;
            let masked = control & MSIX_FUNCTION_MASK != 0;
            if enabled != msix.is_enabled() || masked != msix.function_masked() {
                msix.set_control(enabled, masked);
            }
        }
        self.drive_pin(state);
        if let Some(wiring) = self.wiring.get() {
            for index in 0..BARS {
                self.place_window(state, wiring, index, command);
            }
        }
    }

    fn place_window(&self, state: &mut State, wiring: &Wiring, index: usize, command: u16) {
        let Some(bar) = self.bars[index] else {
            return;
        };
        let decoded = match bar.space {
            Space::Port => command & command::IO_SPACE != 0,
            Space::Memory => command & command::MEMORY_SPACE != 0,
        };
        let offset = reg::BAR0 + index as u16 * 4;
        let low = u64::from(state.config.u32(offset));
        let high = match bar.wide {
            true => u64::from(state.config.u32(offset + 4)) << 32,
            false => 0,
        };
        let address = (high | low) & bar.address_mask();
        let wanted = decoded.then(|| bar.placed_at(address)).flatten();
        let slot = &mut state.mapped[index];
        if slot.as_ref().map(|mapped| mapped.base) == wanted {
            return;
        }
        if let Some(old) = slot.take() {
            wiring.mapper.unmap(old.id);
        }
        *slot = wanted.map(|base| {
            let window = BarWindow {
                endpoint: wiring.endpoint.clone(),
                index,
            };
            let id = wiring
                .mapper
                .map(bar.space, base, bar.size, Arc::new(window));
            Mapped { base, id }
        });
    }

    fn drive_pin(&self, state: &mut State) {
        let asserted = state.intx_asserted;
        state
            .config
            .set_bits(reg::STATUS, status::INTERRUPT, asserted);
        if let Some(wiring) = self.wiring.get() {
            let disabled = state.config.u16(reg::COMMAND) & command::INTX_DISABLE != 0;
            let replaced = self.msix().is_some_and(Msix::is_enabled);
            wiring.intx.set(asserted && !disabled && !replaced);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(wiring) = self.wiring.get() {
            for mapped in state.mapped.iter_mut().filter_map(Option::take) {
                wiring.mapper.unmap(mapped.id);
            }
            wiring.intx.set(false);
        }
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function")
            .field("id", &self.power_on)
            .field("bars", &self.bars)
            .field("msix", &self.msix())
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}
