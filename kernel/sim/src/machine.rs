//! The machine: memory and cores, behind the trait through which the memory manager sees them.
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use ferry_mm::address::PAGE_BYTES;
use ferry_mm::frame::{AnyFrame, Descriptor, DeviceFrame, FrameKind};
use ferry_mm::lock::HeldLocks;
use ferry_mm::machine::{Code, Context, CpuId, Machine};
use ferry_mm::page_table::entry::RawEntry;
use ferry_mm::page_table::flush::FlushRequest;
use ferry_mm::page_table::slot::EntrySlot;
use ferry_mm::trace::Event;
use x86_64::structures::paging::{Page, PhysFrame};
use x86_64::{PhysAddr, VirtAddr};

use crate::descriptors::Descriptors;
use crate::hardware::{Core, PageFault};
use crate::host_thread;
use crate::memory::{DeviceShape, FRAME_WORDS, Memory, behind_bar, coherent_frame};

/// A copy or a clear is done in parts of this many words (512 bytes), and other CPUs get a turn before each.
pub(crate) const CHUNK_WORDS: usize = 64;

/// Turns of a wait, without a change of any entry by the waiting CPU, after which nobody will ever end it: about 2 seconds.
const LONGEST_WAIT: u32 = 1 << 14;

/// How much the CPUs do on their own: chances of 256, for each CPU at each [`Moment`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chaos {
    /// Determines every choice.
    pub seed: u64,
    /// That the oldest store leaves the buffer.
    pub drain: u8,
    /// That a cached translation is forgotten.
    pub forget: u8,
    /// That a present entry is cached without an access.
    pub fill: u8,
}

impl Chaos {
    /// Nothing happens that no access and no request asked for.
    pub const CALM: Self = Self { seed: 0, drain: 0, forget: 0, fill: 0 };

    /// Everything happens now and then.
    pub const fn seeded(seed: u64) -> Self {
        Self { seed, drain: 24, forget: 8, fill: 24 }
    }
}

/// What the memory manager is about to ask of the machine, or has just been given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// Before an entry is read.
    LoadEntry,
    /// Before an entry is replaced.
    SwapEntry,
    /// Before an entry is compared and replaced.
    CompareExchangeEntry,
    /// Before each part of a clear.
    Clear,
    /// Before each part of a copy.
    Copy,
    /// Before copies are waited for.
    CompleteCopies,
    /// Before translations are flushed.
    Flush,
    /// Before each CPU forgets what a flush asks it to.
    Acknowledge,
    /// After translations were flushed.
    Flushed,
    /// Before a root is loaded.
    LoadRoot,
    /// After a root was loaded.
    RootLoaded,
    /// Before a lock is taken, after it was taken, and after it was given back.
    Lock,
    /// In each turn of a wait.
    Relax,
    /// Before each part of a transfer of the swap disk, and at its end.
    Disk,
    /// Before the descriptor of a frame is used. Told to a scheduler of tasks only.
    Descriptor,
}

type Watcher = Arc<dyn Fn(&Sim, Moment) + Send + Sync>;

/// How the CPUs share the host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Concurrency {
    /// Whoever calls acts as a CPU. Several host threads may do so at once.
    Threads,
    /// CPUs are tasks of one host thread. This function is called at each [`Moment`], and may run other tasks before it returns.
    Tasks(fn(Moment)),
}

impl Concurrency {
    /// Lets other tasks run; afterwards this thread acts as the CPU that it acted as before.
    pub(crate) fn switch(self, moment: Moment) {
        if let Self::Tasks(switch) = self {
            let cpu = host_thread::cpu();
            switch(moment);
            host_thread::become_cpu(cpu);
        }
    }
}

/// What the machine keeps for one CPU.
struct CpuPlace {
    core: Mutex<Core>,
    held: HeldLocks,
    context: Mutex<Context>,
    waited: AtomicU32,
}

