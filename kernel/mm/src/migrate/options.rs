//! What a caller may ask of a migration to a device beyond range and device.
use crate::notify::ListenerId;

/// How pages are kept from being written while they are copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Nobody reaches them: whoever touches one waits until it has moved.
    #[default]
    Stop,
    /// They stay in use and cannot be written: a load takes no fault, a store keeps its page in RAM, with
    /// [`crate::stats::Reason::Written`]. Costs a second flush. See [`crate::migrate::Protected`].
    Transactional,
}

/// What to do with pages that somebody else is moving (R9).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Busy {
    /// They stay, with [`crate::stats::Reason::Busy`].
    #[default]
    Skip,
    /// Wait for them before the first page is taken, without a lock or a reference, for a limited number of turns.
    Wait,
}

/// What to do with pages that are on another device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Foreign {
    /// They stay, with [`crate::stats::Reason::ForeignDevice`].
    #[default]
    Stay,
    /// They come home first, and then go.
    ViaRam,
}

/// Options of a migration to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MigrateOptions {
    /// The listener on whose behalf the pages move. It is not told; it has stopped its own use of them (R13).
    pub initiator: Option<ListenerId>,
    /// Pages that are on their way.
    pub busy: Busy,
    /// Pages on other devices.
    pub foreign: Foreign,
    /// Pages that are used while they are copied.
    pub mode: Mode,
}
