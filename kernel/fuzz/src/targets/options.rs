//! The options that the kernel reads over fw_cfg
//!
//! The input is the file. Oracle: the lines, read once more by hand; and what the options are as text must be read as the same
//! options.
use ferry_protocol::options::{BadLine, Command, Options, Trace};

use crate::Target;

/// See the module.
pub const TARGET: Target = Target { name: "options", check, seeds, most_bytes: 512 };

/// What the lines say: the last command, whether strict, the last mode of the trace.
#[derive(PartialEq, Eq, Debug)]
struct Said<'t> {
    command: (&'t str, &'t str),
    strict: bool,
    trace: &'t str,
}

/// The lines of a text that was understood.
fn naive(text: &str) -> Said<'_> {
    let mut said = Said { command: ("command", "demo"), strict: false, trace: "off" };
    // A line ends with a line feed, or a carriage return and that.
    let whole =
        text.split_inclusive('\n').map(|line| line.strip_suffix("\r\n").or(line.strip_suffix('\n')).unwrap_or(line));
    for line in whole {
        let Some((key, value)) = line.split_once('=') else {
            assert!(line.trim().is_empty(), "{line:?} was understood");
            continue;
        };
        match key {
            "command" | "test" | "scenario" | "soak" => said.command = (key, value),
            "strict" => said.strict = value == "yes",
            "trace" => said.trace = value,
            "inject" => {}
            _ => panic!("{line:?} was understood"),
        }
    }
    said
}

/// The command as its line.
fn line_of<'t>(options: &Options<'t>, text: &'t str) -> (&'static str, &'t str) {
    match options.command {
        Command::Demo => ("command", "demo"),
        Command::ListTests => ("command", "list-tests"),
        Command::Shell => ("command", "shell"),
        Command::Bench => ("command", "bench"),
        Command::Experiment => ("command", "experiment"),
        Command::Test(selection) => {
            // Names are found by the commas around them.
            for name in selection.names() {
                assert!(selection.wants(name) && !name.contains(','), "{name:?} of {text:?}");
            }
            ("test", selection.0)
        }
        Command::Scenario(scenario) => ("scenario", scenario.name()),
        Command::Soak(_) => ("soak", ""),
    }
}

fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let options = match Options::parse(text) {
        Ok(options) => options,
        Err(BadLine(line)) => return assert!(text.contains(line) && !line.trim().is_empty(), "{line:?} of {text:?}"),
    };
    let said = naive(text);
    let (key, value) = line_of(&options, text);
    assert_eq!(key, said.command.0, "another command: {text:?}");
    match options.command {
        Command::Soak(soak) => {
            let parts: Vec<_> = said.command.1.split(',').collect();
            let [seed, round, times] = parts[..] else { panic!("{said:?} was understood") };
            assert_eq!((seed.parse(), round.parse()), (Ok(soak.seed), Ok(soak.round)));
            assert_eq!(times, if soak.again { "again" } else { "onwards" });
        }
        _ => assert_eq!(value, said.command.1, "another command: {text:?}"),
    }
    assert_eq!((options.strict, options.trace), (said.strict, Trace::parse(said.trace).expect("was understood")));
    assert!(options.inject.is_none_or(|inject| inject.count > 0 && text.contains("inject=")), "{text:?}");
    // A carriage return before the end of a line belongs to that end.
    if !text.contains('\r') {
        assert_eq!(Options::parse(&options.to_string()), Ok(options), "{text:?}");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    [
        "command=demo\ninject=copy:3\ntrace=full\nstrict=yes\n",
        "command=demo\r\ninject=disk-write:18446744073709551615\r\n",
        "test=frame::buddy::splits,entry::swap\ninject=device-alloc:1\n",
        "test=*\n\ntrace=ring\n",
        "scenario=copy-on-write\ncommand=shell\n",
        "soak=18446744073709551615,0,onwards\ncommand=list-tests\ncommand=bench\ncommand=experiment\n",
        "soak=1,2,again\nscenario=ping-pong\ninject=alloc:1\ninject=disk-read:2\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
