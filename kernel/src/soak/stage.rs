//! What a round is played on: a space, the devices, and one device that follows the space.
use super::SoakError;
use super::ground;
use crate::arch::cpus;
use crate::memory::device::Attached;
use crate::memory::mirror::Mirror;
use crate::memory::{self, AddressSpace, manager};
use alloc::vec::Vec;
use ferry_device::DeviceType;
use ferry_mm::address::PageRange;
use ferry_mm::frame::{AnyFrame, DeviceId};
use ferry_mm::machine::CpuId;
use ferry_mm::page_table::entry::Entry;
use ferry_mm::space::{Protection, Residency};

/// What a round is played on.
pub(super) struct Stage {
    /// The space that every CPU is in.
    pub space: AddressSpace,
    /// The common pages.
    pub common: PageRange,
    /// The devices.
    pub devices: Vec<DeviceId>,
    /// A private device that follows the common pages.
    pub mirror: Option<Mirror>,
}

impl Stage {
    /// Makes the space, which the calling CPU enters, and its pages.
    pub(super) fn set(devices: &[Attached]) -> Result<Self, SoakError> {
        let (space, common) = (manager().create_space()?, ground::common()?);
        memory::enter(space);
        space.map_anonymous(common, Protection::READ_WRITE)?;
        for cpu in (0..cpus::count()).filter_map(CpuId::new) {
            space.map_anonymous(ground::own(cpu)?, Protection::READ_WRITE)?;
        }
        ground::fill(common);
        let follower = devices.iter().find(|device| device.device_type == DeviceType::Private);
        let mirror = follower.map(|device| Mirror::open(space, common, device.id)).transpose()?;
        Ok(Self { space, common, devices: devices.iter().map(|device| device.id).collect(), mirror })
    }

    /// Holds the space's counts against its entries, when all have stopped.
    pub(super) fn check_counts(&self) -> Result<(), SoakError> {
        let mut found = Residency::default();
        self.space.for_each_entry(|_, raw| match raw.decode() {
            Entry::Swap { .. } => found.swap += 1,
            _ => match manager().mapped_frame(raw) {
                Some(AnyFrame::System(frame)) if frame == manager().zero_frame() => found.zero += 1,
                Some(AnyFrame::System(_)) => found.ram += 1,
                Some(AnyFrame::Device(_)) => found.device += 1,
                None => {}
            },
        });
        let counted = self.space.resident();
        if counted == found { Ok(()) } else { Err(SoakError::Counts { counted, found }) }
    }

    /// Takes everything away again.
    pub(super) fn strike(self) -> Result<(), SoakError> {
        drop(self.mirror);
        memory::leave();
        Ok(self.space.destroy()?)
    }
}
