//! The numbers of a run: the kernel's, the host's and the device's, held against each other.
//!
//! Nothing is believed that only one side says, where another side can count it too.
use std::collections::BTreeMap;
use std::time::Duration;

use ferry_protocol::link::{Checkpoint, Outcome, Stage};

use ferry_device::DeviceType;

use super::failure::Failure;
use super::verify::Seen;
use crate::input::{Hash, Input};
use crate::json::Json;
use crate::machine::MachineOptions;

/// What is known of a device in a run.
#[derive(Clone, Copy, Debug)]
struct DeviceSummary {
    device_type: DeviceType,
    /// The kernel's count of pages that reached it.
    migrated: Option<u64>,
    /// The kernel's count of pages that came home from it.
    returned: Option<u64>,
    verified: u64,
    inverted: u64,
    came_home: u64,
    transformed: u64,
}

impl DeviceSummary {
    fn new(device_type: DeviceType) -> Self {
        let (migrated, returned) = (None, None);
        Self { device_type, migrated, returned, verified: 0, inverted: 0, came_home: 0, transformed: 0 }
    }

    /// Holds kernel, host and device against each other, as far as this device goes.
    fn check(&self) -> Result<(), Failure> {
        const HOST: &str = "the host's count of pages found on it";
        let migrated = self.migrated.ok_or(Failure::Incomplete("its counts of a device"))?;
        let returned = self.returned.ok_or(Failure::Incomplete("its counts of a device"))?;
        same("the kernel's count of pages that reached a device", migrated, HOST, self.verified)?;
        same("the device's count of pages changed", self.transformed, HOST, self.verified)?;
        same("the host's count of pages found changed", self.inverted, HOST, self.verified)?;
        same("the kernel's count of pages that came home from a device", returned, HOST, self.verified)?;
        same("the host's count of pages found home from a device", self.came_home, HOST, self.verified)
    }

    fn to_json(self, number: u32) -> Json {
        Json::object([
            ("number", number.into()),
            ("type", self.device_type.to_string().into()),
            ("migrated", self.migrated.into()),
            ("host_verified", self.verified.into()),
            ("transformed", self.transformed.into()),
            ("returned", self.returned.into()),
        ])
    }
}

/// What a CPU of the guest has counted, as the kernel says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuSummary {
    /// Page faults of it that brought a page home from a device.
    pub faults: u64,
    /// Interrupts that were sent to it for flushes.
    pub ipis: u64,
    /// Times at which it has forgotten translations.
    pub flushes: u64,
}

impl CpuSummary {
    fn to_json(self, cpu: u32) -> Json {
        Json::object([
            ("cpu", cpu.into()),
            ("faults", self.faults.into()),
            ("ipis", self.ipis.into()),
            ("flushes", self.flushes.into()),
        ])
    }
}

fn same(
    first_name: &'static str,
    first: impl Into<i128>,
    second_name: &'static str,
    second: impl Into<i128>,
) -> Result<(), Failure> {
    let (first, second) = (first.into(), second.into());
    if first == second { Ok(()) } else { Err(Failure::Counts { first_name, first, second_name, second }) }
}

/// What is known of a run.
#[derive(Clone, Debug)]
pub struct Summary {
    bytes: u64,
    pages: u64,
    hash: Hash,
    expected: Hash,
    cpus: u32,
    inject: bool,
    strict: bool,
    rounds: u32,
    devices: Vec<DeviceSummary>,
    per_cpu: Vec<CpuSummary>,
    seen_waiting: u64,
    seen_swapped: u64,
    stayed: BTreeMap<String, u64>,
    hash_after: Option<Hash>,
    stale_bytes: Option<u64>,
    /// Accesses that brought a page home and were told, in strict mode.
    pub homecomings: u64,
    /// The kernel's own counts.
    pub outcome: Option<Outcome>,
    /// Why the run is not verified.
    pub error: Option<String>,
    /// From the start of QEMU to the end of the run.
    pub wall: Duration,
}

