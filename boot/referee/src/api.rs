//! What QEMU offers a plugin: version 1 of its interface (QEMU 7.2, `include/qemu/qemu-plugin.h`), as far as it is used.
//!
//! Debian ships no header, so the functions are declared here; QEMU, which exports them, resolves them when it loads the plugin.
#![allow(unsafe_code, reason = "this is the room for it")]
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// The version of the interface that these declarations are of.
pub const VERSION: c_int = 1;

/// Which plugin this is.
pub type Id = u64;

/// A memory access, packed.
pub type MemoryInfo = u32;

/// A translated block, an instruction in it, and where an access went: opaque.
#[repr(C)]
pub struct Block(c_void);
#[repr(C)]
pub struct Instruction(c_void);
#[repr(C)]
pub struct HardwareAddress(c_void);

/// `QEMU_PLUGIN_CB_NO_REGS`: the callback looks at no register.
const NO_REGISTERS: c_int = 0;
/// `QEMU_PLUGIN_MEM_RW`.
const READ_AND_WRITE: c_int = 3;
/// `QEMU_PLUGIN_INLINE_ADD_U64`.
const ADD_U64: c_int = 0;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, callback: extern "C" fn(Id, *mut Block));
    fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    fn qemu_plugin_insn_data(instruction: *const Instruction) -> *const c_void;
    fn qemu_plugin_insn_size(instruction: *const Instruction) -> usize;
    fn qemu_plugin_insn_vaddr(instruction: *const Instruction) -> u64;
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Instruction,
        callback: extern "C" fn(c_uint, *mut c_void),
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_insn_exec_inline(
        instruction: *mut Instruction,
        operation: c_int,
        target: *mut c_void,
        value: u64,
    );
    fn qemu_plugin_register_vcpu_mem_cb(
        instruction: *mut Instruction,
        callback: extern "C" fn(c_uint, MemoryInfo, u64, *mut c_void),
        flags: c_int,
        accesses: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_mem_size_shift(info: MemoryInfo) -> c_uint;
    fn qemu_plugin_mem_is_store(info: MemoryInfo) -> bool;
    fn qemu_plugin_get_hwaddr(info: MemoryInfo, address: u64) -> *mut HardwareAddress;
    fn qemu_plugin_hwaddr_is_io(address: *const HardwareAddress) -> bool;
    fn qemu_plugin_hwaddr_phys_addr(address: *const HardwareAddress) -> u64;
}

/// Has `callback` called with each block that QEMU translates.
pub fn on_translation(id: Id, callback: extern "C" fn(Id, *mut Block)) {
    // SAFETY: `id` is what QEMU has called this plugin with; the callback lives as long as the plugin, which is never unloaded.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, callback) };
}

/// The instructions of a block that is being translated.
///
/// # Safety
/// `block` is what the callback of a translation was called with, which has not returned.
pub unsafe fn instructions<'b>(block: *const Block) -> impl Iterator<Item = Translated<'b>> {
    // SAFETY: the caller's promise; indices stay below the number.
    let count = unsafe { qemu_plugin_tb_n_insns(block) };
    // SAFETY: as above.
    (0..count).map(move |index| Translated { raw: unsafe { &mut *qemu_plugin_tb_get_insn(block, index) } })
}

/// An instruction that is being translated.
pub struct Translated<'b> {
    raw: &'b mut Instruction,
}

impl Translated<'_> {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: QEMU keeps the bytes of the instruction as long as the translation lasts.
        unsafe {
            let data = qemu_plugin_insn_data(self.raw).cast::<u8>();
            std::slice::from_raw_parts(data, qemu_plugin_insn_size(self.raw))
        }
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        // SAFETY: the instruction is being translated.
        unsafe { qemu_plugin_insn_vaddr(self.raw) }
    }

    /// Adds one to `counter` each time it executes, without a call.
    pub fn count(&mut self, counter: &'static std::sync::atomic::AtomicU64) {
        // SAFETY: the counter lives for ever; QEMU adds to it on the one thread that executes the guest.
        unsafe { qemu_plugin_register_vcpu_insn_exec_inline(self.raw, ADD_U64, counter.as_ptr().cast(), 1) };
    }

    /// Calls `callback` with `data` each time before it executes.
    pub fn on_execution(&mut self, callback: extern "C" fn(c_uint, *mut c_void), data: usize) {
        let data = std::ptr::without_provenance_mut(data);
        // SAFETY: the callback lives for ever and takes its data as a number.
        unsafe { qemu_plugin_register_vcpu_insn_exec_cb(self.raw, callback, NO_REGISTERS, data) };
    }

    /// Calls `callback` with each of its memory accesses.
    pub fn on_access(&mut self, callback: extern "C" fn(c_uint, MemoryInfo, u64, *mut c_void)) {
        let data = std::ptr::null_mut();
        // SAFETY: as above.
        unsafe { qemu_plugin_register_vcpu_mem_cb(self.raw, callback, NO_REGISTERS, READ_AND_WRITE, data) };
    }
}

/// Where a memory access went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Whether it was a store.
    pub is_store: bool,
    /// How many bytes.
    pub bytes: u64,
    /// Whether a device answers there, and not memory.
    pub is_io: bool,
    /// The physical address of a device's registers; of memory, the place among all memory that QEMU has, in which neighbours in a
    /// region are neighbours.
    pub place: u64,
}

impl Access {
    /// The access that a callback is called for; `None` where QEMU does not know where it went.
    pub fn of(info: MemoryInfo, address: u64) -> Option<Self> {
        // SAFETY: called in the callback of the access, as the interface demands; what it returns stays until the callback ends.
        unsafe {
            let hardware = qemu_plugin_get_hwaddr(info, address);
            if hardware.is_null() {
                return None;
            }
            Some(Self {
                is_store: qemu_plugin_mem_is_store(info),
                bytes: 1 << qemu_plugin_mem_size_shift(info),
                is_io: qemu_plugin_hwaddr_is_io(hardware),
                place: qemu_plugin_hwaddr_phys_addr(hardware),
            })
        }
    }
}

/// The plugin's arguments, `name=value` each.
///
/// # Safety
/// `count` and `values` are what QEMU has called the plugin's installation with, which has not returned.
pub unsafe fn arguments<'a>(count: c_int, values: *const *const c_char) -> impl Iterator<Item = &'a str> {
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: the caller's promise: as many C strings stand there.
    (0..count).filter_map(move |index| unsafe { CStr::from_ptr(*values.add(index)) }.to_str().ok())
}
