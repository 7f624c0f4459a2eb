//! The workloads as sequences of operations. The same kind, field, demand and seed give the same sequence; every
//! read and write in it lies within the volume.

use vm_types::Span;

use super::draw::Draws;

/// The largest read or write of any workload, in bytes.
pub const IO_BYTES_MAX: u64 = 16 << 20;
/// The largest read or write of workloads of random sizes, in bytes.
const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// One thing to do. Operations are under way together as far as the depth allows, and take effect in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read, and verify what is known.
    Read {
        /// First block.
        start: u64,
        /// How many blocks.
        count: u64,
    },
    /// Write.
    Write {
        /// First block.
        start: u64,
        /// How many blocks.
        count: u64,
    },
    /// Flush.
    Flush,
    /// Wait until nothing is under way.
    Drain,
    /// Deactivate, and activate with the next generation.
    Reactivate,
    /// Do nothing for a while.
    Pause(Span),
}

/// The volume as a workload sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// In bytes.
    pub block_size: u32,
    /// At least one.
    pub blocks: u64,
    /// In blocks, at least one.
    pub blocks_per_extent: u64,
}

/// What a user may wish of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Decides all that is random.
    pub seed: u64,
    /// How many operations, rounds or laps; what is meant depends on the kind. `None`: the kind's default.
    pub count: Option<u64>,
    /// Size of an operation in blocks, where the kind has one. `None`: the kind's default.
    pub io_blocks: Option<u64>,
}

/// The workloads that need nothing but a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Writes and reads at the volume's start that grow block by block to a whole extent.
    Balloon,
    /// A read behind a queue of writes: how long does it take?
    Bufferbloat,
    /// All blocks, extent by extent.
    Big,
    /// The largest operations there can be.
    Biggest,
    /// Bursts of operations with pauses between them.
    Burst,
    /// Deactivations and activations with operations between them.
    Deactivate,
    /// A mix of everything.
    Demo,
    /// Many operations that overlap, under way together.
    Dep,
    /// Writes, and no flush after them.
    Dirty,
    /// All blocks, written.
    FastFill,
    /// All blocks, written and read back.
    Fill,
    /// A random mix of reads, writes and flushes.
    Generic,
    /// Random reads.
    GenericRead,
    /// One write, one flush, one read.
    One,
    /// Random reads of one size, as many as can be.
    RandRead,
    /// Random writes of one size, as many as can be.
    RandWrite,
    /// Writes and reads over every border of extents.
    Span,
    /// All blocks, read.
    Verify,
    /// A write, a flush, a read, and again.
    Wfr,
    /// Whatever, wherever, of whatever size.
    Yolo,
}

/// Operations in order.
pub type Steps = Box<dyn Iterator<Item = Step> + Send>;

