//! Get Features and Set Features.
//!
//! Source: NVM Express Base 1.4, 5.14.1 and 5.21.1. No feature can be saved: a power cycle is a new
//! machine, whose configuration file says how it begins. So the saved value is the default one.

use super::super::command::{ALL_NAMESPACES, Command};
use super::super::namespace::{NAMESPACE, Namespace};
use super::super::shared::{Core, Shared};
use super::super::status::Status;
use super::events::{CONFIGURABLE, Event};
use super::logs;

/// Feature identifiers.
mod id {
    pub(super) const ARBITRATION: u8 = 0x01;
    pub(super) const POWER_MANAGEMENT: u8 = 0x02;
    pub(super) const TEMPERATURE_THRESHOLD: u8 = 0x04;
    pub(super) const ERROR_RECOVERY: u8 = 0x05;
    pub(super) const VOLATILE_WRITE_CACHE: u8 = 0x06;
    pub(super) const NUMBER_OF_QUEUES: u8 = 0x07;
    pub(super) const INTERRUPT_COALESCING: u8 = 0x08;
    pub(super) const INTERRUPT_VECTOR: u8 = 0x09;
    pub(super) const WRITE_ATOMICITY: u8 = 0x0a;
    pub(super) const ASYNC_EVENTS: u8 = 0x0b;
}

/// The current values.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(in super::super) struct Features {
    arbitration: u32,
    over_temperature: u16,
    under_temperature: u16,
    error_recovery: u32,
    pub(in super::super) write_cache: bool,
    /// I/O queues of each direction that the guest may create.
    pub(in super::super) submission_queues: u16,
    pub(in super::super) completion_queues: u16,
    /// Stored and reported; a threshold of zero, the default, is what the device does in any case.
    coalescing: u32,
    /// The vectors for which coalescing is disabled.
    uncoalesced: Vec<u16>,
    write_atomicity: u32,
    pub(in super::super) async_events: u32,
}

impl Features {
    /// The values after a reset, on a controller with this many I/O queues.
    pub(in super::super) fn new(io_queues: u16) -> Self {
        Self {
            arbitration: 0,
            over_temperature: logs::WARNING_TEMPERATURE,
            under_temperature: 0,
            error_recovery: 0,
            write_cache: true,
            // A guest that never asks (firmware) may use all of them.
            submission_queues: io_queues,
            completion_queues: io_queues,
            coalescing: 0,
            uncoalesced: Vec::new(),
            write_atomicity: 0,
            async_events: 0,
        }
    }

    /// Whether the composite temperature is outside the thresholds.
    pub(in super::super) const fn temperature_alarm(&self) -> bool {
        logs::TEMPERATURE >= self.over_temperature || logs::TEMPERATURE <= self.under_temperature
    }

    /// The same, and the guest wants to hear of it.
    const fn wants_alarm(&self) -> bool {
        self.temperature_alarm() && self.async_events & logs::TEMPERATURE_WARNING as u32 != 0
    }

    /// The answer's word 0 for feature `id`, `word` being the command's word 11.
    fn get(&self, id: u8, word: u32, shared: &Shared) -> Result<u32, Status> {
        Ok(match id {
            id::ARBITRATION => self.arbitration,
            id::POWER_MANAGEMENT => 0,
            id::TEMPERATURE_THRESHOLD => match Threshold::of(word, Sensors::One)? {
                Threshold::Over => u32::from(self.over_temperature),
                Threshold::Under => u32::from(self.under_temperature),
            },
            id::ERROR_RECOVERY => self.error_recovery,
            id::VOLATILE_WRITE_CACHE if has_cache(shared) => u32::from(self.write_cache),
            id::NUMBER_OF_QUEUES => {
                let submission = u32::from(self.submission_queues) - 1;
                let completion = u32::from(self.completion_queues) - 1;
                submission | completion << 16
            }
            id::INTERRUPT_COALESCING => self.coalescing,
            id::INTERRUPT_VECTOR => {
                let vector = check_vector(word, shared)?;
                let disabled = self.uncoalesced.contains(&vector);
                u32::from(vector) | u32::from(disabled) << 16
            }
            id::WRITE_ATOMICITY => self.write_atomicity,
            id::ASYNC_EVENTS => self.async_events,
            _ => return Err(Status::INVALID_FIELD),
        })
    }
}

fn has_cache(shared: &Shared) -> bool {
    shared.namespace.info().volatile_cache
}

fn check_vector(word: u32, shared: &Shared) -> Result<u16, Status> {
    let vector = word as u16;
    let count = shared.function.msix().map_or(0, |m| m.vector_count());
    if vector < count {
        Ok(vector)
    } else {
        Err(Status::INVALID_FIELD)
    }
}

/// The two thresholds of the composite temperature.
enum Threshold {
    Over,
    Under,
}

#[derive(PartialEq)]
enum Sensors {
    One,
    OneOrAll,
}

