//! Whose BAR is it: reading and judging the identification.
//!
//! Invariants:
//! 1. The identification is copied out of the BAR once, then checked; a device that changes it
//!    later changes nothing for the guest.
//! 2. The checks go from the most to the least fundamental, so that the error names the cause: a
//!    foreign BAR is "foreign", not "of another version".
use core::fmt;

use zerocopy::little_endian::{U32, U64};

use crate::command::DeviceState;
use crate::geometry::Geometry;
use crate::layout::{ENTRY_BYTES, Identification, LAYOUT_VERSION, MAGIC, RING_ENTRIES};
use crate::wire::wire_enum;

wire_enum! {
    /// How the CPU may reach device memory.
    DeviceType {
        /// The CPU never maps it: its entries are not present, an access faults.
        Private = 1, "private";
        /// The CPU maps it like memory.
        Coherent = 2, "coherent";
    }
}

/// What a device says about itself, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The device's number, which page-table entries carry.
    pub number: u32,
    /// How the CPU may reach its memory.
    pub device_type: DeviceType,
}

impl Identity {
    /// The identification of this device in a BAR of this geometry.
    pub fn encode(self, geometry: Geometry) -> Identification {
        Identification {
            magic: U64::new(MAGIC),
            version: U32::new(LAYOUT_VERSION),
            device_type: U32::new(self.device_type.to_wire() as u32),
            bar_bytes: U64::new(geometry.bar_bytes()),
            frames: U64::new(geometry.frames()),
            control_pages: U32::new(geometry.control_pages() as u32),
            device_number: U32::new(self.number),
            ring_entries: U32::new(RING_ENTRIES as u32),
            entry_bytes: U32::new(ENTRY_BYTES as u32),
            reserved: [U64::ZERO; 2],
        }
    }

    /// Reads the identification that stands in a BAR of this geometry.
    ///
    /// # Errors
    /// [`AttachError`]: the first thing that is not as it must be. `NotReady` and `InFlight` are not
    /// decided here.
    pub fn decode(found: &Identification, geometry: Geometry) -> Result<Self, AttachError> {
        if found.magic.get() != MAGIC {
            return Err(AttachError::Foreign(found.magic.get()));
        }
        if found.version.get() != LAYOUT_VERSION {
            return Err(AttachError::Version(found.version.get()));
        }
        let device_type = DeviceType::from_wire(found.device_type.get().into())
            .ok_or(AttachError::UnknownType(found.device_type.get()))?;
        let identity = Self { number: found.device_number.get(), device_type };
        let expected = identity.encode(geometry);
        for (field, found, expected) in [
            (Field::BarBytes, found.bar_bytes.get(), expected.bar_bytes.get()),
            (Field::ControlPages, found.control_pages.get().into(), expected.control_pages.get().into()),
            (Field::Frames, found.frames.get(), expected.frames.get()),
            (Field::RingEntries, found.ring_entries.get().into(), expected.ring_entries.get().into()),
            (Field::EntryBytes, found.entry_bytes.get().into(), expected.entry_bytes.get().into()),
        ] {
            if found != expected {
                return Err(AttachError::Size { field, found, expected });
            }
        }
        Ok(identity)
    }
}

/// A size in the identification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    /// Bytes of the BAR.
    BarBytes,
    /// Pages of the control area.
    ControlPages,
    /// Number of device frames.
    Frames,
    /// Entries in the command ring.
    RingEntries,
    /// Bytes in an entry of the command ring.
    EntryBytes,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BarBytes => "bytes in the BAR",
            Self::ControlPages => "pages in the control area",
            Self::Frames => "device frames",
            Self::RingEntries => "entries in a ring",
            Self::EntryBytes => "bytes in a ring entry",
        })
    }
}

/// Why a BAR was not taken into use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachError {
    /// The BAR does not start with [`MAGIC`] but with this.
    Foreign(u64),
    /// The control area has this version, not [`LAYOUT_VERSION`].
    Version(u32),
    /// The device is of a type that this driver does not know.
    UnknownType(u32),
    /// A size that the device states is not the one that follows from the BAR.
    Size {
        /// Which one.
        field: Field,
        /// What the device states.
        found: u64,
        /// What follows from the BAR and the version.
        expected: u64,
    },
    /// The device is in this state, which is not [`DeviceState::Ready`].
    NotReady(u64),
    /// Commands of an earlier driver are under way, so nobody knows which frames still change.
    InFlight {
        /// The earlier driver's producer index.
        producer: u64,
        /// The device's consumer index.
        consumer: u64,
    },
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Foreign(found) => write!(
                f,
                "the BAR starts with {found:#018x}, not with {MAGIC:#018x}: it is not the memory of a Ferry device; \
                 start QEMU through ferry, which starts the device model"
            ),
            Self::Version(found) => write!(
                f,
                "the control area of the device has version {found}, this kernel knows version {LAYOUT_VERSION}; \
                 rebuild kernel and host tool together"
            ),
            Self::UnknownType(found) => write!(
                f,
                "the device is of type {found}, this kernel knows {private} (private) and {coherent} (coherent); \
                 rebuild kernel and host tool together",
                private = DeviceType::Private.to_wire(),
                coherent = DeviceType::Coherent.to_wire()
            ),
            Self::Size { field, found, expected } => write!(
                f,
                "the device states {found} {field} where {expected} are right; give QEMU's memory backend and the \
                 device model the same size"
            ),
            Self::NotReady(found) => match DeviceState::from_wire(found) {
                Some(state) => write!(f, "the device is not ready: {state}; start it anew"),
                None => write!(f, "the device is not ready: its state is {found:#x}; start it anew"),
            },
            Self::InFlight { producer, consumer } => write!(
                f,
                "commands of an earlier driver are under way (producer {producer}, consumer {consumer}); \
                 start the device anew"
            ),
        }
    }
}

impl core::error::Error for AttachError {}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity { number: 3, device_type: DeviceType::Coherent };

    #[test]
    fn what_a_device_says_about_itself_is_read_back() {
        let geometry = Geometry::of_bar(64 << 20).unwrap();
        let found = IDENTITY.encode(geometry);
        assert_eq!((found.frames.get(), found.control_pages.get()), (16384 - 8, 8));
        assert_eq!(Identity::decode(&found, geometry), Ok(IDENTITY));
    }

    #[test]
    fn each_wrong_field_is_named() {
        let geometry = Geometry::of_bar(1 << 20).unwrap();
        let wrong = |change: fn(&mut Identification)| {
            let mut found = IDENTITY.encode(geometry);
            change(&mut found);
            Identity::decode(&found, geometry).unwrap_err()
        };
        let size = |field, found, expected| AttachError::Size { field, found, expected };
        assert_eq!(wrong(|id| id.magic.set(0)), AttachError::Foreign(0));
        assert_eq!(wrong(|id| id.version.set(3)), AttachError::Version(3));
        assert_eq!(wrong(|id| id.device_type.set(0)), AttachError::UnknownType(0));
        assert_eq!(wrong(|id| id.bar_bytes.set(1 << 21)), size(Field::BarBytes, 1 << 21, 1 << 20));
        assert_eq!(wrong(|id| id.control_pages.set(9)), size(Field::ControlPages, 9, 8));
        assert_eq!(wrong(|id| id.frames.set(u64::MAX)), size(Field::Frames, u64::MAX, 248));
        assert_eq!(wrong(|id| id.ring_entries.set(256)), size(Field::RingEntries, 256, 128));
        assert_eq!(wrong(|id| id.entry_bytes.set(0)), size(Field::EntryBytes, 0, 64));
    }
}
