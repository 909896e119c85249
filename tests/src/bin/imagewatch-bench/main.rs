//! The measurements behind `cargo xtask bench`: what a tick costs beside a bare loop of requests, what the guest
//! takes of it, and what the real program takes of the machine. With `away`, how long a service is away; with `registry`,
//! what many images cost near and far; with `plugin`, what a policy costs its host. Prints tables.
//! They are reports: a missed aim is said in the table and fails nothing; only what could not be measured does.
//! With `kill`, another table: what became of updates whose program was killed; there anything lost is a failure.

#![allow(clippy::panic, clippy::unwrap_used, reason = "as in the support library: a panic is the report")]
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
usage: cargo xtask bench [--quick]        ticks, the guest, the program's memory and start
       cargo xtask bench away [--quick]   how long a service is away while its container is updated
       cargo xtask bench kill [KILLS]     what becomes of updates whose program is killed
       cargo xtask bench plugin [--quick]
           a policy's size, loading, empty call, and decisions beside the same code run natively
       cargo xtask bench registry [--quick] [--cup PATH]
           many images near and far, with and without tokens and TLS, each beside a bare loop of requests;
           with the file of that program, `cup check -r` beside `imagewatch check --json`";

/// What was measured, and its rows unless that failed.
type Part = (&'static str, Result<Vec<Row>, JoinError>);

/// How often each thing is measured.
#[derive(Debug, Clone, Copy)]
struct Rounds {
    /// Pairs of a tick and a bare loop.
    ticks: usize,
    /// Calls of the guest.
    calls: usize,
    /// Programs that run for ten ticks.
    programs: usize,
    /// Programs that are started only.
    starts: usize,
}

const FULL: Rounds = Rounds { ticks: 40, calls: 200, programs: 3, starts: 10 };
const QUICK: Rounds = Rounds { ticks: 10, calls: 50, programs: 1, starts: 3 };

/// Kills of `kill` alone.
const KILLS: usize = 100;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // The same runtime as the program's.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    let is_well = match words[..] {
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
            runtime.block_on(kill::measure(kills.parse().expect("it was parsed before")))
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
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ticks, the guest and the program; whether everything could be measured.
async fn measure(rounds: Rounds) -> bool {
    say("pushing the images");
    let Ok(world) = tokio::spawn(World::start()).await.map(Arc::new) else { return false };
    let parts = vec![
        ("ticks", tokio::spawn(tick::measure(Arc::clone(&world), rounds.ticks)).await),
        ("the guest", tokio::spawn(measure_guest(Arc::clone(&world), rounds.calls)).await),
        ("ten ticks of the program", tokio::spawn(program::measure_ticks(Arc::clone(&world), rounds.programs)).await),
        ("starts of the program", tokio::spawn(program::measure_starts(Arc::clone(&world), rounds.starts)).await),
    ];
    report(&format!("{IMAGES} images; "), parts)
}

async fn measure_guest(world: Arc<World>, rounds: usize) -> Vec<Row> {
    say("calling the guest");
    guest::decide(world.folder().to_owned(), IMAGES, rounds).await.rows()
}

/// A table for each setting, as soon as it is there, and one for the command that ends; whether everything could be
/// measured.
async fn measure_registry(plan: registry::Plan, cup: Option<&str>) -> bool {
    let mut is_well = true;
    for settings in registry::settings(plan) {
        let rows = tokio::spawn(registry::measure(settings, plan)).await;
        is_well &= report(&format!("{}; ", registry::heading(settings)), vec![("this setting", rows)]);
        println!();
    }
    let beside = if cup.is_some() { "" } else { " (no cup beside it: give its file with --cup)" };
    let rows = tokio::spawn(cold::measure(plan, cup.map(str::to_owned))).await;
    let heading = format!("the command that ends, {} images{beside}; ", plan.images[0]);
    is_well & report(&heading, vec![("the command that ends", rows)])
}

/// Prints the table; whether everything in it could be measured.
fn report(heading: &str, parts: Vec<Part>) -> bool {
    let missing: Vec<&str> = parts.iter().filter(|(_, part)| part.is_err()).map(|(what, _)| *what).collect();
    let rows: Vec<Row> = parts.into_iter().filter_map(|(_, part)| part.ok()).flatten().collect();
    println!("{heading}{}\n\n{}", machine::describe(), render(&rows));
    for what in &missing {
        eprintln!("imagewatch-bench: could not measure {what}; the reason stands above");
    }
    missing.is_empty()
}

/// What is being done, for somebody who waits at a terminal.
fn say(doing: &str) {
    if stdout().is_terminal() {
        eprintln!("… {doing}");
    }
}
