//! The entropy device: random bytes for the guest.
//!
//! Source: Virtio 1.2, 5.4. The bytes come from a source that the machine's builder chooses: the
//! operating system, or a seed where two runs must be alike.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::device::Device;
use super::ring::Chain;
use super::shared::Shared;
use super::transport::{Interface, Kind, Virtio, VirtioPorts};
use crate::pci::FunctionError;

const ENTROPY: Kind = Kind {
    id: 4,
    transitional: 0x1005,
    class: 0x00_ff_00,
};

/// Entries of the one queue.
const QUEUE_SIZE: u16 = 64;

/// Most bytes that one request is given. The rest of its buffers stays as it was, which the format
/// allows; so a guest's notification costs it, and not the others, a bounded time.
const REQUEST_MAX: usize = 1024;

/// Where random bytes come from. Clones draw from the same source.
#[derive(Clone)]
pub struct Entropy(Arc<dyn Fn(&mut [u8]) -> std::io::Result<()> + Send + Sync>);

impl Entropy {
    /// A source that fills buffers with `fill`: in a machine, from the operating system.
    ///
    /// ```
    /// use std::{fs::File, io::Read, sync::Arc};
    /// use devices::virtio::Entropy;
    ///
    /// let random = File::open("/dev/urandom")?;
    /// let source = Entropy::new(Arc::new(move |bytes| (&random).read_exact(bytes)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new(fill: Arc<dyn Fn(&mut [u8]) -> std::io::Result<()> + Send + Sync>) -> Self {
        Self(fill)
    }

    /// A generator that gives the same bytes for the same seed. For machines whose runs must be alike;
    /// whoever knows the seed knows the bytes.
    pub fn seeded(seed: u64) -> Self {
        let state = Mutex::new(seed);
        Self::new(Arc::new(move |bytes| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            for part in bytes.chunks_mut(8) {
                // splitmix64.
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut x = *state;
                x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                x ^= x >> 31;
                let count = part.len();
                part.copy_from_slice(&x.to_le_bytes()[..count]);
            }
            Ok(())
        }))
    }

    fn fill(&self, bytes: &mut [u8]) -> std::io::Result<()> {
        (self.0)(bytes)
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entropy").finish_non_exhaustive()
    }
}

struct EntropyDevice {
    shared: Arc<Shared>,
    source: Entropy,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    paused: bool,
    chain: Chain,
}

impl Virtio {
    /// An entropy device. Requests are served on the thread that notifies. Errors: a mistake in this
    /// module's own declarations.
    pub fn entropy(
        ports: &VirtioPorts,
        source: Entropy,
        name: &str,
        interface: Interface,
    ) -> Result<Arc<Self>, FunctionError> {
        Self::new(name, ports, ENTROPY, interface, &[QUEUE_SIZE], |shared| {
            Arc::new(EntropyDevice {
                shared: shared.clone(),
                source,
                state: Mutex::default(),
            })
        })
    }
}

impl EntropyDevice {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills the chain's buffers; how many bytes.
    fn fill(&self, chain: &Chain) -> usize {
        let mut done = 0;
        let mut bytes = [0; REQUEST_MAX];
        for segment in &chain.writable {
            let count = (segment.length as usize).min(REQUEST_MAX - done);
            if count == 0 {
                continue;
            }
            let part = &mut bytes[..count];
            if let Err(error) = self.source.fill(part) {
                tracing::warn!(device = self.shared.name, %error, "no random bytes to be had");
                break;
            }
            if self.shared.memory.write(segment.address, part).is_err() {
                break;
            }
            done += count;
        }
        done
    }
}

impl Device for EntropyDevice {
    fn kind(&self) -> &'static str {
        "virtio-entropy"
    }

    fn features(&self) -> u64 {
        0
    }

    fn config_read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn notify(&self, queue: u16) {
        self.shared.serve(queue, |service| {
            let state = &mut *self.lock();
            if state.paused {
                return;
            }
            // Twice around is more than a driver offers at once; what comes later notifies again.
            for _ in 0..2 * QUEUE_SIZE {
                let Some(head) = service.pop(&mut state.chain) else {
                    break;
                };
                let written = self.fill(&state.chain) as u32;
                service.answer(service.generation(), head, written);
            }
        });
    }

    fn pause(&self) {
        self.lock().paused = true;
    }

    fn resume(&self) {
        self.lock().paused = false;
    }
}
