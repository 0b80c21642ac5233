//! The conversation with the kernel: its records in, one answer per checkpoint out.
//!
//! Every wait ends by the deadline of the run. The kernel waits for nothing but the answer to a checkpoint.
use std::time::Duration;

use ferry_device_model::Model;
use ferry_protocol::exit::ExitCode;
use ferry_protocol::link::{self, Checkpoint, FromHost, FromKernel, VERSION};
use ferry_protocol::options::Trace;

use super::failure::Failure;
use super::report;
use super::summary::{CpuSummary, Summary};
use super::verify::Verifier;
use super::view::{BehindBar, Outside, SwapSlots};
use crate::error::{Error, Refusal};
use crate::input::Input;
use crate::machine::MachineOptions;
use crate::qemu::{Boot, End, Event, Machine};
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
        heard: false,
        greeted: false,
        done: false,
        trace,
    };
    let result = talk.converse(&mut machine, timeout);
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
    /// The machine has said something, so QEMU did start it.
    heard: bool,
    greeted: bool,
    done: bool,
    trace: Trace,
}

impl Talk<'_> {
    fn converse(&mut self, machine: &mut Machine, timeout: Duration) -> Result<(), Error> {
        let deadline = machine.started() + timeout;
        loop {
            match machine.next(deadline) {
                Event::Line(line) => {
                    self.heard = true;
                    report::console_line(self.screen, &line);
                }
                Event::Record(mut frame) => {
                    self.heard = true;
                    let bytes = frame.len();
                    match link::decode(&mut frame).map_err(|_| Failure::Garbled { bytes })? {
                        FromKernel::Checkpoint(checkpoint) => self.look(machine, &checkpoint)?,
                        FromKernel::Homecoming { address, instruction, write } => {
                            self.summary.homecomings += 1;
                            report::homecoming(self.screen, address, &machine.symbol(instruction), write);
                        }
                        record => self.take(record)?,
                    }
                }
                Event::Ended(end) => return self.ended(end),
                Event::TimedOut => {
                    let lines = machine.stop();
                    return Err(Failure::TimedOut { limit: timeout, last: self.last.clone(), lines }.into());
                }
            }
        }
    }

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
        let result = match self.greeted {
            true => self.verifier.look(&outside, checkpoint),
            false => return Err(Failure::Unexpected("a checkpoint before its greeting".to_owned())),
        };
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

    fn take(&mut self, record: FromKernel) -> Result<(), Failure> {
        match record {
            FromKernel::Hello { version: VERSION } => self.greeted = true,
            FromKernel::Hello { version } => return Err(Failure::Version(version)),
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
            FromKernel::Done => self.done = true,
            FromKernel::Checkpoint(_)
            | FromKernel::Homecoming { .. }
            | FromKernel::Measured(_)
            | FromKernel::Test { .. }
            | FromKernel::TestStarted { .. }
            | FromKernel::TestEnded(_)
            | FromKernel::Text { .. }
            | FromKernel::Prompt { .. }
            | FromKernel::SoakRound { .. }
            | FromKernel::SoakViolation { .. }
            | FromKernel::SoakCount { .. } => return Err(Failure::Unexpected(format!("{record:?}"))),
        }
        Ok(())
    }

    fn ended(&mut self, end: End) -> Result<(), Error> {
        match end {
            End::Code(ExitCode::Success) if self.done => Ok(()),
            End::Code(ExitCode::Success) => Err(Failure::Incomplete("saying that it was done").into()),
            End::Qemu { .. } if !self.heard => Err(Refusal::QemuGaveUp(end.to_string()).into()),
            end => Err(Failure::Ended(end).into()),
        }
    }
}
