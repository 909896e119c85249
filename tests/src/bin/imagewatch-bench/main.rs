//! The measurements of `cargo xtask bench`: the cost of a poll compared with a bare loop of requests, the guest's
//! share, and the resources of the real program. `away` measures how long a service does not answer, `registry` the
//! cost of many images with and without latency, and `plugin` the cost of a policy for its host.
//! Each command prints tables. A missed aim is shown in the table and is not a failure. A measurement that is not
//! possible is a failure.
//! `kill` prints another table: the outcome of updates whose program was killed. There, any loss is a failure.

#![allow(clippy::panic, clippy::unwrap_used, reason = "as in the support library, a panic is the report")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints its report")]

mod away;
mod cold;
mod engine;
mod floor;
mod guest;
mod kill;
mod machine;
mod plugin;
mod policy;
mod program;
mod registry;
mod report;
mod tick;
mod world;

use std::env;
use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::sync::Arc;

use report::{Row, render};
use tokio::task::JoinError;
use world::{IMAGES, World};

const USAGE: &str = "\
usage: cargo xtask bench [--quick]        polls, the guest, the program's memory and start
       cargo xtask bench away [--quick]   how long a service does not answer while its container is updated
       cargo xtask bench kill [KILLS]     the outcome of updates whose program is killed
       cargo xtask bench plugin [--quick]
           a policy's size, loading and empty call, and its decisions compared with the same code run natively
       cargo xtask bench registry [--quick] [--cup PATH]
           many images with and without latency, tokens and TLS, each compared with a bare loop of requests;
           with the path of that program, `cup check -r` compared with `imagewatch check --json`";

/// A measurement and its rows, or the error if it failed.
type Part = (&'static str, Result<Vec<Row>, JoinError>);

/// How often each part is measured.
#[derive(Debug, Clone, Copy)]
struct Rounds {
    /// Pairs of a poll and a bare loop.
    ticks: usize,
    /// Calls of the guest.
    calls: usize,
    /// Programs that run for ten polls.
    programs: usize,
    /// Programs that are only started.
    starts: usize,
}

const FULL: Rounds = Rounds { ticks: 40, calls: 200, programs: 3, starts: 10 };
const QUICK: Rounds = Rounds { ticks: 10, calls: 50, programs: 1, starts: 3 };

/// The default number of kills.
const KILLS: usize = 100;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // The same kind of runtime as in the program.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    let all_measured = match words[..] {
        [] => runtime.block_on(measure(FULL)),
        ["--quick"] => runtime.block_on(measure(QUICK)),
        ["away"] => report("", runtime.block_on(away::measure(away::FULL))),
        ["away", "--quick"] => report("", runtime.block_on(away::measure(away::QUICK))),
        ["plugin"] => report("", runtime.block_on(plugin::measure(plugin::FULL))),
        ["plugin", "--quick"] => report("", runtime.block_on(plugin::measure(plugin::QUICK))),
        ["registry"] => runtime.block_on(measure_registry(registry::FULL, None)),
        ["registry", "--quick"] => runtime.block_on(measure_registry(registry::QUICK, None)),
        ["registry", "--cup", cup] => runtime.block_on(measure_registry(registry::FULL, Some(cup))),
        ["registry", "--quick", "--cup", cup] => runtime.block_on(measure_registry(registry::QUICK, Some(cup))),
        ["kill"] => runtime.block_on(kill::measure(KILLS)),
        ["kill", kills] if kills.parse().is_ok_and(|kills: usize| kills > 0) => {
            runtime.block_on(kill::measure(kills.parse().expect("the number was checked before")))
        }
        ["--help" | "-h"] => {
            println!("{USAGE}");
            true
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if all_measured { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Measures polls, the guest and the program. Returns whether every measurement was possible.
async fn measure(rounds: Rounds) -> bool {
    say("pushing the images");
    let Ok(world) = tokio::spawn(World::start()).await.map(Arc::new) else { return false };
    let parts = vec![
        ("ticks", tokio::spawn(tick::measure(Arc::clone(&world), rounds.ticks)).await),
        ("the guest", tokio::spawn(measure_guest(Arc::clone(&world), rounds.calls)).await),
        ("ten polls of the program", tokio::spawn(program::measure_ticks(Arc::clone(&world), rounds.programs)).await),
        ("starts of the program", tokio::spawn(program::measure_starts(Arc::clone(&world), rounds.starts)).await),
    ];
    report(&format!("{IMAGES} images; "), parts)
}

async fn measure_guest(world: Arc<World>, rounds: usize) -> Vec<Row> {
    say("calling the guest");
    guest::decide(world.folder().to_owned(), IMAGES, rounds).await.rows()
}

/// Prints a table for each setting when it is complete, and one for `check`. Returns whether every measurement was
/// possible.
async fn measure_registry(plan: registry::Plan, cup: Option<&str>) -> bool {
    let mut all_measured = true;
    for settings in registry::settings(plan) {
        let rows = tokio::spawn(registry::measure(settings, plan)).await;
        all_measured &= report(&format!("{}; ", registry::heading(settings)), vec![("this setting", rows)]);
        println!();
    }
    let beside = if cup.is_some() { "" } else { " (without cup; to compare, give its path with --cup)" };
    let rows = tokio::spawn(cold::measure(plan, cup.map(str::to_owned))).await;
    let heading = format!("imagewatch check, {} images{beside}; ", plan.images[0]);
    all_measured & report(&heading, vec![("imagewatch check", rows)])
}

/// Prints the table. Returns whether every measurement was possible.
fn report(heading: &str, parts: Vec<Part>) -> bool {
    let missing: Vec<&str> = parts.iter().filter(|(_, part)| part.is_err()).map(|(what, _)| *what).collect();
    let rows: Vec<Row> = parts.into_iter().filter_map(|(_, part)| part.ok()).flatten().collect();
    println!("{heading}{}\n\n{}", machine::describe(), render(&rows));
    for what in &missing {
        eprintln!("imagewatch-bench: failed to measure {what}; the reason is above");
    }
    missing.is_empty()
}

/// Reports the current activity on the terminal.
fn say(doing: &str) {
    if stdout().is_terminal() {
        eprintln!("… {doing}");
    }
}
