//! A CPU as a program uses it: loads and stores that fault, are handled by the memory manager, and are tried again.
use ferry_mm::machine::CpuId;
use ferry_mm::space::{FaultError, Space};
use x86_64::VirtAddr;

use crate::hardware::PageFault;
use crate::machine::Sim;
use crate::world::World;

/// Faults that one access may take before it counts as never getting anywhere.
const FAULTS_PER_ACCESS: u32 = 1000;

/// Bytes of the words in which hardware accesses are made.
const WORD_BYTES: u64 = 8;

/// Why an access of a program did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessError {
    /// The memory manager refused it.
    Refused(FaultError),
    /// The CPU is in no address space.
    NoSpace(CpuId),
    /// The access faulted this often, each time handled.
    NeverGetsThrough(PageFault, u32),
}

impl std::fmt::Display for AccessError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::NoSpace(cpu) => write!(f, "CPU {} is in no address space; enter one first", cpu.number()),
            Self::NeverGetsThrough(fault, faults) => {
                write!(f, "{:?} at v{:#x} faulted {faults} times, each time handled", fault.access, fault.address)
            }
        }
    }
}

impl std::error::Error for AccessError {}

/// A CPU of a world.
#[derive(Clone, Copy)]
pub struct Cpu<'w> {
    world: &'w World,
    id: CpuId,
}

impl<'w> Cpu<'w> {
    pub(crate) fn new(world: &'w World, id: CpuId) -> Self {
        Self { world, id }
    }

    /// The CPU's number.
    pub fn id(self) -> CpuId {
        self.id
    }

    /// Runs `work` as this CPU.
    pub fn run<R>(self, work: impl FnOnce() -> R) -> R {
        self.world.sim().on(self.id, work)
    }

    /// The space that the CPU is in.
    pub fn space(self) -> Option<Space<'w, Sim>> {
        let root = self.world.sim().core(self.id).root;
        self.world.manager().spaces().find(|space| space.root() == root)
    }

    /// Enters a space, out of the one that the CPU is in.
    pub fn enter(self, space: Space<'w, Sim>) {
        self.leave();
        self.run(|| space.enter());
    }

    /// Leaves the space that the CPU is in, if any.
    pub fn leave(self) {
        if let Some(space) = self.space() {
            self.run(|| self.world.manager().leave(space));
        }
    }

    /// Fills `bytes` from `address`.
    ///
    /// # Errors
    /// See [`AccessError`].
    pub fn load(self, address: VirtAddr, bytes: &mut [u8]) -> Result<(), AccessError> {
        let mut done = 0;
        while done < bytes.len() {
            let (word, first, count) = part(address + done as u64, bytes.len() - done);
            let value = self.retry(|| self.world.sim().load(self.id, word))?;
            bytes[done..done + count].copy_from_slice(&value.to_le_bytes()[first..first + count]);
            done += count;
        }
        Ok(())
    }

    /// Stores `bytes` from `address` on.
    ///
    /// # Errors
    /// See [`AccessError`]; what lies before the word that could not be stored is stored.
    pub fn store(self, address: VirtAddr, bytes: &[u8]) -> Result<(), AccessError> {
        let mut done = 0;
        while done < bytes.len() {
            let (word, first, count) = part(address + done as u64, bytes.len() - done);
            let (mut mask, mut value) = ([0; WORD_BYTES as usize], [0; WORD_BYTES as usize]);
            mask[first..first + count].fill(0xff);
            value[first..first + count].copy_from_slice(&bytes[done..done + count]);
            let (mask, value) = (u64::from_le_bytes(mask), u64::from_le_bytes(value));
            self.retry(|| self.world.sim().store(self.id, word, mask, value))?;
            done += count;
        }
        Ok(())
    }

    /// The bytes at `address`; a convenience over [`Self::load`].
    ///
    /// # Errors
    /// See [`AccessError`].
    pub fn read<const N: usize>(self, address: VirtAddr) -> Result<[u8; N], AccessError> {
        let mut bytes = [0; N];
        self.load(address, &mut bytes)?;
        Ok(bytes)
    }

    fn retry<R>(self, mut access: impl FnMut() -> Result<R, PageFault>) -> Result<R, AccessError> {
        let mut last = None;
        for _ in 0..FAULTS_PER_ACCESS {
            match access() {
                Ok(value) => return Ok(value),
                Err(fault) => {
                    let space = self.space().ok_or(AccessError::NoSpace(self.id))?;
                    self.run(|| space.fault(fault.address, fault.access)).map_err(AccessError::Refused)?;
                    last = Some(fault);
                }
            }
        }
        Err(AccessError::NeverGetsThrough(last.expect("at least one fault"), FAULTS_PER_ACCESS))
    }
}

/// The word that holds `address`, the place in it, and how many of `left` bytes it holds.
fn part(address: VirtAddr, left: usize) -> (VirtAddr, usize, usize) {
    let word = address.align_down(WORD_BYTES);
    let first = (address - word) as usize;
    (word, first, left.min(WORD_BYTES as usize - first))
}
