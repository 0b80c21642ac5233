//! The guest's memory, read from outside: what the kernel says is not believed but looked up.
pub mod ram;
pub mod swap_image;
pub mod walk;
