//! A disk in memory that loses its power.
//!
//! What may be left after a crash, as this image sees it:
//! * a sector of 512 bytes holds its content as of the last sync of its file, or any content that was written to it
//!   since; each sector for itself, so blocks of several sectors tear, and later writes may survive earlier ones;
//! * the length of a file likewise;
//! * names (creation, removal, renaming) come to the disk in the order they were changed in; those that a sync of
//!   their directory has not covered may be lost from some point on. A sync of a file does not make its name durable.
//!
//! That is more than ext4, xfs, btrfs or ZFS lose in practice, and all that POSIX promises.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IoSlice};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Access, Disk, DiskFile, Entry, NodeKind};

/// What a disk writes in one piece, in bytes.
const SECTOR: usize = 512;

/// The largest file, in bytes: tests have small ones, and a wrong offset should not eat the memory.
const LENGTH_MAX: u64 = 1 << 30;

/// What a crash leaves of that which was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Nothing.
    Nothing,
    /// All of it, as after the end of a process.
    Everything,
    /// What was done by the first so many operations of this disk.
    Prefix(u64),
    /// Something, drawn from this seed.
    Seeded(u64),
}

/// The disk. Clones of the handle are the same disk.
#[derive(Clone, Debug, Default)]
pub struct CrashDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Paths as they are for who asks.
    names: BTreeMap<String, Node>,
    /// Paths as they are on the medium.
    durable_names: BTreeMap<String, Node>,
    /// How the one becomes the other.
    changes: Vec<(u64, Change)>,
    files: Vec<Inode>,
    operations: u64,
    /// No operation after so many happens any more.
    power_until: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Directory,
    File(usize),
}

#[derive(Clone, Debug)]
enum Change {
    Add(String, Node),
    Remove(String),
    Rename(String, String),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    /// What was written to a sector since the last sync, oldest first.
    sectors: BTreeMap<usize, Vec<(u64, [u8; SECTOR])>>,
    /// Lengths since the last sync.
    lengths: Vec<(u64, usize)>,
}

