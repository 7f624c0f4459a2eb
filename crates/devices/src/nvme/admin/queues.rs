//! Creating and deleting I/O queues, and the doorbell buffer that they then use.
//!
//! Source: NVM Express Base 1.4, 5.3 to 5.7.

use super::super::command::Command;
use super::super::controller::Nvme;
use super::super::dbbuf::Pages;
use super::super::registers::{PAGE, QUEUE_ENTRIES_MAX};
use super::super::shared::{Core, Deletion};
use super::super::status::Status;
use super::Reply;

/// The fields that both Create commands share.
struct Creation {
    id: u16,
    entries: u32,
    base: u64,
    contiguous: bool,
}

impl Creation {
    fn of(command: &Command) -> Self {
        Self {
            id: command.dwords[10] as u16,
            entries: (command.dwords[10] >> 16) + 1,
            base: command.prp1(),
            contiguous: command.dwords[11] & 1 != 0,
        }
    }

    /// Size, contiguity and alignment; the id is for the caller.
    fn check(&self) -> Result<(), Status> {
        // One entry is the same as none: a queue is full with one slot to go.
        if self.entries < 2 || self.entries > QUEUE_ENTRIES_MAX {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        // CAP.CQR: queues are contiguous.
        if !self.contiguous {
            return Err(Status::INVALID_FIELD);
        }
        if !self.base.is_multiple_of(PAGE) {
            return Err(Status::PRP_OFFSET_INVALID);
        }
        Ok(())
    }
}

pub(super) fn create_completion(
    nvme: &Nvme,
    core: &Core,
    command: &Command,
) -> Result<Reply, Status> {
    let creation = Creation::of(command);
    let shared = nvme.shared();
    let free = creation.id != 0
        && creation.id <= core.features.completion_queues
        && shared
            .completion(creation.id)
            .is_some_and(|queue| queue.entries() == 0);
    if !free {
        return Err(Status::INVALID_QUEUE_ID);
    }
    if !core.configuration.completion_entries_fit() {
        return Err(Status::INVALID_QUEUE_SIZE);
    }
    creation.check()?;
    let vector = (command.dwords[11] >> 16) as u16;
    let interrupts = command.dwords[11] & 2 != 0;
    let vectors = shared.function.msix().map_or(0, |msix| msix.vector_count());
    if vector >= vectors {
        return Err(Status::INVALID_VECTOR);
    }
    if let Some(queue) = shared.completion(creation.id) {
        let vector = interrupts.then_some(vector);
        queue.create(creation.base, creation.entries, vector);
        if let Some(pages) = core.pages {
            queue.shadow_doorbell(&shared.memory, pages);
        }
    }
    Ok(Reply::Done(0))
}

pub(super) fn create_submission(
    nvme: &Nvme,
    core: &Core,
    command: &Command,
) -> Result<Reply, Status> {
    let creation = Creation::of(command);
    let shared = nvme.shared();
    let queue = nvme
        .submission(creation.id)
        .filter(|queue| creation.id <= core.features.submission_queues && !queue.exists())
        .ok_or(Status::INVALID_QUEUE_ID)?;
    let completion_queue = (command.dwords[11] >> 16) as u16;
    if completion_queue == 0 || completion_queue > core.features.completion_queues {
        return Err(Status::INVALID_QUEUE_ID);
    }
    let posts = shared.completion(completion_queue);
    if posts.is_none_or(|queue| queue.entries() == 0) {
        return Err(Status::COMPLETION_QUEUE_INVALID);
    }
    if !core.configuration.submission_entries_fit() {
        return Err(Status::INVALID_QUEUE_SIZE);
    }
    creation.check()?;
    if let Err(error) = nvme.attach(creation.id, queue) {
        tracing::error!(device = shared.name, queue = creation.id, %error, "no worker for the queue");
        return Err(Status::INTERNAL_ERROR);
    }
    queue.create(
        creation.base,
        creation.entries,
        completion_queue,
        core.pages,
    );
    Ok(Reply::Done(0))
}

pub(super) fn delete_submission(
    nvme: &Nvme,
    core: &mut Core,
    command: &Command,
) -> Result<Reply, Status> {
    let id = command.dwords[10] as u16;
    let queue = nvme
        .submission(id)
        .filter(|queue| queue.entries() != 0)
        .ok_or(Status::INVALID_QUEUE_ID)?;
    match queue.delete() {
        None => Ok(Reply::Done(0)),
        Some(generation) => {
            core.deletions.push(Deletion {
                queue: id,
                generation,
                command: command.id(),
            });
            // A disk that hangs must not hold the guest's admin queue up.
            core.after.give_up_of = Some(id);
            Ok(Reply::Later)
        }
    }
}

pub(super) fn delete_completion(nvme: &Nvme, command: &Command) -> Result<Reply, Status> {
    let id = command.dwords[10] as u16;
    let queue = nvme
        .shared()
        .completion(id)
        .filter(|queue| id != 0 && queue.entries() != 0)
        .ok_or(Status::INVALID_QUEUE_ID)?;
    if nvme
        .submissions()
        .iter()
        .any(|s| s.completion_queue() == id)
    {
        return Err(Status::INVALID_QUEUE_DELETION);
    }
    queue.delete();
    Ok(Reply::Done(0))
}

/// Doorbell Buffer Config: all I/O queues, those there are and those to come.
///
/// The admin queue keeps to its registers, as guests in the field do; its EventIdx is kept at a value
/// that makes a guest ring each time, in case one does otherwise (see `Nvme::serve_admin`).
pub(super) fn doorbell_buffer(
    nvme: &Nvme,
    core: &mut Core,
    command: &Command,
) -> Result<Reply, Status> {
    let pages = Pages {
        shadows: command.prp1(),
        event_indexes: command.prp2(),
    };
    if !pages.shadows.is_multiple_of(PAGE) || !pages.event_indexes.is_multiple_of(PAGE) {
        return Err(Status::INVALID_FIELD);
    }
    let shared = nvme.shared();
    for page in [pages.shadows, pages.event_indexes] {
        let reachable = shared
            .memory
            .writable_slice(vm_types::GuestAddress(page), PAGE);
        if reachable.is_err() {
            return Err(Status::INVALID_FIELD);
        }
    }
    core.pages = Some(pages);
    for queue in shared.completions.iter().skip(1) {
        queue.shadow_doorbell(&shared.memory, pages);
    }
    for queue in nvme.submissions() {
        queue.shadow_doorbell(pages);
    }
    // A guest may have moved on between our look at the registers and now.
    core.after.kick = true;
    Ok(Reply::Done(0))
}
