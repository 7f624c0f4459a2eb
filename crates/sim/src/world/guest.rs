//! The guest: random requests, several at once, each write unlike all others.

use bytes::BytesMut;
use crucible_protocol::BlockIndex;
use crucible_upstairs::core::Request;
use vm_types::Span;

use super::hosts::{Host, Life};
use super::{Stage, What, World};
use crate::cipher::paint;
use crate::oracle::Asked;

/// Blocks of one read of the last verification.
const VERIFY_BLOCKS: u64 = 7;

impl World {
    /// The guest of an upstairs wants something.
    pub(super) fn guest(&mut self, index: usize) {
        let usable = self
            .hosts
            .get(index)
            .is_some_and(|host| host.life == Life::Active && host.epoch.is_some());
        if !usable || self.violation.is_some() {
            return;
        }
        match self.stage {
            Stage::Chaos => {
                self.burst(index);
                let think = self.setup.think;
                let pause = self.chance.guest.span(Span::from_micros(100), think);
                self.at(pause, What::Guest(index));
            }
            Stage::Rest => {
                // A little load, so that recovery is not of an idle volume only.
                if self.chance.guest.percent(30)
                    && self.hosts.get(index).is_some_and(|host| host.busy == 0)
                {
                    self.one(index);
                }
                self.at(Span::from_millis(700), What::Guest(index));
            }
            _ => {}
        }
    }

    fn burst(&mut self, index: usize) {
        let depth = self.setup.depth;
        for _ in 0..1 + self.chance.guest.index(depth) {
            let done = self.issued >= self.scenario.steps
                || self.violation.is_some()
                || self
                    .hosts
                    .get(index)
                    .is_none_or(|host| host.busy >= depth || host.life != Life::Active);
            if done {
                break;
            }
            self.one(index);
        }
    }

    fn one(&mut self, index: usize) {
        let Some((host, epoch)) = self
            .hosts
            .get(index)
            .and_then(|host| Some((host, host.epoch?)))
        else {
            return;
        };
        let room = host.room();
        let blocks = self.setup.geometry.block_count();
        let size = self.setup.geometry.block_size() as usize;
        let dice = &mut self.chance.guest;
        let count = (1 + dice.below(self.setup.blocks_max)).min(blocks);
        let start = dice.below(blocks - count + 1);
        let kind = dice.below(100);
        if room.jobs == 0 || room.bytes < count as usize * size {
            return;
        }
        self.issued += 1;
        let (reads, flushes) = (self.setup.reads, self.setup.flushes);
        if kind < reads {
            let views = self.history.look(epoch, start, count);
            let request = Request::Read {
                start: BlockIndex(start),
                count,
            };
            self.submit(
                index,
                Asked::Read {
                    epoch,
                    start,
                    views,
                },
                request,
            );
        } else if kind < reads + flushes {
            let before = self.history.next();
            let request = Request::Flush { snapshot: None };
            self.submit(index, Asked::Flush { epoch, before }, request);
        } else {
            let only_unwritten = kind < reads + flushes + 8;
            self.write(index, start, count, only_unwritten);
        }
    }

    /// Writes, if there is room.
    fn write(&mut self, index: usize, start: u64, count: u64, only_unwritten: bool) {
        let size = self.setup.geometry.block_size() as usize;
        let Some((room, epoch)) = self
            .hosts
            .get(index)
            .and_then(|host| Some((host.room(), host.epoch?)))
        else {
            return;
        };
        if room.jobs > 0 && room.bytes >= count as usize * size {
            let version = self.history.write(epoch, start, count, only_unwritten);
            let mut data = BytesMut::new();
            for block in start..start + count {
                data.extend_from_slice(&paint(block, version, size));
            }
            let asked = Asked::Write {
                epoch,
                start,
                count,
                version,
            };
            let start = BlockIndex(start);
            let request = if only_unwritten {
                Request::WriteUnwritten { start, data }
            } else {
                Request::Write { start, data }
            };
            self.submit(index, asked, request);
        }
    }

    /// Writes as many as there is room for of those that are to be written anew.
    pub(super) fn write_anew(&mut self, index: usize) {
        let size = self.setup.geometry.block_size() as usize;
        let fits = |host: &Host| host.room().jobs > 0 && host.room().bytes >= size;
        while self.hosts.get(index).is_some_and(fits) {
            let Some(block) = self.operator.anew.pop_front() else {
                break;
            };
            self.write(index, block, 1, false);
        }
    }

    /// Reads some more blocks, from this one on; the next one to be read.
    pub(super) fn read_some(&mut self, index: usize, start: u64) -> u64 {
        let Some(epoch) = self.hosts.get(index).and_then(|host| host.epoch) else {
            return start;
        };
        let count = VERIFY_BLOCKS.min(self.setup.geometry.block_count() - start);
        let bytes = count as usize * self.setup.geometry.block_size() as usize;
        let fits = self.hosts.get(index).is_some_and(|host| {
            let room = host.room();
            room.jobs > 0 && room.bytes >= bytes
        });
        if !fits {
            return start; // Until a flush has made room.
        }
        let views = self.history.look(epoch, start, count);
        let request = Request::Read {
            start: BlockIndex(start),
            count,
        };
        self.submit(
            index,
            Asked::Read {
                epoch,
                start,
                views,
            },
            request,
        );
        start + count
    }

    /// Flushes.
    pub(super) fn flush_all(&mut self, index: usize) {
        let Some(epoch) = self.hosts.get(index).and_then(|host| host.epoch) else {
            return;
        };
        let before = self.history.next();
        let request = Request::Flush { snapshot: None };
        self.submit(index, Asked::Flush { epoch, before }, request);
    }
}