impl Kind {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Balloon,
        Self::Bufferbloat,
        Self::Big,
        Self::Biggest,
        Self::Burst,
        Self::Deactivate,
        Self::Demo,
        Self::Dep,
        Self::Dirty,
        Self::FastFill,
        Self::Fill,
        Self::Generic,
        Self::GenericRead,
        Self::One,
        Self::RandRead,
        Self::RandWrite,
        Self::Span,
        Self::Verify,
        Self::Wfr,
        Self::Yolo,
    ];

    /// As it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Balloon => "balloon",
            Self::Bufferbloat => "bufferbloat",
            Self::Big => "big",
            Self::Biggest => "biggest",
            Self::Burst => "burst",
            Self::Deactivate => "deactivate",
            Self::Demo => "demo",
            Self::Dep => "dep",
            Self::Dirty => "dirty",
            Self::FastFill => "fast-fill",
            Self::Fill => "fill",
            Self::Generic => "generic",
            Self::GenericRead => "generic-read",
            Self::One => "one",
            Self::RandRead => "rand-read",
            Self::RandWrite => "rand-write",
            Self::Span => "span",
            Self::Verify => "verify",
            Self::Wfr => "wfr",
            Self::Yolo => "yolo",
        }
    }

    /// How many operations may be under way when the user does not say.
    pub const fn depth(self) -> usize {
        match self {
            Self::One | Self::Wfr | Self::Balloon => 1,
            Self::Biggest | Self::Big | Self::Fill | Self::FastFill | Self::Verify => 4,
            Self::RandRead | Self::RandWrite => 32,
            Self::Bufferbloat | Self::Yolo => 256,
            _ => 64,
        }
    }

    /// How many when the user does not say; `None` for those that go over the whole volume, or on for a time.
    pub const fn count(self) -> Option<u64> {
        match self {
            Self::Balloon | Self::Big | Self::FastFill | Self::Fill => None,
            Self::RandRead | Self::RandWrite | Self::Span | Self::Verify => None,
            Self::One => Some(1),
            Self::Deactivate => Some(5),
            Self::Biggest | Self::Burst => Some(10),
            Self::Bufferbloat | Self::Dep | Self::Dirty | Self::Wfr => Some(100),
            Self::Demo => Some(300),
            Self::Generic | Self::GenericRead | Self::Yolo => Some(5000),
        }
    }

    /// Whether it writes anything.
    pub const fn writes(self) -> bool {
        !matches!(self, Self::GenericRead | Self::RandRead | Self::Verify)
    }

    /// Its operations. Those that go on for a time never end if the demand has no count.
    pub fn steps(self, field: Field, demand: Demand) -> Steps {
        let count = demand.count.or_else(|| self.count()).unwrap_or(u64::MAX);
        let rounds = if self.count().is_some() { count } else { 1 };
        let mut dice = Dice {
            field,
            draws: Draws::new(demand.seed),
        };
        let bytes = |bytes: u64| field.fit(bytes / u64::from(field.block_size.max(1)));
        let io = |default: u64| {
            demand
                .io_blocks
                .map_or_else(|| bytes(default), |n| field.fit(n))
        };
        match self {
            Self::Balloon => balloon(field),
            Self::Bufferbloat => {
                let io = io(4096);
                rounds_of(rounds, move |round| {
                    round.extend((0..64).map(|_| dice.write(io)));
                    round.extend([dice.read(io), Step::Drain]);
                })
            }
            Self::Big => {
                let io = field.fit(field.blocks_per_extent);
                let writes = sweep(field, io, write);
                let flush = [Step::Flush, Step::Drain];
                Box::new(writes.chain(flush).chain(sweep(field, io, read)))
            }
            Self::Biggest => {
                let io = bytes(IO_BYTES_MAX);
                rounds_of(rounds, move |round| {
                    let write = dice.write(io);
                    round.extend([write, as_read(write)]);
                })
            }
            Self::Burst => rounds_of(rounds, move |round| {
                round.extend((0..50).map(|_| dice.mixed(10)));
                round.extend([Step::Drain, Step::Pause(Span::from_millis(500))]);
            }),
            Self::Deactivate => rounds_of(rounds, move |round| {
                let writes: Vec<Step> = (0..20).map(|_| dice.write_up_to(10)).collect();
                let reads: Vec<Step> = writes.iter().map(|step| as_read(*step)).collect();
                round.extend(writes);
                round.push(Step::Reactivate);
                round.extend(reads);
            }),
            Self::Demo | Self::Generic => steps_of(count, move || dice.mixed(10)),
            Self::Dep => rounds_of(rounds, move |round| {
                let window = field.fit(16);
                let first = dice.draws.below(field.blocks - window + 1);
                for _ in 0..40 {
                    let size = dice.draws.between(1, window);
                    let start = first + dice.draws.below(window - size + 1);
                    round.push(match dice.draws.below(8) {
                        0 => Step::Flush,
                        1..4 => read(start, size),
                        _ => write(start, size),
                    });
                }
                round.push(Step::Drain);
            }),
            Self::Dirty => {
                let writes = steps_of(count, move || dice.write_up_to(10));
                Box::new(writes.chain([Step::Drain]))
            }
            Self::FastFill => {
                let fill = sweep(field, io(RANDOM_BYTES_MAX), write);
                Box::new(fill.chain([Step::Flush]))
            }
            Self::Fill => {
                let io = io(RANDOM_BYTES_MAX);
                let writes = sweep(field, io, write);
                let flush = [Step::Flush, Step::Drain];
                Box::new(writes.chain(flush).chain(sweep(field, io, read)))
            }
            Self::GenericRead => steps_of(count, move || as_read(dice.write_up_to(10))),
            Self::One => rounds_of(rounds, move |round| {
                let write = dice.write(1);
                round.extend([write, Step::Flush, as_read(write)]);
            }),
            Self::RandRead => {
                let io = io(4096);
                steps_of(count, move || dice.aligned(io, read))
            }
            Self::RandWrite => {
                let io = io(4096);
                steps_of(count, move || dice.aligned(io, write))
            }
            Self::Span => span(field),
            Self::Verify => Box::new(sweep(field, io(RANDOM_BYTES_MAX), read)),
            Self::Wfr => rounds_of(rounds, move |round| {
                let write = dice.write_up_to(10);
                round.extend([write, Step::Flush, Step::Drain, as_read(write), Step::Drain]);
            }),
            Self::Yolo => {
                let most = bytes(RANDOM_BYTES_MAX);
                steps_of(count, move || dice.mixed(most))
            }
        }
    }
}

