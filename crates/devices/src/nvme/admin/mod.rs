//! Admin commands, carried out on the thread that rings the admin doorbell.
//!
//! Source: NVM Express Base 1.4, chapter 5. All but two are done at once; Delete I/O Submission Queue
//! waits for the queue's commands, Asynchronous Event Request for an event.

pub(super) mod events;

pub(super) mod features;

pub(super) mod identify;

pub(super) mod logs;

mod queues;

use super::command::{Command, admin};
use super::controller::Nvme;
use super::prp;
use super::shared::{Core, Shared};
use super::status::Status;

/// How a command ends when it does not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Now, with this word 0.
    Done(u32),
    /// Later; its completion slot stays set aside.
    Later,
    /// When there is an event; it holds no slot.
    Parked,
}

/// Carries out one admin command.
pub(super) fn execute(nvme: &Nvme, core: &mut Core, command: &Command) -> Result<Reply, Status> {
    command.check_common()?;
    let shared = nvme.shared();
    match command.opcode() {
        admin::IDENTIFY => {
            let page = identify::page(shared, nvme.config(), command)?;
            prp::copy_to_guest(&shared.memory, command.prp1(), command.prp2(), &page)?;
            Ok(Reply::Done(0))
        }
        admin::GET_LOG_PAGE => {
            let queues = nvme.submissions();
            let page = logs::page(shared, core, nvme.config(), queues, command)?;
            prp::copy_to_guest(&shared.memory, command.prp1(), command.prp2(), &page)?;
            Ok(Reply::Done(0))
        }
        admin::GET_FEATURES => {
            features::get(shared, core, nvme.defaults(), command).map(Reply::Done)
        }
        admin::SET_FEATURES => {
            let exist = nvme.submissions().iter().any(|queue| queue.exists())
                || shared.completions.iter().skip(1).any(|q| q.entries() != 0);
            let count = nvme.submissions().len() as u16;
            features::set(shared, core, count, exist, command).map(Reply::Done)
        }
        admin::CREATE_CQ => queues::create_completion(nvme, core, command),
        admin::CREATE_SQ => queues::create_submission(nvme, core, command),
        admin::DELETE_CQ => queues::delete_completion(nvme, command),
        admin::DELETE_SQ => queues::delete_submission(nvme, core, command),
        admin::DOORBELL_BUFFER => queues::doorbell_buffer(nvme, core, command),
        admin::ABORT => abort(nvme, core, command),
        admin::ASYNC_EVENT => {
            core.events.park(command.id())?;
            Ok(Reply::Parked)
        }
        _ => Err(Status::INVALID_OPCODE),
    }
}

/// Abort: what the disk already works on goes on (bit 0 of the answer set); what waits is aborted.
fn abort(nvme: &Nvme, core: &mut Core, command: &Command) -> Result<Reply, Status> {
    let queue = command.dwords[10] as u16;
    let id = (command.dwords[10] >> 16) as u16;
    let aborted = if queue == 0 {
        // On the admin queue only event requests wait for long.
        abort_event_request(nvme.shared(), core, id)
    } else {
        match nvme.submission(queue) {
            Some(queue) => queue.abort(id),
            None => return Err(Status::INVALID_FIELD),
        }
    };
    Ok(Reply::Done(u32::from(!aborted)))
}

fn abort_event_request(shared: &Shared, core: &mut Core, id: u16) -> bool {
    let Some(queue) = shared.completion(0) else {
        return false;
    };
    if queue.reserve(&shared.memory, 1) == 0 {
        return false;
    }
    if core.events.abort(id) {
        shared.answer_admin(core, id, Status::ABORT_REQUESTED, 0);
        true
    } else {
        queue.release(1);
        false
    }
}
