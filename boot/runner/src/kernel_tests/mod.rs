//! The tests inside the kernel, from the host's side: which there are, and how each ends.
//!
//! One boot runs every selected test in order. A test that loses the kernel is reported as exactly that, and a fresh
//! boot goes on with the ones that are left.
//!
//! ```text
//!   Session::run("a")   boot: test=a,b,c ──▶ started a, passed ──▶ Ok
//!   Session::run("b")                    ──▶ started b, triple fault ──▶ Lost
//!   Session::run("c")   boot: test=c     ──▶ started c, leaked ──▶ Leaked
//! ```
mod outcome;
mod session;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ferry_device::DeviceType;
use ferry_protocol::link::FromKernel;
use ferry_protocol::options::{Command, Options};

use crate::artifacts::{self, Artifact};
use crate::conversation::{self, Partner, Patience, unexpected};
use crate::device::Ivshmem;
use crate::error::{Error, Refusal};
use crate::machine::MachineOptions;
use crate::qemu::{Boot, Machine, Qemu};
use crate::size::Size;
use crate::swap::SwapSize;

pub use outcome::{Completed, Outcome, Report};
pub use session::Session;

/// Environment variable with the seconds after which a test is called hung.
pub const TIMEOUT_VARIABLE: &str = "FERRY_TEST_TIMEOUT";

/// Environment variable with the number of CPUs of the machine.
pub const CPUS_VARIABLE: &str = "FERRY_TEST_CPUS";

/// The CPUs of the machine where nobody says otherwise: enough for every test.
const DEFAULT_CPUS: u32 = 4;

/// When a test is called hung where nobody says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// The swap disk of the machine that the tests run on.
pub const SWAP: SwapSize = SwapSize::Fixed(Size::mebibytes(16));

/// Its devices, by number.
pub const DEVICES: [DeviceType; 4] =
    [DeviceType::Private, DeviceType::Private, DeviceType::Coherent, DeviceType::Coherent];

/// Everything that the tests are booted with.
#[derive(Clone, Debug)]
pub struct Suite {
    machine: MachineOptions,
    loader: PathBuf,
    kernel: PathBuf,
    timeout: Duration,
}

impl Suite {
    /// Builds loader and test kernel.
    ///
    /// # Errors
    /// Where QEMU is missing or something does not build.
    pub fn build() -> Result<Self, Refusal> {
        Qemu::find()?;
        let [loader, kernel] = artifacts::build([Artifact::Loader, Artifact::TestKernel])?;
        Self::of(loader, kernel)
    }

    /// The same, with programs that are built already.
    ///
    /// # Errors
    /// Where the machine that was asked for cannot be.
    pub fn of(loader: PathBuf, kernel: PathBuf) -> Result<Self, Refusal> {
        let timeout = std::env::var(TIMEOUT_VARIABLE).ok().and_then(|seconds| seconds.parse().ok());
        let timeout = timeout.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
        let cpus = std::env::var(CPUS_VARIABLE).ok().and_then(|cpus| cpus.parse().ok()).unwrap_or(DEFAULT_CPUS);
        let devices = DEVICES.map(Ivshmem::of_type).to_vec();
        let machine = MachineOptions { cpus, devices, swap: SWAP, ..MachineOptions::default() };
        machine.check()?;
        Ok(Self { machine, loader, kernel, timeout })
    }

    /// The same, with another bound for each test.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The same, with so many CPUs whatever [`CPUS_VARIABLE`] says.
    pub fn with_cpus(mut self, cpus: u32) -> Self {
        self.machine.cpus = cpus;
        self
    }

    /// The same, on another machine.
    pub fn with_machine(self, machine: MachineOptions) -> Self {
        Self { machine, ..self }
    }

    /// The names of all tests, in the order in which the kernel runs them.
    ///
    /// # Errors
    /// Where the kernel does not boot or does not list them.
    pub fn list(&self) -> Result<Vec<String>, Error> {
        let mut machine = self.boot(&Options { command: Command::ListTests, ..Options::default() })?;
        let mut list = List(Vec::new());
        conversation::follow(&mut machine, Patience::InAll(self.timeout), &mut list)?;
        Ok(list.0)
    }

    fn boot(&self, options: &Options) -> Result<Machine, Refusal> {
        let text = options.to_string();
        let Self { machine, loader, kernel, .. } = self;
        Ok(Machine::start(&Boot {
            machine,
            loader,
            kernel,
            options: &text,
            input: None,
            verbose: false,
            debugger: None,
            clock: None,
        })?)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }
}

/// Whoever hears the names of the tests.
struct List(Vec<String>);

impl Partner for List {
    fn line(&mut self, _: &str) {}

    fn record(&mut self, record: FromKernel<'_>, _: &mut Machine) -> Result<(), Error> {
        match record {
            FromKernel::Test { name } => self.0.push(name.to_owned()),
            other => return Err(unexpected(&other)),
        }
        Ok(())
    }

    fn under_way(&self) -> String {
        "the kernel was listing its tests".to_owned()
    }
}