impl Summary {
    /// A run with this input, machine and options of which nothing else is known yet.
    pub fn new(input: &Input, machine: &MachineOptions, options: &super::Options) -> Self {
        Self {
            bytes: input.bytes().len() as u64,
            pages: input.pages(),
            hash: input.hash(),
            expected: input.inverted_hash(),
            cpus: machine.cpus,
            inject: options.inject.is_some(),
            strict: options.strict,
            rounds: 0,
            devices: machine.devices.iter().map(|device| DeviceSummary::new(device.device_type)).collect(),
            per_cpu: Vec::new(),
            seen_waiting: 0,
            seen_swapped: 0,
            stayed: BTreeMap::new(),
            // Of nothing there is nothing to bring home.
            hash_after: (input.pages() == 0).then(|| Hash::of([])),
            stale_bytes: None,
            homecomings: 0,
            outcome: None,
            error: None,
            wall: Duration::ZERO,
        }
    }

    /// Takes in what a checkpoint showed.
    pub fn saw(&mut self, checkpoint: &Checkpoint, seen: &Seen) {
        self.seen_swapped = self.seen_swapped.max(seen.swapped);
        let by_device = self.devices.iter_mut().zip(&seen.by_device);
        match checkpoint.stage {
            Stage::Populated => {}
            Stage::Migrated => {
                self.rounds = checkpoint.round;
                self.seen_waiting += seen.waiting;
                by_device.for_each(|(device, pages)| device.verified += pages);
            }
            Stage::Transformed => by_device.for_each(|(device, pages)| device.inverted += pages),
            Stage::Returned => {
                self.hash_after = seen.hash;
                by_device.for_each(|(device, pages)| device.came_home += pages);
            }
            Stage::TornDown => self.stale_bytes = seen.stale_bytes,
        }
    }

    /// Takes in the devices' own counts of pages that they changed, by number.
    pub fn transformed(&mut self, counts: impl Iterator<Item = u64>) {
        self.devices.iter_mut().zip(counts).for_each(|(device, pages)| device.transformed = pages);
    }

    /// Takes in the kernel's counts for a device.
    ///
    /// # Errors
    /// There is no such device; the text says so.
    pub fn device_outcome(&mut self, number: u8, migrated: u64, returned: u64) -> Result<(), String> {
        let device = self.devices.get_mut(usize::from(number));
        let device = device.ok_or_else(|| format!("counts of device {number}, which the machine does not have"))?;
        (device.migrated, device.returned) = (Some(migrated), Some(returned));
        Ok(())
    }

    /// Takes in the kernel's counts for a CPU.
    ///
    /// # Errors
    /// It is not the next one of the machine; the text says so.
    pub fn cpu_outcome(&mut self, cpu: u32, counts: CpuSummary) -> Result<(), String> {
        let next = self.per_cpu.len() as u32;
        if cpu != next || cpu >= self.cpus {
            return Err(format!("counts of CPU {cpu}, where {next} of {} CPUs are counted", self.cpus));
        }
        self.per_cpu.push(counts);
        Ok(())
    }

    /// A count over all devices.
    fn total(&self, count: impl Fn(&DeviceSummary) -> u64) -> u64 {
        self.devices.iter().map(count).sum()
    }

    /// Takes in that the kernel says pages stayed for a reason.
    pub fn stayed(&mut self, reason: &str, pages: u64) {
        *self.stayed.entry(reason.to_owned()).or_default() += pages;
    }