impl Threshold {
    /// From the THSEL and TMPSEL fields; sensor 0 is the composite temperature, and there is no other.
    fn of(word: u32, sensors: Sensors) -> Result<Self, Status> {
        let known = match word >> 16 & 0xf {
            0 => true,
            0xf => sensors == Sensors::OneOrAll,
            _ => false,
        };
        match (known, word >> 20 & 3) {
            (true, 0) => Ok(Self::Over),
            (true, 1) => Ok(Self::Under),
            _ => Err(Status::INVALID_FIELD),
        }
    }
}

/// Get Features. SEL 0 current, 1 default, 2 saved, 3 supported capabilities.
pub(in super::super) fn get(
    shared: &Shared,
    core: &Core,
    defaults: &Features,
    command: &Command,
) -> Result<u32, Status> {
    check_namespace(command)?;
    let id = command.dwords[10] as u8;
    let word = command.dwords[11];
    match command.dwords[10] >> 8 & 7 {
        0 => core.features.get(id, word, shared),
        1 | 2 => defaults.get(id, word, shared),
        3 => {
            // Fails for what does not exist. A vector or sensor is not looked at here.
            defaults.get(id, 0, shared)?;
            let changeable = 1 << 2;
            Ok(changeable)
        }
        _ => Err(Status::INVALID_FIELD),
    }
}

fn check_namespace(command: &Command) -> Result<(), Status> {
    match command.namespace() {
        0 | ALL_NAMESPACES => Ok(()),
        id => Namespace::check_id(id),
    }
}

/// Set Features. Returns word 0 of the answer.
pub(in super::super) fn set(
    shared: &Shared,
    core: &mut Core,
    io_queues: u16,
    queues_exist: bool,
    command: &Command,
) -> Result<u32, Status> {
    let id = command.dwords[10] as u8;
    let word = command.dwords[11];
    // First whether there is such a feature, so that "not saveable" is said of existing ones only.
    Features::new(io_queues).get(id, 0, shared)?;
    if command.dwords[10] & 1 << 31 != 0 {
        return Err(Status::FEATURE_NOT_SAVEABLE);
    }
    check_namespace(command)?;
    // Error recovery belongs to namespaces; all others to the controller.
    if command.namespace() == NAMESPACE && id != id::ERROR_RECOVERY {
        return Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC);
    }
    let alarm_before = core.features.wants_alarm();
    let features = &mut core.features;
    match id {
        id::ARBITRATION => features.arbitration = word,
        // One power state, and we are in it.
        id::POWER_MANAGEMENT if word & 0x1f != 0 => return Err(Status::INVALID_FIELD),
        id::POWER_MANAGEMENT => {}
        id::TEMPERATURE_THRESHOLD => {
            let value = word as u16;
            match Threshold::of(word, Sensors::OneOrAll)? {
                Threshold::Over => features.over_temperature = value,
                Threshold::Under => features.under_temperature = value,
            }
        }
        // Errors for deallocated blocks cannot be enabled: the namespace does not announce them.
        id::ERROR_RECOVERY if word & 1 << 16 != 0 => return Err(Status::INVALID_FIELD),
        id::ERROR_RECOVERY => features.error_recovery = word & 0xffff,
        id::VOLATILE_WRITE_CACHE => {
            features.write_cache = word & 1 != 0;
            shared.set_write_through(!features.write_cache);
        }
        id::NUMBER_OF_QUEUES => return set_queues(core, io_queues, queues_exist, word),
        id::INTERRUPT_COALESCING => features.coalescing = word & 0xffff,
        id::INTERRUPT_VECTOR => {
            let vector = check_vector(word, shared)?;
            features.uncoalesced.retain(|other| *other != vector);
            if word & 1 << 16 != 0 {
                features.uncoalesced.push(vector);
            }
        }
        id::WRITE_ATOMICITY => features.write_atomicity = word & 1,
        id::ASYNC_EVENTS => {
            features.async_events = word & CONFIGURABLE;
        }
        _ => return Err(Status::INVALID_FIELD),
    }
    if !alarm_before && core.features.wants_alarm() {
        shared.announce(core, Event::Temperature);
    }
    Ok(0)
}

/// Counts from zero; the guest gets what it asked for or what there is.
fn set_queues(
    core: &mut Core,
    io_queues: u16,
    queues_exist: bool,
    word: u32,
) -> Result<u32, Status> {
    let (submission, completion) = (word as u16, (word >> 16) as u16);
    // 65,535 would be one queue more than can be named.
    if submission == u16::MAX || completion == u16::MAX {
        return Err(Status::INVALID_FIELD);
    }
    if queues_exist {
        return Err(Status::SEQUENCE_ERROR);
    }
    let features = &mut core.features;
    features.submission_queues = (submission + 1).min(io_queues);
    features.completion_queues = (completion + 1).min(io_queues);
    let granted = u32::from(features.submission_queues) - 1;
    Ok(granted | (u32::from(features.completion_queues) - 1) << 16)
}