/// The simulated machine.
pub struct Sim {
    memory: Memory,
    /// Shared with the memory manager: the machine looks only at what a frame is used for.
    descriptors: Arc<[Descriptor]>,
    device_descriptors: Vec<Arc<[Descriptor]>>,
    cpus: Box<[CpuPlace]>,
    chaos: Chaos,
    concurrency: Concurrency,
    watcher: RwLock<Option<Watcher>>,
    flushes: Mutex<Vec<FlushRequest>>,
    listening: AtomicBool,
    events: Mutex<Vec<(CpuId, Event)>>,
}

impl Sim {
    pub(crate) fn new(
        descriptors: &Descriptors,
        devices: &[DeviceShape],
        device_descriptors: &[Descriptors],
        cpus: usize,
        chaos: Chaos,
        concurrency: Concurrency,
    ) -> Self {
        let place = |number| CpuPlace {
            core: Mutex::new(Core::new(chaos.seed, number)),
            held: HeldLocks::new(),
            context: Mutex::new(Context { code: Code::Ordinary, interrupts_on: true }),
            waited: AtomicU32::new(0),
        };
        Self {
            memory: Memory::new(descriptors.for_the_machine().len(), devices),
            descriptors: descriptors.for_the_machine(),
            device_descriptors: device_descriptors.iter().map(Descriptors::for_the_machine).collect(),
            cpus: (0..cpus).map(place).collect(),
            chaos,
            concurrency,
            watcher: RwLock::new(None),
            flushes: Mutex::new(Vec::new()),
            listening: AtomicBool::new(false),
            events: Mutex::new(Vec::new()),
        }
    }

    /// Makes every CPU use these tables, as when the machine has just booted.
    pub(crate) fn boot(&self, root: PhysFrame) {
        for cpu in self.cpus() {
            self.core(cpu).root = root;
        }
    }

    /// Runs `work` as `cpu`: what it calls of the memory manager runs on that CPU.
    ///
    /// # Panics
    /// Where the machine has no such CPU.
    pub fn on<R>(&self, cpu: CpuId, work: impl FnOnce() -> R) -> R {
        assert!(cpu.number() < self.cpus.len(), "the machine has {} CPUs, no {cpu:?}", self.cpus.len());
        host_thread::as_cpu(cpu, work)
    }

    /// Every CPU.
    pub fn cpus(&self) -> impl Iterator<Item = CpuId> + use<> {
        (0..self.cpus.len()).filter_map(CpuId::new)
    }

    /// The locks that a CPU holds.
    pub fn held_by(&self, cpu: CpuId) -> &HeldLocks {
        &self.cpus[cpu.number()].held
    }

    /// Says what a CPU is doing from now on: which locks it may take depends on it.
    pub fn set_context(&self, cpu: CpuId, context: Context) {
        *self.cpus[cpu.number()].context.lock().unwrap_or_else(PoisonError::into_inner) = context;
    }

