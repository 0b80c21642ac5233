//! How the model shall be, and how it shall misbehave when a test of the refusals wants that.
use ferry_device::DeviceType;

/// What kind of device to play.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// The device's number.
    pub number: u32,
    /// How the CPU may reach its memory.
    pub device_type: DeviceType,
    /// What to do wrong, if anything.
    pub misbehaviour: Option<Misbehaviour>,
}

impl Default for Options {
    /// Device 0, private, obedient.
    fn default() -> Self {
        Self { number: 0, device_type: DeviceType::Private, misbehaviour: None }
    }
}

/// One way to be a bad device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misbehaviour {
    /// The control area is of the next version of the layout.
    WrongVersion,
    /// No command is ever answered.
    NeverAnswers,
    /// The file, and so the BAR, is smaller than any BAR of this device:
    /// [`Model::bar_bytes`](crate::Model::bar_bytes) tells its size.
    TooSmall,
    /// Every completion names another command than the one it stands for.
    BogusCompletion,
    /// Every request names an operation that was never started.
    BogusRequest,
    /// No transfer between RAM and the device succeeds.
    FailingDma,
    /// Translations are used on after the guest had them forgotten.
    StaleTranslations,
}

impl Misbehaviour {
    /// Every misbehaviour, with the name it has in options.
    pub const NAMES: &'static [(&'static str, Self)] = &[
        ("wrong-version", Self::WrongVersion),
        ("never-answers", Self::NeverAnswers),
        ("too-small", Self::TooSmall),
        ("bogus-completion", Self::BogusCompletion),
        ("bogus-request", Self::BogusRequest),
        ("failing-dma", Self::FailingDma),
        ("stale-translations", Self::StaleTranslations),
    ];
}
