//! Regions on disk: extents, contexts, flushes, and what a crash may leave of them.
//!
//! Reading order: `region` (all that others see), `inner` (what its threads share), `io` (reads and writes), `extent`
//! (one file and what of it is in memory), `contexts`, `pending`, `commit` (the way of a write to the disk), `direct`
//! (a shorter one), `journal`, `open` and `recover` (after a crash), `close`, `replace`, `vet` (whose copies are
//! taken), `snapshot`, `create`, `promoted`, `tools`, `legacy`.
//!
//! # What lies in a region directory
//!
//! region.json and the extent files are the reference's, byte for byte (spec: disk 5). Beside them are files that it
//! ignores: `trivet.journal`, `trivet.generation` (who was promoted last), `trivet.creating` (instead of region.json
//! while the region is made), and `.snapshots`.
//!
//! # The way of a write
//!
//! ```text
//! write    hashes are checked; blocks and contexts wait in memory, where reads find them
//!          or, many at once that were never written: contexts and data go to their place, after a record
//!          that the extent is dirty                                       no sync; one for such a record
//! flush    0. extent files with such blocks are synced                                            one sync each
//!          1. what waits goes into the journal as one record: blocks, contexts, new metadata      one sync
//!          2. the same is written to its place: dirty mark, contexts into the inactive slots,
//!             data, then bitmap and metadata                                                      no sync
//!          3. the flush is answered
//! settle   later, when the journal is half full: extent files are synced, records let go          one sync each
//! ```
//!
//! A flush of any number of extents is one sync of one file. When more waits than [`Options::pending_bytes`], the same
//! happens without a flush; the extents then stay marked dirty, with their old flush number.
//!
//! The journal makes each byte to be written twice. That is little for small writes, which come to their place many at
//! once, and too much for a volume that is being filled. So when [`Options::direct_after`] bytes wait in an extent,
//! they are committed, and runs from [`Options::direct_bytes`] on of blocks that nobody ever wrote to are *placed*.
//! Such a run rather waits for a commit of its extent than in memory, which would make the next commit as long. What
//! is written in one go from 256 KiB on, records of the journal too, goes past the page cache of the system.
//!
//! # Why this survives a crash
//!
//! ZFS keeps writes of one file in their order and does not tear them; ext4, xfs and btrfs may lose any of those that
//! were not synced, keep later ones, and tear a block between its sectors. The rules are therefore:
//!
//! 1. Nothing is written to an extent file before the journal has it durably, but for rule 5. So whatever a crash
//!    makes of the file, the record makes it whole: it is written again when the region is opened.
//! 2. A record counts when its number is the next one, the hash of its contexts fits, and each block in it has the
//!    hash that its slot says. One that was torn does not count; it was never answered for.
//! 3. A record is let go of only after the files it speaks of were synced. When that sync fails, or a write to an
//!    extent file does, the extent is written again from the journal before the next try, because the system may have
//!    dropped what it could not write.
//! 4. Before an extent file may be replaced, it is synced, and a record says that nothing before counts for it.
//! 5. A block is placed without the journal only while a record or the file says *durably* that the extent is dirty,
//!    and only if both of its slots are all zero. A crash then leaves a block that fits its new context, which is new,
//!    or one that does not, which nobody was ever promised: it is unwritten again (as below). The bitmap in the file
//!    calls it unwritten until a record says otherwise; before that record is written, the file is synced. No record
//!    has its data, so when that sync fails, it is written again from what can still be read, and what cannot is
//!    damaged. While a commit of the extent is under way, nothing is placed in it: it may end clean.
//!
//! After a crash each extent is therefore as of its last flush, or newer, and clean unless something newer was
//! committed without a flush: replicas that crashed together agree without copying. What was written since the last
//! flush may be lost, as it may be with the reference; the upstairs sends it again.
//!
//! When only the process ends, the files have everything that was ever flushed, so the reference can go on with the
//! region, and ours can again after that: an extent whose flush number has gone past that in the journal was somebody
//! else's meanwhile, and its records are void. After a power cut, the region has to be opened by this program first.
//!
//! # Extents that were left dirty by somebody else
//!
//! The reference writes in place without a journal. In a file that it left dirty, a block may fit neither of its
//! contexts; it then refuses to start. Here:
//!
//! * A slot that fits the block speaks for it, B before A, as in the reference.
//! * Otherwise, when the slot that was active at the last flush is empty, the block had never been written by then: it
//!   is unwritten again, data and all.
//! * Otherwise the block is *damaged*: what was flushed is gone, what was to replace it did not come whole. A read of
//!   it is an error (`MissingContextSlot`), so that the upstairs takes another replica; a write heals it. The extent
//!   stays dirty over flushes as long as it has such a block, so that the damage is found again after a restart, and
//!   it says to be one flush behind: in reconciliation it is then no source as long as another replica has that flush,
//!   and always a target. Should all three be damaged, the newest is taken and the error stays with that block alone.
//!
//! A region that is open read-only changes nothing: blocks to be unwritten are so in memory only, and when the
//! journal has something that is not in its place yet, it refuses to open.

mod close;
mod commit;
mod contexts;
mod create;
mod direct;
mod error;
mod extent;
mod inner;
mod io;
mod journal;
mod legacy;
mod open;
mod pending;
mod promoted;
mod recover;
mod region;
mod replace;
mod snapshot;
mod tools;
mod vet;
mod worker;

pub use error::StoreError;
pub use region::{Mode, Options, Overwrite, Progress, Region, WriteJob};
pub use replace::{ExtentFile, Replacement};
pub use snapshot::{SNAPSHOTS, snapshots};
pub use tools::{Exported, VerifyReport};
