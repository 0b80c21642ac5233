//! The demo's part of the conversation with the kernel: its records in, one answer per checkpoint out.
//!
//! The kernel waits for nothing but the answer to a checkpoint.
use std::time::Duration;

use ferry_device_model::Model;
use ferry_protocol::link::{Checkpoint, FromHost, FromKernel};
use ferry_protocol::options::Trace;

use super::failure::Failure;
use super::report;
use super::summary::{CpuSummary, Summary};
use super::verify::Verifier;
use super::view::{BehindBar, Outside, SwapSlots};
use crate::conversation::{self, Partner, Patience, unexpected};
use crate::error::{Error, Refusal};
use crate::input::Input;
use crate::machine::MachineOptions;
use crate::qemu::{Boot, Machine};
use crate::screen::Screen;
use crate::size::grouped;
use crate::trace::TraceError;
use crate::trace::compare::compare;
use crate::trace::replay::Replay;
use crate::trace::stream::Stream;

/// Boots, accompanies the demo to its end and judges it; returns the bytes of the event stream. `summary` holds what is known, however it ends.
///
/// # Errors
/// Refused where the machine does not start, failed where anything does not hold.
pub fn run(
    boot: &Boot,
    input: &Input,
    timeout: Duration,
    trace: Trace,
    summary: &mut Summary,
    screen: &mut Screen,
) -> Result<Vec<u8>, Error> {
    let mut machine = Machine::start(boot).map_err(Refusal::from)?;
    screen.event("QEMU started");
    let mut talk = Talk {
        machine: boot.machine,
        verifier: Verifier::new(input),
        summary,
        screen,
        last: "QEMU was started".to_owned(),
        trace,
    };
    let result = conversation::follow(&mut machine, Patience::InAll(timeout), &mut talk);
    summary.transformed(machine.devices().iter().map(Model::frames_transformed));
    result?;
    if !machine.debugger_was_content() {
        return Err(Failure::Debugger.into());
    }
    summary.check()?;
    Ok(machine.trace().map_err(TraceError::from).map_err(Failure::from)?)
}

/// Where the conversation is.
struct Talk<'a> {
    machine: &'a MachineOptions,
    verifier: Verifier<'a>,
    summary: &'a mut Summary,
    screen: &'a mut Screen,
    /// The last thing that happened, for the message at a timeout.
    last: String,
    trace: Trace,
}

impl Partner for Talk<'_> {
    fn line(&mut self, line: &str) {
        report::console_line(self.screen, line);
    }

    fn record(&mut self, record: FromKernel<'_>, machine: &mut Machine) -> Result<(), Error> {
        match record {
            FromKernel::Checkpoint(checkpoint) => Ok(self.look(machine, &checkpoint)?),
            FromKernel::Homecoming { address, instruction, write } => {
                self.summary.homecomings += 1;
                report::homecoming(self.screen, address, &machine.symbol(instruction), write);
                Ok(())
            }
            record => self.take(record),
        }
    }

    fn under_way(&self) -> String {
        self.last.clone()
    }
}

impl Talk<'_> {
    fn look(&mut self, machine: &mut Machine, checkpoint: &Checkpoint) -> Result<(), Failure> {
        self.screen.clear_progress();
        let Checkpoint { stage, round, .. } = *checkpoint;
        self.last = format!("the kernel reached {stage:?}, round {round}");
        let models = machine.devices().iter().zip(&self.machine.devices);
        let devices =
            models.map(|(model, device)| BehindBar { device_type: device.device_type, memory: model.memory() });
        let devices: Vec<_> = devices.collect();
        let swap = machine.swap().map(|image| image as &dyn SwapSlots);
        let outside = Outside { memory: machine.ram(), devices: &devices, swap };
        let result = self.verifier.look(&outside, checkpoint);
        let told = self.compare_trace(machine, checkpoint);
        let answer = if result.is_ok() && told.is_ok() { FromHost::Continue } else { FromHost::Stop };
        // A link that is closed shows as the machine's end, which is reported with its reason.
        let _ = machine.answer(answer);
        let seen = result.map_err(|mismatch| Failure::Mismatch { stage, round, mismatch })?;
        told?;
        self.summary.saw(checkpoint, &seen);
        report::checkpoint(self.screen, checkpoint, &seen, &self.verifier);
        Ok(())
    }

    /// Where every event was sent so far: replays them, and holds the result against the guest's memory.
    fn compare_trace(&self, machine: &Machine, checkpoint: &Checkpoint) -> Result<(), TraceError> {
        if self.trace != Trace::Full {
            return Ok(());
        }
        let mut bytes = machine.trace()?;
        let stream = Stream::decode(&mut bytes)?;
        let replay = Replay::of(&stream, stream.records.len())?;
        let compared = compare(&replay, machine.ram(), checkpoint.root)?;
        let (events, entries) = (grouped(stream.records.len() as u64), grouped(compared.entries));
        self.screen.event(format_args!("host: {events} events replayed: {entries} entries as in guest RAM"));
        Ok(())
    }

    fn take(&mut self, record: FromKernel) -> Result<(), Error> {
        match record {
            FromKernel::Progress { stage, done, total } => self.screen.progress(report::label(stage), done, total),
            FromKernel::Stayed { round, reason, pages } => {
                self.summary.stayed(reason, pages);
                report::stayed(self.screen, round, reason, pages);
            }
            FromKernel::Unwritten { slot, frame } => self.verifier.unwritten(slot, frame),
            FromKernel::Device { number, bar } => self.verifier.place_bar(number, bar),
            FromKernel::DeviceOutcome { number, migrated, returned } => {
                self.summary.device_outcome(number, migrated, returned).map_err(Failure::Unexpected)?;
            }
            FromKernel::CpuOutcome { cpu, faults, ipis, flushes } => {
                self.summary.cpu_outcome(cpu, CpuSummary { faults, ipis, flushes }).map_err(Failure::Unexpected)?;
            }
            FromKernel::Outcome(outcome) => self.summary.outcome = Some(outcome),
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }
}
