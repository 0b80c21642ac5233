//! A machine with its memory manager, ready for a test.
use std::sync::Arc;

use ferry_mm::MemoryManager;
use ferry_mm::address::PAGE_BYTES;
use ferry_mm::frame::{AnyFrame, CpuWindow, DeviceFrame, DeviceId, DeviceMemory, SystemMemory};
use ferry_mm::machine::{CpuId, Machine};
use ferry_mm::swap::SwapDisk;
use x86_64::PhysAddr;
use x86_64::structures::paging::PhysFrame;

use crate::audit::audit;
use crate::descriptors::Descriptors;
use crate::disk::SimDisk;
use crate::host_thread;
use crate::machine::{Chaos, Concurrency, Moment, Sim};
use crate::memory::{COHERENT_TYPE, DeviceShape};
use crate::program::Cpu;

/// Frames at the bottom of RAM that belong to nobody, as on a real machine.
const RESERVED_FRAMES: usize = 1;

/// What a [`World`] is made of.
#[derive(Clone, Debug)]
pub struct Builder {
    frames: usize,
    devices: Vec<DeviceShape>,
    slots: usize,
    cpus: usize,
    chaos: Chaos,
    concurrency: Concurrency,
}

impl Builder {
    /// RAM of `frames` frames. One is reserved, one is the kernel's root table, one the zero page.
    pub fn frames(mut self, frames: usize) -> Self {
        self.frames = frames;
        self
    }

    /// One more device, of `frames` frames that only copies reach; the first is device 0.
    pub fn device(mut self, frames: usize) -> Self {
        self.devices.push(DeviceShape { frames, coherent: false, registered: true });
        self
    }

    /// One more device, of `frames` frames that CPUs reach behind its BAR, too ([`Sim::coherent_frame`]).
    pub fn coherent_device(mut self, frames: usize) -> Self {
        self.devices.push(DeviceShape { frames, coherent: true, registered: true });
        self
    }

    /// One more device, with `frames` frames of registers that CPUs reach and the memory manager knows nothing of.
    pub fn registers(mut self, frames: usize) -> Self {
        self.devices.push(DeviceShape { frames, coherent: true, registered: false });
        self
    }

    /// A swap disk of `slots` slots.
    pub fn swap(mut self, slots: usize) -> Self {
        self.slots = slots;
        self
    }

    /// The number of CPUs.
    pub fn cpus(mut self, cpus: usize) -> Self {
        self.cpus = cpus;
        self
    }

    /// What the CPUs do on their own.
    pub fn chaos(mut self, chaos: Chaos) -> Self {
        self.chaos = chaos;
        self
    }

    /// The CPUs are tasks of one host thread: `switch` is called at each [`Moment`], and may run other tasks before it returns.
    ///
    /// Each task acts as its CPU ([`Sim::on`]) from its beginning to its end, and tasks are switched nowhere else.
    pub fn tasks(mut self, switch: fn(Moment)) -> Self {
        self.concurrency = Concurrency::Tasks(switch);
        self
    }

    /// Builds the machine and boots the memory manager on it.
    ///
    /// # Panics
    /// Where there are too few frames for the kernel itself, or more devices than the memory manager takes.
    pub fn build(self) -> World {
        // Whatever CPU this thread acted as in another machine.
        host_thread::as_cpu(CpuId::BOOT, || self.boot())
    }

