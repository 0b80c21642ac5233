//! Link arguments that make the kernel a static PIE without a C runtime.
//!
//! The kernel is built for the host's own triple, so the host's linker driver would add start files,
//! libc and a dynamic loader. What comes out instead is an ELF with `R_X86_64_RELATIVE` relocations
//! only and with segments that share no page, which is what the loader accepts.

/// What goes to the linker driver (`cc`), each with its reason.
const LINK_ARGUMENTS: &[&str] = &[
    // `_start` is ours (`bootloader_api::entry_point!`), and nothing of libc exists here.
    "-nostartfiles",
    "-nostdlib",
    // Position independent, with no interpreter and no symbol left to look up.
    "-static-pie",
    // x86-64 pages: segments are padded to 4 KiB, not to the linker's larger default.
    "-Wl,-z,max-page-size=4096",
    // Code never shares a page with read-only data: each page has one permission.
    "-Wl,-z,separate-code",
    // What only relocation writes (vtables, the GOT) is named as RELRO; the loader makes it read-only.
    "-Wl,-z,relro",
    "-Wl,-z,now",
];

fn main() {
    for argument in LINK_ARGUMENTS {
        println!("cargo::rustc-link-arg-bins={argument}");
        println!("cargo::rustc-link-arg-examples={argument}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
