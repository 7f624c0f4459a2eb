//! `/dev/viona`: the data path of virtio network devices in the kernel.

const VIONA: i32 = 0x0056_4300;

/// Version of the interface that these numbers are of.
pub const INTERFACE_VERSION: i32 = 6;

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident = $number:expr;)*) => {
        $($(#[$doc])* pub const $name: i32 = VIONA | $number;)*
    };
}

requests! {
    /// Binds the handle to a link and a machine.
    CREATE = 0x01;
    /// Undoes that.
    DELETE = 0x02;
    /// Gives the interface's version.
    VERSION = 0x03;
    /// The parameters' defaults.
    DEFAULT_PARAMS = 0x04;
    /// Sets a ring up, in the way before virtio 1.0.
    RING_INIT = 0x10;
    /// Takes it down.
    RING_RESET = 0x11;
    /// The guest has put something into it.
    RING_KICK = 0x12;
    /// Where its interrupts go.
    RING_SET_MSI = 0x13;
    /// The guest has seen its interrupt.
    RING_INTR_CLR = 0x14;
    /// Sets indices and addresses.
    RING_SET_STATE = 0x15;
    /// Reads them.
    RING_GET_STATE = 0x16;
    /// Stops it, keeping its indices.
    RING_PAUSE = 0x17;
    /// Sets a ring up, in the way of virtio 1.0.
    RING_INIT_MODERN = 0x18;
    /// Which of the first two rings want an interrupt.
    INTR_POLL = 0x20;
    /// Sets the features that the guest accepted.
    SET_FEATURES = 0x21;
    /// What the kernel offers.
    GET_FEATURES = 0x22;
    /// The port whose writes are kicks.
    SET_NOTIFY_IOP = 0x23;
    /// Which frames to take: none but ours, multicast, all.
    SET_PROMISC = 0x24;
    /// Reads parameters.
    GET_PARAMS = 0x25;
    /// Sets them.
    SET_PARAMS = 0x26;
    /// Reads the MTU.
    GET_MTU = 0x27;
    /// Sets it.
    SET_MTU = 0x28;
    /// The address whose writes are kicks.
    SET_NOTIFY_MMIO = 0x29;
    /// Which rings want an interrupt, as a bitmap.
    INTR_POLL_MQ = 0x2a;
    /// How many pairs of rings there are.
    GET_PAIRS = 0x30;
    /// Sets that. Rings outside the pairs cannot be reset.
    SET_PAIRS = 0x31;
    /// How many are in use.
    GET_USEPAIRS = 0x32;
    /// Sets that.
    SET_USEPAIRS = 0x33;
}

/// Most pairs of rings.
pub const PAIRS_MAX: u16 = 256;
/// Most bytes of packed parameters.
pub const PARAMS_BYTES_MAX: usize = 4096;