    fn boot(self) -> World {
        let descriptors = |count| Descriptors::new(count, self.concurrency);
        let ram = descriptors(self.frames);
        let shared: Vec<_> = self.devices.iter().map(|shape| descriptors(shape.frames)).collect();
        let sim = Sim::new(&ram, &self.devices, &shared, self.cpus, self.chaos, self.concurrency);
        let memory = SystemMemory::new(ram);
        let first = PhysFrame::containing_address(PhysAddr::new(RESERVED_FRAMES as u64 * PAGE_BYTES));
        memory.donate(&sim, first, (self.frames - RESERVED_FRAMES) as u64);
        let kernel_root = memory.allocate_block(&sim, 0).expect("a frame for the kernel's root table");
        sim.clear(AnyFrame::System(kernel_root));
        sim.boot(kernel_root);
        let manager = MemoryManager::new(sim, memory, kernel_root).expect("a frame for the zero page");
        for (number, (shape, descriptors)) in self.devices.iter().zip(shared).enumerate() {
            if !shape.registered {
                continue;
            }
            let id = u8::try_from(number).ok().and_then(DeviceId::new).expect("a device number");
            let device = if shape.coherent {
                let first = manager.machine().coherent_frame(DeviceFrame::new(id, 0));
                DeviceMemory::coherent(id, descriptors, CpuWindow::new(first, COHERENT_TYPE))
            } else {
                DeviceMemory::new(id, descriptors)
            };
            manager.register_device(device).expect("a place for the device");
        }
        let disk = (self.slots > 0).then(|| Arc::new(SimDisk::new(self.slots)));
        if let Some(disk) = &disk {
            manager.attach_swap(Box::new(disk.clone())).expect("the first disk");
        }
        let free_at_boot = manager.memory().free(manager.machine());
        World { manager, kernel_root, free_at_boot, disk }
    }
}

/// A machine and its memory manager.
pub struct World {
    manager: MemoryManager<Sim>,
    kernel_root: PhysFrame,
    free_at_boot: u64,
    disk: Option<Arc<SimDisk>>,
}

impl World {
    /// A machine with 256 frames of RAM, no device and one calm CPU, unless told otherwise.
    pub fn builder() -> Builder {
        let (devices, concurrency) = (Vec::new(), Concurrency::Threads);
        Builder { frames: 256, devices, slots: 0, cpus: 1, chaos: Chaos::CALM, concurrency }
    }

    /// The memory manager.
    pub fn manager(&self) -> &MemoryManager<Sim> {
        &self.manager
    }

    /// The machine.
    pub fn sim(&self) -> &Sim {
        self.manager.machine()
    }

    /// The root of the kernel's own tables.
    pub fn kernel_root(&self) -> PhysFrame {
        self.kernel_root
    }

    /// The swap disk.
    ///
    /// # Panics
    /// Where the machine has none.
    pub fn disk(&self) -> &SimDisk {
        self.disk.as_ref().expect("a machine with a swap disk")
    }

    /// Free RAM frames when the memory manager had booted.
    pub fn free_at_boot(&self) -> u64 {
        self.free_at_boot
    }

    /// A CPU.
    ///
    /// # Panics
    /// Where the machine has no such CPU.
    pub fn cpu(&self, number: usize) -> Cpu<'_> {
        Cpu::new(self, self.sim().cpus().nth(number).expect("a CPU of this machine"))
    }

    /// Leaves and destroys every space, then checks that everything is free again: by count, by the audit, and by taking
    /// every frame out of the allocator once.
    ///
    /// # Panics
    /// Where anything is missing, with what.
    pub fn assert_all_free(&self) {
        self.sim().unwatch();
        for cpu in self.sim().cpus() {
            Cpu::new(self, cpu).leave();
        }
        for space in self.manager.spaces() {
            space.destroy().expect("every CPU has left");
        }
        if let Err(report) = audit(self) {
            panic!("after everything was destroyed: {report}");
        }
        let memory = self.manager.memory();
        assert_eq!(memory.free(self.sim()), self.free_at_boot, "RAM frames are missing");
        for device in self.manager.devices() {
            assert_eq!(device.free(), device.frames(), "frames of device {} are missing", device.id().number());
        }
        if let (Some(swap), Some(disk)) = (self.manager.swap(), &self.disk) {
            assert_eq!(swap.free(self.sim()), disk.slots(), "slots of the swap disk are missing");
        }
        let blocks: Vec<PhysFrame> = std::iter::from_fn(|| memory.allocate_block(self.sim(), 0).ok()).collect();
        assert_eq!(blocks.len() as u64, self.free_at_boot, "the free lists hold other frames than they count");
        for block in blocks {
            memory.free_block(self.sim(), block, 0);
        }
    }
}
