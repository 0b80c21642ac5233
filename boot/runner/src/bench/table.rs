//! The figures as a table, and as JSON.
use super::figures::{BOOT, Figure};
use super::peer;
use super::phases::Profile;
use super::referee::Seen;
use super::session::{Counts, Window};
use crate::json::Json;
use crate::screen::Screen;
use crate::size::grouped;

/// Shows the figures, beside those of the peer.
pub fn show(screen: &Screen, figures: &[Figure]) {
    screen.plain("");
    screen.plain("operation            pages CPUs      in all     copy    non-copy        goal          Linux  ratio IPIs INVLPG CR3  BAR B/page");
    for figure in figures {
        screen.plain(row(figure));
    }
    screen.plain("");
    screen.plain("Instructions per page, a bulk copy or clear being \"copy\"; IPIs, INVLPG and CR3 writes of the whole call; bytes written");
    screen.plain("to and read from device frames per page. Linux: 6.12, lean, mitigations off, the copy taken out (6.1 where 6.12 is unknown).");
}

fn row(figure: &Figure) -> String {
    let Counts { instructions, copy_instructions, ipis, invlpg, cr3_writes, bar_bytes_written, bar_bytes_read, .. } =
        figure.counts;
    let non_copy = figure.per_page(figure.non_copy_instructions());
    let peer = if figure.cpus == 1 { peer::of(&figure.name, figure.pages) } else { None };
    let goal = peer.and_then(|peer| peer.goal);
    let (met, linux) = (goal.map(|goal| non_copy <= goal * 100), peer.and_then(|peer| peer.linux));
    let goal = match (goal, met) {
        (Some(goal), Some(met)) => format!("{}{}", grouped(goal), if met { "" } else { " !" }),
        _ => "-".to_owned(),
    };
    let ratio = linux.map_or("-".to_owned(), |linux| format!("{:.1}", linux as f64 * 100.0 / non_copy.max(1) as f64));
    format!(
        "{:<19}{:>7}{:>5}{:>12}{:>9}{:>12}{:>12}{:>15}{:>7}{:>5}{:>7}{:>4}  {}/{}",
        figure.name,
        grouped(figure.pages),
        figure.cpus,
        shown(figure, instructions),
        shown(figure, copy_instructions),
        shown(figure, figure.non_copy_instructions()),
        goal,
        linux.map_or("-".to_owned(), grouped),
        ratio,
        ipis,
        invlpg,
        cr3_writes,
        bar_bytes_written / figure.pages,
        bar_bytes_read / figure.pages,
    )
}

/// Shows the kernel's own counts beside what the referee saw, of each operation with its copies timed.
pub fn show_referee(screen: &Screen, windows: &[(Window, Seen)], compared: u64) {
    screen.plain("");
    screen.plain("kernel | referee     pages CPUs                  instructions                    copies            IPIs      INVLPG       CR3            BAR bytes written               BAR bytes read");
    // The first of the two that are equal.
    for (window, seen) in windows.iter().filter(|(window, _)| window.metered).step_by(2) {
        let (kernel, referee) = (&window.counts, &seen.counts);
        let pair = |kernel: u64, referee: u64| format!("{kernel} | {referee}");
        screen.plain(format_args!(
            "{:<19}{:>7}{:>5}{:>30}{:>26}{:>16}{:>12}{:>10}{:>31}{:>29}",
            window.name,
            grouped(window.pages),
            window.cpus,
            pair(kernel.instructions, referee.instructions),
            pair(kernel.copy_instructions, referee.copy_instructions),
            pair(kernel.ipis, referee.ipis),
            pair(kernel.invlpg, referee.invlpg),
            pair(kernel.cr3_writes, referee.cr3_writes),
            pair(kernel.bar_bytes_written, referee.bar_bytes_written),
            pair(kernel.bar_bytes_read, referee.bar_bytes_read),
        ));
    }
    screen.plain(format_args!(
        "The referee sees a faulting instruction begin twice, and the call of what is measured; that taken off, all {} numbers agree.",
        grouped(compared)
    ));
}

/// Shows what each phase of an operation takes.
pub fn show_phases(screen: &Screen, profiles: &[Profile]) {
    screen.plain("");
    screen.plain("Non-copy instructions per page, by phase:");
    for profile in profiles {
        let phases = profile.phases();
        if phases.is_empty() {
            continue;
        }
        let pages = profile.window.pages;
        let shown: Vec<_> = phases
            .iter()
            .map(|(phase, instructions)| format!("{phase} {:.1}", *instructions as f64 / pages as f64))
            .collect();
        screen.plain(format_args!("{:<19}{:>7}  {}", profile.window.name, grouped(pages), shown.join(", ")));
    }
}

/// Instructions per page, with a digit behind the point; of the kernel's start, which has no pages, whole ones.
fn shown(figure: &Figure, total: u64) -> String {
    if figure.name == BOOT {
        return grouped(total);
    }
    let tenths = (figure.per_page(total) + 5) / 10;
    format!("{}.{}", grouped(tenths / 10), tenths % 10)
}

/// One figure for `--json`.
pub fn json(figure: &Figure) -> Json {
    let per_page = |total| Json::Hundredths(figure.per_page(total));
    let Counts { instructions, copy_instructions, ipis, invlpg, cr3_writes, bar_bytes_written, bar_bytes_read, .. } =
        figure.counts;
    Json::object([
        ("name", figure.name.clone().into()),
        ("pages", figure.pages.into()),
        ("cpus", figure.cpus.into()),
        ("instructions_per_page", per_page(instructions)),
        ("copy_instructions_per_page", per_page(copy_instructions)),
        ("non_copy_instructions_per_page", per_page(figure.non_copy_instructions())),
        ("ipis", ipis.into()),
        ("invlpg", invlpg.into()),
        ("cr3_writes", cr3_writes.into()),
        ("bar_bytes_written", bar_bytes_written.into()),
        ("bar_bytes_read", bar_bytes_read.into()),
    ])
}
