//! A step that fails, in every operation: each outcome is right, or a clear error; nothing leaks.
mod driver;
mod operations;
mod scene;
mod there_and_back;
