//! What must be the same before and after a test or an experiment: whatever can leak, counted.
#![forbid(unsafe_code)]
use crate::arch::machine;
use crate::{heap, memory};
use alloc::format;
use alloc::string::String;

/// What there is of everything that can leak.
pub struct Census {
    heap_bytes: usize,
    /// Over all CPUs.
    held_locks: u32,
    memory: ferry_mm::manager::Census,
}

impl Census {
    /// Counts now.
    pub fn take() -> Self {
        Self { heap_bytes: heap::used(), memory: memory::census(), held_locks: machine::held_locks() }
    }

    fn counts(&self) -> [(&'static str, u64); 8] {
        let memory = &self.memory;
        [
            ("bytes of the heap in use", self.heap_bytes as u64),
            ("free frames", memory.free_frames),
            ("table frames", memory.table_frames),
            ("free device frames", memory.free_device_frames),
            ("free swap slots", memory.free_slots),
            ("address spaces", memory.spaces),
            ("special entries", memory.special_entries),
            ("held locks", self.held_locks.into()),
        ]
    }

    /// What differs in `after`, in words; empty where all is the same.
    pub fn difference(&self, after: &Self) -> String {
        let mut text = String::new();
        for ((name, before), (_, after)) in self.counts().into_iter().zip(after.counts()) {
            if before != after {
                let separator = if text.is_empty() { "" } else { ", " };
                text += &format!("{separator}{name}: {before} before, {after} after");
            }
        }
        text
    }
}
