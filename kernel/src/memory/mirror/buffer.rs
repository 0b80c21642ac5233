//! Device memory that belongs to no page: what operations fill and empty.
use super::MirrorProblem;
use crate::arch::machine::{self, Hardware};
use crate::memory::manager;
use ferry_device::FrameIndex;
use ferry_mm::frame::{DeviceFrame, DeviceId, DeviceRun};

/// Neighbouring frames of a device; cleared and freed on drop.
pub struct Buffer {
    run: DeviceRun<'static, Hardware>,
}

impl Buffer {
    /// A buffer of `pages` pages in the memory of `device`, full of zeros.
    ///
    /// # Errors
    /// [`MirrorProblem::DeviceFull`].
    pub fn new(device: DeviceId, pages: u64) -> Result<Self, MirrorProblem> {
        let full = MirrorProblem::DeviceFull { device, frames: pages };
        let count = u32::try_from(pages).map_err(|_| full)?;
        Ok(Self { run: manager().take_device_run(device, count).map_err(|_| full)? })
    }

    /// Its frames, ascending.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = DeviceFrame> + use<> {
        self.run.frames()
    }

    /// What page `index` of it holds, read through the BAR.
    ///
    /// # Panics
    /// Where it has no such page.
    pub fn load(&self, index: u64, page: &mut machine::PageBuffer) {
        machine::load_device_frame(self.frame(index), page);
    }

    /// Writes page `index` of it through the BAR. The device sees it when the next command is handed over.
    ///
    /// # Panics
    /// Where it has no such page.
    pub fn store(&self, index: u64, page: &machine::PageBuffer) {
        machine::store_device_frame(self.frame(index), page);
    }

    pub(super) fn first(&self) -> FrameIndex {
        FrameIndex(u64::from(self.frame(0).index()))
    }

    fn frame(&self, index: u64) -> DeviceFrame {
        self.run.frames().nth(index as usize).expect("a page of the buffer")
    }
}
