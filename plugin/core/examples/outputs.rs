//! Plays every script natively and writes the output of each step to FILE, one a line: script, step, output. What
//! other hosts of the built wasm write is compared with it byte for byte, see `tests/control-planes`.
//!
//!     cargo run -p imagewatch-core --features script --example outputs -- FILE

use std::fmt::Write as _;

use imagewatch_core::script::{SCRIPTS, parse_script, play};

fn main() -> Result<(), String> {
    let file = std::env::args().nth(1).ok_or("the file to write is the argument")?;
    let mut scripts = SCRIPTS.to_vec();
    scripts.sort_by_key(|(name, _)| format!("{name}.json"));
    let mut lines = String::new();
    for (name, text) in scripts {
        let script = parse_script(text).map_err(|error| format!("{name}: {error}"))?;
        let mut steps = 0..;
        let played = play(&script, |export, input, mut host| {
            let output = imagewatch_core::call(export, input, &mut host);
            let text = output.as_deref().map_or_else(|error| error.clone().into(), String::from_utf8_lossy);
            let step = steps.next().unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{name} {step} {text}");
            (output, host)
        });
        played.map_err(|departure| format!("{name}: {}\n{departure}", script.shows))?;
    }
    std::fs::write(&file, lines).map_err(|error| format!("failed to write {file}: {error}"))
}
