//! What a pull shows on a terminal, and elsewhere.

use std::process::Stdio;

use crate::Bench;
use crate::fake::Extras;
use crate::terminal::OnTerminal;

const PULLED: &str = "Image is up to date for slow@sha256:1234\n";

#[test]
fn on_a_terminal_each_layer_has_a_bar() {
    let bench = Bench::with(Extras::Progress);
    let mut pull = pull(&bench);
    pull.read_until("  ffff456789ab  fetching  ████████████░░░░░░░░░░░░  5MB of 10MB");
    bench.fake.finish_pull();
    let (stdout, drawn) = pull.end();
    assert_eq!(stdout, PULLED);
    // Two rows were drawn; both are cleared, and the cursor is where it began.
    assert!(drawn.ends_with("\x1b[1A\r\x1b[J"), "{drawn:?}");
    let mut calls = bench.fake.calls();
    calls.sort();
    assert_eq!(calls, ["pull slow \"\"", "watch the pull of slow"]);
}

#[test]
fn a_runtime_without_progress_gets_a_line_that_moves() {
    let bench = Bench::start();
    let mut pull = pull(&bench);
    pull.read_until("⠋ Pulling slow");
    pull.read_until("⠸ Pulling slow");
    bench.fake.finish_pull();
    let (stdout, drawn) = pull.end();
    assert_eq!(stdout, PULLED);
    assert!(drawn.ends_with("\r\x1b[J"), "{drawn:?}");
    assert!(!drawn.contains('░'), "{drawn:?}");
    assert_eq!(bench.fake.calls(), ["pull slow \"\""]);
}

#[test]
fn elsewhere_nothing_is_drawn_or_watched() {
    let bench = Bench::with(Extras::Progress);
    assert_eq!(
        bench.output(&["pull", "busybox"]),
        "Image is up to date for busybox@sha256:1234\n"
    );
    assert_eq!(bench.fake.calls(), ["pull busybox \"\""]);
}

/// `longshore pull slow` with a terminal as its stderr.
fn pull(bench: &Bench) -> OnTerminal {
    OnTerminal::start(|terminal| {
        let mut command = bench.command(&["pull", "slow"]);
        command.stdout(Stdio::piped()).stderr(terminal);
        command
    })
}
