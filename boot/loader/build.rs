//! Link arguments that make the loader a static ELF at a fixed low address, as PVH starts it.

use std::env;

fn main() {
    let folder = env::var("CARGO_MANIFEST_DIR").expect("Cargo sets the package's folder for build scripts");
    for argument in [
        // No C runtime: the entry point is the PVH note's.
        "-nostartfiles",
        "-nostdlib",
        "-static",
        // PVH enters in 32-bit mode without paging: addresses are absolute and fit 32 bits.
        "-no-pie",
        // QEMU looks for the PVH note by its name only; a second note in front would hide it.
        "-Wl,--build-id=none",
        // Relocated-then-read-only data needs somebody who relocates; here nothing is left to relocate.
        "-Wl,-z,norelro",
        &format!("-Wl,-T,{folder}/loader.ld"),
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=loader.ld");
}
