//! The memory manager of Ferry.
//!
//! It owns frames, page tables and address spaces, and ferries anonymous pages between RAM and
//! device memory the way Linux's heterogeneous memory management does: an entry is replaced by a
//! special non-present one, translation caches are flushed, the page is checked for other users,
//! copied, and the old frame freed; a CPU fault on such an entry brings the page home.
//!
//! It knows the machine only through [`machine::Machine`]. The kernel boots it; the simulator runs the
//! same source on the host, with translation caches that keep stale entries. All state lives in a
//! [`MemoryManager`], so any number of them can exist side by side.
//!
//! ```
//! use ferry_mm::address::PageRange;
//! use ferry_mm::frame::DeviceId;
//! use ferry_mm::space::Protection;
//! use ferry_sim::World;
//! use x86_64::VirtAddr;
//!
//! let world = World::builder().device(8).build();
//! let (manager, cpu) = (world.manager(), world.cpu(0));
//!
//! let space = manager.create_space()?;
//! let range = PageRange::covering(VirtAddr::new(0x4000_0000), 4 * 4096)?;
//! space.map_anonymous(range, Protection::READ_WRITE)?;
//! cpu.enter(space);
//! cpu.store(range.start_address(), b"ferry")?;
//!
//! let device = DeviceId::new(0).expect("the number of a device");
//! assert_eq!(space.migrate_to_device(range, device)?.moved, 4);
//! assert_eq!(&cpu.read(range.start_address())?, b"ferry");
//! assert_eq!(manager.statistics().read().returned_by_fault, 1);
//!
//! cpu.leave();
//! space.destroy()?;
//! # world.assert_all_free();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! In reading order: [`machine`], [`frame`], [`page_table`], [`space`], [`notify`], [`swap`], [`migrate`], [`mirror`]; [`trace`] is what can be
//! watched of them.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod address;
pub mod frame;
pub mod inject;
pub mod lock;
pub mod machine;
pub mod manager;
pub mod migrate;
pub mod mirror;
pub mod notify;
pub mod page_table;
pub mod space;
pub mod stats;
pub mod swap;
pub mod trace;

pub use manager::MemoryManager;
