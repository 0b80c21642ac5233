//! The timer of the PC (Intel 8254): a counter that runs at a known rate, so that bounded waits
//! need no calibration, and the interrupt controllers (Intel 8259), which stay silent.
use super::machine::Hardware;
use ferry_mm::lock::{Level, Lock};
use x86_64::instructions::port::Port;

/// Ticks per second of the counter (14.318182 MHz divided by 12).
pub const TICKS_PER_SECOND: u64 = 1_193_182;

/// The counter counts down from here to 1 and starts again.
pub const PERIOD: u64 = 65_536;

/// Ports of channel 0 and of the mode register (Intel 8254 data sheet).
const CHANNEL_0: u16 = 0x40;
const MODE: u16 = 0x43;
/// Mode register: channel 0, low then high byte, mode 2 (counts down by one per tick, for ever).
const RATE_GENERATOR: u8 = 0b0011_0100;
/// Mode register: hold the present count of channel 0 for reading.
const LATCH: u8 = 0;
/// Mask registers of both interrupt controllers, and the mask of all their lines.
const CONTROLLER_MASKS: [u16; 2] = [0x21, 0xa1];
const ALL_LINES: u8 = 0xff;

/// Silences the interrupt controllers and starts the counter.
pub(super) fn start() {
    // SAFETY: these ports belong to timer and interrupt controllers on every PC, and the kernel has
    // no other driver for them.
    unsafe {
        for port in CONTROLLER_MASKS {
            Port::new(port).write(ALL_LINES);
        }
        Port::new(MODE).write(RATE_GENERATOR);
        // A count of 0 means 65,536.
        Port::new(CHANNEL_0).write(0u8);
        Port::new(CHANNEL_0).write(0u8);
    }
}

/// Latching and reading are three port accesses that must not be mixed with those of another CPU. Nothing is called
/// inside, so a wait for it with interrupts off is short.
static PORTS: Lock<()> = Lock::new(Level::Timer, ());

/// The present count: it falls by one per tick.
pub fn count() -> u16 {
    let _ports = PORTS.lock(&Hardware);
    // SAFETY: latching and reading does not disturb the counter.
    unsafe {
        Port::new(MODE).write(LATCH);
        let low: u8 = Port::new(CHANNEL_0).read();
        let high: u8 = Port::new(CHANNEL_0).read();
        u16::from_le_bytes([low, high])
    }
}
