//! The demonstration: a real registry, a real engine, the real program, a service that moves from v1 to v2, and a
//! service whose policy is replaced. This file runs the story, reports a failure, and sets the exit code.

// Every claim of the story is an assertion. A claim that does not hold ends the demo, and unwinding cleans up.
#![allow(clippy::panic)]

mod facts;
mod screen;
mod story;
mod summary;
mod swap;
mod watcher;

use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::process::ExitCode;

use futures_util::FutureExt;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    panic::set_hook(Box::new(say_failure));
    let runtime = Runtime::new().expect("a process can have a runtime");
    runtime.block_on(async {
        tokio::select! {
            // Dropping the story, at its end or earlier, stops and removes everything that it started.
            told = AssertUnwindSafe(story::tell()).catch_unwind() => match told {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            },
            number = interrupted() => {
                anstream::eprintln!("\nimagewatch-demo: signal {number}: removing everything that was started");
                ExitCode::from(128 + number)
            }
        }
    })
}

fn say_failure(failure: &PanicHookInfo<'_>) {
    let message = failure.payload_as_str().unwrap_or("a panic without a message");
    let place = failure.location().map(ToString::to_string).unwrap_or_default();
    anstream::eprintln!("\nimagewatch-demo: failed: {message}\n  (at {place})");
}

/// Waits for a signal that asks the demo to end, and returns its number.
async fn interrupted() -> u8 {
    let listen = |kind| signal(kind).expect("a process can listen for signals");
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt()), listen(SignalKind::terminate()));
    tokio::select! {
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
    }
}