    /// Calls `watcher` at every [`Moment`] from now on, in place of the one before.
    ///
    /// It may let other CPUs act ([`Sim::load`], [`Sim::store`]); it must not call the memory manager, which is in the middle of something.
    pub fn watch(&self, watcher: impl Fn(&Self, Moment) + Send + Sync + 'static) {
        *self.watcher.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(watcher));
    }

    /// Calls no watcher any more.
    pub fn unwatch(&self) {
        *self.watcher.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Loads the 8 bytes at an aligned address, by hardware alone.
    ///
    /// # Errors
    /// The fault that the kernel would have to handle.
    pub fn load(&self, cpu: CpuId, address: VirtAddr) -> Result<u64, PageFault> {
        assert!(address.is_aligned(8_u64), "v{address:#x} is not aligned to 8 bytes");
        self.core(cpu).load(&self.memory, address)
    }

    /// Stores those bytes of `value` whose `mask` is all ones, at an aligned address, by hardware alone.
    ///
    /// # Errors
    /// The fault that the kernel would have to handle.
    pub fn store(&self, cpu: CpuId, address: VirtAddr, mask: u64, value: u64) -> Result<(), PageFault> {
        assert!(address.is_aligned(8_u64), "v{address:#x} is not aligned to 8 bytes");
        self.core(cpu).store(&self.memory, address, mask, value)
    }

    /// Makes a CPU cache what a walk for an address finds, as a speculative access does; nothing faults.
    pub fn prefetch(&self, cpu: CpuId, address: VirtAddr) {
        self.core(cpu).prefetch(&self.memory, Page::containing_address(address));
    }

    /// Lets every store of a CPU reach memory (MFENCE).
    pub fn fence(&self, cpu: CpuId) {
        self.core(cpu).stores.drain(&self.memory);
    }

    /// The 4096 bytes of a frame as they stand in memory: the view of a debugger, or of the host behind a device.
    pub fn bytes(&self, frame: AnyFrame) -> Vec<u8> {
        self.memory.bytes(frame)
    }

    /// Where CPUs reach a frame of a coherent device: behind the device's BAR.
    pub fn coherent_frame(&self, frame: DeviceFrame) -> PhysFrame {
        coherent_frame(frame)
    }

    /// The frame that CPUs reach at `frame`: RAM, or a frame of a coherent device.
    pub fn frame_at(&self, frame: PhysFrame) -> AnyFrame {
        behind_bar(frame).map_or(AnyFrame::System(frame), AnyFrame::Device)
    }

    /// Writes a word of a frame from outside, as a device does in its own memory.
    ///
    /// # Panics
    /// Where the frame or the word does not exist.
    pub fn poke(&self, frame: AnyFrame, word: usize, value: u64) {
        self.memory.frame(frame)[word].store(value, Ordering::SeqCst);
    }

    /// The flush requests since the last call of this.
    pub fn take_flushes(&self) -> Vec<FlushRequest> {
        std::mem::take(&mut *self.flushes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Collects the events of the memory manager from now on.
    pub fn listen(&self) {
        self.listening.store(true, Ordering::SeqCst);
    }

    /// The events since the last call of this, with the CPU of each, in the order in which they were told.
    pub fn take_events(&self) -> Vec<(CpuId, Event)> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn core(&self, cpu: CpuId) -> MutexGuard<'_, Core> {
        // A test that failed while it held the lock has said so already.
        self.cpus[cpu.number()].core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the other CPUs, and this one's caches, their turn.
    pub(crate) fn announce(&self, moment: Moment) {
        self.assert_no_free_frame_is_reachable();
        if self.chaos != Chaos::CALM {
            for cpu in self.cpus() {
                self.core(cpu).stir(&self.memory, &self.chaos);
            }
        }
        let watcher = self.watcher.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(watcher) = watcher {
            watcher(self, moment);
        }
        self.concurrency.switch(moment);
    }

    /// A frame is freed only after every CPU has forgotten it, and after every store to it has arrived.
    fn assert_no_free_frame_is_reachable(&self) {
        for cpu in self.cpus() {
            let core = self.core(cpu);
            for number in core.reachable() {
                let frame = PhysFrame::containing_address(PhysAddr::new(number as u64 * PAGE_BYTES));
                let descriptor = match self.frame_at(frame) {
                    AnyFrame::System(_) => self.descriptors.get(number),
                    AnyFrame::Device(frame) => {
                        let device = self.device_descriptors.get(usize::from(frame.device().number()));
                        device.and_then(|descriptors| descriptors.get(frame.index() as usize))
                    }
                };
                let Some(kind) = descriptor.map(Descriptor::kind) else { continue };
                let is_free = matches!(kind, FrameKind::Free | FrameKind::FreeTail);
                assert!(!is_free, "CPU {} still reaches the frame {number:#x}, which is free", cpu.number());
            }
        }
    }

    /// A locked instruction of this CPU: its stores are out before it.
    fn locked(&self) {
        self.fence(self.cpu());
    }

    fn progress(&self) {
        self.cpus[self.cpu().number()].waited.store(0, Ordering::Relaxed);
    }

    fn entry(&self, slot: EntrySlot) -> &std::sync::atomic::AtomicU64 {
        &self.memory.frame(slot.table().into())[usize::from(slot.index())]
    }
}

impl Machine for Sim {
    type Descriptors = Descriptors;

    fn load_entry(&self, slot: EntrySlot) -> RawEntry {
        self.announce(Moment::LoadEntry);
        RawEntry(self.entry(slot).load(Ordering::SeqCst))
    }

    fn swap_entry(&self, slot: EntrySlot, new: RawEntry) -> RawEntry {
        self.announce(Moment::SwapEntry);
        self.locked();
        self.progress();
        RawEntry(self.entry(slot).swap(new.0, Ordering::SeqCst))
    }

    fn compare_exchange_entry(&self, slot: EntrySlot, current: RawEntry, new: RawEntry) -> Result<(), RawEntry> {
        self.announce(Moment::CompareExchangeEntry);
        self.locked();
        let exchanged = self.entry(slot).compare_exchange(current.0, new.0, Ordering::SeqCst, Ordering::SeqCst);
        exchanged.map(|_| self.progress()).map_err(RawEntry)
    }

    fn clear(&self, frame: AnyFrame) {
        for chunk in self.memory.frame(frame).chunks(CHUNK_WORDS) {
            self.announce(Moment::Clear);
            for word in chunk {
                word.store(0, Ordering::SeqCst);
            }
        }
    }

    fn copy(&self, source: AnyFrame, target: AnyFrame) {
        // A CPU reads its own stores, wherever they are.
        self.fence(self.cpu());
        let (source, target) = (self.memory.frame(source), self.memory.frame(target));
        for start in (0..FRAME_WORDS).step_by(CHUNK_WORDS) {
            self.announce(Moment::Copy);
            for index in start..start + CHUNK_WORDS {
                target[index].store(source[index].load(Ordering::SeqCst), Ordering::SeqCst);
            }
        }
    }

    fn complete_copies(&self) {
        // Copies are visible as they are made here; what a CPU may see of one too early is up to who acts between its parts.
        self.announce(Moment::CompleteCopies);
    }

    fn flush(&self, request: FlushRequest) {
        self.announce(Moment::Flush);
        self.flushes.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        for cpu in request.cpus.iter() {
            self.announce(Moment::Acknowledge);
            let mut core = self.core(cpu);
            // The interrupt that carries the request, and INVLPG itself, wait for older stores (Intel SDM 3A 9.3).
            core.stores.drain(&self.memory);
            core.tlb.flush(request.scope);
        }
        self.announce(Moment::Flushed);
    }

    fn load_root(&self, root: PhysFrame) {
        self.announce(Moment::LoadRoot);
        {
            let mut core = self.core(self.cpu());
            core.stores.drain(&self.memory);
            core.root = root;
            core.tlb.change_root();
        }
        self.announce(Moment::RootLoaded);
    }

    fn cpu(&self) -> CpuId {
        host_thread::cpu()
    }

    fn relax(&self) {
        self.announce(Moment::Relax);
        let waited = self.cpus[self.cpu().number()].waited.fetch_add(1, Ordering::Relaxed);
        assert!(waited < LONGEST_WAIT, "{:?} waits for ever", self.cpu());
        if let Concurrency::Threads = self.concurrency {
            host_thread::relax(waited);
        }
    }

    fn held_locks(&self) -> &HeldLocks {
        self.announce(Moment::Lock);
        // Asked at each acquire and release of a lock. An acquire is a locked instruction; a release is a store that
        // whoever acquires next sees after all older ones. Either way nothing older is hidden from the next holder.
        self.locked();
        self.held_by(self.cpu())
    }

    fn context(&self) -> Context {
        *self.cpus[self.cpu().number()].context.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_traced(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    fn trace(&self, event: &Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push((self.cpu(), *event));
    }
}