    /// Pages of the input.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Rounds of migration that were seen.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Holds all numbers against each other.
    ///
    /// # Errors
    /// The first two that differ, or what is missing.
    pub fn check(&self) -> Result<(), Failure> {
        let outcome = self.outcome.ok_or(Failure::Incomplete("its counts"))?;
        let after = self.hash_after.ok_or(Failure::Incomplete("bringing every page home"))?;
        let stale = self.stale_bytes.ok_or(Failure::Incomplete("tearing the address space down"))?;
        let stayed: u64 = self.stayed.values().sum();
        let pages = i128::from(self.pages);
        const INPUT: &str = "the number of pages of the input";
        same("the kernel's count of pages", outcome.pages, INPUT, pages)?;
        same("the kernel's count of CPUs", outcome.cpus, "the number that was asked for", self.cpus)?;
        same("the kernel's count of rounds", outcome.rounds, "the host's", self.rounds)?;
        same("the kernel's count of pages migrated", outcome.migrated, INPUT, pages)?;
        for device in &self.devices {
            device.check()?;
        }
        let verified = self.total(|device| device.verified);
        same("the host's count of pages found on the device", verified, INPUT, pages)?;
        same("the kernel's count of pages returned", outcome.returned, INPUT, pages)?;
        let faulting = self.devices.iter().filter(|device| device.device_type == DeviceType::Private);
        let faulting: u64 = faulting.map(|device| device.verified).sum();
        let private = "the number of pages that were on private devices";
        same("the kernel's count of faults on special entries", outcome.faults, private, faulting)?;
        const FAULTS: &str = "the kernel's count of faults on special entries";
        let by_cpu: u64 = self.per_cpu.iter().map(|cpu| cpu.faults).sum();
        same("the sum of the CPUs' counts of faults", by_cpu, FAULTS, outcome.faults)?;
        let counted = self.per_cpu.len() as u64;
        same("the number of CPUs with counts", counted, "the number that was asked for", self.cpus)?;
        let told = if self.strict { outcome.faults } else { 0 };
        let noted = self.homecomings + outcome.lost_homecomings;
        same("the count of accesses told or lost in strict mode", noted, "the number of those there were", told)?;
        let waiting = self.seen_waiting;
        same("the kernel's count of pages that stayed", stayed, "the host's, over all rounds", waiting)?;
        if outcome.swapped_out < self.seen_swapped {
            return Err(Failure::Swapped { kernel: outcome.swapped_out, host: self.seen_swapped });
        }
        const NONE: &str = "the number that may be missing";
        same("the count of RAM frames missing at the end", outcome.leaked_frames, NONE, 0)?;
        same("the count of device frames missing at the end", outcome.leaked_device_frames, NONE, 0)?;
        same("the count of swap slots missing at the end", outcome.leaked_swap_slots, NONE, 0)?;
        same("the count of table frames left at the end", outcome.leaked_table_frames, NONE, 0)?;
        same("the count of bytes left on the device", stale, "the number that may be left", 0)?;
        match after == self.expected {
            true => Ok(()),
            false => Err(Failure::Hashes { found: after, expected: self.expected }),
        }
    }

    /// The JSON object of `--json`; what is not known is `null`.
    pub fn to_json(&self) -> Json {
        let outcome = self.outcome;
        let stayed = self.stayed.iter().map(|(reason, pages)| (reason.clone(), Json::from(*pages))).collect();
        let text = |hash: Hash| hash.to_string();
        Json::object([
            ("input", Json::object([("bytes", self.bytes.into()), ("sha256", text(self.hash).into())])),
            ("cpus", self.cpus.into()),
            ("pages", self.pages.into()),
            ("rounds", self.rounds.into()),
            ("migrated", outcome.map(|outcome| outcome.migrated).into()),
            ("stayed", Json::Object(stayed)),
            ("host_verified", self.total(|device| device.verified).into()),
            ("device_transformed", self.total(|device| device.transformed).into()),
            ("faults", outcome.map(|outcome| outcome.faults).into()),
            ("returned", outcome.map(|outcome| outcome.returned).into()),
            ("swapped_out", outcome.map(|outcome| outcome.swapped_out).into()),
            ("swapped_in", outcome.map(|outcome| outcome.swapped_in).into()),
            ("devices", Json::Array((0..).zip(&self.devices).map(|(number, device)| device.to_json(number)).collect())),
            ("per_cpu", Json::Array((0..).zip(&self.per_cpu).map(|(number, cpu)| cpu.to_json(number)).collect())),
            ("sha256_after", self.hash_after.map(text).into()),
            ("sha256_expected", text(self.expected).into()),
            (
                "leaked",
                Json::object([
                    ("frames", outcome.map(|outcome| outcome.leaked_frames).into()),
                    ("device_frames", outcome.map(|outcome| outcome.leaked_device_frames).into()),
                    ("swap_slots", outcome.map(|outcome| outcome.leaked_swap_slots).into()),
                    ("table_frames", outcome.map(|outcome| outcome.leaked_table_frames).into()),
                ]),
            ),
            ("stale_device_bytes", self.stale_bytes.into()),
            (
                "strict",
                self.strict
                    .then(|| {
                        Json::object([
                            ("reported", self.homecomings.into()),
                            ("lost", outcome.map(|outcome| outcome.lost_homecomings).into()),
                        ])
                    })
                    .into(),
            ),
            ("injected", outcome.filter(|_| self.inject).map(|outcome| !outcome.inject_pending).into()),
            ("verified", self.error.is_none().into()),
            ("error", self.error.clone().into()),
            ("wall_ms", (self.wall.as_millis() as u64).into()),
        ])
    }
}

#[cfg(test)]
mod tests;
