//! A disk whose n-th operation fails.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Access, Disk, DiskFile, Entry, NodeKind};

/// How operations fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `EIO`: the medium. Writes happen by half before they fail.
    Io,
    /// `ENOSPC`: no room. Only what may need room fails: writes, creations, syncs.
    NoSpace,
}

/// Another disk, of which chosen operations fail.
#[derive(Debug)]
pub struct FaultyDisk {
    inner: Arc<dyn Disk>,
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct Plan {
    /// Operations until the fault; negative: none comes.
    until: AtomicI64,
    /// How many operations fail from there on.
    failing: AtomicI64,
    fault: Mutex<Fault>,
    seen: AtomicU64,
    failed: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Room,
}

impl FaultyDisk {
    /// Works as `inner` until [`FaultyDisk::fail`].
    pub fn new(inner: Arc<dyn Disk>) -> Self {
        let plan = Plan {
            until: AtomicI64::new(-1),
            failing: AtomicI64::new(0),
            fault: Mutex::new(Fault::Io),
            seen: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        };
        Self {
            inner,
            plan: Arc::new(plan),
        }
    }

    /// After `skip` more operations, `count` of them fail.
    pub fn fail(&self, fault: Fault, skip: u64, count: u64) {
        *self
            .plan
            .fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = fault;
        let clamp = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.plan.failing.store(clamp(count), Ordering::SeqCst);
        self.plan.until.store(clamp(skip), Ordering::SeqCst);
    }

    /// No more faults.
    pub fn heal(&self) {
        self.plan.until.store(-1, Ordering::SeqCst);
        self.plan.failing.store(0, Ordering::SeqCst);
    }

    /// Operations seen so far.
    pub fn operations(&self) -> u64 {
        self.plan.seen.load(Ordering::SeqCst)
    }

    /// Operations that failed because of this disk.
    pub fn failures(&self) -> u64 {
        self.plan.failed.load(Ordering::SeqCst)
    }
}

impl Plan {
    fn check(&self, needs: Needs) -> io::Result<()> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        let until = self.until.load(Ordering::SeqCst);
        if until < 0 {
            return Ok(());
        }
        if until > 0 {
            self.until.store(until - 1, Ordering::SeqCst);
            return Ok(());
        }
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if fault == Fault::NoSpace && needs == Needs::Nothing {
            return Ok(());
        }
        let left = self.failing.load(Ordering::SeqCst);
        if left <= 0 {
            self.until.store(-1, Ordering::SeqCst);
            return Ok(());
        }
        self.failing.store(left - 1, Ordering::SeqCst);
        self.failed.fetch_add(1, Ordering::SeqCst);
        Err(io::Error::from_raw_os_error(match fault {
            Fault::Io => libc::EIO,
            Fault::NoSpace => libc::ENOSPC,
        }))
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let needs = match access {
            Access::Read | Access::Write => Needs::Nothing,
            Access::Create | Access::CreateOrOpen => Needs::Room,
        };
        self.plan.check(needs)?;
        let inner = self.inner.open(path, access)?;
        let plan = Arc::clone(&self.plan);
        Ok(Arc::new(FaultyFile { inner, plan }))
    }

    fn kind(&self, path: &str) -> io::Result<Option<NodeKind>> {
        self.plan.check(Needs::Nothing)?;
        self.inner.kind(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        self.plan.check(Needs::Nothing)?;
        self.inner.list(path)
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.plan.check(Needs::Room)?;
        self.inner.create_directory(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.plan.check(Needs::Room)?;
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        self.plan.check(Needs::Nothing)?;
        self.inner.remove_file(path)
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        self.plan.check(Needs::Nothing)?;
        self.inner.remove_directory(path)
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        self.plan.check(Needs::Room)?;
        self.inner.sync_directory(path)
    }

    fn sync_all(&self) -> io::Result<bool> {
        self.plan.check(Needs::Room)?;
        self.inner.sync_all()
    }

    fn reflink(&self, from: &str, to: &str) -> io::Result<bool> {
        self.plan.check(Needs::Room)?;
        self.inner.reflink(from, to)
    }

    fn host_path(&self) -> Option<PathBuf> {
        self.inner.host_path()
    }
}

#[derive(Debug)]
struct FaultyFile {
    inner: Arc<dyn DiskFile>,
    plan: Arc<Plan>,
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.plan.check(Needs::Nothing)?;
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.plan.check(Needs::Room).inspect_err(|_| {
            // A failed write may have come half the way.
            let half: usize = buffers.iter().map(|buffer| buffer.len()).sum::<usize>() / 2;
            let mut part = Vec::new();
            for buffer in buffers {
                part.extend_from_slice(buffer);
            }
            part.truncate(half);
            let _ = self.inner.write_at(&[IoSlice::new(&part)], offset);
        })?;
        self.inner.write_at(buffers, offset)
    }

    fn read_now(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.plan.check(Needs::Nothing)?;
        self.inner.read_now(buffer, offset)
    }

    fn is_hole(&self, offset: u64, length: u64) -> io::Result<bool> {
        self.plan.check(Needs::Nothing)?;
        self.inner.is_hole(offset, length)
    }

    fn write_long(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        // Fails as any other write.
        self.write_at(buffers, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.plan.check(Needs::Room)?;
        self.inner.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.plan.check(Needs::Room)?;
        self.inner.sync_all()
    }

    fn length(&self) -> io::Result<u64> {
        self.plan.check(Needs::Nothing)?;
        self.inner.length()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.plan.check(Needs::Room)?;
        self.inner.set_length(length)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<bool> {
        self.plan.check(Needs::Room)?;
        self.inner.punch(offset, length)
    }

    fn lock(&self) -> io::Result<()> {
        self.inner.lock()
    }
}