const fn read(start: u64, count: u64) -> Step {
    Step::Read { start, count }
}

const fn write(start: u64, count: u64) -> Step {
    Step::Write { start, count }
}

const fn as_read(step: Step) -> Step {
    match step {
        Step::Write { start, count } => read(start, count),
        other => other,
    }
}

impl Field {
    /// So many blocks, but at least one and no more than fit into one operation and the volume.
    pub fn fit(&self, blocks: u64) -> u64 {
        let most = IO_BYTES_MAX / u64::from(self.block_size.max(1));
        blocks.min(most).min(self.blocks).max(1)
    }
}

struct Dice {
    field: Field,
    draws: Draws,
}

impl Dice {
    /// A write of this size, anywhere.
    fn write(&mut self, size: u64) -> Step {
        let size = self.field.fit(size);
        write(self.draws.below(self.field.blocks - size + 1), size)
    }

    fn read(&mut self, size: u64) -> Step {
        as_read(self.write(size))
    }

    fn write_up_to(&mut self, most: u64) -> Step {
        let size = self.draws.between(1, self.field.fit(most));
        self.write(size)
    }

    /// An operation of this size at a multiple of it.
    fn aligned(&mut self, size: u64, step: fn(u64, u64) -> Step) -> Step {
        step(self.draws.below(self.field.blocks / size) * size, size)
    }

    /// Of 20, 9 read, 9 write, 2 flush.
    fn mixed(&mut self, most: u64) -> Step {
        match self.draws.below(20) {
            0..2 => Step::Flush,
            2..11 => as_read(self.write_up_to(most)),
            _ => self.write_up_to(most),
        }
    }
}

fn steps_of(count: u64, mut next: impl FnMut() -> Step + Send + 'static) -> Steps {
    Box::new((0..count).map(move |_| next()))
}

fn rounds_of(rounds: u64, mut next: impl FnMut(&mut Vec<Step>) + Send + 'static) -> Steps {
    Box::new((0..rounds).flat_map(move |_| {
        let mut round = Vec::new();
        next(&mut round);
        round
    }))
}

/// All blocks in order, `size` at a time.
fn sweep(
    field: Field,
    size: u64,
    step: fn(u64, u64) -> Step,
) -> impl Iterator<Item = Step> + Send + 'static {
    let size = field.fit(size);
    (0..field.blocks.div_ceil(size)).map(move |index| {
        let start = index * size;
        step(start, size.min(field.blocks - start))
    })
}

/// No more than about so many sizes are tried between one block and an extent.
const BALLOON_SIZES: u64 = 200;

fn balloon(field: Field) -> Steps {
    let most = field.fit(field.blocks_per_extent);
    let step = most.div_ceil(BALLOON_SIZES).max(1);
    let sizes = (1..most).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    let sizes = sizes.chain([most]);
    Box::new(sizes.flat_map(|size| [write(0, size), Step::Flush, read(0, size)]))
}

fn span(field: Field) -> Steps {
    let per_extent = field.blocks_per_extent.max(1);
    let borders = (1..field.blocks.div_ceil(per_extent)).map(move |index| index * per_extent - 1);
    Box::new(borders.flat_map(|last| [write(last, 2), Step::Flush, read(last, 2)]))
}
