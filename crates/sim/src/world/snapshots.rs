//! Snapshots: who was told that there is one finds the same on all three disks, with all that had been written, and
//! finds it again at the end, whatever became of the machines.

use bytes::Bytes;
use crucible_protocol::context::hash;
use crucible_upstairs::core::Request;

use super::World;
use super::hosts::Life;
use super::nodes::Power;
use crate::cipher;
use crate::dice::mix;
use crate::oracle::{Asked, Epoch, View};
use crate::storage::Contents;

/// A snapshot that a node has.
#[derive(Debug)]
pub(crate) struct Kept {
    name: String,
    node: usize,
    /// Which of the regions that the node had.
    region: u64,
    /// Of its contents.
    hash: u64,
}

/// One number for all blocks.
fn hash_of(contents: &Contents) -> u64 {
    contents.iter().fold(0, |all, cell| {
        let told = cell
            .as_ref()
            .map_or_else(ToString::to_string, |(context, _)| format!("{context:?}"));
        let data = cell.as_ref().map_or(0, |(_, data)| hash(data));
        mix(all ^ mix(hash(told.as_bytes())) ^ data)
    })
}

fn name_of(number: u64) -> String {
    format!("s{number}")
}

impl World {
    /// The guest asks for a snapshot. False if it cannot now.
    pub(super) fn ask_for_snapshot(&mut self) -> bool {
        let Some(index) = self.operator.newest else {
            return false;
        };
        let Some(host) = self.hosts.get(index) else {
            return false;
        };
        let usable = host.life == Life::Active && host.frozen.is_none() && host.room().jobs > 0;
        let Some(epoch) = host.epoch.filter(|_| usable) else {
            return false;
        };
        self.snapshots_asked += 1;
        let number = self.snapshots_asked;
        let asked = Asked::Snapshot {
            epoch,
            before: self.history.next(),
            number,
            views: self
                .history
                .look(epoch, 0, self.setup.geometry.block_count()),
        };
        let snapshot = Some(name_of(number));
        self.submit(index, asked, Request::Flush { snapshot });
        true
    }

    /// The guest is told that its snapshot is there.
    pub(super) fn judge_snapshot(
        &mut self,
        index: usize,
        epoch: Epoch,
        number: u64,
        views: &[View],
    ) {
        let name = name_of(number);
        let makers: Vec<(usize, u64)> = self
            .snapshots_made
            .iter()
            .filter(|(made, ..)| *made == name)
            .map(|(_, node, region)| (*node, *region))
            .collect();
        if makers.len() < 3 {
            return self.fail(|| format!("u{index}: snapshot {name} is at {makers:?} only"));
        }
        let mut known: Option<(usize, Contents)> = None;
        for (at, region) in makers {
            let Some(node) = self.nodes.get(at) else {
                continue;
            };
            if node.power == Power::Lost || node.regions != region {
                continue; // It had it, and is gone since.
            }
            let contents = match node.storage.snapshot(&name) {
                Ok(Some(contents)) => contents,
                Ok(None) => return self.fail(|| format!("region {at} has no snapshot {name}")),
                Err(why) => return self.fail(|| format!("snapshot {name} of region {at}: {why}")),
            };
            self.snapshots.push(Kept {
                name: name.clone(),
                node: at,
                region,
                hash: hash_of(&contents),
            });
            if self.rot.node == Some(at) {
                continue; // What was bad before is bad in the snapshot.
            }
            match &known {
                Some((other, theirs)) if *theirs != contents => {
                    let other = *other;
                    return self.fail(|| {
                        format!("snapshot {name} differs between regions {other} and {at}")
                    });
                }
                _ => known = Some((at, contents)),
            }
        }
        let size = self.setup.geometry.block_size() as usize;
        for (block, (cell, view)) in known.iter().flat_map(|(_, all)| all).zip(views).enumerate() {
            let plain = cell.as_ref().ok().and_then(|(context, data)| {
                let data = Bytes::copy_from_slice(data);
                cipher::open(&[*context], &data, size, self.setup.encrypted).ok()
            });
            let block = block as u64;
            let version = plain.and_then(|plain| cipher::recognise(block, &plain.data));
            let Some(version) = version else {
                if self.may_be_bad(block, 1) {
                    continue;
                }
                return self.fail(|| format!("block {block} of snapshot {name} is bad"));
            };
            if let Err(why) = self.history.read(epoch, block, *view, version) {
                return self.fail(|| format!("snapshot {name}: {why}"));
            }
        }
    }

    /// All snapshots that were ever told of are still there, on all machines that still have their region.
    pub(super) fn check_snapshots(&mut self) {
        for kept in std::mem::take(&mut self.snapshots) {
            let Some(node) = self.nodes.get(kept.node) else {
                continue;
            };
            if node.regions != kept.region || node.power == Power::Lost {
                continue;
            }
            let found = node.storage.snapshot(&kept.name);
            let known = found.as_ref().ok().and_then(Option::as_ref).map(hash_of);
            if known != Some(kept.hash) {
                let why = match found {
                    Ok(None) => "is gone".to_owned(),
                    Ok(Some(_)) => "has changed".to_owned(),
                    Err(why) => why,
                };
                return self
                    .fail(|| format!("snapshot {} of region {} {why}", kept.name, kept.node));
            }
        }
    }
}
