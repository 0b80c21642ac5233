//! The interrupt descriptor table: which entry and which stack each vector has.
use super::cpus::SERVICE_VECTOR;
use super::entry::{PAGE_FAULT, VECTOR_ENTRY_BYTES, page_fault_entry, vectors};
use super::per_cpu::ExceptionStack;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use x86_64::VirtAddr;
use x86_64::structures::idt::{Entry, InterruptDescriptorTable};

/// First vector that is not an exception of the CPU (Intel SDM 3A, table 6-1).
const FIRST_INTERRUPT: u8 = 32;

struct Table(UnsafeCell<InterruptDescriptorTable>, AtomicBool);

// SAFETY: the table is written once, by `fill_and_load`, which the flag guards; the CPU only reads it.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new(InterruptDescriptorTable::new()), AtomicBool::new(false));

/// Fills the table for all CPUs and loads it into this one, which boots.
///
/// # Panics
/// When it is called twice.
pub fn fill_and_load() {
    assert!(!TABLE.1.swap(true, Relaxed), "the interrupt table is filled once");
    // SAFETY: the flag was clear, so nobody else holds a reference.
    let table = unsafe { &mut *TABLE.0.get() };
    set(&mut table.divide_error, 0);
    set(&mut table.debug, 1);
    set(&mut table.non_maskable_interrupt, 2);
    set(&mut table.breakpoint, 3);
    set(&mut table.overflow, 4);
    set(&mut table.bound_range_exceeded, 5);
    set(&mut table.invalid_opcode, 6);
    set(&mut table.device_not_available, 7);
    set(&mut table.double_fault, 8);
    set(&mut table.invalid_tss, 10);
    set(&mut table.segment_not_present, 11);
    set(&mut table.stack_segment_fault, 12);
    set(&mut table.general_protection_fault, 13);
    set(&mut table.page_fault, PAGE_FAULT);
    set(&mut table.x87_floating_point, 16);
    set(&mut table.alignment_check, 17);
    set(&mut table.machine_check, 18);
    set(&mut table.simd_floating_point, 19);
    set(&mut table.virtualization, 20);
    set(&mut table.cp_protection_exception, 21);
    for vector in FIRST_INTERRUPT..=u8::MAX {
        set(&mut table[vector], vector);
    }
    load();
}

/// Loads the table into this CPU.
///
/// # Panics
/// Before it is filled.
pub fn load() {
    assert!(TABLE.1.load(Relaxed), "the interrupt table is filled before it is loaded");
    // SAFETY: the table is static, and nothing writes it any more.
    unsafe { (*TABLE.0.get()).load_unsafe() };
}

fn set<F>(entry: &mut Entry<F>, vector: u8) {
    let stack = match vector {
        PAGE_FAULT => ExceptionStack::PageFault,
        1 => ExceptionStack::Debug,
        2 => ExceptionStack::NonMaskable,
        8 => ExceptionStack::DoubleFault,
        18 => ExceptionStack::MachineCheck,
        SERVICE_VECTOR => ExceptionStack::Interrupt,
        _ => ExceptionStack::Other,
    };
    let address = if vector == PAGE_FAULT {
        VirtAddr::from_ptr(page_fault_entry as *const ())
    } else {
        VirtAddr::from_ptr(vectors as *const ()) + VECTOR_ENTRY_BYTES * u64::from(vector)
    };
    // SAFETY: `address` is the entry made for this vector, and the stack of this kind is in the
    // task state of every CPU.
    unsafe { entry.set_handler_addr(address).set_stack_index(stack as u16) };
}
