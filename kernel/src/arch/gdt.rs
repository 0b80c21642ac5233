//! The segment table: long mode needs a code segment, a data segment and the task state.
use x86_64::PrivilegeLevel;
use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// Slots: the null descriptor, code, data, and two for the task state.
const SLOTS: usize = 5;

/// One CPU's segment table.
pub struct Segments {
    table: GlobalDescriptorTable<SLOTS>,
}

impl Segments {
    /// A table without segments.
    pub const fn new() -> Self {
        Self { table: GlobalDescriptorTable::empty() }
    }

    /// Fills the table and switches this CPU to it. Leaves the FS and GS bases at zero.
    ///
    /// # Safety
    /// The table and `task_state` stay where they are, unchanged, for ever.
    pub unsafe fn load(&mut self, task_state: *const TaskStateSegment) {
        self.table = GlobalDescriptorTable::empty();
        let code = self.table.append(Descriptor::kernel_code_segment());
        let data = self.table.append(Descriptor::kernel_data_segment());
        let null = SegmentSelector::new(0, PrivilegeLevel::Ring0);
        // SAFETY: the caller keeps table and task state alive; the selectors are those just
        // appended, of the kinds that the registers demand.
        unsafe {
            let task = self.table.append(Descriptor::tss_segment_unchecked(task_state));
            self.table.load_unsafe();
            CS::set_reg(code);
            SS::set_reg(data);
            DS::set_reg(data);
            ES::set_reg(data);
            FS::set_reg(null);
            GS::set_reg(null);
            load_tss(task);
        }
    }
}