impl CrashDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Operations so far that change something or make it durable.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// From the given operation on (counted as by [`CrashDisk::operations`]) everything fails; `None` takes that back.
    pub fn power_until(&self, operations: Option<u64>) {
        self.state().power_until = operations;
    }

    /// The disk that is found after a crash now.
    #[must_use]
    pub fn crash(&self, choice: Choice) -> Self {
        let mut draw = Draw::new(choice);
        let state = self.state();
        let keep = match choice {
            Choice::Nothing => 0,
            Choice::Everything => state.changes.len(),
            Choice::Prefix(until) => state
                .changes
                .iter()
                .take_while(|(at, _)| *at <= until)
                .count(),
            Choice::Seeded(_) => match draw.below(3) {
                0 => 0,
                1 => state.changes.len(),
                _ => draw.below(state.changes.len() as u64 + 1) as usize,
            },
        };
        let mut names = state.durable_names.clone();
        for (_, change) in state.changes.iter().take(keep) {
            change.apply(&mut names);
        }
        let files = state
            .files
            .iter()
            .map(|file| Inode::durable(file.after_crash(choice, &mut draw)))
            .collect();
        let state = State {
            durable_names: names.clone(),
            names,
            files,
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The same disk with a life of its own.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let state = self.state();
        let state = State {
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            changes: state.changes.clone(),
            files: state.files.clone(),
            operations: state.operations,
            power_until: None,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Changes a byte of a file behind everybody's back, for tests of bit rot. False if there is no such byte.
    pub fn rot(&self, path: &str, offset: u64, mask: u8) -> bool {
        let mut state = self.state();
        let Some(Node::File(file)) = state.names.get(path).copied() else {
            return false;
        };
        let Some(inode) = state.files.get_mut(file) else {
            return false;
        };
        let at = offset as usize;
        match (inode.content.get_mut(at), inode.durable.get_mut(at)) {
            (Some(now), durable) => {
                *now ^= mask;
                if let Some(durable) = durable {
                    *durable ^= mask;
                }
                true
            }
            (None, _) => false,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts an operation that changes something.
    fn begin(&mut self) -> io::Result<u64> {
        if self
            .power_until
            .is_some_and(|until| self.operations >= until)
        {
            return Err(io::Error::other("the power is off"));
        }
        self.operations += 1;
        Ok(self.operations)
    }

    fn change(&mut self, at: u64, change: Change) {
        change.apply(&mut self.names);
        self.changes.push((at, change));
    }

    fn require_parent(&self, path: &str) -> io::Result<()> {
        match self.names.get(parent(path)) {
            Some(Node::Directory) => Ok(()),
            _ if parent(path).is_empty() => Ok(()),
            _ => Err(ErrorKind::NotFound.into()),
        }
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            Self::Add(path, node) => {
                names.insert(path.clone(), *node);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
            Self::Rename(from, to) => {
                let below = format!("{from}/");
                let moved: Vec<String> = names
                    .keys()
                    .filter(|name| *name == from || name.starts_with(&below))
                    .cloned()
                    .collect();
                for name in moved {
                    if let (Some(node), Some(rest)) = (names.remove(&name), name.strip_prefix(from))
                    {
                        names.insert(format!("{to}{rest}"), node);
                    }
                }
            }
        }
    }

    fn touches(&self, directory: &str) -> bool {
        match self {
            Self::Add(path, _) | Self::Remove(path) => parent(path) == directory,
            Self::Rename(from, to) => parent(from) == directory || parent(to) == directory,
        }
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl Inode {
    fn durable(content: Vec<u8>) -> Self {
        Self {
            durable: content.clone(),
            content,
            ..Self::default()
        }
    }

    fn sync(&mut self) {
        self.durable.clone_from(&self.content);
        self.sectors.clear();
        self.lengths.clear();
    }

    fn set_length(&mut self, at: u64, length: usize) {
        if length < self.content.len() {
            // What is cut off comes back as zeros when the file grows again.
            let from = length;
            let until = self.content.len();
            self.content.truncate(length);
            self.note(at, from, until);
        } else {
            self.content.resize(length, 0);
        }
        self.lengths.push((at, length));
    }

    fn write(&mut self, at: u64, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if end > self.content.len() {
            self.content.resize(end, 0);
            self.lengths.push((at, end));
        }
        if let Some(target) = self.content.get_mut(offset..end) {
            target.copy_from_slice(bytes);
        }
        self.note(at, offset, end);
    }

    /// Remembers what the sectors from `from` to `until` hold now.
    fn note(&mut self, at: u64, from: usize, until: usize) {
        if from >= until {
            return;
        }
        for sector in from / SECTOR..=(until - 1) / SECTOR {
            let now = sector_of(&self.content, sector);
            self.sectors.entry(sector).or_default().push((at, now));
        }
    }

    fn after_crash(&self, choice: Choice, draw: &mut Draw) -> Vec<u8> {
        // A file is rather old, rather new, or a mixture; by pages or by sectors.
        let newest = [0, 25, 50, 90, 100][draw.below(5) as usize];
        let together = if draw.below(2) == 0 { 8 } else { 1 };
        let length = match choice {
            Choice::Nothing => self.durable.len(),
            Choice::Everything => self.content.len(),
            Choice::Prefix(until) => self
                .lengths
                .iter()
                .take_while(|(at, _)| *at <= until)
                .last()
                .map_or(self.durable.len(), |(_, length)| *length),
            Choice::Seeded(_) => match draw.below(self.lengths.len() as u64 + 1) as usize {
                0 => self.durable.len(),
                n => self.lengths.get(n - 1).map_or(0, |(_, length)| *length),
            },
        };
        let mut content = self.durable.clone();
        content.resize(length, 0);
        let mut page = (usize::MAX, 0);
        for (sector, versions) in &self.sectors {
            let count = match choice {
                Choice::Nothing => 0,
                Choice::Everything => versions.len(),
                Choice::Prefix(until) => versions.iter().take_while(|(at, _)| *at <= until).count(),
                Choice::Seeded(_) => {
                    if page.0 != sector / together {
                        page = (sector / together, draw.next());
                    }
                    let mut local = Draw { state: page.1 };
                    if local.below(100) < newest {
                        versions.len()
                    } else {
                        local.below(versions.len() as u64 + 1) as usize
                    }
                }
            };
            let Some((_, version)) = count.checked_sub(1).and_then(|n| versions.get(n)) else {
                continue;
            };
            let begin = sector * SECTOR;
            let end = (begin + SECTOR).min(content.len());
            if let Some(target) = content.get_mut(begin..end) {
                let length = target.len();
                target.copy_from_slice(&version[..length]);
            }
        }
        content
    }
}

fn sector_of(content: &[u8], sector: usize) -> [u8; SECTOR] {
    let mut copy = [0; SECTOR];
    let begin = (sector * SECTOR).min(content.len());
    let end = (begin + SECTOR).min(content.len());
    copy[..end - begin].copy_from_slice(&content[begin..end]);
    copy
}

/// A small generator (splitmix64); the quality does not matter, the repetition does.
struct Draw {
    state: u64,
}

impl Draw {
    fn new(choice: Choice) -> Self {
        let state = match choice {
            Choice::Seeded(seed) => seed,
            _ => 0,
        };
        Self { state }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

impl Disk for CrashDisk {
    fn open(&self, path: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let file = match state.names.get(path).copied() {
            Some(Node::File(_)) if access == Access::Create => {
                return Err(ErrorKind::AlreadyExists.into());
            }
            Some(Node::File(file)) => file,
            Some(Node::Directory) => return Err(ErrorKind::IsADirectory.into()),
            None if matches!(access, Access::Read | Access::Write) => {
                return Err(ErrorKind::NotFound.into());
            }
            None => {
                state.require_parent(path)?;
                let at = state.begin()?;
                let file = state.files.len();
                state.files.push(Inode::default());
                state.change(at, Change::Add(path.to_owned(), Node::File(file)));
                file
            }
        };
        Ok(Arc::new(ImageFile {
            disk: self.clone(),
            file,
            writable: access != Access::Read,
        }))
    }

    fn kind(&self, path: &str) -> io::Result<Option<NodeKind>> {
        if path.is_empty() {
            return Ok(Some(NodeKind::Directory));
        }
        Ok(self.state().names.get(path).map(|node| node.kind()))
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let state = self.state();
        if !path.is_empty() && state.names.get(path) != Some(&Node::Directory) {
            return Err(ErrorKind::NotFound.into());
        }
        let entries = state
            .names
            .iter()
            .filter(|(name, _)| parent(name) == path)
            .map(|(name, node)| Entry {
                name: name.rsplit('/').next().unwrap_or_default().to_owned(),
                kind: node.kind(),
            })
            .collect();
        Ok(entries)
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        if path.is_empty() || state.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        state.require_parent(path)?;
        let at = state.begin()?;
        state.change(at, Change::Add(path.to_owned(), Node::Directory));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        if !state.names.contains_key(from) {
            return Err(ErrorKind::NotFound.into());
        }
        state.require_parent(to)?;
        if state.names.get(to) == Some(&Node::Directory) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let at = state.begin()?;
        state.change(at, Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        match state.names.get(path) {
            Some(Node::File(_)) => {}
            Some(Node::Directory) => return Err(ErrorKind::IsADirectory.into()),
            None => return Err(ErrorKind::NotFound.into()),
        }
        let at = state.begin()?;
        state.change(at, Change::Remove(path.to_owned()));
        Ok(())
    }

    fn remove_directory(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.names.get(path) != Some(&Node::Directory) {
            return Err(ErrorKind::NotFound.into());
        }
        if state.names.keys().any(|name| parent(name) == path) {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        let at = state.begin()?;
        state.change(at, Change::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        let covered = state
            .changes
            .iter()
            .rposition(|(_, change)| change.touches(path))
            .map_or(0, |last| last + 1);
        let changes: Vec<_> = state.changes.drain(..covered).collect();
        for (_, change) in changes {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }

    fn sync_all(&self) -> io::Result<bool> {
        let mut state = self.state();
        state.begin()?;
        let changes = std::mem::take(&mut state.changes);
        for (_, change) in changes {
            change.apply(&mut state.durable_names);
        }
        for file in &mut state.files {
            file.sync();
        }
        Ok(true)
    }

    fn reflink(&self, _from: &str, _to: &str) -> io::Result<bool> {
        Ok(false)
    }

    fn host_path(&self) -> Option<PathBuf> {
        None
    }
}

impl Node {
    const fn kind(self) -> NodeKind {
        match self {
            Self::Directory => NodeKind::Directory,
            Self::File(_) => NodeKind::File,
        }
    }
}

/// An open file of the image.
#[derive(Debug)]
struct ImageFile {
    disk: CrashDisk,
    file: usize,
    writable: bool,
}

impl ImageFile {
    /// Does something to the inode, as one operation.
    fn change(&self, work: impl FnOnce(&mut Inode, u64)) -> io::Result<()> {
        if !self.writable {
            return Err(ErrorKind::PermissionDenied.into());
        }
        let mut state = self.disk.state();
        let at = state.begin()?;
        match state.files.get_mut(self.file) {
            Some(inode) => {
                work(inode, at);
                Ok(())
            }
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn look<T>(&self, work: impl FnOnce(&Inode) -> T) -> io::Result<T> {
        let state = self.disk.state();
        state
            .files
            .get(self.file)
            .map(work)
            .ok_or_else(|| ErrorKind::NotFound.into())
    }
}

impl DiskFile for ImageFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.look(|inode| {
            let begin = usize::try_from(offset).ok();
            let end = begin.and_then(|begin| begin.checked_add(buffer.len()));
            let range = begin
                .zip(end)
                .and_then(|(begin, end)| inode.content.get(begin..end));
            match range {
                Some(bytes) => {
                    buffer.copy_from_slice(bytes);
                    Ok(())
                }
                None => Err(ErrorKind::UnexpectedEof.into()),
            }
        })?
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let length: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        if offset
            .checked_add(length)
            .is_none_or(|end| end > LENGTH_MAX)
        {
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.change(|inode, at| {
            let mut offset = offset as usize;
            for buffer in buffers {
                inode.write(at, offset, buffer);
                offset += buffer.len();
            }
        })
    }

    fn read_now(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.read_at(buffer, offset).map(|()| true)
    }

    fn is_hole(&self, offset: u64, length: u64) -> io::Result<bool> {
        self.look(|inode| {
            let end = usize::try_from(offset.saturating_add(length)).unwrap_or(usize::MAX);
            let bytes = inode.content.get(offset as usize..end);
            bytes.is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
        })
    }

    fn write_long(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_at(buffers, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|inode, _| inode.sync())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.change(|inode, _| inode.sync())
    }

    fn length(&self) -> io::Result<u64> {
        self.look(|inode| inode.content.len() as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        if length > LENGTH_MAX {
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.change(|inode, at| inode.set_length(at, length as usize))
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<bool> {
        let zeros = vec![0; length.min(LENGTH_MAX) as usize];
        self.write_at(&[IoSlice::new(&zeros)], offset)?;
        Ok(true)
    }

    fn lock(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(disk: &CrashDisk, path: &str, bytes: &[u8], offset: u64) -> Arc<dyn DiskFile> {
        let file = disk.open(path, Access::CreateOrOpen).unwrap();
        file.write_at(&[IoSlice::new(bytes)], offset).unwrap();
        file
    }

    fn content(disk: &CrashDisk, path: &str) -> Option<Vec<u8>> {
        let file = disk.open(path, Access::Read).ok()?;
        let mut bytes = vec![0; file.length().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        Some(bytes)
    }

    #[test]
    fn what_was_synced_with_its_name_survives_everything() {
        let disk = CrashDisk::new();
        write(&disk, "f", &[1; 700], 0).sync_data().unwrap();
        disk.sync_directory("").unwrap();
        for choice in [
            Choice::Nothing,
            Choice::Everything,
            Choice::Prefix(0),
            Choice::Seeded(7),
        ] {
            assert_eq!(
                content(&disk.crash(choice), "f"),
                Some(vec![1; 700]),
                "{choice:?}"
            );
        }
    }

    #[test]
    fn a_name_that_was_not_synced_may_be_lost_with_synced_content() {
        let disk = CrashDisk::new();
        write(&disk, "f", &[1; 10], 0).sync_data().unwrap();
        assert_eq!(content(&disk.crash(Choice::Nothing), "f"), None);
        assert_eq!(
            content(&disk.crash(Choice::Everything), "f"),
            Some(vec![1; 10])
        );
    }

    #[test]
    fn sectors_are_lost_one_by_one_and_never_in_parts() {
        let disk = CrashDisk::new();
        let file = write(&disk, "f", &[1; 1024], 0);
        file.sync_data().unwrap();
        disk.sync_directory("").unwrap();
        file.write_at(&[IoSlice::new(&[2; 1024])], 0).unwrap();
        file.write_at(&[IoSlice::new(&[3; 512])], 512).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let bytes = content(&disk.crash(Choice::Seeded(seed)), "f").unwrap();
            let (first, second) = bytes.split_at(512);
            assert!(first.iter().all(|byte| *byte == first[0]));
            assert!(second.iter().all(|byte| *byte == second[0]));
            seen.insert((first[0], second[0]));
        }
        let all = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)];
        assert!(seen.iter().copied().eq(all), "{seen:?}");
    }

    #[test]
    fn names_are_lost_from_some_point_on() {
        let disk = CrashDisk::new();
        write(&disk, "a", &[1], 0).sync_data().unwrap();
        disk.sync_directory("").unwrap();
        disk.rename("a", "b").unwrap();
        disk.create_directory("d").unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let after = disk.crash(Choice::Seeded(seed));
            let names: Vec<String> = after
                .list("")
                .unwrap()
                .into_iter()
                .map(|e| e.name)
                .collect();
            seen.insert(names.join(" "));
        }
        assert!(seen.iter().eq(["a", "b", "b d"]), "{seen:?}");
    }

    #[test]
    fn without_power_nothing_happens() {
        let disk = CrashDisk::new();
        let file = write(&disk, "f", &[1], 0);
        disk.power_until(Some(disk.operations() + 1));
        file.sync_data().unwrap();
        assert!(file.write_at(&[IoSlice::new(&[2])], 0).is_err());
        assert_eq!(content(&disk, "f"), Some(vec![1]));
    }
}
