//! Where parts meet that know nothing of each other: what one does at a moment at which the other did not expect it.
mod contents;
mod listeners;
mod self_waits;
mod special_areas;
mod under_pressure;
