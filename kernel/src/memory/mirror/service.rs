//! Operations of devices under way: what they ask is answered, and how they ended is kept until somebody wants to know.
//!
//! A request of a device may be about any of its operations, so whoever waits for one answers for all.
use super::context::Context;
use super::{Done, Ending, MirrorProblem};
use crate::arch::machine::Hardware;
use crate::clock::Deadline;
use crate::memory::device::{self, PATIENCE};
use alloc::sync::Arc;
use ferry_device::DeviceError;
use ferry_device::command::{Command, Operation};
use ferry_device::context::MAX_OPERATIONS;
use ferry_device::request::{Answer, Ended, OperationStatus, Request};
use ferry_mm::frame::DeviceId;
use ferry_mm::lock::{Level, Lock};
use ferry_mm::machine::Machine;
use ferry_mm::manager::MAX_DEVICES;

/// Looks at the ring between two looks at the clock, which is far slower to read.
const POLLS_PER_TICK: u32 = 64;

/// An operation that was started and whose end nobody has taken.
struct Pending {
    operation: u64,
    context: Arc<Context>,
    ended: Option<Ended>,
}

/// What a device has under way: as many operations as it takes, which its driver sees to.
type Operations = [Option<Pending>; MAX_OPERATIONS];

/// The operations of each device.
static PENDING: [Lock<Operations>; MAX_DEVICES] =
    [const { Lock::new(Level::Operations, [const { None }; MAX_OPERATIONS]) }; MAX_DEVICES];

/// An operation of a device, to be waited for with [`Mirror::finish`](super::Mirror::finish).
#[must_use = "somebody must answer what the operation asks"]
#[derive(Debug)]
pub struct UnderWay {
    device: DeviceId,
    operation: u64,
}

/// Runs `work` with the operations of a device. Bounded: nobody waits for pages meanwhile, and for the device only until it has
/// taken a command.
fn with_pending<R>(device: DeviceId, work: impl FnOnce(&mut Operations) -> R) -> R {
    work(&mut PENDING[usize::from(device.number())].lock(&Hardware))
}

/// Has the device begin an operation.
pub(super) fn begin(context: &Arc<Context>, operation: Operation) -> Result<UnderWay, MirrorProblem> {
    let device = context.device();
    let start = Command::Start { context: context.id(), operation };
    // Noted before the lock is given back: another CPU may serve the first request at once.
    with_pending(device, |pending| {
        let place = pending.iter_mut().find(|place| place.is_none()).ok_or(DeviceError::TooManyOperations)?;
        let started = device::with_driver(device, |driver, patience| driver.run(start, patience))?;
        *place = Some(Pending { operation: started.sequence, context: context.clone(), ended: None });
        Ok(UnderWay { device, operation: started.sequence })
    })
}

/// Answers one request of the device, if it has made one; whether it had.
pub(super) fn serve(device: DeviceId) -> Result<bool, MirrorProblem> {
    let request = device::with_driver(device, |driver, _| driver.next_request())?;
    match request {
        None => return Ok(false),
        Some(Request::Ended(ended)) => with_pending(device, |pending| {
            if let Some(place) = pending.iter_mut().flatten().find(|place| place.operation == ended.operation) {
                place.ended = Some(ended);
            }
        }),
        Some(Request::PageFault(fault)) => {
            let context = with_pending(device, |pending| {
                let mut places = pending.iter().flatten();
                places.find(|place| place.operation == fault.operation).map(|place| place.context.clone())
            });
            let Some(context) = context else { return Ok(true) };
            // No lock is held: pages may have to come home, from the disk or from this device.
            let verdict = context.resolve(fault.span, fault.access);
            let answer = Answer { operation: fault.operation, verdict };
            match device::with_driver(device, |driver, _| driver.answer(answer)) {
                // The context was detached meanwhile, which ended the operation.
                Ok(()) | Err(DeviceError::NothingToAnswer(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(true)
}

/// Forgets the operations of a context that was detached: nobody will ask how they ended.
pub(super) fn forget(context: &Context) {
    with_pending(context.device(), |pending| {
        let is_its_own = |place: &Pending| core::ptr::eq(Arc::as_ptr(&place.context), context);
        pending.iter_mut().filter(|place| place.as_ref().is_some_and(is_its_own)).for_each(|place| *place = None);
    });
}

pub(super) fn is_under_way(operation: &UnderWay) -> bool {
    with_pending(operation.device, |pending| {
        let mut places = pending.iter().flatten();
        places.any(|place| place.operation == operation.operation && place.ended.is_none())
    })
}

/// Answers requests until the operation has ended; bounded by [`PATIENCE`] without any.
pub(super) fn finish(UnderWay { device, operation }: UnderWay) -> Result<Ending, MirrorProblem> {
    let mut deadline = Deadline::after(PATIENCE);
    loop {
        for _ in 0..POLLS_PER_TICK {
            if let Some(ended) = take_ended(device, operation) {
                return Ok(ending(ended));
            }
            if serve(device)? {
                deadline = Deadline::after(PATIENCE);
            } else {
                Hardware.relax();
            }
        }
        if deadline.expired() {
            return Err(DeviceError::Timeout { sequence: operation, alive: true }.into());
        }
    }
}

fn take_ended(device: DeviceId, operation: u64) -> Option<Ended> {
    with_pending(device, |pending| {
        let is_it = |place: &Pending| place.operation == operation && place.ended.is_some();
        pending.iter_mut().find(|place| place.as_ref().is_some_and(is_it))?.take()?.ended
    })
}

fn ending(ended: Ended) -> Ending {
    match ended.status {
        OperationStatus::Done => Ok(Done { pages: ended.pages, faults: ended.faults, value: ended.value }),
        refused => Err(refused),
    }
}
