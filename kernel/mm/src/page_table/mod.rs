//! Page tables: the entry codec, the walk, the lock of a table, and the flush that a change owes.
//!
//! ```text
//!   virtual address  47      39 38      30 29      21 20      12 11         0
//!                   ┌──────────┬──────────┬──────────┬──────────┬────────────┐
//!                   │ L4 index │ L3 index │ L2 index │ L1 index │ offset     │
//!                   └────┬─────┴────┬─────┴────┬─────┴────┬─────┴────────────┘
//!   CR3 ──▶ level 4 ─────┘          │          │          │
//!             └──▶ level 3 ─────────┘          │          │
//!                    └──▶ level 2 ─────────────┘          │
//!                           └──▶ level 1 (a "leaf table") ┘──▶ leaf entry ──▶ page
//! ```
//!
//! The protocol of the tables of an address space:
//! 1. Tables are added lock-free, by exchanging an empty entry; the loser of a race frees its own table.
//! 2. Tables are removed only by whoever holds the space's areas exclusively. So whoever holds the areas, shared
//!    or not, may walk, and the tables it sees stay.
//! 3. Level-1 entries change only under the lock of their table, a bit in the descriptor of the table's frame.
//!    One exception needs no lock: a CPU sets accessed and dirty bits at any time. Hence every change is an atomic exchange.
//! 4. No memory is allocated while a table is locked.
pub mod entry;
pub mod flush;
pub mod install;
pub mod leaf_table;
pub mod slot;
pub mod walk;
pub mod words;
